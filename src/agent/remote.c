/* A model behind a server that speaks OpenAI's API: /v1/chat/completions, as a stream. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "puyu/net.h"
#include "src/agent/internal.h"

enum { MOST_EVENT = 8 << 20, MOST_BODY = 16 << 20, WHY = 300 };
static const double LONGEST_WAIT = 0.1, LIST_SECONDS = 30;

typedef struct remote {
  pu_agent_model m;
  char *base, *served, *ca_file, *header; /* base without /v1; header: NULL without a key */
  double seconds;
} remote;

static bool never(void) {
  return false;
}

/* ---- one exchange ---- */

typedef enum shape { UNKNOWN, EVENTS, WHOLE } shape;

typedef struct exchange {
  agent_stream *stream; /* NULL: the body is wanted as it is */
  pu_events events;
  pu_buf body; /* of what is no event stream */
  shape shape;
  int status;
  pu_err err;
  char why[WHY];
  bool ended;
} exchange;

/* Servers that do not stream answer with one object. */
static shape shape_of(pu_str piece) {
  for (size_t i = 0; i < piece.len; i++)
    if (!strchr(" \r\n\t", piece.ptr[i])) return piece.ptr[i] == '{' ? WHOLE : EVENTS;
  return UNKNOWN;
}

static bool on_data(void *arg, int status, pu_str piece) {
  exchange *x = arg;
  if (!x->stream || status != 200) return pu_buf_append(&x->body, piece.ptr, piece.len);
  if (x->shape == UNKNOWN) x->shape = shape_of(piece);
  if (x->shape == WHOLE) return pu_buf_append(&x->body, piece.ptr, piece.len);
  return pu_events_feed(&x->events, piece, agent_stream_event, x->stream);
}

static void on_end(void *arg, int status, pu_err err, const char *why) {
  exchange *x = arg;
  x->status = status;
  x->err = err;
  x->ended = true;
  if (err) snprintf(x->why, sizeof x->why, "%s", why);
}

static void exchange_init(exchange *x, agent_stream *stream) {
  *x = (exchange){.stream = stream};
  pu_events_init(&x->events, MOST_EVENT);
  pu_buf_init(&x->body, MOST_BODY);
}

static void exchange_deinit(exchange *x) {
  pu_events_deinit(&x->events);
  pu_buf_deinit(&x->body);
}

/* PU_ERR_STOPPED: stop said so. What came and how it ended is in x. */
static pu_err exchange_run(const remote *r, const char *path, pu_str body, double seconds, bool (*stop)(void),
                           exchange *x, pu_error *e) {
  const char *headers[] = {r->header, NULL};
  pu_http_client *c;
  char *url;
  if (asprintf(&url, "%s%s", r->base, path) < 0) return pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
  const pu_http_ask ask = {.url = url,
                           .headers = headers,
                           .ca_file = r->ca_file,
                           .body = body,
                           .seconds = seconds,
                           .on_data = on_data,
                           .on_end = on_end,
                           .arg = x};
  bool stopped = false;
  pu_err err = pu_http_client_open(&c, e);
  if (!err) {
    err = pu_http_client_start(c, &ask, NULL, e);
    while (!err && !x->ended && !(stopped = stop())) err = pu_http_client_wait(c, LONGEST_WAIT, e);
    pu_http_client_free(c); /* drops it, if it still runs */
  }
  free(url);
  if (!err && stopped) return pu_fail(e, PU_ERR_STOPPED, "%s: it was stopped", r->base);
  return err;
}

static bool is_too_long(int status, const char *why) {
  return status == 400 && (strstr(why, "context") || strstr(why, "too long") || strstr(why, "maximum"));
}

