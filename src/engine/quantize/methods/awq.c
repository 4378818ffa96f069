/* awq: activation-aware weight quantisation (Lin et al. 2023). Weights that meet large inputs are scaled up before they
 * are rounded, s[k] = mean|x_k|^ratio; then each group's range is clipped as far as it pays. Both are searched for on
 * the sample of inputs. */
#include "src/engine/quantize/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RATIOS = 20, CLIP_GRID = 20, CLIPS = 10 /* of the grid: down to half the range */ };

/* ---- scales ---- */

static double mean_input(const pu_quant_fold *f, int64_t k) {
  double sum = 0, seen = 0;
  for (size_t i = 0; i < f->n; i++) {
    const pu_quant_inputs *in = &f->to[i * f->to_step].in;
    sum += in->sum[k];
    seen += (double)in->seen;
  }
  return seen > 0 ? sum / seen : 0;
}

/* Their geometric middle is 1, so that norms stay within what 16 bits hold. */
static void scales(const pu_quant_fold *f, double ratio, float *s) {
  double least = INFINITY, most = 0;
  for (int64_t k = 0; k < f->to->cols; k++) {
    double v = fmax(pow(mean_input(f, k), ratio), 1e-4);
    s[k] = (float)v;
    least = fmin(least, v);
    most = fmax(most, v);
  }
  float middle = (float)sqrt(least * most);
  for (int64_t k = 0; k < f->to->cols; k++) s[k] /= middle;
}

static pu_err fold(pu_quant_layer *l, pu_error *e) {
  static const pu_quant_search how = {.steps = RATIOS, .scales = scales};
  return pu_quant_fold_all(l, &how, e);
}

/* ---- clipping ---- */

typedef struct clip_job {
  pu_quant_matrix *m;
  const float *gram; /* [groups, group, group] of the sample */
  int64_t first;     /* rows before it are not clipped */
} clip_job;

typedef struct gram_job {
  const pu_quant_matrix *m;
  float *gram;
} gram_job;

static void gram_groups(void *arg, int64_t begin, int64_t end, int worker) {
  const gram_job *j = arg;
  const pu_quant_inputs *in = &j->m->in;
  int64_t n = j->m->q.group;
  (void)worker;
  for (int64_t g = begin; g < end; g++) {
    float *gram = j->gram + g * n * n;
    for (int64_t r = 0; r < in->sampled; r++) {
      const float *x = in->sample + r * in->cols + g * n;
      for (int64_t a = 0; a < n; a++)
        for (int64_t b = 0; b < n; b++) gram[a * n + b] += x[a] * x[b];
    }
  }
}

/* d^T gram d: the squared error of the group's part of the results, over the sample. */
static double cost(const float *gram, const float *d, int64_t n) {
  float y[PU_QUANT_MAX_GROUP] = {0};
  double sum = 0;
  for (int64_t a = 0; a < n; a++)
    for (int64_t b = 0; b < n; b++) y[b] += d[a] * gram[a * n + b];
  for (int64_t b = 0; b < n; b++) sum += (double)y[b] * (double)d[b];
  return sum;
}

/* The best of some ranges for one group; leaves its scale, zero and values. */
static void clip_group(const clip_job *j, int64_t row, int64_t g) {
  pu_quant_matrix *m = j->m;
  const pu_qmatrix *q = &m->q;
  int64_t n = q->group, at = row * pu_qmatrix_groups(q) + g;
  const float *from = m->w + row * m->cols + g * n;
  double least = INFINITY;
  float lo = 0, hi = 0, w[PU_QUANT_MAX_GROUP], d[PU_QUANT_MAX_GROUP];
  for (int64_t k = 0; k < n; k++) {
    lo = fminf(lo, from[k]);
    hi = fmaxf(hi, from[k]);
  }
  for (int i = 0; i < (row < j->first ? 1 : CLIPS); i++) {
    float part = 1 - (float)i / CLIP_GRID, scale;
    uint8_t zero, values[PU_QUANT_MAX_GROUP];
    for (int64_t k = 0; k < n; k++) w[k] = fminf(fmaxf(from[k], lo * part), hi * part);
    pu_quant_range(w, n, q->bits, !q->zero, &scale, &zero);
    for (int64_t k = 0; k < n; k++) {
      values[k] = pu_quant_round(from[k], scale, zero, q->bits);
      d[k] = (float)(values[k] - zero) * scale - from[k];
    }
    double c = cost(j->gram + g * n * n, d, n);
    if (c >= least && i > 0) continue;
    least = c;
    q->scale[at] = scale;
    if (q->zero) q->zero[at] = zero;
    memcpy(q->q + row * m->cols + g * n, values, (size_t)n);
  }
}

static void clip_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const clip_job *j = arg;
  (void)worker;
  for (int64_t r = begin; r < end; r++)
    for (int64_t g = 0; g < pu_qmatrix_groups(&j->m->q); g++) clip_group(j, r, g);
}

/* The rows of q and k are left alone: their products meet each other before anything is summed, and errors that are
 * small in each can add up there (as the authors' program has it). */
static pu_err quantise(pu_quant_layer *l, pu_quant_matrix *m, pu_error *e) {
  const pu_hparams *hp = &l->m->hp;
  pu_pool *pool = l->m->be->pool;
  int64_t n = m->q.group, groups = pu_qmatrix_groups(&m->q);
  float *gram = calloc((size_t)(groups * n), (size_t)n * sizeof *gram);
  if (!gram) return pu_fail(e, PU_ERR_NOMEM, "no memory to search the ranges of groups");
  gram_job make = {m, gram};
  clip_job clip = {.m = m, .gram = gram};
  if (m->slot == PU_SLOT_QKV) clip.first = (hp->heads + hp->kv_heads) * hp->head_dim;
  pu_pool_run(pool, groups, 1, gram_groups, &make);
  pu_pool_run(pool, m->rows, 16, clip_rows, &clip);
  free(gram);
  return PU_OK;
}

const pu_quantizer pu_quantizer_awq = {
    .is = {.name = "awq",
           .summary = "scales weights that meet large inputs up first, and searches each group's range",
           .bits = 4,
           .needs_texts = true},
    .needs = PU_NEEDS_INPUTS,
    .format = PU_QUANT_AWQ,
    .fold = fold,
    .quantise = quantise};
