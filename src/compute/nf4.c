/* NF4: weights in 4 bits, whose 16 values are quantiles of a normal distribution, by blocks of 64; and the blocks'
 * scales in 8 bits, by blocks of 256 (Dettmers et al. 2023). Laid out as bitsandbytes does within a block: the first of
 * two values in the high half of a byte. */
#include "puyu/compute.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = PU_NF4_BLOCK, SCALES = PU_NF4_SCALES };

/* What the codes stand for (table of the paper's appendix E). */
static const float VALUES[16] = {-1.0f,
                                 -0.6961928009986877f,
                                 -0.5250730514526367f,
                                 -0.39491748809814453f,
                                 -0.28444138169288635f,
                                 -0.18477343022823334f,
                                 -0.09105003625154495f,
                                 0.0f,
                                 0.07958029955625534f,
                                 0.16093020141124725f,
                                 0.24611230194568634f,
                                 0.33791524171829224f,
                                 0.44070982933044434f,
                                 0.5626170039176941f,
                                 0.7229568362236023f,
                                 1.0f};

/* ---- where what lies ---- */

static size_t lines(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

pu_nf4_parts pu_nf4_parts_of(int64_t n) {
  pu_nf4_parts p = {.blocks = (n + BLOCK - 1) / BLOCK};
  p.groups = (p.blocks + SCALES - 1) / SCALES;
  p.scale = lines((size_t)(n + 1) / 2);
  p.step = p.scale + lines((size_t)p.blocks);
  p.mean = p.step + lines((size_t)p.groups * sizeof(float));
  p.bytes = p.mean + 64;
  return p;
}

size_t pu_nf4_bytes(int64_t n) {
  return pu_nf4_parts_of(n).bytes;
}

/* ---- 8-bit codes of scales ---- */

/* Sorted: 0, 1, and for each of seven powers of ten twice as many steps as for the one below, of either sign (the
 * "dynamic" type of Dettmers 2015, as bitsandbytes makes it). */
static void scale_values(float v[256]) {
  int n = 0;
  for (int power = 0; power < 7; power++) {
    int steps = 1 << power;
    for (int i = 0; i < steps; i++) {
      double low = 0.1 + 0.9 * i / steps, high = 0.1 + 0.9 * (i + 1) / steps;
      double mean = (low + high) / 2 * pow(10, power - 6);
      v[n++] = (float)mean;
      v[n++] = (float)-mean;
    }
  }
  v[n++] = 0;
  v[n++] = 1;
  for (int i = 1; i < n; i++) {
    float x = v[i];
    int k = i;
    for (; k > 0 && v[k - 1] > x; k--) v[k] = v[k - 1];
    v[k] = x;
  }
}

void pu_nf4_get_values(pu_nf4_values *out) {
  memcpy(out->code, VALUES, sizeof VALUES);
  scale_values(out->scale);
}

/* The nearest of n sorted values; the lower of two as near. */
static int nearest(const float *v, int n, float x) {
  int low = 0, high = n - 1;
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (v[middle] <= x)
      low = middle;
    else
      high = middle;
  }
  return x - v[low] <= v[high] - x ? low : high;
}

/* ---- packing ---- */

static float largest(const float *w, int64_t n) {
  float most = 0;
  for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(w[i]));
  return most;
}

static void pack_block(uint8_t *to, const float *w, int64_t n, float scale) {
  for (int64_t i = 0; i < n; i += 2) {
    int code[2] = {7, 7};
    for (int k = 0; k < 2 && i + k < n; k++)
      if (scale > 0) code[k] = nearest(VALUES, 16, w[i + k] / scale);
    to[i / 2] = (uint8_t)(code[0] << 4 | code[1]);
  }
}

typedef struct packing {
  pu_nf4_parts at;
  const float *w;
  int64_t n;
  uint8_t *out;
  float *scale, mean;
  pu_nf4_values values;
} packing;

