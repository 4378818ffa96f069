/* Weights in few bits: packing them, and the driver of their products. */
#include "src/compute/cpu/packed.h"

#include <string.h>

#include "src/compute/cpu/gemm_kernel.h"
#include "src/compute/cpu/gemm_plain.h"
#include "src/compute/cpu/ref/ref.h"

/* ---- layout ---- */

typedef struct layout {
  int64_t groups, k, blocks;      /* k: K' */
  size_t scale, zero, order, end; /* where they begin */
} layout;

static size_t line(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

static layout layout_of(const pu_packing *p, int64_t rows, int64_t cols) {
  layout l = {.groups = pu_packed_groups(p, cols), .blocks = (rows + PU_PACKED_ROWS - 1) / PU_PACKED_ROWS};
  l.k = l.groups * p->group;
  size_t scales = line((size_t)(l.blocks * l.groups * PU_PACKED_ROWS) * sizeof(uint16_t));
  l.scale = (size_t)(l.blocks * l.k * PU_PACKED_ROWS) * (size_t)p->bits / 8;
  l.zero = l.scale + scales;
  l.order = l.zero + (p->zeros ? scales : 0);
  l.end = l.order + (p->ordered ? line((size_t)l.k * sizeof(int32_t)) : 0);
  return l;
}

size_t pu_packed_bytes(const pu_packing *p, int64_t rows, int64_t cols) {
  return layout_of(p, rows, cols).end;
}

pu_tensor pu_packed_matrix(const pu_tensor *w, int64_t i) {
  pu_tensor m = *w;
  m.ndim = 2;
  m.shape[0] = w->shape[1], m.shape[1] = w->shape[2];
  m.stride[0] = w->shape[2], m.stride[1] = 1;
  m.data = (char *)w->data + (size_t)i * pu_packed_bytes(&w->packing, m.shape[0], m.shape[1]);
  return m;
}

/* ---- packing ---- */

typedef struct pack_job {
  const pu_pack_weight_args *a;
  pu_packing p;
  layout l;
  int64_t rows, cols;
  char *to; /* of this matrix */
  const uint8_t *q;
  const float *scale, *zero;
} pack_job;

static void pack_scales(const pack_job *j, int64_t block, const float *from, uint16_t *to) {
  for (int64_t g = 0; g < j->l.groups; g++)
    for (int64_t r = 0; r < PU_PACKED_ROWS; r++) {
      int64_t row = block * PU_PACKED_ROWS + r;
      to[(block * j->l.groups + g) * PU_PACKED_ROWS + r] =
          row < j->rows ? pu_f32_to_f16(from[row * j->l.groups + g]) : 0;
    }
}

/* Row r of a block: the byte of place k is [k / 4][r][k % 4]; two lines share one where there are four bits. */
static void pack_row(const pack_job *j, const uint8_t *from, int64_t r, uint8_t *block) {
  for (int64_t k = 0; k < j->l.k; k++) {
    int64_t input = j->a->order ? j->a->order[k] : k < j->cols ? k : -1, l = k / 4;
    uint8_t v = from && input >= 0 ? from[input] : 0;
    if (j->p.bits == 8)
      block[l * PU_PACKED_LINE + r * 4 + k % 4] = v;
    else if (l % 2 == 0)
      block[l / 2 * PU_PACKED_LINE + r * 4 + k % 4] = v;
    else
      block[l / 2 * PU_PACKED_LINE + r * 4 + k % 4] |= (uint8_t)(v << 4);
  }
}

static void pack_blocks(void *arg, int64_t begin, int64_t end, int worker) {
  const pack_job *j = arg;
  int64_t bytes = j->l.k * PU_PACKED_ROWS * j->p.bits / 8;
  (void)worker;
  for (int64_t b = begin; b < end; b++) {
    for (int64_t r = 0; r < PU_PACKED_ROWS; r++) {
      int64_t row = b * PU_PACKED_ROWS + r;
      pack_row(j, row < j->rows ? j->q + row * j->cols : NULL, r, (uint8_t *)j->to + b * bytes);
    }
    pack_scales(j, b, j->scale, (uint16_t *)(j->to + j->l.scale));
    if (j->zero) pack_scales(j, b, j->zero, (uint16_t *)(j->to + j->l.zero));
  }
}

pu_err pu_ref_pack_weight(pu_backend *be, void *args, pu_error *e) {
  const pu_pack_weight_args *a = args;
  const pu_tensor *out = a->out;
  int64_t n = out->ndim == 3 ? out->shape[0] : 1, rows = out->shape[out->ndim - 2], cols = out->shape[out->ndim - 1];
  pack_job j = {.a = a, .p = out->packing, .l = layout_of(&out->packing, rows, cols), .rows = rows, .cols = cols};
  (void)e;
  for (int64_t i = 0; i < n; i++) {
    j.to = (char *)out->data + (size_t)i * j.l.end;
    j.q = a->q + i * rows * cols;
    j.scale = a->scale + i * rows * j.l.groups;
    j.zero = a->zero ? a->zero + i * rows * j.l.groups : NULL;
    pu_pool_run(((pu_cpu *)be)->pool, j.l.blocks, 4, pack_blocks, &j);
    if (a->order) memcpy(j.to + j.l.order, a->order, (size_t)j.l.k * sizeof *a->order);
  }
  return PU_OK;
}

/* ---- x ---- */

/* Rows an odd number of lines apart: the same places of several rows do not fight for the same lines of L1. */
static int64_t x_row_bytes(int64_t k, pu_dtype dtype) {
  int64_t lines = (k * (dtype == PU_F32 ? 4 : 1) + 63) / 64;
  return (lines | 1) * 64;
}

size_t pu_packed_work_bytes(int64_t tokens, int64_t cols, pu_dtype dtype) {
  int64_t n = pu_packed_tokens(PU_MIN(tokens, PU_PACKED_TOKENS)), k = cols + PU_PACKED_MAX_GROUP;
  return (size_t)n * (size_t)(x_row_bytes(k, dtype) + 64) + (size_t)(n * (k / 32 + 1)) * sizeof(pu_x_group) + 64;
}

typedef struct linear_job {
  const pu_packed_kernel *kernel;
  const pu_gemm_kernel *store; /* NULL: the reference */
  const pu_tensor *x, *w, *b;
  pu_tensor *y;
  const int32_t *order;
  layout l;
  int64_t first; /* of the tokens that run now */
  pu_packed_job job;
  char *const *scratch;
} linear_job;

/* Inputs in the order of the weights' places, as f32, zeros behind. */
static void place_row(const linear_job *j, int64_t token, float *out) {
  const pu_tensor *x = j->x;
  int64_t cols = x->shape[1];
  const char *row = (const char *)x->data + (size_t)(token * x->stride[0]) * pu_dtype_size(x->dtype);
  if (!j->order) {
    pu_convert(out, PU_F32, row, x->dtype, cols);
    memset(out + cols, 0, (size_t)(j->l.k - cols) * sizeof *out);
    return;
  }
  for (int64_t k = 0; k < j->l.k; k++) out[k] = j->order[k] < 0 ? 0 : pu_load_float(row, j->order[k], x->dtype);
}

/* Tokens behind the last are zeros: kernels take them thirty-two at a time. */
static void prepare_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const linear_job *j = arg;
  bool exact = j->x->dtype == PU_F32;
  int64_t groups = j->l.groups;
  for (int64_t t = begin; t < end; t++) {
    char *row = (char *)j->job.x + (size_t)(t * j->job.x_row) * (exact ? sizeof(float) : 1);
    float *values = exact ? (float *)row : (float *)j->scratch[worker];
    pu_x_group *xg = (pu_x_group *)j->job.xg + t * groups;
    if (t >= j->job.tokens) {
      memset(row, 0, (size_t)j->l.k * (exact ? sizeof(float) : 1));
      if (!exact) memset(xg, 0, (size_t)groups * sizeof *xg);
      continue;
    }
    place_row(j, j->first + t, values);
    if (!exact) j->kernel->round(values, groups, j->job.group, (int8_t *)row, xg);
  }
}

