/* One forward pass: lays out the tokens of those that the scheduler chose, runs the model, hands out the logits. */
#include <stdlib.h>
#include <string.h>

#include "src/engine/internal.h"

typedef struct batch {
  int32_t n, tokens, n_rows; /* of en->shares; their tokens; rows whose logits are wanted */
  pu_seqs seqs;
  int32_t *ids, *len, *rope_len, *table, *rows;
  pu_tensor *put_ids; /* on the device */
  int32_t table_stride;
  pu_adapter_rows *adapters;
  int n_adapters;
} batch;

static void *take(pu_engine *en, size_t n, size_t size) {
  return pu_arena_alloc(en->host, n * size);
}

/* Rounded up, so that a batch of growing sequences is laid out alike for a while: to sixteens, later to powers of two.
 */
static int32_t wide_enough(int32_t blocks) {
  int32_t wide = 128;
  if (blocks <= wide) return (blocks + 15) / 16 * 16;
  while (wide < blocks) wide *= 2;
  return wide;
}

static void measure(const pu_engine *en, batch *b) {
  for (int32_t i = 0; i < b->n; i++) {
    const pu_share *sh = &en->shares[i];
    b->tokens += sh->tokens;
    b->n_rows += sh->makes ? 1 + sh->guesses : 0;
    b->table_stride = PU_MAX(b->table_stride, sh->s->n_blocks);
    b->seqs.max_len = PU_MAX(b->seqs.max_len, sh->tokens);
  }
  if (en->be->record) b->table_stride = wide_enough(b->table_stride);
}

/* The arrays a forward pass reads. later: of the step after the one that runs, which gives each a token that is not
 * known yet. */
static pu_err lay_out(pu_engine *en, batch *b, bool later, pu_error *e) {
  size_t n = (size_t)b->n, tokens = (size_t)b->tokens;
  int32_t *cu = take(en, n + 1, sizeof *cu), *positions = take(en, tokens, sizeof *positions);
  b->ids = take(en, tokens, sizeof *b->ids);
  b->len = take(en, n, sizeof *b->len);
  b->rope_len = take(en, n, sizeof *b->rope_len);
  b->table = pu_arena_zalloc(en->host, n * (size_t)b->table_stride * sizeof *b->table);
  b->rows = take(en, (size_t)b->n_rows, sizeof *b->rows);
  b->adapters = take(en, n, sizeof *b->adapters);
  if (!b->adapters || !cu || !positions || !b->ids || !b->len || !b->rope_len || !b->table || !b->rows)
    return pu_fail(e, PU_ERR_NOMEM, "no memory for a step of %d tokens", b->tokens);
  int32_t at = 0, rows = 0;
  cu[0] = 0;
  for (int32_t i = 0; i < b->n; i++) {
    const pu_share *sh = &en->shares[i];
    const pu_session *s = sh->s;
    int32_t given = sh->tokens - sh->guesses, first = (int32_t)s->cached + later;
    if (later)
      memset(b->ids + at, 0, (size_t)given * sizeof *b->ids);
    else
      memcpy(b->ids + at, s->ids.v + s->cached, (size_t)given * sizeof *b->ids);
    memcpy(b->ids + at + given, s->guess, (size_t)sh->guesses * sizeof *b->ids);
    for (int32_t j = 0; j < sh->tokens; j++, at++) positions[at] = first + j;
    cu[i + 1] = at;
    b->len[i] = first + sh->tokens;
    b->rope_len[i] = sh->rope_len + later;
    memcpy(b->table + (size_t)i * (size_t)b->table_stride, s->blocks, (size_t)s->n_blocks * sizeof *s->blocks);
    for (int k = sh->guesses; k >= 0 && sh->makes; k--) b->rows[rows++] = at - 1 - k;
  }
  b->seqs.n = b->n;
  b->seqs.tokens = b->tokens;
  b->seqs.cu = cu;
  b->seqs.positions = positions;
  b->n_adapters = pu_adapters_rows(en, b->n, cu, b->adapters);
  return PU_OK;
}

