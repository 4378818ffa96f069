/* Bare loops: what a processor does when nothing but the unit itself is in the way. Each runs `rounds` rounds of work
 * and returns the operations done. */
#ifndef PUYU_CPU_LIMITS_H
#define PUYU_CPU_LIMITS_H

#include <stdint.h>

double pu_bare_amx(int64_t rounds);
double pu_bare_avx512(int64_t rounds);
double pu_bare_avx2(int64_t rounds);

#endif
