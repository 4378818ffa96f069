/* Matrices in FP8 for products on Hopper's tensor cores: E4M3, a scale for 128 values that lie along the product's sum, or
 * for a block of 128 by 128 (weights). Both operands of a product have to lie along the sum, so that a matrix is wanted
 * as it lies for one product and turned for another, each with scales of its own: both are made in one pass.
 *
 * cuBLASLt reads scales so (cublasLtMatmulMatrixScale_t): of [rows, cols] in 128 side by side [cols / 128, rows]; in blocks
 * [rows / 128, cols / 128 rounded up to 4]. */
#ifndef PUYU_CUDA_FP8_H
#define PUYU_CUDA_FP8_H

#include "src/compute/cuda/cuda.h"

typedef struct pu_cuda_fp8 {
  uint8_t *plain, *turned; /* [rows, cols], [cols, rows]; NULL: not wanted */
  float *plain_scale, *turned_scale;
  int64_t rows, cols; /* multiples of PU_FP8_BLOCK */
  bool blocks;
} pu_cuda_fp8;

enum { PU_FP8_PLAIN = 1, PU_FP8_TURNED = 2, PU_FP8_BOTH = 3, PU_FP8_BLOCKS = 4 };
/* Room for one in work memory: *at moves on by as many bytes as pu_cuda_fp8_bytes says. */
size_t pu_cuda_fp8_bytes(int64_t rows, int64_t cols, int what);
pu_cuda_fp8 pu_cuda_fp8_in(int64_t rows, int64_t cols, int what, char **at);

/* Fills f from t, bf16 of its sizes, rows 16-byte aligned. */
pu_err pu_cuda_fp8_round(pu_cuda *d, const pu_tensor *t, const pu_cuda_fp8 *f, pu_error *e) PU_MUST_USE;
/* Fills act (not in blocks) with swiglu(gu), as bf16 rounded once more. */
pu_err pu_cuda_fp8_swiglu(pu_cuda *d, const pu_tensor *gu, const pu_cuda_fp8 *act, pu_error *e) PU_MUST_USE;
/* Its backward: from dact (bf16 [N, F], contiguous), gu's gradient, plain and turned, and act turned, once more. */
pu_err pu_cuda_fp8_swiglu_back(pu_cuda *d, const pu_tensor *gu, const bf16 *dact, const pu_cuda_fp8 *dgu,
                               const pu_cuda_fp8 *act, pu_error *e) PU_MUST_USE;

#endif