/* The last norm's output for all tokens. */
static pu_tensor *forward(pu_engine *en, pu_ctx *c, batch *b) {
  for (int64_t l = 0; l < en->m->hp.layers; l++) {
    en->kv[l].table = b->table;
    en->kv[l].table_stride = b->table_stride;
    en->kv[l].len = b->len;
  }
  int64_t n = b->tokens;
  pu_tensor *ids = pu_tensor_new(c, PU_I32, 1, &n, false);
  if (!ids) return NULL;
  b->put_ids = ids;
  c->status = en->be->upload(en->be, ids->data, b->ids, (size_t)n * sizeof *b->ids, c->err);
  pu_forward f = {.ids = ids,
                  .seqs = &b->seqs,
                  .kv = en->kv,
                  .rope_len = b->rope_len,
                  .adapters = b->adapters,
                  .n_adapters = b->n_adapters};
  return pu_model_forward(en->m, c, &f);
}

/* Logits in host memory, until the marks are released. */
static pu_err fetch(pu_engine *en, const pu_tensor *logits, float **out, pu_error *e) {
  size_t bytes = pu_tensor_bytes(logits);
  *out = take(en, bytes, 1);
  if (!*out) return pu_fail(e, PU_ERR_NOMEM, "no memory for %lld rows of logits", (long long)logits->shape[0]);
  return en->be->download(en->be, *out, logits->data, bytes, e);
}

/* ---- log-probabilities of prompts ---- */

/* Rows of all sessions that are scored, a few at a time: a chunk's logits would be hundreds of megabytes, and those of
 * one option would read the whole output matrix for a row. */
enum { MOST_ROWS = 16 };
typedef struct scoring {
  pu_session *s[MOST_ROWS];
  int64_t at[MOST_ROWS]; /* which of its tokens the row tells of */
  int32_t rows[MOST_ROWS], n, most;
} scoring;

static pu_err flush_scores(pu_engine *en, pu_ctx *c, pu_tensor *hidden, scoring *x, pu_error *e) {
  size_t mem = pu_arena_mark(en->mem), host = pu_arena_mark(en->host);
  float *logits;
  if (x->n == 0) return PU_OK;
  const pu_tensor *t = pu_model_logits(en->m, c, hidden, x->rows, x->n);
  if (c->status) return c->status;
  PU_TRY(fetch(en, t, &logits, e));
  for (int32_t i = 0; i < x->n; i++) {
    pu_session *s = x->s[i];
    const float *row = logits + (int64_t)i * en->m->hp.vocab;
    PU_TRY(pu_kept_add(&s->prompt, &en->sampler, row, s->ids.v[x->at[i]], e));
  }
  x->n = 0;
  pu_arena_release(en->mem, mem);
  pu_arena_release(en->host, host);
  return PU_OK;
}

/* Rows of a share, of which row i tells of the token behind it; not of those that are known already, or not there yet.
 */
static pu_err score(pu_engine *en, pu_ctx *c, pu_tensor *hidden, const pu_share *sh, int32_t first_row, scoring *x,
                    pu_error *e) {
  pu_session *s = sh->s;
  int64_t told = s->score_from + (int64_t)s->prompt.n;
  if (told == 0) {
    PU_TRY(pu_kept_add(&s->prompt, &en->sampler, NULL, s->ids.v[0], e));
    told++;
  }
  for (int32_t i = 0; i < sh->tokens; i++) {
    int64_t at = s->cached + i + 1;
    if (at != told || at >= (int64_t)s->ids.n) continue;
    told++;
    x->s[x->n] = s;
    x->at[x->n] = at;
    x->rows[x->n++] = first_row + i;
    if (x->n == x->most) PU_TRY(flush_scores(en, c, hidden, x, e));
  }
  return PU_OK;
}

static bool is_scored(const pu_session *s) {
  return s->prompt.top >= 0 && (!s->started || s->cached < (int64_t)s->answer_at);
}

static pu_err score_prompts(pu_engine *en, pu_ctx *c, pu_tensor *hidden, const batch *b, pu_error *e) {
  scoring x = {.most = PU_MIN(MOST_ROWS, en->max_batch)};
  for (int32_t i = 0; i < b->n; i++) {
    const pu_share *sh = &en->shares[i];
    if (is_scored(sh->s)) PU_TRY(score(en, c, hidden, sh, b->seqs.cu[i], &x, e));
  }
  return flush_scores(en, c, hidden, &x, e);
}

/* ---- the step ---- */

