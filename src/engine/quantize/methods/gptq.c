/* gptq: weights are rounded one input after the other, and the inputs not yet rounded make up for the error (Frantar et
 * al. 2022). Inputs go in the order of how much they carry (act-order); each group's scale is settled before, from the
 * weights as they were, so that groups stay what they are in the file and no permutation is left for those who read it.
 *
 * The paper updates the weights by a Cholesky factor of the inverse Hessian. The same results come from the factor of
 * the Hessian itself (Chee et al. 2023, theorem 6): with H = (U + I) D (U + I)^T, U strictly upper triangular, w'[i] =
 * round(w[i] + sum over k < i of (w[k] - w'[k]) U[k][i]). So nothing is inverted, and rows need only their errors so
 * far: a matrix product for each block of inputs. */
#include "src/engine/quantize/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 128 };
static const double damping = 0.01; /* of the mean of the Hessian's diagonal, added to it */

/* ---- order ---- */

typedef struct place {
  float size;
  int64_t k;
} place;

static int by_size(const void *a, const void *b) {
  const place *x = a, *y = b;
  if (x->size != y->size) return x->size > y->size ? -1 : 1;
  return x->k < y->k ? -1 : 1;
}

static pu_err make_order(const float *h, int64_t n, bool act_order, int64_t *order, pu_error *e) {
  place *p = malloc((size_t)n * sizeof *p);
  if (!p) return pu_fail(e, PU_ERR_NOMEM, "no memory for the order of %lld inputs", (long long)n);
  for (int64_t k = 0; k < n; k++) p[k] = (place){act_order ? h[k * n + k] : 0, k};
  qsort(p, (size_t)n, sizeof *p, by_size);
  for (int64_t k = 0; k < n; k++) order[k] = p[k].k;
  free(p);
  return PU_OK;
}

/* ---- Cholesky ---- */

typedef struct factor {
  pu_backend *be;
  float *a;    /* [n, n]: its lower triangle becomes the factor */
  float *part; /* [n, BLOCK] */
  int64_t n;
} factor;

typedef struct panel_job {
  float *a;
  const float *part;
  int64_t n, at, size;
} panel_job;

static void subtract_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const panel_job *j = arg;
  (void)worker;
  for (int64_t r = begin; r < end; r++) {
    float *row = j->a + (j->at + r) * j->n + j->at;
    for (int64_t k = 0; k < j->size; k++) row[k] -= j->part[r * j->size + k];
  }
}

/* Row r's values in the panel's columns, from the diagonal block above it. */
static void solve_row(const panel_job *j, int64_t r, int64_t until) {
  float *row = j->a + r * j->n + j->at;
  for (int64_t c = 0; c < until; c++) {
    const float *top = j->a + (j->at + c) * j->n + j->at;
    double sum = (double)row[c];
    for (int64_t k = 0; k < c; k++) sum -= (double)row[k] * (double)top[k];
    row[c] = (float)(sum / (double)top[c]);
  }
}

static void solve_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const panel_job *j = arg;
  (void)worker;
  for (int64_t r = begin; r < end; r++) solve_row(j, j->at + j->size + r, j->size);
}

static bool factor_diagonal(const panel_job *j) {
  for (int64_t r = 0; r < j->size; r++) {
    float *row = j->a + (j->at + r) * j->n + j->at;
    solve_row(j, j->at + r, r);
    double sum = (double)row[r];
    for (int64_t k = 0; k < r; k++) sum -= (double)row[k] * (double)row[k];
    if (!(sum > 0)) return false;
    row[r] = (float)sqrt(sum);
  }
  return true;
}

/* Blocks of columns from left to right: what those before contribute is one product. *ok false: not positive definite.
 */
static pu_err cholesky(const factor *f, bool *ok, pu_error *e) {
  pu_pool *pool = f->be->pool;
  *ok = true;
  for (int64_t at = 0; at < f->n && *ok; at += BLOCK) {
    panel_job j = {f->a, f->part, f->n, at, PU_MIN(f->n - at, BLOCK)};
    const float *left = f->a + at * f->n;
    if (at) {
      PU_TRY(pu_quant_product(f->be, left, f->n - at, f->n, left, j.size, f->n, at, f->part, e));
      pu_pool_run(pool, f->n - at, 64, subtract_rows, &j);
    }
    *ok = factor_diagonal(&j);
    if (*ok) pu_pool_run(pool, f->n - at - j.size, 16, solve_rows, &j);
  }
  return PU_OK;
}

/* ---- feedback ---- */

/* H = V V^T with V upper triangular is Cholesky's factorisation with rows and columns in reverse. */
static void reversed(const float *h, const int64_t *order, int64_t n, double damp, float *a) {
  for (int64_t r = 0; r < n; r++) {
    int64_t hr = order[n - 1 - r];
    for (int64_t c = 0; c <= r; c++) a[r * n + c] = h[hr * n + order[n - 1 - c]];
    a[r * n + r] += (float)damp;
  }
}

/* From the factor L of the reversed matrix to U^T: U^T[i][k] = V[k][i] / V[i][i] for k < i, and V[k][i] =
 * L[n-1-k][n-1-i]. In place: each value changes places with its mirror image in the other diagonal. */
