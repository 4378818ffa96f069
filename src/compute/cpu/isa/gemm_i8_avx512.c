/* int8 products with AVX-512 VNNI. The instruction multiplies unsigned by signed bytes: A is taken as a + 128, and 128
 * times the sum of B's row is taken off again. 4 x 4 products share their loads. */
#include "src/compute/cpu/gemm_kernel.h"

#include <immintrin.h>

enum { ROWS = 4, COLS = 4 };

static __mmask64 mask_bytes(int64_t n) {
  return n >= 64 ? ~0ull : (1ull << n) - 1;
}

static void dots(const int8_t *const a[ROWS], const int8_t *const b[COLS], int64_t k, int32_t out[ROWS][COLS]) {
  const __m512i flip = _mm512_set1_epi8((char)0x80);
  __m512i sum[ROWS][COLS], b_sum[COLS];
#pragma GCC unroll 4
  for (int j = 0; j < COLS; j++) {
    b_sum[j] = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++) sum[i][j] = _mm512_setzero_si512();
  }
  for (int64_t x = 0; x < k; x += 64) {
    __mmask64 m = mask_bytes(k - x);
    __m512i av[ROWS];
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; i++) av[i] = _mm512_xor_si512(_mm512_maskz_loadu_epi8(m, a[i] + x), flip);
#pragma GCC unroll 4
    for (int j = 0; j < COLS; j++) {
      __m512i bv = _mm512_maskz_loadu_epi8(m, b[j] + x);
      b_sum[j] = _mm512_dpbusd_epi32(b_sum[j], flip, bv); /* 128 b */
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++) sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], av[i], bv);
    }
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLS; j++) out[i][j] = _mm512_reduce_add_epi32(_mm512_sub_epi32(sum[i][j], b_sum[j]));
}

void pu_gemm_i8_avx512(const pu_gemm_i8 *g, int64_t begin, int64_t end) {
  for (int64_t j = 0; j < g->n; j += COLS)
    for (int64_t i = begin; i < end; i += ROWS) {
      int rows = (int)PU_MIN(end - i, ROWS), cols = (int)PU_MIN(g->n - j, COLS);
      const int8_t *a[ROWS], *b[COLS];
      int32_t out[ROWS][COLS];
      for (int r = 0; r < ROWS; r++) a[r] = g->a + (i + PU_MIN(r, rows - 1)) * g->a_row;
      for (int c = 0; c < COLS; c++) b[c] = g->b + (j + PU_MIN(c, cols - 1)) * g->b_row;
      dots(a, b, g->k, out);
      for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) g->c[(i + r) * g->c_row + j + c] = out[r][c];
    }
}
