/* The operations that are one or two passes over rows, once for every instruction set: the including file has chosen
 * the vector words (vec16_*.h) and defined v_exp, v_inverse, v_div, v_sqrt, lanes and put_lanes.
 *
 * Each kernel is written for a type it is told; the compiler makes one copy for f32 and one for bf16, because the type
 * is a constant where the kernel is called. Sums over rows are made per chunk of rows, in the chunk's own memory, and
 * added in the order of the chunks: the same whatever the number of threads. */
#ifndef PUYU_ELEMENTWISE_BODY_H
#define PUYU_ELEMENTWISE_BODY_H

#include <math.h>
#include <string.h>

#include "src/compute/cpu/loss.h"
#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

#define INLINE static inline __attribute__((always_inline))

/* The address of element i of memory of a type. */
INLINE void *element(const void *p, pu_dtype type, int64_t i) {
  return (char *)(uintptr_t)p + (type == PU_F32 ? 4 : 2) * i;
}

INLINE v16 read16(const void *row, pu_dtype type, int64_t i, int64_t n) {
  return lanes(element(row, type, i), type, n - i);
}

INLINE void write16(void *row, pu_dtype type, int64_t i, int64_t n, v16 v) {
  put_lanes(element(row, type, i), type, v, n - i);
}

/* Overwrites, or adds to what is there. */
INLINE void add16(void *row, pu_dtype type, int64_t i, int64_t n, v16 v, bool add) {
  if (add) v = v_add(v, read16(row, type, i, n));
  write16(row, type, i, n, v);
}

/* Asks for the place where the next row's element i lies: with several streams of a few KiB a row, the processor's own
 * prefetching starts anew with every row. */
INLINE void ahead(const void *row, pu_dtype type, int64_t i) {
  __builtin_prefetch(element(row, type, i), 0, 2);
}

/* Rows a thread takes at a time: some 128 KiB of f32. */
static int64_t grain_for(int64_t width) {
  return PU_MIN(PU_MAX(32768 / PU_MAX(width, 1), 1), 256);
}

/* ---- rmsnorm_add ----------------------------------------------------------------------------------------------- */

INLINE void norm_row(const pu_rmsnorm_add_args *a, int64_t n, pu_dtype type) {
  int64_t width = a->res->shape[1];
  float *h = pu_row(a->h, n), *rstd = a->rstd->data;
  const float *res = pu_row(a->res, n);
  const void *x = a->x ? pu_row(a->x, n) : NULL;
  v16 squares = v_set1(0);
  for (int64_t c = 0; c < width; c += 16) {
    v16 v = read16(res, PU_F32, c, width);
    if (x) {
      v = v_add(v, read16(x, type, c, width));
      write16(h, PU_F32, c, width, v);
    }
    squares = v_fma(v, v, squares);
  }
  rstd[n] = 1 / sqrtf(v_sum(squares) / (float)width + a->eps);
  v16 r = v_set1(rstd[n]);
  void *y = pu_row(a->y, n);
  for (int64_t c = 0; c < width; c += 16) {
    v16 v = v_mul(read16(h, PU_F32, c, width), r);
    write16(y, type, c, width, v_mul(v, read16(a->w->data, PU_F32, c, width)));
  }
}

static void norm_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_rmsnorm_add_args *a = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    if (a->y->dtype == PU_F32)
      norm_row(a, n, PU_F32);
    else
      norm_row(a, n, PU_BF16);
  }
}

/* Weights in f32, as models keep them, and one compute type for the rest; other mixes are the reference's. */
static bool norm_is_uniform(const pu_rmsnorm_add_args *a) {
  return a->w->dtype == PU_F32 && (!a->x || a->x->dtype == a->y->dtype);
}

static pu_err rmsnorm_add(pu_backend *be, void *args, pu_error *e) {
  const pu_rmsnorm_add_args *a = args;
  if (!norm_is_uniform(a)) return pu_ref_rmsnorm_add(be, args, e);
  pu_pool_run(((pu_cpu *)be)->pool, a->res->shape[0], grain_for(a->res->shape[1]), norm_rows, args);
  return PU_OK;
}

typedef struct norm_back {
  const pu_rmsnorm_add_args *a;
  float *sums;  /* [chunks, C] of dw, or NULL */
  int64_t rows; /* of a chunk */
  bool more, add_res, add_x;
} norm_back;

