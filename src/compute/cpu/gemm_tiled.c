/* The linear layer with a tiled weight: inference's product. A few tokens only need the weight once, so it is streamed
 * through the registers at memory speed; many tokens are a matrix product whose one operand is packed already. */
#include "src/compute/cpu/gemm_kernel.h"

#include <string.h>

size_t pu_tiled_bytes(pu_dtype dtype, int64_t rows, int64_t cols) {
  int64_t tile_k = PU_TILE_ROW_BYTES / (int64_t)pu_dtype_size(dtype);
  return (size_t)((rows + PU_TILE_ROWS - 1) / PU_TILE_ROWS * ((cols + tile_k - 1) / tile_k)) * PU_TILE_BYTES;
}

/* ---- making the tiles ---- */

/* Lines become columns of four bytes. */
static void turn_tiles(char *tiles, int64_t n) {
  uint32_t line[PU_TILE_ROWS][PU_TILE_ROW_BYTES / 4];
  for (; n > 0; n--, tiles += PU_TILE_BYTES) {
    memcpy(line, tiles, sizeof line);
    for (int i = 0; i < PU_TILE_ROWS; i++) {
      uint32_t turned[PU_TILE_ROWS];
      for (int r = 0; r < PU_TILE_ROWS; r++) turned[r] = line[r][i];
      memcpy(tiles + i * PU_TILE_ROW_BYTES, turned, sizeof turned);
    }
  }
}

typedef struct tile_job {
  const pu_tensor *w;
  pu_tensor *out;
  bool turned;
} tile_job;

static void tile_rows(void *arg, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const tile_job *a = arg;
  int64_t size = (int64_t)pu_dtype_size(a->w->dtype), row_bytes = a->w->shape[1] * size;
  int64_t k_tiles = (row_bytes + PU_TILE_ROW_BYTES - 1) / PU_TILE_ROW_BYTES;
  for (int64_t row = begin * PU_TILE_ROWS; row < end * PU_TILE_ROWS; row++) {
    char *line =
        (char *)a->out->data + row / PU_TILE_ROWS * k_tiles * PU_TILE_BYTES + row % PU_TILE_ROWS * PU_TILE_ROW_BYTES;
    const char *from = (const char *)a->w->data + row * a->w->stride[0] * size;
    for (int64_t at = 0; at < row_bytes; at += PU_TILE_ROW_BYTES, line += PU_TILE_BYTES) {
      int64_t n = row < a->w->shape[0] ? PU_MIN(row_bytes - at, PU_TILE_ROW_BYTES) : 0;
      if (n > 0) memcpy(line, from + at, (size_t)n);
      memset(line + n, 0, (size_t)(PU_TILE_ROW_BYTES - n));
    }
    if (a->turned && row % PU_TILE_ROWS == PU_TILE_ROWS - 1)
      turn_tiles((char *)a->out->data + row / PU_TILE_ROWS * k_tiles * PU_TILE_BYTES, k_tiles);
  }
}

void pu_cpu_tile_weight(pu_cpu *cpu, const pu_tensor *w, pu_tensor *out) {
  const pu_gemm_kernel *kn = pu_gemm_kernel_for(cpu->isa, w->dtype);
  tile_job a = {w, out, kn && !kn->tiles};
  pu_pool_run(cpu->pool, (w->shape[0] + PU_TILE_ROWS - 1) / PU_TILE_ROWS, 16, tile_rows, &a);
}

/* ---- few tokens ---- */

/* Rows [first, first + rows) are group i of some. */
typedef struct group {
  int first, rows;
} group;

static int groups_of(const pu_stream_form *f, int rows) {
  return (rows + f->most - 1) / f->most;
}

static group group_at(int rows, int groups, int i) {
  int first = rows * i / groups;
  return (group){first, rows * (i + 1) / groups - first};
}

/* A step holds four bytes of each row as they come, or what they become. Weights behind the last k are zeros: so must x
 * be, to a whole tile. */
void pu_stream_pack_groups(const pu_stream_form *f, void *dst, const pu_panel *x, int64_t k_tiles) {
  int64_t size = (int64_t)pu_dtype_size(x->type), row_bytes = k_tiles * PU_TILE_ROWS * f->step;
  int64_t step_k = 4 / size, steps = (x->k + step_k - 1) / step_k;
  for (int i = 0, n = groups_of(f, x->rows); i < n; i++) {
    group g = group_at(x->rows, n, i);
    pu_panel p = {
        (const char *)x->data + g.first * x->r_step * size, x->type, x->r_step, 1, g.rows, g.rows, g.rows, x->k};
    char *to = (char *)dst + g.first * row_bytes;
    memset(to + PU_MAX(steps - 1, 0) * g.rows * f->step, 0,
           (size_t)(g.rows * (row_bytes - PU_MAX(steps - 1, 0) * f->step)));
    f->pack(to, &p);
  }
}

void pu_stream_groups(const pu_stream_form *f, const void *w, int64_t k_tiles, const void *x, int rows, float *out) {
  const int groups = groups_of(f, rows);
  int64_t t = 0;
  do { /* once where there is no k: sums of nothing */
    const int64_t lines = PU_MIN(k_tiles - t, f->run_tiles) * PU_TILE_ROWS;
    for (int i = 0; i < groups; i++) {
      group g = group_at(rows, groups, i);
      const char *from = (const char *)x + (g.first * k_tiles + g.rows * t) * PU_TILE_ROWS * f->step;
      f->part[g.rows - 1]((const char *)w + t * PU_TILE_BYTES, lines, from, out + g.first * PU_TILE_ROWS, t > 0);
    }
    t += f->run_tiles;
  } while (t < k_tiles);
}

