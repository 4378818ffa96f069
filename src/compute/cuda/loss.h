/* Between loss.cu and the kernels of its rows. */
#ifndef PUYU_CUDA_LOSS_H
#define PUYU_CUDA_LOSS_H

#include "src/compute/cuda/cuda.h"

typedef struct pu_loss_rows {
  float *logits; /* [rows, step]; each row begins on 16 bytes and has memory up to a multiple of 8 logits */
  int64_t step, vocab, rows;
  int64_t place; /* of the first row: what a fault says */
  const int32_t *targets;
  float *loss;
  float scale;
  bool back; /* each row becomes scale * its gradient in place, in `type`, from where it began on */
  pu_dtype type;
  pu_cuda_faults faults;
} pu_loss_rows;

pu_err pu_cuda_loss_rows(pu_cuda *d, const pu_loss_rows *l, pu_error *e) PU_MUST_USE;

#endif
