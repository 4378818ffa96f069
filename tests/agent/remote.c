/* Servers: streams of calls in all the ways they come, servers that fail in all the ways they do, and puyu's own. */
#include "tests/agent/fake.h"
#include "tests/net/served.h"
#include "tests/serve/tiny.h"

/* ---- a scripted server: the first part of a path says what it does ---- */

#define CHUNK(delta, finish)                                                                                           \
  "data: {\"choices\": [{\"index\": 0, \"delta\": " delta ", \"finish_reason\": " finish "}]}\n\n"
#define DONE "data: [DONE]\n\n"
#define STOP CHUNK("{}", "\"stop\"") DONE

typedef struct scene {
  const char *name;
  int status;
  const char *first;  /* its answer to a question; NULL: it never comes */
  const char *second; /* once there are results of tools */
} scene;

static const scene scenes[] = {
    {"pieces", 200,
     CHUNK("{\"role\": \"assistant\", \"content\": \"\"}", "null") CHUNK("{\"content\": \"let \"}", "null") CHUNK(
         "{\"content\": \"me\"}", "null") CHUNK("{\"tool_calls\": [{\"index\": 0, \"id\": \"a1\", \"type\": "
                                                "\"function\", \"function\": {\"name\": "
                                                "\"calculator\", \"arguments\": \"\"}}]}",
                                                "null")
         CHUNK("{\"tool_calls\": [{\"index\": 0, \"function\": {\"arguments\": \"{\\\"expr\"}}]}", "null") CHUNK(
             "{\"tool_calls\": [{\"index\": 0, \"function\": {\"arguments\": \"ession\\\": \\\"6*7\\\"}\"}}]}", "null")
             CHUNK("{\"tool_calls\": [{\"index\": 1, \"id\": \"a2\", \"type\": \"function\", \"function\": {\"name\": "
                   "\"echo\", \"arguments\": \"{\\\"a\\\": 1}\"}}]}",
                   "null") CHUNK("{}", "\"tool_calls\"") "data: {\"choices\": [], \"usage\": {}}\n\n" DONE,
     CHUNK("{\"content\": \"42\"}", "null") STOP},
    /* No indexes; arguments that are an object; two calls with one index; no [DONE]. */
    {"loose", 200,
     CHUNK("{\"tool_calls\": [{\"id\": \"x\", \"function\": {\"name\": \"calculator\", \"arguments\": {\"expression\": "
           "\"6*7\"}}}, {\"function\": {\"name\": \"echo\", \"arguments\": \"{\"}}, {\"function\": {\"arguments\": "
           "\"\\\"a\\\": 1}\"}}]}",
           "\"stop\""),
     CHUNK("{\"content\": \"42\"}", "\"stop\"")},
    {"samei", 200,
     CHUNK("{\"tool_calls\": [{\"index\": 0, \"id\": \"x\", \"function\": {\"name\": \"calculator\", \"arguments\": "
           "\"{\\\"expression\\\": \\\"6*7\\\"}\"}}]}",
           "null")
         CHUNK("{\"tool_calls\": [{\"index\": 0, \"id\": \"y\", \"function\": {\"name\": \"echo\", \"arguments\": "
               "\"{\\\"a\\\": 1}\"}}]}",
               "null") STOP,
     CHUNK("{\"content\": \"42\"}", "null") STOP},
    {"whole", 200,
     " {\"choices\": [{\"message\": {\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"x\", "
     "\"function\": {\"name\": \"calculator\", \"arguments\": \"{\\\"expression\\\": \\\"6*7\\\"}\"}}, {\"id\": \"y\", "
     "\"function\": {\"name\": \"echo\", \"arguments\": \"{\\\"a\\\": 1}\"}}]}, \"finish_reason\": \"tool_calls\"}]}",
     "{\"choices\": [{\"message\": {\"role\": \"assistant\", \"content\": \"42\"}, \"finish_reason\": \"stop\"}]}"},
    {"cut", 200, CHUNK("{\"content\": \"so lon\"}", "\"length\"") DONE, NULL},
    {"error", 200, CHUNK("{\"content\": \"so\"}", "null") "data: {\"error\": {\"message\": \"out of\\nmemory\"}}\n\n",
     NULL},
    {"broken", 200, CHUNK("{\"content\": \"so\"}", "null"), NULL},
    {"page", 200, "<html>hello</html>\n\n", NULL},
    {"odd", 200, "data: [1, 2]\n\n", NULL},
    {"empty", 200, "", NULL},
    {"many", 200, NULL, NULL},
    {"hush", 200, "data: {\"error\": {\"message\": \"\"}}\n\n", NULL},
    {"bad500", 500, "{\"error\": {\"message\": \"it hurts\"}}", NULL},
    {"bad400", 400, "{\"error\": {\"message\": \"this model's maximum context is 5\"}}", NULL},
    {"bad401", 401, "{\"detail\": \"who are you\"}", NULL},
    {"plain", 503, "busy\n\x1b[31m", NULL},
    {"hang", 200, NULL, NULL},
};

