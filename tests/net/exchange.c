/* The client's side: exchanges at once, dropped ones, those that fail; event streams at every cut. */
#include <stdlib.h>
#include <unistd.h>

#include "tests/net/served.h"

/* ---- a server to ask ---- */

static void handler(void *arg, pu_http_request *r) {
  (void)arg;
  if (strcmp(pu_http_path(r), "/echo") == 0) {
    const char *key = pu_http_header(r, "x-key");
    pu_http_add_header(r, "X-Key", key ? key : "none");
    pu_http_reply(r, key ? 200 : 403, "text/plain", pu_http_body(r));
  } else if (strcmp(pu_http_path(r), "/open") == 0) {
    pu_http_begin(r, 200, "text/event-stream");
    (void)pu_http_write(r, pu_str_c("data: first\n\n"));
  } else {
    pu_http_reply(r, 404, "text/plain", pu_str_c("no"));
  }
}

/* ---- exchanges ---- */

typedef struct heard {
  pu_buf body;
  int status, ends;
  pu_err err;
  bool stops; /* at the first piece */
} heard;

static bool on_data(void *arg, int status, pu_str piece) {
  heard *h = arg;
  h->status = status;
  pu_buf_append(&h->body, piece.ptr, piece.len);
  return !h->stops;
}

static void on_end(void *arg, int status, pu_err err, const char *why) {
  heard *h = arg;
  h->status = status;
  h->err = err;
  h->ends++;
  assert_true(err == PU_OK || *why);
}

static pu_http_ask ask_of(heard *h, const char *url) {
  *h = (heard){0};
  pu_buf_init(&h->body, 1 << 20);
  return (pu_http_ask){.url = url, .on_data = on_data, .on_end = on_end, .arg = h};
}

static void wait_for_all(pu_http_client *c) {
  pu_error e;
  for (int i = 0; i < 1000 && pu_http_client_running(c) > 0; i++) assert_ok(pu_http_client_wait(c, 0.1, &e), &e);
  assert_int_equal(pu_http_client_running(c), 0);
}

static void many_at_once(void **state) {
  (void)state;
  enum { N = 40 };
  served s = served_open((pu_http_options){.handler = handler});
  pu_http_client *c;
  pu_error e;
  char url[100], body[N][20];
  const char *const key[] = {"X-Key: k", NULL};
  static heard h[N];
  assert_ok(pu_http_client_open(&c, &e), &e);
  snprintf(url, sizeof url, "%s/echo", pu_http_url(s.s));
  for (int i = 0; i < N; i++) {
    pu_http_ask ask = ask_of(&h[i], url);
    snprintf(body[i], sizeof body[i], "body %d", i);
    ask.body = pu_str_c(body[i]);
    if (i % 2) ask.headers = key;
    assert_ok(pu_http_client_start(c, &ask, NULL, &e), &e);
  }
  wait_for_all(c);
  for (int i = 0; i < N; i++) {
    assert_int_equal(h[i].ends, 1);
    assert_int_equal(h[i].err, PU_OK);
    assert_int_equal(h[i].status, i % 2 ? 200 : 403);
    assert_string_equal(h[i].body.data, body[i]);
    pu_buf_deinit(&h[i].body);
  }
  pu_http_client_free(c);
  served_close(s);
}

