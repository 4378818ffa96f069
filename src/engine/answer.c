/* The answer that a session is making: its options, its end, its text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/internal.h"

/* ---- options ---- */

void pu_answer_forget(pu_session *s) {
  free(s->options);
  s->options = NULL;
  s->endings = NULL;
  s->n_endings = 0;
  s->how = pu_sampling_default();
  s->started = false;
  s->finish = PU_FINISH_NONE;
  pu_stream_deinit(&s->stream);
  pu_stream_init(&s->stream, s->en->t, false);
  pu_kept_deinit(&s->kept);
  pu_seen_deinit(&s->seen);
  pu_constrain_end(s);
}

/* What options point to lies in one piece of memory: measured in a first pass, where `at` is NULL, copied in a second.
 */
typedef struct packer {
  char *at;
  size_t used;
} packer;

static void *pack(packer *p, const void *from, size_t n, size_t size) {
  void *to = p->at ? p->at + p->used : NULL;
  if (to && from && n) memcpy(to, from, n * size);
  p->used += (n * size + 15) / 16 * 16;
  return to;
}

static void pack_options(packer *p, const pu_sampling *o, pu_sampling *to) {
  const char **stop = pack(p, NULL, o->n_stop, sizeof *stop);
  for (size_t i = 0; i < o->n_stop; i++) {
    char *text = pack(p, o->stop[i], strlen(o->stop[i]) + 1, 1);
    if (stop) stop[i] = text;
  }
  pu_ids_view *bad = pack(p, NULL, o->n_bad_words, sizeof *bad);
  for (size_t i = 0; i < o->n_bad_words; i++) {
    int32_t *ids = pack(p, o->bad_words[i].v, o->bad_words[i].n, sizeof *ids);
    if (bad) bad[i] = (pu_ids_view){ids, o->bad_words[i].n};
  }
  to->stop = stop;
  to->bad_words = bad;
  to->spoken_ids = pack(p, o->spoken_ids, o->n_spoken_ids, sizeof *o->spoken_ids);
  to->logit_bias = pack(p, o->logit_bias, o->n_logit_bias, sizeof *o->logit_bias);
}

/* Ids that end the answer: the caller's, then the model's and the tokenizer's. */
static void collect_endings(pu_session *s, const pu_sampling *o, int32_t *to) {
  const pu_hparams *hp = &s->en->m->hp;
  s->endings = to;
  s->n_endings = o->n_stop_ids;
  for (size_t i = 0; i < o->n_stop_ids; i++) to[i] = o->stop_ids[i];
  if (o->ignore_eos) return;
  for (int i = 0; i < hp->n_eos; i++) to[s->n_endings++] = hp->eos[i];
  if (s->en->t && pu_tokenizer_eos(s->en->t) >= 0) to[s->n_endings++] = pu_tokenizer_eos(s->en->t);
}

static int by_id(const void *a, const void *b) {
  const pu_logit_bias *x = a, *y = b;
  return (x->id > y->id) - (x->id < y->id);
}

/* Each id once: a device adds all of them at a time. */
static void merge_bias(pu_sampling *how) {
  pu_logit_bias *v = (pu_logit_bias *)(uintptr_t)how->logit_bias; /* our own copy */
  size_t n = 0;
  if (how->n_logit_bias) qsort(v, how->n_logit_bias, sizeof *v, by_id);
  for (size_t i = 0; i < how->n_logit_bias; i++)
    if (n && v[n - 1].id == v[i].id)
      v[n - 1].bias += v[i].bias;
    else
      v[n++] = v[i];
  how->n_logit_bias = n;
}

static pu_err keep_options(pu_session *s, const pu_sampling *o, pu_error *e) {
  pu_sampling how = *o;
  size_t most = o->n_stop_ids + PU_COUNT(s->en->m->hp.eos) + 1;
  packer p = {0};
  pack_options(&p, o, &how);
  (void)pack(&p, NULL, most, sizeof(int32_t));
  s->options = p.at = malloc(p.used + 1);
  if (!p.at) return pu_fail(e, PU_ERR_NOMEM, "no memory for the options of an answer");
  p.used = 0;
  pack_options(&p, o, &how);
  collect_endings(s, o, pack(&p, NULL, most, sizeof(int32_t)));
  how.stop_ids = s->endings;
  how.n_stop_ids = s->n_endings;
  merge_bias(&how);
  s->how = how;
  return PU_OK;
}

