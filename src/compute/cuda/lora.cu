/* lora: y += scale (x a^T) b^T, part by part. With u = x a^T: db = scale dy^T u; du = scale dy b; da = du^T x;
 * dx += du a.
 *
 * Serving has many parts of few rows: all of their first products are one launch, all of the second another one.
 * Training has few parts of many rows: they go through cuBLASLt. */
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

static pu_cuda_group down_group(const pu_lora_args *l, const pu_lora_part *p, void *u) {
  pu_cuda_group g = {at(l->x, p->row, 0), p->a->data, u};
  g.a_row = l->x->stride[0], g.a_inner = 1;
  g.b_col = p->a->stride[0], g.b_inner = 1;
  g.y_step = step_of(p);
  g.rows = (int32_t)p->rows, g.cols = (int32_t)p->a->shape[0], g.inner = (int32_t)l->x->shape[1];
  g.alpha = 1;
  return g;
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
  pu_cuda_groups down = {l->x->dtype, l->x->dtype}, up = down;
  for (int i = 0; i < l->n; u += u_bytes(&l->parts[i], l->x->dtype), i++) {
    groups[i] = down_group(l, &l->parts[i], u);
    groups[l->n + i] = up_group(l, &l->parts[i], u);
    down.cols = PU_MAX(down.cols, (int64_t)groups[i].cols);
    up.cols = PU_MAX(up.cols, (int64_t)groups[l->n + i].cols);
  }
  down.strip = strip_of(&down, groups, l->n);
  up.strip = strip_of(&up, groups + l->n, l->n);
  PU_TRY(pu_cuda_grouped(d, &down, groups, l->n, e));
  return pu_cuda_grouped(d, &up, groups + l->n, l->n, e);
}

static pu_err forward_grouped(pu_cuda *d, const pu_lora_args *l, pu_error *e) {
  size_t bytes = 0;
  void *work;
  for (int i = 0; i < l->n; i++) bytes += u_bytes(&l->parts[i], l->x->dtype);
  PU_TRY(pu_cuda_work(d, bytes, &work, e));
  pu_cuda_group *groups = (pu_cuda_group *)calloc((size_t)l->n * 2, sizeof *groups);
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
