/* A sequence: its tokens and its blocks of the cache. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/internal.h"

pu_err pu_session_open(pu_engine *en, pu_session **out, pu_error *e) {
  *out = NULL;
  pu_session *s = calloc(1, sizeof *s);
  if (s) s->blocks = calloc((size_t)pu_blocks_for(en, en->plan.context), sizeof *s->blocks);
  if (!s || !s->blocks) {
    free(s);
    return pu_fail(e, PU_ERR_NOMEM, "no memory for a session");
  }
  s->en = en;
  s->how = pu_sampling_default();
  pu_kept_init(&s->prompt, -1);
  pu_kept_init(&s->kept, -1);
  pu_stream_init(&s->stream, en->t, false);
  s->next = en->first;
  if (s->next) s->next->before = s;
  en->first = s;
  *out = s;
  return PU_OK;
}

void pu_session_close(pu_session *s) {
  if (!s) return;
  pu_session_close(s->draft);
  s->ids.n = 0; /* no work any more */
  pu_schedule_update(s);
  pu_session_drop(s);
  *(s->before ? &s->before->next : &s->en->first) = s->next;
  if (s->next) s->next->before = s->before;
  pu_answer_forget(s);
  pu_kept_deinit(&s->prompt);
  pu_ids_deinit(&s->ids);
  free(s->blocks);
  free(s);
}

/* ---- blocks ---- */

void pu_session_remember(pu_session *s, bool tail) {
  pu_cache *c = &s->en->cache;
  int32_t size = c->size;
  if (!s->en->shares_prefixes) return;
  for (; (int64_t)(s->n_known + 1) * size <= s->plain; s->n_known++) {
    int32_t *mine = &s->blocks[s->n_known], parent = s->n_known ? mine[-1] : -1;
    int32_t b = pu_prefix_insert(c, s->salt, parent, *mine, s->ids.v + (int64_t)s->n_known * size, size);
    if (b == *mine) continue;
    pu_cache_hold(c, b); /* two have computed the same: one is enough */
    pu_cache_give(c, *mine);
    *mine = b;
  }
  int64_t at = (int64_t)s->n_known * size, rest = s->plain - at;
  if (!tail || rest <= 0 || s->plain < s->cached) return;
  int32_t b = s->blocks[s->n_known], parent = s->n_known ? s->blocks[s->n_known - 1] : -1;
  if (c->b[b].tokens || c->b[b].holders > 1) return; /* it is there, or another session goes on in it */
  pu_prefix_insert(c, s->salt, parent, b, s->ids.v + at, (int32_t)rest);
}

void pu_session_uncache(pu_session *s, int64_t n) {
  s->cached = PU_MIN(s->cached, n);
  s->plain = PU_MIN(s->plain, s->cached);
  s->n_known = PU_MIN(s->n_known, (int32_t)(s->cached / s->en->plan.kv_block));
}

/* The last block first: see blocks.c. */
static void give_back(pu_session *s, int32_t keep) {
  while (s->n_blocks > keep) pu_cache_give(&s->en->cache, s->blocks[--s->n_blocks]);
}

void pu_session_drop(pu_session *s) {
  if (s->n_blocks) pu_session_remember(s, true);
  give_back(s, 0);
  pu_session_uncache(s, 0);
}

/* ---- tokens ---- */

static pu_err check_fit(const pu_session *s, size_t n, pu_error *e) {
  const pu_engine_plan *p = &s->en->plan;
  if (n <= (size_t)p->context - s->ids.n) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%zu tokens after %zu do not fit into a context of %lld: shorten the prompt%s", n,
                 s->ids.n, (long long)p->context,
                 s->en->memory_bound ? ", or give the engine more memory"
                                     : ", or give the engine a larger context (--context)");
}

pu_err pu_session_append(pu_session *s, const int32_t *ids, size_t n, pu_error *e) {
  if (s->started && s->finish == PU_FINISH_NONE)
    return pu_fail(e, PU_ERR_USAGE, "the session is in the middle of an answer");
  PU_TRY(check_fit(s, n, e));
  for (size_t i = 0; i < n; i++)
    if (ids[i] < 0 || ids[i] >= s->en->m->hp.vocab)
      return pu_fail(e, PU_ERR_USAGE, "token %zu of the prompt is %d; the model has ids from 0 to %lld", i + 1, ids[i],
                     (long long)s->en->m->hp.vocab - 1);
  for (size_t i = 0; i < n; i++)
    if (!pu_ids_push(&s->ids, ids[i])) return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu tokens", s->ids.n);
  pu_schedule_update(s);
  return PU_OK;
}

