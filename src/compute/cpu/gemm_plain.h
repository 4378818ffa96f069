/* C = alpha acc + beta C + bias for one tile, in plain C: the reference, and what the compiler makes of it for AVX2. */
#ifndef PUYU_GEMM_PLAIN_H
#define PUYU_GEMM_PLAIN_H

#include "src/compute/cpu/gemm_kernel.h"

#include <string.h>

static inline float pu_load_float(const void *p, int64_t i, pu_dtype type) {
  return type == PU_F32 ? ((const float *)p)[i] : pu_bf16_to_f32(((const uint16_t *)p)[i]);
}

static inline void pu_store_float(void *p, int64_t i, pu_dtype type, float v) {
  if (type == PU_F32)
    ((float *)p)[i] = v;
  else
    ((uint16_t *)p)[i] = pu_f32_to_bf16(v);
}

static inline void pu_gemm_store_row(const pu_gemm_tile *t, int i) {
  const float *acc = t->acc + i * t->ld;
  if (!t->transposed && t->type == PU_F32 && t->alpha == 1.0f && t->beta == 0.0f && !t->bias) {
    memcpy((float *)t->c + i * t->c_row, acc, (size_t)t->cols * sizeof(float));
    return;
  }
  for (int j = 0; j < t->cols; j++) {
    int64_t place = t->transposed ? j * t->c_row + i : i * t->c_row + j;
    float v = t->alpha * acc[j];
    if (t->beta != 0.0f) v += t->beta * pu_load_float(t->c, place, t->type);
    if (t->bias) v += pu_load_float(t->bias, t->transposed ? i : j, t->bias_type);
    pu_store_float(t->c, place, t->type, v);
  }
}

#endif
