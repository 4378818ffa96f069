/* Asking an engine in this process. The context of a question is computed once and its options branch off it; what
 * stands before many questions (examples of a subject) the engine's prefix cache gives, or, where its log-probabilities
 * count too, a session that is kept as the root of those that begin alike. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/eval/internal.h"

enum { LEAST_ROOT = 32 }; /* tokens: for less a root is not worth its block */
static const size_t MOST_PROMPT = (size_t)64 << 20;

/* An ask in ids. */
typedef struct question {
  eval_ask *ask;
  size_t n; /* sequences: its options, or one */
  pu_ids *ids;
  int64_t *from;  /* [n] the first token that counts */
  int64_t shared; /* tokens that all begin with, and that are computed once */
} question;

typedef enum phase { FREE, CONTEXT, OPTIONS, ANSWER } phase;
typedef struct slot {
  phase phase;
  question q;
  pu_session *context, **options; /* [q.n] */
  double before;                  /* nats of the root's tokens, where the whole counts */
} slot;

typedef struct local {
  pu_eval_model m;
  pu_engine *en;
  char *adapter;
  bool naive;
  int batch;
  pu_encoder *encoder;
  pu_session *root; /* NULL: none */
  pu_ids root_ids;
  double root_nats;
} local;

/* ---- ids ---- */

static unsigned flags(const local *l) {
  return pu_tokenizer_adds_bos(pu_engine_tokenizer(l->en)) ? PU_ENCODE_BOS : 0;
}

static pu_err encode(pu_eval_model *m, pu_str text, pu_ids *out, pu_error *e) {
  local *l = (local *)(void *)m;
  return pu_encoder_encode(l->encoder, text, flags(l), out, e);
}

static int64_t context(const pu_eval_model *m) {
  return pu_engine_context(((const local *)(const void *)m)->en);
}

static void question_free(question *q) {
  for (size_t i = 0; q->ids && i < q->n; i++) pu_ids_deinit(&q->ids[i]);
  free(q->ids);
  free(q->from);
  *q = (question){0};
}

/* The first of the tokens in which bytes of the text's last `len` are. */
static pu_err first_of_last(const local *l, const pu_ids *ids, size_t len, int64_t *out, pu_error *e) {
  pu_buf b;
  pu_buf_init(&b, MOST_PROMPT);
  size_t at = ids->n, bytes = 0;
  pu_err err = PU_OK;
  while (at > 1 && bytes < len && !err) {
    pu_buf_clear(&b);
    err = pu_tokenizer_bytes(pu_engine_tokenizer(l->en), ids->v[--at], &b, e);
    bytes += b.len;
  }
  *out = PU_MAX((int64_t)at, 1);
  pu_buf_deinit(&b);
  return err;
}

static int64_t alike(const pu_ids *a, const pu_ids *b, int64_t most) {
  int64_t n = 0;
  while (n < most && (size_t)n < a->n && (size_t)n < b->n && a->v[n] == b->v[n]) n++;
  return n;
}

static void find_shared(question *q) {
  q->shared = (int64_t)q->ids[0].n;
  for (size_t i = 0; i < q->n; i++) {
    q->shared = PU_MIN(q->shared, q->from[i]);
    q->shared = alike(&q->ids[0], &q->ids[i], q->shared);
  }
}

/* Prompt and option as one text, since tokens may go over the border. */
static pu_err encode_options(local *l, question *q, int64_t shots, pu_error *e) {
  const eval_ask *ask = q->ask;
  pu_buf text;
  pu_buf_init(&text, MOST_PROMPT);
  eval_put_prompt(ask, shots, &text);
  size_t len = text.len;
  pu_err err = PU_OK;
  for (size_t i = 0; i < q->n && !err; i++) {
    text.len = len;
    q->ids[i].n = 0;
    if (!pu_buf_append(&text, ask->options[i].ptr, ask->options[i].len))
      err = pu_fail(e, PU_ERR_NOMEM, "no memory for a prompt of %zu bytes", len);
    if (!err) err = encode(&l->m, pu_str_of(text.data, text.len), &q->ids[i], e);
    if (!err) err = first_of_last(l, &q->ids[i], ask->options[i].len, &q->from[i], e);
  }
  pu_buf_deinit(&text);
  return err;
}

static pu_err encode_prompt(local *l, question *q, int64_t shots, pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, MOST_PROMPT);
  q->ids[0].n = 0;
  pu_err err = eval_put_prompt(q->ask, shots, &text) ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for a prompt");
  pu_str s = pu_str_of(text.data ? text.data : "", text.len);
  pu_message message = {.role = "user", .content = s};
  if (!err && l->m.chat)
    err = pu_chat_ids(pu_engine_chat(l->en), pu_engine_tokenizer(l->en), &message, 1, true, &q->ids[0], e);
  else if (!err)
    err = encode(&l->m, s, &q->ids[0], e);
  pu_buf_deinit(&text);
  return err;
}