static void pack_blocks(void *arg, int64_t begin, int64_t end, int worker) {
  const packing *p = arg;
  (void)worker;
  for (int64_t i = begin; i < end; i++) {
    int64_t n = PU_MIN((int64_t)BLOCK, p->n - i * BLOCK);
    p->scale[i] = largest(p->w + i * BLOCK, n);
    pack_block(p->out + i * BLOCK / 2, p->w + i * BLOCK, n, p->scale[i]);
  }
}

/* Groups of the blocks' scales, less their mean, as codes of a step each. */
static void pack_scales(void *arg, int64_t begin, int64_t end, int worker) {
  const packing *p = arg;
  (void)worker;
  for (int64_t g = begin; g < end; g++) {
    int64_t to = PU_MIN(p->at.blocks, (g + 1) * SCALES);
    float step = 0;
    for (int64_t i = g * SCALES; i < to; i++) step = fmaxf(step, fabsf(p->scale[i] - p->mean));
    memcpy(p->out + p->at.step + (size_t)g * sizeof step, &step, sizeof step);
    for (int64_t i = g * SCALES; i < to; i++)
      p->out[p->at.scale + (size_t)i] =
          (uint8_t)nearest(p->values.scale, 256, step > 0 ? (p->scale[i] - p->mean) / step : 0);
  }
}

pu_err pu_nf4_pack(pu_pool *pool, void *out, const float *w, int64_t n, pu_error *e) {
  packing p = {.at = pu_nf4_parts_of(n), .w = w, .n = n, .out = out};
  double sum = 0;
  p.scale = malloc((size_t)p.at.blocks * sizeof *p.scale + 1);
  if (!p.scale) return pu_fail(e, PU_ERR_NOMEM, "no memory to pack %lld weights", (long long)n);
  pu_nf4_get_values(&p.values);
  memset(out, 0, p.at.bytes);
  pu_pool_run(pool, p.at.blocks, SCALES, pack_blocks, &p);
  for (int64_t i = 0; i < p.at.blocks; i++) sum += (double)p.scale[i];
  p.mean = p.at.blocks ? (float)(sum / (double)p.at.blocks) : 0;
  memcpy(p.out + p.at.mean, &p.mean, sizeof p.mean);
  pu_pool_run(pool, p.at.groups, 4, pack_scales, &p);
  free(p.scale);
  return PU_OK;
}

/* ---- unpacking ---- */

static void unpack_f32(float *to, const uint8_t *codes, int64_t n, float scale) {
  float v[16];
  for (int i = 0; i < 16; i++) v[i] = VALUES[i] * scale;
  for (int64_t i = 0; i < n; i++) to[i] = v[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4];
}

static void unpack_bf16(uint16_t *to, const uint8_t *codes, int64_t n, float scale) {
  uint16_t v[16];
  for (int i = 0; i < 16; i++) v[i] = pu_f32_to_bf16(VALUES[i] * scale);
  for (int64_t i = 0; i < n; i++) to[i] = v[i % 2 ? codes[i / 2] & 15 : codes[i / 2] >> 4];
}

void pu_nf4_unpack(void *out, pu_dtype type, const void *packed, int64_t n, int64_t begin, int64_t end) {
  pu_nf4_parts p = pu_nf4_parts_of(n);
  const char *from = packed;
  float values[256], offset, step;
  scale_values(values);
  memcpy(&offset, from + p.mean, sizeof offset);
  for (int64_t i = begin; i < end; i++) {
    memcpy(&step, from + p.step + (size_t)(i / SCALES) * sizeof step, sizeof step);
    float scale = values[((const uint8_t *)from)[p.scale + (size_t)i]] * step + offset;
    const uint8_t *codes = (const uint8_t *)from + i * BLOCK / 2;
    int64_t k = PU_MIN((int64_t)BLOCK, n - i * BLOCK);
    if (type == PU_F32)
      unpack_f32((float *)out + i * BLOCK, codes, k, scale);
    else
      unpack_bf16((uint16_t *)out + i * BLOCK, codes, k, scale);
  }
}