/* ---- y ---- */

/* Some tokens' sums of one block. */
static void store_block(const linear_job *j, int64_t block, int64_t token, int64_t tokens, const float *acc) {
  int64_t feature = block * PU_PACKED_ROWS, y_size = (int64_t)pu_dtype_size(j->y->dtype);
  int64_t b_size = j->b ? (int64_t)pu_dtype_size(j->b->dtype) : 0;
  pu_gemm_tile t = {.acc = acc + token * PU_PACKED_ROWS,
                    .ld = PU_PACKED_ROWS,
                    .rows = (int)tokens,
                    .cols = (int)PU_MIN(j->w->shape[0] - feature, PU_PACKED_ROWS),
                    .c = (char *)j->y->data + ((j->first + token) * j->y->stride[0] + feature) * y_size,
                    .type = j->y->dtype,
                    .c_row = j->y->stride[0],
                    .alpha = 1.0f,
                    .bias = j->b ? (const char *)j->b->data + feature * b_size : NULL,
                    .bias_type = j->b ? j->b->dtype : PU_F32};
  if (j->store)
    j->store->stream_store(&t);
  else
    for (int i = 0; i < t.rows; i++) pu_gemm_store_row(&t, i);
}

/* Few tokens at a time: rows of y may lie a multiple of 4 KiB apart, and L1 holds twelve such lines; a block is half a
 * line of bf16. */
