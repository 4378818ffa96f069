/* Asking servers that speak OpenAI's API: addresses, keys, what errors say, lists of models as servers have them. */
#include <stdlib.h>
#include <unistd.h>

#include "tests/net/served.h"

/* ---- a server to ask: what stands first in the path is the way it behaves ---- */

typedef struct scene {
  const char *path;
  int status;
  const char *body;
} scene;

#define LIST                                                                                                           \
  "{\"data\": [{\"id\": \"one\", \"owned_by\": \"puyu\", \"max_model_len\": 512}, {\"id\": \"two\", "                  \
  "\"owned_by\": \"me\", \"max_model_len\": -3}, {\"id\": 3}]}"

static const scene scenes[] = {{"/v1/models", 200, LIST},
                               {"/none/v1/models", 200, "{\"data\": []}"},
                               {"/odd/v1/models", 200, "[1"},
                               {"/strange/v1/models", 200, "{\"data\": {\"id\": 7}}"},
                               {"/nolist/v1/models", 404, "no"},
                               {"/refuses/v1/models", 405, "no"},
                               {"/down/v1/models", 503, "{\"detail\": \"loading\"}"},
                               {"/long/ask", 400, "{\"message\": \"this model's maximum context is 5\"}"},
                               {"/long/other", 400, "{\"message\": \"no such thing\"}"}};

static void handler(void *arg, pu_http_request *r) {
  (void)arg;
  const char *path = pu_http_path(r), *key = pu_http_header(r, "authorization");
  if (strcmp(path, "/locked/v1/models") == 0) {
    bool open = key && strcmp(key, "Bearer a key") == 0;
    pu_http_reply(r, open ? 200 : 401, "application/json", pu_str_c(open ? LIST : "{\"error\": \"who are you\"}"));
    return;
  }
  if (strcmp(path, "/echo") == 0) {
    pu_http_reply(r, 200, pu_http_header(r, "content-type"), pu_http_body(r));
    return;
  }
  if (strcmp(path, "/hang") == 0) return;
  for (size_t i = 0; i < PU_COUNT(scenes); i++) {
    if (strcmp(path, scenes[i].path) != 0) continue;
    pu_http_reply(r, scenes[i].status, "application/json", pu_str_c(scenes[i].body));
    return;
  }
  pu_http_reply(r, 418, "text/plain", pu_str_c(path));
}

static served server, by_socket;
static char socket_path[64];

static int open_servers(void **state) {
  (void)state;
  snprintf(socket_path, sizeof socket_path, "/tmp/puyu-api-%d.sock", (int)getpid());
  server = served_open((pu_http_options){.handler = handler});
  by_socket = served_open((pu_http_options){.handler = handler, .unix_path = socket_path});
  return 0;
}

static int close_servers(void **state) {
  (void)state;
  served_close(server);
  served_close(by_socket);
  return 0;
}

static pu_api api_at(const char *path, const char *key) {
  char url[200];
  pu_api api;
  pu_error e;
  snprintf(url, sizeof url, "%s%s", pu_http_url(server.s), path);
  assert_ok(pu_api_init(&(pu_api_options){.url = url, .key = key}, &api, &e), &e);
  return api;
}

/* ---- tests ---- */

static void addresses(void **state) {
  (void)state;
  static const char *const good[][2] = {{"http://h", "http://h"},
                                        {"http://h:1/", "http://h:1"},
                                        {"https://h/v1", "https://h"},
                                        {"http://h/v1//", "http://h"},
                                        {"http://h//v1", "http://h/"},
                                        {"http://h/v1/v1", "http://h/v1"},
                                        {"http://h/api/v1/", "http://h/api"},
                                        {"http://h/v10", "http://h/v10"}},
                           *const bad[] = {"", "/", "/v1", "ftp://h", "h:80", "http:/h"};
  pu_api api;
  pu_error e;
  for (size_t i = 0; i < PU_COUNT(good); i++) {
    assert_ok(pu_api_init(&(pu_api_options){.url = good[i][0]}, &api, &e), &e);
    assert_string_equal(api.base, good[i][1]);
    pu_api_deinit(&api);
  }
  for (size_t i = 0; i < PU_COUNT(bad); i++) {
    assert_int_equal(pu_api_init(&(pu_api_options){.url = bad[i]}, &api, &e), PU_ERR_USAGE);
    assert_non_null(strstr(e.msg, "http://"));
    pu_api_deinit(&api);
  }
  assert_ok(pu_api_init(&(pu_api_options){.url = "h:80/v1", .any_scheme = true}, &api, &e), &e);
  assert_string_equal(api.base, "h:80");
  pu_api_deinit(&api);
  pu_api_deinit(&api); /* twice does no harm */
}

