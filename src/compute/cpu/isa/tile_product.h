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
static inline v16 tile_step(v16 acc, const char *a, const char *b) {
#if PU_TILE_BF16
  int32_t word;
  memcpy(&word, a, 4);
  return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_set1_epi32(word), (__m512bh)_mm512_load_si512(b));
#else
  float word;
  memcpy(&word, a, 4);
  return v_fma(v_set1(word), v_load((const float *)(const void *)b), acc);
#endif
}

/* AVX-512: 8 rows of 2 tiles side by side, 16 accumulators; AVX2: 4 rows of one tile, 8 accumulators. */
#ifdef __AVX512F__
enum { STEP_ROWS = 8, STEP_COLS = 2 };
#else
enum { STEP_ROWS = 4, STEP_COLS = 1 };
#endif

static inline void tile_rows(const tile_product *p, int i, int j, int row) {
  v16 acc[STEP_ROWS][STEP_COLS];
  float *c = p->c + (int64_t)(i * p->c_m + j * p->c_n) * TILE_FLOATS + row * 16;
  for (int r = 0; r < STEP_ROWS; r++)
    for (int t = 0; t < STEP_COLS; t++)
      acc[r][t] = p->add ? v_load(c + (int64_t)t * p->c_n * TILE_FLOATS + 16 * r) : v_set1(0.0f);
  for (int kt = 0; kt < p->k; kt++) {
    const char *a = p->a + (int64_t)(i * p->a_m + kt * p->a_k) * TILE_BYTES + row * 64;
    const char *b = p->b + (int64_t)(j * p->b_n + kt * p->b_k) * TILE_BYTES;
    for (int w = 0; w < 16; w++)
#pragma GCC unroll 8
      for (int r = 0; r < STEP_ROWS; r++)
#pragma GCC unroll 2
        for (int t = 0; t < STEP_COLS; t++)
          acc[r][t] = tile_step(acc[r][t], a + 64 * r + 4 * w, b + (int64_t)t * p->b_n * TILE_BYTES + 64 * w);
  }
  for (int r = 0; r < STEP_ROWS; r++)
    for (int t = 0; t < STEP_COLS; t++) v_store(c + (int64_t)t * p->c_n * TILE_FLOATS + 16 * r, acc[r][t]);
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
