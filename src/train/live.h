/* What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere. */
#ifndef PUYU_TRAIN_LIVE_H
#define PUYU_TRAIN_LIVE_H

#include "src/train/checkpoint.h"

typedef struct pu_train_live {
  double drawn;     /* when the last line was shown */
  double mean_step; /* seconds of a step, smoothed: what is left */
  double begun;     /* when the step that is being made began */
} pu_train_live;

/* After a step that took `seconds` for `tokens`. mfu < 0: unknown. */
void pu_train_live_step(pu_train_live *l, const pu_train_config *cfg, const pu_train_state *s, double loss,
                        int64_t tokens, double seconds, double mfu);
/* A step begins. */
void pu_train_live_begin(pu_train_live *l);
/* Inside the step, after `done` of its n micro-batches: says so where the step is a long one. */
void pu_train_live_inside(pu_train_live *l, const pu_train_config *cfg, int64_t step, int64_t done, int64_t n);
void pu_train_live_end(void);

#endif
