/* Rows of logits that stay on the device: of each only the largest come to the host, with what the whole row weighs.
 * Nearly every token is chosen among these, and then as it would have been from the whole row. Bias, penalties and what
 * may not come are single logits, which the device changes before it looks for the largest. Where that does not do
 * (grammars, typical sampling, penalties beside log-probabilities, which are those from before, a draw beyond the
 * largest), the row is fetched. */
#include <math.h>
#include <string.h>

#include "src/engine/internal.h"

enum { MANY = 64, LEAST_CHANGES = 1 << 10 };

static int64_t vocab_of(const pu_engine *en) {
  return en->t ? PU_MIN(en->m->hp.vocab, (int64_t)pu_tokenizer_size(en->t)) : en->m->hp.vocab;
}

/* ---- what is to be done with each row ---- */

/* A row and its place: whose it is, and how many tokens there will be beyond those that are known. */
typedef struct place {
  pu_session *s;
  int ahead; /* guesses before it, and one that is not known yet where the step is a later one */
} place;

/* Which row of its session's is row i? */
static int guesses_before(pu_session *const *s, int64_t i) {
  int n = 0;
  while (i > n && s[i - n - 1] == s[i]) n++;
  return n;
}

/* Before so many tokens an answer may not end. */
static bool is_early(const place *p) {
  return (int64_t)(p->s->ids.n - p->s->answer_at) + p->ahead < p->s->how.min_tokens;
}

static bool forbids(const place *p) {
  return p->s->how.n_bad_words > 0 || is_early(p);
}

/* Log-probabilities are those after the bias, before all else. */
static pu_row_how how_of(const place *p) {
  const pu_sampling *o = &p->s->how;
  if (p->s->constraint || o->typical_p < 1 || o->top_k > MANY) return PU_ROW_WHOLE;
  if (p->s->kept.top >= 0) return pu_penalises(o) ? PU_ROW_WHOLE : o->n_logit_bias ? PU_ROW_BIASED : PU_ROW_PLAIN;
  return pu_penalises(o) || o->n_logit_bias || forbids(p) ? PU_ROW_CHANGED : PU_ROW_PLAIN;
}

/* Where the device does not change it: what may not come is known when the token is chosen. */
static pu_row_how unchanged(const pu_session *s) {
  return pu_penalises(&s->how) || s->how.n_logit_bias ? PU_ROW_WHOLE : PU_ROW_PLAIN;
}

/* Logits that are changed, at most. */
static int64_t changes_of(const place *p, pu_row_how how) {
  const pu_session *s = p->s;
  size_t n = s->how.n_logit_bias;
  if (how == PU_ROW_BIASED) return (int64_t)n;
  if (pu_penalises(&s->how)) n += s->seen.n + (size_t)p->ahead;
  return (int64_t)(n + s->how.n_bad_words + (is_early(p) ? s->n_endings : 0));
}

/* Is the first candidate all that can be asked for? */
static bool wants_first(const place *p, pu_row_how how) {
  const pu_session *s = p->s;
  return (s->how.temperature <= 0 || s->how.top_k == 1) && s->kept.top < 0 && (how == PU_ROW_CHANGED || !forbids(p));
}

/* A power of two, so that steps ask for the same for a while. */
static int64_t rounded(int64_t changes) {
  int64_t room = LEAST_CHANGES;
  while (room < changes) room *= 2;
  return room;
}

int64_t pu_short_most_changes(int64_t rows, int64_t vocab) {
  return rounded(PU_MIN(2 * rows * vocab, (int64_t)PU_MOST_CHANGES));
}

/* room: for so many changes more. *changes: of this row; -1: none are made. */
static pu_err plan_row(pu_engine *en, const place *p, int64_t room, pu_row_how *how, int64_t *changes, pu_error *e) {
  *how = how_of(p);
  *changes = -1;
  if (*how < PU_ROW_BIASED) return PU_OK;
  const pu_err err = pu_session_keep_seen(p->s, e);
  if (err) { /* it can never be answered: the others can */
    p->s->finish = PU_FINISH_CANCEL;
    pu_schedule_update(p->s);
    return err;
  }
  const int64_t more = changes_of(p, *how);
  if (en->be->forward[PU_OP_adjust_logits] && more <= room)
    *changes = more;
  else
    *how = unchanged(p->s);
  return PU_OK;
}

