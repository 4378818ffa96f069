/* Sixteen f32 lanes as one AVX-512 register: the words the attention kernels are written in. vec16_avx2.h says the same
 * with two AVX2 registers. */
#ifndef PUYU_VEC16_AVX512_H
#define PUYU_VEC16_AVX512_H

#include <immintrin.h>
#include <math.h>

#include "puyu/compute.h"

typedef __m512 v16;

static inline v16 v_load(const float *p) {
  return _mm512_load_ps(p);
}
static inline void v_store(float *p, v16 a) {
  _mm512_store_ps(p, a);
}
static inline v16 v_set1(float x) {
  return _mm512_set1_ps(x);
}
static inline v16 v_add(v16 a, v16 b) {
  return _mm512_add_ps(a, b);
}
static inline v16 v_sub(v16 a, v16 b) {
  return _mm512_sub_ps(a, b);
}
static inline v16 v_mul(v16 a, v16 b) {
  return _mm512_mul_ps(a, b);
}
static inline v16 v_max(v16 a, v16 b) {
  return _mm512_max_ps(a, b);
}
static inline v16 v_fma(v16 a, v16 b, v16 c) { /* a b + c */
  return _mm512_fmadd_ps(a, b, c);
}
static inline v16 v_fms(v16 a, v16 b, v16 c) { /* a b - c */
  return _mm512_fmsub_ps(a, b, c);
}
static inline bool v_any_above(v16 a, v16 b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}
/* x where a > b, y elsewhere. */
static inline v16 v_where_above(v16 a, v16 b, v16 x, v16 y) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), y, x);
}
static inline float v_sum(v16 a) {
  return _mm512_reduce_add_ps(a);
}
static inline float v_top(v16 a) {
  return _mm512_reduce_max_ps(a);
}

/* a where key <= pos < end, -inf elsewhere. */
static inline v16 v_keep(v16 a, v16 pos, float key, float end) {
  __mmask16 k = _mm512_cmp_ps_mask(pos, _mm512_set1_ps(key), _CMP_GE_OQ);
  k = _mm512_mask_cmp_ps_mask(k, pos, _mm512_set1_ps(end), _CMP_LT_OQ);
  return _mm512_mask_blend_ps(k, _mm512_set1_ps(-INFINITY), a);
}

/* 2^x for x <= 127: x = n + f, f in [0, 1); minimax polynomials in relative error (Remez). Degree 6 for f32 (2e-9),
 * degree 3 where the result is rounded to bf16 at once (7.5e-5, a 25th of that rounding). */
static inline v16 v_exp2(v16 x) {
  v16 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  v16 p = _mm512_set1_ps(1.53458112e-4f);
  p = v_fma(p, f, _mm512_set1_ps(1.33999312e-3f));
  p = v_fma(p, f, _mm512_set1_ps(9.61848896e-3f));
  p = v_fma(p, f, _mm512_set1_ps(5.55032878e-2f));
  p = v_fma(p, f, _mm512_set1_ps(2.40226469e-1f));
  p = v_fma(p, f, _mm512_set1_ps(6.93147206e-1f));
  p = v_fma(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, _mm512_sub_ps(x, f));
}
static inline v16 v_exp2_rough(v16 x) {
  v16 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  v16 p = _mm512_set1_ps(7.80245226e-2f);
  p = v_fma(p, f, _mm512_set1_ps(2.26067155e-1f));
  p = v_fma(p, f, _mm512_set1_ps(6.95833541e-1f));
  p = v_fma(p, f, _mm512_set1_ps(9.99925219e-1f));
  return _mm512_scalef_ps(p, x); /* scalef takes the floor of x itself */
}

/* Unsigned values of 8 bits, and 8 bytes of two values of 4 bits each (the low half first), less the middle of their
 * range: sums of what lies around zero lose nothing to each other. */
