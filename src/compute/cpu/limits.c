/* The limits that benchmarks compare with: the bare rate of the units, and of reading memory. */
#include "src/compute/cpu/limits.h"
#include "src/compute/cpu/cpu.h"

/* A run is about 5 ms of a unit, or one pass through the memory: short enough that some are not disturbed, long enough
 * that waking the threads does not count. The best of REPEATS stands. */
enum { READ_BYTES = 256 << 20, PIECE = 1 << 18, ROUNDS = 1 << 16, REPEATS = 4, MOST_THREADS = 64 };

typedef struct bare {
  double (*loop)(int64_t rounds);
  double done[MOST_THREADS]; /* operations, by thread */
} bare;

static void run_bare(void *arg, int64_t begin, int64_t end, int worker) {
  bare *b = arg;
  (void)worker;
  for (int64_t i = begin; i < end; i++) b->done[i] = b->loop(ROUNDS);
}

double pu_cpu_unit_flops(pu_backend *be, pu_dtype dtype) {
  static double (*const f32[PU_ISA_COUNT])(int64_t) = {NULL, pu_bare_avx2, pu_bare_avx512, pu_bare_avx512};
  static double (*const bf16[PU_ISA_COUNT])(int64_t) = {
      [PU_ISA_AVX512] = pu_bare_bf16_avx512, [PU_ISA_AMX] = pu_bare_amx};
  bare b = {.loop = (dtype == PU_BF16 ? bf16 : f32)[pu_cpu_isa(be)]};
  int threads = PU_MIN(pu_pool_size(be->pool), MOST_THREADS);
  double best = 0;
  for (int i = 0; b.loop && i < REPEATS; i++) {
    double begin = pu_now(), done = 0;
    pu_pool_run(be->pool, threads, 1, run_bare, &b);
    double seconds = pu_now() - begin;
    for (int t = 0; t < threads; t++) done += b.done[t];
    best = PU_MAX(best, done / seconds);
  }
  return best;
}

typedef struct reading {
  const char *memory;
  uint64_t (*read)(const void *memory, size_t len);
  _Alignas(64) uint64_t sum[MOST_THREADS]; /* by worker: kept, so that no compiler leaves the reading out */
} reading;

static uint64_t read_plain(const void *memory, size_t len) {
  const uint64_t *p = memory;
  uint64_t sum[4] = {0};
  for (size_t i = 0; i < len / 8; i += 4)
    for (size_t k = 0; k < 4; k++) sum[k] += p[i + k];
  return sum[0] + sum[1] + sum[2] + sum[3];
}

static void read_pieces(void *arg, int64_t begin, int64_t end, int worker) {
  reading *r = arg;
  for (int64_t i = begin; i < end; i++) r->sum[worker % MOST_THREADS] += r->read(r->memory + i * PIECE, PIECE);
}

double pu_cpu_read_rate(pu_backend *be, const void *memory, size_t bytes, int passes) {
  reading r = {.memory = memory, .read = pu_cpu_isa(be) >= PU_ISA_AVX512 ? pu_bare_read_avx512 : read_plain};
  int64_t pieces = (int64_t)(bytes / PIECE);
  double begin = pu_now();
  for (int i = 0; i < passes; i++) pu_pool_run(be->pool, pieces, 1, read_pieces, &r);
  return (double)passes * (double)pieces * PIECE / (pu_now() - begin);
}

pu_err pu_cpu_measure(pu_backend *be, pu_cpu_limits *out, pu_error *e) {
  void *memory;
  PU_TRY(be->alloc(be, READ_BYTES, &memory, e));
  pu_err err = be->clear(be, memory, READ_BYTES, e); /* pages that were never written are all the same one */
  *out = (pu_cpu_limits){.bf16_flops = pu_cpu_unit_flops(be, PU_BF16), .f32_flops = pu_cpu_unit_flops(be, PU_F32)};
  for (int i = 0; err == PU_OK && i < REPEATS; i++)
    out->read_bytes = PU_MAX(out->read_bytes, pu_cpu_read_rate(be, memory, READ_BYTES, 1));
  be->free(be, memory);
  return err;
}