static bool fits(const local *l, const question *q) {
  for (size_t i = 0; i < q->n; i++)
    if ((int64_t)q->ids[i].n >= pu_engine_context(l->en)) return false;
  return true;
}

/* With as many examples as fit. */
static pu_err make_question(local *l, eval_ask *ask, question *q, pu_error *e) {
  *q = (question){.ask = ask, .n = PU_MAX(ask->n_options, (size_t)1)};
  q->ids = calloc(q->n, sizeof *q->ids);
  q->from = calloc(q->n, sizeof *q->from);
  if (!q->ids || !q->from) return pu_fail(e, PU_ERR_NOMEM, "no memory for a question");
  if (ask->ids) {
    for (size_t i = 0; i < ask->n_ids; i++)
      if (!pu_ids_push(&q->ids[0], ask->ids[i])) return pu_fail(e, PU_ERR_NOMEM, "no memory for a question");
    return PU_OK;
  }
  int64_t shots = ask->n_shots;
  for (;; shots--) {
    PU_TRY(ask->n_options ? encode_options(l, q, shots, e) : encode_prompt(l, q, shots, e));
    if (fits(l, q) || shots == 0) break;
  }
  ask->n_shots = shots;
  ask->too_long = !fits(l, q);
  if (!ask->too_long && q->ids[0].n == 0)
    return pu_fail(e, PU_ERR_USAGE, "an empty prompt gives the model nothing to go on from");
  if (ask->n_options) find_shared(q);
  return PU_OK;
}

/* ---- sessions ---- */

static pu_err open_session(local *l, int64_t score_from, const int32_t *ids, size_t n, pu_session **out, pu_error *e) {
  PU_TRY(pu_session_open(l->en, out, e));
  PU_TRY(pu_session_adapter(*out, l->adapter, e));
  if (score_from == 0) PU_TRY(pu_session_score(*out, 0, e));
  if (score_from > 0) PU_TRY(pu_session_score_from(*out, score_from, 0, e));
  return pu_session_append(*out, ids, n, e);
}

/* Nats of the tokens that a session was scored on, the first `pass` of them apart. */
static double nats_of(const pu_session *s, int64_t pass, double *passed) {
  size_t n = 0;
  double sum = 0;
  const pu_token_info *t = pu_session_prompt(s, &n);
  if (passed) *passed = 0;
  for (size_t i = 0; i < n; i++) {
    if (isnan(t[i].logprob)) continue;
    if ((int64_t)i < pass && passed)
      *passed -= (double)t[i].logprob;
    else
      sum -= (double)t[i].logprob;
  }
  return sum;
}

static pu_err run_until_idle(local *l, const pu_session *s, pu_error *e) {
  bool more;
  while (pu_session_get_state(s) != PU_SESSION_IDLE) PU_TRY(pu_engine_step(l->en, &more, e));
  return PU_OK;
}

static void drop_root(local *l) {
  pu_session_close(l->root);
  l->root = NULL;
  l->root_ids.n = 0;
}

/* A root for this question and the next, where they begin alike further than the one that is there. */
static pu_err find_root(local *l, const question *q, const question *next, pu_error *e) {
  int64_t now = l->root ? alike(&l->root_ids, &q->ids[0], q->shared) : 0;
  bool holds = now == (int64_t)l->root_ids.n && now > 0;
  int64_t n = next->ask && next->ask->whole ? alike(&q->ids[0], &next->ids[0], PU_MIN(q->shared, next->shared)) : 0;
  if (holds && n <= now + LEAST_ROOT) return PU_OK;
  if (!holds) drop_root(l);
  if (n < LEAST_ROOT) return PU_OK;
  drop_root(l);
  for (int64_t i = 0; i < n; i++)
    if (!pu_ids_push(&l->root_ids, q->ids[0].v[i])) return pu_fail(e, PU_ERR_NOMEM, "no memory for a question");
  PU_TRY(open_session(l, 0, l->root_ids.v, l->root_ids.n, &l->root, e));
  PU_TRY(run_until_idle(l, l->root, e));
  l->root_nats = nats_of(l->root, 0, NULL);
  return PU_OK;
}