static _Atomic int asked;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of: */
static char last_body[1 << 16];

/* What was asked last. */
static const char *heard_body(void) {
  static char copy[sizeof last_body];
  pthread_mutex_lock(&lock);
  memcpy(copy, last_body, sizeof copy);
  pthread_mutex_unlock(&lock);
  return copy;
}

static void reply_many(pu_http_request *r) {
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  for (int i = 0; i < 100; i++)
    pu_buf_printf(&b, CHUNK("{\"tool_calls\": [{\"index\": %d, \"function\": {\"name\": \"echo\"}}]}", "null"), i);
  pu_http_reply(r, 200, "text/event-stream", pu_str_of(b.data, b.len));
  pu_buf_deinit(&b);
}

static void handler(void *arg, pu_http_request *r) {
  const char *path = pu_http_path(r) + 1;
  (void)arg;
  if (strcmp(path, "nolist/v1/models") == 0) {
    pu_http_reply(r, 404, "text/plain", pu_str_c("no"));
    return;
  }
  if (strcmp(path, "nomodels/v1/models") == 0) {
    pu_http_reply(r, 200, "application/json", pu_str_c("{\"data\": []}"));
    return;
  }
  if (strcmp(path, "odd-list/v1/models") == 0) {
    pu_http_reply(r, 200, "application/json", pu_str_c("[1"));
    return;
  }
  if (pu_ends_with(path, "/models")) {
    pu_http_reply(r, 200, "application/json", pu_str_c("{\"data\": [{\"id\": \"one\"}, {\"id\": \"two\"}]}"));
    return;
  }
  pu_str body = pu_http_body(r);
  pthread_mutex_lock(&lock);
  snprintf(last_body, sizeof last_body, "%.*s", (int)body.len, body.ptr);
  bool again = strstr(last_body, "\"role\":\"tool\"");
  pthread_mutex_unlock(&lock);
  asked++;
  for (size_t i = 0; i < PU_COUNT(scenes); i++) {
    const scene *s = &scenes[i];
    if (strncmp(path, s->name, strlen(s->name)) != 0) continue;
    if (strcmp(s->name, "many") == 0) {
      reply_many(r);
      return;
    }
    const char *text = s->second && again ? s->second : s->first;
    if (text) pu_http_reply(r, s->status, "text/event-stream", pu_str_c(text));
    return;
  }
  pu_http_reply(r, 404, "text/plain", pu_str_c("no"));
}

static served server;

static int open_server(void **state) {
  (void)state;
  server = served_open((pu_http_options){.handler = handler});
  return 0;
}

static int close_server(void **state) {
  (void)state;
  served_close(server);
  return 0;
}

/* ---- asking it ---- */

typedef struct bench {
  pu_agent_model *m;
  pu_agent *a;
  pu_buf text;
  pu_error e;
} bench;

static void on_event(void *arg, const pu_agent_event *ev) {
  if (ev->kind == PU_AGENT_TEXT) pu_buf_append(arg, ev->text.ptr, ev->text.len);
}

static void open_bench(bench *b, const char *name, double seconds, bool (*stop)(void)) {
  char url[200];
  snprintf(url, sizeof url, "%s/%s/v1/", pu_http_url(server.s), name);
  const pu_agent_server o = {.url = url, .seconds = seconds};
  assert_ok(pu_agent_remote(&o, &b->m, &b->e), &b->e);
  pu_buf_init(&b->text, 1 << 20);
  b->a = fake_agent((pu_agent_options){
      .model = b->m, .on_event = on_event, .arg = &b->text, .how = pu_sampling_default(), .stop = stop});
}

static void close_bench(bench *b) {
  pu_agent_close(b->a);
  pu_agent_model_close(b->m);
  pu_buf_deinit(&b->text);
}

