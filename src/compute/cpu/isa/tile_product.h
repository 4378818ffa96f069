/* Products of packed tiles (see src/compute/cpu/attention.h) in vector registers. Include after a vec16 header, with
 * PU_TILE_BF16 saying what a tile holds; with PU_TILE_AMX the including file brings tile_multiply itself. */
#ifndef PUYU_TILE_PRODUCT_H
#define PUYU_TILE_PRODUCT_H

#include <string.h>

enum { TILE_BYTES = 1024, TILE_FLOATS = 256 };

/* C (+)= A B over m x n tiles of C and k tiles of the inner dimension; m and n are even. Steps are in tiles. */
typedef struct tile_product {
  const char *a, *b;
  float *c;
  int m, n, k;
  int a_m, a_k, b_n, b_k, c_m, c_n;
  bool add; /* else C is overwritten */
} tile_product;

#ifndef PU_TILE_AMX

/* acc + one 4-byte word of A's row (an f32, or two bf16) times a row of B. */
#if PU_TILE_BF16
typedef __m512bh tile_line;
static inline tile_line tile_load(const char *b) {
  return (__m512bh)_mm512_load_si512(b);
}
static inline v16 tile_step(v16 acc, const char *a, tile_line b) {
  int32_t word;
  memcpy(&word, a, 4);
  return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(word), b);
}
#else
typedef v16 tile_line;
static inline tile_line tile_load(const char *b) {
  return v_load((const float *)(const void *)b);
}
static inline v16 tile_step(v16 acc, const char *a, tile_line b) {
  float word;
  memcpy(&word, a, 4);
  return v_fma(v_set1(word), b, acc);
}
#endif

/* AVX-512: 8 rows of 2 tiles side by side, 16 accumulators; AVX2: 4 rows of one tile, 8 accumulators. They are written
 * out, not looped over: with indices that are constants from the start they stay in registers under sanitizers too. */
#ifdef __AVX512F__
enum { STEP_ROWS = 8, STEP_COLS = 2 };
#define EACH_ROW(DO, T) DO(0, T) DO(1, T) DO(2, T) DO(3, T) DO(4, T) DO(5, T) DO(6, T) DO(7, T)
#define EACH_SUM(DO)    EACH_ROW(DO, 0) EACH_ROW(DO, 1)
#else
enum { STEP_ROWS = 4, STEP_COLS = 1 };
#define EACH_SUM(DO) DO(0, 0) DO(1, 0) DO(2, 0) DO(3, 0)
#endif

static inline void tile_rows(const tile_product *p, int i, int j, int row) {
  v16 acc[STEP_ROWS][STEP_COLS];
  float *c = p->c + (int64_t)(i * p->c_m + j * p->c_n) * TILE_FLOATS + row * 16;
  const int64_t c_tile = (int64_t)p->c_n * TILE_FLOATS, b_tile = (int64_t)p->b_n * TILE_BYTES;
#define BEGIN(R, T)    acc[R][T] = p->add ? v_load(c + (T)*c_tile + 16 * (R)) : v_set1(0.0f);
#define MULTIPLY(R, T) acc[R][T] = tile_step(acc[R][T], a + 64 * (R) + 4 * w, line[T]);
#define STORE(R, T)    v_store(c + (T)*c_tile + 16 * (R), acc[R][T]);
  EACH_SUM(BEGIN)
  for (int kt = 0; kt < p->k; kt++) {
    const char *a = p->a + (int64_t)(i * p->a_m + kt * p->a_k) * TILE_BYTES + row * 64;
    const char *b = p->b + (int64_t)(j * p->b_n + kt * p->b_k) * TILE_BYTES;
    for (int w = 0; w < 16; w++) {
      tile_line line[STEP_COLS];
      line[0] = tile_load(b + 64 * w);
      if (STEP_COLS > 1) line[STEP_COLS - 1] = tile_load(b + b_tile + 64 * w);
      EACH_SUM(MULTIPLY)
    }
  }
  EACH_SUM(STORE)
#undef BEGIN
#undef MULTIPLY
#undef STORE
}

static void tile_multiply(const tile_product *p) {
  for (int i = 0; i < p->m; i++)
    for (int j = 0; j < p->n; j += STEP_COLS)
      for (int row = 0; row < 16; row += STEP_ROWS) tile_rows(p, i, j, row);
}

static inline void tile_begin(void) {}
static inline void tile_end(void) {}

#endif
#endif
