#include "src/cli/limits.h"

#include <sys/resource.h>

typedef struct job {
  const char *memory;
  bool wide;
  int64_t rounds;
  double flops[64];
  uint64_t sums[64]; /* kept, so that no compiler leaves the reading out */
} job;

static void multiply(void *arg, int64_t begin, int64_t end, int worker) {
  job *j = arg;
  (void)worker;
  for (int64_t i = begin; i < end; i++) j->flops[i] = pu_limit_amx_run(j->rounds);
}

double pu_limit_bf16_flops(pu_backend *cpu) {
  if (pu_cpu_isa(cpu) < PU_ISA_AMX) return 0;
  pu_pool *pool = pu_cpu_pool(cpu);
  int64_t threads = PU_MIN(pu_pool_size(pool), 64);
  job j = {.rounds = 300000}; /* some 20 ms: 128 cycles a round */
  double best = 0;
  for (int run = 0; run < 6; run++) {
    double begin = pu_now(), flops = 0;
    pu_pool_run(pool, threads, 1, multiply, &j);
    double seconds = pu_now() - begin;
    for (int64_t i = 0; i < threads; i++) flops += j.flops[i];
    best = PU_MAX(best, flops / seconds);
  }
  return best;
}

enum { PIECE = 1 << 18 };

static uint64_t plain_read(const void *memory, size_t len) {
  const uint64_t *p = memory;
  uint64_t sum[4] = {0};
  for (size_t i = 0; i < len / 8; i += 4)
    for (size_t k = 0; k < 4; k++) sum[k] += p[i + k];
  return sum[0] + sum[1] + sum[2] + sum[3];
}

static void read_pieces(void *arg, int64_t begin, int64_t end, int worker) {
  job *j = arg;
  for (int64_t i = begin; i < end; i++) {
    const char *at = j->memory + i * PIECE;
    j->sums[worker % 64] += j->wide ? pu_limit_avx512_read(at, PIECE) : plain_read(at, PIECE);
  }
}

double pu_limit_read_bytes(pu_backend *cpu, const void *memory, size_t bytes, int passes) {
  job j = {.memory = memory, .wide = pu_cpu_isa(cpu) >= PU_ISA_AVX512};
  int64_t pieces = (int64_t)(bytes / PIECE);
  double begin = pu_now();
  for (int pass = 0; pass < passes; pass++) pu_pool_run(pu_cpu_pool(cpu), pieces, 1, read_pieces, &j);
  return (double)passes * (double)pieces * PIECE / (pu_now() - begin);
}

size_t pu_peak_resident(void) {
  struct rusage r;
  return getrusage(RUSAGE_SELF, &r) == 0 ? (size_t)r.ru_maxrss * 1024 : 0;
}
