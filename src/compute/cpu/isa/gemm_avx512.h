/* Pieces that the AVX-512 and AMX products share. */
#ifndef PUYU_GEMM_AVX512_H
#define PUYU_GEMM_AVX512_H

#include "src/compute/cpu/gemm_kernel.h"

#include <immintrin.h>

static inline __mmask16 pu_mask16(int64_t n) {
  return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* Transposes 16 x 16 values of 32 bits: by pairs, by fours, then whole quarters of the registers. */
static inline __attribute__((always_inline)) void pu_transpose16(__m512i r[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) { /* r[4 i + c]: quarter q is column 4 q + c of rows 4 i .. 4 i + 3 */
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    __m512i a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88), b = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    __m512i d = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd), e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    t[c] = _mm512_shuffle_i32x4(a, b, 0x88);
    t[8 + c] = _mm512_shuffle_i32x4(a, b, 0xdd);
    t[4 + c] = _mm512_shuffle_i32x4(d, e, 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(d, e, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) r[i] = t[i];
}

/* The same for 16 (or 12: the rest is 0) whole lines of memory, `step` bytes apart: loads put quarters of four lines
 * side by side, which leaves half of the shuffles, and they are what limits packing. */
static inline __attribute__((always_inline)) void pu_load_transposed(const char *line, int64_t step, int lines,
                                                                     __m512i out[16]) {
#pragma GCC unroll 4
  for (int q = 0; q < 4; q++) {
    __m512i v[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* quarter q of lines i, 4 + i, 8 + i, 12 + i */
      const char *from = line + i * step + q * 16;
      v[i] = _mm512_zextsi128_si512(_mm_loadu_si128((const __m128i *)from));
      v[i] = _mm512_mask_broadcast_i32x4(v[i], 0x00f0, _mm_loadu_si128((const __m128i *)(from + 4 * step)));
      v[i] = _mm512_mask_broadcast_i32x4(v[i], 0x0f00, _mm_loadu_si128((const __m128i *)(from + 8 * step)));
      if (lines == 16)
        v[i] = _mm512_mask_broadcast_i32x4(v[i], 0xf000, _mm_loadu_si128((const __m128i *)(from + 12 * step)));
    }
    __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
    __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
    out[4 * q] = _mm512_unpacklo_epi64(a, c);
    out[4 * q + 1] = _mm512_unpackhi_epi64(a, c);
    out[4 * q + 2] = _mm512_unpacklo_epi64(b, d);
    out[4 * q + 3] = _mm512_unpackhi_epi64(b, d);
  }
}

/* 16 values as f32, those outside the mask 0. */
static inline __m512 pu_load16(const void *p, int64_t i, pu_dtype type, __mmask16 m) {
  if (type == PU_F32) return _mm512_maskz_loadu_ps(m, (const float *)p + i);
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, (const uint16_t *)p + i));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline void pu_store16(void *p, int64_t i, pu_dtype type, __mmask16 m, __m512 v) {
  if (type == PU_F32)
    _mm512_mask_storeu_ps((float *)p + i, m, v);
  else
    _mm256_mask_storeu_epi16((uint16_t *)p + i, m, (__m256i)_mm512_cvtneps_pbh(v));
}

void pu_gemm_store_avx512(const pu_gemm_tile *t);

/* Lines of turned weight tiles into a panel of B, 32 columns wide. */
void pu_pack_tiles_avx512(void *dst, const void *tiles, int64_t lines);

/* A pu_stream_part: a line of weights is one register, sixteen outputs. */
enum { PU_STREAM_ROWS_AVX512 = 32, PU_STREAM_AHEAD_AVX512 = 16 << 10 };
static inline __attribute__((always_inline)) void
pu_stream_avx512(const char *w, int64_t lines, const char *x, const int rows, float *sums, bool add, const bool bf16) {
  __m512 c[PU_STREAM_GROUP];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) c[r] = _mm512_setzero_ps();
  for (int64_t i = 0; i < lines; i++, w += 64, x += rows * 4) {
    __m512i line = _mm512_loadu_si512(w);
    _mm_prefetch(w + PU_STREAM_AHEAD_AVX512, _MM_HINT_T0);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
      if (bf16)
        c[r] =
            _mm512_dpbf16_ps(c[r], (__m512bh)_mm512_set1_epi32(((const int32_t *)(const void *)x)[r]), (__m512bh)line);
      else
        c[r] = _mm512_fmadd_ps(_mm512_set1_ps(((const float *)(const void *)x)[r]), _mm512_castsi512_ps(line), c[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++, sums += 16)
    _mm512_storeu_ps(sums, add ? _mm512_add_ps(_mm512_loadu_ps(sums), c[r]) : c[r]);
}

#endif
