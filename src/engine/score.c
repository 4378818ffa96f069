/* How well an engine's model tells given texts: as prompts with log-probabilities. */
#include <stdlib.h>

#include "src/engine/internal.h"

static pu_err begin(pu_engine *en, const pu_ids_view *text, pu_session **out, pu_error *e) {
  PU_TRY(pu_session_open(en, out, e));
  PU_TRY(pu_session_score(*out, 0, e));
  return pu_session_append(*out, text->v, text->n, e);
}

static void count(const pu_session *s, pu_engine_score *sum) {
  size_t n = 0;
  const pu_token_info *t = pu_session_prompt(s, &n);
  for (size_t i = 1; i < n; i++) sum->nats -= (double)t[i].logprob;
  sum->tokens += n ? (int64_t)n - 1 : 0;
}

pu_err pu_engine_score_texts(pu_engine *en, const pu_ids_view *texts, size_t n, pu_engine_score *out, pu_error *e) {
  size_t batch = (size_t)en->max_batch;
  pu_session **s = calloc(batch, sizeof *s);
  pu_err err = s ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for %zu sessions", batch);
  *out = (pu_engine_score){0};
  for (size_t at = 0; at < n && !err; at += batch) {
    size_t k = PU_MIN(batch, n - at);
    for (size_t i = 0; i < k && !err; i++) err = begin(en, &texts[at + i], &s[i], e);
    for (bool more = true; more && !err;) err = pu_engine_step(en, &more, e);
    for (size_t i = 0; i < k; i++) {
      if (!err) count(s[i], out);
      pu_session_close(s[i]);
      s[i] = NULL;
    }
  }
  free(s);
  if (!err && out->tokens) out->nats /= (double)out->tokens;
  return err;
}
