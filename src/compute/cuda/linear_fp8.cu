/* linear_fp8 and mlp_fp8: rounding and products. Nothing in FP8 is kept from forward to backward: what is rounded for
 * one product is wanted turned for the other.
 *
 * Both operands of a product lie along the sum: y = x w^T wants both as they lie; dx = dy w wants w turned; dw = dy^T x
 * wants both turned. */
#include "src/compute/cuda/fp8.h"
#include "src/compute/cuda/use.h"

/* A side of a matrix in FP8, as a product takes it. */
typedef struct operand {
  const uint8_t *data;
  const float *scale;
  int64_t rows, inner;
  bool gradient;
} operand;

static operand plain_of(const pu_cuda_fp8 *f) {
  operand o = {f->plain, &f->guess->scale, f->rows, f->cols, f->gradient};
  return o;
}
static operand turned_of(const pu_cuda_fp8 *f) {
  operand o = {f->turned, &f->guess->scale, f->cols, f->rows, f->gradient};
  return o;
}

/* Sums may be rough in training: what is summed is rougher. */
static pu_cuda_product product(operand a, operand b, void *y, int64_t y_step, pu_dtype y_type) {
  pu_cuda_product p = {};
  p.a = a.data, p.b = b.data, p.y = y;
  p.a_scale = a.scale, p.b_scale = b.scale;
  p.fp8 = p.rough = true, p.a_gradient = a.gradient;
  p.rows = a.rows, p.cols = b.rows, p.inner = a.inner;
  p.a_step = p.b_step = a.inner, p.y_step = y_step;
  p.type = PU_BF16, p.y_type = y_type;
  return p;
}

static pu_err forward(pu_cuda *d, const pu_cuda_fp8 *x, const pu_cuda_fp8 *w, const pu_tensor *b, const pu_tensor *y,
                      pu_error *e) {
  pu_cuda_product p = product(plain_of(x), plain_of(w), y->data, y->stride[0], y->dtype);
  if (b) p.bias = b->data, p.bias_type = b->dtype;
  return pu_cuda_multiply(d, &p, e);
}

static pu_err back(pu_cuda *d, operand a, operand b, pu_tensor *t, pu_error *e) {
  pu_cuda_product p = product(a, b, t->grad->data, t->grad->stride[0], t->grad->dtype);
  p.beta = pu_grad_beta(t);
  return pu_cuda_multiply(d, &p, e);
}

/* ---- what is rounded at once ---- */

typedef struct list {
  pu_cuda *d;
  char *at; /* of the work memory */
  const pu_tensor *from[PU_FP8_AT_ONCE];
  pu_cuda_fp8 to[PU_FP8_AT_ONCE];
  int n;
} list;

static list list_for(pu_cuda *d) {
  list l = {d};
  pu_cuda_fp8_begin(d);
  return l;
}

static const pu_cuda_fp8 *put(list *l, const pu_tensor *t, int sides, const pu_tensor *weight, pu_cuda_fp8_role role) {
  l->from[l->n] = t;
  l->to[l->n] = pu_cuda_fp8_in(l->d, t->shape[0], t->shape[1], sides, weight, role, &l->at);
  return &l->to[l->n++];
}

static pu_err round_all(list *l, pu_error *e) {
  return pu_cuda_fp8_round(l->d, l->from, l->to, l->n, e);
}

static size_t bytes_of(const pu_tensor *t, int sides) {
  return pu_cuda_fp8_bytes(t->shape[0], t->shape[1], sides);
}

/* ---- linear ---- */

static pu_err linear_fp8(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_fp8_args *a = (const pu_linear_fp8_args *)args;
  list l = list_for((pu_cuda *)be);
  void *work;
  PU_TRY(pu_cuda_work(l.d, bytes_of(a->x, PU_FP8_PLAIN) + bytes_of(a->w, PU_FP8_PLAIN), &work, e));
  l.at = (char *)work;
  const pu_cuda_fp8 *x = put(&l, a->x, PU_FP8_PLAIN, a->w, PU_FP8_INPUT);
  const pu_cuda_fp8 *w = put(&l, a->w, PU_FP8_PLAIN, a->w, PU_FP8_WEIGHT);
  PU_TRY(round_all(&l, e));
  return forward(l.d, x, w, a->b, a->y, e);
}

