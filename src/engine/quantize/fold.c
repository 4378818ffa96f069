/* Scales moved from what makes a matrix's inputs into the matrix: what the layer computes stays, but rounding then
 * hurts where it matters less (Lin et al. 2023; Xiao et al. 2022). Which scales: those of a grid whose results differ
 * least on the sample of inputs. */
#include "src/engine/quantize/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- places ---- */

static size_t add_inner(pu_quant_layer *l, pu_quant_fold *out) {
  const pu_hparams *hp = &l->m->hp;
  pu_tensor *const *w = l->m->layers[l->layer].slot;
  size_t n = 0;
  for (int64_t x = hp->experts ? 0 : -1; x < hp->experts; x++) {
    pu_quant_matrix *from = pu_quant_layer_find(l, hp->experts ? PU_SLOT_EXPERTS_GATE_UP : PU_SLOT_GATE_UP, x);
    pu_quant_matrix *to = pu_quant_layer_find(l, hp->experts ? PU_SLOT_EXPERTS_DOWN : PU_SLOT_DOWN, x);
    out[n++] = (pu_quant_fold){.from = from, .row = hp->ffn, .bias = w[PU_SLOT_GATE_UP_BIAS], .to = to, .n = 1};
    if (!hp->experts) break;
  }
  return n;
}

/* Attention is linear in v; where query heads share v heads its rows feed several columns of wo, and none is scaled. */
size_t pu_quant_fold_list(pu_quant_layer *l, pu_quant_fold *out) {
  const pu_hparams *hp = &l->m->hp;
  pu_tensor *const *w = l->m->layers[l->layer].slot;
  pu_quant_matrix *qkv = pu_quant_layer_find(l, PU_SLOT_QKV, -1), *wo = pu_quant_layer_find(l, PU_SLOT_WO, -1);
  pu_quant_matrix *gate_up = pu_quant_layer_find(l, PU_SLOT_GATE_UP, -1);
  size_t n = 0;
  out[n++] = (pu_quant_fold){.norm = w[PU_SLOT_ATTN_NORM], .to = qkv, .n = 1};
  if (hp->heads == hp->kv_heads)
    out[n++] = (pu_quant_fold){
        .from = qkv, .row = 2 * hp->heads * hp->head_dim, .bias = w[PU_SLOT_QKV_BIAS], .to = wo, .n = 1};
  out[n] = (pu_quant_fold){.norm = w[PU_SLOT_MLP_NORM], .to = gate_up, .n = 1, .router = w[PU_SLOT_ROUTER]};
  if (hp->experts) {
    out[n].to = pu_quant_layer_find(l, PU_SLOT_EXPERTS_GATE_UP, 0);
    out[n].n = (size_t)hp->experts;
    out[n].to_step = 1;
  }
  n++;
  return n + add_inner(l, out + n);
}

/* ---- folding ---- */

static void multiply_columns(float *w, int64_t rows, int64_t cols, const float *s) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t k = 0; k < cols; k++) w[r * cols + k] *= s[k];
}

/* The norm in the files is rounded: its columns are scaled by what came of it. */
static void divide_norm(pu_tensor *norm, pu_dtype type, float *s) {
  float *w = norm->data;
  for (int64_t k = 0; k < norm->shape[0]; k++) {
    float exact = w[k] / s[k], rounded;
    uint16_t half;
    pu_convert(type == PU_F32 ? (void *)&rounded : (void *)&half, type, &exact, PU_F32, 1);
    if (type != PU_F32) pu_convert(&rounded, PU_F32, &half, type, 1);
    if (!isfinite(rounded) || rounded == 0) {
      s[k] = 1;
      continue;
    }
    s[k] = w[k] / rounded;
    w[k] = rounded;
  }
}

static void divide_rows(const pu_quant_fold *f, const float *s) {
  float *w = f->from->w + f->row * f->from->cols;
  for (int64_t r = 0; r < f->to->cols; r++)
    for (int64_t k = 0; k < f->from->cols; k++) w[r * f->from->cols + k] /= s[r];
  for (int64_t r = 0; f->bias && r < f->to->cols; r++) ((float *)f->bias->data)[f->row + r] /= s[r];
}

void pu_quant_fold_apply(pu_quant_layer *l, const pu_quant_fold *f, float *s) {
  if (f->norm)
    divide_norm(f->norm, l->file_type, s);
  else
    divide_rows(f, s);
  if (f->router) multiply_columns(f->router->data, f->router->shape[0], f->router->shape[1], s);
  for (size_t i = 0; i < f->n; i++) {
    pu_quant_matrix *m = f->to + i * f->to_step;
    multiply_columns(m->w, m->rows, m->cols, s);
    pu_quant_inputs_divide(&m->in, l->m->be, s);
  }
}

/* ---- one candidate ---- */

typedef struct candidate {
  pu_quant_matrix *m;
  const float *s;
  float *w; /* [rows, cols] quantised with these scales and scaled back; less the original, for weights alone */
  bool less;
} candidate;

