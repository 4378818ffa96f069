/* What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere. */
#ifndef PUYU_TRAIN_LIVE_H
#define PUYU_TRAIN_LIVE_H

#include "src/train/checkpoint.h"

typedef struct pu_train_live {
  double drawn;     /* when the last line was shown */
  double mean_step; /* seconds of a step, smoothed: what is left */
  bool stopping;    /* said so */
} pu_train_live;

/* After a step that took `seconds` for `tokens`. mfu < 0: unknown. */
void pu_train_live_step(pu_train_live *l, const pu_train_config *cfg, const pu_train_state *s, double loss,
                        int64_t tokens, double seconds, double mfu);
/* Says once that a signal to stop was heard: the end of a step can be a while away. */
void pu_train_live_stopping(pu_train_live *l);
void pu_train_live_end(void);

#endif