/* The context of options whose whole sequence counts: scored, from the root on where there is one. */
static pu_err begin_whole(local *l, slot *s, pu_error *e) {
  const pu_ids *ids = &s->q.ids[0];
  size_t done = l->root ? l->root_ids.n : 0;
  s->before = 0;
  if (!l->root) return open_session(l, 0, ids->v, (size_t)s->q.shared, &s->context, e);
  PU_TRY(pu_session_fork(l->root, &s->context, e));
  PU_TRY(pu_session_score_from(s->context, (int64_t)done, 0, e));
  s->before = l->root_nats;
  return pu_session_append(s->context, ids->v + done, (size_t)s->q.shared - done, e);
}

static pu_err begin_naive(local *l, slot *s, pu_error *e) {
  for (size_t i = 0; i < s->q.n; i++)
    PU_TRY(open_session(l, s->q.ask->whole ? 0 : s->q.from[i], s->q.ids[i].v, s->q.ids[i].n, &s->options[i], e));
  s->phase = OPTIONS;
  return PU_OK;
}

static pu_err begin_answer(local *l, slot *s, pu_error *e) {
  enum { MOST_STOP = 8 };
  int32_t stop_ids[MOST_STOP];
  pu_sampling how = pu_sampling_default();
  how.max_tokens = s->q.ask->max_tokens;
  how.stop = s->q.ask->stop->v;
  how.n_stop = s->q.ask->stop->n;
  how.stop_ids = stop_ids;
  if (l->m.chat)
    how.n_stop_ids = pu_chat_stop_ids(pu_engine_chat(l->en), pu_engine_tokenizer(l->en), stop_ids, MOST_STOP);
  PU_TRY(open_session(l, -1, s->q.ids[0].v, s->q.ids[0].n, &s->context, e));
  s->phase = ANSWER;
  return pu_session_start(s->context, &how, NULL, NULL, e);
}

static pu_err begin(local *l, slot *s, const question *next, pu_error *e) {
  const eval_ask *ask = s->q.ask;
  s->options = calloc(s->q.n, sizeof(pu_session *));
  if (!s->options) return pu_fail(e, PU_ERR_NOMEM, "no memory for a question");
  if (ask->ids) { /* a window is its only option */
    s->phase = OPTIONS;
    return open_session(l, 0, s->q.ids[0].v, s->q.ids[0].n, &s->options[0], e);
  }
  if (!ask->n_options) return begin_answer(l, s, e);
  if (l->naive) return begin_naive(l, s, e);
  s->phase = CONTEXT;
  if (!ask->whole) return open_session(l, -1, s->q.ids[0].v, (size_t)s->q.shared, &s->context, e);
  PU_TRY(find_root(l, &s->q, next, e));
  return begin_whole(l, s, e);
}

/* The context is computed: options branch off it. */
static pu_err branch(slot *s, pu_error *e) {
  const question *q = &s->q;
  s->phase = OPTIONS;
  for (size_t i = 0; i < q->n; i++) {
    PU_TRY(pu_session_fork(s->context, &s->options[i], e));
    PU_TRY(pu_session_score_from(s->options[i], q->ask->whole ? q->shared : q->from[i], 0, e));
    PU_TRY(pu_session_append(s->options[i], q->ids[i].v + q->shared, q->ids[i].n - (size_t)q->shared, e));
  }
  return PU_OK;
}

/* ---- results ---- */

static void take_options(const local *l, slot *s) {
  const question *q = &s->q;
  double before = s->context && q->ask->whole ? s->before + nats_of(s->context, 0, NULL) : 0;
  for (size_t i = 0; i < q->n; i++) {
    int64_t first = q->ask->whole ? (l->naive ? 0 : q->shared) : q->from[i];
    double passed;
    eval_told *to = &q->ask->told[i];
    *to = (eval_told){.tokens = (int64_t)q->ids[i].n - q->from[i]};
    to->nats = nats_of(s->options[i], q->from[i] - first, &passed);
    if (!q->ask->whole) continue;
    to->whole_nats = before + passed + to->nats;
    to->whole_tokens = (int64_t)q->ids[i].n;
  }
}

static pu_err take_result(const local *l, slot *s, pu_error *e) {
  eval_ask *ask = s->q.ask;
  if (s->phase == ANSWER) {
    pu_str text = pu_session_text(s->context);
    ask->cut = pu_session_finish(s->context) == PU_FINISH_LENGTH;
    return pu_buf_append(&ask->text, text.ptr, text.len) || !text.len
               ? PU_OK
               : pu_fail(e, PU_ERR_NOMEM, "no memory for an answer");
  }
  if (ask->ids)
    ask->told[0] = (eval_told){nats_of(s->options[0], 0, NULL), (int64_t)ask->n_ids - 1, 0, 0};
  else
    take_options(l, s);
  return PU_OK;
}

