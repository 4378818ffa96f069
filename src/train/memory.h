/* What a run will need, what there is, and what it took. */
#ifndef PUYU_TRAIN_MEMORY_H
#define PUYU_TRAIN_MEMORY_H

#include "puyu/train.h"

typedef struct pu_train_plan {
  size_t weights; /* in the compute type, and f32 masters where that is another */
  size_t gradients, moments;
  size_t activations; /* of one micro-batch, as the tape lays them out */
  size_t work;        /* what operations use while they run: see pu_train_work_bytes */
  size_t data;        /* ids of one step, and those that a feed holds */
  size_t copy;        /* what the checkpoint thread writes from */
  size_t total;
} pu_train_plan;

void pu_train_plan_sum(pu_train_plan *p);
/* "weights 96.0 MiB, …" on the log. */
void pu_train_plan_print(const pu_train_plan *p);
/* PU_ERR_NOMEM with the mend where bytes do not fit into what is free. taken: how many of them are in use already. */
pu_err pu_train_plan_check(size_t bytes, size_t taken, bool force, pu_error *e) PU_MUST_USE;

/* What the backend takes for itself for one micro-batch of sequences of seq_len. rank: of the adapter that is trained;
 * 0: none is. */
size_t pu_train_work_bytes(const pu_backend *be, const pu_model *m, int64_t tokens, int64_t seq_len, int64_t rank);

#endif
