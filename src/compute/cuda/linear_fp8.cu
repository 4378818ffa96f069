/* linear in FP8. On tensor cores both operands have to lie along the sum, so that backward takes them turned: dx = dy w
 * wants w^T; dw = dy^T x wants both. Rounding turns them, and is done again in backward rather than kept. */
#include "src/compute/cuda/fp8.h"

enum { PART = 256 }; /* bytes that each part of the work memory is rounded up to */

static size_t rounded(int64_t bytes) {
  return (size_t)ceil_div(bytes, PART) * PART;
}

static bool lies_well(const pu_tensor *t) {
  return t->dtype == PU_BF16 && t->layout == PU_LAYOUT_PLAIN && t->shape[0] % 16 == 0 && t->shape[1] % 16 == 0 &&
         ((uintptr_t)t->data | (size_t)t->stride[0] * sizeof(bf16)) % 16 == 0;
}

bool pu_cuda_fp8_can(const pu_cuda *d, const pu_linear_args *a) {
  bool can = d->capability >= 90 && lies_well(a->x) && lies_well(a->w) && lies_well(a->y) && a->x->shape[0] > 0;
  return can && (!a->y->grad || !a->y->grad->data || lies_well(a->y->grad));
}

/* ---- what is rounded ---- */

typedef struct rounding {
  pu_cuda *d;
  char *at;     /* of the work memory */
  float *scale; /* the next one */
} rounding;

static rounding begin(pu_cuda *d, void *room) {
  rounding r = {d, (char *)room + PART, (float *)room};
  return r;
}

/* Rounds t, as it lies and turned, as wanted. */
static pu_err round_tensor(rounding *r, const pu_tensor *t, bool gradient, bool plain, bool turned, pu_cuda_fp8 *out,
                           pu_error *e) {
  size_t bytes = rounded(t->shape[0] * t->shape[1]);
  *out = {(const bf16 *)t->data, t->shape[0], t->shape[1], t->stride[0], gradient};
  if (plain) out->plain = (uint8_t *)r->at, r->at += bytes;
  if (turned) out->turned = (uint8_t *)r->at, r->at += bytes;
  out->scale = r->scale;
  r->scale += 2;
  return pu_cuda_to_fp8(r->d, out, e);
}

static pu_cuda_product product(const uint8_t *a, const pu_cuda_fp8 *fa, const uint8_t *b, const pu_cuda_fp8 *fb,
                               const pu_tensor *y) {
  pu_cuda_product p = {};
  p.a = a, p.b = b, p.y = y->data;
  p.rows = y->shape[0], p.cols = y->shape[1];
  p.y_step = y->stride[0];
  p.type = PU_BF16, p.y_type = y->dtype;
  p.fp8 = true, p.a_gradient = fa->gradient;
  p.a_scale = fa->scale, p.b_scale = fb->scale;
  return p;
}

/* ---- forward, backward ---- */

pu_err pu_cuda_fp8_linear(pu_cuda *d, const pu_linear_args *a, pu_error *e) {
  pu_cuda_fp8 x, w;
  void *room;
  int64_t n = a->x->shape[0], k = a->x->shape[1], m = a->w->shape[0];
  PU_TRY(pu_cuda_work(d, PART + rounded(n * k) + rounded(m * k), &room, e));
  rounding r = begin(d, room);
  PU_TRY(round_tensor(&r, a->x, false, true, false, &x, e));
  PU_TRY(round_tensor(&r, a->w, false, true, false, &w, e));
  pu_cuda_product p = product(x.plain, &x, w.plain, &w, a->y);
  p.inner = p.a_step = p.b_step = k;
  p.rough = true; /* of sums of some thousand products; gradients are more sensitive */
  if (a->b) p.bias = a->b->data, p.bias_type = a->b->dtype;
  return pu_cuda_multiply(d, &p, e);
}

size_t pu_cuda_fp8_room(const pu_linear_args *a) {
  int64_t n = a->x->shape[0], k = a->x->shape[1], m = a->w->shape[0];
  return PART + 2 * rounded(n * m) + rounded(n * k) + rounded(m * k);
}

static pu_err x_back(pu_cuda *d, rounding *r, const pu_linear_args *a, const pu_cuda_fp8 *dy, pu_error *e) {
  pu_cuda_fp8 w;
  PU_TRY(round_tensor(r, a->w, false, false, true, &w, e));
  pu_cuda_product p = product(dy->plain, dy, w.turned, &w, a->x->grad);
  p.inner = p.a_step = p.b_step = a->w->shape[0];
  p.beta = pu_grad_beta(a->x);
  return pu_cuda_multiply(d, &p, e);
}

static pu_err w_back(pu_cuda *d, rounding *r, const pu_linear_args *a, const pu_cuda_fp8 *dy, pu_error *e) {
  pu_cuda_fp8 x;
  PU_TRY(round_tensor(r, a->x, false, false, true, &x, e));
  pu_cuda_product p = product(dy->turned, dy, x.turned, &x, a->w->grad);
  p.inner = p.a_step = p.b_step = a->x->shape[0];
  p.beta = pu_grad_beta(a->w);
  return pu_cuda_multiply(d, &p, e);
}

pu_err pu_cuda_fp8_back(pu_cuda *d, const pu_linear_args *a, void *room, pu_error *e) {
  pu_cuda_fp8 dy;
  rounding r = begin(d, room);
  PU_TRY(round_tensor(&r, a->y->grad, true, a->x->grad != NULL, a->w->grad != NULL, &dy, e));
  if (a->x->grad) PU_TRY(x_back(d, &r, a, &dy, e));
  return a->w->grad ? w_back(d, &r, a, &dy, e) : PU_OK;
}
