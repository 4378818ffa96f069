/* What this machine can do at most, measured: what the benchmarks' figures are held against. */
#ifndef PUYU_CLI_LIMITS_H
#define PUYU_CLI_LIMITS_H

#include "puyu/compute.h"

/* bf16 operations a second of all threads of the backend: a loop of TDPBF16PS on registers, without memory. 0 where
 * there is no AMX. */
double pu_limit_bf16_flops(pu_backend *cpu);

/* Bytes a second at which all threads together read memory from end to end, `passes` times, each in long runs. */
double pu_limit_read_bytes(pu_backend *cpu, const void *memory, size_t bytes, int passes);

/* The most memory this process has had resident, in bytes; 0: unknown. */
size_t pu_peak_resident(void);

/* ---- inside: isa/ ---- */

/* `rounds` times 8 products on tile registers; returns their floating-point operations. */
double pu_limit_amx_run(int64_t rounds);
/* Sum of the bytes as 64-bit words, so that every line is read; len a multiple of 512. */
uint64_t pu_limit_avx512_read(const void *memory, size_t len);

#endif