#define TEN     "0123456789"
#define HUNDRED TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN

static void errors_are_a_line(void **state) {
  (void)state;
  static const struct {
    int status;
    const char *body, *says;
  } rows[] = {{0, "{\"error\":{\"message\":\"no\",\"code\":1}}", "no"},
              {500, "{\"error\":\"no\",\"message\":\"other\"}", "status 500: no"},
              {500, "{\"error\":{},\"message\":\"no\"}", "status 500: no"},
              {500, "{\"message\":\"no\"}", "status 500: no"},
              {500, "{\"detail\":\"no\"} and more", "status 500: no"},
              {500, "{\"detail\":[\"no\"]}", "status 500: {\"detail\":[\"no\"]}"},
              {0, "{\"error\":{\"message\":\"\"}}", "{\"error\":{\"message\":\"\"}}"}, /* never nothing */
              {0, "{\"error\":null,\"message\":7}", "{\"error\":null,\"message\":7}"},
              {502, "", "status 502: "},
              {503, "busy\n\x1b[31m", "status 503: busy  [31m"},
              {0, "{\"message\":\"two\\nlines\\u007f\"}", "two lines "},
              {0, HUNDRED HUNDRED "more", HUNDRED HUNDRED},
              {401, "{\"detail\":\"no\"}", "status 401: no (a key is taken from PUYU_API_KEY)"}};
  char why[PU_API_WHY], narrow[60];
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    pu_api_error(rows[i].status, pu_str_c(rows[i].body), why, sizeof why);
    assert_string_equal(why, rows[i].says);
  }
  pu_api_error(500, (pu_str){0}, why, sizeof why);
  assert_string_equal(why, "status 500: ");
  pu_api_error(401, pu_str_c(HUNDRED), narrow, sizeof narrow); /* what is to be done stays */
  assert_string_equal(narrow, "status 401: 012345678901 (a key is taken from PUYU_API_KEY)");
  assert_true(pu_api_is_too_long(400, "the prompt is too long"));
  assert_false(pu_api_is_too_long(500, "the prompt is too long"));
  assert_false(pu_api_is_too_long(400, "no"));
}

static void models(void **state) {
  (void)state;
  static const struct {
    const char *path, *wanted, *key;
    pu_err err;
    const char *name, *says; /* "": none */
    int64_t context;
    bool is_puyu;
  } rows[] = {{"", NULL, NULL, PU_OK, "one", "", 512, true},
              {"/v1/", "two", NULL, PU_OK, "two", "", 0, false},
              {"", "three", NULL, PU_OK, "three", "", 512, true}, /* perhaps an adapter that it does not list */
              {"/none", NULL, NULL, PU_OK, "", "", 0, false},
              {"/none", "x", NULL, PU_OK, "x", "", 0, false},
              {"/strange", NULL, NULL, PU_OK, "", "", 0, false},
              {"/nolist", "x", NULL, PU_OK, "x", "", 0, false},
              {"/refuses", "x", NULL, PU_OK, "x", "", 0, false},
              {"/nolist", NULL, NULL, PU_ERR_IO, "", "/nolist/v1/models: status 404: no", 0, false},
              {"/down", "x", NULL, PU_ERR_IO, "", "/down/v1/models: status 503: loading", 0, false},
              {"/odd", "x", NULL, PU_ERR_FORMAT, "", "/odd/v1/models:", 0, false},
              {"/locked", NULL, "wrong", PU_ERR_IO, "", "status 401: who are you (a key is", 0, false},
              {"/locked", NULL, "a key", PU_OK, "one", "", 512, true}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    pu_api api = api_at(rows[i].path, rows[i].key);
    pu_api_model m;
    pu_error e = {0};
    pu_err err = pu_api_find_model(&api, rows[i].wanted, 60, &m, &e);
    if (err != rows[i].err || !strstr(e.msg, rows[i].says)) fail_msg("%zu: error %d: %s", i, err, e.msg);
    assert_string_equal(m.name ? m.name : "", rows[i].name);
    assert_int_equal(m.context, rows[i].context);
    assert_int_equal(m.is_puyu, rows[i].is_puyu);
    free(m.name);
    pu_api_deinit(&api);
  }
}

