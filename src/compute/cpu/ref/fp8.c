/* linear_fp8 and mlp_fp8: operands rounded to FP8 and back, then products in f32. Slow; it is what devices are tested
 * against. */
#include "src/compute/cpu/gemm.h"
#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

#include <math.h>

/* ---- rounding -------------------------------------------------------------------------------------------------------
 */

typedef struct rounding {
  const pu_tensor *from;
  bool gradient;
  float by;
  float *to; /* [rows, cols] */
} rounding;

/* Of rows [begin, end); NaN where one is there. */
static float largest(const pu_tensor *t, int64_t begin, int64_t end) {
  float most = 0;
  for (int64_t n = begin; n < end; n++)
    for (int64_t k = 0; k < t->shape[1]; k++) {
      float v = fabsf(pu_get(t, n, k));
      most = v > most || isnan(v) ? v : most;
    }
  return most;
}

/* The largest power of two, of a gradient that of 64, that leaves `most` in range. */
static float power_of(float most, bool gradient) {
  float by = 0x1p-96f, step = gradient ? 64 : 2;
  if (most == 0) return 1;
  while (by < 0x1p96f && most * by * step <= (gradient ? 57344.0f : 448.0f)) by *= step;
  return by;
}

static void round_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const rounding *r = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++)
    for (int64_t k = 0; k < r->from->shape[1]; k++) {
      float v = pu_get(r->from, n, k) * r->by;
      float rounded = r->gradient ? pu_e5m2_to_f32(pu_f32_to_e5m2(v)) : pu_e4m3_to_f32(pu_f32_to_e4m3(v));
      r->to[n * r->from->shape[1] + k] = rounded / r->by;
    }
}

/* ---- products -------------------------------------------------------------------------------------------------------
 */

/* Work memory: two operands as f32. */
typedef struct operands {
  pu_cpu *cpu;
  float *a, *b;
} operands;

static const float *rounded(const operands *o, const pu_tensor *t, bool gradient, float *to) {
  float most = largest(t, 0, t->shape[0]);
  rounding r = {t, gradient, isfinite(most) ? power_of(most, gradient) : NAN, to};
  pu_pool_run(o->cpu->pool, t->shape[0], 16, round_rows, &r);
  return to;
}

static void product(const operands *o, pu_gemm g) {
  g.ab_type = PU_F32;
  g.alpha = 1;
  pu_cpu_gemm(o->cpu, &g);
}

static void times_weight(const operands *o, const pu_tensor *x, const pu_tensor *w, const pu_tensor *b,
                         const pu_tensor *y) {
  product(o, (pu_gemm){.m = x->shape[0],
                       .n = w->shape[0],
                       .k = x->shape[1],
                       .a = rounded(o, x, false, o->a),
                       .b = rounded(o, w, false, o->b),
                       .c = y->data,
                       .a_row = x->shape[1],
                       .a_col = 1,
                       .b_row = 1,
                       .b_col = w->shape[1],
                       .c_row = y->stride[0],
                       .c_type = y->dtype,
                       .bias = b ? b->data : NULL,
                       .bias_type = b ? b->dtype : PU_F32});
}

/* dx = dy w */
static void x_back(const operands *o, const pu_tensor *dy, const pu_tensor *w, const pu_tensor *dx, float beta) {
  product(o, (pu_gemm){.m = dy->shape[0],
                       .n = w->shape[1],
                       .k = w->shape[0],
                       .a = rounded(o, dy, true, o->a),
                       .b = rounded(o, w, false, o->b),
                       .c = dx->data,
                       .a_row = dy->shape[1],
                       .a_col = 1,
                       .b_row = w->shape[1],
                       .b_col = 1,
                       .c_row = dx->stride[0],
                       .c_type = dx->dtype,
                       .beta = beta});
}

/* dw = dy^T x */
static void w_back(const operands *o, const pu_tensor *dy, const pu_tensor *x, pu_tensor *w) {
  product(o, (pu_gemm){.m = dy->shape[1],
                       .n = x->shape[1],
                       .k = x->shape[0],
                       .a = rounded(o, dy, true, o->a),
                       .b = rounded(o, x, false, o->b),
                       .c = w->grad->data,
                       .a_row = 1,
                       .a_col = dy->shape[1],
                       .b_row = x->shape[1],
                       .b_col = 1,
                       .c_row = w->grad->stride[0],
                       .c_type = w->grad->dtype,
                       .beta = pu_grad_beta(w)});
}