INLINE void norm_row_back(const norm_back *b, int64_t n, float *sums, pu_dtype type) {
  const pu_rmsnorm_add_args *a = b->a;
  int64_t width = a->res->shape[1];
  const float *h = pu_row(a->h, n);
  const void *dy = pu_row(a->y->grad, n), *w = a->w->data;
  v16 dot = v_set1(0), r = v_set1(((const float *)a->rstd->data)[n]);
  for (int64_t c = 0; c < width; c += 16) {
    v16 dyh = v_mul(read16(dy, type, c, width), read16(h, PU_F32, c, width));
    dot = v_fma(dyh, read16(w, PU_F32, c, width), dot);
    if (sums) write16(sums, PU_F32, c, width, v_fma(dyh, r, read16(sums, PU_F32, c, width)));
  }
  float rstd = ((const float *)a->rstd->data)[n];
  v16 pull = v_set1(-v_sum(dot) / (float)width * rstd * rstd * rstd);
  const float *dh = b->more ? pu_row(a->h->grad, n) : NULL;
  float *dres = a->res->grad ? pu_row(a->res->grad, n) : NULL;
  void *dx = a->x && a->x->grad ? pu_row(a->x->grad, n) : NULL;
  for (int64_t c = 0; c < width; c += 16) {
    v16 v = v_mul(v_mul(read16(dy, type, c, width), read16(w, PU_F32, c, width)), r);
    v = v_fma(read16(h, PU_F32, c, width), pull, v);
    if (dh) v = v_add(v, read16(dh, PU_F32, c, width));
    if (dres) add16(dres, PU_F32, c, width, v, b->add_res);
    if (dx) add16(dx, type, c, width, v, b->add_x);
  }
}

static void norm_rows_back(void *arg, int64_t begin, int64_t end, int worker) {
  const norm_back *b = arg;
  int64_t width = b->a->res->shape[1];
  float *sums = b->sums ? b->sums + begin / b->rows * width : NULL;
  (void)worker;
  if (sums) memset(sums, 0, (size_t)width * sizeof *sums);
  for (int64_t n = begin; n < end; n++) {
    if (b->a->y->dtype == PU_F32)
      norm_row_back(b, n, sums, PU_F32);
    else
      norm_row_back(b, n, sums, PU_BF16);
  }
}

/* out (+)= the sum of the chunks' rows, which lie `stride` apart, in their order. */
static void add_chunks(float *out, const float *sums, int64_t chunks, int64_t stride, int64_t width, bool add) {
  for (int64_t c = 0; c < width; c += 16) {
    v16 v = v_set1(0);
    for (int64_t i = 0; i < chunks; i++) v = v_add(v, read16(sums + i * stride, PU_F32, c, width));
    add16(out, PU_F32, c, width, v, add);
  }
}

/* At most 64 chunks, so that their sums stay small beside the rows. */
static int64_t chunk_rows(int64_t n) {
  return PU_MAX((n + 63) / 64, 16);
}

static pu_err rmsnorm_add_back(pu_backend *be, void *args, pu_error *e) {
  const pu_rmsnorm_add_args *a = args;
  pu_cpu *cpu = (pu_cpu *)be;
  int64_t n = a->res->shape[0], width = a->res->shape[1];
  if (!norm_is_uniform(a)) return pu_ref_rmsnorm_add_back(be, args, e);
  norm_back b = {.a = a, .rows = chunk_rows(n), .more = a->h != a->res && a->h->grad && a->h->grad_set};
  int64_t chunks = (n + b.rows - 1) / b.rows;
  void *work = NULL;
  if (a->w->grad) PU_TRY(pu_cpu_work(cpu, (size_t)(chunks * width) * sizeof(float), &work, e));
  b.sums = work;
  if (a->res->grad) b.add_res = pu_grad_beta(a->res) != 0;
  if (a->x && a->x->grad) b.add_x = pu_grad_beta(a->x) != 0;
  pu_pool_run(cpu->pool, n, b.rows, norm_rows_back, &b);
  if (a->w->grad) add_chunks(a->w->grad->data, b.sums, chunks, width, width, pu_grad_beta(a->w) != 0);
  return PU_OK;
}

/* ---- qk_norm: the same, head by head --------------------------------------------------------------------------- */

