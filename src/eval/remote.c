/* Asking a server that speaks OpenAI's API. Options are told by /v1/completions with echo and logprobs: all options of
 * a question in one request, as prompts, and puyu learns where they begin; windows of a text as ids from /tokenize;
 * answers by /v1/completions, or as a turn by /v1/chat/completions. What fails for now (no connection, statuses 429 and
 * 5xx) is sent again later. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "puyu/net.h"
#include "src/eval/internal.h"

enum { MOST_BODY = 256 << 20 };
static const double LONGEST_WAIT = 0.1, LONGEST_PAUSE = 60;

typedef struct remote {
  pu_eval_model m;
  pu_http_client *client;
  pu_api api;
  pu_api_model served;
  int concurrency, retries;
  double seconds;
  bool wants_one; /* the server refuses max_tokens 0 */
} remote;

typedef struct running running;

/* A request, however often it is sent. */
typedef struct exchange {
  running *r;
  eval_ask *ask;
  int64_t shots;
  int tries;
  double due; /* to be sent again */
  pu_buf body;
  struct exchange *next; /* of those that wait */
} exchange;

struct running {
  remote *x;
  eval_next next;
  eval_done done;
  void *arg;
  exchange *waiting;
  size_t active;
  bool all_begun;
  pu_err err;
  pu_error why;
};

/* ---- bodies ---- */

static json_t *text_json(const pu_buf *b) {
  return json_stringn(b->data ? b->data : "", b->len);
}

/* Where the options begin; before that nothing has to be told, and the server need not compute it again. */
static void add_from(json_t *body, const eval_ask *ask, pu_str before) {
  if (!ask->n_options || ask->whole) return;
  json_int_t n = 0;
  for (size_t i = 0; i < before.len; i++) n += ((unsigned char)before.ptr[i] & 0xC0) != 0x80;
  json_object_set_new(body, "logprobs_from", json_integer(n));
}

static json_t *option_prompts(const eval_ask *ask, pu_buf *text) {
  json_t *list = json_array();
  size_t len = text->len;
  for (size_t i = 0; list && i < ask->n_options; i++) {
    text->len = len;
    pu_buf_append(text, ask->options[i].ptr, ask->options[i].len);
    json_array_append_new(list, text_json(text));
  }
  return list;
}

static json_t *window_prompt(const eval_ask *ask) {
  json_t *list = json_array();
  for (size_t i = 0; list && i < ask->n_ids; i++) json_array_append_new(list, json_integer(ask->ids[i]));
  return list;
}

static bool tells(const eval_ask *ask) {
  return ask->n_options || ask->ids;
}

static void add_stop(json_t *body, const eval_ask *ask) {
  json_t *list = json_array();
  for (size_t i = 0; i < ask->stop->n; i++) json_array_append_new(list, json_string(ask->stop->v[i]));
  if (ask->stop->n)
    json_object_set_new(body, "stop", list);
  else
    json_decref(list);
}

/* The caller frees it; NULL: no memory. */
static char *body_of(const remote *x, const eval_ask *ask, int64_t shots) {
  pu_buf text;
  pu_buf_init(&text, MOST_BODY);
  json_t *body = json_pack("{s:s,s:i}", "model", x->served.name, "temperature", 0);
  bool ok = body && (ask->ids || eval_put_prompt(ask, shots, &text));
  if (ok && tells(ask)) {
    if (x->served.is_puyu) add_from(body, ask, pu_str_of(text.data ? text.data : "", text.len));
    json_object_set_new(body, "prompt", ask->ids ? window_prompt(ask) : option_prompts(ask, &text));
    json_object_set_new(body, "max_tokens", json_integer(x->wants_one));
    json_object_set_new(body, "echo", json_true());
    json_object_set_new(body, "logprobs", json_integer(1));
  } else if (ok) {
    json_t *prompt = text_json(&text);
    if (x->m.chat)
      json_object_set_new(body, "messages", json_pack("[{s:s,s:o}]", "role", "user", "content", prompt));
    else
      json_object_set_new(body, "prompt", prompt);
    json_object_set_new(body, "max_tokens", json_integer(ask->max_tokens));
    add_stop(body, ask);
  }
  char *out = ok ? json_dumps(body, JSON_COMPACT) : NULL;
  json_decref(body);
  pu_buf_deinit(&text);
  return out;
}

/* ---- answers ---- */