static void to_feedback(float *a, int64_t n) {
  for (int64_t r = 0; r < n; r++)
    for (int64_t c = 0; c <= r && r + c < n - 1; c++) {
      float *x = &a[r * n + c], *y = &a[(n - 1 - c) * n + n - 1 - r], keep = *x;
      *x = *y;
      *y = keep;
    }
  for (int64_t i = 0; i < n; i++)
    for (int64_t k = 0; k <= i; k++) a[i * n + k] = k < i ? a[i * n + k] / a[i * n + i] : 1;
}

static pu_err make_feedback(pu_backend *be, const float *h, const int64_t *order, int64_t n, float *a, pu_error *e) {
  enum { TRIES = 5 };
  factor f = {be, a, malloc((size_t)(n * BLOCK) * sizeof(float)), n};
  double damp = 0;
  bool ok = false;
  pu_err err = f.part ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory to factor a Hessian of %lld inputs", (long long)n);
  for (int64_t k = 0; k < n; k++) damp += damping * (double)h[k * n + k] / (double)n;
  if (!(damp > 0)) damp = 1; /* no input ever: plain rounding */
  for (int i = 0; i < TRIES && !ok && !err; i++, damp *= 10) {
    reversed(h, order, n, damp, a);
    err = cholesky(&f, &ok, e);
  }
  if (!err && !ok)
    err = pu_fail(e, PU_ERR_FORMAT, "the inputs of a matrix give no positive Hessian: are the weights finite?");
  if (!err) to_feedback(a, n);
  free(f.part);
  return err;
}

/* ---- rounding ---- */

typedef struct round_job {
  pu_quant_matrix *m;
  const int64_t *order;
  const float *u;   /* U^T, [n, n] by place in the order */
  float *error;     /* [rows, n] w - w' by place in the order */
  const float *fed; /* [rows, size] what errors before the block give to it */
  int64_t at, size;
} round_job;

static void round_block(void *arg, int64_t begin, int64_t end, int worker) {
  const round_job *j = arg;
  pu_quant_matrix *m = j->m;
  int64_t n = m->cols, groups = pu_qmatrix_groups(&m->q);
  (void)worker;
  for (int64_t r = begin; r < end; r++) {
    float *error = j->error + r * n;
    for (int64_t i = j->at; i < j->at + j->size; i++) {
      int64_t k = j->order[i], g = r * groups + k / m->q.group;
      float w = m->w[r * n + k], sum = j->at ? j->fed[r * j->size + i - j->at] : 0;
      int zero = m->q.zero ? m->q.zero[g] : 1 << (m->q.bits - 1);
      for (int64_t b = j->at; b < i; b++) sum += error[b] * j->u[i * n + b];
      uint8_t q = pu_quant_round(w + sum, m->q.scale[g], zero, m->q.bits);
      m->q.q[r * n + k] = q;
      error[i] = w - (float)(q - zero) * m->q.scale[g];
    }
  }
}

static pu_err round_all(pu_backend *be, pu_quant_matrix *m, const int64_t *order, const float *u, pu_error *e) {
  int64_t n = m->cols;
  float *error = malloc((size_t)(m->rows * n) * sizeof *error), *fed = malloc((size_t)(m->rows * BLOCK) * sizeof *fed);
  pu_err err =
      error && fed ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for the errors of %lld rows", (long long)m->rows);
  for (int64_t at = 0; at < n && !err; at += BLOCK) {
    round_job j = {m, order, u, error, fed, at, PU_MIN(n - at, BLOCK)};
    if (at) err = pu_quant_product(be, error, m->rows, n, u + at * n, j.size, n, at, fed, e);
    if (!err) pu_pool_run(be->pool, m->rows, 8, round_block, &j);
  }
  free(error);
  free(fed);
  return err;
}

pu_err pu_gptq_quantise(pu_backend *be, pu_quant_matrix *m, bool act_order, pu_error *e) {
  size_t n = (size_t)m->cols;
  int64_t *order = malloc(n * sizeof *order);
  float *u = malloc(n * n * sizeof *u);
  pu_err err = order && u ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for a Hessian of %zu inputs", n);
  if (!err) err = make_order(m->in.hessian, m->cols, act_order, order, e);
  if (!err) err = make_feedback(be, m->in.hessian, order, m->cols, u, e);
  pu_quant_round_all(be, m); /* for the groups' scales */
  if (!err) err = round_all(be, m, order, u, e);
  free(order);
  free(u);
  return err;
}

static pu_err quantise(pu_quant_layer *l, pu_quant_matrix *m, pu_error *e) {
  return pu_gptq_quantise(l->m->be, m, true, e);
}

const pu_quantizer pu_quantizer_gptq = {
    .is = {.name = "gptq",
           .summary = "lets the weights not rounded yet make up for the error of those that are",
           .needs_texts = true},
    .needs = PU_NEEDS_INPUTS | PU_NEEDS_HESSIAN,
    .format = PU_QUANT_GPTQ,
    .quantise = quantise};
