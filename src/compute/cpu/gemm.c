/* The matrix product's driver: blocks, threads, packing. The kernels are in isa/gemm_*.c. */
#include "src/compute/cpu/gemm_kernel.h"

#include <string.h>

/* What one worker's scratch is cut into. A block of C is one item of work. */
enum {
  A_BYTES = 64 << 10,    /* one packed panel of A */
  B_BYTES = 1 << 20,     /* packed B of a block, one depth of it: half of a 2 MiB L2 */
  ACC_FLOATS = 1 << 18,  /* sums of a block, where k takes several depths */
  DEEP_N = 512,          /* columns of a block then */
  LEAST_M = 256,         /* rows of a block below which packing B anew for it is not worth its while */
  SMALL_WORK = 1 << 18,  /* multiplications below which waking a thread costs more than it brings */
  BLOCKS_PER_THREAD = 2, /* so that a thread that lost its processor for a while does not hold up the rest */
};
_Static_assert(A_BYTES + B_BYTES + ACC_FLOATS * 4 <= PU_GEMM_SCRATCH, "gemm.h promises to use no more");

const pu_gemm_kernel *pu_gemm_kernel_for(pu_isa isa, pu_dtype type) {
  static const pu_gemm_kernel *const f32[PU_ISA_COUNT] = {NULL, &pu_gemm_avx2, &pu_gemm_avx512, &pu_gemm_avx512};
  static const pu_gemm_kernel *const bf16[PU_ISA_COUNT] = {NULL, &pu_gemm_avx2_bf16, &pu_gemm_avx512_bf16,
                                                           &pu_gemm_amx};
  return type == PU_F32 ? f32[isa] : type == PU_BF16 ? bf16[isa] : NULL;
}

static int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

static int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

static const void *at(const void *base, int64_t element, pu_dtype type) {
  return base ? (const char *)base + element * (int64_t)pu_dtype_size(type) : NULL;
}

/* ---- packing ---- */

/* One panel (kernel->nr columns) of B from a tiled weight, tile by tile: inside one, columns and k have plain steps. */
static void pack_b_tiles(const pu_gemm_job *j, char *dst, int64_t first, int64_t k0, int64_t kb) {
  const pu_gemm *g = &j->g;
  const pu_gemm_kernel *kn = j->kernel;
  int64_t tile_k = PU_TILE_ROW_BYTES / (int64_t)pu_dtype_size(g->ab_type), k_tiles = ceil_div(g->k, tile_k);
  for (int lane = 0; lane < kn->nr; lane += PU_TILE_ROWS) {
    int64_t rows = PU_MIN(g->n - first - lane, PU_TILE_ROWS);
    for (int64_t k = 0; k < kb; k += tile_k) {
      int64_t tile = (first + lane) / PU_TILE_ROWS * k_tiles + (k0 + k) / tile_k;
      pu_panel p = {rows > 0 ? (const char *)g->b + tile * PU_TILE_BYTES : g->b,
                    g->ab_type,
                    tile_k,
                    1,
                    (int)PU_MAX(rows, 0),
                    PU_TILE_ROWS,
                    kn->nr,
                    PU_MIN(tile_k, kb - k)};
      kn->pack_b(dst + (k * kn->nr + lane) * kn->bytes, &p);
    }
  }
}

static pu_panel panel_of_b(const pu_gemm_job *j, int64_t first, int64_t last, int64_t k0, int64_t kb) {
  const pu_gemm *g = &j->g;
  int nr = j->kernel->nr;
  const void *data = at(g->b, k0 * g->b_row + first * g->b_col, g->ab_type);
  return (pu_panel){data, g->ab_type, g->b_col, g->b_row, (int)PU_MIN(last - first, nr), nr, nr, kb};
}

static void pack_b_panel(const pu_gemm_job *j, char *dst, int64_t first, int64_t last, int64_t k0, int64_t kb) {
  if (j->b_tiled) {
    pack_b_tiles(j, dst, first, k0, kb);
    return;
  }
  pu_panel p = panel_of_b(j, first, last, k0, kb);
  j->kernel->pack_b(dst, &p);
}