static pu_err take_reply(exchange *g, pu_error *e) {
  const remote *x = g->r->x;
  pu_str body = pu_str_of(g->body.data ? g->body.data : "", g->body.len);
  return tells(g->ask) ? eval_reply_told(x->api.base, body, x->wants_one, g->ask, e)
                       : eval_reply_answer(x->api.base, body, x->m.chat, g->ask, e);
}

/* ---- sending ---- */

static bool on_data(void *arg, int status, pu_str piece) {
  (void)status;
  return pu_buf_append(&((exchange *)arg)->body, piece.ptr, piece.len);
}

static void exchange_free(exchange *g) {
  pu_buf_deinit(&g->body);
  free(g);
}

static void finish(exchange *g) {
  running *r = g->r;
  eval_ask *ask = g->ask;
  ask->n_shots = g->shots;
  exchange_free(g);
  if (!r->err) r->err = r->done(r->arg, ask, &r->why);
}

static void again(exchange *g, double seconds) {
  pu_buf_clear(&g->body);
  g->due = pu_now() + seconds;
  g->next = g->r->waiting;
  g->r->waiting = g;
}

/* A request that the server does not take as it is. */
static void on_refused(exchange *g, int status) {
  running *r = g->r;
  char why[PU_API_WHY];
  pu_api_error(status, pu_str_of(g->body.data, g->body.len), why, sizeof why);
  if (pu_api_is_too_long(status, why) && !g->ask->ids) {
    g->ask->too_long = g->shots == 0;
    if (g->shots == 0) {
      finish(g);
      return;
    }
    g->shots--;
    again(g, 0);
    return;
  }
  if (status == 400 && tells(g->ask) && strstr(why, "max_tokens") && !r->x->wants_one) {
    r->x->wants_one = true;
    again(g, 0);
    return;
  }
  bool no_route = status == 404 && tells(g->ask);
  r->err = pu_fail(&r->why, PU_ERR_IO, "%s: %s%s", r->x->api.base, why,
                   no_route ? " (this task needs /v1/completions with echo and logprobs)" : "");
  exchange_free(g);
}

static void on_end(void *arg, int status, pu_err err, const char *said) {
  exchange *g = arg;
  running *r = g->r;
  r->active--;
  if (r->err) {
    exchange_free(g);
    return;
  }
  bool for_now = err || status == 429 || status >= 500;
  if (for_now && g->tries++ < r->x->retries) {
    again(g, PU_MIN(ldexp(1, g->tries - 1), LONGEST_PAUSE));
    return;
  }
  if (err) {
    r->err = pu_fail(&r->why, PU_ERR_IO, "%s: %s, after %d tries", r->x->api.base, said, g->tries);
    exchange_free(g);
  } else if (status != 200) {
    on_refused(g, status);
  } else if ((r->err = take_reply(g, &r->why)) != PU_OK) {
    exchange_free(g);
  } else {
    finish(g);
  }
}

static pu_err send_it(exchange *g, pu_error *e) {
  remote *x = g->r->x;
  bool chat = x->m.chat && !tells(g->ask);
  char *body = body_of(x, g->ask, g->shots);
  pu_err err = body ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
  if (!err) {
    const pu_http_ask ask = {
        .body = pu_str_c(body), .seconds = x->seconds, .on_data = on_data, .on_end = on_end, .arg = g};
    err = pu_api_start(&x->api, x->client, chat ? "/v1/chat/completions" : "/v1/completions", ask, e);
  }
  free(body);
  if (err)
    exchange_free(g);
  else
    g->r->active++;
  return err;
}

/* What is due again, and new ones, as many as may be under way. */
static pu_err send_due(running *r, pu_error *e) {
  exchange *due = NULL;
  for (exchange **at = &r->waiting; *at;) {
    exchange *g = *at;
    if (g->due > pu_now()) {
      at = &g->next;
      continue;
    }
    *at = g->next;
    g->next = due;
    due = g;
  }
  while (due) {
    exchange *g = due;
    due = g->next;
    pu_err err = send_it(g, e);
    if (!err) continue;
    for (; due; due = g) { /* none is lost */
      g = due->next;
      exchange_free(due);
    }
    return err;
  }
  while (!r->all_begun && r->active < (size_t)r->x->concurrency && !r->waiting) {
    eval_ask *ask = r->next(r->arg);
    exchange *g = ask ? calloc(1, sizeof *g) : NULL;
    r->all_begun = !ask;
    if (!ask) break;
    if (!g) return pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
    *g = (exchange){.r = r, .ask = ask, .shots = ask->n_shots};
    pu_buf_init(&g->body, MOST_BODY);
    PU_TRY(send_it(g, e));
  }
  return PU_OK;
}

