/* The matrix product's driver: blocks, threads, packing. The kernels are in isa/gemm_*.c. */
#include "src/compute/cpu/gemm_kernel.h"

#include <math.h>
#include <string.h>

/* What one worker's scratch is cut into. A block of C is one item of work. */
enum {
  A_BYTES = 64 << 10,    /* one packed panel of A */
  B_BYTES = 1 << 20,     /* packed B of a block, one depth of it: half of a 2 MiB L2 */
  SUM_FLOATS = 1 << 19,  /* sums of a block, where k takes several depths; of a row of tiles, where several panels */
  DEEP_N = 512,          /* columns of a block where k takes several depths */
  SMALL_WORK = 1 << 18,  /* multiplications below which waking a thread costs more than it brings */
  BLOCKS_PER_THREAD = 2, /* so that a thread that lost its processor for a while does not hold up the rest */
  PACK_K = 128,          /* k packed at a time where columns lie next to columns: of all panels in turn, line by line */
  STREAM_BYTES = 8 << 20, /* C of this size or more is written past the caches */
};
_Static_assert(A_BYTES + B_BYTES + SUM_FLOATS * 4 <= PU_GEMM_SCRATCH, "gemm.h promises to use no more");

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

/* One panel (kernel->nr columns) of B from a tiled weight. k0 is a multiple of kc, and so of a tile's k. */
static void pack_b_tiles(const pu_gemm_job *j, char *dst, int64_t first, int64_t k0, int64_t kb) {
  const pu_gemm *g = &j->g;
  const pu_gemm_kernel *kn = j->kernel;
  int64_t tile_k = PU_TILE_ROW_BYTES / (int64_t)pu_dtype_size(g->ab_type), k_tiles = ceil_div(g->k, tile_k);
  for (int64_t lane = 0; lane < kn->nr; lane += PU_TILE_ROWS) {
    int64_t tile = (first + lane) / PU_TILE_ROWS * k_tiles + k0 / tile_k;
    kn->pack_tiles(dst + lane * kn->k_unit * kn->bytes,
                   first + lane < g->n ? (const char *)g->b + tile * PU_TILE_BYTES : NULL, kb);
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

/* B of a block, k0 to k0 + kb, panel by panel. A panel's bytes of one k follow those of the k before. */
static void pack_b_block(const pu_gemm_job *j, char *dst, int64_t n0, int64_t n1, int64_t k0, int64_t kb) {
  const pu_gemm_kernel *kn = j->kernel;
  int64_t line = (int64_t)kn->nr * kn->bytes, panel = round_up(kb, kn->k_unit) * line;
  int64_t part = j->b_tiled || j->g.b_row == 1 ? PU_MAX(kb, 1) : PACK_K;
  for (int64_t k = 0; k < kb; k += part)
    for (int64_t n = n0; n < n1; n += kn->nr)
      pack_b_panel(j, dst + (n - n0) / kn->nr * panel + k * line, n, n1, k0 + k, PU_MIN(kb - k, part));
}

static char *packed_panel(const pu_packed *p, int64_t index, int64_t k0) {
  return p->scratch[index % p->threads] + PU_GEMM_SCRATCH + index / p->threads * p->panel_bytes + k0 * p->step_bytes;
}

/* A panel of A: packed into dst now, or before; or in place, where weight tiles or rows can be read as they lie. */
static pu_panel_a ready_a_panel(const pu_gemm_job *j, void *dst, int64_t first, int64_t last, int64_t k0, int64_t kb) {
  const pu_gemm *g = &j->g;
  if (j->a_tiled) {
    int64_t tile_k = PU_TILE_ROW_BYTES / (int64_t)pu_dtype_size(g->ab_type), k_tiles = ceil_div(g->k, tile_k);
    return (pu_panel_a){(const char *)g->a + (first / PU_TILE_ROWS * k_tiles + k0 / tile_k) * PU_TILE_BYTES,
                        PU_TILE_ROW_BYTES, PU_TILE_BYTES, last - first > PU_TILE_ROWS ? k_tiles * PU_TILE_BYTES : 0};
  }
  pu_panel p = panel_of_a(j, first, last, k0, kb);
  if (j->a_in_place && p.rows == j->kernel->mr) {
    int64_t row = p.r_step * (int64_t)pu_dtype_size(p.type);
    return (pu_panel_a){p.data, row, PU_TILE_ROW_BYTES, PU_TILE_ROWS * row};
  }
  pu_panel_a a = {dst, PU_TILE_ROW_BYTES, PU_TILE_BYTES,
                  round_up(kb, j->kernel->k_unit) * PU_TILE_ROWS * j->kernel->bytes};
  if (j->a_packed.used)
    a.data = packed_panel(&j->a_packed, first / j->kernel->mr, k0);
  else
    j->kernel->pack_a(dst, &p);
  return a;
}

/* ---- asking for what comes next ---- */

/* Share number `share` of `bytes` in a row, in steps of `lines` lines. */
static void fetch_run(pu_fetch *f, int s, const char *at, int64_t bytes, int lines, int64_t share) {
  int64_t each = (int64_t)PU_FETCH_STEPS * lines * 64;
  if (share * each >= bytes) return;
  f->stream[s].at = at + share * each;
  f->stream[s].step = (int64_t)lines * 64;
  f->stream[s].next = 64;
  f->stream[s].lines = lines;
}

/* The same of what packing or reading a panel as it lies will read. */
static void fetch_panel(pu_fetch *f, int s, const pu_panel *p, int lines, int64_t share) {
  int64_t size = (int64_t)pu_dtype_size(p->type);
  if (p->k_step == 1 && lines * share < p->rows) { /* some rows */
    f->stream[s].at = (const char *)p->data + lines * share * p->r_step * size;
    f->stream[s].step = 64;
    f->stream[s].next = p->r_step * size;
    f->stream[s].lines = (int)PU_MIN(lines, p->rows - lines * share);
  } else if (p->k_step != 1) { /* each k is a line or two */
    int64_t of_k = p->rows * size > 64 ? 2 : 1, each = PU_MAX(lines / of_k, 1);
    if (share * PU_FETCH_STEPS * each >= p->k) return;
    f->stream[s].at = (const char *)p->data + share * PU_FETCH_STEPS * each * p->k_step * size;
    f->stream[s].step = each * p->k_step * size;
    f->stream[s].next = of_k == 2 ? 64 : p->k_step * size;
    f->stream[s].lines = (int)(of_k == 2 ? 2 : each);
  }
}

/* ---- one block of C ---- */

typedef struct block {
  int64_t m0, m1, n0, n1;
  char *a_pack, *b_pack; /* the worker's scratch */
  float *sums;
} block;

/* One panel of A against all panels of B: where it is, and which share of the next one is fetched when. */
typedef struct panel_run {
  int64_t row, k0, kb;   /* rows from `row` on; k0 to k0 + kb */
  int64_t depth0, depth; /* k of B that is packed */
  int64_t next, next_k;  /* the panel of A after this one; next == b->m1: none */
} panel_run;

static void store_tile(const pu_gemm_job *j, const float *acc, int64_t row, int64_t col, const block *b) {
  const pu_gemm *g = &j->g;
  const pu_gemm_kernel *kn = j->kernel;
  int64_t place = j->c_transposed ? col * g->c_row + row : row * g->c_row + col;
  pu_gemm_tile t = {.acc = acc,
                    .ld = kn->nr,
                    .rows = (int)PU_MIN(b->m1 - row, kn->mr),
                    .cols = (int)PU_MIN(b->n1 - col, kn->nr),
                    .stream = j->stream_c,
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

/* The tile's lines of C, when its last product runs. */
static void fetch_c(pu_fetch *f, const pu_gemm_job *j, int64_t row, int64_t col) {
  const pu_gemm_kernel *kn = j->kernel;
  int64_t size = (int64_t)pu_dtype_size(j->g.c_type);
  int rows = j->c_transposed ? kn->nr : kn->mr, cols = j->c_transposed ? kn->mr : kn->nr;
  f->c = (char *)j->g.c + (j->c_transposed ? col * j->g.c_row + row : row * j->g.c_row + col) * size;
  f->c_row = j->g.c_row * size;
  f->c_steps = rows / 2;
  f->c_lines = (int)ceil_div(cols * size, 64);
}

/* While the panel of A is multiplied by a panel of B: a share of the next panel of A, and, where B is packed again for
 * each panel's depth, of the same panel of B at the next depth; at the last one, of C. */
static pu_fetch fetch_next(const pu_gemm_job *j, const block *b, const panel_run *r, int64_t panel, int64_t panels) {
  const pu_gemm_kernel *kn = j->kernel;
  int64_t col = b->n0 + panel * kn->nr, next_depth = r->depth0 + r->depth;
  pu_fetch f = {0};
  if (r->k0 + r->kb == j->g.k && !j->stream_c) fetch_c(&f, j, r->row, col);
  if (r->next < b->m1) {
    int64_t kb = PU_MIN(j->g.k - r->next_k, kn->kc), bytes = kb * kn->mr * kn->bytes;
    int lines = (int)PU_MIN(PU_MAX(ceil_div(bytes, panels * PU_FETCH_STEPS * 64), 2), PU_FETCH_LINES);
    pu_panel p = panel_of_a(j, r->next, b->m1, r->next_k, kb);
    if (j->a_packed.used) {
      fetch_run(&f, 0, packed_panel(&j->a_packed, r->next / kn->mr, r->next_k), bytes, lines, panel);
    } else if (j->a_tiled) {
      pu_panel_a a = ready_a_panel(j, NULL, r->next, b->m1, r->next_k, kb);
      int64_t half = panels / 2; /* of the panels for each of the two rows of tiles */
      bool second = half > 0 && panel >= half;
      fetch_run(&f, 0, (const char *)a.data + (second ? a.row_tile : 0), bytes / 2, lines,
                second ? panel - half : panel);
    } else {
      fetch_panel(&f, 0, &p, lines, panel);
    }
  }
  if (kn->depth == kn->kc && next_depth < j->g.k && !j->b_tiled) {
    pu_panel p = panel_of_b(j, col, b->n1, next_depth, PU_MIN(j->g.k - next_depth, kn->kc));
    fetch_panel(&f, 1, &p, 2, (r->row - b->m0) / kn->mr);
  }
  return f;
}

/* One panel of A. A finished tile goes into C while the next one's product is under way: its sums, just stored, would
 * have to be waited for. */
static void run_panel(const pu_gemm_job *j, const block *b, const panel_run *r) {
  const pu_gemm_kernel *kn = j->kernel;
  const int64_t panels = ceil_div(b->n1 - b->n0, kn->nr), tile = (int64_t)kn->mr * kn->nr;
  const int64_t line = (int64_t)kn->nr * kn->bytes, b_panel = round_up(r->depth, kn->k_unit) * line;
  const bool last = r->k0 + r->kb == j->g.k, kept = j->g.k > kn->kc;
  float *sums = b->sums + (j->g.k > j->depth ? (r->row - b->m0) / kn->mr * panels * tile : 0);
  pu_panel_a a = ready_a_panel(j, b->a_pack, r->row, b->m1, r->k0, r->kb);
  float *acc = sums, *before = NULL;
  for (int64_t p = 0; p < panels; p++, before = acc) {
    pu_fetch fetch = fetch_next(j, b, r, p, panels);
    acc = sums + (kept ? p : p % 2) * tile;
    kn->micro(&a, b->b_pack + p * b_panel + (r->k0 - r->depth0) * line, round_up(r->kb, kn->k_unit), acc, r->k0 > 0,
              &fetch);
    if (last && before) store_tile(j, before, r->row, b->n0 + (p - 1) * kn->nr, b);
  }
  if (last) store_tile(j, acc, r->row, b->n0 + (panels - 1) * kn->nr, b);
}

/* One row of tiles over one depth of B, a panel of A after the other. */
static void run_row(const pu_gemm_job *j, const block *b, int64_t at, int64_t depth0, int64_t depth) {
  const pu_gemm_kernel *kn = j->kernel;
  int64_t k = 0;
  do {
    panel_run r = {at, depth0 + k, PU_MIN(depth - k, kn->kc), depth0, depth, at, depth0 + k + kn->kc};
    if (k + kn->kc >= depth) r.next = PU_MIN(at + kn->mr, b->m1), r.next_k = depth0;
    run_panel(j, b, &r);
    k += kn->kc;
  } while (k < depth);
}

/* All k of one block, depth by depth: the order of each element's sum depends on k and the kernel alone. */
static void run_block(const pu_gemm_job *j, const block *b) {
  int64_t k0 = 0;
  do {
    int64_t depth = PU_MIN(j->g.k - k0, j->depth);
    pack_b_block(j, b->b_pack, b->n0, b->n1, k0, depth);
    for (int64_t at = b->m0; at < b->m1; at += j->kernel->mr) run_row(j, b, at, k0, depth);
    k0 += depth;
  } while (k0 < j->g.k);
}

/* ---- threads ---- */

/* k of B packed at once: all of it, or even parts. Where sums are kept between parts anyway, shorter ones make wider
 * blocks, which read A less often. */
static int64_t choose_depth(const pu_gemm *g, const pu_gemm_kernel *kn) {
  int64_t k = PU_MAX(g->k, 1), most = kn->depth;
  if (k > most && g->n * most * kn->bytes > B_BYTES) most = PU_MAX(most / 2, kn->kc);
  return k <= kn->kc ? k : round_up(ceil_div(k, ceil_div(k, most)), kn->kc);
}

/* Blocks of C, and the time they take: all threads work block by block in step, and a block costs its products and,
 * along its edges, packing B and bringing A. */
typedef struct cut {
  int64_t m, n; /* rows and columns of a block */
  double cost;
} cut;

static cut make_cut(const pu_gemm_job *j, int64_t down, int64_t across, int64_t wanted, int threads) {
  const pu_gemm_kernel *kn = j->kernel;
  cut c = {round_up(ceil_div(j->g.m, down), kn->mr), round_up(ceil_div(j->g.n, across), kn->nr), INFINITY};
  int64_t blocks = ceil_div(j->g.m, c.m) * ceil_div(j->g.n, c.n);
  double edges = (double)kn->edge * (double)(c.m + c.n);
  if (blocks >= wanted) c.cost = (double)ceil_div(blocks, threads) * ((double)c.m * (double)c.n + edges);
  return c;
}

/* Blocks no larger than B's share of the cache and the room for sums allow, and enough of them for the threads. */
static void choose_blocks(pu_gemm_job *j, int threads) {
  const pu_gemm *g = &j->g;
  const pu_gemm_kernel *kn = j->kernel;
  j->depth = choose_depth(g, kn);
  int64_t bytes = round_up(j->depth, kn->k_unit) * kn->bytes;
  int64_t widest = PU_MAX(B_BYTES / bytes / kn->nr, 1) * kn->nr, tallest = INT32_MAX;
  if (g->k > j->depth) {
    widest = PU_MIN(widest, DEEP_N);
    tallest = kn->most_sums / widest / kn->mr * kn->mr;
  }
  int64_t across = ceil_div(g->n, widest), down = ceil_div(g->m, tallest);
  double work = (double)g->m * (double)g->n * (double)PU_MAX(g->k, 1);
  int64_t wanted = threads == 1 ? 1 : (int64_t)PU_MIN(work / SMALL_WORK + 1, threads * BLOCKS_PER_THREAD);
  cut best = make_cut(j, down, across, 0, threads);
  if (across * down < wanted) best = make_cut(j, ceil_div(g->m, kn->mr), ceil_div(g->n, kn->nr), 0, threads);
  for (int64_t a = across; a * down <= 2 * wanted; a++)
    for (int64_t d = down; a * d <= 2 * wanted; d++) {
      cut c = make_cut(j, d, a, wanted, threads);
      if (c.cost < best.cost) best = c;
    }
  j->m_block = best.m, j->n_block = best.n;
}

typedef struct run_arg {
  pu_cpu *cpu;
  const pu_gemm_job *job;
} run_arg;

/* ---- packing all of A ---- */

/* Rows of A can be read where they lie if they begin on lines, k is whole tiles, and the rows of a panel do not all
 * fall on the same few sets of L1 (rows 4 KiB apart do), which must hold the panel while B passes. */
static bool reads_in_place(const pu_gemm_job *j) {
  const pu_gemm *g = &j->g;
  uint64_t row = (uint64_t)g->a_row * pu_dtype_size(g->ab_type), apart = row & (~row + 1);
  bool lines = row % PU_TILE_ROW_BYTES == 0 && (uintptr_t)g->a % PU_TILE_ROW_BYTES == 0;
  return j->kernel->tiles && !j->a_tiled && g->a_col == 1 && lines && g->k % j->kernel->k_unit == 0 && apart <= 1024;
}

/* Where blocks side by side share A, it is packed once, by all threads, if it fits behind their scratch and packing is
 * dear: a transposed A, or one for AMX, beside whose speed a copy is not cheap. (Otherwise this loses: A goes through
 * memory once more.) */
static void plan_packing(pu_cpu *cpu, pu_gemm_job *j) {
  const pu_gemm_kernel *kn = j->kernel;
  int threads = pu_pool_size(cpu->pool);
  int64_t step = (int64_t)kn->mr * kn->bytes, panel = round_up(j->g.k, kn->k_unit) * step;
  if (j->a_tiled || j->a_in_place || j->n_block >= j->g.n || (j->g.a_col == 1 && !kn->tiles)) return;
  if (PU_GEMM_SCRATCH + (size_t)(ceil_div(ceil_div(j->g.m, kn->mr), threads) * panel) > cpu->scratch_bytes) return;
  j->a_packed = (pu_packed){true, (char *const *)cpu->scratch, threads, panel, step};
}

/* Panels in turn at each kc of k: where rows lie next to rows, they share lines and pages. */
static void pack_panels(void *arg, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const pu_gemm_job *j = ((run_arg *)arg)->job;
  const pu_gemm_kernel *kn = j->kernel;
  for (int64_t k0 = 0; k0 < j->g.k; k0 += kn->kc)
    for (int64_t i = begin; i < end; i++) {
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
    char *scratch = r->cpu->scratch[worker];
    block b = {m0,
               PU_MIN(m0 + j->m_block, j->g.m),
               n0,
               PU_MIN(n0 + j->n_block, j->g.n),
               scratch,
               scratch + A_BYTES,
               (float *)(scratch + A_BYTES + B_BYTES)};
    run_block(j, &b);
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
  j->a_in_place = reads_in_place(j);
  j->stream_c = j->g.beta == 0.0f && j->g.m * j->g.n * (int64_t)pu_dtype_size(j->g.c_type) >= STREAM_BYTES;
  int64_t blocks = ceil_div(j->g.m, j->m_block) * ceil_div(j->g.n, j->n_block);
  run_arg r = {cpu, j};
  if (worker >= 0) {
    run_blocks(&r, 0, blocks, worker);
    return;
  }
  plan_packing(cpu, j);
  if (j->a_packed.used) pu_pool_run(cpu->pool, ceil_div(j->g.m, j->kernel->mr), 8, pack_panels, &r);
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
