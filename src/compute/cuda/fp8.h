/* Matrices in FP8 for products on Hopper's tensor cores: E4M3, gradients E5M2, each with one power of two that brings
 * its values into range. Both operands of a product have to lie along the sum, so that a matrix is wanted as it lies
 * for one product and turned for another: both are made in one pass.
 *
 * The power of two follows from the largest magnitude, which is known only when all values were seen. So it is guessed,
 * the guess being what the same matrix had when it was rounded last, and the largest magnitude is found on the way. A
 * second kernel, which mostly finds nothing to do, rounds again where the guess was wrong. The result does not depend
 * on the guess. */
#ifndef PUYU_CUDA_FP8_H
#define PUYU_CUDA_FP8_H

#include "src/compute/cuda/cuda.h"

/* Of one matrix, in device memory. Of its pairs one is read and the other made ready, in turn. cuBLASLt wants the scale
 * at a multiple of 16 bytes. */
typedef struct alignas(32) pu_cuda_guess {
  uint32_t most[2];        /* the largest magnitude so far, as an f32's bits */
  float by[2];             /* the guess */
  alignas(16) float scale; /* 1 / what was right in the end; NaN where there is infinity */
} pu_cuda_guess;

typedef struct pu_cuda_fp8 {
  uint8_t *plain, *turned; /* [rows, cols], [cols, rows]; NULL: not wanted */
  int64_t rows, cols;      /* multiples of PU_FP8_TILE */
  pu_cuda_guess *guess;
  int turn;      /* which of the guess's pairs is read */
  bool gradient; /* E5M2 */
} pu_cuda_fp8;

enum { PU_FP8_PLAIN = 1, PU_FP8_TURNED = 2, PU_FP8_BOTH = 3 };
/* What is multiplied beside a weight, and the weight: guesses are kept by these and the weight's address. */
typedef enum pu_cuda_fp8_role { PU_FP8_WEIGHT, PU_FP8_INPUT, PU_FP8_GRADIENT } pu_cuda_fp8_role;

/* Before an operation's first one. */
void pu_cuda_fp8_begin(pu_cuda *d);
/* Bytes of work memory for one; and one there: *at moves on by as many. */
size_t pu_cuda_fp8_bytes(int64_t rows, int64_t cols, int sides);
pu_cuda_fp8 pu_cuda_fp8_in(pu_cuda *d, int64_t rows, int64_t cols, int sides, const pu_tensor *weight,
                           pu_cuda_fp8_role role, char **at);

/* Fills to[i] from from[i], bf16 of its sizes, rows 16-byte aligned. */
enum { PU_FP8_AT_ONCE = 4 };
pu_err pu_cuda_fp8_round(pu_cuda *d, const pu_tensor *const *from, const pu_cuda_fp8 *to, int n,
                         pu_error *e) PU_MUST_USE;
/* Fills act, plain, with swiglu(gu). */
pu_err pu_cuda_fp8_swiglu(pu_cuda *d, const pu_tensor *gu, const pu_cuda_fp8 *act, pu_error *e) PU_MUST_USE;
/* Its backward: from dact (bf16 [N, F], contiguous) gu's gradient, both sides, and act once more, turned. */
pu_err pu_cuda_fp8_swiglu_back(pu_cuda *d, const pu_tensor *gu, const bf16 *dact, const pu_cuda_fp8 *dgu,
                               const pu_cuda_fp8 *act, pu_error *e) PU_MUST_USE;

pu_err pu_cuda_fp8_open(pu_cuda *d, pu_error *e) PU_MUST_USE;

#endif
