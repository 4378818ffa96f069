/* Matrix product in f32 with AVX-512. Micro tile 12 x 32: 24 registers of sums, two of B, one of A broadcast.
 * A step of k reads 12 floats of A (from L1: a panel of 12 x 384 is 18 KiB) and two lines of B (from L2), and does 24
 * fused multiply-adds in at least 12 cycles. */
#include "src/compute/cpu/isa/gemm_avx512.h"

#include <string.h>

enum { MR = 12, NR = 32, KC = 384 };

static void micro(const pu_panel_a *a_panel, const void *b_panel, int64_t k, float *acc, bool add,
                  const pu_fetch *fetch) {
  const float *a = a_panel->data, *b = b_panel;
  __m512 c[MR][2];
#pragma GCC unroll 12
  for (int i = 0; i < MR; i++) c[i][0] = c[i][1] = _mm512_setzero_ps();
  for (int64_t step = 0, done = 0; step < PU_FETCH_STEPS; step++) {
    pu_fetch_step(fetch, step);
    for (int64_t end = k * (step + 1) / PU_FETCH_STEPS; done < end; done++, a += MR, b += NR) {
      __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
      _mm_prefetch((const char *)(b + 8 * NR), _MM_HINT_T0);
      _mm_prefetch((const char *)(b + 8 * NR + 16), _MM_HINT_T0);
#pragma GCC unroll 12
      for (int i = 0; i < MR; i++) {
        __m512 ai = _mm512_set1_ps(a[i]);
        c[i][0] = _mm512_fmadd_ps(ai, b0, c[i][0]);
        c[i][1] = _mm512_fmadd_ps(ai, b1, c[i][1]);
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

/* ---- packing: [k][width] of f32 ---- */

/* Rows lie next to each other: each k is a line to copy. */
static void pack_rows_adjacent(float *dst, const pu_panel *p) {
  for (int r = 0; r < p->lanes; r += 16) {
    __mmask16 have = pu_mask16(p->rows - r), fill = pu_mask16(p->lanes - r);
    for (int64_t k = 0; k < p->k; k++)
      _mm512_mask_storeu_ps(dst + k * p->width + r, fill, pu_load16(p->data, k * p->k_step + r, p->type, have));
  }
}

/* A square of 16 rows and 16 k, transposed: in the general case. */
static void load_square(const pu_panel *p, int r, int64_t k, __m512i square[16]) {
  __mmask16 have = pu_mask16(p->k - k);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++)
    square[i] = r + i < p->rows ? _mm512_castps_si512(pu_load16(p->data, (r + i) * p->r_step + k, p->type, have))
                                : _mm512_setzero_si512();
  pu_transpose16(square);
}

/* k lies next to k: squares of 16 x 16 are transposed. */
static void pack_k_adjacent(float *dst, const pu_panel *p) {
  for (int r = 0; r < p->lanes; r += 16) {
    __mmask16 fill = pu_mask16(p->lanes - r);
    int rows = PU_MIN(p->rows - r, 16);
    for (int64_t k = 0; k < p->k; k += 16) {
      __m512i square[16];
      int64_t n = PU_MIN(p->k - k, 16);
      const char *line = (const char *)p->data + (r * p->r_step + k) * 4;
      if (rows == 16 && n == 16 && p->type == PU_F32)
        pu_load_transposed(line, p->r_step * 4, 16, square);
      else if (rows == 12 && n == 16 && p->type == PU_F32)
        pu_load_transposed(line, p->r_step * 4, 12, square);
      else
        load_square(p, r, k, square);
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++)
        if (i < n) _mm512_mask_storeu_epi32(dst + (k + i) * p->width + r, fill, square[i]);
    }
  }
}

static void pack(void *dst, const pu_panel *p) {
  if (p->k_step == 1)
    pack_k_adjacent(dst, p);
  else
    pack_rows_adjacent(dst, p);
}

/* ---- into C ---- */

/* One column of 16, in the general case. */
static void store_column(const pu_gemm_tile *t, int j) {
  __m512 alpha = _mm512_set1_ps(t->alpha), beta = _mm512_set1_ps(t->beta);
  __mmask16 m = pu_mask16(t->cols - j);
  __m512 bias = t->bias ? pu_load16(t->bias, j, t->bias_type, m) : _mm512_setzero_ps();
  for (int i = 0; i < t->rows; i++) {
    __m512 v = _mm512_fmadd_ps(alpha, _mm512_loadu_ps(t->acc + i * t->ld + j), bias);
    int64_t place = i * t->c_row + j;
    if (t->beta != 0.0f) v = _mm512_fmadd_ps(beta, pu_load16(t->c, place, t->type, m), v);
    pu_store16(t->c, place, t->type, m, v);
  }
}

/* One whole column of 16 that is only to be copied: what most products of a model are. */
static void copy_column(const pu_gemm_tile *t, int j) {
  const float *from = t->acc + j;
  if (t->type == PU_F32) {
    float *to = (float *)t->c + j;
    for (int i = 0; i < t->rows; i++, from += t->ld, to += t->c_row) _mm512_storeu_ps(to, _mm512_loadu_ps(from));
  } else {
    uint16_t *to = (uint16_t *)t->c + j;
    for (int i = 0; i < t->rows; i++, from += t->ld, to += t->c_row)
      _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from)));
  }
}

