/* lora: y += scale (x a^T) b^T, part by part. With u = x a^T: db = scale dy^T u; du = scale dy b; da = du^T x;
 * dx += du a.
 *
 * Serving has many parts of few rows: all of their first products are one launch, all of the second another one. The
 * first ones have sums of thousands and results of a few columns: all threads of a block share a sum, in an order that
 * knows nothing of the other rows. Training has few parts of many rows: they go through cuBLASLt. */
#include <stdlib.h>

#include "src/compute/cuda/grouped.h"
#include "src/compute/cuda/use.h"

static char *at(const pu_tensor *t, int64_t row, int64_t col) {
  return (char *)t->data + (size_t)(row * t->stride[0] + col) * pu_dtype_size(t->dtype);
}

/* u's rows begin on 16 bytes. */
static int64_t step_of(const pu_lora_part *p) {
  return ceil_div(p->a->shape[0], 8) * 8;
}

static size_t u_bytes(const pu_lora_part *p, pu_dtype type) {
  return ((size_t)(p->rows * step_of(p)) * pu_dtype_size(type) + 255) / 256 * 256;
}

static bool learns(const pu_lora_args *l) {
  bool any = l->x->grad || l->y->grad;
  for (int i = 0; i < l->n; i++) any = any || l->parts[i].a->grad || l->parts[i].b->grad;
  return any;
}

/* ---- forward, all parts at once ---- */

enum { DOWN_THREADS = 256, DOWN_ROWS = 4, DOWN_COLS = 4, DOWN_AT_ONCE = 8, DOWN_PARTS = 32 };

/* u = x a^T of one part; DOWN_ROWS by DOWN_COLS of it is a block's. */
typedef struct down_part {
  const void *x, *a;
  void *u;
  int64_t x_step, a_step, u_step;
  int32_t rows, cols;
  int32_t first; /* blocks of the parts before it */
} down_part;

typedef struct down_parts {
  down_part of[DOWN_PARTS];
  int n, inner;
} down_parts;

