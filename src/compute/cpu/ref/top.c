/* Logits for choosing tokens: what settings change in a row; its largest, and what all of it weighs. */
#include <math.h>
#include <string.h>

#include "src/compute/cpu/ref/ref.h"

/* ---- adjust_logits ---- */

static void adjust_row(const pu_adjust_logits_args *a, int64_t row) {
  const int64_t vocab = a->logits->shape[1];
  const int32_t *at = (const int32_t *)a->offsets->data + 3 * row, *ids = a->ids->data;
  const float r = ((const float *)a->penalty->data)[row], *values = a->values->data;
  float *x = (float *)a->logits->data + row * a->logits->stride[0];
  for (int list = 0; list < 3; list++)
    for (int32_t i = at[list]; i < at[list + 1]; i++) {
      const int32_t id = ids[i];
      if (id < 0 || id >= vocab) continue;
      x[id] = list == 0 ? x[id] + values[i] : list == 1 ? pu_penalised(x[id], r, values[i]) : -INFINITY;
    }
}

static void adjust_rows(void *arg, int64_t begin, int64_t end, int worker) {
  (void)worker;
  for (int64_t n = begin; n < end; n++) adjust_row(arg, n);
}

pu_err pu_ref_adjust_logits(pu_backend *be, void *args, pu_error *e) {
  const pu_adjust_logits_args *a = args;
  (void)e;
  pu_pool_run(be->pool, a->logits->shape[0], 1, adjust_rows, args);
  return PU_OK;
}

/* ---- top_logits ---- */

typedef struct candidate {
  float logit;
  int32_t id;
} candidate;

/* Larger first, lower ids among equals. */
static bool before(candidate a, candidate b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* best[0, k): sorted; c takes its place there if it has one. */
static void insert(candidate *best, int n, int k, candidate c) {
  int at = n < k ? n : k;
  if (at == k && !before(c, best[--at])) return;
  for (; at > 0 && before(c, best[at - 1]); at--) best[at] = best[at - 1];
  best[at] = c;
}

static void top_row(const pu_top_logits_args *a, int64_t row) {
  const float *x = (const float *)a->logits->data + row * a->logits->stride[0];
  const float by = ((const float *)a->scale->data)[row];
  candidate best[PU_TOP_MOST];
  double scaled = 0, plain = 0;
  for (int64_t i = 0; i < a->vocab; i++)
    insert(best, (int)PU_MIN(i, (int64_t)a->k), a->k, (candidate){isnan(x[i]) ? -INFINITY : x[i], (int32_t)i});
  for (int64_t i = 0; i < a->vocab && isfinite(best[0].logit); i++) {
    double below = isnan(x[i]) ? (double)-INFINITY : (double)x[i] - (double)best[0].logit;
    scaled += exp(below * (double)by);
    plain += exp(below);
  }
  for (int i = 0; i < a->k; i++) {
    ((float *)a->values->data)[row * a->k + i] = best[i].logit;
    ((int32_t *)a->ids->data)[row * a->k + i] = best[i].id;
  }
  ((float *)a->sums->data)[2 * row] = (float)scaled;
  ((float *)a->sums->data)[2 * row + 1] = (float)plain;
}

static void top_rows(void *arg, int64_t begin, int64_t end, int worker) {
  (void)worker;
  for (int64_t n = begin; n < end; n++) top_row(arg, n);
}

pu_err pu_ref_top_logits(pu_backend *be, void *args, pu_error *e) {
  const pu_top_logits_args *a = args;
  (void)e;
  pu_pool_run(be->pool, a->logits->shape[0], 1, top_rows, args);
  return PU_OK;
}
