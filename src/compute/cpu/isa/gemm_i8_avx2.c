/* int8 products with AVX2: bytes are widened to 16 bits, whose products in pairs fit 32 bits without saturation. Four
 * rows of B share each load of A. */
#include "src/compute/cpu/gemm_kernel.h"

#include <immintrin.h>

enum { COLS = 4 };

static int32_t sum8(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* cols <= COLS products of one row of A; the k that are not a multiple of 16 come last, one by one. */
static void dots(const int8_t *a, const int8_t *const b[COLS], int cols, int64_t k, int32_t *c) {
  __m256i sum[COLS];
  int64_t whole = k & ~(int64_t)15;
  for (int j = 0; j < COLS; j++) sum[j] = _mm256_setzero_si256();
  for (int64_t i = 0; i < whole; i += 16) {
    __m256i av = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(a + i)));
#pragma GCC unroll 4
    for (int j = 0; j < COLS; j++) {
      __m256i bv = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(b[j] + i)));
      sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(av, bv));
    }
  }
  for (int j = 0; j < cols; j++) {
    c[j] = sum8(sum[j]);
    for (int64_t i = whole; i < k; i++) c[j] += a[i] * b[j][i];
  }
}

void pu_gemm_i8_avx2(const pu_gemm_i8 *g, int64_t begin, int64_t end) {
  for (int64_t j = 0; j < g->n; j += COLS) {
    int cols = (int)PU_MIN(g->n - j, COLS);
    const int8_t *b[COLS];
    for (int i = 0; i < COLS; i++) b[i] = g->b + (j + PU_MIN(i, cols - 1)) * g->b_row;
    for (int64_t i = begin; i < end; i++) dots(g->a + i * g->a_row, b, cols, g->k, g->c + i * g->c_row + j);
  }
}
