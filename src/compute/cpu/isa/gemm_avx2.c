/* Matrix product in f32 with AVX2 and FMA. Micro tile 6 x 16: twelve registers of sums, two of B, one of A broadcast.
 * bf16 operands become f32 while they are packed. Packing and the way into C are plain C, left to the compiler. */
#include "src/compute/cpu/gemm_plain.h"

#include <immintrin.h>

enum { MR = 6, NR = 16, KC = 256 };

/* Written out where an unrolled loop would do as well: with indices that are constants from the start, sums stay in
 * registers under sanitizers too, which otherwise look up each use of one before the loop is unrolled. */
#define EACH_ROW(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)

static inline __attribute__((always_inline)) void store_sums(float *sum, __m256 c0, __m256 c1, bool add) {
  _mm256_storeu_ps(sum, add ? _mm256_add_ps(_mm256_loadu_ps(sum), c0) : c0);
  _mm256_storeu_ps(sum + 8, add ? _mm256_add_ps(_mm256_loadu_ps(sum + 8), c1) : c1);
}

static void micro(const pu_panel_a *a_panel, const void *b_panel, int64_t k, float *acc, bool add,
                  const pu_fetch *fetch) {
  const float *a = a_panel->data, *b = b_panel;
  __m256 c[MR][2];
#define ZERO(I)  c[I][0] = c[I][1] = _mm256_setzero_ps();
#define STORE(I) store_sums(acc + (I)*NR, c[I][0], c[I][1], add);
#define MULTIPLY(I)                                                                                                    \
  {                                                                                                                    \
    __m256 ai = _mm256_broadcast_ss(a + (I));                                                                          \
    c[I][0] = _mm256_fmadd_ps(ai, b0, c[I][0]);                                                                        \
    c[I][1] = _mm256_fmadd_ps(ai, b1, c[I][1]);                                                                        \
  }
  EACH_ROW(ZERO)
  for (int64_t step = 0, done = 0; step < PU_FETCH_STEPS; step++) {
    pu_fetch_step(fetch, step);
    for (int64_t end = k * (step + 1) / PU_FETCH_STEPS; done < end; done++, a += MR, b += NR) {
      __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
      _mm_prefetch((const char *)(b + 8 * NR), _MM_HINT_T0);
      EACH_ROW(MULTIPLY)
    }
  }
  EACH_ROW(STORE)
#undef ZERO
#undef STORE
#undef MULTIPLY
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

/* ---- turned tiles of weights: a line is two registers of eight outputs, of one k in f32, of two in bf16 ---- */

enum { STREAM_ROWS = 8 };

/* A bf16 is the upper half of an f32: the odd one of a pair by a mask, the even one by a shift. */
static inline __attribute__((always_inline)) __m256 half_of(const char *pairs, bool odd) {
  __m256i v = _mm256_loadu_si256((const __m256i *)(const void *)pairs);
  v = odd ? _mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000)) : _mm256_slli_epi32(v, 16);
  return _mm256_castsi256_ps(v);
}

static void pack_tiles(void *dst, const void *tiles, int64_t k) {
  if (tiles)
    memcpy(dst, tiles, (size_t)(k * NR) * sizeof(float));
  else
    memset(dst, 0, (size_t)(k * NR) * sizeof(float));
}

static void pack_tiles_bf16(void *dst, const void *tiles, int64_t k) {
  if (!tiles) {
    pack_tiles(dst, NULL, k);
    return;
  }
  float *to = dst;
  for (int64_t i = 0; i < k; i++, to += NR) {
    const char *line = (const char *)tiles + i / 2 * PU_TILE_ROW_BYTES;
    _mm256_storeu_ps(to, half_of(line, i % 2));
    _mm256_storeu_ps(to + 8, half_of(line + 32, i % 2));
  }
}

/* Sums of row R of the group, where it has one. */
#define ZERO(R)                                                                                                        \
  if ((R) < rows) c[R][0] = c[R][1] = _mm256_setzero_ps();