INLINE void head_norm(const pu_qk_norm_args *a, int64_t n, int64_t head, pu_dtype type) {
  int64_t d0 = head * a->head_dim, dim = a->head_dim;
  const void *x = element(pu_row(a->qkv, n), type, d0), *w = head < a->heads ? a->wq->data : a->wk->data;
  void *y = element(pu_row(a->out, n), type, d0);
  v16 squares = v_set1(0);
  for (int64_t d = 0; d < dim; d += 16) {
    v16 v = read16(x, type, d, dim);
    squares = v_fma(v, v, squares);
  }
  float rstd = 1 / sqrtf(v_sum(squares) / (float)dim + a->eps);
  if (a->rstd) ((float *)pu_row(a->rstd, n))[head] = rstd;
  v16 r = v_set1(rstd);
  for (int64_t d = 0; d < dim; d += 16)
    write16(y, type, d, dim, v_mul(v_mul(read16(x, type, d, dim), r), read16(w, PU_F32, d, dim)));
}

INLINE void qk_norm_row(const pu_qk_norm_args *a, int64_t n, pu_dtype type) {
  int64_t normed = a->heads + a->kv_heads, v0 = normed * a->head_dim, values = (int64_t)a->kv_heads * a->head_dim;
  for (int64_t head = 0; head < normed; head++) head_norm(a, n, head, type);
  if (a->out->data != a->qkv->data)
    memcpy(element(pu_row(a->out, n), type, v0), element(pu_row(a->qkv, n), type, v0),
           (size_t)values * (type == PU_F32 ? 4 : 2));
}

static void qk_norm_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_qk_norm_args *a = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    if (a->qkv->dtype == PU_F32)
      qk_norm_row(a, n, PU_F32);
    else
      qk_norm_row(a, n, PU_BF16);
  }
}

static bool qk_norm_is_uniform(const pu_qk_norm_args *a) {
  return a->wq->dtype == PU_F32 && a->wk->dtype == PU_F32;
}

static pu_err qk_norm(pu_backend *be, void *args, pu_error *e) {
  const pu_qk_norm_args *a = args;
  if (!qk_norm_is_uniform(a)) return pu_ref_qk_norm(be, args, e);
  pu_pool_run(((pu_cpu *)be)->pool, a->qkv->shape[0], grain_for(a->qkv->shape[1]), qk_norm_rows, args);
  return PU_OK;
}

typedef struct qk_back {
  const pu_qk_norm_args *a;
  float *sums;  /* [chunks, 2 D] of dwq and dwk */
  int64_t rows; /* of a chunk */
  bool add;
} qk_back;

INLINE void head_norm_back(const qk_back *b, int64_t n, int64_t head, float *sums, pu_dtype type) {
  const pu_qk_norm_args *a = b->a;
  int64_t d0 = head * a->head_dim, dim = a->head_dim;
  const void *x = element(pu_row(a->qkv, n), type, d0), *w = head < a->heads ? a->wq->data : a->wk->data;
  const void *dy = element(pu_row(a->out->grad, n), type, d0);
  float rstd = ((const float *)pu_row(a->rstd, n))[head];
  v16 dot = v_set1(0), r = v_set1(rstd);
  for (int64_t d = 0; d < dim; d += 16) {
    v16 dyx = v_mul(read16(dy, type, d, dim), read16(x, type, d, dim));
    dot = v_fma(dyx, read16(w, PU_F32, d, dim), dot);
    write16(sums, PU_F32, d, dim, v_fma(dyx, r, read16(sums, PU_F32, d, dim)));
  }
  if (!a->qkv->grad) return;
  void *dx = element(pu_row(a->qkv->grad, n), type, d0);
  v16 pull = v_set1(-v_sum(dot) / (float)dim * rstd * rstd * rstd);
  for (int64_t d = 0; d < dim; d += 16) {
    v16 v = v_mul(v_mul(read16(dy, type, d, dim), read16(w, PU_F32, d, dim)), r);
    add16(dx, type, d, dim, v_fma(read16(x, type, d, dim), pull, v), b->add);
  }
}