static pu_err run_all(running *r, pu_error *e) {
  while (!r->err) {
    PU_TRY(send_due(r, e));
    if (r->all_begun && r->active == 0 && !r->waiting) return PU_OK;
    if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "it was stopped");
    PU_TRY(pu_http_client_wait(r->x->client, LONGEST_WAIT, e));
  }
  if (e) *e = r->why;
  return r->err;
}

static pu_err run(pu_eval_model *m, eval_next next, eval_done done, void *arg, pu_error *e) {
  remote *x = (remote *)(void *)m;
  running r = {.x = x, .next = next, .done = done, .arg = arg};
  PU_TRY(pu_http_client_open(&x->client, e));
  pu_err err = run_all(&r, e);
  if (err && !r.err) r.err = err; /* what is dropped now is no result */
  pu_http_client_free(x->client);
  x->client = NULL;
  for (exchange *g; (g = r.waiting);) {
    r.waiting = g->next;
    exchange_free(g);
  }
  return err;
}

/* ---- the model ---- */

static pu_err encode(pu_eval_model *m, pu_str text, pu_ids *out, pu_error *e) {
  static const char path[] = "/tokenize";
  const remote *x = (const remote *)(const void *)m;
  pu_api_reply r = {0};
  json_t *v = NULL,
         *body = json_pack("{s:s,s:s%,s:b}", "model", x->served.name, "prompt", text.ptr, text.len, "add_special", 1);
  char *words = body ? json_dumps(body, JSON_COMPACT) : NULL;
  json_decref(body);
  if (!words) return pu_fail(e, PU_ERR_FORMAT, "the text is not UTF-8");
  pu_buf_init(&r.body, MOST_BODY);
  pu_err err = pu_api_call(&x->api, path, &(pu_http_ask){.body = pu_str_c(words), .seconds = x->seconds}, NULL, &r, e);
  if (!err) err = pu_api_json(&x->api, path, &r, &v, e);
  pu_buf_deinit(&r.body);
  free(words);
  if (err) return pu_fail_in(e, err, "windows of a text are cut by the server's /tokenize");
  const json_t *ids = json_object_get(v, "tokens");
  for (size_t i = 0; i < json_array_size(ids) && !err; i++)
    if (!pu_ids_push(out, (int32_t)json_integer_value(json_array_get(ids, i))))
      err = pu_fail(e, PU_ERR_NOMEM, "no memory for a text");
  json_decref(v);
  return err;
}

static int64_t context(const pu_eval_model *m) {
  return ((const remote *)(const void *)m)->served.context;
}

static void remote_close(pu_eval_model *m) {
  remote *x = (remote *)(void *)m;
  pu_api_deinit(&x->api);
  free(x->served.name);
}

/* ---- opening ---- */

static pu_err set_up(remote *x, const pu_eval_remote *o, pu_error *e) {
  PU_TRY(pu_api_init(&(pu_api_options){.url = o->url, .ca_file = o->ca_file, .key = o->key}, &x->api, e));
  PU_TRY(pu_api_find_model(&x->api, o->model, o->seconds, &x->served, e));
  if (x->served.name) return PU_OK;
  return pu_fail(e, PU_ERR_FORMAT, "%s: names no model: say which one with --served", x->api.base);
}

pu_err pu_eval_remote_open(const pu_eval_remote *o, pu_eval_model **out, pu_error *e) {
  remote *x = calloc(1, sizeof *x);
  char identity[600];
  *out = NULL;
  if (!x) return pu_fail(e, PU_ERR_NOMEM, "no memory for a server");
  *x = (remote){.m = {.chat = o->chat, .run = run, .encode = encode, .context = context, .close = remote_close},
                .concurrency = PU_MAX(o->concurrency, 1),
                .retries = o->retries,
                .seconds = o->seconds};
  pu_err err = set_up(x, o, e);
  if (err) {
    pu_eval_model_close(&x->m);
    return err;
  }
  snprintf(identity, sizeof identity, "%s %s", x->api.base, x->served.name);
  PU_TRY(eval_model_name(&x->m, o->name ? o->name : x->served.name, identity, e));
  *out = &x->m;
  return PU_OK;
}
