/* swiglu: y = silu(a) b, silu(a) = a s with s = 1 / (1 + exp(-a)); silu'(a) = s (1 + a (1 - s)). */
#include <math.h>

#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

static float sigmoid(float a) {
  return (float)(1 / (1 + exp(-(double)a)));
}

static void swiglu_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_swiglu_args *a = arg;
  int64_t inner = a->y->shape[1];
  (void)worker;
  for (int64_t n = begin; n < end; n++)
    for (int64_t f = 0; f < inner; f++) {
      float gate = pu_get(a->gu, n, f);
      pu_set(a->y, n, f, gate * sigmoid(gate) * pu_get(a->gu, n, inner + f));
    }
}

pu_err pu_ref_swiglu(pu_backend *be, void *args, pu_error *e) {
  const pu_swiglu_args *a = args;
  (void)e;
  pu_pool_run(((pu_cpu *)be)->pool, a->y->shape[0], 16, swiglu_rows, args);
  return PU_OK;
}

/* By what the backend has for the two. */
pu_err pu_ref_linear_swiglu(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_swiglu_args *a = args;
  PU_TRY(be->forward[PU_OP_linear](be, &(pu_linear_args){.x = a->x, .w = a->w, .y = a->gu}, e));
  return be->forward[PU_OP_swiglu](be, &(pu_swiglu_args){.gu = a->gu, .y = a->y}, e);
}

typedef struct swiglu_back {
  const pu_swiglu_args *a;
  float beta;
} swiglu_back;

static void swiglu_rows_back(void *arg, int64_t begin, int64_t end, int worker) {
  const swiglu_back *b = arg;
  const pu_swiglu_args *a = b->a;
  int64_t inner = a->y->shape[1];
  (void)worker;
  for (int64_t n = begin; n < end; n++)
    for (int64_t f = 0; f < inner; f++) {
      float gate = pu_get(a->gu, n, f), up = pu_get(a->gu, n, inner + f), dy = pu_get(a->y->grad, n, f);
      float s = sigmoid(gate);
      pu_acc(a->gu->grad, n, f, dy * up * s * (1 + gate * (1 - s)), b->beta);
      pu_acc(a->gu->grad, n, inner + f, dy * gate * s, b->beta);
      if (a->again) pu_set(a->y, n, f, gate * s * up);
    }
}

pu_err pu_ref_swiglu_back(pu_backend *be, void *args, pu_error *e) {
  const pu_swiglu_args *a = args;
  swiglu_back b = {a, pu_grad_beta(a->gu)};
  (void)e;
  pu_pool_run(((pu_cpu *)be)->pool, a->y->shape[0], 16, swiglu_rows_back, &b);
  return PU_OK;
}