INLINE void qk_norm_row_back(const qk_back *b, int64_t n, float *sums, pu_dtype type) {
  const pu_qk_norm_args *a = b->a;
  int64_t normed = a->heads + a->kv_heads, width = a->qkv->shape[1];
  for (int64_t head = 0; head < normed; head++)
    head_norm_back(b, n, head, head < a->heads ? sums : sums + a->head_dim, type);
  if (!a->qkv->grad) return;
  const void *dy = pu_row(a->out->grad, n);
  void *dx = pu_row(a->qkv->grad, n);
  for (int64_t c = normed * a->head_dim; c < width; c += 16)
    add16(dx, type, c, width, read16(dy, type, c, width), b->add);
}

static void qk_norm_rows_back(void *arg, int64_t begin, int64_t end, int worker) {
  const qk_back *b = arg;
  int64_t width = 2 * (int64_t)b->a->head_dim;
  float *sums = b->sums + begin / b->rows * width;
  (void)worker;
  memset(sums, 0, (size_t)width * sizeof *sums);
  for (int64_t n = begin; n < end; n++) {
    if (b->a->qkv->dtype == PU_F32)
      qk_norm_row_back(b, n, sums, PU_F32);
    else
      qk_norm_row_back(b, n, sums, PU_BF16);
  }
}

static pu_err qk_norm_back(pu_backend *be, void *args, pu_error *e) {
  const pu_qk_norm_args *a = args;
  pu_cpu *cpu = (pu_cpu *)be;
  int64_t n = a->qkv->shape[0], dim = a->head_dim;
  if (!qk_norm_is_uniform(a)) return pu_ref_qk_norm_back(be, args, e);
  qk_back b = {.a = a, .rows = chunk_rows(n)};
  int64_t chunks = (n + b.rows - 1) / b.rows;
  void *work;
  PU_TRY(pu_cpu_work(cpu, (size_t)(chunks * 2 * dim) * sizeof(float), &work, e));
  b.sums = work;
  if (a->qkv->grad) b.add = pu_grad_beta(a->qkv) != 0;
  pu_pool_run(cpu->pool, n, b.rows, qk_norm_rows_back, &b);
  if (a->wq->grad) add_chunks(a->wq->grad->data, b.sums, chunks, 2 * dim, dim, pu_grad_beta(a->wq) != 0);
  if (a->wk->grad) add_chunks(a->wk->grad->data, b.sums + dim, chunks, 2 * dim, dim, pu_grad_beta(a->wk) != 0);
  return PU_OK;
}

/* ---- rope ------------------------------------------------------------------------------------------------------ */

typedef struct rotation {
  const pu_tensor *t, *cs;
  int64_t heads, half;
  float sign; /* -1: back */
} rotation;

INLINE void rotate_row(const rotation *r, int64_t n, pu_dtype type) {
  const float *cos = pu_row(r->cs, n), *sin = cos + r->half;
  v16 sign = v_set1(r->sign);
  for (int64_t head = 0; head < r->heads; head++) {
    void *first = element(pu_row(r->t, n), type, head * 2 * r->half), *second = element(first, type, r->half);
    for (int64_t d = 0; d < r->half; d += 16) {
      v16 c = read16(cos, PU_F32, d, r->half), s = v_mul(sign, read16(sin, PU_F32, d, r->half));
      v16 x1 = read16(first, type, d, r->half), x2 = read16(second, type, d, r->half);
      write16(first, type, d, r->half, v_fms(x1, c, v_mul(x2, s)));
      write16(second, type, d, r->half, v_fma(x2, c, v_mul(x1, s)));
    }
  }
}

static void rotate_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const rotation *r = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    if (r->t->dtype == PU_F32)
      rotate_row(r, n, PU_F32);
    else
      rotate_row(r, n, PU_BF16);
  }
}

static pu_err rotate(pu_backend *be, const pu_rope_args *a, const pu_tensor *t, float sign) {
  rotation r = {t, a->cs, a->heads + a->kv_heads, a->head_dim / 2, sign};
  pu_pool_run(((pu_cpu *)be)->pool, t->shape[0], grain_for(t->shape[1]), rotate_rows, &r);
  return PU_OK;
}

static pu_err rope(pu_backend *be, void *args, pu_error *e) {
  const pu_rope_args *a = args;
  (void)e;
  return rotate(be, a, a->qkv, 1);
}

static pu_err rope_back(pu_backend *be, void *args, pu_error *e) {
  const pu_rope_args *a = args;
  (void)e;
  return rotate(be, a, a->qkv->grad, -1);
}

/* ---- swiglu ---------------------------------------------------------------------------------------------------- */

