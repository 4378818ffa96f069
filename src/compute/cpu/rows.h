/* How the plain references read and write: one value at a time, in f32, whatever the tensor's type. */
#ifndef PUYU_ROWS_H
#define PUYU_ROWS_H

#include <math.h>

#include "src/compute/cpu/cpu.h"

/* The i-th element of the memory. */
static inline float pu_get1(const pu_tensor *t, int64_t i) {
  return t->dtype == PU_F32 ? ((const float *)t->data)[i] : pu_bf16_to_f32(((const uint16_t *)t->data)[i]);
}

static inline void pu_set1(const pu_tensor *t, int64_t i, float v) {
  if (t->dtype == PU_F32)
    ((float *)t->data)[i] = v;
  else
    ((uint16_t *)t->data)[i] = pu_f32_to_bf16(v);
}

static inline float pu_get(const pu_tensor *t, int64_t row, int64_t col) {
  return pu_get1(t, row * t->stride[0] + col);
}

static inline void pu_set(const pu_tensor *t, int64_t row, int64_t col, float v) {
  pu_set1(t, row * t->stride[0] + col, v);
}

/* Overwrites where beta is 0 (what lies there may be anything, NaN too), adds where it is 1. */
static inline void pu_acc(const pu_tensor *t, int64_t row, int64_t col, float v, float beta) {
  pu_set(t, row, col, beta != 0 ? pu_get(t, row, col) + v : v);
}

/* Rows in pieces, for loops that a compiler can vectorise: columns [col, col + n) from or to f32. */
enum { PU_PIECE = 256 };

static inline void *pu_row(const pu_tensor *t, int64_t row) {
  return (char *)t->data + (size_t)(row * t->stride[0]) * pu_dtype_size(t->dtype);
}

static inline void pu_read_piece(const pu_tensor *t, int64_t row, int64_t col, int64_t n, float *out) {
  pu_convert(out, PU_F32, (char *)pu_row(t, row) + (size_t)col * pu_dtype_size(t->dtype), t->dtype, n);
}

static inline void pu_write_piece(const pu_tensor *t, int64_t row, int64_t col, int64_t n, const float *in) {
  pu_convert((char *)pu_row(t, row) + (size_t)col * pu_dtype_size(t->dtype), t->dtype, in, PU_F32, n);
}

/* Random bits for stochastic rounding: those of element i are a function of (seed, step, i) that every version of an
 * operation computes. A counter, begun anywhere, through a mixing function of 32 bits (lowbias32, Wellons 2018). */
typedef struct pu_noise {
  uint32_t begin, more;
} pu_noise;

static inline uint32_t pu_mix32(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

static inline pu_noise pu_noise_of(uint64_t seed, int64_t step) {
  uint64_t key = pu_random_at(seed, (uint64_t)step, 0);
  return (pu_noise){(uint32_t)key, (uint32_t)(key >> 32)};
}

/* Where the counter stands at element i; i + 1's is one more, unless i + 1 is a multiple of 2^32. */
static inline uint32_t pu_noise_at(pu_noise noise, int64_t i) {
  return noise.begin + (uint32_t)i + (uint32_t)(i >> 32) * 0x9e3779b9u;
}

/* Sixteen bits more, where both halves of an element's bits are spent: the upper half of a product with an odd number.
 * With the lower half given they take each value once over the upper ones, and the other way round nearly so. */
static inline uint32_t pu_noise_more(pu_noise noise, uint32_t bits) {
  return (bits * 0x9e3779b9u + noise.more) >> 16;
}

/* One parameter's part of an AdamW step. */
typedef struct pu_adam_job {
  const pu_tensor *p, *low, *g, *m, *v;
  float lr, beta1, beta2, eps, weight_decay, scale;
  int64_t step;
  uint64_t seed;
} pu_adam_job;

static inline pu_adam_job pu_adam_job_of(const pu_adamw_args *a, int i, float scale) {
  const pu_adamw_param *w = &a->of[i];
  return (pu_adam_job){w->p,   w->low,          w->g,  w->m,    w->v,   a->lr, a->beta1, a->beta2,
                       a->eps, w->weight_decay, scale, a->step, w->seed};
}

/* Is the step taken, and with gradients times what? */
static inline bool pu_adamw_opens(const pu_adamw_gate *g, float *scale) {
  *scale = 1;
  if (!g->squares) return true;
  for (int64_t i = 0, n = g->finite ? pu_tensor_count(g->finite) : 0; i < n; i++)
    if (!isfinite(((const float *)g->finite->data)[i])) return false;
  return pu_adamw_takes(sqrt(*g->squares), g->clip, g->most, scale);
}

/* f with its lower half zero: rounded up where its lower half and 16 random bits carry. */
static inline float pu_dither_bf16(float f, uint32_t bits) {
  union {
    float f;
    uint32_t u;
  } v = {f};
  if (f == f) v.u = (v.u + (bits & 0xffffu)) & 0xffff0000u;
  return v.f;
}

#endif
