/* What a run will need, what there is, and what it took. */
#ifndef PUYU_TRAIN_MEMORY_H
#define PUYU_TRAIN_MEMORY_H

#include "puyu/train.h"

/* How the model is loaded: beside an adapter it is not trained itself. */
pu_model_options pu_train_model_options(const pu_train_config *cfg);
pu_dtype pu_train_moment_type(const pu_train_config *cfg);
/* From a model's sizes and a configuration that is resolved. What is trained beside a model is counted with all of its
 * linear layers, and without samples that a feed holds: those are known once they are read. */
pu_err pu_train_plan_make(const pu_backend *be, const pu_arch *arch, const pu_hparams *hp, const pu_train_config *cfg,
                          pu_train_plan *out, pu_error *e) PU_MUST_USE;
/* "weights 96.0 MiB, …" on the log. */
void pu_train_plan_print(const pu_backend *be, const pu_train_plan *p);
/* PU_ERR_NOMEM, which ends with the mend, where bytes of the device's memory do not fit into what is free. */
pu_err pu_train_plan_check(const pu_backend *be, size_t bytes, const char *mend, pu_error *e) PU_MUST_USE;
/* In use now: of the device, by anyone, where it has memory of its own; else of this process. 0: unknown. */
size_t pu_train_memory_used(const pu_backend *be);
/* What to allocate for so many planned bytes of activations: on the CPU room beyond the plan costs nothing until it is
 * touched; a device gets little more than the plan. */
size_t pu_train_activation_room(const pu_backend *be, size_t planned);
/* "avx512, 4 threads", or what a device says of itself. */
const char *pu_train_where(const pu_backend *be, char text[200]); /* = text */

/* What the backend takes for itself for one micro-batch of sequences of seq_len. rank: of the adapter that is trained;
 * 0: none is. */
size_t pu_train_work_bytes(const pu_backend *be, const pu_model *m, int64_t tokens, int64_t seq_len, int64_t rank);

#endif