INLINE v16 v_sigmoid(v16 a) {
  return v_inverse(v_add(v_set1(1), v_exp(v_sub(v_set1(0), a))));
}

INLINE void swiglu_row(const pu_swiglu_args *a, int64_t n, pu_dtype type) {
  int64_t inner = a->y->shape[1];
  const void *gate = pu_row(a->gu, n), *up = element(gate, type, inner);
  void *y = pu_row(a->y, n);
  for (int64_t f = 0; f < inner; f += 16) {
    v16 g = read16(gate, type, f, inner);
    ahead(gate, type, f + a->gu->stride[0]);
    ahead(up, type, f + a->gu->stride[0]);
    ahead(y, type, f + a->y->stride[0]);
    write16(y, type, f, inner, v_mul(v_mul(g, v_sigmoid(g)), read16(up, type, f, inner)));
  }
}

static void swiglu_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_swiglu_args *a = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    if (a->y->dtype == PU_F32)
      swiglu_row(a, n, PU_F32);
    else
      swiglu_row(a, n, PU_BF16);
  }
}

static pu_err swiglu(pu_backend *be, void *args, pu_error *e) {
  const pu_swiglu_args *a = args;
  (void)e;
  pu_pool_run(((pu_cpu *)be)->pool, a->y->shape[0], grain_for(3 * a->y->shape[1]), swiglu_rows, args);
  return PU_OK;
}

typedef struct swiglu_job {
  const pu_swiglu_args *a;
  bool add;
} swiglu_job;

INLINE void swiglu_row_back(const swiglu_job *job, int64_t n, pu_dtype type) {
  const pu_swiglu_args *a = job->a;
  int64_t inner = a->y->shape[1];
  const void *gate = pu_row(a->gu, n), *up = element(gate, type, inner), *dy = pu_row(a->y->grad, n);
  void *dgate = pu_row(a->gu->grad, n), *dup = element(dgate, type, inner);
  for (int64_t f = 0; f < inner; f += 16) {
    v16 g = read16(gate, type, f, inner), u = read16(up, type, f, inner), d = read16(dy, type, f, inner);
    ahead(gate, type, f + a->gu->stride[0]);
    ahead(up, type, f + a->gu->stride[0]);
    ahead(dy, type, f + a->y->grad->stride[0]);
    ahead(dgate, type, f + a->gu->grad->stride[0]);
    ahead(dup, type, f + a->gu->grad->stride[0]);
    v16 s = v_sigmoid(g), gs = v_mul(g, s);
    v16 slope = v_fma(gs, v_sub(v_set1(1), s), s); /* s + g s (1 - s) */
    add16(dgate, type, f, inner, v_mul(v_mul(d, u), slope), job->add);
    add16(dup, type, f, inner, v_mul(d, gs), job->add);
    if (a->again) write16(pu_row(a->y, n), type, f, inner, v_mul(gs, u));
  }
}

static void swiglu_rows_back(void *arg, int64_t begin, int64_t end, int worker) {
  const swiglu_job *job = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    if (job->a->y->dtype == PU_F32)
      swiglu_row_back(job, n, PU_F32);
    else
      swiglu_row_back(job, n, PU_BF16);
  }
}

static pu_err swiglu_back(pu_backend *be, void *args, pu_error *e) {
  const pu_swiglu_args *a = args;
  swiglu_job job = {a, pu_grad_beta(a->gu) != 0};
  (void)e;
  pu_pool_run(((pu_cpu *)be)->pool, a->y->shape[0], grain_for(5 * a->y->shape[1]), swiglu_rows_back, &job);
  return PU_OK;
}

/* ---- embedding, backward: the tokens sorted by id, so that each row of dw has one owner ------------------------ */

typedef struct embedding_job {
  const pu_embedding_args *a;
  int32_t *start; /* [V + 1] */
  int32_t *order; /* [N] the tokens, by id, then by place */
  bool add;
} embedding_job;

static void sort_tokens(const embedding_job *job) {
  const int32_t *ids = job->a->ids->data;
  int64_t vocab = job->a->w->shape[0], n = job->a->ids->shape[0];
  memset(job->start, 0, (size_t)(vocab + 1) * sizeof *job->start);
  for (int64_t i = 0; i < n; i++) job->start[ids[i] + 1]++;
  for (int64_t v = 0; v < vocab; v++) job->start[v + 1] += job->start[v];
  for (int64_t i = 0; i < n; i++) job->order[job->start[ids[i]]++] = (int32_t)i;
  for (int64_t v = vocab; v > 0; v--)
    job->start[v] = job->start[v - 1]; /* filling moved each start to the next one's */
  job->start[0] = 0;
}