pu_err pu_session_rewind(pu_session *s, int64_t n, pu_error *e) {
  if (n < 0 || n > (int64_t)s->ids.n)
    return pu_fail(e, PU_ERR_USAGE, "cannot go back to %lld tokens: the session has %zu", (long long)n, s->ids.n);
  if (n < s->cached) pu_session_remember(s, true);
  s->ids.n = (size_t)n;
  pu_session_uncache(s, PU_MAX(n - 1, 0)); /* the last token is computed again, for its logits */
  s->prompt.n = PU_MIN(s->prompt.n, (size_t)PU_MAX(n - s->score_from, 0));
  s->draft_agrees = PU_MIN(s->draft_agrees, n);
  pu_answer_forget(s);
  s->answer_at = s->ids.n;
  give_back(s, pu_blocks_for(s->en, s->cached));
  pu_schedule_update(s);
  return PU_OK;
}

pu_err pu_session_fork(const pu_session *s, pu_session **out, pu_error *e) {
  pu_session *t;
  PU_TRY(pu_session_open(s->en, &t, e));
  t->adapter = s->adapter;
  t->salt = s->salt;
  t->own_salt = s->own_salt;
  pu_err err = pu_session_append(t, s->ids.v, s->ids.n, e);
  if (err) {
    pu_session_close(t);
    return err;
  }
  t->cached = s->cached;
  t->plain = s->plain;
  t->n_known = s->n_known;
  for (int32_t n = pu_blocks_for(s->en, s->cached); t->n_blocks < n; t->n_blocks++) {
    t->blocks[t->n_blocks] = s->blocks[t->n_blocks];
    pu_cache_hold(&s->en->cache, t->blocks[t->n_blocks]);
  }
  pu_schedule_update(t);
  *out = t;
  return PU_OK;
}

static pu_err check_empty(const pu_session *s, pu_error *e) {
  if (!s->ids.n) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "the session has %zu tokens already: this is to be said before the first", s->ids.n);
}

/* The same ids have other keys and values with another adapter. */
static void mix_salt(pu_session *s) {
  s->salt = s->adapter ? pu_hash64(&s->adapter->serial, sizeof s->adapter->serial, s->own_salt) : s->own_salt;
}

pu_err pu_session_salt(pu_session *s, uint64_t salt, pu_error *e) {
  PU_TRY(check_empty(s, e));
  s->own_salt = salt;
  mix_salt(s);
  return PU_OK;
}

pu_err pu_session_adapter(pu_session *s, const char *name, pu_error *e) {
  pu_beside *b = s->en->adapters;
  PU_TRY(check_empty(s, e));
  while (name && b && strcmp(b->name, name) != 0) b = b->next;
  if (name && !b) return pu_fail(e, PU_ERR_USAGE, "the engine has no adapter '%.128s'", name);
  s->adapter = name ? b : NULL;
  mix_salt(s);
  return PU_OK;
}

static pu_err keep_scores(pu_session *s, int64_t from, int top, pu_error *e) {
  if (top < 0 || top > PU_MOST_LOGPROBS)
    return pu_fail(e, PU_ERR_USAGE, "%d most probable tokens; it must be from 0 to %d", top, PU_MOST_LOGPROBS);
  pu_kept_deinit(&s->prompt);
  pu_kept_init(&s->prompt, top);
  s->score_from = from;
  return PU_OK;
}

pu_err pu_session_score(pu_session *s, int top, pu_error *e) {
  PU_TRY(check_empty(s, e));
  return keep_scores(s, 0, top, e);
}

pu_err pu_session_score_from(pu_session *s, int64_t from, int top, pu_error *e) {
  if (from < 1 || s->cached >= from)
    return pu_fail(e, PU_ERR_USAGE, "cannot tell of tokens from %lld on: %lld are processed", (long long)from,
                   (long long)s->cached);
  return keep_scores(s, from, top, e);
}

const pu_token_info *pu_session_prompt(const pu_session *s, size_t *n) {
  return pu_kept_get(&s->prompt, n);
}

int64_t pu_session_length(const pu_session *s) {
  return (int64_t)s->ids.n;
}

pu_session_state pu_session_get_state(const pu_session *s) {
  return s->state;
}