static pu_panel panel_of_a(const pu_gemm_job *j, int64_t first, int64_t last, int64_t k0, int64_t kb) {
  const pu_gemm *g = &j->g;
  int mr = j->kernel->mr;
  const void *data = at(g->a, first * g->a_row + k0 * g->a_col, g->ab_type);
  return (pu_panel){data, g->ab_type, g->a_row, g->a_col, (int)PU_MIN(last - first, mr), mr, mr, kb};
}

static char *packed_panel(const pu_packed *p, int64_t index, int64_t k0) {
  return p->scratch[index % p->threads] + PU_GEMM_SCRATCH + index / p->threads * p->panel_bytes + k0 * p->step_bytes;
}

/* A panel of A: packed into dst now, or before; or, where weight tiles can be read as they lie, in place. */
static const void *ready_a_panel(const pu_gemm_job *j, void *dst, int64_t first, int64_t last, int64_t k0, int64_t kb,
                                 int64_t *a_next) {
  const pu_gemm *g = &j->g;
  if (j->a_tiled) {
    int64_t tile_k = PU_TILE_ROW_BYTES / (int64_t)pu_dtype_size(g->ab_type), k_tiles = ceil_div(g->k, tile_k);
    *a_next = last - first > PU_TILE_ROWS ? k_tiles * PU_TILE_BYTES : 0;
    return (const char *)g->a + (first / PU_TILE_ROWS * k_tiles + k0 / tile_k) * PU_TILE_BYTES;
  }
  *a_next = round_up(kb, j->kernel->k_unit) * PU_TILE_ROWS * j->kernel->bytes;
  if (j->a_packed.used) return packed_panel(&j->a_packed, first / j->kernel->mr, k0);
  pu_panel p = panel_of_a(j, first, last, k0, kb);
  j->kernel->pack_a(dst, &p);
  return dst;
}

static void fetch_packed(pu_fetch *f, int s, const char *panel, int64_t share) {
  f->at[s] = panel + share * PU_FETCH_STEPS * 128;
  f->step[s] = 128;
  f->pair[s] = 64;
}

/* Stream s of f: share number `share` of what packing the panel will read. A share is PU_FETCH_STEPS pairs of lines. */
static void fetch_panel(pu_fetch *f, int s, const pu_panel *p, int64_t share) {
  int64_t size = (int64_t)pu_dtype_size(p->type);
  if (p->k_step == 1 && 2 * share < p->rows) { /* two rows */
    f->at[s] = (const char *)p->data + 2 * share * p->r_step * size;
    f->step[s] = 64;
    f->pair[s] = p->r_step * size;
  } else if (p->k_step != 1) { /* each k is a line or two */
    int64_t lines = p->rows * size > 64 ? 2 : 1, each = 2 / lines;
    if (share * PU_FETCH_STEPS * each >= p->k) return;
    f->at[s] = (const char *)p->data + share * PU_FETCH_STEPS * each * p->k_step * size;
    f->step[s] = each * p->k_step * size;
    f->pair[s] = lines == 2 ? 64 : p->k_step * size;
  }
}

/* ---- one block of C ---- */

typedef struct block {
  int64_t m0, m1, n0, n1;
} block;

static void store_tile(const pu_gemm_job *j, const float *acc, int64_t row, int64_t col, const block *b) {
  const pu_gemm *g = &j->g;
  const pu_gemm_kernel *kn = j->kernel;
  int64_t place = j->c_transposed ? col * g->c_row + row : row * g->c_row + col;
  pu_gemm_tile t = {.acc = acc,
                    .ld = kn->nr,
                    .rows = (int)PU_MIN(b->m1 - row, kn->mr),
                    .cols = (int)PU_MIN(b->n1 - col, kn->nr),
                    .c = (char *)g->c + place * (int64_t)pu_dtype_size(g->c_type),
                    .type = g->c_type,
                    .c_row = g->c_row,
                    .transposed = j->c_transposed,
                    .alpha = g->alpha,
                    .beta = g->beta,
                    .bias = at(g->bias, j->c_transposed ? row : col, g->bias_type),
                    .bias_type = g->bias_type};
  kn->store(&t);
}

/* While the product (row, panel) at depth k0 runs: a share of the next panel of A, and of the same panel of B at the
 * next depth; at the last one, of C. */