static pu_err linear_fp8_back(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_fp8_args *a = (const pu_linear_fp8_args *)args;
  const pu_tensor *grad = a->y->grad;
  const pu_cuda_fp8 *dy = NULL, *x = NULL, *w = NULL;
  list l = list_for((pu_cuda *)be);
  bool to_x = a->x->grad, to_w = a->w->grad, bias = a->b && a->b->grad;
  int sides = (to_x ? PU_FP8_PLAIN : 0) | (to_w ? PU_FP8_TURNED : 0);
  size_t parts = bias ? pu_cuda_bias_back_bytes(grad) : 0;
  size_t codes =
      bytes_of(grad, sides) + bytes_of(a->w, to_x ? PU_FP8_TURNED : 0) + bytes_of(a->x, to_w ? PU_FP8_TURNED : 0);
  void *work;
  PU_TRY(pu_cuda_work(l.d, parts + codes, &work, e));
  l.at = (char *)work + parts;
  if (bias) PU_TRY(pu_cuda_bias_back(l.d, grad, a->b, (float *)work, e));
  if (sides) dy = put(&l, grad, sides, a->w, PU_FP8_GRADIENT);
  if (to_x) w = put(&l, a->w, PU_FP8_TURNED, a->w, PU_FP8_WEIGHT);
  if (to_w) x = put(&l, a->x, PU_FP8_TURNED, a->w, PU_FP8_INPUT);
  PU_TRY(round_all(&l, e));
  if (to_x) PU_TRY(back(l.d, plain_of(dy), turned_of(w), a->x, e));
  return to_w ? back(l.d, turned_of(dy), turned_of(x), a->w, e) : PU_OK;
}

/* ---- the MLP ---- */

static pu_err mlp_fp8(pu_backend *be, void *args, pu_error *e) {
  const pu_mlp_fp8_args *a = (const pu_mlp_fp8_args *)args;
  int64_t rows = a->x->shape[0], inner = a->down->shape[1];
  list l = list_for((pu_cuda *)be);
  void *work;
  PU_TRY(pu_cuda_work(l.d,
                      bytes_of(a->x, PU_FP8_PLAIN) + bytes_of(a->gate_up, PU_FP8_PLAIN) +
                          bytes_of(a->down, PU_FP8_PLAIN) + pu_cuda_fp8_bytes(rows, inner, PU_FP8_PLAIN),
                      &work, e));
  l.at = (char *)work;
  const pu_cuda_fp8 *x = put(&l, a->x, PU_FP8_PLAIN, a->gate_up, PU_FP8_INPUT);
  const pu_cuda_fp8 *gate_up = put(&l, a->gate_up, PU_FP8_PLAIN, a->gate_up, PU_FP8_WEIGHT);
  const pu_cuda_fp8 *down = put(&l, a->down, PU_FP8_PLAIN, a->down, PU_FP8_WEIGHT);
  PU_TRY(round_all(&l, e));
  PU_TRY(forward(l.d, x, gate_up, NULL, a->gu, e));
  pu_cuda_fp8 act = pu_cuda_fp8_in(l.d, rows, inner, PU_FP8_PLAIN, a->down, PU_FP8_INPUT, &l.at);
  PU_TRY(pu_cuda_fp8_swiglu(l.d, a->gu, &act, e));
  return forward(l.d, &act, down, NULL, a->y, e);
}

static size_t mlp_back_bytes(int64_t rows, int64_t width, int64_t out, int64_t inner) {
  return pu_cuda_fp8_bytes(rows, out, PU_FP8_BOTH) + pu_cuda_fp8_bytes(out, inner, PU_FP8_TURNED) +
         pu_cuda_fp8_bytes(2 * inner, width, PU_FP8_TURNED) + pu_cuda_fp8_bytes(rows, width, PU_FP8_TURNED) +
         (size_t)(rows * inner) * sizeof(bf16) + pu_cuda_fp8_bytes(rows, 2 * inner, PU_FP8_BOTH) +
         pu_cuda_fp8_bytes(rows, inner, PU_FP8_TURNED);
}

