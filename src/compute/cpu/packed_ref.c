/* Products with weights in few bits as packed.h defines them: what every kernel is tested against. */
#include "src/compute/cpu/packed.h"

#include <math.h>

static void round_row(const float *x, int64_t groups, int group, int8_t *q, pu_x_group *xg) {
  for (int64_t g = 0; g < groups; g++, x += group, q += group) {
    float most = 0;
    for (int k = 0; k < group; k++) most = fabsf(x[k]) > most ? fabsf(x[k]) : most;
    if (!(most > 1e-30f)) most = 0;
    float inverse = most > 0 ? 127.0f / most : 0;
    int32_t sum = 0;
    for (int k = 0; k < group; k++) {
      float v = rintf(x[k] * inverse);
      q[k] = (int8_t)(!(v > -127) ? -127 : v > 127 ? 127 : v); /* no number becomes -127 */
      sum += q[k];
    }
    xg[g] = (pu_x_group){most / 127.0f, (float)sum};
  }
}

/* Of a block that begins at q. */
static int value_at(const uint8_t *q, int bits, int r, int64_t k) {
  int64_t l = k / 4, at = r * 4 + k % 4;
  if (bits == 8) return q[l * PU_PACKED_LINE + at];
  return q[l / 2 * PU_PACKED_LINE + at] >> (l % 2 * 4) & 15;
}

static float scale_at(const pu_packed_job *j, int64_t block, int64_t g, int r) {
  return pu_f16_to_f32(j->scale[(block * j->groups + g) * PU_PACKED_ROWS + r]);
}

static float zero_at(const pu_packed_job *j, int64_t block, int64_t g, int r) {
  if (!j->zero) return (float)(1 << (j->bits - 1));
  return pu_f16_to_f32(j->zero[(block * j->groups + g) * PU_PACKED_ROWS + r]);
}

static float integer_sum(const pu_packed_job *j, int64_t block, int r, int64_t token) {
  const int8_t *x = (const int8_t *)j->x + token * j->x_row;
  const uint8_t *q = j->q + block * pu_packed_block_bytes(j);
  const int bits = j->bits;
  float acc = 0;
  for (int64_t g = 0; g < j->groups; g++) {
    const pu_x_group *xg = &j->xg[token * j->groups + g];
    int32_t sum = 0;
    const int64_t end = (g + 1) * j->group;
    for (int64_t k = g * j->group; k < end; k++) sum += value_at(q, bits, r, k) * x[k];
    acc = fmaf(fmaf(-zero_at(j, block, g, r), xg->sum, (float)sum), scale_at(j, block, g, r) * xg->scale, acc);
  }
  return acc;
}

static float exact_sum(const pu_packed_job *j, int64_t block, int r, int64_t token) {
  const float *x = (const float *)j->x + token * j->x_row;
  const uint8_t *q = j->q + block * pu_packed_block_bytes(j);
  const int bits = j->bits;
  float acc = 0;
  for (int64_t g = 0; g < j->groups; g++) {
    float s[4] = {0}, scale = scale_at(j, block, g, r), zero = zero_at(j, block, g, r);
    const int64_t end = (g + 1) * j->group;
    for (int64_t k = g * j->group; k < end; k++)
      s[k % 4] = fmaf(x[k], ((float)value_at(q, bits, r, k) - zero) * scale, s[k % 4]);
    acc += (s[0] + s[1]) + (s[2] + s[3]);
  }
  return acc;
}

static void all_sums(const pu_packed_job *j, float (*sum)(const pu_packed_job *, int64_t, int, int64_t)) {
  int64_t rows = pu_packed_tokens(j->tokens);
  for (int64_t b = 0; b < j->blocks; b++)
    for (int64_t t = 0; t < j->tokens; t++)
      for (int r = 0; r < PU_PACKED_ROWS; r++) j->acc[(b * rows + t) * PU_PACKED_ROWS + r] = sum(j, b, r, t);
}

static void integer(const pu_packed_job *j, char *room) {
  (void)room;
  all_sums(j, integer_sum);
}

static void exact(const pu_packed_job *j) {
  all_sums(j, exact_sum);
}

const pu_packed_kernel pu_packed_ref = {round_row, integer, exact};