static pu_fetch fetch_next(const pu_gemm_job *j, const block *b, int64_t row, int64_t panel, int64_t k0, int64_t kb) {
  int mr = j->kernel->mr, nr = j->kernel->nr;
  int64_t next = row + mr, next_k = k0 + kb < j->g.k ? k0 + kb : 0, share = (row - b->m0) / mr;
  int64_t col = b->n0 + panel * nr;
  pu_fetch f = {.at = {(const char *)&j->g, (const char *)&j->g}, .c = (char *)j->g.c}; /* as good as nothing */
  if (next_k == 0) {
    int64_t size = (int64_t)pu_dtype_size(j->g.c_type);
    f.c += (j->c_transposed ? col * j->g.c_row + row : row * j->g.c_row + col) * size;
    f.c_row = j->g.c_row * size;
  }
  if (next < b->m1) {
    pu_panel p = panel_of_a(j, next, b->m1, k0, kb);
    if (j->a_packed.used)
      fetch_packed(&f, 0, packed_panel(&j->a_packed, next / mr, k0), panel);
    else if (!j->a_tiled)
      fetch_panel(&f, 0, &p, panel);
  }
  if (next_k > 0 && !j->b_tiled) {
    pu_panel p = panel_of_b(j, col, b->n1, next_k, PU_MIN(j->g.k - next_k, kb));
    fetch_panel(&f, 1, &p, share);
  }
  return f;
}

/* All k of one block, depth by depth: the order of each element's sum depends on k and the kernel alone. */
static void run_block(const pu_gemm_job *j, const block *b, char *scratch) {
  const pu_gemm_kernel *kn = j->kernel;
  char *a_pack = scratch, *b_pack = scratch + A_BYTES;
  float *sums = (float *)(b_pack + B_BYTES);
  bool deep = j->g.k > kn->kc;
  int64_t k0 = 0, panels = ceil_div(b->n1 - b->n0, kn->nr);
  do {
    int64_t kb = PU_MIN(j->g.k - k0, kn->kc), padded = round_up(kb, kn->k_unit), panel = padded * kn->nr * kn->bytes;
    bool last = k0 + kb == j->g.k;
    for (int64_t p = 0; p < panels; p++) pack_b_panel(j, b_pack + p * panel, b->n0 + p * kn->nr, b->n1, k0, kb);
    float *acc = sums;
    for (int64_t row = b->m0; row < b->m1; row += kn->mr) {
      int64_t a_next;
      const void *a = ready_a_panel(j, a_pack, row, b->m1, k0, kb, &a_next);
      for (int64_t p = 0; p < panels; p++) {
        pu_fetch fetch = fetch_next(j, b, row, p, k0, kb);
        kn->micro(a, a_next, b_pack + p * panel, padded, acc, k0 > 0, &fetch);
        if (last) store_tile(j, acc, row, b->n0 + p * kn->nr, b);
        if (deep) acc += kn->mr * kn->nr;
      }
    }
    k0 += kb;
  } while (k0 < j->g.k);
}

/* ---- threads ---- */

/* As wide as B's share of the cache allows; then enough blocks for the threads. */
static void choose_blocks(pu_gemm_job *j, int threads) {
  const pu_gemm *g = &j->g;
  const pu_gemm_kernel *kn = j->kernel;
  int64_t depth = PU_MAX(round_up(PU_MIN(g->k, kn->kc), kn->k_unit), 1);
  int64_t widest = PU_MAX(B_BYTES / (depth * kn->bytes) / kn->nr, 1) * kn->nr, tallest = INT32_MAX;
  if (g->k > kn->kc) {
    widest = PU_MIN(widest, DEEP_N);
    tallest = ACC_FLOATS / widest / kn->mr * kn->mr;
  }
  int64_t across = ceil_div(g->n, widest), down = ceil_div(g->m, tallest);
  double work = (double)g->m * (double)g->n * (double)PU_MAX(g->k, 1);
  int64_t wanted = threads == 1 ? 1 : (int64_t)PU_MIN(work / SMALL_WORK + 1, threads * BLOCKS_PER_THREAD);
  if (across * down < wanted) down = PU_MAX(down, PU_MIN(ceil_div(wanted, across), ceil_div(g->m, LEAST_M)));
  if (across * down < wanted) across = PU_MIN(ceil_div(wanted, down), ceil_div(g->n, kn->nr));
  j->m_block = round_up(ceil_div(g->m, down), kn->mr);
  j->n_block = round_up(ceil_div(g->n, across), kn->nr);
}