static void candidate_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const candidate *c = arg;
  pu_quant_matrix *m = c->m;
  (void)worker;
  for (int64_t r = begin; r < end; r++) {
    const float *w = m->w + r * m->cols;
    float *out = c->w + r * m->cols;
    for (int64_t k = 0; k < m->cols; k++) out[k] = w[k] * c->s[k];
    pu_qmatrix_round(&m->q, r, out);
    pu_qmatrix_to_f32(&m->q, r, out);
    for (int64_t k = 0; k < m->cols; k++) out[k] = out[k] / c->s[k] - (c->less ? w[k] : 0);
  }
}

/* The sample as the product will see it: each token of x / s in int8 by its greatest value, scaled back. */
static void round_tokens(const pu_quant_inputs *in, const float *s, float *out) {
  for (int64_t r = 0; r < in->sampled; r++) {
    const float *x = in->sample + r * in->cols;
    float *y = out + r * in->cols, most = 0;
    for (int64_t k = 0; k < in->cols; k++) most = fmaxf(most, fabsf(y[k] = x[k] / s[k]));
    float scale = most / 127;
    for (int64_t k = 0; k < in->cols; k++) y[k] = scale > 0 ? rintf(y[k] / scale) * scale * s[k] : 0;
  }
}

typedef struct room {
  float *w, *x, *y, *want; /* for the largest of the matrices */
} room;

/* Sum of squares by which the sample's results differ from those of the weights as they are. */
static pu_err measure(pu_backend *be, pu_quant_matrix *m, const pu_quant_search *how, const float *s, const room *r,
                      double *sum, pu_error *e) {
  const pu_quant_inputs *in = &m->in;
  const float *x = how->int8_inputs ? r->x : in->sample;
  int64_t n = in->sampled;
  if (n == 0) return PU_OK;
  candidate c = {m, s, r->w, !how->int8_inputs};
  pu_pool_run(be->pool, m->rows, 16, candidate_rows, &c);
  if (how->int8_inputs) {
    round_tokens(in, s, r->x);
    PU_TRY(pu_quant_product(be, in->sample, n, m->cols, m->w, m->rows, m->cols, m->cols, r->want, e));
  }
  PU_TRY(pu_quant_product(be, x, n, m->cols, r->w, m->rows, m->cols, m->cols, r->y, e));
  for (int64_t i = 0; i < n * m->rows; i++) {
    double d = (double)r->y[i] - (how->int8_inputs ? (double)r->want[i] : 0);
    *sum += d * d;
  }
  return PU_OK;
}

/* ---- the search ---- */

static pu_err search(pu_quant_layer *l, const pu_quant_fold *f, const pu_quant_search *how, const room *r, float *s,
                     float *best, pu_error *e) {
  int64_t cols = f->to->cols;
  double least = INFINITY;
  for (int i = 0; i < how->steps; i++) {
    double sum = 0;
    if (i == 0)
      for (int64_t k = 0; k < cols; k++) s[k] = 1;
    else
      how->scales(f, (double)i / how->steps, s);
    for (size_t j = 0; j < f->n; j++) PU_TRY(measure(l->m->be, f->to + j * f->to_step, how, s, r, &sum, e));
    if (sum < least) {
      least = sum;
      memcpy(best, s, (size_t)cols * sizeof *s);
    }
  }
  pu_quant_fold_apply(l, f, best);
  return PU_OK;
}

static pu_err fold_one(pu_quant_layer *l, const pu_quant_fold *f, const pu_quant_search *how, pu_error *e) {
  size_t cols = (size_t)f->to->cols, rows = (size_t)f->to->rows, x = how->int8_inputs ? PU_QUANT_SAMPLE : 1;
  room r = {malloc(rows * cols * sizeof(float)), malloc(x * cols * sizeof(float)),
            malloc(PU_QUANT_SAMPLE * rows * sizeof(float)), malloc(x * rows * sizeof(float))};
  float *s = malloc(2 * cols * sizeof *s);
  pu_err err = r.w && r.x && r.y && r.want && s
                   ? search(l, f, how, &r, s, s + cols, e)
                   : pu_fail(e, PU_ERR_NOMEM, "no memory to search the scales of %zu x %zu weights", rows, cols);
  free(r.w);
  free(r.x);
  free(r.y);
  free(r.want);
  free(s);
  return err;
}

pu_err pu_quant_fold_all(pu_quant_layer *l, const pu_quant_search *how, pu_error *e) {
  size_t most = PU_QUANT_FOLDS + (size_t)l->m->hp.experts;
  pu_quant_fold *f = calloc(most, sizeof *f);
  if (!f) return pu_fail(e, PU_ERR_NOMEM, "no memory for the list of scales");
  pu_err err = PU_OK;
  size_t n = pu_quant_fold_list(l, f);
  for (size_t i = 0; i < n && !err; i++) err = fold_one(l, &f[i], how, e);
  free(f);
  return err;
}