static inline v16 v_from_i8(__m128i bytes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
static inline __m128i v_centre8(__m128i x) {
  return _mm_xor_si128(x, _mm_set1_epi8(-128));
}
static inline __m128i v_centre4(__m128i x) {
  const __m128i low = _mm_set1_epi8(15);
  __m128i halves = _mm_unpacklo_epi8(_mm_and_si128(x, low), _mm_and_si128(_mm_srli_epi16(x, 4), low));
  return _mm_sub_epi8(halves, _mm_set1_epi8(8));
}
/* Sixteen values of 32 (f32), 16 (bf16), 8 or 4 bits (less the middle), as f32. */
static inline v16 v_load16(const void *p, const int bits) {
  if (bits == 32) return _mm512_loadu_ps(p);
  if (bits == 8) return v_from_i8(v_centre8(_mm_loadu_si128(p)));
  if (bits == 4) return v_from_i8(v_centre4(_mm_loadl_epi64(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
static inline v16 v_load_f16(const uint16_t p[16]) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
/* n elements from p (n >= 16: sixteen), as f32; zeros for the rest. */
static inline v16 v_load_row(const void *p, pu_dtype type, int n) {
  __mmask16 k = n >= 16 ? 0xffff : (__mmask16)((1u << (n > 0 ? n : 0)) - 1);
  if (type == PU_F32) return _mm512_maskz_loadu_ps(k, p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(k, p)), 16));
}

/* n of v_load16's values, 8 or from 16 on; zeros for the rest. */
static inline v16 v_load_tail(const void *p, const int bits, int n) {
  if (n >= 16) return v_load16(p, bits);
  if (bits == 8) return v_from_i8(v_centre8(_mm_loadl_epi64(p)));
  if (bits == 4) return v_from_i8(v_centre4(_mm_loadu_si32(p)));
  return v_load_row(p, bits == 32 ? PU_F32 : PU_BF16, n);
}

static inline __m256i v_round_bf16(v16 a) { /* to nearest even; NaN stays NaN */
  __m512i u = _mm512_castps_si512(a);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}
static inline void v_store_row(void *p, pu_dtype type, v16 a, int n) {
  __mmask16 k = n >= 16 ? 0xffff : (__mmask16)((1u << (n > 0 ? n : 0)) - 1);
  if (type == PU_F32)
    _mm512_mask_storeu_ps(p, k, a);
  else
    _mm256_mask_storeu_epi16(p, k, v_round_bf16(a));
}

/* Sixteen words of 32 bits. */
typedef __m512i w16;

static inline w16 w_bits(v16 a) {
  return _mm512_castps_si512(a);
}
static inline w16 w_from(uint32_t first) { /* first, first + 1, … */
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_add_epi32(_mm512_set1_epi32((int)first), lane);
}
static inline w16 w_plus(w16 a, uint32_t x) {
  return _mm512_add_epi32(a, _mm512_set1_epi32((int)x));
}
static inline w16 w_times(w16 a, uint32_t x) {
  return _mm512_mullo_epi32(a, _mm512_set1_epi32((int)x));
}
static inline w16 w_upper(w16 a) { /* the upper halves, as numbers */
  return _mm512_srli_epi32(a, 16);
}
static inline w16 w_mix(w16 x) { /* pu_mix32 */
  x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 16)), _mm512_set1_epi32(0x7feb352d));
  x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 15)), _mm512_set1_epi32((int)0x846ca68b));
  return _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
}
/* The upper halves are a rounded to bf16 with these lower halves of random bits; NaN stays. */
static inline w16 w_dither(v16 a, w16 random) {
  __m512i u = _mm512_castps_si512(a), low = _mm512_and_si512(random, _mm512_set1_epi32(0xffff));
  return _mm512_mask_add_epi32(u, _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), u, low);
}
/* pu_split_f32 and back: both parts lie in upper halves. */
static inline void v_split(v16 a, w16 *high, w16 *low) {
  __m512i u = _mm512_castps_si512(a);
  __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  *high = _mm512_add_epi32(u, _mm512_set1_epi32(0x8000));
  *high = _mm512_mask_or_epi32(*high, nan, u, _mm512_set1_epi32(0x400000));
  *low = _mm512_mask_set1_epi32(_mm512_slli_epi32(u, 16), nan, 0);
}
static inline v16 v_join(v16 high, v16 low) {
  return _mm512_castsi512_ps(_mm512_add_epi32(w_bits(high), _mm512_srai_epi32(w_bits(low), 16)));
}
/* The upper halves of n of them (more than 16: of all). */
static inline void w_store_upper(void *p, w16 a, int n) {
  __mmask16 k = n >= 16 ? 0xffff : (__mmask16)((1u << (n > 0 ? n : 0)) - 1);
  _mm256_mask_storeu_epi16(p, k, _mm512_cvtepi32_epi16(_mm512_srli_epi32(a, 16)));
}

/* 16 x 16, in place: pairs of lanes, pairs of pairs, then whole 128-bit quarters. */
static inline void v_transpose(v16 r[16]) {
  v16 t[16], u[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; j++) {
      __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
      u[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      u[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  }
  /* u[4g + c]: in quarter q, column 4q + c of rows 4g .. 4g + 3. */
  for (int c = 0; c < 4; c++) {
    v16 a = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x88), b = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x88);
    v16 d = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xdd), e = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xdd);
    r[c] = _mm512_shuffle_f32x4(a, b, 0x88);
    r[c + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
    r[c + 4] = _mm512_shuffle_f32x4(d, e, 0x88);
    r[c + 12] = _mm512_shuffle_f32x4(d, e, 0xdd);
  }
}

#endif
