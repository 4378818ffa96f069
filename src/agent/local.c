/* A model in this process. Each answer is a session of its own: what it has in common with the one before comes from
 * the engine's prefix cache. */
#include <stdlib.h>
#include <string.h>

#include "src/agent/internal.h"

typedef struct local {
  pu_agent_model m;
  pu_engine *en;
  pu_ids prompt, answer; /* of the last session */
} local;

typedef struct reading {
  const agent_ask *ask;
  pu_chat_reader *reader;
  agent_answer answer;
  pu_error *e;
  pu_err err;
} reading;

static void say(reading *r, pu_str text) {
  agent_answer_say(&r->answer, text);
  r->ask->on_text(r->ask->arg, text);
}

static void on_piece(void *arg, const pu_chat_piece *p) {
  reading *r = arg;
  if (p->content.ptr) {
    say(r, p->content);
    return;
  }
  if (p->name) agent_answer_call(&r->answer, NULL, p->name, p->is_code);
  agent_answer_argue(&r->answer, p->call, p->arguments);
}

/* Where there are no tools, what looks like a call is none. */
static bool on_text(void *arg, pu_str text) {
  reading *r = arg;
  if (r->ask->tools)
    r->err = pu_chat_reader_feed(r->reader, text, r->e);
  else
    say(r, text);
  return !r->err && !r->answer.failed;
}

static bool keep(pu_ids *to, const int32_t *v, size_t n) {
  to->n = 0;
  for (size_t i = 0; i < n; i++)
    if (!pu_ids_push(to, v[i])) return false;
  return true;
}

/* Too long: PU_ERR_USAGE. */
static pu_err render(local *l, const agent_ask *ask, pu_error *e) {
  const pu_chat chat = {.messages = ask->messages, .tools = ask->tools, .generate = true};
  int64_t context = pu_engine_context(l->en);
  l->prompt.n = l->answer.n = 0;
  PU_TRY(pu_chat_render_ids(pu_engine_chat(l->en), pu_engine_tokenizer(l->en), &chat, &l->prompt, e));
  if ((int64_t)l->prompt.n < context) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "the conversation has %zu tokens; the context of %lld has to hold it and an answer",
                 l->prompt.n, (long long)context);
}

static pu_err generate(local *l, pu_session *s, reading *r, agent_finish *finish, pu_error *e) {
  enum { MOST = 8 };
  const pu_chat_template *c = pu_engine_chat(l->en);
  const pu_tokenizer *t = pu_engine_tokenizer(l->en);
  int32_t stops[MOST], spoken[MOST];
  pu_sampling how = *r->ask->how;
  how.stop_ids = stops;
  how.n_stop_ids = pu_chat_stop_ids(c, t, stops, MOST);
  how.spoken_ids = spoken;
  how.n_spoken_ids = r->ask->tools ? pu_chat_call_ids(c, t, spoken, MOST) : 0;
  bool more = true;
  size_t n;
  PU_TRY(pu_session_adapter(s, pu_engine_adapter_at(l->en, 0), e));
  PU_TRY(pu_session_append(s, l->prompt.v, l->prompt.n, e));
  PU_TRY(pu_session_start(s, &how, on_text, r, e));
  while (more && !r->ask->stop()) PU_TRY(pu_engine_step(l->en, &more, e));
  if (r->err) return r->err;
  pu_finish how_ended = pu_session_finish(s);
  *finish = how_ended == PU_FINISH_STOP ? AGENT_DONE : how_ended == PU_FINISH_LENGTH ? AGENT_LENGTH : AGENT_CANCEL;
  const int32_t *made = pu_session_answer(s, &n);
  if (!keep(&l->answer, made, n)) return pu_fail(e, PU_ERR_NOMEM, "no memory for an answer of %zu tokens", n);
  return pu_chat_reader_finish(r->reader, e);
}

static pu_err answer(pu_agent_model *m, const agent_ask *ask, json_t **message, agent_finish *finish, pu_error *e) {
  local *l = (local *)(void *)m;
  reading r = {.ask = ask, .e = e};
  pu_session *s = NULL;
  *message = NULL;
  PU_TRY(render(l, ask, e));
  PU_TRY(pu_chat_reader_create(pu_engine_chat(l->en), 0, on_piece, &r, &r.reader, e));
  agent_answer_init(&r.answer);
  pu_err err = pu_session_open(l->en, &s, e);
  if (!err) err = generate(l, s, &r, finish, e);
  if (!err) err = agent_answer_message(&r.answer, message, e);
  pu_session_close(s);
  agent_answer_deinit(&r.answer);
  pu_chat_reader_free(r.reader);
  return err;
}

static void local_close(pu_agent_model *m) {
  local *l = (local *)(void *)m;
  pu_ids_deinit(&l->prompt);
  pu_ids_deinit(&l->answer);
  free(l);
}

pu_err pu_agent_engine(pu_engine *en, pu_agent_model **out, pu_error *e) {
  const pu_chat_template *c = pu_engine_chat(en);
  *out = NULL;
  if (!c)
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   "the model brings no chat template, and its tokenizer has the markers of none that puyu knows");
  local *l = calloc(1, sizeof *l);
  if (!l) return pu_fail(e, PU_ERR_NOMEM, "no memory for a model");
  *l = (local){.m = {.takes_code = strcmp(pu_chat_name(c), "internlm2") == 0, .answer = answer, .close = local_close},
               .en = en};
  *out = &l->m;
  return PU_OK;
}

void pu_agent_model_close(pu_agent_model *m) {
  if (m) m->close(m);
}

void agent_local_ids(const pu_agent_model *m, pu_ids_view *prompt, pu_ids_view *answer_ids) {
  const local *l = (const local *)(const void *)m;
  *prompt = (pu_ids_view){l->prompt.v, l->prompt.n};
  *answer_ids = (pu_ids_view){l->answer.v, l->answer.n};
}
