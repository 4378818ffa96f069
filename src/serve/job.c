/* A request that generates, on the loop's thread: it is checked and queued here, and its answer is written here. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "src/serve/internal.h"

static const size_t MOST_ANSWER_BYTES = (size_t)64 << 20;

/* ---- prompts ---- */

static pu_err check_ids(const pu_engine *en, const pu_ids *ids, pu_error *e) {
  int64_t vocab = pu_engine_model(en)->hp.vocab;
  for (size_t i = 0; i < ids->n; i++)
    if (ids->v[i] >= vocab)
      return pu_fail(e, PU_ERR_USAGE, "token %zu is %d; the model's ids are below %lld", i + 1, (int)ids->v[i],
                     (long long)vocab);
  return PU_OK;
}

static pu_err encode_one(const pu_engine *en, const pu_ask_prompt *p, pu_ids *out, pu_error *e) {
  const pu_tokenizer *t = pu_engine_tokenizer(en);
  if (p->ids.v) {
    for (size_t i = 0; i < p->ids.n; i++)
      if (!pu_ids_push(out, p->ids.v[i])) return pu_fail(e, PU_ERR_NOMEM, "no memory for a prompt");
    return check_ids(en, out, e);
  }
  if (!t) return pu_fail(e, PU_ERR_USAGE, "the model has no tokenizer: give prompts as token ids");
  return pu_encode(t, p->text, pu_tokenizer_adds_bos(t) ? PU_ENCODE_BOS : 0, out, e);
}

pu_chat pu_ask_chat_of(const pu_ask *a) {
  return (pu_chat){.messages = a->messages, .tools = a->tools, .options = a->template_options, .generate = true};
}

static pu_err encode_all(const pu_engine *en, const pu_ask *a, pu_ids *ids, pu_error *e) {
  if (a->messages) {
    if (!pu_engine_tokenizer(en))
      return pu_fail(e, PU_ERR_USAGE, "the model has no tokenizer: use /v1/completions with token ids as the prompt");
    if (!pu_engine_chat(en))
      return pu_fail(e, PU_ERR_USAGE, "the model has no chat template: use /v1/completions with plain text");
    pu_chat chat = pu_ask_chat_of(a);
    return pu_chat_render_ids(pu_engine_chat(en), pu_engine_tokenizer(en), &chat, ids, e);
  }
  for (size_t i = 0; i < a->n_prompts; i++) PU_TRY(encode_one(en, &a->prompts[i], &ids[i], e));
  return PU_OK;
}

