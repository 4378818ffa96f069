/* A backend around a backend, with a stopwatch on every operation. */
#ifndef PUYU_TRAIN_PROFILE_H
#define PUYU_TRAIN_PROFILE_H

#include "puyu/compute.h"

typedef struct pu_train_profile {
  pu_backend base; /* first: give &base to contexts */
  pu_backend *inner;
  double seconds[PU_OP_COUNT][2]; /* forward, backward */
} pu_train_profile;

void pu_train_profile_init(pu_train_profile *p, pu_backend *inner); /* inner stays the caller's */
void pu_train_profile_clear(pu_train_profile *p);

#endif
