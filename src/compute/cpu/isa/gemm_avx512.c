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

/* ---- decode: tiles of weights as they stream by ----
 * A tile's row is one register: 16 columns of f32, or 32 of bf16, of one output feature. Tiles come in runs that fit
 * L1; over a run, F features times R rows of x are summed at a time, in F R = 16 registers, and between runs the sums
 * (16 lanes each) lie in memory: so the weights pass once, in order, whatever the number of rows. */

enum { STREAM_ROWS = PU_STREAM_ROWS_AVX512, RUN = 16, LANES = 16 };

#define STREAM(name, F, R, bf16)                                                                                       \
  static void name(const char *w, int64_t tiles, const char *x, int64_t x_row, float *sums, int ld) {                  \
    __m512 sum[F][R];                                                                                                  \
    _Pragma("GCC unroll 16") for (int f = 0; f < F; f++) _Pragma("GCC unroll 8") for (int r = 0; r < R; r++)           \
        sum[f][r] = _mm512_loadu_ps(sums + (f * ld + r) * LANES);                                                      \
    for (int64_t t = 0; t < tiles; t++, w += PU_TILE_BYTES, x += PU_TILE_ROW_BYTES) {                                  \
      __m512i v[R];                                                                                                    \
      _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) v[r] = _mm512_loadu_si512(x + r * x_row);                    \
      _Pragma("GCC unroll 16") for (int f = 0; f < F; f++) {                                                           \
        const char *row = w + f * PU_TILE_ROW_BYTES;                                                                   \
        _mm_prefetch(row + RUN * PU_TILE_BYTES, _MM_HINT_T0);                                                          \
        __m512i wf = _mm512_loadu_si512(row);                                                                          \
        _Pragma("GCC unroll 8") for (int r = 0; r < R; r++) sum[f][r] =                                                \
            bf16 ? _mm512_dpbf16_ps(sum[f][r], (__m512bh)wf, (__m512bh)v[r])                                           \
                 : _mm512_fmadd_ps(_mm512_castsi512_ps(wf), _mm512_castsi512_ps(v[r]), sum[f][r]);                     \
      }                                                                                                                \
    }                                                                                                                  \
    _Pragma("GCC unroll 16") for (int f = 0; f < F; f++) _Pragma("GCC unroll 8") for (int r = 0; r < R; r++)           \
        _mm512_storeu_ps(sums + (f * ld + r) * LANES, sum[f][r]);                                                      \
  }
STREAM(stream_f32_1, 16, 1, 0)
STREAM(stream_f32_2, 8, 2, 0)
STREAM(stream_f32_4, 4, 4, 0)
STREAM(stream_bf16_1, 16, 1, 1)
STREAM(stream_bf16_2, 8, 2, 1)
STREAM(stream_bf16_4, 4, 4, 1)

typedef void (*stream_part)(const char *w, int64_t tiles, const char *x, int64_t x_row, float *sums, int ld);

/* All rows of x over one run of tiles. parts: for 1, 2 and 4 rows. */
static void stream_run(const stream_part parts[3], const char *w, int64_t tiles, const char *x, int64_t x_row, int rows,
                       float *sums) {
  for (int r = 0; r < rows;) {
    int log = rows - r >= 4 ? 2 : rows - r >= 2 ? 1 : 0;
    for (int f = 0; f < PU_TILE_ROWS; f += PU_TILE_ROWS >> log)
      parts[log](w + f * PU_TILE_ROW_BYTES, tiles, x + r * x_row, x_row, sums + (f * rows + r) * LANES, rows);
    r += 1 << log;
  }
}

static void stream(const stream_part parts[3], const char *w, int64_t k_tiles, const char *x, int rows, float *out,
                   int ld) {
  _Alignas(64) float sums[PU_TILE_ROWS * STREAM_ROWS * LANES];
  memset(sums, 0, (size_t)(PU_TILE_ROWS * rows * LANES) * sizeof(float));
  for (int64_t t = 0; t < k_tiles; t += RUN)
    stream_run(parts, w + t * PU_TILE_BYTES, PU_MIN(k_tiles - t, RUN), x + t * PU_TILE_ROW_BYTES,
               pu_stream_row_bytes(k_tiles), rows, sums);
  for (int f = 0; f < PU_TILE_ROWS; f++)
    for (int r = 0; r < rows; r++)
      out[f * ld + r] = _mm512_reduce_add_ps(_mm512_load_ps(sums + (f * rows + r) * LANES));
}

static void stream_f32(const void *w, int64_t k_tiles, const void *x, int rows, float *out, int ld) {
  static const stream_part parts[3] = {stream_f32_1, stream_f32_2, stream_f32_4};
  stream(parts, w, k_tiles, x, rows, out, ld);
}

void pu_stream_bf16_avx512(const void *w, int64_t k_tiles, const void *x, int rows, float *out, int ld) {
  static const stream_part parts[3] = {stream_bf16_1, stream_bf16_2, stream_bf16_4};
  stream(parts, w, k_tiles, x, rows, out, ld);
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
                                       .micro = micro,
                                       .store = pu_gemm_store_avx512,
                                       .stream_rows = STREAM_ROWS,
                                       .stream_pack = pu_stream_pack_rows,
                                       .stream = stream_f32,
                                       .stream_store = pu_gemm_store_avx512};