static pu_err mlp_fp8_back(pu_backend *be, void *args, pu_error *e) {
  const pu_mlp_fp8_args *a = (const pu_mlp_fp8_args *)args;
  int64_t rows = a->x->shape[0], inner = a->down->shape[1];
  list l = list_for((pu_cuda *)be);
  void *work;
  PU_TRY(pu_cuda_work(l.d, mlp_back_bytes(rows, a->x->shape[1], a->y->shape[1], inner), &work, e));
  l.at = (char *)work;
  const pu_cuda_fp8 *dy = put(&l, a->y->grad, PU_FP8_BOTH, a->down, PU_FP8_GRADIENT);
  const pu_cuda_fp8 *down = put(&l, a->down, PU_FP8_TURNED, a->down, PU_FP8_WEIGHT);
  const pu_cuda_fp8 *gate_up = put(&l, a->gate_up, PU_FP8_TURNED, a->gate_up, PU_FP8_WEIGHT);
  const pu_cuda_fp8 *x = put(&l, a->x, PU_FP8_TURNED, a->gate_up, PU_FP8_INPUT);
  PU_TRY(round_all(&l, e));
  bf16 *dact = (bf16 *)l.at;
  l.at += (size_t)(rows * inner) * sizeof(bf16);
  pu_cuda_product p = product(plain_of(dy), turned_of(down), dact, inner, PU_BF16);
  PU_TRY(pu_cuda_multiply(l.d, &p, e));
  pu_cuda_fp8 dgu = pu_cuda_fp8_in(l.d, rows, 2 * inner, PU_FP8_BOTH, a->gate_up, PU_FP8_GRADIENT, &l.at);
  pu_cuda_fp8 act = pu_cuda_fp8_in(l.d, rows, inner, PU_FP8_TURNED, a->down, PU_FP8_INPUT, &l.at);
  PU_TRY(pu_cuda_fp8_swiglu_back(l.d, a->gu, dact, &dgu, &act, e));
  if (a->down->grad) PU_TRY(back(l.d, turned_of(dy), turned_of(&act), a->down, e));
  if (a->x->grad) PU_TRY(back(l.d, plain_of(&dgu), turned_of(gate_up), a->x, e));
  return a->gate_up->grad ? back(l.d, turned_of(&dgu), turned_of(x), a->gate_up, e) : PU_OK;
}

/* ---- use ---- */

static size_t linear_bytes(int64_t n, int64_t k, int64_t m) {
  size_t back = pu_cuda_fp8_bytes(n, m, PU_FP8_BOTH) + pu_cuda_fp8_bytes(m, k, PU_FP8_TURNED);
  return back + pu_cuda_fp8_bytes(n, k, PU_FP8_TURNED); /* forward is less */
}

size_t pu_cuda_fp8_work_bytes(const pu_work_shape *s) {
  int64_t q = (int64_t)s->heads * s->head_dim, kv = (int64_t)s->kv_heads * s->head_dim;
  int64_t widest = PU_MAX(PU_MAX(s->hidden, s->ffn), q);
  if (!s->fp8) return pu_fp8_codes_bytes(s->tokens, widest) + (size_t)s->tokens * sizeof(float);
  size_t linear = PU_MAX(linear_bytes(s->tokens, s->hidden, q + 2 * kv), linear_bytes(s->tokens, q, s->hidden));
  return PU_MAX(linear, mlp_back_bytes(s->tokens, s->hidden, s->hidden, s->ffn));
}

/* Products in FP8 with scales as they are used here begin with capability 8.9; they were tried on Hopper alone. */
pu_err pu_cuda_use_fp8(pu_cuda *d, pu_error *e) {
  if (d->capability < 90) return PU_OK;
  d->base.forward[PU_OP_linear_fp8] = linear_fp8;
  d->base.backward[PU_OP_linear_fp8] = linear_fp8_back;
  d->base.forward[PU_OP_mlp_fp8] = mlp_fp8;
  d->base.backward[PU_OP_mlp_fp8] = mlp_fp8_back;
  return pu_cuda_fp8_open(d, e);
}