/* A piece of the row at a time, summed in f32 and rounded once. */
INLINE void embedding_row_back(const embedding_job *job, int64_t v, pu_dtype type) {
  const pu_tensor *dy = job->a->y->grad, *dw = job->a->w->grad;
  int64_t width = dy->shape[1];
  int32_t begin = job->start[v], end = job->start[v + 1];
  if (begin == end && job->add) return;
  for (int64_t at = 0; at < width; at += PU_PIECE) {
    float sum[PU_PIECE] = {0};
    int64_t n = PU_MIN(width - at, (int64_t)PU_PIECE);
    if (job->add) pu_read_piece(dw, v, at, n, sum);
    for (int32_t i = begin; i < end; i++) {
      const void *row = element(pu_row(dy, job->order[i]), type, at);
      for (int64_t c = 0; c < n; c += 16) add16(sum, PU_F32, c, n, read16(row, type, c, n), true);
    }
    pu_write_piece(dw, v, at, n, sum);
  }
}

static void embedding_rows_back(void *arg, int64_t begin, int64_t end, int worker) {
  const embedding_job *job = arg;
  (void)worker;
  for (int64_t v = begin; v < end; v++) {
    if (job->a->y->dtype == PU_F32)
      embedding_row_back(job, v, PU_F32);
    else
      embedding_row_back(job, v, PU_BF16);
  }
}

static pu_err embedding_back(pu_backend *be, void *args, pu_error *e) {
  const pu_embedding_args *a = args;
  pu_cpu *cpu = (pu_cpu *)be;
  int64_t vocab = a->w->shape[0];
  void *work;
  if (!a->w->grad) return PU_OK;
  PU_TRY(pu_cpu_work(cpu, (size_t)(vocab + 1 + a->ids->shape[0]) * sizeof(int32_t), &work, e));
  embedding_job job = {a, work, (int32_t *)work + vocab + 1, pu_grad_beta(a->w) != 0};
  sort_tokens(&job);
  pu_pool_run(cpu->pool, vocab, 64, embedding_rows_back, &job);
  return PU_OK;
}

/* ---- linear_cross_entropy: the pass over a row of logits ------------------------------------------------------- */

/* Replaces the logits by exp(logit - max); returns their sum. A lane adds at most 64 terms before double takes over. */
static double exponentiate(float *logits, int64_t n, float max) {
  enum { RUN = 1024 };
  v16 m = v_set1(max);
  double sum = 0;
  for (int64_t run = 0; run + RUN <= n; run += RUN) {
    v16 part = v_set1(0);
    for (int64_t i = run; i < run + RUN; i += 16) {
      v16 v = v_exp(v_sub(read16(logits, PU_F32, i, n), m));
      write16(logits, PU_F32, i, n, v);
      part = v_add(part, v);
    }
    sum += (double)v_sum(part);
  }
  for (int64_t i = n / RUN * RUN; i < n; i += 16) {
    float v[16];
    put_lanes(v, PU_F32, v_exp(v_sub(read16(logits, PU_F32, i, n), m)), 16);
    for (int64_t j = i; j < PU_MIN(i + 16, n); j++) sum += (double)(logits[j] = v[j - i]);
  }
  return sum;
}

INLINE void scale_row(float *row, int64_t n, float scale, pu_dtype type) {
  v16 s = v_set1(scale);
  for (int64_t i = 0; i < n; i += 16) write16(row, type, i, n, v_mul(s, read16(row, PU_F32, i, n)));
}

