/* Sixteen f32 lanes as two AVX2 registers: see vec16_avx512.h. Row lengths here are multiples of 8. */
#ifndef PUYU_VEC16_AVX2_H
#define PUYU_VEC16_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "puyu/compute.h"

typedef struct v16 {
  __m256 lo, hi;
} v16;

static inline v16 v_load(const float *p) {
  return (v16){_mm256_load_ps(p), _mm256_load_ps(p + 8)};
}
static inline void v_store(float *p, v16 a) {
  _mm256_store_ps(p, a.lo);
  _mm256_store_ps(p + 8, a.hi);
}
static inline v16 v_set1(float x) {
  return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
static inline v16 v_add(v16 a, v16 b) {
  return (v16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
static inline v16 v_sub(v16 a, v16 b) {
  return (v16){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
static inline v16 v_mul(v16 a, v16 b) {
  return (v16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
static inline v16 v_max(v16 a, v16 b) {
  return (v16){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
static inline v16 v_fma(v16 a, v16 b, v16 c) { /* a b + c */
  return (v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline v16 v_fms(v16 a, v16 b, v16 c) { /* a b - c */
  return (v16){_mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi)};
}
static inline bool v_any_above(v16 a, v16 b) {
  __m256 k = _mm256_or_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ));
  return _mm256_movemask_ps(k) != 0;
}
static inline v16 v_where_above(v16 a, v16 b, v16 x, v16 y) {
  return (v16){_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_GT_OQ)),
               _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_GT_OQ))};
}
static inline float v_sum(v16 a) {
  __m256 s = _mm256_add_ps(a.lo, a.hi);
  __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_add_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
}
static inline float v_top(v16 a) {
  __m256 s = _mm256_max_ps(a.lo, a.hi);
  __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  t = _mm_max_ps(t, _mm_movehl_ps(t, t));
  return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
}

static inline __m256 v_keep_half(__m256 a, __m256 pos, __m256 key, __m256 end) {
  __m256 k = _mm256_and_ps(_mm256_cmp_ps(pos, key, _CMP_GE_OQ), _mm256_cmp_ps(pos, end, _CMP_LT_OQ));
  return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), a, k);
}
/* a where key <= pos < end, -inf elsewhere. */
static inline v16 v_keep(v16 a, v16 pos, float key, float end) {
  __m256 k = _mm256_set1_ps(key), e = _mm256_set1_ps(end);
  return (v16){v_keep_half(a.lo, pos.lo, k, e), v_keep_half(a.hi, pos.hi, k, e)};
}

/* 2^x for x <= 127, as in vec16_avx512.h; 0 below -126. */
static inline __m256 v_exp2_half(__m256 x) {
  __m256 low = _mm256_set1_ps(-126.0f), live = _mm256_cmp_ps(x, low, _CMP_NLT_UQ); /* NaN lives */
  __m256 z = _mm256_max_ps(low, x);
  __m256 n = _mm256_round_ps(z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), f = _mm256_sub_ps(z, n);
  __m256 p = _mm256_set1_ps(1.53458112e-4f);
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.33999312e-3f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.61848896e-3f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.55032878e-2f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.40226469e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.93147206e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
  __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(live, _mm256_mul_ps(p, _mm256_castsi256_ps(e)));
}
static inline v16 v_exp2(v16 x) {
  return (v16){v_exp2_half(x.lo), v_exp2_half(x.hi)};
}

static inline __m256 v_load_half(const void *p, pu_dtype type) {
  if (type == PU_F32) return _mm256_loadu_ps(p);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
static inline v16 v_from_i8(__m128i bytes) {
  return (v16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
               _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
static inline __m128i v_centre8(__m128i x) {
  return _mm_xor_si128(x, _mm_set1_epi8(-128));
}
static inline __m128i v_centre4(__m128i x) {
  const __m128i low = _mm_set1_epi8(15);
  __m128i halves = _mm_unpacklo_epi8(_mm_and_si128(x, low), _mm_and_si128(_mm_srli_epi16(x, 4), low));
  return _mm_sub_epi8(halves, _mm_set1_epi8(8));
}
static inline v16 v_load16(const void *p, const int bits) {
  if (bits == 8) return v_from_i8(v_centre8(_mm_loadu_si128(p)));
  if (bits == 4) return v_from_i8(v_centre4(_mm_loadl_epi64(p)));
  const pu_dtype type = bits == 32 ? PU_F32 : PU_BF16;
  return (v16){v_load_half(p, type), v_load_half((const char *)p + bits, type)};
}
static inline v16 v_load_f16(const uint16_t p[16]) {
  return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
               _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
}
/* n elements from p (n >= 16: sixteen), as f32; zeros for the rest. */
static inline v16 v_load_row(const void *p, pu_dtype type, int n) {
  v16 r = v_set1(0.0f);
  if (n >= 8) r.lo = v_load_half(p, type);
  if (n >= 16) r.hi = v_load_half((const char *)p + 8 * (type == PU_F32 ? 4 : 2), type);
  return r;
}
static inline v16 v_load_tail(const void *p, const int bits, int n) {
  if (n >= 16) return v_load16(p, bits);
  if (bits == 8) return v_from_i8(v_centre8(_mm_loadl_epi64(p)));
  if (bits == 4) return v_from_i8(v_centre4(_mm_loadu_si32(p)));
  return v_load_row(p, bits == 32 ? PU_F32 : PU_BF16, n);
}
static inline void v_store_half(void *p, pu_dtype type, __m256 a) {
  if (type == PU_F32) {
    _mm256_storeu_ps(p, a);
    return;
  }
  __m256i u = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
  __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  r = _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, _mm256_castps_si256(nan)), 16);
  _mm_storeu_si128(p, _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1)));
}
static inline void v_store_row(void *p, pu_dtype type, v16 a, int n) {
  if (n >= 8) v_store_half(p, type, a.lo);
  if (n >= 16) v_store_half((char *)p + 8 * (type == PU_F32 ? 4 : 2), type, a.hi);
}

typedef struct w16 {
  __m256i lo, hi;
} w16;

static inline w16 w_bits(v16 a) {
  return (w16){_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)};
}
static inline w16 w_from(uint32_t first) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), x = _mm256_set1_epi32((int)first);
  return (w16){_mm256_add_epi32(x, lane), _mm256_add_epi32(_mm256_add_epi32(x, lane), _mm256_set1_epi32(8))};
}
static inline w16 w_plus(w16 a, uint32_t x) {
  const __m256i b = _mm256_set1_epi32((int)x);
  return (w16){_mm256_add_epi32(a.lo, b), _mm256_add_epi32(a.hi, b)};
}
static inline w16 w_times(w16 a, uint32_t x) {
  const __m256i b = _mm256_set1_epi32((int)x);
  return (w16){_mm256_mullo_epi32(a.lo, b), _mm256_mullo_epi32(a.hi, b)};
}
static inline w16 w_upper(w16 a) {
  return (w16){_mm256_srli_epi32(a.lo, 16), _mm256_srli_epi32(a.hi, 16)};
}
static inline __m256i w_mix_half(__m256i x) {
  x = _mm256_mullo_epi32(_mm256_xor_si256(x, _mm256_srli_epi32(x, 16)), _mm256_set1_epi32(0x7feb352d));
  x = _mm256_mullo_epi32(_mm256_xor_si256(x, _mm256_srli_epi32(x, 15)), _mm256_set1_epi32((int)0x846ca68b));
  return _mm256_xor_si256(x, _mm256_srli_epi32(x, 16));
}
static inline w16 w_mix(w16 x) {
  return (w16){w_mix_half(x.lo), w_mix_half(x.hi)};
}
static inline __m256i w_dither_half(__m256 a, __m256i random) {
  __m256i live = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_ORD_Q));
  __m256i low = _mm256_and_si256(_mm256_and_si256(random, _mm256_set1_epi32(0xffff)), live);
  return _mm256_add_epi32(_mm256_castps_si256(a), low);
}
static inline w16 w_dither(v16 a, w16 random) {
  return (w16){w_dither_half(a.lo, random.lo), w_dither_half(a.hi, random.hi)};
}
static inline void v_split_half(__m256 a, __m256i *high, __m256i *low) {
  __m256i u = _mm256_castps_si256(a), nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  *high = _mm256_blendv_epi8(_mm256_add_epi32(u, _mm256_set1_epi32(0x8000)), quiet, nan);
  *low = _mm256_andnot_si256(nan, _mm256_slli_epi32(u, 16));
}
static inline void v_split(v16 a, w16 *high, w16 *low) {
  v_split_half(a.lo, &high->lo, &low->lo);
  v_split_half(a.hi, &high->hi, &low->hi);
}
static inline v16 v_join(v16 high, v16 low) {
  w16 h = w_bits(high), l = w_bits(low);
  return (v16){_mm256_castsi256_ps(_mm256_add_epi32(h.lo, _mm256_srai_epi32(l.lo, 16))),
               _mm256_castsi256_ps(_mm256_add_epi32(h.hi, _mm256_srai_epi32(l.hi, 16)))};
}
static inline void w_store_upper(void *p, w16 a, int n) {
  __m256i both = _mm256_packus_epi32(_mm256_srli_epi32(a.lo, 16), _mm256_srli_epi32(a.hi, 16));
  both = _mm256_permute4x64_epi64(both, 0xd8); /* packing goes by halves of 128 bits */
  if (n >= 16) {
    _mm256_storeu_si256(p, both);
    return;
  }
  uint16_t whole[16];
  _mm256_storeu_si256((__m256i *)(void *)whole, both);
  memcpy(p, whole, (size_t)n * sizeof *whole);
}

static inline void v_transpose8(__m256 r[8]) {
  __m256 t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; j++) {
      u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  }
  for (int c = 0; c < 4; c++) {
    r[c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
    r[c + 4] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
  }
}
/* 16 x 16, in place, as four 8 x 8. */
static inline void v_transpose(v16 r[16]) {
  __m256 a[8], b[8], c[8], d[8];
  for (int i = 0; i < 8; i++) a[i] = r[i].lo, b[i] = r[i].hi, c[i] = r[8 + i].lo, d[i] = r[8 + i].hi;
  v_transpose8(a);
  v_transpose8(b);
  v_transpose8(c);
  v_transpose8(d);
  for (int i = 0; i < 8; i++) r[i] = (v16){a[i], c[i]}, r[8 + i] = (v16){b[i], d[i]};
}

#endif
