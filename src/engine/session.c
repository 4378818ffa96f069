/* A sequence: its tokens, its cache blocks, and the answer being made. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/internal.h"

static int64_t blocks_for(const pu_engine *en, int64_t tokens) {
  return (tokens + en->kv_block - 1) / en->kv_block;
}

pu_err pu_session_open(pu_engine *en, pu_session **out, pu_error *e) {
  *out = NULL;
  if (en->n_sessions >= en->max_batch)
    return pu_fail(e, PU_ERR_USAGE, "all %d sessions of the engine are in use", en->max_batch);
  pu_session *s = calloc(1, sizeof *s);
  if (s) s->blocks = calloc((size_t)blocks_for(en, en->context), sizeof *s->blocks);
  if (!s || !s->blocks) {
    free(s);
    return pu_fail(e, PU_ERR_NOMEM, "no memory for a session");
  }
  s->en = en;
  s->how = pu_sampling_default();
  pu_stream_init(&s->stream, en->t, false);
  pu_session **at = &en->first;
  while (*at) at = &(*at)->next;
  *at = s;
  en->n_sessions++;
  *out = s;
  return PU_OK;
}

static void give_blocks_back(pu_session *s, int64_t keep) {
  while (s->n_blocks > keep) s->en->free_blocks[s->en->n_free++] = s->blocks[--s->n_blocks];
}

static void free_options(pu_session *s) {
  for (size_t i = 0; i < s->how.n_stop && s->stop; i++) free(s->stop[i]);
  free(s->stop);
  free(s->stop_ids);
  s->stop = NULL;
  s->stop_ids = NULL;
  s->how = pu_sampling_default();
}

void pu_session_close(pu_session *s) {
  if (!s) return;
  give_blocks_back(s, 0);
  pu_session **at = &s->en->first;
  while (*at != s) at = &(*at)->next;
  *at = s->next;
  s->en->n_sessions--;
  free_options(s);
  pu_stream_deinit(&s->stream);
  pu_ids_deinit(&s->ids);
  free(s->blocks);
  free(s);
}

pu_err pu_session_append(pu_session *s, const int32_t *ids, size_t n, pu_error *e) {
  const pu_engine *en = s->en;
  if (s->started && s->finish == PU_FINISH_NONE)
    return pu_fail(e, PU_ERR_USAGE, "the session is in the middle of an answer");
  if (n > (size_t)en->context - s->ids.n)
    return pu_fail(e, PU_ERR_USAGE, "%zu tokens do not fit in a context of %lld that holds %zu already", n,
                   (long long)en->context, s->ids.n);
  for (size_t i = 0; i < n; i++)
    if (ids[i] < 0 || ids[i] >= en->m->hp.vocab)
      return pu_fail(e, PU_ERR_USAGE, "token %zu is %d; the model's vocabulary has ids from 0 to %lld", i + 1, ids[i],
                     (long long)en->m->hp.vocab - 1);
  for (size_t i = 0; i < n; i++)
    if (!pu_ids_push(&s->ids, ids[i])) return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu tokens", s->ids.n);
  return PU_OK;
}

pu_err pu_session_reserve(pu_session *s, int64_t n, pu_error *e) {
  pu_engine *en = s->en;
  while (s->n_blocks < blocks_for(en, n)) {
    if (!en->n_free) return pu_fail(e, PU_ERR_INTERNAL, "the cache has no free block"); /* sized for all sessions */
    s->blocks[s->n_blocks++] = en->free_blocks[--en->n_free];
  }
  return PU_OK;
}

/* Copies of the stop strings and ids, so that the caller's may go. */
static bool keep_options(pu_session *s, const pu_sampling *o) {
  free_options(s);
  s->how = *o;
  s->how.n_stop = s->how.n_stop_ids = 0;
  s->stop = calloc(o->n_stop + 1, sizeof *s->stop);
  s->stop_ids = calloc(o->n_stop_ids + 1, sizeof *s->stop_ids);
  if (!s->stop || !s->stop_ids) return false;
  for (; s->how.n_stop < o->n_stop; s->how.n_stop++)
    if (!(s->stop[s->how.n_stop] = strdup(o->stop[s->how.n_stop]))) return false;
  for (; s->how.n_stop_ids < o->n_stop_ids; s->how.n_stop_ids++)
    s->stop_ids[s->how.n_stop_ids] = o->stop_ids[s->how.n_stop_ids];
  s->how.stop = (const char *const *)s->stop;
  s->how.stop_ids = s->stop_ids;
  return true;
}