static float loss_row(float *logits, int64_t n, int32_t target, float scale, pu_dtype type) {
  float at_target = logits[target], max = at_target;
  int64_t whole = n / 16 * 16;
  v16 top = v_set1(max);
  for (int64_t i = 0; i < whole; i += 16) top = v_max(top, read16(logits, PU_F32, i, n));
  max = v_top(top);
  for (int64_t i = whole; i < n; i++) max = fmaxf(max, logits[i]);
  double sum = exponentiate(logits, n, max);
  if (scale != 0) {
    /* softmax - 1 of the target is minus the sum of the others: no cancellation where the model is sure. */
    float p = (float)((double)scale * ((double)logits[target] - sum) / sum);
    if (type == PU_F32) {
      scale_row(logits, n, (float)((double)scale / sum), PU_F32);
      logits[target] = p;
    } else {
      scale_row(logits, n, (float)((double)scale / sum), PU_BF16);
      ((uint16_t *)logits)[target] = pu_f32_to_bf16(p);
    }
  }
  return (float)(log(sum) + (double)max - (double)at_target);
}

static pu_err linear_cross_entropy(pu_backend *be, void *args, pu_error *e) {
  return pu_cpu_linear_cross_entropy((pu_cpu *)be, args, loss_row, e);
}

/* ---- sum_squares, adamw ---------------------------------------------------------------------------------------- */

enum { SUM_CHUNK = 1 << 16, SUM_RUN = 1024, STEP_CHUNK = 1 << 14 };

typedef struct sum_job {
  const void *v;
  pu_dtype type;
  double *partial;
} sum_job;

/* In double, but for runs of 64 terms a lane. */
INLINE double sum_values(const sum_job *job, int64_t begin, int64_t end, pu_dtype type) {
  double sum = 0;
  for (int64_t run = begin; run < end; run += SUM_RUN) {
    int64_t stop = PU_MIN(run + SUM_RUN, end);
    v16 part = v_set1(0);
    for (int64_t i = run; i < stop; i += 16) {
      v16 v = read16(job->v, type, i, stop);
      part = v_fma(v, v, part);
    }
    sum += (double)v_sum(part);
  }
  return sum;
}

static void sum_chunk(void *arg, int64_t begin, int64_t end, int worker) {
  const sum_job *job = arg;
  (void)worker;
  job->partial[begin / SUM_CHUNK] =
      job->type == PU_F32 ? sum_values(job, begin, end, PU_F32) : sum_values(job, begin, end, PU_BF16);
}

static pu_err sum_one(pu_cpu *cpu, const pu_tensor *t, double *out, pu_error *e) {
  int64_t n = pu_tensor_count(t), chunks = (n + SUM_CHUNK - 1) / SUM_CHUNK;
  void *work;
  PU_TRY(pu_cpu_work(cpu, (size_t)chunks * sizeof(double), &work, e));
  sum_job job = {t->data, t->dtype, work};
  pu_pool_run(cpu->pool, n, SUM_CHUNK, sum_chunk, &job);
  *out = 0;
  for (int64_t i = 0; i < chunks; i++) *out += job.partial[i];
  return PU_OK;
}

static pu_err sum_squares(pu_backend *be, void *args, pu_error *e) {
  const pu_sum_squares_args *a = args;
  *a->out = 0;
  for (int i = 0; i < a->n; i++) {
    double one = 0;
    PU_TRY(sum_one((pu_cpu *)be, a->t[i], &one, e));
    *a->out += one;
  }
  return PU_OK;
}

typedef struct adam {
  v16 keep, rate, scale_v, b1, b2, c1, c2, scale, eps;
  pu_noise noise;
} adam;

static adam adam_of(const pu_adam_job *a) {
  return (adam){.keep = v_set1((float)(1 - (double)a->lr * (double)a->weight_decay)),
                .rate = v_set1((float)(-(double)a->lr / (1 - pow((double)a->beta1, (double)a->step)))),
                .scale_v = v_set1((float)(1 / (1 - pow((double)a->beta2, (double)a->step)))),
                .b1 = v_set1(a->beta1),
                .b2 = v_set1(a->beta2),
                .c1 = v_set1(1 - a->beta1),
                .c2 = v_set1(1 - a->beta2),
                .scale = v_set1(a->scale),
                .eps = v_set1(a->eps),
                .noise = pu_noise_of(a->seed, a->step)};
}

INLINE void write16_rough(void *row, pu_dtype type, int64_t i, int64_t n, v16 v, w16 random) {
  if (type == PU_F32)
    write16(row, PU_F32, i, n, v);
  else
    w_store_upper(element(row, PU_BF16, i), w_dither(v, random), (int)PU_MIN(n - i, 16));
}

INLINE v16 read16_p(const pu_adam_job *a, int64_t i, int64_t n, pu_dtype type, bool halves) {
  v16 p = read16(a->p->data, type, i, n);
  return halves ? v_join(p, read16(a->low->data, PU_BF16, i, n)) : p;
}

