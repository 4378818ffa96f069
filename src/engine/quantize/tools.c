/* What methods are made of: products, rounding, the error that it makes. */
#include "src/engine/quantize/quantize.h"

#include <stdlib.h>

pu_err pu_quant_product(pu_backend *be, const float *x, int64_t n, int64_t x_step, const float *w, int64_t m,
                        int64_t w_step, int64_t k, float *y, pu_error *e) {
  pu_tensor tx = {.dtype = PU_F32, .ndim = 2, .shape = {n, k}, .stride = {x_step, 1}, .data = (void *)x};
  pu_tensor tw = {.dtype = PU_F32, .ndim = 2, .shape = {m, k}, .stride = {w_step, 1}, .data = (void *)w};
  pu_tensor ty = {.dtype = PU_F32, .ndim = 2, .shape = {n, m}, .stride = {m, 1}, .data = y};
  pu_linear_args a = {.x = &tx, .w = &tw, .y = &ty};
  return be->forward[PU_OP_linear](be, &a, e);
}

static void round_rows(void *arg, int64_t begin, int64_t end, int worker) {
  pu_quant_matrix *m = arg;
  (void)worker;
  for (int64_t r = begin; r < end; r++) pu_qmatrix_round(&m->q, r, m->w + r * m->cols);
}

void pu_quant_round_all(pu_backend *be, pu_quant_matrix *m) {
  pu_pool_run(be->pool, m->rows, 16, round_rows, m);
}

typedef struct differ_job {
  const pu_quant_matrix *m;
  float *out;
} differ_job;

static void differ_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const differ_job *j = arg;
  const pu_quant_matrix *m = j->m;
  (void)worker;
  for (int64_t r = begin; r < end; r++) {
    float *out = j->out + r * m->cols;
    pu_qmatrix_to_f32(&m->q, r, out);
    for (int64_t k = 0; k < m->cols; k++) out[k] -= m->w[r * m->cols + k];
  }
}

static pu_err sum_squares(pu_backend *be, const pu_quant_matrix *m, const float *w, float *y, double *out,
                          pu_error *e) {
  int64_t n = m->in.sampled;
  PU_TRY(pu_quant_product(be, m->in.sample, n, m->cols, w, m->rows, m->cols, m->cols, y, e));
  for (int64_t i = 0; i < n * m->rows; i++) *out += (double)y[i] * (double)y[i];
  return PU_OK;
}

pu_err pu_quant_measure(pu_backend *be, const pu_quant_matrix *m, pu_quant_loss *out, pu_error *e) {
  *out = (pu_quant_loss){0};
  if (m->in.sampled == 0) return PU_OK;
  float *d = malloc((size_t)(m->rows * m->cols) * sizeof *d);
  float *y = malloc((size_t)(m->in.sampled * m->rows) * sizeof *y);
  differ_job j = {m, d};
  pu_err err = d && y ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for the error of %lld rows", (long long)m->rows);
  if (!err) pu_pool_run(be->pool, m->rows, 16, differ_rows, &j);
  if (!err) err = sum_squares(be, m, d, y, &out->error, e);
  if (!err) err = sum_squares(be, m, m->w, y, &out->size, e);
  free(d);
  free(y);
  return err;
}
