/* Log-probabilities of tokens, kept beside them. */
#include <math.h>
#include <stdlib.h>

#include "src/engine/internal.h"

void pu_kept_init(pu_kept *k, int top) {
  *k = (pu_kept){.top = top};
}

void pu_kept_deinit(pu_kept *k) {
  free(k->v);
  free(k->ids);
  free(k->logprobs);
  pu_kept_init(k, -1);
}

const pu_token_info *pu_kept_get(const pu_kept *k, size_t *n) {
  static const pu_token_info none = {0};
  *n = k->n;
  return k->top < 0 ? NULL : k->v ? k->v : &none;
}

static bool grow(pu_kept *k) {
  size_t cap = k->cap ? 2 * k->cap : 64, row = (size_t)k->top;
  pu_token_info *v = realloc(k->v, cap * sizeof *v);
  if (v) k->v = v;
  int32_t *ids = realloc(k->ids, (cap * row + 1) * sizeof *ids);
  if (ids) k->ids = ids;
  float *logprobs = realloc(k->logprobs, (cap * row + 1) * sizeof *logprobs);
  if (logprobs) k->logprobs = logprobs;
  if (!v || !ids || !logprobs) return false;
  k->cap = cap;
  for (size_t i = 0; i < k->n; i++) { /* they have moved */
    k->v[i].top_ids = k->ids + i * row;
    k->v[i].top_logprobs = k->logprobs + i * row;
  }
  return true;
}

/* Room for one more, of which nothing is known yet. */
static pu_err add(pu_kept *k, int32_t id, pu_token_info **to, int32_t **ids, float **logprobs, pu_error *e) {
  if (k->n == k->cap && !grow(k)) return pu_fail(e, PU_ERR_NOMEM, "no memory for log-probabilities");
  *ids = k->ids + k->n * (size_t)k->top;
  *logprobs = k->logprobs + k->n * (size_t)k->top;
  *to = &k->v[k->n++];
  **to = (pu_token_info){.id = id, .logprob = NAN, .top_ids = *ids, .top_logprobs = *logprobs};
  return PU_OK;
}

pu_err pu_kept_add_short(pu_kept *k, const pu_logit_row *row, int32_t id, pu_error *e) {
  pu_token_info *to = NULL;
  int32_t *ids = NULL;
  float *logprobs = NULL;
  PU_TRY(add(k, id, &to, &ids, &logprobs, e));
  double all = (double)row->values[0] + log(row->sum);
  to->n_top = PU_MIN(k->top, row->k);
  for (int i = 0; i < row->k; i++) {
    float p = (float)((double)row->values[i] - all);
    if (row->ids[i] == id) to->logprob = p;
    if (i < to->n_top) ids[i] = row->ids[i], logprobs[i] = p;
  }
  return PU_OK;
}

pu_err pu_kept_add(pu_kept *k, pu_sampler *s, const float *logits, int32_t id, pu_error *e) {
  pu_token_info *to = NULL;
  int32_t *ids = NULL;
  float *logprobs = NULL;
  size_t row = (size_t)k->top;
  PU_TRY(add(k, id, &to, &ids, &logprobs, e));
  if (!logits) return PU_OK;
  double all = pu_log_sum_exp(logits, s->vocab);
  to->logprob = (float)((double)logits[id] - all);
  to->n_top = row ? (int)pu_sampler_top(s, logits, row, ids) : 0;
  for (int i = 0; i < to->n_top; i++) logprobs[i] = (float)((double)logits[ids[i]] - all);
  return PU_OK;
}
