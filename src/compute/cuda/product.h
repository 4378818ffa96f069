/* Between product.cu and the kernels that it chooses from. */
#ifndef PUYU_CUDA_PRODUCT_H
#define PUYU_CUDA_PRODUCT_H

#include "src/compute/cuda/cuda.h"

#include <cuda.h>

enum { PU_SKINNY_ROWS = 64 };

/* y = a b^T + bias of at most PU_SKINNY_ROWS rows, of bf16, E4M3 or int8 (these with a scale for each row of a and b,
 * and b rests; of E4M3, also for each block of b), all rows 16-byte aligned, neither operand turned, beta 0: at the
 * speed of memory, each sum in one sequence; of E4M3 by rows with the bits that cuBLASLt's full sums give. */
bool pu_cuda_has_skinny(const pu_cuda *d); /* compute capability 9.0 alone */
pu_err pu_cuda_skinny(pu_cuda *d, const pu_cuda_product *p, pu_error *e) PU_MUST_USE;
/* y = silu(a g^T) (a u^T), bf16 [rows, cols]: b holds g [cols, inner], then u likewise. Both products are rounded to
 * bf16. No bias. */
pu_err pu_cuda_skinny_gated(pu_cuda *d, const pu_cuda_product *p, pu_error *e) PU_MUST_USE;

/* The same of any number of rows, of int8 with a scale for each row: the sum is multiplied with a's scale, then with
 * b's, then the bias is added, each step rounded to f32; and of E4M3 with a scale for each block of b, as compute.h has
 * it. inner and cols are multiples of 16, b rests. */
bool pu_cuda_has_codes_product(const pu_cuda *d); /* compute capability 9.0 */
pu_err pu_cuda_codes_product(pu_cuda *d, const pu_cuda_product *p, pu_error *e) PU_MUST_USE;

/* Whether a steady product is one that it can do. */
bool pu_cuda_few_rows(const pu_cuda *d, const pu_cuda_product *p);

/* How the copy engine finds a matrix [lines, inner] of values of 16 bits, rows `step` values apart and 16-byte aligned:
 * in boxes of 64 values of `box` lines (256 at most), in the pattern that warpgroup products read. Kept for the next
 * time. */
pu_err pu_cuda_map_of(pu_cuda *d, const void *data, int64_t lines, int64_t inner, int64_t step, int box,
                      CUtensorMap *out, pu_error *e) PU_MUST_USE;

#endif
