/* Fused multiply-adds and nothing else: more sums in turn than latency times units. */
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
