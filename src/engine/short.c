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

static int64_t vocab_of(const pu_engine *en) {
  return en->t ? PU_MIN(en->m->hp.vocab, (int64_t)pu_tokenizer_size(en->t)) : en->m->hp.vocab;
}

int pu_short_count(const pu_engine *en, pu_session *const *s, int64_t n) {
  bool any = false, first = true;
  for (int64_t i = 0; i < n; i++) {
    any |= untouched(s[i]);
    first &= !untouched(s[i]) || wants_first(s[i]);
  }
  if (!any || !en->be->forward[PU_OP_top_logits]) return 0;
  return first ? 1 : (int)PU_MIN(MANY, vocab_of(en));
}

pu_err pu_short_scale(pu_engine *en, const pu_tensor *scale, pu_session *const *s, int64_t n, pu_error *e) {
  float *by = pu_arena_alloc(en->host, (size_t)n * sizeof *by);
  if (!by) return pu_fail(e, PU_ERR_NOMEM, "no memory for the largest logits");
  for (int64_t i = 0; i < n; i++) by[i] = s[i]->how.temperature > 0 ? (float)(1 / s[i]->how.temperature) : 1;
  return en->be->upload(en->be, scale->data, by, (size_t)n * sizeof *by, e);
}

pu_err pu_short_ask(pu_engine *en, pu_ctx *c, const pu_tensor *logits, int k, pu_session *const *s, int64_t n,
                    pu_short *out, pu_error *e) {
  *out = (pu_short){.k = k, .logits = logits};
  if (k == 0) return PU_OK;
  pu_tensor *scale = pu_tensor_new(c, PU_F32, 1, &n, false), *values, *sums;
  if (!scale) return pu_fail(e, PU_ERR_NOMEM, "no memory for the largest logits");
  PU_TRY(pu_short_scale(en, scale, s, n, e));
  out->scale = scale;
  out->ids = pu_top_logits(c, logits, vocab_of(en), k, scale, &values, &sums);
  out->values = values;
  out->sums = sums;
  return c->status;
}

/* All of it lies close together, and comes in one copy: to wait for each would take longer than what is computed. */
static pu_err download(pu_engine *en, const pu_tensor *const *t, const void **out, int n, pu_error *e) {
  const char *begin = t[0]->data, *end = begin;
  for (int i = 0; i < n; i++) {
    const char *at = t[i]->data;
    begin = PU_MIN(begin, at);
    end = PU_MAX(end, at + pu_tensor_bytes(t[i]));
  }
  char *host = pu_arena_alloc(en->host, (size_t)(end - begin));
  if (!host) return pu_fail(e, PU_ERR_NOMEM, "no memory for the largest logits");
  for (int i = 0; i < n; i++) out[i] = host + ((const char *)t[i]->data - begin);
  return en->be->download(en->be, host, begin, (size_t)(end - begin), e);
}

pu_err pu_short_fetch(pu_engine *en, const pu_short *found, int64_t n, pu_logit_row *rows, pu_error *e) {
  const void *to[3];
  const int k = found->k;
  for (int64_t i = 0; i < n; i++) rows[i] = (pu_logit_row){.from = found->logits, .at = i};
  if (k == 0) return PU_OK;
  PU_TRY(download(en, (const pu_tensor *const[]){found->values, found->ids, found->sums}, to, 3, e));
  const float *values = to[0], *sums = to[2];
  const int32_t *ids = to[1];
  for (int64_t i = 0; i < n; i++) {
    pu_logit_row *r = &rows[i];
    r->k = k;
    r->whole = k == vocab_of(en);
    r->values = values + i * k;
    r->ids = ids + i * k;
    r->scaled_sum = (double)sums[2 * i];
    r->sum = (double)sums[2 * i + 1];
  }
  return PU_OK;
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
