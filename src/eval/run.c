/* A task on a model: questions that the log does not know are asked, answers are scored, logged and counted. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/eval/internal.h"

typedef struct work work;

typedef struct running {
  const pu_eval_task *t;
  pu_eval_model *m;
  const pu_eval_options *o;
  int rule;
  bool whole;
  int64_t max_tokens, shots;
  char run[20];
  eval_items items;
  eval_extractor *extractor;
  eval_log *log;
  eval_tally *tally;
  pu_progress *bar;
  size_t at;  /* the next question */
  work *open; /* those that are asked: what is left of them after an error is freed at the end */
  /* Perplexity: */
  pu_ids *texts; /* [items.n] */
  int64_t window, next_window, n_windows;
  int64_t done, reused, right;
} running;

/* A question that is asked. */
struct work {
  eval_ask ask;
  work *next, *before;
  const eval_item *it;
  int64_t index; /* of a window: in its text */
  char key[40];
  eval_told told[];
};

/* ---- keys ---- */

static uint64_t add_text(pu_str s, uint64_t h) {
  return pu_hash64(s.ptr ? s.ptr : "", s.len, h + s.len);
}

static uint64_t add_number(uint64_t n, uint64_t h) {
  return pu_hash64(&n, sizeof n, h);
}

static void make_run(running *r) {
  uint64_t h = add_text(pu_str_c(r->m->identity), r->t->hash);
  h = add_number((uint64_t)r->shots, h);
  h = add_number((uint64_t)r->max_tokens, h);
  h = add_number((uint64_t)r->whole * 2 + r->m->chat, h);
  snprintf(r->run, sizeof r->run, "%016llx", (unsigned long long)h);
}

static void make_key(const running *r, work *w) {
  uint64_t h[2];
  for (uint64_t k = 0; k < 2; k++) {
    h[k] = add_text(pu_str_c(r->run), k + 1);
    h[k] = add_text(pu_str_c(w->it->subject->name), h[k]);
    h[k] = add_number(w->it->number, h[k]);
    h[k] = add_number(w->it->subject->before, h[k]);
    h[k] = add_text(w->it->question, h[k]);
    h[k] = add_text(w->it->answer, h[k]);
    for (size_t i = 0; i < w->it->n_options; i++) h[k] = add_text(w->it->options[i], h[k]);
    if (w->ask.ids) h[k] = pu_hash64(w->ask.ids, w->ask.n_ids * sizeof *w->ask.ids, h[k]);
  }
  snprintf(w->key, sizeof w->key, "%016llx%016llx", (unsigned long long)h[0], (unsigned long long)h[1]);
}

/* ---- scores ---- */

static json_t *text_json(pu_str s) {
  pu_buf b;
  json_t *v = json_stringn(s.ptr ? s.ptr : "", s.len);
  if (v) return v;
  pu_buf_init(&b, 4 * s.len + 16); /* no UTF-8: with U+FFFD */
  pu_buf_json_str(&b, s);
  v = b.data ? json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
  pu_buf_deinit(&b);
  return v ? v : json_string("");
}

static void record_choice(const running *r, work *w, json_t *rec) {
  json_t *told = json_array(), *picks = json_object(), *options = json_array();
  const eval_ask *ask = &w->ask;
  for (size_t i = 0; i < ask->n_options; i++) {
    const eval_told *t = &ask->told[i];
    json_array_append_new(options, text_json(ask->options[i]));
    json_t *one = json_pack("{s:f,s:I}", "nats", t->nats, "tokens", (json_int_t)t->tokens);
    if (r->whole) {
      json_object_set_new(one, "whole_nats", json_real(t->whole_nats));
      json_object_set_new(one, "whole_tokens", json_integer((json_int_t)t->whole_tokens));
    }
    json_array_append_new(told, one);
  }
  for (int k = 0; k < PU_EVAL_RULES; k++) {
    if (k == PU_EVAL_SEQUENCE && !r->whole) continue;
    int64_t pick = ask->too_long ? -1 : eval_pick((pu_eval_rule)k, ask->told, ask->options, ask->n_options);
    json_object_set_new(picks, pu_eval_rule_names[k], json_integer((json_int_t)pick));
    if (k == r->rule) json_object_set_new(rec, "score", json_integer(pick == w->it->right));
  }
  json_object_set_new(rec, "options", options);
  json_object_set_new(rec, "right", json_integer((json_int_t)w->it->right));
  json_object_set_new(rec, "told", told);
  json_object_set_new(rec, "picks", picks);
}