INLINE void write16_p(const pu_adam_job *a, int64_t i, int64_t n, pu_dtype type, bool halves, v16 p, w16 random) {
  if (!halves) {
    write16_rough(a->p->data, type, i, n, p, random);
    return;
  }
  w16 high, low;
  v_split(p, &high, &low);
  w_store_upper(element(a->p->data, PU_BF16, i), high, (int)PU_MIN(n - i, 16));
  w_store_upper(element(a->low->data, PU_BF16, i), low, (int)PU_MIN(n - i, 16));
}

INLINE void adamw_values(const pu_adam_job *a, int64_t begin, int64_t end, pu_dtype type, bool halves, pu_dtype state,
                         pu_dtype grad) {
  const adam k = adam_of(a);
  void *m = a->m->data, *v = a->v->data;
  for (int64_t i = begin; i < end; i += 16) {
    w16 random = w_mix(w_from(pu_noise_at(k.noise, i)));
    v16 gi = v_mul(k.scale, read16(a->g->data, grad, i, end));
    v16 mi = v_fma(k.b1, read16(m, state, i, end), v_mul(k.c1, gi));
    v16 vi = v_fma(k.b2, read16(v, state, i, end), v_mul(v_mul(k.c2, gi), gi));
    v16 step = v_div(v_mul(k.rate, mi), v_add(v_sqrt(v_mul(vi, k.scale_v)), k.eps));
    v16 pi = v_fma(k.keep, read16_p(a, i, end, type, halves), step);
    write16_rough(m, state, i, end, mi, random);
    write16_rough(v, state, i, end, vi, w_upper(random));
    write16_p(a, i, end, type, halves, pi,
              w_upper(w_plus(w_times(random, 0x9e3779b9), k.noise.more))); /* pu_noise_more */
  }
}

INLINE void adamw_form(const pu_adam_job *a, int64_t begin, int64_t end, pu_dtype state, pu_dtype grad) {
  if (a->low)
    adamw_values(a, begin, end, PU_BF16, true, state, grad);
  else if (a->p->dtype == PU_BF16)
    adamw_values(a, begin, end, PU_BF16, false, state, grad);
  else
    adamw_values(a, begin, end, PU_F32, false, state, grad);
}

INLINE void adamw_state(const pu_adam_job *a, int64_t begin, int64_t end, pu_dtype state) {
  if (a->g->dtype == PU_F32)
    adamw_form(a, begin, end, state, PU_F32);
  else
    adamw_form(a, begin, end, state, PU_BF16);
}

static void adamw_chunk(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_adam_job *a = arg;
  (void)worker;
  if (a->m->dtype == PU_BF16)
    adamw_state(a, begin, end, PU_BF16);
  else
    adamw_state(a, begin, end, PU_F32);
}

static pu_err adamw(pu_backend *be, void *args, pu_error *e) {
  const pu_adamw_args *a = args;
  float scale;
  (void)e;
  if (!pu_adamw_opens(&a->gate, &scale)) return PU_OK;
  for (int i = 0; i < a->n; i++) {
    pu_adam_job job = pu_adam_job_of(a, i, scale);
    pu_pool_run(((pu_cpu *)be)->pool, pu_tensor_count(job.p), STEP_CHUNK, adamw_chunk, &job);
  }
  return PU_OK;
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

static void use_elementwise(pu_cpu *cpu) {
  pu_op_fn *forward = cpu->base.forward, *backward = cpu->base.backward;
  forward[PU_OP_rmsnorm_add] = rmsnorm_add;
  forward[PU_OP_qk_norm] = qk_norm;
  forward[PU_OP_rope] = rope;
  forward[PU_OP_swiglu] = swiglu;
  forward[PU_OP_linear_cross_entropy] = linear_cross_entropy;
  forward[PU_OP_sum_squares] = sum_squares;
  forward[PU_OP_adamw] = adamw;
  backward[PU_OP_embedding] = embedding_back;
  backward[PU_OP_rmsnorm_add] = rmsnorm_add_back;
  backward[PU_OP_qk_norm] = qk_norm_back;
  backward[PU_OP_rope] = rope_back;
  backward[PU_OP_swiglu] = swiglu_back;
}

#endif
