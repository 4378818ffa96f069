/* A model behind a server that speaks OpenAI's API: /v1/chat/completions, as a stream. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "puyu/net.h"
#include "src/agent/internal.h"

enum { MOST_EVENT = 8 << 20, MOST_BODY = 16 << 20 };
static const double LIST_SECONDS = 30;
static const char CHAT_PATH[] = "/v1/chat/completions";

typedef struct remote {
  pu_agent_model m;
  pu_api api;
  pu_api_model served;
  double seconds;
} remote;

/* ---- one exchange ---- */

typedef enum shape { UNKNOWN, EVENTS, WHOLE } shape;

typedef struct exchange {
  agent_stream *stream;
  pu_events events;
  pu_api_reply reply; /* its body: of what is no event stream */
  shape shape;
} exchange;

/* Servers that do not stream answer with one object. */
static shape shape_of(pu_str piece) {
  for (size_t i = 0; i < piece.len; i++)
    if (!strchr(" \r\n\t", piece.ptr[i])) return piece.ptr[i] == '{' ? WHOLE : EVENTS;
  return UNKNOWN;
}

static bool on_data(void *arg, int status, pu_str piece) {
  exchange *x = arg;
  (void)status; /* 200 */
  if (x->shape == UNKNOWN) x->shape = shape_of(piece);
  if (x->shape == WHOLE) return pu_buf_append(&x->reply.body, piece.ptr, piece.len);
  return pu_events_feed(&x->events, piece, agent_stream_event, x->stream);
}

static void exchange_init(exchange *x, agent_stream *stream) {
  *x = (exchange){.stream = stream};
  pu_events_init(&x->events, MOST_EVENT);
  pu_buf_init(&x->reply.body, MOST_BODY);
}

static void exchange_deinit(exchange *x) {
  pu_events_deinit(&x->events);
  pu_buf_deinit(&x->reply.body);
}

/* An exchange that is over: did a whole answer come? */
static pu_err check_exchange(const pu_api *api, const exchange *x, pu_error *e) {
  const agent_stream *s = x->stream;
  if (s->why[0]) return pu_fail(e, PU_ERR_IO, "%s%s: %s", api->base, CHAT_PATH, s->why);
  if (s->strange)
    return pu_fail(e, PU_ERR_FORMAT, "%s%s: its answer is no stream of JSON objects", api->base, CHAT_PATH);
  PU_TRY(pu_api_check(api, CHAT_PATH, &x->reply, e));
  if (s->over || s->finish[0]) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "%s%s: its answer broke off", api->base, CHAT_PATH);
}

/* ---- asking ---- */

static void set_number(json_t *body, const char *key, double v, double usual) {
  if (v != usual) json_object_set_new(body, key, json_real(v));
}

static void set_integer(json_t *body, const char *key, int64_t v) {
  if (v) json_object_set_new(body, key, json_integer(v));
}

/* What OpenAI's API has; the rest, which other servers know, only where it was asked for. */
static void set_sampling(json_t *body, const pu_sampling *how) {
  const pu_sampling usual = pu_sampling_default();
  json_object_set_new(body, "temperature", json_real(how->temperature));
  if (how->temperature > 0) set_integer(body, "seed", (int64_t)(how->seed & INT32_MAX));
  set_integer(body, "max_tokens", how->max_tokens);
  set_integer(body, "top_k", how->top_k);
  set_integer(body, "min_tokens", how->min_tokens);
  set_number(body, "top_p", how->top_p, usual.top_p);
  set_number(body, "min_p", how->min_p, usual.min_p);
  set_number(body, "typical_p", how->typical_p, usual.typical_p);
  set_number(body, "repetition_penalty", how->repetition_penalty, usual.repetition_penalty);
  set_number(body, "presence_penalty", how->presence_penalty, 0);
  set_number(body, "frequency_penalty", how->frequency_penalty, 0);
  if (how->n_stop == 0) return;
  json_t *stop = json_array();
  for (size_t i = 0; i < how->n_stop; i++) json_array_append_new(stop, json_string(how->stop[i]));
  json_object_set_new(body, "stop", stop);
}

/* The caller frees it; NULL: no memory. */
static char *body_of(const remote *r, const agent_ask *ask) {
  json_t *body = json_pack("{ss sO sb}", "model", r->served.name, "messages", ask->messages, "stream", 1);
  if (!body) return NULL;
  if (ask->tools) json_object_set(body, "tools", (json_t *)(uintptr_t)ask->tools);
  set_sampling(body, ask->how);
  char *text = json_dumps(body, JSON_COMPACT);
  json_decref(body);
  return text;
}

static pu_err ask_server(const remote *r, const agent_ask *ask, const char *body, exchange *x, pu_error *e) {
  agent_stream *s = x->stream;
  const pu_api_reply *reply = &x->reply;
  const pu_http_ask how = {.body = pu_str_c(body), .seconds = r->seconds, .on_data = on_data, .arg = x};
  PU_TRY(pu_api_call(&r->api, CHAT_PATH, &how, ask->stop, &x->reply, e));
  if (x->shape == WHOLE && reply->status == 200 && !reply->err)
    s->over = agent_stream_event(s, pu_str_of(reply->body.data, reply->body.len));
  return check_exchange(&r->api, x, e);
}

static pu_err answer(pu_agent_model *m, const agent_ask *ask, json_t **message, agent_finish *finish, pu_error *e) {
  const remote *r = (const remote *)(const void *)m;
  agent_stream s;
  exchange x;
  char *body = body_of(r, ask);
  *message = NULL;
  if (!body) return pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
  agent_stream_init(&s, ask->on_text, ask->arg);
  exchange_init(&x, &s);
  pu_err err = ask_server(r, ask, body, &x, e);
  *finish = err == PU_ERR_STOPPED ? AGENT_CANCEL : strcmp(s.finish, "length") == 0 ? AGENT_LENGTH : AGENT_DONE;
  if (!err || err == PU_ERR_STOPPED) err = agent_answer_message(&s.answer, message, e);
  exchange_deinit(&x);
  agent_stream_deinit(&s);
  free(body);
  return err;
}

/* ---- opening ---- */

static void remote_close(pu_agent_model *m) {
  remote *r = (remote *)(void *)m;
  pu_api_deinit(&r->api);
  free(r->served.name);
  free(r);
}

static pu_err set_up(remote *r, const pu_agent_server *o, pu_error *e) {
  double seconds = o->seconds > 0 ? PU_MIN(o->seconds, LIST_SECONDS) : LIST_SECONDS;
  PU_TRY(pu_api_init(&(pu_api_options){.url = o->url, .ca_file = o->ca_file, .key = o->key}, &r->api, e));
  PU_TRY(pu_api_find_model(&r->api, o->model, seconds, &r->served, e));
  if (r->served.name) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "%s: names no model: say which one with --served", r->api.base);
}

pu_err pu_agent_remote(const pu_agent_server *o, pu_agent_model **out, pu_error *e) {
  remote *r = calloc(1, sizeof *r);
  *out = NULL;
  if (!r) return pu_fail(e, PU_ERR_NOMEM, "no memory for a server");
  *r = (remote){.m = {.answer = answer, .close = remote_close}, .seconds = o->seconds};
  pu_err err = set_up(r, o, e);
  if (err)
    remote_close(&r->m);
  else
    *out = &r->m;
  return err;
}