static void calls_come_in_many_ways(void **state) {
  (void)state;
  static const char *const names[] = {"pieces", "loose", "samei", "whole"};
  for (size_t i = 0; i < PU_COUNT(names); i++) {
    bench b;
    pu_agent_end end;
    open_bench(&b, names[i], 60, NULL);
    assert_ok(pu_agent_ask(b.a, pu_str_c("6 * 7?"), &end, &b.e), &b.e);
    assert_int_equal(end, PU_AGENT_ANSWERED);
    const json_t *m = pu_agent_messages(b.a);
    assert_int_equal(json_array_size(m), 5);
    assert_string_equal(at(m, "1/tool_calls/0/function/name"), "calculator");
    assert_string_equal(at(m, "2/content"), "42");
    assert_string_equal(at(m, "3/content"), "{\"a\":1}");
    assert_string_equal(at(m, "4/content"), "42");
    assert_string_equal(b.text.data, i == 0 ? "let me42" : "42");
    assert_non_null(strstr(heard_body(), "\"model\":\"one\""));
    assert_non_null(strstr(heard_body(), "\"tools\":[{\"type\":\"function\""));
    assert_null(strstr(heard_body(), "code_interpreter"));
    assert_null(strstr(heard_body(), "top_k"));
    close_bench(&b);
  }
}

static void failures_are_one_line(void **state) {
  (void)state;
  static const struct {
    const char *name;
    pu_err err;
    const char *says;
  } rows[] = {{"error", PU_ERR_IO, "/error/v1/chat/completions: out of memory"},
              {"hush", PU_ERR_IO, "/hush/v1/chat/completions: {\"error\""},
              {"broken", PU_ERR_FORMAT, "its answer broke off"},
              {"page", PU_ERR_FORMAT, "its answer broke off"},
              {"odd", PU_ERR_FORMAT, "is no stream of JSON objects"},
              {"empty", PU_ERR_FORMAT, "its answer broke off"},
              {"many", PU_ERR_FORMAT, "its answer is too large"},
              {"bad500", PU_ERR_IO, "status 500: it hurts"},
              {"bad400", PU_ERR_USAGE, "status 400: this model's maximum context is 5"},
              {"bad401", PU_ERR_IO, "status 401: who are you (a key is taken from PUYU_API_KEY)"},
              {"plain", PU_ERR_IO, "status 503: busy  [31m"},
              {"hang", PU_ERR_IO, "/hang/v1/chat/completions: "}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    bench b;
    pu_agent_end end;
    open_bench(&b, rows[i].name, strcmp(rows[i].name, "hang") == 0 ? 4 : 60, NULL);
    pu_err err = pu_agent_ask(b.a, pu_str_c("?"), &end, &b.e);
    if (err != rows[i].err || !strstr(b.e.msg, rows[i].says)) fail_msg("%s: error %d: %s", rows[i].name, err, b.e.msg);
    assert_int_equal(json_array_size(pu_agent_messages(b.a)), 0);
    close_bench(&b);
  }
}

static void an_answer_that_is_cut(void **state) {
  (void)state;
  bench b;
  pu_agent_end end;
  open_bench(&b, "cut", 60, NULL);
  assert_ok(pu_agent_ask(b.a, pu_str_c("?"), &end, &b.e), &b.e);
  assert_int_equal(end, PU_AGENT_CUT);
  assert_string_equal(at(pu_agent_messages(b.a), "1/content"), "so lon");
  close_bench(&b);
}

static int before;
static bool once_asked(void) {
  return asked > before;
}

static void a_stop_ends_the_waiting(void **state) {
  (void)state;
  bench b;
  pu_agent_end end;
  before = asked;
  open_bench(&b, "hang", 0, once_asked);
  assert_ok(pu_agent_ask(b.a, pu_str_c("?"), &end, &b.e), &b.e);
  assert_int_equal(end, PU_AGENT_STOPPED);
  close_bench(&b);
}

static void opening(void **state) {
  (void)state;
  static const struct {
    const char *path, *model;
    pu_err err;
    const char *says;
  } rows[] = {{"nolist", NULL, PU_ERR_IO, "status 404"},
              {"nolist", "x", PU_OK, ""},
              {"nomodels", NULL, PU_ERR_FORMAT, "names no model"},
              {"odd-list", NULL, PU_ERR_FORMAT, "']' expected"},
              {"pieces", "two", PU_OK, ""}};
  pu_agent_model *m;
  pu_error e = {0};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    char url[200];
    snprintf(url, sizeof url, "%s/%s", pu_http_url(server.s), rows[i].path);
    const pu_agent_server o = {.url = url, .model = rows[i].model, .key = "k", .seconds = 60};
    e.msg[0] = 0;
    pu_err err = pu_agent_remote(&o, &m, &e);
    if (err != rows[i].err || !strstr(e.msg, rows[i].says)) fail_msg("%s: error %d: %s", rows[i].path, err, e.msg);
    pu_agent_model_close(m);
  }
  const pu_agent_server dead = {.url = "http://127.0.0.1:1"}, strange = {.url = "ftp://x"};
  assert_int_equal(pu_agent_remote(&dead, &m, &e), PU_ERR_IO);
  assert_non_null(strstr(e.msg, "http://127.0.0.1:1/v1/models: "));
  assert_int_equal(pu_agent_remote(&strange, &m, &e), PU_ERR_USAGE);
}