/* ---- linear --------------------------------------------------------------------------------------------------------
 */

pu_err pu_ref_linear_fp8(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_fp8_args *a = args;
  operands o = {.cpu = (pu_cpu *)be};
  void *work;
  int64_t x = pu_tensor_count(a->x), w = pu_tensor_count(a->w);
  PU_TRY(pu_cpu_work(o.cpu, (size_t)(x + w) * sizeof(float), &work, e));
  o.a = work;
  o.b = o.a + x;
  times_weight(&o, a->x, a->w, a->b, a->y);
  return PU_OK;
}

pu_err pu_ref_linear_fp8_back(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_fp8_args *a = args;
  operands o = {.cpu = (pu_cpu *)be};
  void *work;
  int64_t x = pu_tensor_count(a->x), w = pu_tensor_count(a->w), y = pu_tensor_count(a->y);
  PU_TRY(pu_cpu_work(o.cpu, (size_t)(y + PU_MAX(x, w)) * sizeof(float), &work, e));
  o.a = work;
  o.b = o.a + y;
  if (a->x->grad) x_back(&o, a->y->grad, a->w, a->x->grad, pu_grad_beta(a->x));
  if (a->w->grad) w_back(&o, a->y->grad, a->x, a->w);
  if (a->b && a->b->grad) pu_ref_bias_back(o.cpu, a->y->grad, a->b);
  return PU_OK;
}

/* ---- inference ------------------------------------------------------------------------------------------------------
 */

static float row_scale(const pu_tensor *t, int64_t row) {
  return fmaxf(largest(t, row, row + 1), 0x1p-100f) * (1.0f / 448);
}

void pu_ref_fp8_weight(const pu_tensor *w, pu_tensor *out) {
  int64_t rows = w->shape[0], cols = w->shape[1];
  uint8_t *codes = out->data;
  float *scale = (float *)(codes + pu_fp8_codes_bytes(rows, cols));
  for (int64_t m = 0; m < rows; m++) {
    scale[m] = row_scale(w, m);
    float by = 1 / scale[m];
    for (int64_t k = 0; k < cols; k++) codes[m * cols + k] = pu_f32_to_e4m3(pu_get(w, m, k) * by);
  }
}

/* Of the value in row m and column k. */
static float scale_at(const pu_tensor *w, const float *scale, int64_t m, int64_t k) {
  int64_t group = w->packing.group;
  return group ? scale[m / group * pu_packed_groups(&w->packing, w->shape[1]) + k / group] : scale[m];
}

pu_err pu_ref_linear_of_fp8(pu_cpu *cpu, const pu_linear_args *a, pu_error *e) {
  int64_t n = a->x->shape[0], k = a->x->shape[1], m = a->w->shape[0];
  const uint8_t *codes = a->w->data;
  const float *scale = (const float *)(codes + pu_fp8_codes_bytes(m, k));
  operands o = {.cpu = cpu};
  void *work;
  PU_TRY(pu_cpu_work(cpu, (size_t)(n * k + m * k) * sizeof(float), &work, e));
  o.a = work;
  o.b = o.a + n * k;
  for (int64_t i = 0; i < n; i++) {
    float sx = row_scale(a->x, i), by = 1 / sx;
    for (int64_t c = 0; c < k; c++) o.a[i * k + c] = pu_e4m3_to_f32(pu_f32_to_e4m3(pu_get(a->x, i, c) * by)) * sx;
  }
  for (int64_t i = 0; i < m * k; i++) o.b[i] = pu_e4m3_to_f32(codes[i]) * scale_at(a->w, scale, i / k, i % k);
  product(&o, (pu_gemm){.m = n,
                        .n = m,
                        .k = k,
                        .a = o.a,
                        .b = o.b,
                        .c = a->y->data,
                        .a_row = k,
                        .a_col = 1,
                        .b_row = 1,
                        .b_col = k,
                        .c_row = a->y->stride[0],
                        .c_type = a->y->dtype,
                        .bias = a->b ? a->b->data : NULL,
                        .bias_type = a->b ? a->b->dtype : PU_F32});
  return PU_OK;
}

/* ---- the MLP -------------------------------------------------------------------------------------------------------
 */

