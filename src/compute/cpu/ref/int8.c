/* Weights in PU_LAYOUT_INT8: what devices are tested against. On a processor `--quant q8` is the fast way. */
#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

#include <math.h>

/* A matrix in codes, or on its way there. */
typedef struct coded {
  const pu_tensor *from; /* bf16 */
  int64_t rows, cols;
  int8_t *codes; /* [rows, cols] */
  float *scale;  /* [rows] */
} coded;

static coded coded_in(void *memory, const pu_tensor *from, int64_t rows, int64_t cols) {
  return (coded){from, rows, cols, memory, (float *)((char *)memory + pu_fp8_codes_bytes(rows, cols))};
}

static size_t coded_bytes(int64_t rows, int64_t cols) {
  return pu_fp8_codes_bytes(rows, cols) + (size_t)rows * sizeof(float);
}

static void code_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const coded *c = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    float most = 0x1p-100f;
    int8_t *codes = c->codes + n * c->cols;
    for (int64_t k = 0; k < c->cols && isfinite(most); k++) {
      float v = fabsf(pu_get(c->from, n, k));
      most = v > most || isnan(v) ? v : most;
    }
    float scale = most * (1.0f / 127), by = 1 / scale;
    c->scale[n] = isfinite(most) ? scale : NAN;
    for (int64_t k = 0; k < c->cols; k++)
      codes[k] = isfinite(most) ? (int8_t)nearbyintf(pu_get(c->from, n, k) * by) : 0;
  }
}

typedef struct product {
  coded x, w;
  const pu_linear_args *a;
} product;

/* Of one product's columns, all rows. */
static void multiply(void *arg, int64_t begin, int64_t end, int worker) {
  const product *p = arg;
  const pu_tensor *b = p->a->b;
  (void)worker;
  for (int64_t m = begin; m < end; m++)
    for (int64_t n = 0; n < p->x.rows; n++) {
      const int8_t *x = p->x.codes + n * p->x.cols, *w = p->w.codes + m * p->w.cols;
      int32_t sum = 0;
      for (int64_t k = 0; k < p->x.cols; k++) sum += x[k] * w[k];
      float y = (float)sum * p->x.scale[n] * p->w.scale[m];
      pu_set(p->a->y, n, m, b ? y + pu_get(b, 0, m) : y);
    }
}

void pu_ref_int8_weight(pu_cpu *cpu, const pu_tensor *w, pu_tensor *out) {
  coded c = coded_in(out->data, w, w->shape[0], w->shape[1]);
  pu_pool_run(cpu->pool, c.rows, 16, code_rows, &c);
}

pu_err pu_ref_linear_of_int8(pu_cpu *cpu, const pu_linear_args *a, pu_error *e) {
  int64_t n = a->x->shape[0], k = a->x->shape[1], m = a->w->shape[0];
  void *work;
  PU_TRY(pu_cpu_work(cpu, coded_bytes(n, k), &work, e));
  product p = {coded_in(work, a->x, n, k), coded_in(a->w->data, NULL, m, k), a};
  pu_pool_run(cpu->pool, n, 1, code_rows, &p.x);
  pu_pool_run(cpu->pool, m, 16, multiply, &p);
  return PU_OK;
}
