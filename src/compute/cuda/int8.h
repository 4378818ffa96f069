/* Between linear layers with weights in PU_LAYOUT_INT8 (int8.cu) and the kernel that multiplies them on Hopper. */
#ifndef PUYU_CUDA_INT8_H
#define PUYU_CUDA_INT8_H

#include "src/compute/cuda/rows.h"

/* A matrix [rows, cols] of codes and a scale for each row, in device memory. */
typedef struct pu_cuda_coded {
  const int8_t *codes;
  const float *scale;
  int64_t rows, cols;
} pu_cuda_coded;

/* a->y = x w^T + b by the definition of pu_linear: any number of rows of x, which are a->x's; those of w, and the
 * columns, multiples of 16. w is what no kernel writes that lets the next one start before it has ended. x NULL: few
 * rows (pu_cuda_int8_rounds), which the product itself rounds. */
bool pu_cuda_has_int8_product(const pu_cuda *d); /* compute capability 9.0 */
bool pu_cuda_int8_rounds(const pu_tensor *x);
pu_err pu_cuda_int8_product(pu_cuda *d, const pu_linear_args *a, const pu_cuda_coded *x, const pu_cuda_coded *w,
                            pu_error *e) PU_MUST_USE;

/* ---- rounding, in kernels -------------------------------------------------------------------------------------------
 */

/* The largest magnitudes so far of even and of odd values, as bits of bf16, which compare as they do. */
__device__ static inline uint32_t pu_int8_larger(uint32_t most, uint4 v) {
  uint32_t a = __vmaxu2(v.x & 0x7fff7fffu, v.y & 0x7fff7fffu), b = __vmaxu2(v.z & 0x7fff7fffu, v.w & 0x7fff7fffu);
  return __vmaxu2(most, __vmaxu2(a, b));
}
/* Of a warp, both in one, as the bits of an f32. */
__device__ static inline uint32_t pu_int8_warp_most(uint32_t most) {
  return __reduce_max_sync(0xffffffffu, max(most << 16, most & 0xffff0000u));
}

/* What a row with this largest magnitude is multiplied with, and its scale. Of what is not finite, codes mean nothing.
 */
__device__ static inline float pu_int8_finite_scale(float most) {
  return __fmul_rn(fmaxf(most, 0x1p-100f), 1.0f / 127);
}
__device__ static inline float pu_int8_by(float most) {
  return __frcp_rn(pu_int8_finite_scale(most));
}
__device__ static inline float pu_int8_scale(float most) {
  return most < INFINITY ? pu_int8_finite_scale(most) : NAN;
}

__device__ static inline uint32_t pu_int8_two(uint32_t pair, float by) {
  float low, high;
  two_f32(pair, &low, &high);
  int first = __float2int_rn(__fmul_rn(low, by)), second = __float2int_rn(__fmul_rn(high, by));
  return (uint32_t)(first & 0xff) | (uint32_t)(second & 0xff) << 8;
}
__device__ static inline uint2 pu_int8_codes(uint4 v, float by) {
  return make_uint2(pu_int8_two(v.x, by) | pu_int8_two(v.y, by) << 16, pu_int8_two(v.z, by) | pu_int8_two(v.w, by)
                                                                                                  << 16);
}

#endif