static void ends_of_all_kinds(void **state) {
  (void)state;
  enum { NOT_FOUND, STOPPED, DROPPED, LEFT, REFUSED, LATE, HURRIED, N };
  served s = served_open((pu_http_options){.handler = handler});
  pu_http_client *c;
  pu_http_call *call;
  pu_error e;
  heard h[N];
  char open[100], none[100];
  snprintf(open, sizeof open, "%s/open", pu_http_url(s.s));
  snprintf(none, sizeof none, "%s/none", pu_http_url(s.s));
  assert_ok(pu_http_client_open(&c, &e), &e);
  pu_http_ask ask[N] = {ask_of(&h[NOT_FOUND], none),
                        ask_of(&h[STOPPED], open),
                        ask_of(&h[DROPPED], open),
                        ask_of(&h[LEFT], open),
                        ask_of(&h[REFUSED], "http://127.0.0.1:1/"),
                        ask_of(&h[LATE], open),
                        ask_of(&h[HURRIED], open)};
  h[STOPPED].stops = true;
  ask[LATE].seconds = 0.2;
  ask[HURRIED].seconds = 1e-5; /* less than is counted in, and not any time */
  for (int i = 0; i < N; i++) assert_ok(pu_http_client_start(c, &ask[i], i == DROPPED ? &call : NULL, &e), &e);
  for (int i = 0;
       i < 1000 && (!h[LATE].ends || !h[HURRIED].ends || !h[STOPPED].ends || !h[REFUSED].ends || !h[DROPPED].body.len);
       i++)
    assert_ok(pu_http_client_wait(c, 0.1, &e), &e);
  pu_http_client_drop(call);
  assert_int_equal(pu_http_client_running(c), 1);
  pu_http_client_free(c);
  static const pu_err err[N] = {PU_OK, PU_ERR_STOPPED, PU_ERR_STOPPED, PU_ERR_STOPPED, PU_ERR_IO, PU_ERR_IO, PU_ERR_IO};
  for (int i = 0; i < N; i++) {
    assert_int_equal(h[i].ends, 1);
    assert_int_equal(h[i].err, err[i]);
    pu_buf_deinit(&h[i].body);
  }
  assert_int_equal(h[NOT_FOUND].status, 404);
  served_close(s);
}

static void by_a_unix_socket(void **state) {
  (void)state;
  char path[64];
  pu_http_client *c;
  pu_error e;
  heard h;
  snprintf(path, sizeof path, "/tmp/puyu-exchange-%d.sock", (int)getpid());
  served s = served_open((pu_http_options){.handler = handler, .unix_path = path});
  assert_ok(pu_http_client_open(&c, &e), &e);
  pu_http_ask ask = ask_of(&h, "http://localhost/none");
  ask.unix_path = path;
  assert_ok(pu_http_client_start(c, &ask, NULL, &e), &e);
  wait_for_all(c);
  assert_string_equal(h.body.data, "no");
  pu_buf_deinit(&h.body);
  ask = ask_of(&h, "file:///etc/passwd");
  assert_ok(pu_http_client_start(c, &ask, NULL, &e), &e);
  wait_for_all(c);
  assert_int_equal(h.err, PU_ERR_IO);
  assert_int_equal(h.body.len, 0);
  pu_http_client_free(c);
  served_close(s);
}

/* ---- event streams ---- */

static bool collect(void *arg, pu_str data) {
  pu_buf_printf(arg, "<%.*s>", (int)data.len, data.ptr);
  return !pu_str_eq(data, pu_str_c("stop"));
}

static void events_at_every_cut(void **state) {
  (void)state;
  static const char text[] = ": a comment\n\ndata: one\n\ndata:two\r\ndata: lines\r\n\r\nid: 7\nevent: x\ndata\n\n"
                             "data: \rdata:  x\r\rdata: unfinished\n";
  static const char wanted[] = "<one><two\nlines><><\n x>";
  pu_buf got;
  pu_buf_init(&got, 1 << 16);
  for (size_t a = 0; a < sizeof text; a++) {
    for (size_t b = a; b < sizeof text; b++) {
      pu_events ev;
      pu_events_init(&ev, 1 << 10);
      pu_buf_clear(&got);
      assert_true(pu_events_feed(&ev, pu_str_of(text, a), collect, &got));
      assert_true(pu_events_feed(&ev, pu_str_of(text + a, b - a), collect, &got));
      assert_true(
          pu_events_feed(&ev, pu_str_of(text + b, sizeof text - 1 - PU_MIN(b, sizeof text - 1)), collect, &got));
      pu_events_deinit(&ev);
      if (strcmp(got.data, wanted) != 0) fail_msg("cut at %zu and %zu: %s", a, b, got.data);
    }
  }
  pu_events ev;
  pu_events_init(&ev, 20);
  assert_false(pu_events_feed(&ev, pu_str_c("data: stop\n\ndata: more\n\n"), collect, &got));
  assert_false(pu_events_feed(&ev, pu_str_c("data: much more than twenty bytes\n\n"), collect, &got));
  pu_events_deinit(&ev);
  pu_buf_deinit(&got);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(many_at_once), cmocka_unit_test(ends_of_all_kinds),
                                     cmocka_unit_test(by_a_unix_socket), cmocka_unit_test(events_at_every_cut)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