static void slot_clear(slot *s) {
  for (size_t i = 0; s->options && i < s->q.n; i++) pu_session_close(s->options[i]);
  pu_session_close(s->context);
  free(s->options);
  question_free(&s->q);
  *s = (slot){0};
}

static bool is_done(const slot *s) {
  if (s->phase == ANSWER) return pu_session_finish(s->context) != PU_FINISH_NONE;
  if (s->phase == CONTEXT) return pu_session_get_state(s->context) == PU_SESSION_IDLE;
  for (size_t i = 0; i < s->q.n; i++)
    if (pu_session_get_state(s->options[i]) != PU_SESSION_IDLE) return false;
  return true;
}

/* ---- all ---- */

typedef struct running {
  local *l;
  eval_next next;
  eval_done done;
  void *arg;
  question ahead; /* the next one; ask NULL: none is left */
  slot *slots;
  int busy;
} running;

/* Prompts that do not fit are done at once. */
static pu_err look_ahead(running *r, pu_error *e) {
  for (;;) {
    question_free(&r->ahead);
    eval_ask *ask = r->next(r->arg);
    if (!ask) return PU_OK;
    pu_err err = make_question(r->l, ask, &r->ahead, e);
    if (err) r->ahead.ask = NULL;
    if (err || !ask->too_long) return err;
    PU_TRY(r->done(r->arg, ask, e));
  }
}

static pu_err fill(running *r, pu_error *e) {
  for (int i = 0; i < r->l->batch && r->ahead.ask; i++) {
    slot *s = &r->slots[i];
    if (s->phase != FREE) continue;
    *s = (slot){.q = r->ahead, .phase = CONTEXT};
    r->ahead = (question){0};
    r->busy++;
    PU_TRY(look_ahead(r, e));
    PU_TRY(begin(r->l, s, &r->ahead, e));
  }
  return PU_OK;
}

static pu_err advance(running *r, slot *s, pu_error *e) {
  if (s->phase == CONTEXT) return branch(s, e);
  PU_TRY(take_result(r->l, s, e));
  eval_ask *ask = s->q.ask;
  slot_clear(s);
  r->busy--;
  return r->done(r->arg, ask, e);
}

static pu_err run_all(running *r, pu_error *e) {
  PU_TRY(look_ahead(r, e));
  for (;;) {
    bool more;
    PU_TRY(fill(r, e));
    if (r->busy == 0) return PU_OK;
    if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "it was stopped");
    PU_TRY(pu_engine_step(r->l->en, &more, e));
    for (int i = 0; i < r->l->batch; i++)
      if (r->slots[i].phase != FREE && is_done(&r->slots[i])) PU_TRY(advance(r, &r->slots[i], e));
  }
}

static pu_err run(pu_eval_model *m, eval_next next, eval_done done, void *arg, pu_error *e) {
  local *l = (local *)(void *)m;
  running r = {.l = l, .next = next, .done = done, .arg = arg};
  r.slots = calloc((size_t)l->batch, sizeof *r.slots);
  pu_err err = r.slots ? run_all(&r, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for %d questions", l->batch);
  question_free(&r.ahead);
  for (int i = 0; r.slots && i < l->batch; i++) slot_clear(&r.slots[i]);
  free(r.slots);
  drop_root(l);
  return err;
}

static void local_close(pu_eval_model *m) {
  local *l = (local *)(void *)m;
  pu_encoder_free(l->encoder);
  pu_ids_deinit(&l->root_ids);
  free(l->adapter);
}

pu_err pu_eval_local_open(const pu_eval_local *o, pu_eval_model **out, pu_error *e) {
  enum { USUAL_BATCH = 16 };
  const pu_tokenizer *t = pu_engine_tokenizer(o->engine);
  *out = NULL;
  if (!t) return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: no tokenizer, so that it cannot be asked anything", o->name);
  if (o->chat && !pu_engine_chat(o->engine))
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: no chat template: leave --chat out", o->name);
  local *l = calloc(1, sizeof *l);
  if (!l) return pu_fail(e, PU_ERR_NOMEM, "no memory for a model");
  *l = (local){.m = {.chat = o->chat, .run = run, .encode = encode, .context = context, .close = local_close},
               .en = o->engine,
               .naive = o->naive,
               .batch = o->batch ? o->batch : USUAL_BATCH};
  PU_TRY(eval_model_name(&l->m, o->name, o->identity, e));
  l->adapter = o->adapter ? strdup(o->adapter) : NULL;
  pu_err err = o->adapter && !l->adapter ? pu_fail(e, PU_ERR_NOMEM, "no memory for a model")
                                         : pu_encoder_create(t, &l->encoder, e);
  if (err)
    pu_eval_model_close(&l->m);
  else
    *out = &l->m;
  return err;
}
