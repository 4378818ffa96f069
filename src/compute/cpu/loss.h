/* linear_cross_entropy: the products and chunks are the same for all instruction sets; the pass over one row of logits
 * is what each has its own of. */
#ifndef PUYU_LOSS_H
#define PUYU_LOSS_H

#include "src/compute/cpu/cpu.h"

/* The loss of one row, logsumexp(logits) - logits[target]. Where `scale` is not 0, the row's gradient,
 * scale (softmax(logits) - onehot(target)), replaces the logits: as f32, or as bf16 from the row's beginning on. */
typedef float (*pu_loss_row_fn)(float *logits, int64_t n, int32_t target, float scale, pu_dtype type);

pu_err pu_cpu_linear_cross_entropy(pu_cpu *cpu, const pu_linear_cross_entropy_args *a, pu_loss_row_fn row, pu_error *e);
/* The work memory that it takes. */
size_t pu_loss_work_bytes(const pu_work_shape *s);

#endif