static void store_blocks(const linear_job *j, int64_t block, int64_t blocks, const float *acc) {
  enum { AT_A_TIME = 8 };
  const int64_t of_block = pu_packed_tokens(j->job.tokens) * PU_PACKED_ROWS;
  for (int64_t t = 0; t < j->job.tokens; t += AT_A_TIME)
    for (int64_t i = 0; i < blocks; i++)
      store_block(j, block + i, t, PU_MIN(j->job.tokens - t, AT_A_TIME), acc + i * of_block);
}

static void run_blocks(void *arg, int64_t begin, int64_t end, int worker) {
  const linear_job *j = arg;
  float *acc = (float *)j->scratch[worker];
  char *room = j->scratch[worker] + PU_PACKED_BLOCKS * PU_PACKED_TOKENS * PU_PACKED_ROWS * sizeof(float);
  int64_t bytes = pu_packed_block_bytes(&j->job), scales = j->l.groups * PU_PACKED_ROWS;
  for (int64_t b = begin; b < end; b += PU_PACKED_BLOCKS) {
    pu_packed_job part = j->job;
    part.blocks = PU_MIN(end - b, PU_PACKED_BLOCKS);
    part.q += b * bytes;
    part.scale += b * scales;
    if (part.zero) part.zero += b * scales;
    part.acc = acc;
    if (j->x->dtype == PU_F32)
      j->kernel->exact(&part);
    else
      j->kernel->integer(&part, room);
    store_blocks(j, b, part.blocks, acc);
  }
}

/* With many tokens as many blocks as share their x, in pairs. With few, long runs of memory, for each begins with a
 * wait. Yet enough of them that no thread waits long for the last one. */
static int64_t grain_of(const linear_job *j, int threads) {
  enum { MOST_BYTES = 1 << 18, LEAST_BYTES = 1 << 16, SHARES = 4, LEAST_WORK = 1 << 18 };
  int64_t bytes = pu_packed_block_bytes(&j->job), work = j->l.k * PU_PACKED_ROWS * j->job.tokens;
  int64_t share = j->l.blocks / (SHARES * threads), least = PU_MAX(LEAST_WORK / work, 1);
  if (j->job.tokens > PU_PACKED_FEW)
    share = (PU_MAX(share, least) + 1) / 2 * 2;
  else
    share = PU_MAX(PU_MIN(PU_MAX(share * bytes, (int64_t)LEAST_BYTES), (int64_t)MOST_BYTES) / bytes, least);
  return PU_MIN(share, PU_PACKED_BLOCKS);
}

void pu_cpu_linear_packed(pu_cpu *cpu, const pu_tensor *x, const pu_tensor *w, const pu_tensor *b, pu_tensor *y,
                          void *work) {
  static const pu_packed_kernel *const kernels[PU_ISA_COUNT] = {&pu_packed_ref, &pu_packed_avx2, &pu_packed_avx512,
                                                                &pu_packed_amx};
  const pu_packing *p = &w->packing;
  layout l = layout_of(p, w->shape[0], w->shape[1]);
  const char *data = w->data;
  int64_t most = pu_packed_tokens(PU_MIN(x->shape[0], PU_PACKED_TOKENS)), row = x_row_bytes(l.k, x->dtype);
  linear_job j = {.kernel = kernels[cpu->isa],
                  .store = pu_gemm_kernel_for(cpu->isa, PU_F32),
                  .x = x,
                  .w = w,
                  .b = b,
                  .y = y,
                  .order = p->ordered ? (const int32_t *)(data + l.order) : NULL,
                  .l = l,
                  .scratch = (char *const *)cpu->scratch};
  j.job = (pu_packed_job){.bits = p->bits,
                          .group = p->group,
                          .groups = l.groups,
                          .q = w->data,
                          .scale = (const uint16_t *)(data + l.scale),
                          .zero = p->zeros ? (const uint16_t *)(data + l.zero) : NULL,
                          .x = work,
                          .x_row = row / (x->dtype == PU_F32 ? 4 : 1),
                          .xg = (const pu_x_group *)((char *)work + most * row)};
  for (; j.first < x->shape[0]; j.first += PU_PACKED_TOKENS) {
    j.job.tokens = PU_MIN(x->shape[0] - j.first, PU_PACKED_TOKENS);
    int64_t rows = j.job.tokens > PU_PACKED_FEW ? pu_packed_tokens(j.job.tokens) : j.job.tokens;
    pu_pool_run(cpu->pool, rows, PU_MAX(32768 / l.k, 1), prepare_rows, &j);
    pu_pool_run(cpu->pool, l.blocks, grain_of(&j, pu_pool_size(cpu->pool)), run_blocks, &j);
  }
}
