/* The optimiser's state: gradients and AdamW's moments of every parameter, in the backend's memory. */
#ifndef PUYU_TRAIN_OPTIM_H
#define PUYU_TRAIN_OPTIM_H

#include "puyu/train.h"

typedef struct pu_train_optim {
  pu_backend *be;
  pu_param *params; /* what is trained: a model's, or an adapter's */
  size_t n_params;
  pu_tensor *m, *v;    /* [n_params] headers, f32 or bf16, shaped like the parameters */
  const pu_tensor **g; /* [n_params] room for the list of gradients */
  pu_adamw_param *of;  /* [n_params] room for a step's list */
  void *moments, *grads;
  size_t moment_bytes, grad_bytes; /* what the two take */
} pu_train_optim;

/* Moments, of type `state`, are zero; parameters that have no gradient memory yet get it. params outlives it. */
pu_err pu_train_optim_create(pu_backend *be, pu_param *params, size_t n, pu_dtype state, pu_arena *host,
                             pu_train_optim *out, pu_error *e) PU_MUST_USE;
void pu_train_optim_free(pu_train_optim *o);
/* Before a step: the first contribution overwrites. */
void pu_train_optim_begin(pu_train_optim *o);
/* The sum of squares of all gradients, each parameter counted once, in the order of the parameters. squares: [1] in the
 * backend's memory. */
pu_err pu_train_optim_sum(pu_train_optim *o, pu_ctx *c, double *squares) PU_MUST_USE;
/* One AdamW update, the `step`th (from 1), if the gate says so. */
pu_err pu_train_optim_step(pu_train_optim *o, pu_ctx *c, const pu_train_config *cfg, double lr,
                           const pu_adamw_gate *gate, int64_t step) PU_MUST_USE;

#endif
