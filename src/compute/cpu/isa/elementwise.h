/* Puts the elementwise operations of an instruction set into the backend's table. */
#ifndef PUYU_ELEMENTWISE_H
#define PUYU_ELEMENTWISE_H

#include "src/compute/cpu/cpu.h"

void pu_cpu_elementwise_use_avx2(pu_cpu *cpu);
void pu_cpu_elementwise_use_avx512(pu_cpu *cpu);

#endif
