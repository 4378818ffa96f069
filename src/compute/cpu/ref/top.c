/* The largest logits of a row, and what all of them weigh. */
#include <math.h>
#include <string.h>

#include "src/compute/cpu/ref/ref.h"

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
