/* Bare loops: what a processor does when nothing but the unit itself is in the way. */
#ifndef PUYU_CPU_LIMITS_H
#define PUYU_CPU_LIMITS_H

#include <stddef.h>
#include <stdint.h>

/* Each runs `rounds` rounds of some 200 cycles and returns the operations done. */
double pu_bare_amx(int64_t rounds);
double pu_bare_avx512(int64_t rounds);
double pu_bare_bf16_avx512(int64_t rounds);
double pu_bare_avx2(int64_t rounds);

/* Sum of the bytes as 64-bit words, so that every line is read; len a multiple of 512, memory aligned to 64. */
uint64_t pu_bare_read_avx512(const void *memory, size_t len);

#endif
