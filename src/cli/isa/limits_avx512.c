#include "src/cli/limits.h"

#include <immintrin.h>

uint64_t pu_limit_avx512_read(const void *memory, size_t len) {
  __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  const char *p = memory;
  for (const char *end = p + len; p < end; p += 512) {
    for (int i = 0; i < 8; i++) {
      _mm_prefetch(p + 4096 + 64 * i, _MM_HINT_T0);
      sum[i % 4] = _mm512_add_epi64(sum[i % 4], _mm512_load_si512(p + 64 * i));
    }
  }
  return (uint64_t)_mm512_reduce_add_epi64(
      _mm512_add_epi64(_mm512_add_epi64(sum[0], sum[1]), _mm512_add_epi64(sum[2], sum[3])));
}
