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

template <typename Y>
__device__ static inline void pu_group_store(const pu_cuda_group &g, int64_t row, int64_t col, float sum) {
  if (row >= g.rows || col >= g.cols) return;
  Y *y = (Y *)g.y + row * g.y_step + col;
  sum *= g.alpha;
  if (g.bias) sum += g.bias_f32 ? ((const float *)g.bias)[col] : to_f32(((const bf16 *)g.bias)[col]);
  *y = from_f32<Y>(g.beta != 0 ? sum + g.beta * to_f32(*y) : sum);
}

/* What all groups have in common. A strip of rows is what one block computes: PU_STRIP_FEW where each group has few,
 * and what is read of b takes the time. */
enum { PU_STRIP_FEW = 16, PU_STRIP_PLAIN = 64, PU_STRIP = 128 };

typedef struct pu_cuda_groups {
  pu_dtype type, y_type;   /* of a and b; of y */
  int64_t cols;            /* the most of any */
  int strip;               /* PU_STRIP_…: see pu_cuda_strip */
  bool a_turned, b_turned; /* a_inner, b_inner are not 1 */
} pu_cuda_groups;

/* The strip for groups like these, of so many rows on average; `like` has the steps of all and a place of each aligned
 * as theirs. */
int pu_cuda_strip(const pu_cuda_groups *common, const pu_cuda_group *like, int64_t rows);

/* Groups that the host knows. They write to places apart. */
pu_err pu_cuda_grouped(pu_cuda *d, const pu_cuda_groups *common, const pu_cuda_group *groups, int n,
                       pu_error *e) PU_MUST_USE;
/* Groups in device memory, of at most `strips` strips together. */
pu_err pu_cuda_grouped_on_device(pu_cuda *d, const pu_cuda_groups *common, const pu_cuda_group *groups, int n,
                                 int64_t strips, pu_error *e) PU_MUST_USE;

#endif