#define STORE(R)                                                                                                       \
  if ((R) < rows) store_sums(sums + (R)*NR, c[R][0], c[R][1], add);
#define MULTIPLY(R)                                                                                                    \
  if ((R) < rows) {                                                                                                    \
    __m256 xr = _mm256_broadcast_ss(x + (R));                                                                          \
    c[R][0] = _mm256_fmadd_ps(xr, w0, c[R][0]);                                                                        \
    c[R][1] = _mm256_fmadd_ps(xr, w1, c[R][1]);                                                                        \
  }

static inline __attribute__((always_inline)) void stream_part(const char *w, int64_t lines, const float *x,
                                                              const int rows, float *sums, bool add, const bool bf16) {
  __m256 c[MR][2], w0, w1;
  EACH_ROW(ZERO)
  for (int64_t i = 0; i < lines; i++, w += PU_TILE_ROW_BYTES) {
    _mm_prefetch(w + 8 * PU_TILE_BYTES, _MM_HINT_T0);
    if (bf16) {
      w0 = half_of(w, false), w1 = half_of(w + 32, false);
      EACH_ROW(MULTIPLY)
      x += rows;
      w0 = half_of(w, true), w1 = half_of(w + 32, true);
    } else {
      const float *line = (const float *)(const void *)w;
      w0 = _mm256_loadu_ps(line), w1 = _mm256_loadu_ps(line + 8);
    }
    EACH_ROW(MULTIPLY)
    x += rows;
  }
  EACH_ROW(STORE)
}

#define STREAM(R)                                                                                                      \
  static void stream_f32_##R(const char *w, int64_t lines, const char *x, float *sums, bool add) {                     \
    stream_part(w, lines, (const float *)(const void *)x, R, sums, add, false);                                        \
  }                                                                                                                    \
  static void stream_bf16_##R(const char *w, int64_t lines, const char *x, float *sums, bool add) {                    \
    stream_part(w, lines, (const float *)(const void *)x, R, sums, add, true);                                         \
  }
STREAM(1)
STREAM(2)
STREAM(3)
STREAM(4)
STREAM(5)
STREAM(6)

static const pu_stream_form form_f32 = {
    .most = MR,
    .step = 4,
    .run_tiles = KC / 16,
    .pack = pack,
    .part = {stream_f32_1, stream_f32_2, stream_f32_3, stream_f32_4, stream_f32_5, stream_f32_6}};
static const pu_stream_form form_bf16 = {
    .most = MR,
    .step = 8,
    .run_tiles = KC / 32,
    .pack = pack,
    .part = {stream_bf16_1, stream_bf16_2, stream_bf16_3, stream_bf16_4, stream_bf16_5, stream_bf16_6}};

static void stream_pack_f32(void *dst, const pu_panel *x, int64_t k_tiles) {
  pu_stream_pack_groups(&form_f32, dst, x, k_tiles);
}

static void stream_pack_bf16(void *dst, const pu_panel *x, int64_t k_tiles) {
  pu_stream_pack_groups(&form_bf16, dst, x, k_tiles);
}

static void stream_f32(const void *w, int64_t k_tiles, const void *x, int rows, float *out, int ld) {
  (void)ld;
  pu_stream_groups(&form_f32, w, k_tiles, x, rows, out);
}

static void stream_bf16(const void *w, int64_t k_tiles, const void *x, int rows, float *out, int ld) {
  (void)ld;
  pu_stream_groups(&form_bf16, w, k_tiles, x, rows, out);
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
                                     .pack_tiles = pack_tiles,
                                     .micro = micro,
                                     .store = store,
                                     .stream_rows = STREAM_ROWS,
                                     .stream_pack = stream_pack_f32,
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
                                          .pack_tiles = pack_tiles_bf16,
                                          .micro = micro,
                                          .store = store,
                                          .stream_rows = STREAM_ROWS,
                                          .stream_pack = stream_pack_bf16,
                                          .stream = stream_bf16,
                                          .stream_store = store};
