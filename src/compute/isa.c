#include "puyu/compute.h"
const char *pu_isa_name(pu_isa isa) {
  static const char *const names[PU_ISA_COUNT] = {"ref", "avx2", "avx512", "amx"};
  return names[isa];
}
pu_isa pu_isa_best(void) {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return PU_ISA_AVX512;
  return __builtin_cpu_supports("avx2") ? PU_ISA_AVX2 : PU_ISA_REF;
}
