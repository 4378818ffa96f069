/* Inside the CPU backend: its state, and the tables of kernels an instruction set fills in. */
#ifndef PUYU_CPU_H
#define PUYU_CPU_H

#include "puyu/compute.h"

typedef struct pu_cpu {
  pu_backend base; /* first: a pu_backend * of this backend is a pu_cpu * */
  pu_isa isa;
  pu_pool *pool;
  void *scratch[64]; /* per worker, scratch_bytes each, 64-byte aligned: packed panels, tiles */
  size_t scratch_bytes;
  void *work; /* one buffer for the operation that runs, shared by its threads: see pu_cpu_work */
  size_t work_bytes;
} pu_cpu;

/* At least `bytes` of work memory for the running operation, 64-byte aligned, not cleared. It grows when it must and is
 * kept, so that steps after the first do not allocate. */
pu_err pu_cpu_work(pu_cpu *cpu, size_t bytes, void **out, pu_error *e) PU_MUST_USE;

/* Operations of one instruction set. Each isa file group defines one of these functions, which overwrites the entries
 * it has a faster version of; pu_cpu_open calls them from the reference up to the chosen set. */
void pu_cpu_use_ref(pu_cpu *cpu);
void pu_cpu_use_avx2(pu_cpu *cpu);
void pu_cpu_use_avx512(pu_cpu *cpu);
void pu_cpu_use_amx(pu_cpu *cpu);

#endif
