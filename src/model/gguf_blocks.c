/* The types of GGUF's tensors: blocks of 32 values with one scale (q4_0 … q8_0), or of 256 with scales of their own for
 * every 16 or 32 values (q4_K, q5_K, q6_K). Layouts: ggml's block structures. Scales are f16, quantities little-endian.
 * A product of a scale (11 bits) and a quantity (at most 8 bits) fits in an f32's mantissa, so what comes out is the
 * same to the bit wherever it is computed. */
#include "src/model/gguf.h"

#include <math.h>
#include <string.h>

static float half_at(const uint8_t *p) {
  return pu_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static void put_half(uint8_t *p, float v) {
  uint16_t h = pu_f32_to_f16(v);
  p[0] = (uint8_t)h;
  p[1] = (uint8_t)(h >> 8);
}

/* ---- 32 values, one scale: {f16 d, [f16 m,] [u32 fifth bits,] nibbles or bytes} ---- */

/* Nibbles hold value j low and value j + 16 high. */
static void q4_0_to_f32(const uint8_t *b, float *out) {
  float d = half_at(b);
  for (int j = 0; j < 16; j++) {
    out[j] = (float)((b[2 + j] & 15) - 8) * d;
    out[j + 16] = (float)((b[2 + j] >> 4) - 8) * d;
  }
}

static void q4_1_to_f32(const uint8_t *b, float *out) {
  float d = half_at(b), m = half_at(b + 2);
  for (int j = 0; j < 16; j++) {
    out[j] = (float)(b[4 + j] & 15) * d + m;
    out[j + 16] = (float)(b[4 + j] >> 4) * d + m;
  }
}

static int fifth_bit(const uint8_t *bits, int j) {
  return (bits[j / 8] >> (j % 8) & 1) << 4;
}

static void q5_0_to_f32(const uint8_t *b, float *out) {
  float d = half_at(b);
  for (int j = 0; j < 16; j++) {
    out[j] = (float)(((b[6 + j] & 15) | fifth_bit(b + 2, j)) - 16) * d;
    out[j + 16] = (float)(((b[6 + j] >> 4) | fifth_bit(b + 2, j + 16)) - 16) * d;
  }
}

static void q5_1_to_f32(const uint8_t *b, float *out) {
  float d = half_at(b), m = half_at(b + 2);
  for (int j = 0; j < 16; j++) {
    out[j] = (float)((b[8 + j] & 15) | fifth_bit(b + 4, j)) * d + m;
    out[j + 16] = (float)((b[8 + j] >> 4) | fifth_bit(b + 4, j + 16)) * d + m;
  }
}

static void q8_0_to_f32(const uint8_t *b, float *out) {
  float d = half_at(b);
  for (int j = 0; j < 32; j++) out[j] = (float)(int8_t)b[2 + j] * d;
}

/* ---- the same in few bits ---- */

static void q8_0_codes(const uint8_t *b, uint8_t *q, float *scale, float *zero) {
  (void)zero;
  *scale = half_at(b);
  for (int j = 0; j < 32; j++) q[j] = b[2 + j] ^ 0x80;
}

static void nibbles(const uint8_t *b, uint8_t *q) {
  for (int j = 0; j < 16; j++) {
    q[j] = b[j] & 15;
    q[j + 16] = b[j] >> 4;
  }
}

static void q4_0_codes(const uint8_t *b, uint8_t *q, float *scale, float *zero) {
  (void)zero;
  *scale = half_at(b);
  nibbles(b + 2, q);
}

/* q d + m = (q - zero) d with zero = -m / d, rounded to f16. Where a zero of that size cannot be had, the values are as
 * good as equal: 1 times m. */
static void q4_1_codes(const uint8_t *b, uint8_t *q, float *scale, float *zero) {
  float d = half_at(b), m = half_at(b + 2);
  bool equal = !(fabsf(m) <= 2048 * fabsf(d)) || d == 0;
  *scale = equal ? m : d;
  *zero = equal ? 0 : -m / d;
  nibbles(b + 4, q);
  if (equal) memset(q, 1, 32);
}

/* ---- 256 values: eight groups of 32, each with a 6-bit scale and minimum, packed in 12 bytes ---- */

/* Groups 0..3 have their six bits in the low ends of bytes 0..3 (scales) and 4..7 (minima); groups 4..7 have four bits
 * in bytes 8..11 and the upper two in the high ends of the others. */
static void scale_and_min(const uint8_t *s, int group, int *scale, int *min) {
  if (group < 4) {
    *scale = s[group] & 63;
    *min = s[group + 4] & 63;
  } else {
    *scale = (s[group + 4] & 15) | (s[group - 4] >> 6) << 4;
    *min = s[group + 4] >> 4 | (s[group] >> 6) << 4;
  }
}

/* high: 32 bytes with a fifth bit for each value, bit `group` for that group; NULL: none. */
static void k_groups(const uint8_t *b, const uint8_t *high, const uint8_t *low, float *out) {
  float d = half_at(b), dmin = half_at(b + 2);
  for (int group = 0; group < 8; group++, out += 32) {
    int scale, min, shift = group % 2 * 4;
    const uint8_t *q = low + group / 2 * 32;
    scale_and_min(b + 4, group, &scale, &min);
    float step = d * (float)scale, base = dmin * (float)min;
    for (int j = 0; j < 32; j++) {
      int fifth = high ? (high[j] >> group & 1) << 4 : 0;
      out[j] = step * (float)((q[j] >> shift & 15) | fifth) - base;
    }
  }
}

static void q4_k_to_f32(const uint8_t *b, float *out) {
  k_groups(b, NULL, b + 16, out);
}

static void q5_k_to_f32(const uint8_t *b, float *out) {
  k_groups(b, b + 16, b + 48, out);
}

/* {128 bytes of nibbles, 64 of upper bit pairs, 16 i8 scales, f16 d}: in each half of 128 values, value 32 g + j has
 * its nibble in byte 32 (g mod 2) + j, low for g < 2, and its bit pair in byte j at 2 g. */
static void q6_k_to_f32(const uint8_t *b, float *out) {
  float d = half_at(b + 208);
  for (int i = 0; i < 256; i++) {
    int half = i / 128, g = i % 128 / 32, j = i % 32;
    int nibble = b[64 * half + 32 * (g % 2) + j] >> (g / 2 * 4) & 15;
    int pair = b[128 + 32 * half + j] >> (2 * g) & 3;
    out[i] = d * (float)(int8_t)b[192 + i / 16] * (float)((nibble | pair << 4) - 32);
  }
}

/* ---- writing ---- */

/* To the nearest, ties away from zero; what is no number becomes the lowest. */
static int clamp(float v, int low, int high) {
  return !(v > (float)low) ? low : v > (float)high ? high : (int)v;
}

static void q8_0_from_f32(const float *in, uint8_t *b) {
  float most = 0;
  for (int j = 0; j < 32; j++) most = fmaxf(most, fabsf(in[j]));
  float d = most / 127, inverse = d != 0 ? 1.0f / d : 0.0f;
  put_half(b, d);
  for (int j = 0; j < 32; j++) b[2 + j] = (uint8_t)clamp(roundf(in[j] * inverse), -127, 127);
}

/* The value of the largest magnitude becomes -8 exactly, whatever its sign: the range of a nibble is lopsided. */
static void q4_0_from_f32(const float *in, uint8_t *b) {
  float most = 0, extreme = 0;
  for (int j = 0; j < 32; j++) {
    if (fabsf(in[j]) > most) {
      most = fabsf(in[j]);
      extreme = in[j];
    }
  }
  float d = extreme / -8, inverse = d != 0 ? 1.0f / d : 0.0f;
  put_half(b, d);
  for (int j = 0; j < 16; j++)
    b[2 + j] = (uint8_t)(clamp(in[j] * inverse + 8.5f, 0, 15) | clamp(in[j + 16] * inverse + 8.5f, 0, 15) << 4);
}

/* ---- the table ---- */

#define PLAIN(dtype)          .plain = dtype
#define SIZE_ONLY             .plain = PU_DTYPE_COUNT
#define BLOCKS(to)            .plain = PU_DTYPE_COUNT, .to_f32 = to
#define FEW(fn, n, has_zeros) .codes = fn, .few = {.bits = n, .group = 32, .zeros = has_zeros}

static const pu_gguf_type types[] = {
    {0, "f32", 1, 4, PLAIN(PU_F32), .file_type = 0},
    {1, "f16", 1, 2, PLAIN(PU_F16), .file_type = 1},
    {2, "q4_0", 32, 18, BLOCKS(q4_0_to_f32), .from_f32 = q4_0_from_f32, FEW(q4_0_codes, 4, false), .file_type = 2},
    {3, "q4_1", 32, 20, BLOCKS(q4_1_to_f32), FEW(q4_1_codes, 4, true)},
    {6, "q5_0", 32, 22, BLOCKS(q5_0_to_f32)},
    {7, "q5_1", 32, 24, BLOCKS(q5_1_to_f32)},
    {8, "q8_0", 32, 34, BLOCKS(q8_0_to_f32), .from_f32 = q8_0_from_f32, FEW(q8_0_codes, 8, false), .file_type = 7},
    {9, "q8_1", 32, 36, SIZE_ONLY},
    {10, "q2_K", 256, 84, SIZE_ONLY},
    {11, "q3_K", 256, 110, SIZE_ONLY},
    {12, "q4_K", 256, 144, BLOCKS(q4_k_to_f32)},
    {13, "q5_K", 256, 176, BLOCKS(q5_k_to_f32)},
    {14, "q6_K", 256, 210, BLOCKS(q6_k_to_f32)},
    {15, "q8_K", 256, 292, SIZE_ONLY},
    {16, "iq2_xxs", 256, 66, SIZE_ONLY},
    {17, "iq2_xs", 256, 74, SIZE_ONLY},
    {18, "iq3_xxs", 256, 98, SIZE_ONLY},
    {19, "iq1_s", 256, 50, SIZE_ONLY},
    {20, "iq4_nl", 32, 18, SIZE_ONLY},
    {21, "iq3_s", 256, 110, SIZE_ONLY},
    {22, "iq2_s", 256, 82, SIZE_ONLY},
    {23, "iq4_xs", 256, 136, SIZE_ONLY},
    {24, "i8", 1, 1, PLAIN(PU_I8)},
    {25, "i16", 1, 2, SIZE_ONLY},
    {26, "i32", 1, 4, PLAIN(PU_I32)},
    {27, "i64", 1, 8, PLAIN(PU_I64)},
    {28, "f64", 1, 8, SIZE_ONLY},
    {29, "iq1_m", 256, 56, SIZE_ONLY},
    {30, "bf16", 1, 2, PLAIN(PU_BF16), .file_type = 32},
    {34, "tq1_0", 256, 54, SIZE_ONLY},
    {35, "tq2_0", 256, 66, SIZE_ONLY},
    {39, "mxfp4", 32, 17, SIZE_ONLY},
};

const pu_gguf_type *pu_gguf_type_of(uint32_t id) {
  for (size_t i = 0; i < PU_COUNT(types); i++)
    if (types[i].id == id) return &types[i];
  return NULL;
}

const pu_gguf_type *pu_gguf_type_of_plain(pu_dtype dtype) {
  for (size_t i = 0; i < PU_COUNT(types); i++)
    if (types[i].plain == dtype) return &types[i];
  return NULL;
}

const pu_gguf_type *pu_gguf_type_named(const char *name) {
  for (size_t i = 0; i < PU_COUNT(types); i++)
    if (strcmp(types[i].name, name) == 0) return &types[i];
  return NULL;
}

const char *pu_gguf_type_name(const pu_gguf_type *t) {
  return t->name;
}

static bool is_float(pu_dtype t) {
  return t == PU_F32 || t == PU_BF16 || t == PU_F16;
}

bool pu_gguf_readable(const pu_gguf_type *t) {
  return t->to_f32 || is_float(t->plain);
}

bool pu_gguf_writable(const pu_gguf_type *t) {
  return t->from_f32 || is_float(t->plain);
}

void pu_gguf_to_f32(const pu_gguf_type *t, const void *src, int64_t n, float *dst) {
  const uint8_t *from = src;
  if (t->to_f32) {
    for (int64_t i = 0; i < n; i += t->block, from += t->bytes) t->to_f32(from, dst + i);
    return;
  }
  uint32_t aligned[256];
  for (int64_t i = 0; i < n; i += 256) {
    int64_t k = PU_MIN(n - i, 256);
    memcpy(aligned, from + (size_t)i * t->bytes, (size_t)k * t->bytes);
    pu_convert(dst + i, PU_F32, aligned, t->plain, k);
  }
}

void pu_gguf_from_f32(const pu_gguf_type *t, const float *src, int64_t n, void *dst) {
  uint8_t *to = dst;
  if (!t->from_f32)
    pu_convert(dst, t->plain, src, PU_F32, n);
  else
    for (int64_t i = 0; i < n; i += t->block, to += t->bytes) t->from_f32(src + i, to);
}