/* The tokens that a session's logits give: one, and one more for each guess that was right. */
static pu_err answer(pu_engine *en, const pu_share *sh, pu_logit_row *rows, pu_error *e) {
  pu_session *s = sh->s;
  for (int k = 0;; k++) {
    if (s->finish != PU_FINISH_NONE) return PU_OK; /* also where a listener of another session has cancelled it */
    PU_TRY(pu_answer_next(s, &rows[k], e));
    bool right = k < sh->guesses && (int64_t)s->ids.n > s->cached && s->ids.v[s->ids.n - 1] == s->guess[k];
    if (!right || s->finish != PU_FINISH_NONE) return PU_OK;
    en->stats.guesses_right++;
    s->plain += s->plain == s->cached;
    s->cached++;
  }
}

static pu_err hand_out(pu_engine *en, const batch *b, pu_logit_row *rows, pu_error *e) {
  for (int32_t i = 0; i < b->n; i++) {
    const pu_share *sh = &en->shares[i];
    pu_session *s = sh->s;
    int32_t given = sh->tokens - sh->guesses;
    if (s->plain == s->cached && !pu_schedule_scaled(en, sh->rope_len)) s->plain += given;
    s->cached += given;
    s->last_step = en->stats.steps;
    pu_err err = sh->makes ? answer(en, sh, rows, e) : PU_OK;
    if (sh->makes) rows += 1 + sh->guesses;
    en->stats.guesses += sh->guesses;
    if (err) s->finish = PU_FINISH_CANCEL;
    pu_session_remember(s, false);
    pu_schedule_update(s);
    if (err) return err;
  }
  return PU_OK;
}

/* Guesses that were wrong are no tokens. */
static void count(pu_engine *en, const batch *b, int64_t wrong, double seconds) {
  bool prompts = b->tokens > b->n_rows;
  *(prompts ? &en->stats.prefill_seconds : &en->stats.decode_seconds) += seconds;
  *(prompts ? &en->stats.prefill_tokens : &en->stats.decode_tokens) += b->tokens - wrong;
}

/* Whose each row of logits is. */
static pu_session **owners(pu_engine *en, const batch *b) {
  pu_session **whose = take(en, (size_t)b->n_rows, sizeof *whose);
  size_t at = 0;
  for (int32_t i = 0; whose && i < b->n; i++)
    for (int k = 0; en->shares[i].makes && k <= en->shares[i].guesses; k++) whose[at++] = en->shares[i].s;
  return whose;
}

/* The logits that tokens are to be chosen from. On a device they stay there, but for the largest: see short.c. */
typedef struct outcome {
  pu_session **whose; /* [n_rows] */
  pu_short_plan plan;
  pu_tensor *logits;
  pu_short found;
} outcome;

/* All that a step has computed; a device may still be at it. */
static pu_err compute(pu_engine *en, batch *b, outcome *o, pu_error *e) {
  pu_ctx c = {.be = en->be, .mem = en->mem, .host = en->host, .err = e};
  pu_tensor *hidden = forward(en, &c, b);
  if (c.status) return c.status;
  PU_TRY(score_prompts(en, &c, hidden, b, e));
  if (b->n_rows == 0) return PU_OK;
  o->logits = pu_model_logits(en->m, &c, hidden, b->rows, b->n_rows);
  if (c.status) return c.status;
  return en->be->memory ? pu_short_ask(en, &c, o->logits, &o->plan, o->whose, b->n_rows, &o->found, e) : PU_OK;
}

/* What steps that ask for the same operations have in common, so that the device may keep them: those in which each
 * sequence gives a token and gets one. 0: it is none of these. */
static uint64_t key_of(const pu_engine *en, const batch *b, const outcome *o) {
  const uint64_t like[] = {(uintptr_t)en->work_memory, (uint64_t)b->n, (uint64_t)b->table_stride, (uint64_t)o->plan.k,
                           (uint64_t)o->plan.changes};
  if (!en->be->record || b->tokens != b->n || b->n_rows != b->n || o->plan.k == 0) return 0;
  if (o->plan.changes > PU_KEPT_CHANGES) return 0;
  uint64_t key = pu_hash64(like, sizeof like, 0);
  for (int32_t i = 0; i < b->n; i++) {
    const pu_session *s = en->shares[i].s;
    if (is_scored(s)) return 0;
    if (s->adapter) key = pu_hash64(&(const uint64_t[]){(uint64_t)i, s->adapter->serial}, 2 * sizeof key, key);
  }
  return key ? key : 1;
}