/* An exchange that is over: did a whole answer come? */
static pu_err check_exchange(const remote *r, const char *path, const exchange *x, pu_error *e) {
  char why[WHY];
  if (x->stream && x->stream->why[0]) return pu_fail(e, PU_ERR_IO, "%s%s: %s", r->base, path, x->stream->why);
  if (x->stream && x->stream->strange)
    return pu_fail(e, PU_ERR_FORMAT, "%s%s: its answer is no stream of JSON objects", r->base, path);
  if (x->err == PU_ERR_STOPPED) return pu_fail(e, PU_ERR_FORMAT, "%s%s: its answer is too large", r->base, path);
  if (x->err) return pu_fail(e, PU_ERR_IO, "%s%s: %s", r->base, path, x->why);
  if (x->status == 200) return PU_OK;
  agent_error_of(pu_str_of(x->body.data, x->body.len), why, sizeof why);
  return pu_fail(e, is_too_long(x->status, why) ? PU_ERR_USAGE : PU_ERR_IO, "%s%s: status %d: %s%s", r->base, path,
                 x->status, why, x->status == 401 ? " (a key is taken from PUYU_API_KEY)" : "");
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
  json_t *body = json_pack("{ss sO sb}", "model", r->served, "messages", ask->messages, "stream", 1);
  if (!body) return NULL;
  if (ask->tools) json_object_set(body, "tools", (json_t *)(uintptr_t)ask->tools);
  set_sampling(body, ask->how);
  char *text = json_dumps(body, JSON_COMPACT);
  json_decref(body);
  return text;
}

static pu_err ask_server(const remote *r, const agent_ask *ask, const char *body, exchange *x, pu_error *e) {
  static const char path[] = "/v1/chat/completions";
  agent_stream *s = x->stream;
  PU_TRY(exchange_run(r, path, pu_str_c(body), r->seconds, ask->stop, x, e));
  if (x->shape == WHOLE && x->status == 200 && !x->err)
    s->over = agent_stream_event(s, pu_str_of(x->body.data, x->body.len));
  PU_TRY(check_exchange(r, path, x, e));
  if (s->over || s->finish[0]) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "%s%s: its answer broke off", r->base, path);
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
  free(r->base);
  free(r->served);
  free(r->ca_file);
  free(r->header);
  free(r);
}

static pu_err choose_model(remote *r, const json_t *list, const char *wanted, pu_error *e) {
  const json_t *rows = json_object_get(list, "data");
  const char *first = json_string_value(json_object_get(json_array_get(rows, 0), "id"));
  if (!wanted && !first) return pu_fail(e, PU_ERR_FORMAT, "%s: names no model: say which one with --served", r->base);
  r->served = strdup(wanted ? wanted : first);
  return r->served ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for a server");
}

/* A server without the list is taken at its word where the name is given. */
static pu_err find_model(remote *r, const char *wanted, pu_error *e) {
  static const char path[] = "/v1/models";
  exchange x;
  json_t *list = NULL;
  exchange_init(&x, NULL);
  double seconds = r->seconds > 0 ? PU_MIN(r->seconds, LIST_SECONDS) : LIST_SECONDS;
  pu_err err = exchange_run(r, path, (pu_str){0}, seconds, never, &x, e);
  bool no_list = !err && wanted && !x.err && (x.status == 404 || x.status == 405);
  if (!err && !no_list) err = check_exchange(r, path, &x, e);
  if (!err && !no_list) err = pu_json_parse(r->base, pu_str_of(x.body.data ? x.body.data : "", x.body.len), &list, e);
  if (!err) err = choose_model(r, list, wanted, e);
  json_decref(list);
  exchange_deinit(&x);
  return err;
}

static pu_err set_up(remote *r, const pu_agent_server *o, pu_error *e) {
  size_t n = strlen(o->url);
  while (n && o->url[n - 1] == '/') n--;
  if (n >= 3 && memcmp(o->url + n - 3, "/v1", 3) == 0) n -= 3;
  if (strncmp(o->url, "http://", 7) != 0 && strncmp(o->url, "https://", 8) != 0)
    return pu_fail(e, PU_ERR_USAGE, "%s: an address begins with http:// or https://", o->url);
  r->base = strndup(o->url, n);
  r->ca_file = o->ca_file ? strdup(o->ca_file) : NULL;
  if (o->key && asprintf(&r->header, "Authorization: Bearer %s", o->key) < 0) r->header = NULL;
  if (!r->base || (o->ca_file && !r->ca_file) || (o->key && !r->header))
    return pu_fail(e, PU_ERR_NOMEM, "no memory for a server");
  return find_model(r, o->model, e);
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