static void by_a_unix_socket(void **state) {
  (void)state;
  pu_api api;
  pu_api_model m;
  pu_error e;
  const pu_api_options o = {.url = "http://localhost/v1", .unix_path = socket_path};
  assert_ok(pu_api_init(&o, &api, &e), &e);
  assert_ok(pu_api_find_model(&api, "two", 60, &m, &e), &e);
  assert_string_equal(m.name, "two");
  free(m.name);
  pu_api_deinit(&api);
}

static bool count(void *arg, int status, pu_str piece) {
  assert_int_equal(status, 200);
  *(size_t *)arg += piece.len;
  return true;
}

static bool at_once(void) {
  return true;
}

static pu_err call(const char *path, pu_http_ask ask, bool (*stop)(void), size_t most, pu_api_reply *r, pu_error *e) {
  pu_api api = api_at("/v1", NULL);
  json_t *v = NULL;
  *r = (pu_api_reply){0};
  *e = (pu_error){0};
  pu_buf_init(&r->body, most);
  pu_err err = pu_api_call(&api, path, &ask, stop, r, e);
  if (!err) err = pu_api_json(&api, path, r, &v, e);
  json_decref(v);
  pu_api_deinit(&api);
  return err;
}

static void exchanges_end_in_many_ways(void **state) {
  (void)state;
  pu_api_reply r;
  pu_error e;
  size_t heard = 0;
  const pu_http_ask list = {.body = pu_str_c("[1,2,3]"), .seconds = 60},
                    told = {.body = pu_str_c("[1,2,3]"), .seconds = 60, .on_data = count, .arg = &heard};
  const struct {
    const char *path;
    pu_http_ask ask;
    bool (*stop)(void);
    size_t most;
    pu_err err;
    const char *says, *body;
  } rows[] = {{"/echo", list, NULL, 100, PU_OK, "", "[1,2,3]"},
              {"/echo", told, NULL, 100, PU_ERR_FORMAT, "/echo", ""}, /* on_data took it */
              {"/other", told, NULL, 100, PU_ERR_IO, "/other: status 418: /other", "/other"},
              {"/echo", list, NULL, 5, PU_ERR_FORMAT, "/echo: its answer is too large", NULL},
              {"/long/ask", list, NULL, 100, PU_ERR_USAGE, "status 400: this model's maximum context is 5", NULL},
              {"/long/other", list, NULL, 100, PU_ERR_IO, "status 400: no such thing", NULL},
              {"/hang", list, at_once, 100, PU_ERR_STOPPED, "/hang: it was stopped", ""},
              {"/hang", {.seconds = 0.1}, NULL, 100, PU_ERR_IO, "/hang: ", ""}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    pu_err err = call(rows[i].path, rows[i].ask, rows[i].stop, rows[i].most, &r, &e);
    if (err != rows[i].err || !strstr(e.msg, rows[i].says)) fail_msg("%zu: error %d: %s", i, err, e.msg);
    if (rows[i].body) assert_string_equal(r.body.data ? r.body.data : "", rows[i].body);
    pu_buf_deinit(&r.body);
  }
  assert_int_equal(heard, 7);
  pu_api dead;
  pu_api_model m;
  assert_ok(pu_api_init(&(pu_api_options){.url = "http://127.0.0.1:1"}, &dead, &e), &e);
  assert_int_equal(pu_api_find_model(&dead, "x", 60, &m, &e), PU_ERR_IO);
  assert_non_null(strstr(e.msg, "http://127.0.0.1:1/v1/models: "));
  assert_null(m.name);
  pu_api_deinit(&dead);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(addresses), cmocka_unit_test(errors_are_a_line),
                                     cmocka_unit_test(models), cmocka_unit_test(by_a_unix_socket),
                                     cmocka_unit_test(exchanges_end_in_many_ways)};
  return cmocka_run_group_tests(tests, open_servers, close_servers);
}