typedef struct stream_arg {
  const pu_gemm_kernel *kernel;
  const pu_tensor *w, *b;
  pu_tensor *y;
  const void *x; /* packed */
  int64_t first_token, k_tiles;
  int rows;
} stream_arg;

enum { MOST_STREAM_ROWS = 64 };

static void stream_tiles(void *arg, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const stream_arg *s = arg;
  _Alignas(64) float out[PU_TILE_ROWS * MOST_STREAM_ROWS];
  int64_t y_size = (int64_t)pu_dtype_size(s->y->dtype), b_size = s->b ? (int64_t)pu_dtype_size(s->b->dtype) : 0;
  const bool turned = !s->kernel->tiles;
  const int ld = turned ? PU_TILE_ROWS : MOST_STREAM_ROWS;
  if (s->kernel->begin) s->kernel->begin();
  for (int64_t i = begin; i < end; i++) {
    int64_t feature = i * PU_TILE_ROWS;
    int features = (int)PU_MIN(s->w->shape[0] - feature, PU_TILE_ROWS);
    s->kernel->stream((const char *)s->w->data + i * s->k_tiles * PU_TILE_BYTES, s->k_tiles, s->x, s->rows, out, ld);
    pu_gemm_tile t = {.acc = out,
                      .ld = ld,
                      .rows = turned ? s->rows : features,
                      .cols = turned ? features : s->rows,
                      .c = (char *)s->y->data + (s->first_token * s->y->stride[0] + feature) * y_size,
                      .type = s->y->dtype,
                      .c_row = s->y->stride[0],
                      .transposed = !turned,
                      .alpha = 1.0f,
                      .bias = s->b ? (const char *)s->b->data + feature * b_size : NULL,
                      .bias_type = s->b ? s->b->dtype : PU_F32};
    s->kernel->stream_store(&t);
  }
  if (s->kernel->end) s->kernel->end();
}

static void linear_stream(pu_cpu *cpu, const pu_gemm_kernel *kn, const pu_tensor *x, const pu_tensor *w,
                          const pu_tensor *b, pu_tensor *y) {
  int64_t tile_k = PU_TILE_ROW_BYTES / (int64_t)pu_dtype_size(w->dtype), k = w->shape[1];
  int64_t k_tiles = (k + tile_k - 1) / tile_k, tile_rows_n = (w->shape[0] + PU_TILE_ROWS - 1) / PU_TILE_ROWS;
  stream_arg s = {
      .kernel = kn, .w = w, .b = b, .y = y, .x = cpu->scratch[0], .k_tiles = k_tiles, .rows = (int)x->shape[0]};
  pu_panel p = {x->data, x->dtype, x->stride[0], 1, s.rows, s.rows, 0, k};
  kn->stream_pack(cpu->scratch[0], &p, k_tiles);
  /* Long runs of memory for each thread, yet enough of them to share out evenly. */
  enum { CHUNK_BYTES = 1 << 20, CHUNKS_PER_THREAD = 4 };
  int64_t row_bytes = k_tiles * PU_TILE_BYTES + 1, shares = (int64_t)CHUNKS_PER_THREAD * pu_pool_size(cpu->pool);
  int64_t grain = PU_MIN(CHUNK_BYTES / row_bytes, tile_rows_n / shares);
  pu_pool_run(cpu->pool, tile_rows_n, PU_MAX(grain, 1), stream_tiles, &s);
}

/* ---- many tokens ---- */

/* With AMX weight tiles are tiles of A, so y^T = w x^T and each block is transposed on its way out; elsewhere
 * y = x w^T and B is packed from the tiles. */
static void linear_blocks(pu_cpu *cpu, const pu_gemm_kernel *kn, const pu_tensor *x, const pu_tensor *w,
                          const pu_tensor *b, pu_tensor *y) {
  int64_t tokens = x->shape[0], features = w->shape[0];
  pu_gemm_job j = {.g = {.k = w->shape[1],
                         .c = y->data,
                         .c_row = y->stride[0],
                         .ab_type = w->dtype,
                         .c_type = y->dtype,
                         .alpha = 1.0f,
                         .bias = b ? b->data : NULL,
                         .bias_type = b ? b->dtype : PU_F32},
                   .kernel = kn};
  if (kn->tiles) {
    j.a_tiled = j.c_transposed = true;
    j.g.m = features, j.g.n = tokens;
    j.g.a = w->data;
    j.g.b = x->data, j.g.b_row = 1, j.g.b_col = x->stride[0];
  } else {
    j.b_tiled = true;
    j.g.m = tokens, j.g.n = features;
    j.g.a = x->data, j.g.a_row = x->stride[0], j.g.a_col = 1;
    j.g.b = w->data;
  }
  pu_gemm_run(cpu, &j);
}

void pu_cpu_linear_tiled(pu_cpu *cpu, const pu_tensor *x, const pu_tensor *w, const pu_tensor *b, pu_tensor *y) {
  const pu_gemm_kernel *kn = pu_gemm_kernel_for(cpu->isa, w->dtype);
  if (!kn)
    pu_linear_tiled_reference(x, w, b, y);
  else if (x->shape[0] > kn->stream_rows || x->shape[0] * (w->shape[1] * 4 + 8192) > (int64_t)cpu->scratch_bytes)
    linear_blocks(cpu, kn, x, w, b, y);
  else if (x->shape[0] > 0)
    linear_stream(cpu, kn, x, w, b, y);
}
