/* Checkpoints: RUN/step-NNNNNN/ with the model, or the adapter that is trained beside it (f32, so that resuming is
 * exact), optimizer.safetensors and state.json.
 * A thread of its own writes them from a copy while training goes on. */
#ifndef PUYU_TRAIN_CHECKPOINT_H
#define PUYU_TRAIN_CHECKPOINT_H

#include "src/train/optim.h"

/* Where a run stands, beside the weights. There is no random state: the order of samples is a function of their index.
 */
typedef struct pu_train_state {
  int64_t step;    /* steps done, skipped ones included */
  int64_t updates; /* AdamW's t */
  int64_t samples; /* sequences consumed: the next step begins at this sample */
  int64_t tokens;
  int64_t skips_in_row, skips;
  int64_t norms; /* gradient norms in the running mean */
  double norm_mean;
  double seconds;    /* in steps, over all processes */
  double valid_loss; /* the last one; NaN: none */
} pu_train_state;

typedef struct pu_train_saver pu_train_saver;
typedef struct pu_train_saver_options {
  const char *run;
  const pu_model *model;
  const pu_adapter *adapter; /* NULL: the model is trained */
  int64_t keep;
  const pu_tokenizer *tokenizer; /* NULL: none to copy */
  const char *copy_from;         /* what stands beside weights is copied from here, read at once; NULL: nowhere */
  const char *config;            /* YAML, kept in state.json */
} pu_train_saver_options;

/* Reserves the copy of weights (f32, or as they are trained) and moments. Everything given outlives the saver. */
pu_err pu_train_saver_create(const pu_train_optim *optim, const pu_train_saver_options *o, pu_train_saver **out,
                             pu_error *e) PU_MUST_USE;
/* Copies weights and moments as they are now and lets the thread write them; waits first for the one before. */
pu_err pu_train_saver_submit(pu_train_saver *s, const pu_train_state *state, pu_error *e) PU_MUST_USE;
/* The failure of a write that has ended, if any: does not wait. */
pu_err pu_train_saver_poll(pu_train_saver *s, pu_error *e) PU_MUST_USE;
pu_err pu_train_saver_wait(pu_train_saver *s, pu_error *e) PU_MUST_USE;
void pu_train_saver_free(pu_train_saver *s); /* waits */
size_t pu_train_saver_bytes(const pu_train_optim *optim);

/* state.json; *config (the YAML kept there) is put into a. Then the optimiser's moments. */
pu_err pu_train_state_read(const char *dir, pu_train_state *state, const char **config, pu_arena *a,
                           pu_error *e) PU_MUST_USE;
pu_err pu_train_optim_restore(const char *dir, pu_train_optim *o, pu_error *e) PU_MUST_USE;

#endif
