/* What swiglu and products that end with it share, so that both give the same bits. */
#ifndef PUYU_CUDA_GATES_CUH
#define PUYU_CUDA_GATES_CUH

#include "src/compute/cuda/cuda.h"

/* To the last bits where f32 is computed in; where bf16 follows, the fast exponential is far more exact than that. */
__device__ static inline float pu_sigmoid(float a, float) {
  return 1.0f / (1.0f + expf(-a));
}
__device__ static inline float pu_sigmoid(float a, bf16) {
  return __fdividef(1.0f, 1.0f + __expf(-a));
}

/* y = a s b with s = sigmoid(a). */
__device__ static inline float pu_gated(float a, float s, float b) {
  return __fmul_rn(__fmul_rn(a, s), b);
}

#endif
