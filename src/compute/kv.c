/* Rows of a key/value cache in few bits. */
#include <string.h>

#include "puyu/compute.h"

enum { F16_MAX = 65504 };

int64_t pu_kv_row(int bits, int64_t head_dim) {
  return bits ? head_dim * bits / 8 + PU_KV_PAIR_BYTES : head_dim;
}

/* Comparisons with a NaN are false: it changes nothing here, and becomes 0 below. */
static void find_range(const float *x, int64_t n, float *low, float *high) {
  float lo = F16_MAX, hi = -F16_MAX;
  for (int64_t i = 0; i < n; i++) {
    lo = x[i] < lo ? x[i] : lo;
    hi = x[i] > hi ? x[i] : hi;
  }
  *low = PU_MAX(lo, -F16_MAX);
  *high = PU_MAX(PU_MIN(hi, F16_MAX), *low);
}

static inline uint8_t level(float x, float low, float inverse, float most) {
  float q = (x - low) * inverse;
  q = q > 0 ? q : 0;
  return (uint8_t)(int)((q < most ? q : most) + 0.5f);
}

/* Values are counted from scale and low as they are kept, so their rounding to f16 adds no error of its own. */
void pu_kv_pack(void *row, int bits, const float *x, int64_t n) {
  uint8_t *q = row;
  const float most = (float)((1 << bits) - 1);
  float low, high;
  find_range(x, n, &low, &high);
  uint16_t pair[2] = {0, pu_f32_to_f16(low)};
  low = pu_f16_to_f32(pair[1]);
  pair[0] = pu_f32_to_f16((high - low) / most);
  const float scale = pu_f16_to_f32(pair[0]), inverse = scale > 0 ? 1 / scale : 0;
  if (bits == 8)
    for (int64_t i = 0; i < n; i++) q[i] = level(x[i], low, inverse, most);
  else
    for (int64_t i = 0; i < n / 2; i++)
      q[i] = (uint8_t)(level(x[2 * i], low, inverse, most) | level(x[2 * i + 1], low, inverse, most) << 4);
  memcpy(q + n * bits / 8, pair, sizeof pair);
}

void pu_kv_unpack(float *x, const void *row, int bits, int64_t n) {
  const uint8_t *q = row;
  uint16_t pair[2];
  memcpy(pair, q + n * bits / 8, sizeof pair);
  const float scale = pu_f16_to_f32(pair[0]), low = pu_f16_to_f32(pair[1]);
  for (int64_t i = 0; i < n; i++) {
    int v = bits == 8 ? q[i] : (i % 2 ? q[i / 2] >> 4 : q[i / 2] & 15);
    x[i] = (float)v * scale + low;
  }
}
