/* Between linear layers with weights in PU_LAYOUT_INT8 (int8.cu) and the kernel that multiplies them on Hopper. */
#ifndef PUYU_CUDA_INT8_H
#define PUYU_CUDA_INT8_H

#include "src/compute/cuda/cuda.h"

/* A matrix [rows, cols] of codes and a scale for each row, in device memory. */
typedef struct pu_cuda_coded {
  const int8_t *codes;
  const float *scale;
  int64_t rows, cols;
} pu_cuda_coded;

/* y = x w^T + b by the definition of pu_linear: any number of rows of x; those of w, and the columns, multiples of 16.
 * w is what no kernel writes that lets the next one start before it has ended. */
bool pu_cuda_has_int8_product(const pu_cuda *d); /* compute capability 9.0 */
pu_err pu_cuda_int8_product(pu_cuda *d, const pu_cuda_coded *x, const pu_cuda_coded *w, const pu_tensor *b,
                            const pu_tensor *y, pu_error *e) PU_MUST_USE;

#endif