static pu_err check_numbers(const pu_sampling *o, pu_error *e) {
  const struct {
    const char *name;
    double value, min, max;
  } bounds[] = {{"temperature", o->temperature, 0, 1e6},
                {"top-p", o->top_p, 1e-9, 1},
                {"min-p", o->min_p, 0, 1},
                {"typical-p", o->typical_p, 1e-9, 1},
                {"repetition penalty", o->repetition_penalty, 1e-3, 1e3},
                {"presence penalty", o->presence_penalty, -1e3, 1e3},
                {"frequency penalty", o->frequency_penalty, -1e3, 1e3},
                {"top-k", (double)o->top_k, 0, 1e9},
                {"min tokens", (double)o->min_tokens, 0, 1e18},
                {"max tokens", (double)o->max_tokens, 0, 1e18},
                {"top logprobs", (double)o->top_logprobs, -1, PU_MOST_LOGPROBS}};
  for (size_t i = 0; i < PU_COUNT(bounds); i++)
    if (!(bounds[i].value >= bounds[i].min && bounds[i].value <= bounds[i].max)) /* NaN fails too */
      return pu_fail(e, PU_ERR_USAGE, "%s is %g; it must be from %g to %g", bounds[i].name, bounds[i].value,
                     bounds[i].min, bounds[i].max);
  return PU_OK;
}

static pu_err check_id(const char *what, int32_t id, int64_t vocab, pu_error *e) {
  if (id >= 0 && id < vocab) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: there is no token %d; ids go from 0 to %lld", what, (int)id,
                 (long long)vocab - 1);
}

static pu_err check_lists(const pu_sampling *o, int64_t vocab, pu_error *e) {
  for (size_t i = 0; i < o->n_logit_bias; i++) {
    PU_TRY(check_id("logit bias", o->logit_bias[i].id, vocab, e));
    if (isnan(o->logit_bias[i].bias) || o->logit_bias[i].bias == INFINITY)
      return pu_fail(e, PU_ERR_USAGE, "logit bias of token %d is no number", (int)o->logit_bias[i].id);
  }
  for (size_t i = 0; i < o->n_bad_words; i++) {
    if (!o->bad_words[i].n) return pu_fail(e, PU_ERR_USAGE, "bad word %zu has no tokens", i + 1);
    for (size_t j = 0; j < o->bad_words[i].n; j++) PU_TRY(check_id("bad words", o->bad_words[i].v[j], vocab, e));
  }
  return PU_OK;
}

/* ---- begin ---- */

static bool ends_in_text(const pu_session *s) {
  return s->en->t && !pu_tokenizer_is_special(s->en->t, s->ids.v[s->ids.n - 1]);
}

pu_err pu_session_start(pu_session *s, const pu_sampling *o, pu_on_text on_text, void *arg, pu_error *e) {
  if (s->started && s->finish == PU_FINISH_NONE)
    return pu_fail(e, PU_ERR_USAGE, "the session is in the middle of an answer");
  PU_TRY(check_numbers(o, e));
  PU_TRY(check_lists(o, s->en->m->hp.vocab, e));
  if (!s->ids.n) return pu_fail(e, PU_ERR_USAGE, "the prompt is empty: there is nothing to continue");
  if (o->n_stop && !s->en->t) return pu_fail(e, PU_ERR_USAGE, "stop strings need a tokenizer, and the model has none");
  pu_answer_forget(s);
  PU_TRY(keep_options(s, o, e));
  PU_TRY(pu_constrain_begin(s, e));
  s->stream.decoder.started = ends_in_text(s) || o->grammar; /* a grammar speaks of every byte, a first space too */
  pu_kept_init(&s->kept, o->top_logprobs);
  pu_rng_seed(&s->rng, o->seed);
  pu_session_uncache(s, (int64_t)s->ids.n - 1); /* where the last answer ended without a token more */
  s->started = true;
  s->finish = (int64_t)s->ids.n >= s->en->plan.context ? PU_FINISH_LENGTH : PU_FINISH_NONE;
  s->answer_at = s->ids.n;
  s->on_text = on_text;
  s->on_text_arg = arg;
  pu_schedule_update(s);
  return PU_OK;
}

/* ---- token by token ---- */

pu_err pu_session_keep_seen(pu_session *s, pu_error *e) {
  if (!pu_penalises(&s->how)) return PU_OK;
  if (pu_seen_update(&s->seen, s->en->m->hp.vocab, &s->how, s->ids.v, s->ids.n, s->answer_at)) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "no memory for the tokens that were seen");
}

