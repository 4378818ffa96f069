/* rmsnorm_add and qk_norm. With r = 1 / sqrt(mean(h^2) + eps) and y = h r w:
 *   dh = r (dy w - h r^2 mean(dy w h)),   dw = sum over rows of dy h r. */
#include <math.h>

#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

enum { ROWS = 16, COLUMNS = 32 };

/* ---- rmsnorm_add ---- */

static void norm_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_rmsnorm_add_args *a = arg;
  int64_t width = a->res->shape[1];
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    double squares = 0;
    for (int64_t c = 0; c < width; c++) {
      float h = pu_get(a->res, n, c) + (a->x ? pu_get(a->x, n, c) : 0.0f);
      if (a->x) pu_set(a->h, n, c, h);
      squares += (double)h * h;
    }
    float r = (float)(1 / sqrt(squares / (double)width + (double)a->eps));
    pu_set(a->rstd, 0, n, r);
    for (int64_t c = 0; c < width; c++) pu_set(a->y, n, c, pu_get(a->h, n, c) * r * pu_get1(a->w, c));
  }
}

pu_err pu_ref_rmsnorm_add(pu_backend *be, void *args, pu_error *e) {
  const pu_rmsnorm_add_args *a = args;
  (void)e;
  pu_pool_run(((pu_cpu *)be)->pool, a->res->shape[0], ROWS, norm_rows, args);
  return PU_OK;
}

typedef struct norm_back {
  const pu_rmsnorm_add_args *a;
  float beta_res, beta_x, beta_w;
} norm_back;

static void norm_rows_back(void *arg, int64_t begin, int64_t end, int worker) {
  const norm_back *b = arg;
  const pu_rmsnorm_add_args *a = b->a;
  int64_t width = a->res->shape[1];
  bool separate = a->h != a->res, more = separate && a->h->grad && a->h->grad_set;
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    float r = pu_get1(a->rstd, n);
    double dot = 0;
    for (int64_t c = 0; c < width; c++) dot += (double)pu_get(a->y->grad, n, c) * pu_get1(a->w, c) * pu_get(a->h, n, c);
    float pull = (float)(dot / (double)width) * r * r;
    for (int64_t c = 0; c < width; c++) {
      float dh = r * (pu_get(a->y->grad, n, c) * pu_get1(a->w, c) - pu_get(a->h, n, c) * pull);
      if (more) dh += pu_get(a->h->grad, n, c);
      if (a->res->grad) pu_acc(a->res->grad, n, c, dh, b->beta_res);
      if (a->x && a->x->grad) pu_acc(a->x->grad, n, c, dh, b->beta_x);
    }
  }
}

static void norm_weight_back(void *arg, int64_t begin, int64_t end, int worker) {
  const norm_back *b = arg;
  const pu_rmsnorm_add_args *a = b->a;
  (void)worker;
  for (int64_t c = begin; c < end; c++) {
    double sum = 0;
    for (int64_t n = 0; n < a->res->shape[0]; n++)
      sum += (double)pu_get(a->y->grad, n, c) * pu_get(a->h, n, c) * pu_get1(a->rstd, n);
    pu_acc(a->w->grad, 0, c, (float)sum, b->beta_w);
  }
}

pu_err pu_ref_rmsnorm_add_back(pu_backend *be, void *args, pu_error *e) {
  const pu_rmsnorm_add_args *a = args;
  pu_pool *pool = ((pu_cpu *)be)->pool;
  norm_back b = {.a = a};
  (void)e;
  if (a->res->grad) b.beta_res = pu_grad_beta(a->res);
  if (a->x && a->x->grad) b.beta_x = pu_grad_beta(a->x);
  if (a->w->grad) b.beta_w = pu_grad_beta(a->w);
  pu_pool_run(pool, a->res->shape[0], ROWS, norm_rows_back, &b);
  if (a->w->grad) pu_pool_run(pool, a->w->shape[0], COLUMNS, norm_weight_back, &b);
  return PU_OK;
}

/* ---- qk_norm ---- */

static void head_norm(const pu_qk_norm_args *a, int64_t n, int head) {
  int64_t d0 = (int64_t)head * a->head_dim;
  const pu_tensor *w = head < a->heads ? a->wq : a->wk;
  double squares = 0;
  for (int64_t d = 0; d < a->head_dim; d++) {
    float v = pu_get(a->qkv, n, d0 + d);
    squares += (double)v * v;
  }
  float r = (float)(1 / sqrt(squares / a->head_dim + (double)a->eps));
  if (a->rstd) pu_set(a->rstd, n, head, r);
  for (int64_t d = 0; d < a->head_dim; d++) pu_set(a->out, n, d0 + d, pu_get(a->qkv, n, d0 + d) * r * pu_get1(w, d));
}

