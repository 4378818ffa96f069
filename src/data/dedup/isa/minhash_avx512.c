/* 128 permutations in eight vectors of sixteen; factors, terms and minima stay in registers. */
#include <immintrin.h>

#include "src/data/dedup/shingle.h"

enum { LANES = 16, VECTORS = PU_MINHASHES / LANES };

void pu_minhash_avx512(uint32_t *signature, const uint32_t *x, size_t n, const uint32_t *a, const uint32_t *b) {
  __m512i least[VECTORS], factor[VECTORS], term[VECTORS];
  for (int i = 0; i < VECTORS; i++) {
    least[i] = _mm512_loadu_si512(signature + LANES * i);
    factor[i] = _mm512_loadu_si512(a + LANES * i);
    term[i] = _mm512_loadu_si512(b + LANES * i);
  }
  for (size_t j = 0; j < n; j++) {
    __m512i v = _mm512_set1_epi32((int)x[j]);
    for (int i = 0; i < VECTORS; i++)
      least[i] = _mm512_min_epu32(least[i], _mm512_add_epi32(_mm512_mullo_epi32(factor[i], v), term[i]));
  }
  for (int i = 0; i < VECTORS; i++) _mm512_storeu_si512(signature + LANES * i, least[i]);
}