/* As one with what the device has kept, if it has. */
static pu_err compute_kept(pu_engine *en, batch *b, outcome *o, uint64_t key, pu_error *e) {
  size_t mem = pu_arena_mark(en->mem), host = pu_arena_mark(en->host);
  for (bool again = true; again;) {
    pu_arena_release(en->mem, mem);
    pu_arena_release(en->host, host);
    PU_TRY(en->be->record(en->be, key, NULL, e));
    pu_err err = compute(en, b, o, e), other = en->be->play(en->be, &again, e);
    if (err || other) return err ? err : other;
  }
  return PU_OK;
}

/* ---- the next step, made ready while a device is at this one ----
 *
 * All but the tokens of a step that a device keeps is known before the step before it ends, as long as every sequence
 * goes on. So its calls are made and compared then, and what is left between the two is to choose the tokens, to send
 * them, and one launch. Whoever ends, comes or changes in between makes it another step: then it is forgotten. */

struct pu_ahead {
  pu_arena *host; /* that of the step made ready */
  batch b;
  outcome o;
  uint64_t key, ready; /* ready: the device's number for it; 0: none is */
};

pu_err pu_ahead_open(pu_engine *en, size_t host_bytes, pu_error *e) {
  if (!en->be->record) return PU_OK;
  en->ahead = calloc(1, sizeof *en->ahead);
  if (!en->ahead) return pu_fail(e, PU_ERR_NOMEM, "no memory for an engine");
  return pu_arena_create(host_bytes, &en->ahead->host, e);
}

void pu_ahead_close(pu_engine *en) {
  if (en->ahead) pu_arena_free(en->ahead->host);
  free(en->ahead);
}

/* Will all of a step's sessions take part in the next, as far as can be known? */
static bool all_go_on(const pu_engine *en, const batch *b) {
  for (int32_t i = 0; i < b->n; i++) {
    const pu_session *s = en->shares[i].s;
    int64_t then = (int64_t)s->ids.n + 1, made = then - (int64_t)s->answer_at;
    if (s->finish != PU_FINISH_NONE || then >= en->plan.context || (s->how.max_tokens > 0 && made >= s->how.max_tokens))
      return false;
  }
  return en->guess == 0;
}

static pu_err make_ready_in(pu_engine *en, const batch *now, const outcome *o, pu_error *e) {
  struct pu_ahead *a = en->ahead;
  a->b = (batch){.n = now->n};
  a->o = (outcome){.whose = o->whose};
  PU_TRY(pu_short_plan_rows(en, o->whose, now->n, true, &a->o.plan, e));
  measure(en, &a->b);
  PU_TRY(lay_out(en, &a->b, true, e));
  a->key = key_of(en, &a->b, &a->o);
  if (!a->key) return PU_OK;
  uint64_t ready = 0;
  bool again;
  PU_TRY(en->be->record(en->be, a->key, &ready, e));
  if (!ready) return PU_OK;
  pu_err err = compute(en, &a->b, &a->o, e), other = en->be->play(en->be, &again, e);
  if (!again) a->ready = ready;
  return err ? err : other;
}

static void swap_arenas(pu_arena **a, pu_arena **b) {
  pu_arena *t = *a;
  *a = *b;
  *b = t;
}

/* After a step of this key was begun. */
static pu_err make_ready(pu_engine *en, const batch *now, const outcome *o, uint64_t key, pu_error *e) {
  if (!en->ahead || !key || !all_go_on(en, now)) return PU_OK;
  for (int32_t i = 0; i < now->n; i++) {
    bool there;
    PU_TRY(pu_schedule_ahead(en->shares[i].s, &there, e));
    if (!there) return PU_OK;
  }
  swap_arenas(&en->host, &en->ahead->host);
  pu_arena_reset(en->host);
  pu_arena_reset(en->mem); /* addresses only: nothing is launched that writes there */
  pu_err err = make_ready_in(en, now, o, e);
  swap_arenas(&en->host, &en->ahead->host);
  return err;
}

static bool same(const batch *a, const batch *b) {
  size_t n = (size_t)a->n;
#define SAME(v, count) (memcmp(a->v, b->v, (count) * sizeof *a->v) == 0)
  return a->n == b->n && a->tokens == b->tokens && a->n_rows == b->n_rows && a->table_stride == b->table_stride &&
         a->n_adapters == b->n_adapters && SAME(seqs.cu, n + 1) && SAME(seqs.positions, n) && SAME(len, n) &&
         SAME(rope_len, n) && SAME(rows, n) && SAME(table, n * (size_t)a->table_stride);
#undef SAME
}

