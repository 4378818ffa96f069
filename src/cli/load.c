/* Asking a load of requests and taking the times. One thread: the client's functions are called while it waits. */
#include "src/cli/load.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "puyu/net.h"

enum { MOST_ERROR_BODY = 64 << 10, MOST_EVENT = 16 << 20 };
static const double LONGEST_WAIT = 0.1;

/* Growing lists of times. */
static bool put_time(pu_buf *b, double seconds) {
  return pu_buf_append(b, &seconds, sizeof seconds);
}

typedef struct load {
  const pu_load_options *o;
  const pu_load_plan *plan;
  pu_load_result *r;
  pu_http_client *client;
  pu_api api;
  char *model; /* as JSON */
  size_t next; /* to be sent */
  double begin, end;
  bool stopping;
  pu_buf first, each, gap, whole; /* of doubles */
} load;

typedef struct exchange {
  load *l;
  const pu_load_request *what;
  double sent_at, first_at, last_at; /* first_at 0: no text yet */
  pu_events events;
  pu_buf gaps, error;    /* error: the body of an answer that is none, or what an event said */
  int64_t chunks;        /* of text */
  int64_t input, output; /* as the server counts; -1: it does not */
  bool done;             /* [DONE] came */
} exchange;

/* ---- one exchange ---- */

static void exchange_free(exchange *x) {
  pu_events_deinit(&x->events);
  pu_buf_deinit(&x->gaps);
  pu_buf_deinit(&x->error);
  free(x);
}

static void keep_error(exchange *x, pu_str said) {
  pu_buf_append(&x->error, said.ptr, PU_MIN(said.len, (size_t)MOST_ERROR_BODY - 1 - x->error.len));
}

static void take_usage(exchange *x, const json_t *usage) {
  if (!json_is_object(usage)) return;
  x->input = json_integer_value(json_object_get(usage, "prompt_tokens"));
  x->output = json_integer_value(json_object_get(usage, "completion_tokens"));
}

static bool has_text(const json_t *choice) {
  const json_t *delta = json_object_get(choice, "delta");
  return json_string_length(json_object_get(choice, "text")) > 0 ||
         json_string_length(json_object_get(delta, "content")) > 0 ||
         json_string_length(json_object_get(delta, "reasoning_content")) > 0;
}

static bool on_event(void *arg, pu_str data) {
  exchange *x = arg;
  double now = pu_now();
  if (pu_str_eq(data, pu_str_c("[DONE]"))) {
    x->done = true;
    return true;
  }
  json_t *v = json_loadb(data.ptr, data.len, JSON_ALLOW_NUL, NULL);
  if (!v || json_object_get(v, "error")) {
    keep_error(x, data);
    json_decref(v);
    return false;
  }
  take_usage(x, json_object_get(v, "usage"));
  if (has_text(json_array_get(json_object_get(v, "choices"), 0))) {
    if (x->chunks++ == 0)
      x->first_at = now;
    else
      put_time(&x->gaps, now - x->last_at);
    x->last_at = now;
  }
  json_decref(v);
  return true;
}

static bool on_data(void *arg, int status, pu_str piece) {
  exchange *x = arg;
  if (status == 200) return pu_events_feed(&x->events, piece, on_event, x);
  keep_error(x, piece);
  return true;
}

/* ---- its end ---- */

static void count_failure(load *l, const char *why) {
  pu_load_result *r = l->r;
  size_t i = 0;
  r->failed++;
  while (i < r->n_reasons && strncmp(r->reasons[i].text, why, sizeof r->reasons[i].text - 1) != 0) i++;
  if (i == r->n_reasons && i < PU_LOAD_REASONS) {
    snprintf(r->reasons[i].text, sizeof r->reasons[i].text, "%s", i == PU_LOAD_REASONS - 1 ? "other reasons" : why);
    r->n_reasons++;
  }
  r->reasons[PU_MIN(i, PU_LOAD_REASONS - 1)].n++;
}

