/* The elementwise operations for AVX-512. */
#include "src/compute/cpu/isa/elementwise.h"
#include "src/compute/cpu/isa/exp_avx512.h"
#include "src/compute/cpu/isa/vec16_avx512.h"

static inline v16 v_exp(v16 a) {
  return pu_exp_avx512(a);
}
static inline v16 v_div(v16 a, v16 b) {
  return _mm512_div_ps(a, b);
}
static inline v16 v_sqrt(v16 a) {
  return _mm512_sqrt_ps(a);
}
/* 1 / a for a >= 1 from a 14-bit guess and one step of Newton's, which infinity would turn into NaN. */
static inline v16 v_inverse(v16 a) {
  a = _mm512_min_ps(_mm512_set1_ps(1e37f), a);
  v16 guess = _mm512_rcp14_ps(a);
  return _mm512_mul_ps(guess, _mm512_fnmadd_ps(a, guess, _mm512_set1_ps(2)));
}
/* n elements (more than 16: sixteen), zeros for the rest. */
static inline v16 lanes(const void *p, pu_dtype type, int64_t n) {
  return v_load_row(p, type, (int)PU_MIN(n, 16));
}
static inline void put_lanes(void *p, pu_dtype type, v16 v, int64_t n) {
  __mmask16 k = n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1);
  if (type == PU_F32)
    _mm512_mask_storeu_ps(p, k, v);
  else
    _mm256_mask_storeu_epi16(p, k, (__m256i)_mm512_cvtneps_pbh(v));
}

#include "src/compute/cpu/isa/elementwise_body.h"

void pu_cpu_elementwise_use_avx512(pu_cpu *cpu) {
  use_elementwise(cpu);
}