static pu_err record_answer(const running *r, work *w, json_t *rec, pu_error *e) {
  const eval_ask *ask = &w->ask;
  pu_buf got;
  bool found = false;
  pu_str text = pu_str_of(ask->text.data ? ask->text.data : "", ask->text.len);
  pu_buf_init(&got, 16 << 20);
  pu_err err = ask->too_long ? PU_OK : eval_extract(r->extractor, text, &got, &found, e);
  pu_str s = pu_str_of(got.data ? got.data : "", got.len);
  bool right = found && eval_same((pu_eval_compare)r->t->compare, s, w->it->answer);
  json_object_set_new(rec, "text", text_json(text));
  json_object_set_new(rec, "found", found ? text_json(s) : json_null());
  json_object_set_new(rec, "score", json_integer(right));
  if (!found && !ask->too_long) json_object_set_new(rec, "unread", json_true());
  if (ask->cut) json_object_set_new(rec, "cut", json_true());
  pu_buf_deinit(&got);
  return err;
}

static int64_t count_words(pu_str s) {
  int64_t n = 0;
  for (size_t i = 0; i < s.len; i++)
    n += !isspace((unsigned char)s.ptr[i]) && (i == 0 || isspace((unsigned char)s.ptr[i - 1]));
  return n;
}

/* Words and bytes of a text go with its first window. */
static void record_window(const work *w, json_t *rec) {
  bool first = w->index == 0;
  json_object_set_new(rec, "nats", json_real(w->ask.told[0].nats));
  json_object_set_new(rec, "tokens", json_integer((json_int_t)w->ask.told[0].tokens));
  json_object_set_new(rec, "words", json_integer(first ? (json_int_t)count_words(w->it->question) : 0));
  json_object_set_new(rec, "bytes", json_integer(first ? (json_int_t)w->it->question.len : 0));
}

static pu_err make_record(const running *r, work *w, const char *before, json_t *rec, pu_error *e) {
  json_object_set_new(rec, "key", json_string(w->key));
  json_object_set_new(rec, "run", json_string(r->run));
  json_object_set_new(rec, "subject", json_string(w->it->subject->name));
  json_object_set_new(rec, "index", json_integer((json_int_t)w->index));
  json_object_set_new(rec, "number", json_integer((json_int_t)w->it->number));
  if (w->ask.too_long) json_object_set_new(rec, "too_long", json_true());
  if (w->ask.ids) {
    record_window(w, rec);
    return PU_OK;
  }
  json_object_set_new(rec, "after", json_string(before)); /* which text it stands behind */
  json_object_set_new(rec, "shots", json_integer((json_int_t)w->ask.n_shots));
  json_object_set_new(rec, "question", text_json(w->it->question));
  json_object_set_new(rec, "answer", text_json(w->it->answer));
  if (w->ask.n_options == 0) return record_answer(r, w, rec, e);
  record_choice(r, w, rec);
  return PU_OK;
}

static pu_err count(running *r, const work *w, const json_t *rec, pu_error *e) {
  eval_sample s;
  char note[60];
  eval_sample_read(rec, &s);
  if (r->t->kind == PU_EVAL_CHOICE) s.score = s.picks[r->rule] > 0;
  if (!eval_tally_add(r->tally, w->it->subject->name, &s)) return pu_fail(e, PU_ERR_NOMEM, "no memory for a score");
  r->done++;
  r->right += s.score > 0;
  snprintf(note, sizeof note, "%.1f %% right", 100.0 * (double)r->right / (double)r->done);
  pu_progress_set(r->bar, (double)r->done, r->t->kind == PU_EVAL_PERPLEXITY ? NULL : note);
  return PU_OK;
}