static void count_success(load *l, const exchange *x, double now) {
  pu_load_result *r = l->r;
  bool counted = x->output >= 0;
  int64_t made = counted ? x->output : x->chunks;
  double first_at = x->chunks ? x->first_at : now; /* an answer of tokens without text has only an end */
  r->completed++;
  r->counted &= counted;
  r->input_tokens += x->input >= 0 ? x->input : x->what->input;
  r->output_tokens += made;
  r->short_answers += made < x->what->output;
  put_time(&l->first, first_at - x->sent_at);
  put_time(&l->whole, now - x->sent_at);
  if (made > 1 && x->chunks > 1) put_time(&l->each, (x->last_at - first_at) / (double)(made - 1));
  if (x->gaps.len) pu_buf_append(&l->gap, x->gaps.data, x->gaps.len);
}

static void on_end(void *arg, int status, pu_err err, const char *why) {
  exchange *x = arg;
  load *l = x->l;
  char text[200];
  if (l->stopping) {
    l->r->unfinished++;
    exchange_free(x);
    return;
  }
  l->end = pu_now();
  if (status == 200 && x->done && !x->error.len) {
    count_success(l, x, l->end);
  } else {
    if (x->error.len)
      pu_api_error(status, pu_str_of(x->error.data, x->error.len), text, sizeof text);
    else
      snprintf(text, sizeof text, "%s", err ? why : status == 200 ? "the stream ended early" : "no answer");
    count_failure(l, text);
  }
  exchange_free(x);
  if (l->o->progress) l->o->progress(l->o->progress_arg, l->r->completed + l->r->failed, l->r->failed);
}

/* ---- sending ---- */

static void put_body(pu_buf *b, const load *l, const pu_load_request *what) {
  pu_buf_printf(b, "{\"model\":%s,\"temperature\":0,\"max_tokens\":%lld,\"stream\":true,", l->model,
                (long long)what->output);
  pu_buf_puts(b, "\"stream_options\":{\"include_usage\":true},");
  if (l->o->ignore_eos) pu_buf_puts(b, "\"ignore_eos\":true,");
  pu_buf_puts(b, l->o->chat ? "\"messages\":[{\"role\":\"user\",\"content\":" : "\"prompt\":");
  pu_buf_json_str(b, what->prompt);
  pu_buf_puts(b, l->o->chat ? "}]}" : "}");
}

static pu_err send_one(load *l, const pu_load_request *what, pu_error *e) {
  exchange *x = calloc(1, sizeof *x);
  if (!x) return pu_fail(e, PU_ERR_NOMEM, "no memory for a request");
  *x = (exchange){.l = l, .what = what, .input = -1, .output = -1};
  pu_events_init(&x->events, MOST_EVENT);
  pu_buf_init(&x->gaps, PU_BUF_MAX);
  pu_buf_init(&x->error, MOST_ERROR_BODY);
  pu_buf body;
  pu_buf_init(&body, PU_BUF_MAX);
  put_body(&body, l, what);
  const char *path = l->o->chat ? "/v1/chat/completions" : "/v1/completions";
  const pu_http_ask ask = {
      .body = pu_str_of(body.data, body.len), .seconds = l->o->seconds, .on_data = on_data, .on_end = on_end, .arg = x};
  x->sent_at = pu_now();
  pu_err err = body.failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for a request")
                           : pu_api_start(&l->api, l->client, path, ask, e);
  pu_buf_deinit(&body);
  if (err) exchange_free(x);
  return err;
}

/* Sends what is due; the next one's time is in *due. */
static pu_err send_due(load *l, pu_rng *rng, double *due, pu_error *e) {
  while (l->next < l->plan->n && pu_now() >= *due) {
    if (l->o->concurrency && pu_http_client_running(l->client) >= (size_t)l->o->concurrency) return PU_OK;
    PU_TRY(send_one(l, &l->plan->v[l->next++], e));
    if (isfinite(l->o->rate)) *due += -log1p(-pu_rng_uniform(rng)) / l->o->rate;
  }
  return PU_OK;
}

