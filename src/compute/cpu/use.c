/* Which function runs each operation: the references first, then what each instruction set does faster. */
#include "src/compute/cpu/attention.h"
#include "src/compute/cpu/isa/elementwise.h"
#include "src/compute/cpu/ref/ref.h"

void pu_cpu_use_ref(pu_cpu *cpu) {
#define PU_BACK_0(name)
#define PU_BACK_1(name) cpu->base.backward[PU_OP_##name] = pu_ref_##name##_back;
#define PU_OP(name, has_backward)                                                                                      \
  cpu->base.forward[PU_OP_##name] = pu_ref_##name;                                                                     \
  PU_BACK_##has_backward(name)
#include "puyu/ops.def"
#undef PU_OP
#undef PU_BACK_0
#undef PU_BACK_1
}

void pu_cpu_use_avx2(pu_cpu *cpu) {
  pu_cpu_use_attention(cpu);
  pu_cpu_elementwise_use_avx2(cpu);
}

void pu_cpu_use_avx512(pu_cpu *cpu) {
  pu_cpu_elementwise_use_avx512(cpu);
}

void pu_cpu_use_amx(pu_cpu *cpu) {
  (void)cpu;
}