pu_err pu_ask_encode(const pu_engine *en, const pu_ask *a, pu_ids **out, size_t *n, pu_error *e) {
  *n = a->messages ? 1 : a->n_prompts;
  *out = calloc(*n, sizeof **out);
  return *out ? encode_all(en, a, *out, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for prompts");
}

void pu_ask_free_prompts(pu_ids *ids, size_t n) {
  for (size_t i = 0; ids && i < n; i++) pu_ids_deinit(&ids[i]);
  free(ids);
}

/* ---- making and freeing ---- */

void pu_job_unref(pu_job *j) {
  if (atomic_fetch_sub(&j->refs, 1) != 1) return;
  for (size_t i = 0; i < j->n_choices; i++) {
    pu_buf_deinit(&j->choices[i].text);
    pu_buf_deinit(&j->choices[i].notes);
    pu_chat_reader_free(j->choices[i].reader);
  }
  free(j->choices);
  pu_ask_free_prompts(j->prompts, j->n_prompts);
  pu_grammar_free(j->grammar);
  pu_ask_deinit(&j->ask);
  pthread_mutex_destroy(&j->lock);
  free(j);
}

static uint64_t random_bits(void) {
  uint64_t bits;
  if (getrandom(&bits, sizeof bits, GRND_NONBLOCK) != (ssize_t)sizeof bits) bits = (uint64_t)(pu_now() * 1e9);
  return bits;
}

static pu_job *job_new(pu_server *sv, pu_ask *ask, const pu_answer_style *style) {
  pu_job *j = calloc(1, sizeof *j);
  if (!j) {
    pu_ask_deinit(ask);
    return NULL;
  }
  j->sv = sv;
  j->ask = *ask;
  j->style = style;
  j->created = (int64_t)time(NULL);
  j->arrived_at = pu_now();
  atomic_init(&j->refs, 1);
  pthread_mutex_init(&j->lock, NULL);
  snprintf(j->id, sizeof j->id, "%s-%016llx", style->id_prefix, (unsigned long long)random_bits());
  return j;
}

/* The chat template's endings, beside those the request names. */
static pu_err add_stop_ids(pu_job *j, pu_error *e) {
  enum { MOST = 8 };
  pu_sampling *how = &j->ask.how;
  if (!j->ask.messages || how->ignore_eos) return PU_OK;
  int32_t *ids = pu_arena_alloc(j->ask.arena, (how->n_stop_ids + MOST) * sizeof *ids);
  if (!ids) return pu_fail(e, PU_ERR_NOMEM, "the request is too large");
  if (how->n_stop_ids) memcpy(ids, how->stop_ids, how->n_stop_ids * sizeof *ids);
  how->n_stop_ids += pu_chat_stop_ids(j->sv->chat, j->sv->t, ids + how->n_stop_ids, MOST);
  how->stop_ids = ids;
  return PU_OK;
}

/* An answer that may hold calls says their marks, by which they are found. */
static pu_err add_spoken_ids(pu_job *j, pu_error *e) {
  enum { MOST = 8 };
  if (!j->ask.tools || j->ask.must_call) return PU_OK;
  int32_t *ids = pu_arena_alloc(j->ask.arena, MOST * sizeof *ids);
  if (!ids) return pu_fail(e, PU_ERR_NOMEM, "the request is too large");
  j->ask.how.n_spoken_ids = pu_chat_call_ids(j->sv->chat, j->sv->t, ids, MOST);
  j->ask.how.spoken_ids = ids;
  return PU_OK;
}

/* One sequence of tokens: as the text is written inside another one, with a space in front of it or without. */
static pu_err add_bad_word(pu_job *j, pu_str word, pu_ids_view *to, pu_error *e) {
  pu_ids ids = {0};
  pu_err err = pu_encode(j->sv->t, word, PU_ENCODE_NO_PREFIX, &ids, e);
  int32_t *kept = err ? NULL : pu_arena_alloc(j->ask.arena, PU_MAX(ids.n, 1) * sizeof *kept);
  if (!err && !kept) err = pu_fail(e, PU_ERR_NOMEM, "the request is too large");
  if (kept && ids.n) memcpy(kept, ids.v, ids.n * sizeof *kept);
  *to = (pu_ids_view){kept, ids.n};
  pu_ids_deinit(&ids);
  return err;
}

static pu_err add_bad_words(pu_job *j, pu_error *e) {
  pu_ask *a = &j->ask;
  if (!a->n_bad_words) return PU_OK;
  a->param = "bad_words";
  if (!j->sv->t) return pu_fail(e, PU_ERR_USAGE, "the model has no tokenizer, so that no text can be kept out");
  pu_ids_view *all = pu_arena_alloc(a->arena, 2 * a->n_bad_words * sizeof *all);
  a->how.bad_words = all;
  for (size_t i = 0; all && i < 2 * a->n_bad_words; i++) {
    pu_str word = a->bad_words[i / 2];
    char *spaced = pu_arena_alloc(a->arena, word.len + 1);
    if (!spaced) break;
    spaced[0] = ' ';
    memcpy(spaced + 1, word.ptr, word.len);
    PU_TRY(add_bad_word(j, i % 2 ? pu_str_of(spaced, word.len + 1) : word, &all[a->how.n_bad_words], e));
    a->how.n_bad_words++;
  }
  if (a->how.n_bad_words < 2 * a->n_bad_words) return pu_fail(e, PU_ERR_NOMEM, "the request is too large");
  a->param = NULL;
  return PU_OK;
}

static pu_err check_model(pu_job *j, pu_error *e) {
  const char *name = j->sv->o.model_name, *more = j->sv->adapters.n ? " and its adapters: see /v1/models" : "";
  if (!j->ask.model || pu_find_model(j->sv, j->ask.model, &j->adapter)) return PU_OK;
  j->ask.param = "model";
  j->refusal = 404;
  j->code = "model_not_found";
  return pu_fail(e, PU_ERR_USAGE, "the model '%.100s' is not here; this server has '%.100s'%s", j->ask.model, name,
                 more);
}

static pu_err too_long(pu_job *j, pu_error *e, size_t n, const char *of) {
  j->refusal = 400;
  j->code = "context_length_exceeded";
  return pu_fail(e, PU_ERR_USAGE,
                 "the prompt has %zu %s; the context of %lld%s has to hold it and at least one of the answer", n, of,
                 (long long)j->sv->context, strcmp(of, "tokens") == 0 ? "" : " tokens");
}

static size_t content_bytes(const json_t *content) {
  size_t n = json_string_length(content);
  for (size_t i = 0; i < json_array_size(content); i++)
    n += json_string_length(json_object_get(json_array_get(content, i), "text"));
  return n;
}

/* Megabytes that no context holds take seconds to be told apart into tokens, and all streams would wait for that. */
static pu_err check_bytes(pu_job *j, pu_error *e) {
  const pu_ask *a = &j->ask;
  size_t most = (size_t)j->sv->context * j->sv->longest_piece, n = 0;
  if (!j->sv->t) return PU_OK;
  for (size_t i = 0; i < json_array_size(a->messages); i++)
    n += content_bytes(json_object_get(json_array_get(a->messages, i), "content"));
  for (size_t i = 0; i < a->n_prompts; i++) n = PU_MAX(n, a->prompts[i].text.len);
  return n > most ? too_long(j, e, n, "bytes") : PU_OK;
}

static pu_err check_lengths(pu_job *j, pu_error *e) {
  for (size_t i = 0; i < j->n_prompts; i++) {
    size_t n = j->prompts[i].n;
    if (n == 0) return pu_fail(e, PU_ERR_USAGE, "an empty prompt gives the model nothing to go on from");
    if ((int64_t)n >= j->sv->context) return too_long(j, e, n, "tokens");
    j->prompt_tokens += (int64_t)n;
  }
  return PU_OK;
}

/* Where the first token stands that is told of: the text begins with the prompt, or goes on from it. */
static pu_text_place first_place(const pu_job *j, const pu_choice *c) {
  const pu_ids *ids = &j->prompts[c->prompt];
  pu_text_place at = {.decoder = {.t = j->sv->t}};
  if (!j->sv->t) return at;
  if (!j->ask.echo)
    at.decoder.started = j->grammar || !pu_tokenizer_is_special(j->sv->t, ids->v[ids->n - 1]);
  else if (j->ask.prompts[c->prompt].ids.v)
    at.shown = ids->n;
  return at;
}

/* echo: the answer begins with the prompt. */
static pu_err echo_prompt(pu_job *j, pu_choice *c, pu_error *e) {
  if (!j->ask.echo) return PU_OK;
  const pu_ask_prompt *p = &j->ask.prompts[c->prompt];
  if (p->ids.v && j->sv->t) return pu_decode(j->sv->t, p->ids.v, p->ids.n, 0, &c->text, e);
  return pu_buf_append(&c->text, p->text.ptr, p->text.len) ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for a prompt");
}

/* Which of a prompt's tokens are to be told with log-probabilities. */
static void choose_told(pu_job *j, pu_choice *c) {
  const pu_ids *prompt = &j->prompts[c->prompt];
  if (!j->ask.echo || j->ask.logprobs_from == 0 || j->ask.how.top_logprobs < 0 || prompt->n < 2) return;
  int64_t all = (int64_t)pu_characters(pu_str_of(c->text.data ? c->text.data : "", c->text.len));
  c->told_from = pu_first_of_last(j->sv->t, prompt, all - j->ask.logprobs_from);
}

static pu_err make_choices(pu_job *j, pu_error *e) {
  j->n_choices = j->n_prompts * (size_t)j->ask.n;
  j->choices = calloc(j->n_choices, sizeof *j->choices);
  if (!j->choices) {
    j->n_choices = 0;
    return pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
  }
  for (size_t i = 0; i < j->n_choices; i++) {
    pu_choice *c = &j->choices[i];
    c->job = j;
    c->index = (int)i;
    c->prompt = i / (size_t)j->ask.n;
    pu_buf_init(&c->text, MOST_ANSWER_BYTES);
    pu_buf_init(&c->notes, 4 * MOST_ANSWER_BYTES);
    c->place = first_place(j, c);
    PU_TRY(echo_prompt(j, c, e));
    choose_told(j, c);
  }
  return PU_OK;
}

static pu_err check_tokens(pu_job *j, pu_error *e) {
  const pu_sampling *how = &j->ask.how;
  for (size_t i = 0; i < how->n_logit_bias; i++) {
    if (how->logit_bias[i].id < j->sv->vocab) continue;
    j->ask.param = "logit_bias";
    return pu_fail(e, PU_ERR_USAGE, "logit_bias: %d is no token id of this model, which are below %lld",
                   (int)how->logit_bias[i].id, (long long)j->sv->vocab);
  }
  if (how->top_logprobs < 0 || j->sv->t) return PU_OK;
  j->ask.param = "logprobs";
  return pu_fail(e, PU_ERR_USAGE, "the model has no tokenizer to write log-probabilities' tokens with");
}

static pu_err compile_form(pu_job *j, pu_error *e) {
  pu_server *sv = j->sv;
  if (!j->ask.has_form) return PU_OK;
  j->ask.param = j->ask.form_key;
  if (!sv->t) return pu_fail(e, PU_ERR_USAGE, "the model has no tokenizer, so that no form can be asked for");
  if (!sv->pieces) PU_TRY(pu_grammar_vocab_create(sv->t, &sv->pieces, e));
  PU_TRY(pu_grammar_compile(j->ask.form, j->ask.form_source, sv->pieces, &j->grammar, e));
  j->ask.how.grammar = j->grammar;
  j->ask.param = NULL;
  return PU_OK;
}

static pu_err prepare(pu_job *j, pu_error *e) {
  PU_TRY(check_model(j, e));
  if (!j->sv->t && j->ask.how.n_stop) {
    j->ask.param = "stop";
    return pu_fail(e, PU_ERR_USAGE, "the model has no tokenizer, so that no text can end an answer");
  }
  PU_TRY(check_tokens(j, e));
  if (!j->ask.has_seed) j->ask.how.seed = random_bits();
  j->ask.param = j->ask.messages ? "messages" : "prompt";
  PU_TRY(check_bytes(j, e));
  PU_TRY(pu_ask_encode(j->sv->en, &j->ask, &j->prompts, &j->n_prompts, e));
  PU_TRY(check_lengths(j, e));
  j->ask.param = NULL;
  PU_TRY(add_stop_ids(j, e));
  PU_TRY(add_spoken_ids(j, e));
  PU_TRY(add_bad_words(j, e));
  PU_TRY(compile_form(j, e));
  return make_choices(j, e);
}

/* ---- writing the answer ---- */

static void put_head(pu_buf *b, const pu_job *j, const char *object) {
  pu_buf_printf(b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", j->id, object,
                (long long)j->created);
  pu_buf_json_str(b, pu_str_c(j->adapter ? j->adapter : j->sv->o.model_name));
  pu_buf_puts(b, ",\"choices\":[");
}

static void put_usage(pu_buf *b, const pu_job *j) {
  int64_t answers = 0;
  for (size_t i = 0; i < j->n_choices; i++) answers += j->choices[i].tokens;
  pu_buf_printf(b, "\"usage\":{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld}",
                (long long)j->prompt_tokens, (long long)answers, (long long)(j->prompt_tokens + answers));
}

/* Unlike those of any other call, so that results find theirs in a conversation of many answers. */
static void put_call_id(char id[48], const pu_choice *c, size_t call) {
  const char *job = strchr(c->job->id, '-') + 1;
  snprintf(id, 48, "call_%s%02x%02zx", job, (unsigned)c->index, call);
}

/* The message of an answer that holds tool calls; NULL: it is plain text. The caller owns it. */
static json_t *read_calls(const pu_job *j, const pu_choice *c) {
  pu_str text = pu_str_of(c->text.data ? c->text.data : "", c->text.len);
  unsigned flags = j->ask.must_call ? PU_CHAT_READ_ONE_CALL : PU_CHAT_READ_WHOLE;
  pu_error e;
  json_t *m = NULL;
  if (!j->ask.tools || pu_chat_answer(j->sv->chat, flags, text, &m, &e)) return NULL;
  json_t *calls = json_object_get(m, "tool_calls");
  while (j->ask.one_call && json_array_size(calls) > 1) json_array_remove(calls, json_array_size(calls) - 1);
  for (size_t i = 0; i < json_array_size(calls); i++) {
    char id[48];
    put_call_id(id, c, i);
    json_object_set_new(json_array_get(calls, i), "id", json_string(id));
  }
  if (json_array_size(calls) > 0) return m;
  json_decref(m);
  return NULL;
}

static const char *finish_word(pu_finish finish, bool called) {
  if (finish == PU_FINISH_NONE) return "null";
  return finish != PU_FINISH_STOP ? "\"length\"" : called ? "\"tool_calls\"" : "\"stop\"";
}

/* Log-probabilities and the end of a choice. A whole answer that was asked for them has a list, if an empty one. */
static void put_choice_end(pu_buf *b, const pu_job *j, const pu_buf *notes, pu_text_place *at, const char *finish) {
  bool whole = !j->ask.stream && j->ask.how.top_logprobs >= 0;
  pu_buf_puts(b, ",\"logprobs\":");
  if (notes && (notes->len || whole))
    j->style->logprobs(b, j->sv->t, (const pu_note *)(const void *)notes->data, notes->len / sizeof(pu_note), at);
  else
    pu_buf_puts(b, "null");
  pu_buf_printf(b, ",\"finish_reason\":%s}", finish);
}

/* What an event of a stream says: text, or a piece of a call, or the opening (neither). */
typedef struct piece {
  const pu_str *text;
  const pu_chat_piece *call;
  const char *finish;
} piece;

/* Log-probabilities that are there go with it. */
static void put_event(pu_buf *b, const pu_job *j, pu_choice *c, piece p) {
  char id[48];
  pu_buf_puts(b, "data: ");
  put_head(b, j, j->style->chunk_object);
  pu_buf_printf(b, "{\"index\":%d,", c->index);
  if (p.call) {
    put_call_id(id, c, p.call->call);
    j->style->call(b, p.call, id);
  } else if (p.text) {
    j->style->piece(b, *p.text);
  } else {
    j->style->opening(b);
  }
  bool opens = !p.call && !p.text;
  put_choice_end(b, j, opens ? NULL : &c->notes, &c->place, p.finish);
  if (!opens) pu_buf_clear(&c->notes);
  pu_buf_puts(b, j->ask.include_usage ? "],\"usage\":null}\n\n" : "]}\n\n");
}

/* From the reader of calls. */
static void put_piece(void *arg, const pu_chat_piece *p) {
  pu_choice *c = arg;
  const pu_job *j = c->job;
  if (p->content.ptr) {
    put_event(c->events, j, c, (piece){.text = &p->content, .finish = "null"});
  } else if (p->call == 0 || !j->ask.one_call) {
    put_event(c->events, j, c, (piece){.call = p, .finish = "null"});
    c->called = true;
  }
}

/* Text that may hold calls: what is certain of it is said. */
static pu_err read_news(pu_buf *b, pu_job *j, pu_choice *c, pu_str text, pu_error *e) {
  unsigned flags = j->ask.must_call ? PU_CHAT_READ_ONE_CALL : 0;
  if (!c->reader) PU_TRY(pu_chat_reader_create(j->sv->chat, flags, put_piece, c, &c->reader, e));
  c->events = b;
  PU_TRY(pu_chat_reader_feed(c->reader, text, e));
  return c->done ? pu_chat_reader_finish(c->reader, e) : PU_OK;
}

/* Under the job's lock: what a choice has to say is moved into b. */
static void take_news(pu_buf *b, pu_job *j, pu_choice *c) {
  if (!c->opened && j->style->opening) put_event(b, j, c, (piece){.finish = "null"});
  c->opened = true;
  if (c->closed) return;
  pu_str text = pu_str_of(c->text.data ? c->text.data : "", c->text.len), none = {"", 0};
  if (j->ask.tools) {
    pu_err err = read_news(b, j, c, text, &j->why);
    if (err) j->err = err;
  } else if (text.len || c->notes.len) {
    put_event(b, j, c, (piece){.text = &text, .finish = "null"});
  }
  if (c->done) put_event(b, j, c, (piece){.text = &none, .finish = finish_word(c->finish, c->called)});
  c->closed = c->done;
  pu_buf_clear(&c->text);
}

static void put_end(pu_buf *b, const pu_job *j) {
  if (j->ask.include_usage) {
    pu_buf_puts(b, "data: ");
    put_head(b, j, j->style->chunk_object);
    pu_buf_puts(b, "],");
    put_usage(b, j);
    pu_buf_puts(b, "}\n\n");
  }
  pu_buf_puts(b, "data: [DONE]\n\n");
}

/* Sends what is new; the end, if it is there. */
static void stream_news(pu_job *j) {
  pu_buf b;
  pu_buf_init(&b, 2 * MOST_ANSWER_BYTES);
  bool all = true;
  pthread_mutex_lock(&j->lock);
  for (size_t i = 0; i < j->n_choices; i++) {
    take_news(&b, j, &j->choices[i]);
    all &= j->choices[i].done;
  }
  bool failed = j->err != PU_OK;
  if (failed) {
    pu_buf_puts(&b, "data: ");
    pu_put_error(&b, 500, j->why.msg, NULL, NULL);
    pu_buf_puts(&b, "\n\n");
  } else if (all) {
    put_end(&b, j);
  }
  pthread_mutex_unlock(&j->lock);
  if (b.len && !pu_http_write(j->http, pu_str_of(b.data, b.len))) {
    pu_buf_deinit(&b);
    return; /* the client is gone, and j->http with it */
  }
  pu_buf_deinit(&b);
  if (!all && !failed) return;
  pu_http_end(j->http);
  j->http = NULL;
  pu_job_unref(j);
}

static void reply_whole(pu_job *j) {
  pu_http_request *r = j->http;
  j->http = NULL;
  if (j->err == PU_ERR_NOMEM) {
    pu_reply_error(j->sv, r, 503, j->why.msg, NULL, NULL); /* the engine's memory, not the request's size */
  } else if (j->err) {
    pu_reply_failure(j->sv, r, &j->why, NULL);
  } else {
    pu_buf b;
    pu_buf_init(&b, PU_BUF_MAX);
    put_head(&b, j, j->style->object);
    for (size_t i = 0; i < j->n_choices; i++) {
      pu_choice *c = &j->choices[i];
      pu_buf_printf(&b, "%s{\"index\":%d,", i ? "," : "", c->index);
      json_t *m = read_calls(j, c);
      if (m)
        j->style->message(&b, m);
      else
        j->style->whole(&b, pu_str_of(c->text.data ? c->text.data : "", c->text.len));
      put_choice_end(&b, j, &c->notes, &c->place, finish_word(c->finish, m != NULL));
      json_decref(m);
    }
    pu_buf_puts(&b, "],");
    put_usage(&b, j);
    pu_buf_puts(&b, "}");
    pu_reply_json(j->sv, r, 200, &b);
  }
  pu_job_unref(j);
}

/* Posted by the engine's thread. */
static void visit(void *arg) {
  pu_job *j = arg;
  pthread_mutex_lock(&j->lock);
  j->posted = false;
  pthread_mutex_unlock(&j->lock);
  if (j->http && j->ask.stream)
    stream_news(j);
  else if (j->http)
    reply_whole(j); /* told only when all is done */
  pu_job_unref(j);
}

void pu_job_tell(pu_job *j) {
  pthread_mutex_lock(&j->lock);
  bool post = !j->posted;
  j->posted = true;
  pthread_mutex_unlock(&j->lock);
  if (!post) return; /* that visit will see it all */
  atomic_fetch_add(&j->refs, 1);
  if (pu_http_post(j->sv->http, visit, j)) return;
  pu_job_unref(j); /* no memory to say so: the answer stays unsaid until the client gives up */
  pthread_mutex_lock(&j->lock);
  j->posted = false;
  pthread_mutex_unlock(&j->lock);
}

static void on_gone(void *arg) {
  pu_job *j = arg;
  j->http = NULL;
  atomic_store(&j->cancelled, true);
  pthread_mutex_lock(&j->sv->metrics.lock);
  j->sv->metrics.cancelled++;
  pthread_mutex_unlock(&j->sv->metrics.lock);
  pu_worker_nudge(j->sv);
  pu_job_unref(j);
}

/* ---- submitting ---- */

static void refuse_full(pu_job *j) {
  pu_http_add_header(j->http, "Retry-After", "1");
  pu_reply_error(j->sv, j->http, 429, "too many requests wait already: try again a little later", NULL, "queue_full");
}

void pu_job_submit(pu_server *sv, pu_http_request *r, pu_ask *ask, const pu_answer_style *style) {
  pu_error e = {0};
  pu_job *j = job_new(sv, ask, style);
  if (!j) {
    pu_reply_error(sv, r, 500, "no memory for the request", NULL, NULL);
    return;
  }
  j->http = r;
  pu_err err = prepare(j, &e);
  if (err) {
    if (j->refusal)
      pu_reply_error(sv, r, j->refusal, e.msg, j->ask.param, j->code);
    else
      pu_reply_failure(sv, r, &e, j->ask.param);
    pu_job_unref(j);
    return;
  }
  atomic_fetch_add(&j->refs, 1); /* the engine's */
  if (!pu_worker_submit(sv, j)) {
    refuse_full(j);
    pu_job_unref(j);
    pu_job_unref(j);
    return;
  }
  pthread_mutex_lock(&sv->metrics.lock);
  sv->metrics.prompt_tokens += (uint64_t)j->prompt_tokens;
  pthread_mutex_unlock(&sv->metrics.lock);
  pu_http_on_gone(r, on_gone, j);
  if (j->ask.stream) pu_begin_events(sv, r);
}
