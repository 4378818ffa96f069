/* Matrix product in bf16 with AVX-512's VDPBF16PS: an instruction adds two products of neighbouring k to each of 16
 * sums, so operands are packed as pairs of k, [k / 2][width] units of 32 bits, half of what they would take as f32. The
 * micro tile is that of f32, 12 x 32. Products are exact; sums are rounded to nearest, denormal ones to zero. */
#include "src/compute/cpu/isa/gemm_avx512.h"

#include <string.h>

enum { MR = 12, NR = 32, KC = 768, PAIR_BYTES = 4, LINE = 64 };

static void micro(const pu_panel_a *a_panel, const void *b_panel, int64_t k, float *acc, bool add,
                  const pu_fetch *fetch) {
  const int32_t *a = a_panel->data;
  const char *b = b_panel;
  const int64_t pairs = k / 2;
  __m512 c[MR][2];
#pragma GCC unroll 12
  for (int i = 0; i < MR; i++) c[i][0] = c[i][1] = _mm512_setzero_ps();
  for (int64_t step = 0, done = 0; step < PU_FETCH_STEPS; step++) {
    pu_fetch_step(fetch, step);
    for (int64_t end = pairs * (step + 1) / PU_FETCH_STEPS; done < end; done++, a += MR, b += 2 * LINE) {
      __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + LINE);
      _mm_prefetch(b + 16 * LINE, _MM_HINT_T0);
      _mm_prefetch(b + 17 * LINE, _MM_HINT_T0);
#pragma GCC unroll 12
      for (int i = 0; i < MR; i++) {
        __m512bh ai = (__m512bh)_mm512_set1_epi32(a[i]);
        c[i][0] = _mm512_dpbf16_ps(c[i][0], ai, b0);
        c[i][1] = _mm512_dpbf16_ps(c[i][1], ai, b1);
      }
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < MR; i++)
    for (int h = 0; h < 2; h++) {
      float *sum = acc + i * NR + h * 16;
      _mm512_storeu_ps(sum, add ? _mm512_add_ps(_mm512_loadu_ps(sum), c[i][h]) : c[i][h]);
    }
}

/* ---- packing: [k / 2][width] pairs ---- */

static const char *row_of(const pu_panel *p, int64_t r) {
  return (const char *)p->data + r * p->r_step * 2;
}

/* 16 rows' pairs from byte `at` of k on, transposed: line i holds pair i of the rows. */
static inline void load_square(const pu_panel *p, int r, int64_t at, __m512i square[16]) {
  const int64_t step = p->r_step * 2, have = PU_MIN(p->k * 2 - at, LINE);
  const int rows = PU_MIN(p->rows - r, 16);
  if (have == LINE && rows == 16) {
    pu_load_transposed(row_of(p, r) + at, step, 16, square);
  } else if (have == LINE && rows == 12) {
    pu_load_transposed(row_of(p, r) + at, step, 12, square);
  } else {
    __mmask32 some = have == LINE ? ~0u : (1u << have / 2) - 1;
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
      square[i] = i < rows ? _mm512_maskz_loadu_epi16(some, row_of(p, r + i) + at) : _mm512_setzero_si512();
    pu_transpose16(square);
  }
}

/* k lies next to k: squares of 16 rows and 16 pairs are transposed. */
static void pack_k_adjacent(int32_t *dst, const pu_panel *p) {
  const int64_t pairs = (p->k + 1) / 2;
  for (int r = 0; r < p->lanes; r += 16) {
    __mmask16 fill = pu_mask16(p->lanes - r);
    for (int64_t k = 0; k < pairs; k += 16) {
      __m512i square[16];
      load_square(p, r, k * PAIR_BYTES, square);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++)
        if (k + i < pairs) _mm512_mask_storeu_epi32(dst + (k + i) * p->width + r, fill, square[i]);
    }
  }
}

/* Rows lie next to rows: a pair comes from two lines. */
static void pack_rows_adjacent(int32_t *dst, const pu_panel *p) {
  for (int r = 0; r < p->lanes; r += 16) {
    __mmask16 have = pu_mask16(p->rows - r), fill = pu_mask16(p->lanes - r);
    const uint16_t *row = (const uint16_t *)p->data + r;
    for (int64_t k = 0; k < p->k; k += 2, row += 2 * p->k_step) {
      __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(have, row));
      __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(k + 1 < p->k ? have : 0, row + p->k_step));
      _mm512_mask_storeu_epi32(dst + k / 2 * p->width + r, fill, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
    }
  }
}

static void pack(void *dst, const pu_panel *p) {
  if (p->k_step == 1)
    pack_k_adjacent(dst, p);
  else
    pack_rows_adjacent(dst, p);
}

/* ---- turned tiles of weights ---- */

static void pack_tiles(void *dst, const void *tiles, int64_t k) {
  pu_pack_tiles_avx512(dst, tiles, (k + 1) / 2);
}

#define STREAM(R)                                                                                                      \
  static void stream_##R(const char *w, int64_t lines, const char *x, float *sums, bool add) {                         \
    pu_stream_avx512(w, lines, x, R, sums, add, true);                                                                 \
  }
STREAM(1)
STREAM(2)
STREAM(3)
STREAM(4)
STREAM(5)
STREAM(6)
STREAM(7)
STREAM(8)

static const pu_stream_form form = {
    .most = PU_STREAM_GROUP,
    .step = PAIR_BYTES,
    .run_tiles = KC / 32,
    .pack = pack,
    .part = {stream_1, stream_2, stream_3, stream_4, stream_5, stream_6, stream_7, stream_8}};

static void stream_pack(void *dst, const pu_panel *x, int64_t k_tiles) {
  pu_stream_pack_groups(&form, dst, x, k_tiles);
}

static void stream(const void *w, int64_t k_tiles, const void *x, int rows, float *out, int ld) {
  (void)ld;
  pu_stream_groups(&form, w, k_tiles, x, rows, out);
}

const pu_gemm_kernel pu_gemm_avx512_bf16 = {.mr = MR,
                                            .nr = NR,
                                            .kc = KC,
                                            .depth = KC,
                                            .most_sums = 1 << 18,
                                            .edge = 24,
                                            .k_unit = 2,
                                            .bytes = 2,
                                            .pack_a = pack,
                                            .pack_b = pack,
                                            .pack_tiles = pack_tiles,
                                            .micro = micro,
                                            .store = pu_gemm_store_avx512,
                                            .stream_rows = PU_STREAM_ROWS_AVX512,
                                            .stream_pack = stream_pack,
                                            .stream = stream,
                                            .stream_store = pu_gemm_store_avx512};