pu_err pu_short_plan_rows(pu_engine *en, pu_session *const *s, int64_t n, bool later, pu_short_plan *out, pu_error *e) {
  const int64_t most = pu_short_most_changes((int64_t)en->max_batch * (1 + en->guess), en->m->hp.vocab);
  int64_t changes = 0, more;
  bool any = false, first = true, changed = false;
  *out = (pu_short_plan){.later = later, .how = pu_arena_zalloc(en->host, (size_t)n * sizeof *out->how)};
  if (!out->how) return pu_fail(e, PU_ERR_NOMEM, "no memory for the largest logits");
  if (!en->be->forward[PU_OP_top_logits]) return PU_OK;
  for (int64_t i = 0; i < n; i++) {
    const place p = {s[i], guesses_before(s, i) + later};
    PU_TRY(plan_row(en, &p, most - changes, &out->how[i], &more, e));
    changed |= more >= 0;
    changes += PU_MAX(more, 0);
    any |= out->how[i] != PU_ROW_WHOLE;
    first &= out->how[i] == PU_ROW_WHOLE || wants_first(&p, out->how[i]);
  }
  if (any) out->k = first ? 1 : (int)PU_MIN(MANY, vocab_of(en));
  if (changed) out->changes = rounded(changes);
  return PU_OK;
}

/* ---- what the device is told: one piece of memory, that comes in one copy ---- */

typedef struct settings {
  float *scale, *penalty; /* [n] each */
  int32_t *offsets, *ids; /* [3 n + 1], [changes] */
  float *values;          /* [changes] */
  int32_t used;
} settings;

static int64_t settings_count(const pu_short_plan *plan, int64_t n) {
  return plan->changes ? 5 * n + 1 + 2 * plan->changes : n;
}

static settings settings_at(void *memory, const pu_short_plan *plan, int64_t n) {
  float *f = memory;
  int32_t *i = memory;
  if (!plan->changes) return (settings){.scale = f};
  return (settings){.scale = f,
                    .penalty = f + n,
                    .offsets = i + 2 * n,
                    .ids = i + 5 * n + 1,
                    .values = f + 5 * n + 1 + plan->changes};
}

static void add_bias(settings *to, const pu_sampling *o) {
  for (size_t i = 0; i < o->n_logit_bias; i++, to->used++) {
    to->ids[to->used] = o->logit_bias[i].id;
    to->values[to->used] = o->logit_bias[i].bias;
  }
}

/* The last ids, as many as a bad word may begin with, and the guesses behind them. */
static pu_err add_forbidden(pu_engine *en, settings *to, const place *p, pu_error *e) {
  const pu_session *s = p->s;
  const pu_sampling *o = &s->how;
  size_t longest = 0, guesses = (size_t)p->ahead;
  for (size_t i = 0; i < o->n_bad_words; i++) longest = PU_MAX(longest, o->bad_words[i].n);
  longest = PU_MIN(longest, s->ids.n);
  int32_t *last = pu_arena_alloc(en->host, (longest + guesses + 1) * sizeof *last);
  if (!last) return pu_fail(e, PU_ERR_NOMEM, "no memory for the largest logits");
  memcpy(last, s->ids.v + (s->ids.n - longest), longest * sizeof *last);
  memcpy(last + longest, s->guess, guesses * sizeof *last);
  const pu_history h = {
      .ids = last, .n = longest + guesses, .never = s->endings, .n_never = is_early(p) ? s->n_endings : 0};
  to->used += (int32_t)pu_sampler_forbidden(o, &h, to->ids + to->used);
  return PU_OK;
}

static pu_err add_changes(pu_engine *en, settings *to, const place *p, pu_row_how how, int32_t *offsets, pu_error *e) {
  const pu_session *s = p->s;
  const pu_sampling *o = &s->how;
  if (how >= PU_ROW_BIASED) add_bias(to, o);
  offsets[0] = to->used;
  if (how == PU_ROW_CHANGED && pu_penalises(o))
    to->used += (int32_t)pu_seen_write(&s->seen, en->m->hp.vocab, o, s->guess, p->ahead, to->ids + to->used,
                                       to->values + to->used);
  offsets[1] = to->used;
  if (how == PU_ROW_CHANGED && forbids(p)) PU_TRY(add_forbidden(en, to, p, e));
  offsets[2] = to->used;
  return PU_OK;
}