static bool ends_answer(const pu_session *s, int32_t id) {
  for (size_t i = 0; i < s->n_endings; i++)
    if (s->endings[i] == id) return true;
  return false;
}

static pu_err end_answer(pu_session *s, pu_finish why, pu_error *e) {
  PU_TRY(pu_stream_finish(&s->stream, &s->how, e));
  bool go_on = pu_stream_tell(&s->stream, &s->how, true, s->on_text, s->on_text_arg);
  if (s->finish == PU_FINISH_NONE) s->finish = go_on ? why : PU_FINISH_CANCEL;
  return PU_OK;
}

static pu_err take(pu_session *s, int32_t id, bool early, pu_error *e) {
  pu_sampling how = s->how;
  if (early) how.n_stop = 0; /* strings that are complete before min_tokens end nothing */
  if (!pu_ids_push(&s->ids, id)) return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu tokens", s->ids.n);
  PU_TRY(pu_stream_push(&s->stream, id, &how, e));
  if (s->stream.stopped) return end_answer(s, PU_FINISH_STOP, e);
  bool whole;
  if (!pu_constrain_take(s, id, &whole)) return end_answer(s, PU_FINISH_LENGTH, e);
  if (whole) return end_answer(s, PU_FINISH_STOP, e);
  bool full = (int64_t)s->ids.n >= s->en->plan.context;
  bool long_enough = s->how.max_tokens > 0 && (int64_t)(s->ids.n - s->answer_at) >= s->how.max_tokens;
  if (full || long_enough) return end_answer(s, PU_FINISH_LENGTH, e);
  if (!pu_stream_tell(&s->stream, &s->how, false, s->on_text, s->on_text_arg)) pu_session_cancel(s);
  return PU_OK;
}

/* Ids without a piece have no text: models' vocabularies are often rounded up beyond the tokenizer's. */
static void only_pieces(const pu_engine *en, float *logits) {
  if (!en->t) return;
  for (int64_t i = pu_tokenizer_size(en->t); i < en->m->hp.vocab; i++) logits[i] = -INFINITY;
}

pu_err pu_answer_next(pu_session *s, pu_logit_row *row, pu_error *e) {
  pu_engine *en = s->en;
  size_t made = s->ids.n - s->answer_at;
  bool early = (int64_t)made < s->how.min_tokens;
  const pu_seen *seen = row->how == PU_ROW_CHANGED ? NULL : &s->seen;
  pu_history h = {s->ids.v, s->ids.n, seen, s->endings, early ? s->n_endings : 0};
  int32_t id;
  if (!row->logits && pu_row_choose(row, s, &h, &id)) {
    if (!early && ends_answer(s, id)) return end_answer(s, PU_FINISH_STOP, e);
    if (s->kept.top >= 0) PU_TRY(pu_kept_add_short(&s->kept, row, id, e));
    return take(s, id, early, e);
  }
  if (!row->logits) PU_TRY(pu_row_fetch(en, row, e));
  float *logits = row->logits;
  if (seen) PU_TRY(pu_session_keep_seen(s, e));
  only_pieces(en, logits);
  if (row->how < PU_ROW_BIASED) pu_sampler_bias(logits, en->m->hp.vocab, &s->how);
  const float *before = s->kept.top >= 0 ? pu_sampler_copy(&en->sampler, logits) : NULL;
  if (!pu_constrain_logits(s, logits)) return end_answer(s, PU_FINISH_LENGTH, e);
  id = pu_sampler_next(&en->sampler, logits, &s->how, &h, &s->rng);
  if (!early && ends_answer(s, id)) return end_answer(s, PU_FINISH_STOP, e);
  if (before) PU_TRY(pu_kept_add(&s->kept, &en->sampler, before, id, e));
  return take(s, id, early, e);
}

void pu_session_cancel(pu_session *s) {
  if (!s->started || s->finish != PU_FINISH_NONE) return;
  s->finish = PU_FINISH_CANCEL;
  pu_schedule_update(s);
}

/* ---- what there is of it ---- */

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

const pu_token_info *pu_session_tokens(const pu_session *s, size_t *n) {
  return pu_kept_get(&s->kept, n);
}

pu_err pu_session_generate(pu_session *s, const pu_sampling *o, pu_on_text on_text, void *arg, pu_error *e) {
  PU_TRY(pu_session_start(s, o, on_text, arg, e));
  for (bool more = true; more && s->finish == PU_FINISH_NONE;) PU_TRY(pu_engine_step(s->en, &more, e));
  return PU_OK;
}
