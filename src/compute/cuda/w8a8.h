/* Weights in PU_LAYOUT_FP8 and PU_LAYOUT_INT8 (W8A8), between the operations that take them and w8a8.cu. */
#ifndef PUYU_CUDA_W8A8_H
#define PUYU_CUDA_W8A8_H

#include "src/compute/cuda/cuda.h"

static inline bool pu_cuda_is_w8a8(const pu_tensor *w) {
  return w->layout == PU_LAYOUT_FP8 || w->layout == PU_LAYOUT_INT8;
}
/* Making one; `linear` with one, which takes work memory. */
pu_err pu_cuda_w8a8_weight(pu_cuda *d, const pu_tensor *w, pu_tensor *out, pu_error *e) PU_MUST_USE;
pu_err pu_cuda_w8a8_linear(pu_cuda *d, const pu_linear_args *a, pu_error *e) PU_MUST_USE;
/* y = swiglu of what `linear` would give, in one kernel, of few rows. */
bool pu_cuda_w8a8_has_gated(const pu_cuda *d, const pu_linear_args *a);
pu_err pu_cuda_w8a8_gated(pu_cuda *d, const pu_linear_args *a, const pu_tensor *y, pu_error *e) PU_MUST_USE;

#endif
