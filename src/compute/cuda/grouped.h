/* Many products in one launch: y = alpha a b^T (+ beta y) (+ bias) for each group, summed in f32, each sum in one
 * sequence.
 *
 * Sizes and places of the groups are read by the kernel, so that they may have been computed on the device (rows of an
 * expert), and many small ones (adapters of some rows) cost one launch. */
#ifndef PUYU_CUDA_GROUPED_H
#define PUYU_CUDA_GROUPED_H

#include "src/compute/cuda/cuda.h"

typedef struct pu_cuda_group {
  const void *a, *b;                              /* a: [rows, inner], b: [cols, inner] */
  void *y;                                        /* [rows, cols] */
  const void *bias;                               /* [cols], or NULL */
  int64_t a_row, a_inner, b_col, b_inner, y_step; /* elements from one to the next; of a and of b one of both is 1 */
  int32_t rows, cols, inner;
  int32_t first;     /* strips of rows of the groups before it: filled by pu_cuda_grouped, or on the device */
  float alpha, beta; /* beta 0: overwrite */
  bool bias_f32;
} pu_cuda_group;

/* What all groups have in common. */
typedef struct pu_cuda_groups {
  pu_dtype type, y_type; /* of a and b; of y */
  int64_t cols;          /* the most of any */
} pu_cuda_groups;

enum { PU_GROUP_ROWS = 64 }; /* of a strip */

/* Groups that the host knows. They write to places apart. */
pu_err pu_cuda_grouped(pu_cuda *d, const pu_cuda_groups *common, pu_cuda_group *groups, int n, pu_error *e) PU_MUST_USE;
/* Groups in device memory, of at most `strips` strips together. */
pu_err pu_cuda_grouped_on_device(pu_cuda *d, const pu_cuda_groups *common, const pu_cuda_group *groups, int n,
                                 int64_t strips, pu_error *e) PU_MUST_USE;

#endif
