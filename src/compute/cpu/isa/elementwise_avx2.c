/* The elementwise operations for AVX2. */
#include <string.h>

#include "src/compute/cpu/isa/elementwise.h"
#include "src/compute/cpu/isa/exp_avx2.h"
#include "src/compute/cpu/isa/vec16_avx2.h"

static inline v16 v_exp(v16 a) {
  return (v16){pu_exp_avx2(a.lo), pu_exp_avx2(a.hi)};
}
static inline v16 v_div(v16 a, v16 b) {
  return (v16){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
static inline v16 v_sqrt(v16 a) {
  return (v16){_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)};
}
static inline v16 v_inverse(v16 a) {
  return v_div(v_set1(1), a);
}
/* n elements (more than 16: sixteen), zeros for the rest. */
static inline v16 lanes(const void *p, pu_dtype type, int64_t n) {
  if (n >= 16) return v_load_row(p, type, 16);
  float whole[16] = {0};
  memcpy(whole, p, (size_t)n * (type == PU_F32 ? 4 : 2));
  return v_load_row(whole, type, 16);
}
static inline void put_lanes(void *p, pu_dtype type, v16 v, int64_t n) {
  if (n >= 16) {
    v_store_row(p, type, v, 16);
    return;
  }
  float whole[16];
  v_store_row(whole, type, v, 16);
  memcpy(p, whole, (size_t)n * (type == PU_F32 ? 4 : 2));
}

#include "src/compute/cpu/isa/elementwise_body.h"

void pu_cpu_elementwise_use_avx2(pu_cpu *cpu) {
  use_elementwise(cpu);
}
