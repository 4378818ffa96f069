/* Rows of logits that stay on the device: of each only the largest come to the host, with what the whole row weighs.
 * Nearly every token is chosen among these, and then as it would have been from the whole row; where that cannot be
 * known (settings that change logits, a draw beyond them), the row is fetched. */
#include <math.h>
#include <string.h>

#include "src/engine/internal.h"

enum { MANY = 64 };

/* Do the options leave the logits as they are? */
static bool untouched(const pu_session *s) {
  const pu_sampling *o = &s->how;
  return !s->constraint && o->n_logit_bias == 0 && o->repetition_penalty == 1 && o->presence_penalty == 0 &&
         o->frequency_penalty == 0 && o->typical_p >= 1 && o->top_k <= MANY;
}

/* Is the first candidate all that can be asked for? */
static bool wants_first(const pu_session *s) {
  return (s->how.temperature <= 0 || s->how.top_k == 1) && s->kept.top < 0 && s->how.n_bad_words == 0 &&
         s->how.min_tokens == 0;
}

static pu_err download(pu_engine *en, const pu_tensor *t, const void **out, pu_error *e) {
  size_t bytes = pu_tensor_bytes(t);
  void *host = pu_arena_alloc(en->host, bytes);
  if (!host) return pu_fail(e, PU_ERR_NOMEM, "no memory for the largest logits");
  *out = host;
  return en->be->download(en->be, host, t->data, bytes, e);
}

/* For the n rows of the sessions s[]; k of each. */
static pu_err find(pu_engine *en, pu_ctx *c, const pu_tensor *logits, int k, pu_session *const *s, int64_t n,
                   pu_logit_row *rows, pu_error *e) {
  float *scale = pu_arena_alloc(en->host, (size_t)n * sizeof *scale);
  pu_tensor *by = pu_tensor_new(c, PU_F32, 1, &n, false), *values, *sums;
  if (!scale || !by) return pu_fail(e, PU_ERR_NOMEM, "no memory for the largest logits");
  for (int64_t i = 0; i < n; i++) scale[i] = s[i]->how.temperature > 0 ? (float)(1 / s[i]->how.temperature) : 1;
  PU_TRY(en->be->upload(en->be, by->data, scale, (size_t)n * sizeof *scale, e));
  int64_t vocab = en->t ? PU_MIN(en->m->hp.vocab, (int64_t)pu_tokenizer_size(en->t)) : en->m->hp.vocab;
  pu_tensor *ids = pu_top_logits(c, logits, vocab, k, by, &values, &sums);
  if (!ids) return c->status;
  const void *v = NULL, *id = NULL, *sum = NULL;
  PU_TRY(download(en, values, &v, e));
  PU_TRY(download(en, ids, &id, e));
  PU_TRY(download(en, sums, &sum, e));
  for (int64_t i = 0; i < n; i++) {
    pu_logit_row *r = &rows[i];
    r->k = k;
    r->whole = k == vocab;
    r->values = (const float *)v + i * k;
    r->ids = (const int32_t *)id + i * k;
    r->scaled_sum = (double)((const float *)sum)[2 * i];
    r->sum = (double)((const float *)sum)[2 * i + 1];
  }
  return PU_OK;
}

pu_err pu_short_rows(pu_engine *en, pu_ctx *c, const pu_tensor *logits, pu_session *const *s, int64_t n,
                     pu_logit_row *rows, pu_error *e) {
  bool any = false, first = true;
  for (int64_t i = 0; i < n; i++) {
    rows[i] = (pu_logit_row){.from = logits, .at = i};
    any |= untouched(s[i]);
    first &= !untouched(s[i]) || wants_first(s[i]);
  }
  if (!any || !en->be->forward[PU_OP_top_logits]) return PU_OK;
  int64_t vocab = en->t ? PU_MIN(en->m->hp.vocab, (int64_t)pu_tokenizer_size(en->t)) : en->m->hp.vocab;
  return find(en, c, logits, first ? 1 : (int)PU_MIN(MANY, vocab), s, n, rows, e);
}

pu_err pu_row_fetch(pu_engine *en, pu_logit_row *row, pu_error *e) {
  size_t bytes = (size_t)en->m->hp.vocab * sizeof(float);
  row->logits = pu_arena_alloc(en->host, bytes);
  if (!row->logits) return pu_fail(e, PU_ERR_NOMEM, "no memory for a row of logits");
  const char *from = (const char *)row->from->data + (size_t)row->at * bytes;
  return en->be->download(en->be, row->logits, from, bytes, e);
}

bool pu_row_choose(const pu_logit_row *row, pu_session *s, const pu_history *h, int32_t *id) {
  return row->k > 0 && untouched(s) && isfinite(row->values[0]) && s->kept.top <= row->k &&
         pu_sampler_short(&s->en->sampler, row, &s->how, h, &s->rng, id);
}