static pu_err fill(pu_engine *en, settings *to, const pu_short_plan *plan, pu_session *const *s, int64_t n,
                   pu_error *e) {
  for (int64_t i = 0; i < n; i++) to->scale[i] = s[i]->how.temperature > 0 ? (float)(1 / s[i]->how.temperature) : 1;
  if (!plan->changes) return PU_OK;
  to->offsets[0] = 0;
  for (int64_t i = 0; i < n; i++) {
    const place p = {s[i], guesses_before(s, i)};
    to->penalty[i] = (float)s[i]->how.repetition_penalty;
    PU_TRY(add_changes(en, to, &p, plan->how[i], to->offsets + 3 * i + 1, e));
  }
  return PU_OK;
}

pu_err pu_short_send(pu_engine *en, const pu_tensor *sent, const pu_short_plan *plan, pu_session *const *s, int64_t n,
                     pu_error *e) {
  const size_t bytes = pu_tensor_bytes(sent);
  void *memory = plan->later ? pu_arena_zalloc(en->host, bytes) : pu_arena_alloc(en->host, bytes);
  if (!memory) return pu_fail(e, PU_ERR_NOMEM, "no memory for the largest logits");
  settings to = settings_at(memory, plan, n);
  if (!plan->later) PU_TRY(fill(en, &to, plan, s, n, e));
  return en->be->upload(en->be, sent->data, memory, bytes, e);
}

static pu_tensor *list_over(pu_ctx *c, pu_dtype dtype, int64_t n, void *at) {
  return pu_tensor_over(c, dtype, 1, &n, at);
}

pu_err pu_short_ask(pu_engine *en, pu_ctx *c, pu_tensor *logits, const pu_short_plan *plan, pu_session *const *s,
                    int64_t n, pu_short *out, pu_error *e) {
  *out = (pu_short){.k = plan->k, .logits = logits};
  if (plan->k == 0) return PU_OK;
  const int64_t count = settings_count(plan, n);
  pu_tensor *sent = pu_tensor_new(c, PU_I32, 1, &count, false), *values, *sums;
  if (!sent) return pu_fail(e, PU_ERR_NOMEM, "no memory for the largest logits");
  PU_TRY(pu_short_send(en, sent, plan, s, n, e));
  const settings at = settings_at(sent->data, plan, n);
  if (plan->changes)
    pu_adjust_logits(c, logits, list_over(c, PU_F32, n, at.penalty), list_over(c, PU_I32, 3 * n + 1, at.offsets),
                     list_over(c, PU_I32, plan->changes, at.ids), list_over(c, PU_F32, plan->changes, at.values));
  out->sent = sent;
  out->ids = pu_top_logits(c, logits, vocab_of(en), plan->k, list_over(c, PU_F32, n, at.scale), &values, &sums);
  out->values = values;
  out->sums = sums;
  return c->status;
}

/* ---- what it found ---- */

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

pu_err pu_short_fetch(pu_engine *en, const pu_short *found, const pu_short_plan *plan, int64_t n, pu_logit_row *rows,
                      pu_error *e) {
  const void *to[3];
  const int k = found->k;
  for (int64_t i = 0; i < n; i++) rows[i] = (pu_logit_row){.from = found->logits, .at = i, .how = plan->how[i]};
  if (k == 0) return PU_OK;
  PU_TRY(download(en, (const pu_tensor *const[]){found->values, found->ids, found->sums}, to, 3, e));
  const float *values = to[0], *sums = to[2];
  const int32_t *ids = to[1];
  for (int64_t i = 0; i < n; i++) {
    pu_logit_row *r = &rows[i];
    if (r->how == PU_ROW_WHOLE) continue;
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
  return row->k > 0 && isfinite(row->values[0]) && s->kept.top <= row->k &&
         pu_sampler_short(&s->en->sampler, row, &s->how, h, &s->rng, id);
}
