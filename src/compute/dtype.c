/* Number types: sizes, names, conversion. */
#include <string.h>

#include "puyu/compute.h"

static const struct {
  const char *name, *other;
  size_t size;
} dtypes[PU_DTYPE_COUNT] = {
    [PU_F32] = {"f32", "float32", 4}, [PU_BF16] = {"bf16", "bfloat16", 2}, [PU_F16] = {"f16", "float16", 2},
    [PU_I8] = {"i8", "int8", 1},      [PU_U8] = {"u8", "uint8", 1},        [PU_U16] = {"u16", "uint16", 2},
    [PU_I32] = {"i32", "int32", 4},   [PU_I64] = {"i64", "int64", 8},
};

size_t pu_dtype_size(pu_dtype t) {
  return dtypes[t].size;
}

const char *pu_dtype_name(pu_dtype t) {
  return dtypes[t].name;
}

bool pu_dtype_parse(const char *name, pu_dtype *out) {
  for (int t = 0; t < PU_DTYPE_COUNT; t++) {
    if (strcmp(name, dtypes[t].name) != 0 && strcmp(name, dtypes[t].other) != 0) continue;
    *out = (pu_dtype)t;
    return true;
  }
  return false;
}

static uint32_t bits_of(float f) {
  union {
    float f;
    uint32_t u;
  } v = {f};
  return v.u;
}

static float float_of(uint32_t u) {
  union {
    uint32_t u;
    float f;
  } v = {u};
  return v.f;
}

/* binary16: sign, 5 bits of exponent (bias 15), 10 of fraction. */
float pu_f16_to_f32(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, fraction = h & 0x3ffu;
  if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {
    float v = (float)fraction * 0x1p-24f; /* subnormal, or zero */
    return sign ? -v : v;
  }
  return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t pu_f32_to_f16(float f) {
  uint32_t u = bits_of(f), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
  if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
  if (a < 0x38800000u) {
    /* Below the least normal, 2^-14: adding 0.5 lets the FPU round the fraction at the place binary16 ends (2^-24). */
    return (uint16_t)(sign | (bits_of(float_of(a) + 0.5f) - bits_of(0.5f)));
  }
  a += 0xfffu + ((a >> 13) & 1u);
  return (uint16_t)(sign | ((a >> 13) - (112u << 10)));
}

float pu_e4m3_to_f32(uint8_t v) {
  uint32_t sign = (uint32_t)(v & 0x80u) << 24, rest = v & 0x7fu;
  if (rest == 0x7f) return float_of(sign | 0x7fc00000u);
  if (rest < 8) return float_of(sign | bits_of((float)rest * 0x1p-9f)); /* subnormal, or zero */
  return float_of(sign | ((rest << 20) + (120u << 23)));
}

uint8_t pu_f32_to_e4m3(float f) {
  uint32_t u = bits_of(f), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint8_t)(sign | 0x7f);
  if (a >= 0x43e00000u) return (uint8_t)(sign | 0x7e); /* 448 and above */
  /* Below the least normal, 2^-6, as in pu_f32_to_f16: the place it ends at is 2^-9. */
  if (a < 0x3c800000u) return (uint8_t)(sign | (bits_of(float_of(a) + 0x1p14f) - bits_of(0x1p14f)));
  a += 0x7ffffu + ((a >> 20) & 1u);
  return (uint8_t)(sign | ((a >> 20) - (120u << 3)));
}

float pu_e5m2_to_f32(uint8_t v) {
  return pu_f16_to_f32((uint16_t)(v << 8));
}

uint8_t pu_f32_to_e5m2(float f) {
  uint32_t u = bits_of(f), sign = (u >> 24) & 0x80u, a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return (uint8_t)(sign | 0x7f);
  if (a >= 0x47600000u) return (uint8_t)(sign | 0x7b); /* 57344 and above */
  /* The least normal is 2^-14, the place it ends at 2^-16. */
  if (a < 0x38800000u) return (uint8_t)(sign | (bits_of(float_of(a) + 0x1p7f) - bits_of(0x1p7f)));
  a += 0xfffffu + ((a >> 21) & 1u);
  return (uint8_t)(sign | ((a >> 21) - (112u << 2)));
}

static void widen(float *dst, const void *src, pu_dtype from, int64_t n) {
  const uint16_t *h = src;
  if (from == PU_F32) memcpy(dst, src, (size_t)n * sizeof *dst);
  if (from == PU_BF16)
    for (int64_t i = 0; i < n; i++) dst[i] = pu_bf16_to_f32(h[i]);
  if (from == PU_F16)
    for (int64_t i = 0; i < n; i++) dst[i] = pu_f16_to_f32(h[i]);
}

static void narrow(void *dst, pu_dtype to, const float *src, int64_t n) {
  uint16_t *h = dst;
  if (to == PU_F32) memcpy(dst, src, (size_t)n * sizeof *src);
  if (to == PU_BF16)
    for (int64_t i = 0; i < n; i++) h[i] = pu_f32_to_bf16(src[i]);
  if (to == PU_F16)
    for (int64_t i = 0; i < n; i++) h[i] = pu_f32_to_f16(src[i]);
}

void pu_convert(void *dst, pu_dtype to, const void *src, pu_dtype from, int64_t n) {
  if (to == from) {
    memcpy(dst, src, (size_t)n * pu_dtype_size(to));
    return;
  }
  enum { CHUNK = 1024 };
  float middle[CHUNK];
  for (int64_t i = 0; i < n; i += CHUNK) {
    int64_t m = PU_MIN(n - i, CHUNK);
    widen(middle, (const char *)src + (size_t)i * pu_dtype_size(from), from, m);
    narrow((char *)dst + (size_t)i * pu_dtype_size(to), to, middle, m);
  }
}

void pu_split_halves(uint16_t *high, uint16_t *low, const float *src, int64_t n) {
  for (int64_t i = 0; i < n; i++) high[i] = pu_split_f32(src[i], &low[i]);
}

void pu_join_halves(float *dst, const uint16_t *high, const uint16_t *low, int64_t n) {
  for (int64_t i = 0; i < n; i++) dst[i] = pu_join_f32(high[i], low[i]);
}