static void sampling_is_sent(void **state) {
  (void)state;
  static const char *const stops[] = {"zz"};
  bench b;
  char url[200];
  pu_agent_end end;
  pu_agent_model *m;
  pu_agent *a;
  snprintf(url, sizeof url, "%s/cut", pu_http_url(server.s));
  const pu_agent_server o = {.url = url, .model = "two", .seconds = 60};
  assert_ok(pu_agent_remote(&o, &m, &b.e), &b.e);
  pu_agent_options ao = {.model = m, .how = pu_sampling_default()};
  ao.how.temperature = 0.5;
  ao.how.top_k = 4;
  ao.how.max_tokens = 9;
  ao.how.seed = 3;
  ao.how.stop = stops;
  ao.how.n_stop = 1;
  assert_ok(pu_agent_open(&ao, &a, &b.e), &b.e);
  assert_ok(pu_agent_ask(a, pu_str_c("?"), &end, &b.e), &b.e);
  json_t *v = json_loads(heard_body(), 0, NULL);
  assert_string_equal(at(v, "model"), "two");
  assert_string_equal(at(v, "temperature"), "0.5");
  assert_string_equal(at(v, "top_k"), "4");
  assert_string_equal(at(v, "max_tokens"), "9");
  assert_string_equal(at(v, "seed"), "3");
  assert_string_equal(at(v, "stop/0"), "zz");
  assert_string_equal(at(v, "top_p"), "nothing");
  assert_string_equal(at(v, "tools"), "nothing");
  json_decref(v);
  pu_agent_close(a);
  pu_agent_model_close(m);
}

/* ---- puyu's own server ---- */

/* The same model in process and behind puyu serve says the same. */
static void our_own_server(void **state) {
  (void)state;
  tiny t;
  pu_error e;
  pu_engine *en;
  pu_agent_model *m[2];
  json_t *got[2];
  char url[100];
  static const char *const names[] = {"calculator"};
  tiny_open(&t, (pu_server_options){0});
  const pu_engine_options eo = {.max_batch = 1, .kv_block = 8};
  assert_ok(pu_engine_over(t.m, t.t, &eo, &en, &e), &e);
  snprintf(url, sizeof url, "http://127.0.0.1:%d", t.port);
  const pu_agent_server so = {.url = url, .seconds = 60};
  assert_ok(pu_agent_engine(en, &m[0], &e), &e);
  assert_ok(pu_agent_remote(&so, &m[1], &e), &e);
  for (int i = 0; i < 2; i++) {
    pu_agent *a;
    pu_agent_end end;
    pu_agent_options o = {
        .model = m[i], .tools = names, .n_tools = 1, .system = "the fox", .how = pu_sampling_default()};
    o.how.max_tokens = 12;
    o.how.temperature = 1;
    o.how.seed = 5;
    assert_ok(pu_agent_open(&o, &a, &e), &e);
    for (int k = 0; k < 2; k++) assert_ok(pu_agent_ask(a, pu_str_c("over the lazy dog?"), &end, &e), &e);
    got[i] = json_deep_copy(pu_agent_messages(a));
    pu_agent_close(a);
    pu_agent_model_close(m[i]);
  }
  assert_int_equal(json_array_size(got[0]), 5);
  assert_true(json_equal(got[0], got[1]));
  json_decref(got[0]);
  json_decref(got[1]);
  pu_engine_free(en);
  tiny_close(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(calls_come_in_many_ways),
      cmocka_unit_test(failures_are_one_line),
      cmocka_unit_test(an_answer_that_is_cut),
      cmocka_unit_test(a_stop_ends_the_waiting),
      cmocka_unit_test(opening),
      cmocka_unit_test(sampling_is_sent),
      cmocka_unit_test(our_own_server),
  };
  return cmocka_run_group_tests(tests, open_server, close_server);
}
