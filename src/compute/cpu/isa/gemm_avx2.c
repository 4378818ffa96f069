/* Matrix product in f32 with AVX2 and FMA. Micro tile 6 x 16: twelve registers of sums, two of B, one of A broadcast.
 * bf16 operands become f32 while they are packed. Packing and the way into C are plain C, left to the compiler. */
#include "src/compute/cpu/gemm_plain.h"

#include <immintrin.h>

enum { MR = 6, NR = 16, KC = 256 };

static void micro(const pu_panel_a *a_panel, const void *b_panel, int64_t k, float *acc, bool add,
                  const pu_fetch *fetch) {
  const float *a = a_panel->data, *b = b_panel;
  __m256 c[MR][2];
#pragma GCC unroll 6
  for (int i = 0; i < MR; i++) c[i][0] = c[i][1] = _mm256_setzero_ps();
  for (int64_t step = 0, done = 0; step < PU_FETCH_STEPS; step++) {
    pu_fetch_step(fetch, step);
    for (int64_t end = k * (step + 1) / PU_FETCH_STEPS; done < end; done++, a += MR, b += NR) {
      __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
      _mm_prefetch((const char *)(b + 8 * NR), _MM_HINT_T0);
#pragma GCC unroll 6
      for (int i = 0; i < MR; i++) {
        __m256 ai = _mm256_broadcast_ss(a + i);
        c[i][0] = _mm256_fmadd_ps(ai, b0, c[i][0]);
        c[i][1] = _mm256_fmadd_ps(ai, b1, c[i][1]);
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < MR; i++)
    for (int h = 0; h < 2; h++) {
      float *sum = acc + i * NR + h * 8;
      _mm256_storeu_ps(sum, add ? _mm256_add_ps(_mm256_loadu_ps(sum), c[i][h]) : c[i][h]);
    }
}

static inline float element(const void *data, int64_t i, pu_dtype type) {
  return pu_load_float(data, i, type);
}

/* [k][width], k next to k or rows next to rows. */
static inline void pack_typed(float *dst, const pu_panel *p, pu_dtype type) {
  if (p->k_step == 1) {
    for (int r = 0; r < p->rows; r++)
      for (int64_t k = 0; k < p->k; k++) dst[k * p->width + r] = element(p->data, r * p->r_step + k, type);
  } else {
    for (int64_t k = 0; k < p->k; k++)
      for (int r = 0; r < p->rows; r++) dst[k * p->width + r] = element(p->data, k * p->k_step + r, type);
  }
  for (int64_t k = 0; p->rows < p->lanes && k < p->k; k++)
    for (int r = p->rows; r < p->lanes; r++) dst[k * p->width + r] = 0.0f;
}

static void pack(void *dst, const pu_panel *p) {
  if (p->type == PU_F32)
    pack_typed(dst, p, PU_F32);
  else
    pack_typed(dst, p, PU_BF16);
}

static void store(const pu_gemm_tile *t) {
  for (int i = 0; i < t->rows; i++) pu_gemm_store_row(t, i);
}

/* ---- decode: a tile's row is 16 columns of f32 in two registers, or 32 of bf16 in one pair of them ---- */

enum { STREAM_ROWS = 8, FEATURES = 4 };

static inline float sum8(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* A bf16 is the upper half of an f32: odd elements by a mask, even ones by a shift. */
static inline __m256 odd_bf16(__m256i v) {
  return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)));
}
static inline __m256 even_bf16(__m256i v) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

/* FEATURES rows of the tiles, one row of x. */
static inline void stream_part(const char *w, int64_t k_tiles, const char *x, float *out, int ld, bool bf16) {
  __m256 sum[FEATURES][2];
#pragma GCC unroll 4
  for (int f = 0; f < FEATURES; f++) sum[f][0] = sum[f][1] = _mm256_setzero_ps();
  for (int64_t t = 0; t < k_tiles; t++, w += PU_TILE_BYTES, x += PU_TILE_ROW_BYTES)
#pragma GCC unroll 2
    for (int half = 0; half < 64; half += 32) {
      __m256i v = _mm256_loadu_si256((const __m256i *)(x + half));
#pragma GCC unroll 4
      for (int f = 0; f < FEATURES; f++) {
        const char *row = w + f * PU_TILE_ROW_BYTES + half;
        if (!half) _mm_prefetch(row + 8 * PU_TILE_BYTES, _MM_HINT_T0);
        __m256i wf = _mm256_loadu_si256((const __m256i *)row);
        if (bf16) {
          sum[f][0] = _mm256_fmadd_ps(even_bf16(wf), even_bf16(v), sum[f][0]);
          sum[f][1] = _mm256_fmadd_ps(odd_bf16(wf), odd_bf16(v), sum[f][1]);
        } else {
          sum[f][half / 32] = _mm256_fmadd_ps(_mm256_castsi256_ps(wf), _mm256_castsi256_ps(v), sum[f][half / 32]);
        }
      }
    }
  for (int f = 0; f < FEATURES; f++) out[f * ld] = sum8(_mm256_add_ps(sum[f][0], sum[f][1]));
}

static inline void stream(const char *w, int64_t k_tiles, const char *x, int rows, float *out, int ld, bool bf16) {
  for (int f = 0; f < PU_TILE_ROWS; f += FEATURES)
    for (int r = 0; r < rows; r++)
      stream_part(w + f * PU_TILE_ROW_BYTES, k_tiles, x + r * pu_stream_row_bytes(k_tiles), out + f * ld + r, ld, bf16);
}

static void stream_f32(const void *w, int64_t k_tiles, const void *x, int rows, float *out, int ld) {
  stream(w, k_tiles, x, rows, out, ld, false);
}

static void stream_bf16(const void *w, int64_t k_tiles, const void *x, int rows, float *out, int ld) {
  stream(w, k_tiles, x, rows, out, ld, true);
}

const pu_gemm_kernel pu_gemm_avx2 = {.mr = MR,
                                     .nr = NR,
                                     .kc = KC,
                                     .depth = KC,
                                     .most_sums = 1 << 18,
                                     .edge = 8,
                                     .k_unit = 1,
                                     .bytes = 4,
                                     .pack_a = pack,
                                     .pack_b = pack,
                                     .micro = micro,
                                     .store = store,
                                     .stream_rows = STREAM_ROWS,
                                     .stream_pack = pu_stream_pack_rows,
                                     .stream = stream_f32,
                                     .stream_store = store};

const pu_gemm_kernel pu_gemm_avx2_bf16 = {.mr = MR,
                                          .nr = NR,
                                          .kc = KC,
                                          .depth = KC,
                                          .most_sums = 1 << 18,
                                          .edge = 8,
                                          .k_unit = 1,
                                          .bytes = 4,
                                          .pack_a = pack,
                                          .pack_b = pack,
                                          .micro = micro,
                                          .store = store,
                                          .stream_rows = STREAM_ROWS,
                                          .stream_pack = pu_stream_pack_rows,
                                          .stream = stream_bf16,
                                          .stream_store = store};
