/* What is known of a matrix's inputs: mean and greatest size of each, a sample of whole ones, and their Hessian. */
#include "src/engine/quantize/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 64 }; /* a piece of work: each column is summed by one thread, whatever their number */

pu_err pu_quant_inputs_init(pu_quant_inputs *in, int64_t cols, bool hessian, pu_error *e) {
  *in = (pu_quant_inputs){.cols = cols, .step = 1};
  size_t n = (size_t)cols;
  in->sum = calloc(n, sizeof *in->sum);
  in->most = calloc(n, sizeof *in->most);
  in->sample = calloc(n, PU_QUANT_SAMPLE * sizeof *in->sample);
  if (hessian) in->hessian = calloc(n, n * sizeof *in->hessian);
  if (!in->sum || !in->most || !in->sample || (hessian && !in->hessian))
    return pu_fail(e, PU_ERR_NOMEM, "no memory for what is known of %lld inputs", (long long)cols);
  return PU_OK;
}

void pu_quant_inputs_deinit(pu_quant_inputs *in) {
  free(in->sum);
  free(in->most);
  free(in->sample);
  free(in->hessian);
  *in = (pu_quant_inputs){0};
}

/* ---- adding ---- */

typedef struct add_job {
  pu_quant_inputs *in;
  const float *x;
  int64_t n;
} add_job;

static void add_columns(void *arg, int64_t begin, int64_t end, int worker) {
  const add_job *j = arg;
  (void)worker;
  for (int64_t r = 0; r < j->n; r++) {
    const float *x = j->x + r * j->in->cols;
    for (int64_t k = begin; k < end; k++) {
      float size = fabsf(x[k]);
      j->in->sum[k] += (double)size;
      j->in->most[k] = size > j->in->most[k] ? size : j->in->most[k];
    }
  }
}

/* Every step-th input, step a power of two: when the sample is full every second one goes, and the step doubles. So it
 * is spread evenly over however many come, and depends on their order alone. */
static void keep_samples(pu_quant_inputs *in, const float *x, int64_t n) {
  size_t row = (size_t)in->cols * sizeof *x;
  for (int64_t r = 0; r < n; r++) {
    if ((in->seen + r) % in->step) continue;
    if (in->sampled == PU_QUANT_SAMPLE) {
      for (int64_t i = 1; i < PU_QUANT_SAMPLE / 2; i++)
        memcpy(in->sample + i * in->cols, in->sample + 2 * i * in->cols, row);
      in->sampled = PU_QUANT_SAMPLE / 2;
      in->step *= 2;
      if ((in->seen + r) % in->step) continue;
    }
    memcpy(in->sample + in->sampled++ * in->cols, x + r * in->cols, row);
  }
}

/* H += x^T x is the gradient of a linear operation's weights whose output's gradient is its input: so the fast product
 * is used, in the type that x has. */
static pu_err add_hessian(pu_quant_inputs *in, pu_backend *be, const pu_tensor *x, pu_error *e) {
  int64_t n = x->shape[0], k = in->cols;
  pu_tensor h = {.dtype = PU_F32, .ndim = 2, .shape = {k, k}, .stride = {k, 1}, .data = in->hessian};
  pu_tensor w = {.dtype = x->dtype, .ndim = 2, .shape = {k, k}, .stride = {k, 1}, .grad = &h, .grad_set = true};
  pu_tensor in_x = *x, dy = *x;
  in_x.grad = NULL;
  pu_tensor y = {.dtype = x->dtype, .ndim = 2, .shape = {n, k}, .stride = {k, 1}, .grad = &dy};
  pu_linear_args a = {.x = &in_x, .w = &w, .y = &y};
  return be->backward[PU_OP_linear](be, &a, e);
}

void pu_quant_inputs_add(pu_quant_inputs *in, pu_ctx *c, const pu_tensor *x) {
  int64_t n = x->shape[0];
  if (c->status || n == 0) return;
  if (x->ndim != 2 || x->shape[1] != in->cols || !pu_tensor_contiguous(x)) {
    c->status = pu_fail(c->err, PU_ERR_SHAPE, "calibration: an input is not as wide as its matrix");
    return;
  }
  size_t mark = pu_arena_mark(c->mem);
  const float *v = x->data;
  if (x->dtype != PU_F32) {
    float *made = pu_arena_alloc(c->mem, (size_t)(n * in->cols) * sizeof *made);
    if (!made) {
      c->status = pu_fail(c->err, PU_ERR_NOMEM, "calibration: no memory for the inputs of %lld tokens", (long long)n);
      return;
    }
    pu_convert(made, PU_F32, x->data, x->dtype, n * in->cols);
    v = made;
  }
  add_job j = {in, v, n};
  pu_pool_run(c->be->pool, in->cols, COLUMNS, add_columns, &j);
  keep_samples(in, v, n);
  if (in->hessian) c->status = add_hessian(in, c->be, x, c->err);
  in->seen += n;
  pu_arena_release(c->mem, mark);
}

/* ---- scaling ---- */

typedef struct divide_job {
  pu_quant_inputs *in;
  const float *s;
} divide_job;

static void divide_row(float *row, const float *s, int64_t n) {
  for (int64_t k = 0; k < n; k++) row[k] /= s[k];
}

static void divide_hessian(void *arg, int64_t begin, int64_t end, int worker) {
  const divide_job *j = arg;
  (void)worker;
  for (int64_t r = begin; r < end; r++) {
    float *row = j->in->hessian + r * j->in->cols;
    divide_row(row, j->s, j->in->cols);
    for (int64_t k = 0; k < j->in->cols; k++) row[k] /= j->s[r];
  }
}

void pu_quant_inputs_divide(pu_quant_inputs *in, pu_backend *be, const float *s) {
  divide_job j = {in, s};
  for (int64_t k = 0; k < in->cols; k++) in->sum[k] /= (double)s[k];
  divide_row(in->most, s, in->cols);
  for (int64_t r = 0; r < in->sampled; r++) divide_row(in->sample + r * in->cols, s, in->cols);
  if (in->hessian) pu_pool_run(be->pool, in->cols, 16, divide_hessian, &j);
}
