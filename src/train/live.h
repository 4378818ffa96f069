/* What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere. */
#ifndef PUYU_TRAIN_LIVE_H
#define PUYU_TRAIN_LIVE_H

#include "puyu/train.h"

typedef struct pu_train_live {
  double drawn;     /* when the last line was shown */
  double mean_step; /* seconds of a step, smoothed: what is left */
} pu_train_live;

/* After a step that took `seconds` for `tokens`. mfu < 0: unknown. */
void pu_train_live_step(pu_train_live *l, const pu_train_config *cfg, int64_t step, double loss, int64_t tokens,
                        double seconds, double mfu);
void pu_train_live_end(void);

#endif