static pu_err check_options(const pu_sampling *o, pu_error *e) {
  const struct {
    const char *name;
    double value, min, max;
  } bounds[] = {{"temperature", o->temperature, 0, 1e6},
                {"top-p", o->top_p, 1e-9, 1},
                {"min-p", o->min_p, 0, 1},
                {"repetition penalty", o->repetition_penalty, 1e-3, 1e3},
                {"presence penalty", o->presence_penalty, -1e3, 1e3},
                {"frequency penalty", o->frequency_penalty, -1e3, 1e3},
                {"top-k", (double)o->top_k, 0, 1e9},
                {"max tokens", (double)o->max_tokens, 0, 1e18}};
  for (size_t i = 0; i < PU_COUNT(bounds); i++)
    if (!(bounds[i].value >= bounds[i].min && bounds[i].value <= bounds[i].max)) /* NaN fails too */
      return pu_fail(e, PU_ERR_USAGE, "%s is %g; it must be from %g to %g", bounds[i].name, bounds[i].value,
                     bounds[i].min, bounds[i].max);
  return PU_OK;
}

static bool ends_in_text(const pu_session *s) {
  return s->en->t && !pu_tokenizer_is_special(s->en->t, s->ids.v[s->ids.n - 1]);
}

pu_err pu_session_start(pu_session *s, const pu_sampling *o, pu_on_text on_text, void *arg, pu_error *e) {
  if (s->started && s->finish == PU_FINISH_NONE)
    return pu_fail(e, PU_ERR_USAGE, "the session is in the middle of an answer");
  PU_TRY(check_options(o, e));
  if (!s->ids.n) return pu_fail(e, PU_ERR_USAGE, "the prompt is empty: there is nothing to continue");
  if (o->n_stop && !s->en->t) return pu_fail(e, PU_ERR_USAGE, "stop strings need a tokenizer, and the model has none");
  if (!keep_options(s, o)) return pu_fail(e, PU_ERR_NOMEM, "no memory for the stop strings");
  pu_stream_deinit(&s->stream);
  pu_stream_init(&s->stream, s->en->t, ends_in_text(s));
  pu_rng_seed(&s->rng, o->seed);
  s->started = true;
  s->finish = (int64_t)s->ids.n >= s->en->context ? PU_FINISH_LENGTH : PU_FINISH_NONE;
  s->answer_at = s->ids.n;
  s->on_text = on_text;
  s->on_text_arg = arg;
  return PU_OK;
}

static bool ends_answer(const pu_session *s, int32_t id) {
  const pu_hparams *hp = &s->en->m->hp;
  for (size_t i = 0; i < s->how.n_stop_ids; i++)
    if (s->how.stop_ids[i] == id) return true;
  if (s->how.ignore_eos) return false;
  for (int i = 0; i < hp->n_eos; i++)
    if (hp->eos[i] == id) return true;
  return s->en->t && id == pu_tokenizer_eos(s->en->t);
}

static pu_err end_answer(pu_session *s, pu_finish why, pu_error *e) {
  PU_TRY(pu_stream_finish(&s->stream, &s->how, e));
  bool go_on = pu_stream_tell(&s->stream, &s->how, true, s->on_text, s->on_text_arg);
  s->finish = go_on ? why : PU_FINISH_CANCEL;
  return PU_OK;
}

pu_err pu_session_take(pu_session *s, int32_t id, pu_error *e) {
  if (ends_answer(s, id)) return end_answer(s, PU_FINISH_STOP, e);
  if (!pu_ids_push(&s->ids, id)) return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu tokens", s->ids.n);
  PU_TRY(pu_stream_push(&s->stream, id, &s->how, e));
  if (s->stream.stopped) return end_answer(s, PU_FINISH_STOP, e);
  bool full = (int64_t)s->ids.n >= s->en->context;
  bool long_enough = s->how.max_tokens > 0 && (int64_t)(s->ids.n - s->answer_at) >= s->how.max_tokens;
  if (full || long_enough) return end_answer(s, PU_FINISH_LENGTH, e);
  if (!pu_stream_tell(&s->stream, &s->how, false, s->on_text, s->on_text_arg)) s->finish = PU_FINISH_CANCEL;
  return PU_OK;
}

pu_finish pu_session_finish(const pu_session *s) {
  return s->finish;
}

const int32_t *pu_session_answer(const pu_session *s, size_t *n) {
  *n = s->started ? s->ids.n - s->answer_at : 0;
  return s->ids.v + s->answer_at;
}

pu_str pu_session_text(const pu_session *s) {
  return pu_str_of(s->stream.text.data ? s->stream.text.data : "", s->stream.text.len);
}

int64_t pu_session_length(const pu_session *s) {
  return (int64_t)s->ids.n;
}

pu_err pu_session_rewind(pu_session *s, int64_t n, pu_error *e) {
  if (n < 0 || n > (int64_t)s->ids.n)
    return pu_fail(e, PU_ERR_USAGE, "cannot go back to %lld tokens: the session has %zu", (long long)n, s->ids.n);
  s->ids.n = (size_t)n;
  s->cached = PU_MIN(s->cached, PU_MAX(n - 1, 0)); /* the last token is computed again, for its logits */
  s->started = false;
  s->finish = PU_FINISH_NONE;
  s->answer_at = s->ids.n;
  pu_stream_deinit(&s->stream);
  pu_stream_init(&s->stream, s->en->t, false);
  give_blocks_back(s, blocks_for(s->en, s->cached));
  return PU_OK;
}
