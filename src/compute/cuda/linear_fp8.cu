/* linear_fp8 and mlp_fp8: rounding and products. Nothing in FP8 is kept from forward to backward: what is rounded for one
 * product is rounded the other way for the other, so that only weights could be kept, which are small.
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
  bool blocks;
} operand;

static operand plain_of(const pu_cuda_fp8 *f) {
  operand o = {f->plain, f->plain_scale, f->rows, f->cols, f->blocks};
  return o;
}
static operand turned_of(const pu_cuda_fp8 *f) {
  operand o = {f->turned, f->turned_scale, f->cols, f->rows, f->blocks};
  return o;
}

static pu_cuda_product product(operand a, operand b, void *y, int64_t y_step, pu_dtype y_type) {
  pu_cuda_product p = {};
  p.a = a.data, p.b = b.data, p.y = y;
  p.a_scale = a.scale, p.b_scale = b.scale, p.b_blocks = b.blocks;
  p.fp8 = true;
  p.rows = a.rows, p.cols = b.rows, p.inner = a.inner;
  p.a_step = p.b_step = a.inner, p.y_step = y_step;
  p.type = PU_BF16, p.y_type = y_type;
  return p;
}

static pu_err multiply(pu_cuda *d, operand a, operand b, const pu_tensor *y, float beta, pu_error *e) {
  pu_cuda_product p = product(a, b, y->data, y->stride[0], y->dtype);
  p.beta = beta;
  return pu_cuda_multiply(d, &p, e);
}

static size_t bytes_of(const pu_tensor *t, int what) {
  return pu_cuda_fp8_bytes(t->shape[0], t->shape[1], what);
}

/* Rounds t into the work memory at *at, which moves on. */
static pu_err put(pu_cuda *d, const pu_tensor *t, int what, char **at, pu_cuda_fp8 *out, pu_error *e) {
  *out = pu_cuda_fp8_in(t->shape[0], t->shape[1], what, at);
  return pu_cuda_fp8_round(d, t, out, e);
}

/* dw (+)= dy^T x */
static pu_err w_back(pu_cuda *d, const pu_cuda_fp8 *dy, const pu_cuda_fp8 *x, pu_tensor *w, pu_error *e) {
  return multiply(d, turned_of(dy), turned_of(x), w->grad, pu_grad_beta(w), e);
}

/* ---- linear ---------------------------------------------------------------------------------------------------------
 */

enum { WEIGHT = PU_FP8_PLAIN | PU_FP8_BLOCKS, WEIGHT_TURNED = PU_FP8_TURNED | PU_FP8_BLOCKS };