static void work_free(running *r, work *w) {
  *(w->before ? &w->before->next : &r->open) = w->next;
  if (w->next) w->next->before = w->before;
  pu_buf_deinit(&w->ask.text);
  free(w);
}

static pu_err on_done(void *arg, eval_ask *ask, pu_error *e) {
  running *r = arg;
  work *w = (work *)(void *)ask;
  char before[20];
  uint64_t h = add_number((uint64_t)ask->n_shots, w->it->subject->before);
  snprintf(before, sizeof before, "%016llx", (unsigned long long)h);
  json_t *rec = json_object();
  pu_err err = rec ? make_record(r, w, before, rec, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for a score");
  if (!err && !ask->ids) err = eval_log_before(r->log, before, ask, ask->n_shots, e);
  if (!err) err = eval_log_put(r->log, json_incref(rec), e);
  if (!err) err = count(r, w, rec, e);
  json_decref(rec);
  work_free(r, w);
  return err;
}

/* ---- questions ---- */

static work *work_new(running *r, size_t n_told) {
  work *w = calloc(1, sizeof *w + n_told * sizeof *w->told);
  if (!w) return NULL;
  pu_buf_init(&w->ask.text, 16 << 20);
  w->ask.told = w->told;
  w->next = r->open;
  if (w->next) w->next->before = w;
  r->open = w;
  return w;
}

static work *next_question(running *r) {
  if (r->at == r->items.n) return NULL;
  const eval_item *it = &r->items.v[r->at++];
  work *w = work_new(r, it->n_options);
  if (!w) return NULL;
  w->it = it;
  w->index = it->index;
  w->ask.head = it->subject->head;
  w->ask.question = it->question;
  w->ask.shots = it->subject->shots;
  w->ask.n_shots = it->subject->n_shots;
  w->ask.options = it->options;
  w->ask.n_options = it->n_options;
  w->ask.whole = r->whole;
  w->ask.stop = &r->t->stop;
  w->ask.max_tokens = r->max_tokens;
  return w;
}

static int64_t windows_of(const running *r, const pu_ids *ids) {
  return ids->n < 2 ? 0 : ((int64_t)ids->n - 2) / r->window + 1;
}

/* So many tokens each, told by those of the window and one before them. */
static work *next_window(running *r) {
  while (r->at < r->items.n && r->next_window == windows_of(r, &r->texts[r->at])) {
    r->at++;
    r->next_window = 0;
  }
  work *w = r->at < r->items.n ? work_new(r, 1) : NULL;
  if (!w) return NULL;
  const pu_ids *ids = &r->texts[r->at];
  w->it = &r->items.v[r->at];
  w->index = r->next_window++;
  size_t begin = (size_t)(w->index * r->window);
  w->ask.ids = ids->v + begin;
  w->ask.n_ids = PU_MIN((size_t)r->window + 1, ids->n - begin);
  return w;
}

/* The next that the log does not know. What there is no memory for is missed at the end. */
static eval_ask *on_next(void *arg) {
  running *r = arg;
  for (;;) {
    work *w = r->t->kind == PU_EVAL_PERPLEXITY ? next_window(r) : next_question(r);
    pu_error e;
    if (!w) return NULL;
    make_key(r, w);
    const json_t *known = eval_log_find(r->log, w->key);
    if (!known) return &w->ask;
    bool counted = count(r, w, known, &e) == PU_OK;
    r->reused++;
    work_free(r, w);
    if (!counted) return NULL;
  }
}

static pu_err encode_texts(running *r, pu_error *e) {
  int64_t context = r->m->context(r->m);
  r->window = context > 1 ? PU_MIN(r->t->window, context - 1) : r->t->window;
  r->texts = calloc(r->items.n + 1, sizeof *r->texts);
  if (!r->texts) return pu_fail(e, PU_ERR_NOMEM, "no memory for a text");
  for (size_t i = 0; i < r->items.n; i++) {
    PU_TRY(r->m->encode(r->m, r->items.v[i].question, &r->texts[i], e));
    r->n_windows += windows_of(r, &r->texts[i]);
  }
  return r->n_windows ? PU_OK : pu_fail(e, PU_ERR_FORMAT, "%s: too short a text", r->t->name);
}

/* ---- all ---- */

static json_t *head_of(const running *r) {
  return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:b}", "run", r->run, "model", r->m->name, "identity",
                   r->m->identity, "task", r->t->name, "about", r->t->about ? r->t->about : "", "kind",
                   r->t->kind == PU_EVAL_CHOICE     ? "choice"
                   : r->t->kind == PU_EVAL_GENERATE ? "generate"
                                                    : "perplexity",
                   "rule", pu_eval_rule_names[r->rule], "limit", (json_int_t)r->o->limit, "shots", (json_int_t)r->shots,
                   "questions", (json_int_t)(r->texts ? r->n_windows : (int64_t)r->items.n), "chat", (int)r->m->chat);
}