typedef struct run_arg {
  pu_cpu *cpu;
  const pu_gemm_job *job;
} run_arg;

/* ---- packing all of A ---- */

/* A transposed A is dear to pack. Where blocks side by side share it, it is packed once, by all threads, if it fits
 * behind their scratch. (For operands that are cheap to pack this loses: it goes through memory once more.) */
static void plan_packing(pu_cpu *cpu, pu_gemm_job *j) {
  const pu_gemm_kernel *kn = j->kernel;
  int threads = pu_pool_size(cpu->pool);
  int64_t step = (int64_t)kn->mr * kn->bytes, panel = round_up(j->g.k, kn->k_unit) * step;
  if (j->a_tiled || j->g.a_col == 1 || j->n_block >= j->g.n) return;
  if (PU_GEMM_SCRATCH + (size_t)(ceil_div(ceil_div(j->g.m, kn->mr), threads) * panel) > cpu->scratch_bytes) return;
  j->a_packed = (pu_packed){true, (char *const *)cpu->scratch, threads, panel, step};
}

static void pack_panels(void *arg, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const pu_gemm_job *j = ((run_arg *)arg)->job;
  const pu_gemm_kernel *kn = j->kernel;
  for (int64_t i = begin; i < end; i++)
    for (int64_t k0 = 0; k0 < j->g.k; k0 += kn->kc) {
      pu_panel p = panel_of_a(j, i * kn->mr, j->g.m, k0, PU_MIN(j->g.k - k0, kn->kc));
      kn->pack_a(packed_panel(&j->a_packed, i, k0), &p);
    }
}

static void run_blocks(void *arg, int64_t begin, int64_t end, int worker) {
  const run_arg *r = arg;
  const pu_gemm_job *j = r->job;
  int64_t down = ceil_div(j->g.m, j->m_block);
  if (j->kernel->begin) j->kernel->begin();
  for (int64_t i = begin; i < end; i++) {
    int64_t m0 = i % down * j->m_block, n0 = i / down * j->n_block;
    block b = {m0, PU_MIN(m0 + j->m_block, j->g.m), n0, PU_MIN(n0 + j->n_block, j->g.n)};
    run_block(j, &b, r->cpu->scratch[worker]);
  }
  if (j->kernel->end) j->kernel->end();
}

/* worker < 0: on all. */
static void run_job(pu_cpu *cpu, pu_gemm_job *j, int worker) {
  if (j->g.m <= 0 || j->g.n <= 0) return;
  if (!j->kernel) {
    pu_gemm_reference(&j->g);
    return;
  }
  choose_blocks(j, worker < 0 ? pu_pool_size(cpu->pool) : 1);
  int64_t blocks = ceil_div(j->g.m, j->m_block) * ceil_div(j->g.n, j->n_block);
  run_arg r = {cpu, j};
  if (worker >= 0) {
    run_blocks(&r, 0, blocks, worker);
    return;
  }
  plan_packing(cpu, j);
  if (j->a_packed.used) pu_pool_run(cpu->pool, ceil_div(j->g.m, j->kernel->mr), 2, pack_panels, &r);
  pu_pool_run(cpu->pool, blocks, 1, run_blocks, &r);
}

void pu_gemm_run(pu_cpu *cpu, pu_gemm_job *job) {
  run_job(cpu, job, -1);
}

void pu_cpu_gemm(pu_cpu *cpu, const pu_gemm *g) {
  pu_gemm_job j = {.g = *g, .kernel = pu_gemm_kernel_for(cpu->isa, g->ab_type)};
  run_job(cpu, &j, -1);
}

void pu_cpu_gemm_one(pu_cpu *cpu, const pu_gemm *g, int worker) {
  pu_gemm_job j = {.g = *g, .kernel = pu_gemm_kernel_for(cpu->isa, g->ab_type)};
  run_job(cpu, &j, worker);
}
