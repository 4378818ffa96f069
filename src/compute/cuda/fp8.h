/* Matrices in FP8 for products on tensor cores (from compute capability 9.0 on): E4M3 (up to 448) for weights and what
 * they are multiplied with, E5M2 (up to 57344) for gradients (Micikevicius et al. 2022). One scale a tensor, from the
 * largest magnitude that is in it now. */
#ifndef PUYU_CUDA_FP8_H
#define PUYU_CUDA_FP8_H

#include "src/compute/cuda/cuda.h"

/* A bf16 [rows, cols] (rows 16-byte aligned, both sizes multiples of 16) to bytes: as it lies, and turned ([cols,
 * rows]), each contiguous; NULL: not wanted. scale: what the bytes have to be multiplied with, in device memory, with 4
 * bytes beside it for the largest magnitude. */
typedef struct pu_cuda_fp8 {
  const bf16 *from;
  int64_t rows, cols, step;
  bool gradient; /* E5M2 */
  uint8_t *plain, *turned;
  float *scale; /* [2] */
} pu_cuda_fp8;
pu_err pu_cuda_to_fp8(pu_cuda *d, const pu_cuda_fp8 *f, pu_error *e) PU_MUST_USE;

/* linear where a->fp8. Whether it can be: else it is computed as ever. */
bool pu_cuda_fp8_can(const pu_cuda *d, const pu_linear_args *a);
pu_err pu_cuda_fp8_linear(pu_cuda *d, const pu_linear_args *a, pu_error *e) PU_MUST_USE;
/* The products of backward. room: pu_cuda_fp8_room of work memory. */
size_t pu_cuda_fp8_room(const pu_linear_args *a);
pu_err pu_cuda_fp8_back(pu_cuda *d, const pu_linear_args *a, void *room, pu_error *e) PU_MUST_USE;

#endif
