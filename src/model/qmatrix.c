/* Matrices in few bits on the host: rounding to nearest, and back. */
#include "puyu/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

pu_err pu_qmatrix_init(pu_qmatrix *q, int bits, int64_t rows, int64_t cols, int64_t group, bool symmetric,
                       pu_error *e) {
  *q = (pu_qmatrix){.bits = bits, .rows = rows, .cols = cols, .group = group ? group : cols};
  if ((bits != 4 && bits != 8) || rows < 1 || cols < 1 || q->group < 1)
    return pu_fail(e, PU_ERR_USAGE, "weights of %d bits, %lld x %lld in groups of %lld: 4 or 8 bits are supported",
                   bits, (long long)rows, (long long)cols, (long long)group);
  size_t groups = (size_t)pu_qmatrix_groups(q);
  q->q = calloc((size_t)rows, (size_t)cols);
  q->scale = calloc((size_t)rows, groups * sizeof *q->scale);
  if (!symmetric) q->zero = calloc((size_t)rows, groups);
  if (!q->q || !q->scale || (!symmetric && !q->zero))
    return pu_fail(e, PU_ERR_NOMEM, "no memory for %lld x %lld weights", (long long)rows, (long long)cols);
  return PU_OK;
}

void pu_qmatrix_deinit(pu_qmatrix *q) {
  free(q->q);
  free(q->scale);
  free(q->zero);
  free(q->g_idx);
  *q = (pu_qmatrix){0};
}

static void range_of(float lo, float hi, int bits, bool symmetric, float *scale, uint8_t *zero) {
  float most = (float)((1 << bits) - 1);
  if (symmetric) {
    hi = fmaxf(-lo, hi);
    lo = -hi;
  }
  float step = fminf((hi - lo) / most, 65504.0f); /* what f16 reaches */
  *scale = pu_f16_to_f32(pu_f32_to_f16(step));
  *zero = symmetric ? (uint8_t)(1 << (bits - 1)) : pu_quant_round(-lo, *scale, 0, bits);
}

void pu_quant_range(const float *w, int64_t n, int bits, bool symmetric, float *scale, uint8_t *zero) {
  float lo = 0, hi = 0;
  for (int64_t i = 0; i < n; i++) {
    lo = w[i] < lo ? w[i] : lo;
    hi = w[i] > hi ? w[i] : hi;
  }
  range_of(lo, hi, bits, symmetric, scale, zero);
}

/* Inputs of one group lie anywhere: all of the row is looked through for each. */
static void range_ordered(const pu_qmatrix *q, int64_t g, const float *w, float *scale, uint8_t *zero) {
  float lo = 0, hi = 0;
  for (int64_t k = 0; k < q->cols; k++) {
    if (q->g_idx[k] != g) continue;
    lo = w[k] < lo ? w[k] : lo;
    hi = w[k] > hi ? w[k] : hi;
  }
  range_of(lo, hi, q->bits, !q->zero, scale, zero);
}

static int zero_of(const pu_qmatrix *q, int64_t m, int64_t g) {
  return q->zero ? q->zero[m * pu_qmatrix_groups(q) + g] : 1 << (q->bits - 1);
}

void pu_qmatrix_round(pu_qmatrix *q, int64_t m, const float *w) {
  int64_t groups = pu_qmatrix_groups(q);
  uint8_t *row = q->q + m * q->cols;
  for (int64_t g = 0; g < groups; g++) {
    float *scale = &q->scale[m * groups + g];
    uint8_t zero;
    int64_t k0 = g * q->group, n = PU_MIN(q->group, q->cols - k0);
    if (q->g_idx)
      range_ordered(q, g, w, scale, &zero);
    else
      pu_quant_range(w + k0, n, q->bits, !q->zero, scale, &zero);
    if (q->zero) q->zero[m * groups + g] = zero;
    for (int64_t k = k0; !q->g_idx && k < k0 + n; k++) row[k] = pu_quant_round(w[k], *scale, zero, q->bits);
  }
  for (int64_t k = 0; q->g_idx && k < q->cols; k++)
    row[k] = pu_quant_round(w[k], q->scale[m * groups + q->g_idx[k]], zero_of(q, m, q->g_idx[k]), q->bits);
}

void pu_qmatrix_to_f32(const pu_qmatrix *q, int64_t m, float *w) {
  int64_t groups = pu_qmatrix_groups(q);
  const uint8_t *row = q->q + m * q->cols;
  for (int64_t k = 0; k < q->cols; k++) {
    int64_t g = q->g_idx ? q->g_idx[k] : k / q->group;
    w[k] = (float)(row[k] - zero_of(q, m, g)) * q->scale[m * groups + g];
  }
}