static void store_plain(const pu_gemm_tile *t) {
  bool copy = t->alpha == 1.0f && t->beta == 0.0f && !t->bias;
  for (int j = 0; j < t->cols; j += 16)
    if (copy && t->cols - j >= 16)
      copy_column(t, j);
    else
      store_column(t, j);
}

/* Squares of 16 x 16 are transposed on the stack, and stored as if they had come so. */
static void store_transposed(const pu_gemm_tile *t) {
  float turned[16 * 16];
  for (int i = 0; i < t->rows; i += 16)
    for (int j = 0; j < t->cols; j += 16) {
      int rows = PU_MIN(t->rows - i, 16), cols = PU_MIN(t->cols - j, 16);
      __mmask16 have = pu_mask16(cols);
      __m512i square[16];
#pragma GCC unroll 16
      for (int r = 0; r < 16; r++)
        square[r] = r < rows ? _mm512_maskz_loadu_epi32(have, t->acc + (i + r) * t->ld + j) : _mm512_setzero_si512();
      pu_transpose16(square);
#pragma GCC unroll 16
      for (int r = 0; r < 16; r++) _mm512_storeu_si512(turned + r * 16, square[r]);
      size_t size = t->type == PU_F32 ? 4 : 2, bias_size = t->bias_type == PU_F32 ? 4 : 2;
      pu_gemm_tile part = *t;
      part.acc = turned, part.ld = 16, part.rows = cols, part.cols = rows;
      part.c = (char *)t->c + (size_t)(j * t->c_row + i) * size;
      if (t->bias) part.bias = (const char *)t->bias + (size_t)i * bias_size;
      store_plain(&part);
    }
}

void pu_gemm_store_avx512(const pu_gemm_tile *t) {
  if (t->transposed)
    store_transposed(t);
  else
    store_plain(t);
}

/* ---- turned tiles of weights ---- */

void pu_pack_tiles_avx512(void *dst, const void *tiles, int64_t lines) {
  float *to = dst;
  for (int64_t i = 0; i < lines; i++, to += NR)
    _mm512_storeu_ps(to, tiles ? _mm512_loadu_ps((const float *)tiles + i * PU_TILE_ROWS) : _mm512_setzero_ps());
}

static void pack_tiles(void *dst, const void *tiles, int64_t k) {
  pu_pack_tiles_avx512(dst, tiles, k);
}

#define STREAM(R)                                                                                                      \
  static void stream_##R(const char *w, int64_t lines, const char *x, float *sums, bool add) {                         \
    pu_stream_avx512(w, lines, x, R, sums, add, false);                                                                \
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
    .step = 4,
    .run_tiles = KC / 16,
    .pack = pack,
    .part = {stream_1, stream_2, stream_3, stream_4, stream_5, stream_6, stream_7, stream_8}};

static void stream_pack(void *dst, const pu_panel *x, int64_t k_tiles) {
  pu_stream_pack_groups(&form, dst, x, k_tiles);
}

static void stream(const void *w, int64_t k_tiles, const void *x, int rows, float *out, int ld) {
  (void)ld;
  pu_stream_groups(&form, w, k_tiles, x, rows, out);
}

const pu_gemm_kernel pu_gemm_avx512 = {.mr = MR,
                                       .nr = NR,
                                       .kc = KC,
                                       .depth = KC,
                                       .most_sums = 1 << 18,
                                       .edge = 16,
                                       .k_unit = 1,
                                       .bytes = 4,
                                       .pack_a = pack,
                                       .pack_b = pack,
                                       .pack_tiles = pack_tiles,
                                       .micro = micro,
                                       .store = pu_gemm_store_avx512,
                                       .stream_rows = PU_STREAM_ROWS_AVX512,
                                       .stream_pack = stream_pack,
                                       .stream = stream,
                                       .stream_store = pu_gemm_store_avx512};