static pu_err prepare(running *r, pu_error *e) {
  PU_TRY(eval_items_read(r->t, r->o, &r->items, e));
  if (r->t->kind == PU_EVAL_PERPLEXITY) PU_TRY(encode_texts(r, e));
  PU_TRY(eval_extractor_open(r->t, &r->extractor, e));
  r->tally = eval_tally_new();
  if (!r->tally) return pu_fail(e, PU_ERR_NOMEM, "no memory for scores");
  make_run(r);
  return eval_log_open(r->o->out, r->m->name, r->t->name, head_of(r), &r->log, e);
}

static pu_err ask_all(running *r, pu_error *e) {
  int64_t n = r->texts ? r->n_windows : (int64_t)r->items.n;
  r->bar = pu_progress_open(r->t->name, r->texts ? "windows" : "questions", (double)n);
  pu_err err = r->m->run(r->m, on_next, on_done, r, e);
  pu_progress_close(r->bar);
  if (!err && r->done < n) err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory for all questions", r->t->name);
  if (!err) return PU_OK;
  if (r->o->out && r->done)
    return pu_fail_in(e, err, "%s, after %lld of %lld (the same command goes on from there)", r->t->name,
                      (long long)r->done, (long long)n);
  return pu_fail_in(e, err, "%s", r->t->name);
}

pu_err pu_eval_run(const pu_eval_task *t, pu_eval_model *m, const pu_eval_options *o, pu_eval_result *out,
                   pu_error *e) {
  running r = {.t = t, .m = m, .o = o, .rule = o->rule >= 0 ? o->rule : t->rule};
  r.whole = t->kind == PU_EVAL_CHOICE && r.rule == PU_EVAL_SEQUENCE;
  r.max_tokens = o->max_tokens ? o->max_tokens : t->max_tokens;
  r.shots = o->shots >= 0 ? o->shots : t->shots;
  *out = (pu_eval_result){.model = m->name, .task = t->name};
  pu_err err = prepare(&r, e);
  double begin = pu_now();
  if (!err) err = ask_all(&r, e);
  if (!err) {
    eval_tally_result(r.tally, (pu_eval_kind)t->kind, t->kind == PU_EVAL_CHOICE ? r.rule : -1, out);
    out->model = m->name;
    out->task = t->name;
    out->seconds = pu_now() - begin;
    out->reused = r.reused;
  }
  while (r.open) work_free(&r, r.open);
  for (size_t i = 0; r.texts && i < r.items.n; i++) pu_ids_deinit(&r.texts[i]);
  free(r.texts);
  eval_log_close(r.log);
  eval_tally_free(r.tally);
  eval_extractor_close(r.extractor);
  eval_items_free(&r.items);
  return err;
}