static const pu_tensor *kept_header(pu_engine *en, const pu_tensor *t) {
  pu_tensor *copy = take(en, 1, sizeof *copy);
  return copy ? memcpy(copy, t, sizeof *t) : NULL;
}

/* Its headers, where the next that is made ready does not overwrite them. */
static pu_err take_over(pu_engine *en, const outcome *from, outcome *o, pu_error *e) {
  const pu_short *f = &from->found;
  o->found = (pu_short){.k = f->k,
                        .logits = kept_header(en, f->logits),
                        .values = kept_header(en, f->values),
                        .ids = kept_header(en, f->ids),
                        .sums = kept_header(en, f->sums)};
  if (o->found.logits && o->found.values && o->found.ids && o->found.sums) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "no memory for the largest logits");
}

/* Launches what was made ready, if it is this step; else it is forgotten. */
static pu_err go_on(pu_engine *en, const batch *b, outcome *o, uint64_t key, bool *done, pu_error *e) {
  struct pu_ahead *a = en->ahead;
  uint64_t ready = a->ready;
  bool again;
  *done = false;
  a->ready = 0;
  if (!ready || key != a->key || !same(b, &a->b)) return PU_OK;
  PU_TRY(take_over(en, &a->o, o, e));
  PU_TRY(en->be->record(en->be, key, &ready, e));
  if (!ready) return PU_OK;
  pu_err err = en->be->upload(en->be, a->b.put_ids->data, b->ids, (size_t)b->tokens * sizeof *b->ids, e);
  if (!err) err = pu_short_send(en, a->o.found.sent, &o->plan, o->whose, b->n_rows, e);
  pu_err other = en->be->play(en->be, &again, e);
  *done = !again;
  return err ? err : other;
}

static pu_err rows_of(pu_engine *en, const batch *b, const outcome *o, pu_logit_row *rows, pu_error *e) {
  float *logits;
  if (en->be->memory) return pu_short_fetch(en, &o->found, &o->plan, b->n_rows, rows, e);
  PU_TRY(fetch(en, o->logits, &logits, e));
  for (int32_t i = 0; i < b->n_rows; i++) rows[i] = (pu_logit_row){.logits = logits + (int64_t)i * en->m->hp.vocab};
  return PU_OK;
}

static pu_err run(pu_engine *en, batch *b, pu_error *e) {
  pu_logit_row *rows = take(en, (size_t)b->n_rows, sizeof *rows);
  outcome o = {.whose = owners(en, b)};
  if (!rows || !o.whose) return pu_fail(e, PU_ERR_NOMEM, "no memory for %d rows of logits", b->n_rows);
  if (en->be->memory) PU_TRY(pu_short_plan_rows(en, o.whose, b->n_rows, false, &o.plan, e));
  uint64_t key = key_of(en, b, &o);
  bool done = false;
  if (en->ahead) PU_TRY(go_on(en, b, &o, key, &done, e));
  en->stats.steps_ahead += done;
  if (!done) PU_TRY(key ? compute_kept(en, b, &o, key, e) : compute(en, b, &o, e));
  for (int32_t i = 0; i < b->n; i++) /* a device computes meanwhile */
    if (en->shares[i].makes) pu_constrain_prepare(en->shares[i].s);
  PU_TRY(make_ready(en, b, &o, key, e));
  if (b->n_rows) PU_TRY(rows_of(en, b, &o, rows, e));
  return hand_out(en, b, rows, e);
}

pu_err pu_engine_step(pu_engine *en, bool *more, pu_error *e) {
  *more = false;
  double begin = pu_now();
  pu_arena_reset(en->mem);
  pu_arena_reset(en->host);
  batch b = {0};
  PU_TRY(pu_schedule(en, &b.n, e));
  if (b.n) {
    PU_TRY(pu_adapters_group(en, b.n, e));
    measure(en, &b);
    PU_TRY(lay_out(en, &b, false, e));
    en->stats.overhead_seconds += pu_now() - begin;
    int64_t wrong = en->stats.guesses - en->stats.guesses_right;
    PU_TRY(run(en, &b, e));
    count(en, &b, en->stats.guesses - en->stats.guesses_right - wrong, pu_now() - begin);
  }
  en->stats.steps++;
  *more = en->q_first != NULL;
  return PU_OK;
}