/* Work memory: swiglu's output and gu's gradient in f32, that of swiglu's output in bf16; then the operands. */
typedef struct mlp_work {
  operands o;
  pu_tensor act, dact, dgu;
} mlp_work;

static pu_tensor over(pu_dtype dtype, int64_t rows, int64_t cols, char **at) {
  pu_tensor t = {.dtype = dtype, .ndim = 2, .shape = {rows, cols}, .stride = {cols, 1}, .data = *at};
  *at += pu_tensor_bytes(&t);
  return t;
}

/* The first operand: gu's gradient, or what is as wide as the model. */
static int64_t first_values(int64_t n, int64_t wide, int64_t inner) {
  return n * PU_MAX(2 * inner, wide);
}

static size_t mlp_bytes(int64_t n, int64_t wide, int64_t inner) {
  int64_t second = PU_MAX(2 * inner * wide, n * PU_MAX(inner, wide));
  return (size_t)(first_values(n, wide, inner) + second + 3 * n * inner) * sizeof(float) +
         (size_t)(n * inner) * sizeof(uint16_t);
}

/* From [n, k] to [n, m]: forward or backward. */
static size_t linear_bytes(int64_t n, int64_t k, int64_t m) {
  return (size_t)PU_MAX(n * k + m * k, n * m + PU_MAX(n, m) * k) * sizeof(float);
}

size_t pu_ref_fp8_work_bytes(const pu_work_shape *s) {
  if (!s->fp8) return 0;
  int64_t q = (int64_t)s->heads * s->head_dim, kv = (int64_t)s->kv_heads * s->head_dim;
  size_t linear = PU_MAX(linear_bytes(s->tokens, s->hidden, q + 2 * kv), linear_bytes(s->tokens, q, s->hidden));
  return PU_MAX(linear, mlp_bytes(s->tokens, s->hidden, s->ffn));
}

static pu_err take_work(pu_cpu *cpu, const pu_mlp_fp8_args *a, mlp_work *w, pu_error *e) {
  int64_t n = a->x->shape[0], inner = a->down->shape[1], wide = PU_MAX(a->x->shape[1], a->down->shape[0]);
  void *work;
  PU_TRY(pu_cpu_work(cpu, mlp_bytes(n, wide, inner), &work, e));
  char *at = work;
  w->act = over(PU_F32, n, inner, &at);
  w->dgu = over(PU_F32, n, 2 * inner, &at);
  w->dact = over(PU_BF16, n, inner, &at);
  w->o = (operands){.cpu = cpu, .a = (float *)at};
  w->o.b = w->o.a + first_values(n, wide, inner);
  return PU_OK;
}

pu_err pu_ref_mlp_fp8(pu_backend *be, void *args, pu_error *e) {
  const pu_mlp_fp8_args *a = args;
  mlp_work w;
  PU_TRY(take_work((pu_cpu *)be, a, &w, e));
  times_weight(&w.o, a->x, a->gate_up, NULL, a->gu);
  pu_swiglu_args act = {.gu = a->gu, .y = &w.act};
  PU_TRY(pu_ref_swiglu(be, &act, e));
  times_weight(&w.o, &w.act, a->down, NULL, a->y);
  return PU_OK;
}

pu_err pu_ref_mlp_fp8_back(pu_backend *be, void *args, pu_error *e) {
  const pu_mlp_fp8_args *a = args;
  const pu_tensor *dy = a->y->grad;
  mlp_work w;
  PU_TRY(take_work((pu_cpu *)be, a, &w, e));
  pu_tensor gu = *a->gu;
  gu.grad = &w.dgu;
  gu.grad_set = false;
  w.act.grad = &w.dact;
  pu_swiglu_args act = {.gu = &gu, .y = &w.act};
  PU_TRY(pu_ref_swiglu(be, &act, e));
  x_back(&w.o, dy, a->down, &w.dact, 0);
  PU_TRY(pu_ref_swiglu_back(be, &act, e));
  if (a->down->grad) w_back(&w.o, dy, &w.act, a->down);
  if (a->x->grad) x_back(&w.o, &w.dgu, a->gate_up, a->x->grad, pu_grad_beta(a->x));
  if (a->gate_up->grad) w_back(&w.o, &w.dgu, a->x, a->gate_up);
  return PU_OK;
}