/* Eight values, zeros behind the end; WHOLE: on 16 bytes, and all there. */
template <typename T, bool WHOLE> __device__ static inline void down_load(const T *from, int left, float *v) {
  if constexpr (WHOLE) {
#pragma unroll
    for (int i = 0; i < DOWN_AT_ONCE; i += pu_pack<T>::n) {
      pu_pack<T> p = *(const pu_pack<T> *)(from + i);
#pragma unroll
      for (int j = 0; j < pu_pack<T>::n; j++) v[i + j] = to_f32(p.v[j]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < DOWN_AT_ONCE; i++) v[i] = i < left ? to_f32(from[i]) : 0.0f;
  }
}

/* A thread's share of the sums: every DOWN_THREADS-th eight values. Behind the last row and column it is theirs again.
 */
template <typename T, bool WHOLE>
__device__ static inline void down_sums(const down_part &p, int inner, int row, int col, float (*sum)[DOWN_COLS]) {
  const T *x = (const T *)p.x, *a = (const T *)p.a;
  for (int k = (int)threadIdx.x * DOWN_AT_ONCE; k < inner; k += DOWN_THREADS * DOWN_AT_ONCE) {
    float v[DOWN_COLS][DOWN_AT_ONCE], w[DOWN_ROWS][DOWN_AT_ONCE];
#pragma unroll
    for (int j = 0; j < DOWN_COLS; j++)
      down_load<T, WHOLE>(a + min(col + j, p.cols - 1) * p.a_step + k, inner - k, v[j]);
#pragma unroll
    for (int i = 0; i < DOWN_ROWS; i++)
      down_load<T, WHOLE>(x + min(row + i, p.rows - 1) * p.x_step + k, inner - k, w[i]);
#pragma unroll
    for (int i = 0; i < DOWN_ROWS; i++)
#pragma unroll
      for (int j = 0; j < DOWN_COLS; j++)
#pragma unroll
        for (int m = 0; m < DOWN_AT_ONCE; m++) sum[i][j] = fmaf(w[i][m], v[j][m], sum[i][j]);
  }
}

template <typename T, bool WHOLE>
__global__ void __launch_bounds__(DOWN_THREADS) down_kernel(const __grid_constant__ down_parts parts) {
  __shared__ float room[DOWN_THREADS / 32][DOWN_ROWS * DOWN_COLS];
  int i = 0, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  while (i + 1 < parts.n && parts.of[i + 1].first <= (int)blockIdx.x) i++;
  const down_part &p = parts.of[i];
  int across = (p.cols + DOWN_COLS - 1) / DOWN_COLS, block = (int)blockIdx.x - p.first;
  int row = block / across * DOWN_ROWS, col = block % across * DOWN_COLS;
  float sum[DOWN_ROWS][DOWN_COLS] = {};
  down_sums<T, WHOLE>(p, parts.inner, row, col, sum);
#pragma unroll
  for (int s = 0; s < DOWN_ROWS * DOWN_COLS; s++) {
    float all = warp_sum(sum[s / DOWN_COLS][s % DOWN_COLS]);
    if (lane == 0) room[warp][s] = all;
  }
  __syncthreads();
  int r = row + (int)threadIdx.x / DOWN_COLS, c = col + (int)threadIdx.x % DOWN_COLS;
  if (threadIdx.x >= DOWN_ROWS * DOWN_COLS || r >= p.rows || c >= p.cols) return;
  float all = 0;
  for (int w = 0; w < DOWN_THREADS / 32; w++) all += room[w][threadIdx.x];
  ((T *)p.u)[r * p.u_step + c] = from_f32<T>(all);
}

static down_part down_of(const pu_lora_args *l, const pu_lora_part *p, void *u) {
  down_part d = {at(l->x, p->row, 0), p->a->data, u, l->x->stride[0], p->a->stride[0], step_of(p)};
  d.rows = (int32_t)p->rows, d.cols = (int32_t)p->a->shape[0];
  return d;
}

template <typename T> static void down_launch(pu_cuda *d, const down_parts *parts, int blocks, bool whole) {
  if (whole)
    down_kernel<T, true><<<(unsigned)blocks, DOWN_THREADS, 0, d->stream>>>(*parts);
  else
    down_kernel<T, false><<<(unsigned)blocks, DOWN_THREADS, 0, d->stream>>>(*parts);
}

/* x a^T of all parts, DOWN_PARTS in a launch. Which way a part is read depends on where the model's and the adapter's
 * rows lie, not on which rows there are; the sums' order is the same in both. */
static pu_err run_down(pu_cuda *d, const pu_lora_args *l, char *u, pu_error *e) {
  down_parts parts = {};
  size_t size = pu_dtype_size(l->x->dtype);
  bool whole = true;
  int blocks = 0;
  parts.inner = (int)l->x->shape[1];
  for (int i = 0; i < l->n; u += u_bytes(&l->parts[i], l->x->dtype), i++) {
    down_part *p = &parts.of[parts.n++];
    *p = down_of(l, &l->parts[i], u);
    p->first = blocks;
    blocks += (int)(ceil_div(p->rows, DOWN_ROWS) * ceil_div(p->cols, DOWN_COLS));
    whole = whole && ((uintptr_t)p->x | (uintptr_t)p->a | (size_t)(p->x_step | p->a_step) * size) % 16 == 0;
    if (parts.n < DOWN_PARTS && i + 1 < l->n) continue;
    whole = whole && parts.inner % DOWN_AT_ONCE == 0;
    if (blocks && l->x->dtype == PU_F32) down_launch<float>(d, &parts, blocks, whole);
    if (blocks && l->x->dtype != PU_F32) down_launch<bf16>(d, &parts, blocks, whole);
    parts.n = blocks = 0;
    whole = true;
  }
  return pu_cuda_launched("an adapter's product", e);
}

static pu_cuda_group up_group(const pu_lora_args *l, const pu_lora_part *p, void *u) {
  pu_cuda_group g = {u, p->b->data, at(l->y, p->row, p->from)};
  g.a_row = step_of(p), g.a_inner = 1;
  g.b_col = p->b->stride[0], g.b_inner = 1;
  g.y_step = l->y->stride[0];
  g.rows = (int32_t)p->rows, g.cols = (int32_t)p->b->shape[0], g.inner = (int32_t)p->a->shape[0];
  g.alpha = p->scale, g.beta = 1;
  return g;
}

/* The strip that suits all of them: that of one whose places and steps have the others' worst alignment. */
static int strip_of(const pu_cuda_groups *common, const pu_cuda_group *groups, int n) {
  pu_cuda_group like = groups[0];
  uintptr_t a = 0, b = 0;
  int64_t rows = 0;
  for (int i = 0; i < n; i++) {
    a |= (uintptr_t)groups[i].a, b |= (uintptr_t)groups[i].b;
    like.a_row |= groups[i].a_row, like.b_col |= groups[i].b_col;
    rows += groups[i].rows;
  }
  like.a = (const void *)a, like.b = (const void *)b;
  return pu_cuda_strip(common, &like, rows / n);
}

static pu_err run_groups(pu_cuda *d, const pu_lora_args *l, pu_cuda_group *groups, char *u, pu_error *e) {
  pu_cuda_groups up = {l->x->dtype, l->x->dtype};
  PU_TRY(run_down(d, l, u, e));
  for (int i = 0; i < l->n; u += u_bytes(&l->parts[i], l->x->dtype), i++) {
    groups[i] = up_group(l, &l->parts[i], u);
    up.cols = PU_MAX(up.cols, (int64_t)groups[i].cols);
  }
  up.strip = strip_of(&up, groups, l->n);
  return pu_cuda_grouped(d, &up, groups, l->n, e);
}

static pu_err forward_grouped(pu_cuda *d, const pu_lora_args *l, pu_error *e) {
  size_t bytes = 0;
  void *work;
  for (int i = 0; i < l->n; i++) bytes += u_bytes(&l->parts[i], l->x->dtype);
  PU_TRY(pu_cuda_work(d, bytes, &work, e));
  pu_cuda_group *groups = (pu_cuda_group *)calloc((size_t)l->n, sizeof *groups);
  if (!groups) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory");
  pu_err err = run_groups(d, l, groups, (char *)work, e);
  free(groups);
  return err;
}

/* ---- part by part ---- */

/* What all the products here have in common. */
static pu_cuda_product product(const pu_lora_args *l, int64_t rows, int64_t cols, int64_t inner) {
  pu_cuda_product p = {};
  p.rows = rows, p.cols = cols, p.inner = inner;
  p.type = p.y_type = l->x->dtype;
  return p;
}

/* u = x a^T. */
static pu_err inner(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, void *u, pu_error *e) {
  pu_cuda_product p = product(l, part->rows, part->a->shape[0], l->x->shape[1]);
  p.a = at(l->x, part->row, 0), p.a_step = l->x->stride[0];
  p.b = part->a->data, p.b_step = part->a->stride[0];
  p.y = u, p.y_step = step_of(part);
  return pu_cuda_multiply(d, &p, e);
}

static pu_err forward_part(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, pu_error *e) {
  void *u;
  PU_TRY(pu_cuda_work(d, u_bytes(part, l->x->dtype), &u, e));
  PU_TRY(inner(d, l, part, u, e));
  pu_cuda_product p = product(l, part->rows, part->b->shape[0], part->a->shape[0]);
  p.a = u, p.a_step = step_of(part);
  p.b = part->b->data, p.b_step = part->b->stride[0];
  p.y = at(l->y, part->row, part->from), p.y_step = l->y->stride[0];
  p.scaled = true, p.alpha = part->scale, p.beta = 1;
  return pu_cuda_multiply(d, &p, e);
}

static pu_err lora(pu_backend *be, void *args, pu_error *e) {
  const pu_lora_args *l = (const pu_lora_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  if (!learns(l)) return forward_grouped(d, l, e);
  for (int i = 0; i < l->n; i++) PU_TRY(forward_part(d, l, &l->parts[i], e));
  return PU_OK;
}

/* ---- backward ---- */

size_t pu_cuda_lora_work_bytes(const pu_work_shape *s) {
  return 2 * ((size_t)(s->tokens * (ceil_div(s->rank, 8) * 8)) * pu_dtype_size(s->dtype) + 256);
}

static pu_err b_back(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, void *u, pu_error *e) {
  const pu_tensor *dy = l->y->grad, *db = part->b->grad;
  PU_TRY(inner(d, l, part, u, e));
  pu_cuda_product p = product(l, part->b->shape[0], part->a->shape[0], part->rows);
  p.a = at(dy, part->row, part->from), p.a_step = dy->stride[0], p.a_turned = true;
  p.b = u, p.b_step = step_of(part), p.b_turned = true;
  p.y = db->data, p.y_step = db->stride[0], p.y_type = db->dtype;
  p.scaled = true, p.alpha = part->scale, p.beta = pu_grad_beta(part->b);
  return pu_cuda_multiply(d, &p, e);
}

static pu_err a_back(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, const void *du, pu_error *e) {
  const pu_tensor *da = part->a->grad;
  pu_cuda_product p = product(l, part->a->shape[0], l->x->shape[1], part->rows);
  p.a = du, p.a_step = step_of(part), p.a_turned = true;
  p.b = at(l->x, part->row, 0), p.b_step = l->x->stride[0], p.b_turned = true;
  p.y = da->data, p.y_step = da->stride[0], p.y_type = da->dtype;
  p.beta = pu_grad_beta(part->a);
  return pu_cuda_multiply(d, &p, e);
}

static pu_err x_back(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, const void *du, pu_error *e) {
  const pu_tensor *dx = l->x->grad;
  pu_cuda_product p = product(l, part->rows, l->x->shape[1], part->a->shape[0]);
  p.a = du, p.a_step = step_of(part);
  p.b = part->a->data, p.b_step = part->a->stride[0], p.b_turned = true;
  p.y = at(dx, part->row, 0), p.y_step = dx->stride[0], p.y_type = dx->dtype;
  p.beta = 1;
  return pu_cuda_multiply(d, &p, e);
}

static pu_err part_back(pu_cuda *d, const pu_lora_args *l, const pu_lora_part *part, pu_error *e) {
  const pu_tensor *dy = l->y->grad;
  size_t one = u_bytes(part, l->x->dtype);
  void *work;
  PU_TRY(pu_cuda_work(d, 2 * one, &work, e));
  void *du = (char *)work + one;
  if (part->b->grad) PU_TRY(b_back(d, l, part, work, e));
  if (!part->a->grad && !l->x->grad) return PU_OK;
  pu_cuda_product p = product(l, part->rows, part->a->shape[0], part->b->shape[0]);
  p.a = at(dy, part->row, part->from), p.a_step = dy->stride[0];
  p.b = part->b->data, p.b_step = part->b->stride[0], p.b_turned = true;
  p.y = du, p.y_step = step_of(part);
  p.scaled = true, p.alpha = part->scale;
  PU_TRY(pu_cuda_multiply(d, &p, e));
  if (part->a->grad) PU_TRY(a_back(d, l, part, du, e));
  return l->x->grad ? x_back(d, l, part, du, e) : PU_OK;
}

/* Rows of x that belong to no part have a gradient too: 0, where nothing else has given one. */
static pu_err begin_grad(pu_cuda *d, pu_tensor *x, pu_error *e) {
  if (!x->grad || pu_grad_beta(x) != 0 || x->shape[0] == 0) return PU_OK;
  size_t size = pu_dtype_size(x->grad->dtype);
  PU_CUDA_TRY(cudaMemset2DAsync(x->grad->data, (size_t)x->grad->stride[0] * size, 0, (size_t)x->grad->shape[1] * size,
                                (size_t)x->grad->shape[0], d->stream),
              "clearing a gradient", e);
  return PU_OK;
}

static pu_err lora_back(pu_backend *be, void *args, pu_error *e) {
  const pu_lora_args *l = (const pu_lora_args *)args;
  PU_TRY(begin_grad((pu_cuda *)be, l->x, e));
  for (int i = 0; i < l->n; i++) PU_TRY(part_back((pu_cuda *)be, l, &l->parts[i], e));
  return PU_OK;
}

void pu_cuda_use_lora(pu_cuda *d) {
  d->base.forward[PU_OP_lora] = lora;
  d->base.backward[PU_OP_lora] = lora_back;
}
