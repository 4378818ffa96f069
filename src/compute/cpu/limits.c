/* The limits that benchmarks compare with: the bare rate of the units, and of reading memory. */
#include "src/compute/cpu/limits.h"
#include "src/compute/cpu/cpu.h"

enum { READ_BYTES = 256 << 20, READ_CHUNK = 1 << 20, AHEAD = 4096, ROUNDS = 1 << 14, REPEATS = 3 };

typedef struct bare {
  double (*loop)(int64_t rounds);
  double done[64]; /* operations, by chunk */
} bare;

static void run_bare(void *arg, int64_t begin, int64_t end, int worker) {
  bare *b = arg;
  (void)worker;
  for (int64_t i = begin; i < end; i++) b->done[i] = b->loop(ROUNDS);
}

/* One chunk a thread; the best of a few. */
static double bare_rate(pu_pool *pool, double (*loop)(int64_t rounds)) {
  double best = 0;
  int threads = PU_MIN(pu_pool_size(pool), 64);
  for (int i = 0; loop && i < REPEATS; i++) {
    bare b = {.loop = loop};
    double begin = pu_now(), done = 0;
    pu_pool_run(pool, threads, 1, run_bare, &b);
    double seconds = pu_now() - begin;
    for (int t = 0; t < threads; t++) done += b.done[t];
    best = PU_MAX(best, done / seconds);
  }
  return best;
}

typedef struct reading {
  const char *memory;
  _Alignas(64) uint64_t sum[64]; /* by worker: so that the compiler may not skip the reading */
} reading;

static void read_chunks(void *arg, int64_t begin, int64_t end, int worker) {
  reading *r = arg;
  uint64_t sum[8] = {0};
  for (const char *line = r->memory + begin * READ_CHUNK; line < r->memory + end * READ_CHUNK; line += 64) {
    __builtin_prefetch(line + AHEAD);
    for (int i = 0; i < 8; i++) sum[i] ^= ((const uint64_t *)line)[i];
  }
  for (int i = 0; i < 8; i++) r->sum[worker & 63] ^= sum[i];
}

static pu_err read_rate(pu_backend *be, double *out, pu_error *e) {
  void *memory;
  PU_TRY(be->alloc(be, READ_BYTES + AHEAD, &memory, e));
  pu_err err = be->clear(be, memory, READ_BYTES, e); /* pages that were never written are all the same one */
  reading r = {.memory = memory};
  *out = 0;
  for (int i = 0; err == PU_OK && i < REPEATS; i++) {
    double begin = pu_now();
    pu_pool_run(pu_cpu_pool(be), READ_BYTES / READ_CHUNK, 1, read_chunks, &r);
    *out = PU_MAX(*out, READ_BYTES / (pu_now() - begin));
  }
  be->free(be, memory);
  return err;
}

pu_err pu_cpu_measure(pu_backend *be, pu_cpu_limits *out, pu_error *e) {
  static double (*const f32[PU_ISA_COUNT])(int64_t) = {NULL, pu_bare_avx2, pu_bare_avx512, pu_bare_avx512};
  static double (*const bf16[PU_ISA_COUNT])(int64_t) = {[PU_ISA_AMX] = pu_bare_amx};
  pu_isa isa = pu_cpu_isa(be);
  out->bf16_flops = bare_rate(pu_cpu_pool(be), bf16[isa]);
  out->f32_flops = bare_rate(pu_cpu_pool(be), f32[isa]);
  return read_rate(be, &out->read_bytes, e);
}