static pu_err ask_all(load *l, pu_error *e) {
  pu_rng rng;
  pu_rng_seed(&rng, pu_random_at(l->o->seed, 0, 0));
  double due = l->begin = l->end = pu_now();
  while (!pu_signals_stop() && (l->next < l->plan->n || pu_http_client_running(l->client) > 0)) {
    PU_TRY(send_due(l, &rng, &due, e));
    double until_due = l->next < l->plan->n ? due - pu_now() : LONGEST_WAIT;
    PU_TRY(pu_http_client_wait(l->client, until_due > 0 ? PU_MIN(until_due, LONGEST_WAIT) : LONGEST_WAIT, e));
  }
  return PU_OK;
}

/* ---- results ---- */

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* The buffer's memory becomes the list's. */
static void take_times(pu_load_times *t, pu_buf *b) {
  *t = (pu_load_times){(double *)(void *)b->data, b->len / sizeof *t->v};
  *b = (pu_buf){0};
  if (t->n) qsort(t->v, t->n, sizeof *t->v, by_size);
}

double pu_load_mean(const pu_load_times *t) {
  double sum = 0;
  for (size_t i = 0; i < t->n; i++) sum += t->v[i];
  return t->n ? sum / (double)t->n : NAN;
}

double pu_load_percentile(const pu_load_times *t, double p) {
  if (t->n == 0) return NAN;
  double at = p * (double)(t->n - 1);
  size_t low = (size_t)at, high = PU_MIN(low + 1, t->n - 1);
  return t->v[low] + (at - (double)low) * (t->v[high] - t->v[low]);
}

void pu_load_result_deinit(pu_load_result *r) {
  free(r->first.v);
  free(r->each.v);
  free(r->gap.v);
  free(r->whole.v);
  *r = (pu_load_result){0};
}

/* ---- the server ---- */

static pu_err open_api(const pu_load_options *o, pu_api *out, pu_error *e) {
  const pu_api_options ao = {
      .url = o->url, .unix_path = o->unix_path, .ca_file = o->ca_file, .key = o->api_key, .any_scheme = true};
  return pu_api_init(&ao, out, e);
}

pu_err pu_load_model(const pu_load_options *o, pu_arena *a, const char **model, int64_t *context, pu_error *e) {
  enum { SECONDS = 30 };
  pu_api api;
  pu_api_model first;
  PU_TRY(open_api(o, &api, e));
  pu_err err = pu_api_find_model(&api, NULL, SECONDS, &first, e);
  if (!err && !first.name) err = pu_fail(e, PU_ERR_FORMAT, "%s/v1/models: names no model: give --name", api.base);
  if (!err) {
    *model = pu_arena_strdup(a, first.name);
    *context = first.context;
    if (!*model) err = pu_fail(e, PU_ERR_NOMEM, "no memory for a name");
  }
  free(first.name);
  pu_api_deinit(&api);
  return err;
}

static pu_err set_up(load *l, pu_arena *a, pu_error *e) {
  pu_buf name;
  pu_buf_init(&name, 1 << 16);
  pu_buf_json_str(&name, pu_str_c(l->o->model ? l->o->model : ""));
  l->model = pu_arena_strdup(a, name.data ? name.data : "\"\"");
  pu_buf_deinit(&name);
  if (!l->model) return pu_fail(e, PU_ERR_NOMEM, "no memory for a load");
  PU_TRY(open_api(l->o, &l->api, e));
  return pu_http_client_open(&l->client, e);
}

pu_err pu_load_run(const pu_load_options *o, const pu_load_plan *plan, pu_load_result *out, pu_error *e) {
  load l = {.o = o, .plan = plan, .r = out};
  pu_buf *const lists[] = {&l.first, &l.each, &l.gap, &l.whole};
  pu_arena *a;
  *out = (pu_load_result){.counted = true};
  PU_TRY(pu_arena_create(1 << 20, &a, e));
  for (size_t i = 0; i < PU_COUNT(lists); i++) pu_buf_init(lists[i], PU_BUF_MAX);
  pu_err err = set_up(&l, a, e);
  if (!err) err = ask_all(&l, e);
  l.stopping = true;
  pu_http_client_free(l.client);
  pu_api_deinit(&l.api);
  out->seconds = l.end - l.begin;
  take_times(&out->first, &l.first);
  take_times(&out->each, &l.each);
  take_times(&out->gap, &l.gap);
  take_times(&out->whole, &l.whole);
  pu_arena_free(a);
  return err;
}