static void qk_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_qk_norm_args *a = arg;
  int normed = a->heads + a->kv_heads;
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    for (int head = 0; head < normed; head++) head_norm(a, n, head);
    for (int64_t c = (int64_t)normed * a->head_dim; c < a->qkv->shape[1]; c++)
      pu_set(a->out, n, c, pu_get(a->qkv, n, c));
  }
}

pu_err pu_ref_qk_norm(pu_backend *be, void *args, pu_error *e) {
  const pu_qk_norm_args *a = args;
  (void)e;
  pu_pool_run(((pu_cpu *)be)->pool, a->qkv->shape[0], ROWS, qk_rows, args);
  return PU_OK;
}

typedef struct qk_back {
  const pu_qk_norm_args *a;
  float beta, beta_wq, beta_wk;
} qk_back;

static void head_norm_back(const qk_back *b, int64_t n, int head) {
  const pu_qk_norm_args *a = b->a;
  int64_t d0 = (int64_t)head * a->head_dim;
  const pu_tensor *w = head < a->heads ? a->wq : a->wk, *dy = a->out->grad;
  float r = pu_get(a->rstd, n, head);
  double dot = 0;
  for (int64_t d = 0; d < a->head_dim; d++)
    dot += (double)pu_get(dy, n, d0 + d) * pu_get1(w, d) * pu_get(a->qkv, n, d0 + d);
  float pull = (float)(dot / a->head_dim) * r * r;
  for (int64_t d = 0; d < a->head_dim; d++) {
    float dx = r * (pu_get(dy, n, d0 + d) * pu_get1(w, d) - pu_get(a->qkv, n, d0 + d) * pull);
    pu_acc(a->qkv->grad, n, d0 + d, dx, b->beta);
  }
}

static void qk_rows_back(void *arg, int64_t begin, int64_t end, int worker) {
  const qk_back *b = arg;
  const pu_qk_norm_args *a = b->a;
  int normed = a->heads + a->kv_heads;
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    for (int head = 0; head < normed; head++) head_norm_back(b, n, head);
    for (int64_t c = (int64_t)normed * a->head_dim; c < a->qkv->shape[1]; c++)
      pu_acc(a->qkv->grad, n, c, pu_get(a->out->grad, n, c), b->beta);
  }
}

static float head_weight_sum(const pu_qk_norm_args *a, int first, int heads, int64_t d) {
  double sum = 0;
  for (int64_t n = 0; n < a->qkv->shape[0]; n++)
    for (int head = first; head < first + heads; head++) {
      int64_t c = (int64_t)head * a->head_dim + d;
      sum += (double)pu_get(a->out->grad, n, c) * pu_get(a->qkv, n, c) * pu_get(a->rstd, n, head);
    }
  return (float)sum;
}

static void qk_weights_back(void *arg, int64_t begin, int64_t end, int worker) {
  const qk_back *b = arg;
  const pu_qk_norm_args *a = b->a;
  (void)worker;
  for (int64_t d = begin; d < end; d++) {
    if (a->wq->grad) pu_acc(a->wq->grad, 0, d, head_weight_sum(a, 0, a->heads, d), b->beta_wq);
    if (a->wk->grad) pu_acc(a->wk->grad, 0, d, head_weight_sum(a, a->heads, a->kv_heads, d), b->beta_wk);
  }
}

pu_err pu_ref_qk_norm_back(pu_backend *be, void *args, pu_error *e) {
  const pu_qk_norm_args *a = args;
  pu_pool *pool = ((pu_cpu *)be)->pool;
  qk_back b = {.a = a};
  (void)e;
  if (a->wq->grad) b.beta_wq = pu_grad_beta(a->wq);
  if (a->wk->grad) b.beta_wk = pu_grad_beta(a->wk);
  if (a->qkv->grad) {
    b.beta = pu_grad_beta(a->qkv);
    pu_pool_run(pool, a->qkv->shape[0], ROWS, qk_rows_back, &b);
  }
  if (a->wq->grad || a->wk->grad) pu_pool_run(pool, a->head_dim, 8, qk_weights_back, &b);
  return PU_OK;
}
