/* Fused multiply-adds and nothing else: more sums in turn than latency times units. And reading, nothing else. */
#include "src/compute/cpu/limits.h"

#include <immintrin.h>

enum { SUMS = 12, STEPS = 32 };

double pu_bare_avx512(int64_t rounds) {
  __m512 sum[SUMS], a = _mm512_set1_ps(0.5f);
#pragma GCC unroll 12
  for (int i = 0; i < SUMS; i++) sum[i] = _mm512_set1_ps((float)i);
  for (int64_t r = 0; r < rounds * STEPS; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++) {
      sum[i] = _mm512_fmadd_ps(sum[i], a, a);
      __asm__ volatile("" : "+v"(sum[i])); /* every one is done, and in a register */
    }
  }
  return 2.0 * 16 * SUMS * STEPS * (double)rounds;
}

/* The same of VDPBF16PS, two products a lane. */
double pu_bare_bf16_avx512(int64_t rounds) {
  const __m512bh half = (__m512bh)_mm512_set1_epi32(0x3f003f00); /* two bf16, each 0.5 */
  __m512 sum[SUMS];
#pragma GCC unroll 12
  for (int i = 0; i < SUMS; i++) sum[i] = _mm512_set1_ps((float)i);
  for (int64_t r = 0; r < rounds * STEPS; r++) {
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++) {
      sum[i] = _mm512_dpbf16_ps(sum[i], half, half);
      __asm__ volatile("" : "+v"(sum[i]));
    }
  }
  return 2.0 * 2 * 16 * SUMS * STEPS * (double)rounds;
}

uint64_t pu_bare_read_avx512(const void *memory, size_t len) {
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