static pu_err linear_fp8(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_fp8_args *a = (const pu_linear_fp8_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  pu_cuda_fp8 x, w;
  void *work;
  PU_TRY(pu_cuda_work(d, bytes_of(a->x, PU_FP8_PLAIN) + bytes_of(a->w, WEIGHT), &work, e));
  char *at = (char *)work;
  PU_TRY(put(d, a->x, PU_FP8_PLAIN, &at, &x, e));
  PU_TRY(put(d, a->w, WEIGHT, &at, &w, e));
  pu_cuda_product p = product(plain_of(&x), plain_of(&w), a->y->data, a->y->stride[0], a->y->dtype);
  if (a->b) p.bias = a->b->data, p.bias_type = a->b->dtype;
  return pu_cuda_multiply(d, &p, e);
}

static pu_err linear_fp8_back(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_fp8_args *a = (const pu_linear_fp8_args *)args;
  const pu_tensor *grad = a->y->grad;
  pu_cuda *d = (pu_cuda *)be;
  bool to_x = a->x->grad, to_w = a->w->grad, bias = a->b && a->b->grad;
  int sides = (to_x ? PU_FP8_PLAIN : 0) | (to_w ? PU_FP8_TURNED : 0);
  pu_cuda_fp8 dy, x, w;
  void *work;
  size_t parts = bias ? pu_cuda_bias_back_bytes(grad) : 0;
  PU_TRY(pu_cuda_work(d,
                      parts + bytes_of(grad, sides) + (to_x ? bytes_of(a->w, WEIGHT_TURNED) : 0) +
                          (to_w ? bytes_of(a->x, PU_FP8_TURNED) : 0),
                      &work, e));
  char *at = (char *)work + parts;
  if (bias) PU_TRY(pu_cuda_bias_back(d, grad, a->b, (float *)work, e));
  if (sides) PU_TRY(put(d, grad, sides, &at, &dy, e));
  if (to_x) {
    PU_TRY(put(d, a->w, WEIGHT_TURNED, &at, &w, e));
    PU_TRY(multiply(d, plain_of(&dy), turned_of(&w), a->x->grad, pu_grad_beta(a->x), e));
  }
  if (!to_w) return PU_OK;
  PU_TRY(put(d, a->x, PU_FP8_TURNED, &at, &x, e));
  return w_back(d, &dy, &x, a->w, e);
}

/* ---- the MLP ------------------------------------------------------------------------------------------------------- */

static pu_err mlp_fp8(pu_backend *be, void *args, pu_error *e) {
  const pu_mlp_fp8_args *a = (const pu_mlp_fp8_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  int64_t rows = a->x->shape[0], inner = a->down->shape[1];
  pu_cuda_fp8 x, w;
  void *work;
  PU_TRY(pu_cuda_work(d,
                      bytes_of(a->x, PU_FP8_PLAIN) + bytes_of(a->gate_up, WEIGHT) + bytes_of(a->down, WEIGHT) +
                          pu_cuda_fp8_bytes(rows, inner, PU_FP8_PLAIN),
                      &work, e));
  char *at = (char *)work;
  PU_TRY(put(d, a->x, PU_FP8_PLAIN, &at, &x, e));
  PU_TRY(put(d, a->gate_up, WEIGHT, &at, &w, e));
  PU_TRY(multiply(d, plain_of(&x), plain_of(&w), a->gu, 0, e));
  pu_cuda_fp8 act = pu_cuda_fp8_in(rows, inner, PU_FP8_PLAIN, &at);
  PU_TRY(pu_cuda_fp8_swiglu(d, a->gu, &act, e));
  PU_TRY(put(d, a->down, WEIGHT, &at, &w, e));
  return multiply(d, plain_of(&act), plain_of(&w), a->y, 0, e);
}

static size_t mlp_back_bytes(int64_t rows, int64_t width, int64_t out, int64_t inner) {
  return pu_cuda_fp8_bytes(rows, out, PU_FP8_BOTH) + pu_cuda_fp8_bytes(out, inner, WEIGHT_TURNED) +
         (size_t)(rows * inner) * sizeof(bf16) + pu_cuda_fp8_bytes(rows, 2 * inner, PU_FP8_BOTH) +
         pu_cuda_fp8_bytes(rows, inner, PU_FP8_TURNED) + pu_cuda_fp8_bytes(rows, width, PU_FP8_TURNED) +
         pu_cuda_fp8_bytes(2 * inner, width, WEIGHT_TURNED);
}

/* Gradients of gu in FP8, and what swiglu gave, turned. */
static pu_err gu_back(pu_cuda *d, const pu_mlp_fp8_args *a, const pu_cuda_fp8 *dy, char **at, pu_cuda_fp8 *dgu,
                      pu_cuda_fp8 *act, pu_error *e) {
  int64_t rows = a->x->shape[0], inner = a->down->shape[1];
  pu_cuda_fp8 w;
  PU_TRY(put(d, a->down, WEIGHT_TURNED, at, &w, e));
  bf16 *dact = (bf16 *)*at;
  *at += (size_t)(rows * inner) * sizeof(bf16);
  pu_cuda_product p = product(plain_of(dy), turned_of(&w), dact, inner, PU_BF16);
  PU_TRY(pu_cuda_multiply(d, &p, e));
  *dgu = pu_cuda_fp8_in(rows, 2 * inner, PU_FP8_BOTH, at);
  *act = pu_cuda_fp8_in(rows, inner, PU_FP8_TURNED, at);
  return pu_cuda_fp8_swiglu_back(d, a->gu, dact, dgu, act, e);
}

static pu_err mlp_fp8_back(pu_backend *be, void *args, pu_error *e) {
  const pu_mlp_fp8_args *a = (const pu_mlp_fp8_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  pu_cuda_fp8 dy, dgu, act, x, w;
  void *work;
  PU_TRY(pu_cuda_work(d, mlp_back_bytes(a->x->shape[0], a->x->shape[1], a->y->shape[1], a->down->shape[1]), &work, e));
  char *at = (char *)work;
  PU_TRY(put(d, a->y->grad, PU_FP8_BOTH, &at, &dy, e));
  PU_TRY(gu_back(d, a, &dy, &at, &dgu, &act, e));
  if (a->down->grad) PU_TRY(w_back(d, &dy, &act, a->down, e));
  if (a->x->grad) {
    PU_TRY(put(d, a->gate_up, WEIGHT_TURNED, &at, &w, e));
    PU_TRY(multiply(d, plain_of(&dgu), turned_of(&w), a->x->grad, pu_grad_beta(a->x), e));
  }
  if (!a->gate_up->grad) return PU_OK;
  PU_TRY(put(d, a->x, PU_FP8_TURNED, &at, &x, e));
  return w_back(d, &dgu, &x, a->gate_up, e);
}

/* ---- use ---- */

size_t pu_cuda_fp8_work_bytes(const pu_work_shape *s) {
  if (!s->fp8) return 0;
  int64_t q = s->heads * s->head_dim, qkv = q + 2 * s->kv_heads * s->head_dim;
  size_t linear = pu_cuda_fp8_bytes(s->tokens, PU_MAX(qkv, s->hidden), PU_FP8_BOTH) +
                  pu_cuda_fp8_bytes(qkv, PU_MAX(q, s->hidden), WEIGHT_TURNED) +
                  pu_cuda_fp8_bytes(s->tokens, PU_MAX(q, s->hidden), PU_FP8_TURNED);
  return PU_MAX(linear, mlp_back_bytes(s->tokens, s->hidden, s->hidden, s->ffn));
}

/* cuBLASLt has products with scales of 128 values for Hopper alone. */
void pu_cuda_use_fp8(pu_cuda *d) {
  if (d->capability != 90) return;
  d->base.forward[PU_OP_linear_fp8] = linear_fp8;
  d->base.backward[PU_OP_linear_fp8] = linear_fp8_back;
  d->base.forward[PU_OP_mlp_fp8] = mlp_fp8;
  d->base.backward[PU_OP_mlp_fp8] = mlp_fp8_back;
}
