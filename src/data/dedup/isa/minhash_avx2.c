/* 128 permutations in four passes of four vectors of eight: what sixteen registers hold. */
#include <immintrin.h>

#include "src/data/dedup/shingle.h"

enum { LANES = 8, VECTORS = 4, PASS = LANES * VECTORS };

void pu_minhash_avx2(uint32_t *signature, const uint32_t *x, size_t n, const uint32_t *a, const uint32_t *b) {
  for (int at = 0; at < PU_MINHASHES; at += PASS) {
    __m256i least[VECTORS], factor[VECTORS], term[VECTORS];
    for (int i = 0; i < VECTORS; i++) {
      least[i] = _mm256_loadu_si256((const __m256i *)(const void *)(signature + at + LANES * i));
      factor[i] = _mm256_loadu_si256((const __m256i *)(const void *)(a + at + LANES * i));
      term[i] = _mm256_loadu_si256((const __m256i *)(const void *)(b + at + LANES * i));
    }
    for (size_t j = 0; j < n; j++) {
      __m256i v = _mm256_set1_epi32((int)x[j]);
      for (int i = 0; i < VECTORS; i++)
        least[i] = _mm256_min_epu32(least[i], _mm256_add_epi32(_mm256_mullo_epi32(factor[i], v), term[i]));
    }
    for (int i = 0; i < VECTORS; i++) _mm256_storeu_si256((__m256i *)(void *)(signature + at + LANES * i), least[i]);
  }
}
