/* A server over real sockets: keep-alive, pipelines, bodies of all sizes, clients that are slow, gone or half gone. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "puyu/net.h"
#include "tests/net/client.h"

typedef struct bench {
  pu_http_server *s;
  pthread_t thread;
  int port;
  atomic_int gone, handled;
  atomic_int held; /* requests that were never answered */
} bench;

/* ---- the handler: what a path asks for ---- */

typedef struct task {
  bench *b;
  pu_http_request *r;
} task;

static void reply_late(void *arg) {
  task *t = arg;
  pu_http_reply(t->r, 200, "text/plain", pu_str_c("late"));
  free(t);
}

static void *other_thread(void *arg) {
  task *t = arg;
  usleep(20000);
  assert_true(pu_http_post(t->b->s, reply_late, t));
  return NULL;
}

static void start_late(bench *b, pu_http_request *r) {
  task *t = calloc(1, sizeof *t);
  pthread_t thread;
  *t = (task){b, r};
  pthread_create(&thread, NULL, other_thread, t);
  pthread_detach(thread);
}

static void on_gone(void *arg) {
  bench *b = arg;
  atomic_fetch_add(&b->gone, 1);
}

static void stream(pu_http_request *r, int events) {
  pu_http_begin(r, 200, "text/event-stream");
  for (int i = 0; i < events; i++) {
    char text[64];
    snprintf(text, sizeof text, "data: %d\n\n", i);
    if (!pu_http_write(r, pu_str_c(text))) return;
  }
  pu_http_end(r);
}

/* Writes until the client is dropped: one that reads nothing must be. */
static void flood(pu_http_request *r) {
  static char kilobyte[1024];
  pu_http_begin(r, 200, "text/event-stream");
  while (pu_http_write(r, pu_str_of(kilobyte, sizeof kilobyte))) {}
}

static void handler(void *arg, pu_http_request *r) {
  bench *b = arg;
  const char *path = pu_http_path(r);
  atomic_fetch_add(&b->handled, 1);
  pu_http_on_gone(r, on_gone, b);
  if (strcmp(path, "/echo") == 0) {
    pu_http_add_header(r, "X-Query", pu_http_query(r));
    pu_http_reply(r, 200, "text/plain", pu_http_body(r));
  } else if (strcmp(path, "/late") == 0) {
    start_late(b, r);
  } else if (strcmp(path, "/stream") == 0) {
    stream(r, 100);
  } else if (strcmp(path, "/flood") == 0) {
    flood(r);
  } else if (strcmp(path, "/open") == 0) {
    pu_http_begin(r, 200, "text/event-stream");
    atomic_fetch_add(&b->held, 1);
  } else if (strcmp(path, "/hold") == 0) {
    atomic_fetch_add(&b->held, 1);
  } else {
    pu_http_reply(r, 404, "text/plain", pu_str_c("no"));
  }
}

/* ---- the bench ---- */

static void *run(void *arg) {
  bench *b = arg;
  pu_error e;
  return pu_http_run(b->s, &e) ? b : NULL;
}

static void open_bench(bench *b, pu_http_options o) {
  pu_error e;
  memset(b, 0, sizeof *b);
  o.handler = handler;
  o.arg = b;
  assert_ok(pu_http_open(&o, &b->s, &e), &e);
  b->port = pu_http_port(b->s);
  pthread_create(&b->thread, NULL, run, b);
}

static void drain(void *arg) {
  pu_http_drain(((bench *)arg)->s, 0.2);
}

static void close_bench(bench *b) {
  void *failed;
  assert_true(pu_http_post(b->s, drain, b));
  pthread_join(b->thread, &failed);
  assert_null(failed);
  pu_http_free(b->s);
}

static void wait_for(atomic_int *value, int wanted, const char *what) {
  for (int i = 0; i < 1000 && atomic_load(value) < wanted; i++) usleep(10000);
  if (atomic_load(value) != wanted) fail_msg("%s: %d, not %d", what, atomic_load(value), wanted);
}

static void expect(answer a, int status, const char *body) {
  assert_int_equal(a.status, status);
  assert_true(a.whole);
  if (body) assert_string_equal(a.body.data ? a.body.data : "", body);
  answer_free(&a);
}

/* ---- tests ---- */

static void requests_are_answered(void **state) {
  (void)state;
  bench b;
  open_bench(&b, (pu_http_options){0});
  client c = client_open(b.port);
  for (int i = 0; i < 3; i++) { /* on one connection */
    client_ask(&c, "POST", "/echo?a=b", "", i == 1 ? "" : "hello");
    answer a = client_answer(&c);
    assert_non_null(strstr(a.head.data, "X-Query: a=b\r\n"));
    expect(a, 200, i == 1 ? "" : "hello");
  }
  client_ask(&c, "GET", "/late", "", NULL);
  expect(client_answer(&c), 200, "late");
  client_ask(&c, "GET", "/nothing", "", NULL);
  expect(client_answer(&c), 404, "no");
  client_ask(&c, "PUT", "/echo", "Transfer-Encoding: chunked\r\n", NULL);
  client_puts(&c, "5\r\nhello\r\n");
  usleep(20000);
  client_puts(&c, "6\r\n world\r\n0\r\n\r\n");
  expect(client_answer(&c), 200, "hello world");
  client_puts(&c, "\r\n\r\nGET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); /* empty lines before it */
  expect(client_answer(&c), 200, "");
  assert_false(client_fill(&c)); /* and the connection ended */
  client_close(&c);
  c = client_open(b.port);
  client_puts(&c, "GET /stream HTTP/1.0\r\n\r\n"); /* no chunks: until the end */
  answer a = client_answer(&c);
  assert_null(strstr(a.head.data, "chunked"));
  assert_non_null(strstr(a.body.data, "data: 99\n\n"));
  expect(a, 200, NULL);
  client_close(&c);
  close_bench(&b);
}

static void pipelines_keep_their_order(void **state) {
  (void)state;
  bench b;
  open_bench(&b, (pu_http_options){0});
  client c = client_open(b.port);
  pu_buf all;
  enum { N = 2000 };
  pu_buf_init(&all, 1 << 24);
  for (int i = 0; i < N; i++) {
    char body[32];
    snprintf(body, sizeof body, "request %d", i);
    pu_buf_printf(&all, "POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", i % 500 == 7 ? "late" : "echo",
                  strlen(body), body);
  }
  client_send(&c, all.data, all.len);
  shutdown(c.fd, SHUT_WR); /* and is still answered to the last */
  for (int i = 0; i < N; i++) {
    char body[32];
    snprintf(body, sizeof body, "request %d", i);
    expect(client_answer(&c), 200, i % 500 == 7 ? "late" : body);
  }
  assert_false(client_fill(&c));
  pu_buf_deinit(&all);
  client_close(&c);
  close_bench(&b);
}

static void sizes_are_bounded(void **state) {
  (void)state;
  bench b;
  open_bench(&b, (pu_http_options){.max_body = 11 << 20});
  enum { TEN = 10 << 20 };
  char *big = malloc(2 * TEN + 1);
  memset(big, 'x', 2 * TEN);
  big[2 * TEN] = 0;
  answer a = ask_once(b.port, "POST", "/echo", "", big); /* refused while it is still being sent */
  expect(a, 413, NULL);
  big[TEN] = 0;
  a = ask_once(b.port, "POST", "/echo", "", big);
  assert_int_equal(a.body.len, TEN);
  expect(a, 200, big);
  client c = client_open(b.port);
  client_ask(&c, "POST", "/echo", "Transfer-Encoding: chunked\r\n", NULL);
  for (int i = 0; i < 2; i++) {
    client_puts(&c, "A00000\r\n");
    client_send(&c, big, TEN);
    client_puts(&c, "\r\n");
  }
  expect(client_answer(&c), 413, NULL);
  client_close(&c);
  big[40000] = 0;
  c = client_open(b.port);
  client_puts(&c, "GET / HTTP/1.1\r\nA: ");
  client_puts(&c, big);
  expect(client_answer(&c), 431, NULL);
  client_close(&c);
  free(big);
  close_bench(&b);
}

static void nonsense_is_refused(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    int status;
  } rows[] = {{"hello\r\n\r\n", 400},
              {"GET / HTTP/1.1\n\n", 400},
              {"\n", 400},
              {"GET / HTTP/1.1\r\n\r\n", 400},
              {"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505},
              {"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
              {"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413},
              {"\x16\x03\x01\x02\x01\xfc\x03\x03\n", 400}}; /* somebody speaks TLS */
  bench b;
  open_bench(&b, (pu_http_options){0});
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    client c = client_open(b.port);
    client_puts(&c, rows[i].bytes);
    answer a = client_answer(&c);
    if (a.status != rows[i].status) fail_msg("row %zu: status %d, not %d", i, a.status, rows[i].status);
    assert_non_null(strstr(a.body.data, "\"invalid_request_error\""));
    answer_free(&a);
    assert_false(client_fill(&c));
    client_close(&c);
  }
  assert_int_equal(atomic_load(&b.handled), 0);
  close_bench(&b);
}

static void an_expecting_client_is_told_to_go_on(void **state) {
  (void)state;
  bench b;
  open_bench(&b, (pu_http_options){.max_body = 100});
  client c = client_open(b.port);
  answer a;
  client_puts(&c, "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  assert_true(client_head(&c, &a));
  assert_int_equal(a.status, 100);
  answer_free(&a);
  client_puts(&c, "ok");
  expect(client_answer(&c), 200, "ok");
  client_puts(&c, "PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\nExpect: 100-continue\r\n\r\n");
  assert_true(client_head(&c, &a));
  assert_int_equal(a.status, 413);
  answer_free(&a);
  client_close(&c);
  close_bench(&b);
}

static void the_gone_are_noticed(void **state) {
  (void)state;
  bench b;
  open_bench(&b, (pu_http_options){.comment_seconds = 1000});
  int n = 0;
  for (int i = 0; i < 2; i++) {
    client c = client_open(b.port);
    client_ask(&c, "GET", i ? "/open" : "/hold", "", NULL);
    wait_for(&b.held, i + 1, "held");
    assert_int_equal(atomic_load(&b.gone), n);
    client_close(&c);
    wait_for(&b.gone, ++n, "gone");
  }
  client c = client_open(b.port); /* by a reset */
  struct linger now = {.l_onoff = 1};
  client_ask(&c, "GET", "/hold", "", NULL);
  wait_for(&b.held, 3, "held");
  setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  client_close(&c);
  wait_for(&b.gone, 3, "gone");
  close_bench(&b);
}

/* One that only stopped sending is not gone. */
static void the_half_closed_are_answered(void **state) {
  (void)state;
  bench b;
  open_bench(&b, (pu_http_options){0});
  static const char *const paths[] = {"/echo", "/late", "/stream"};
  for (size_t i = 0; i < PU_COUNT(paths); i++) {
    client c = client_open(b.port);
    client_ask(&c, "POST", paths[i], "", "hello");
    shutdown(c.fd, SHUT_WR);
    expect(client_answer(&c), 200, i == 0 ? "hello" : i == 1 ? "late" : NULL);
    client_close(&c);
  }
  client c = client_open(b.port); /* an open stream goes on, and is noticed when its client ends in earnest */
  client_ask(&c, "GET", "/open", "", NULL);
  shutdown(c.fd, SHUT_WR);
  usleep(300000);
  assert_int_equal(atomic_load(&b.gone), 0);
  client_close(&c);
  wait_for(&b.gone, 1, "gone");
  c = client_open(b.port); /* a request that will never be whole */
  client_puts(&c, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf");
  shutdown(c.fd, SHUT_WR);
  assert_false(client_fill(&c));
  client_close(&c);
  close_bench(&b);
}

static void the_slow_are_dropped(void **state) {
  (void)state;
  bench b;
  open_bench(&b, (pu_http_options){.max_unread = 1 << 16, .stall_seconds = 0.2});
  client c = client_open_with(b.port, 4096);
  client_ask(&c, "GET", "/flood", "", NULL);
  wait_for(&b.gone, 1, "gone"); /* too much unread */
  client_close(&c);
  c = client_open_with(b.port, 4096); /* one answer, larger than all buffers, and not read */
  char *big = malloc((8 << 20) + 1);
  memset(big, 'x', 8 << 20);
  big[8 << 20] = 0;
  client_ask(&c, "POST", "/echo", "", big);
  free(big);
  usleep(2000000);
  answer a = client_answer(&c);
  assert_false(a.whole);
  answer_free(&a);
  client_close(&c);
  close_bench(&b);
  open_bench(&b, (pu_http_options){.request_seconds = 0.2});
  c = client_open(b.port); /* a head that does not end */
  client_puts(&c, "GET / HTTP/1.1\r\n");
  expect(client_answer(&c), 408, NULL);
  client_close(&c);
  c = client_open(b.port); /* a body that does not */
  client_puts(&c, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc");
  expect(client_answer(&c), 408, NULL);
  client_close(&c);
  close_bench(&b);
}

static void silence_is_kept_alive(void **state) {
  (void)state;
  bench b;
  open_bench(&b, (pu_http_options){.comment_seconds = 0.05});
  client c = client_open(b.port);
  client_ask(&c, "GET", "/open", "", NULL);
  pu_buf line;
  pu_buf_init(&line, 1 << 16);
  for (int comments = 0; comments < 3;) {
    pu_buf_clear(&line);
    assert_true(client_line(&c, &line));
    comments += line.data[0] == ':';
  }
  pu_buf_deinit(&line);
  client_close(&c);
  close_bench(&b);
}

static void a_unix_socket_serves(void **state) {
  (void)state;
  char path[64];
  bench b;
  pu_error e;
  pu_http_server *second;
  snprintf(path, sizeof path, "/tmp/puyu-test-%d.sock", (int)getpid());
  open_bench(&b, (pu_http_options){.unix_path = path});
  pu_http_options same = {.unix_path = path};
  assert_int_equal(pu_http_open(&same, &second, &e), PU_ERR_USAGE); /* somebody is there */
  struct stat st;
  assert_int_equal(stat(path, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0600); /* its owner's alone */
  client c = client_open_unix(path);
  client_ask(&c, "POST", "/echo", "", "hello");
  expect(client_answer(&c), 200, "hello");
  client_ask(&c, "GET", "/hold", "", NULL);
  wait_for(&b.held, 1, "held");
  client_close(&c);
  wait_for(&b.gone, 1, "gone");
  close_bench(&b);
  assert_int_not_equal(access(path, F_OK), 0);
}

/* What runs may end; what is idle ends at once; nobody new comes in. */
static void a_drain_lets_answers_end(void **state) {
  (void)state;
  bench b;
  open_bench(&b, (pu_http_options){0});
  client idle = client_open(b.port), busy = client_open(b.port);
  client_ask(&idle, "GET", "/echo", "", NULL);
  expect(client_answer(&idle), 200, "");
  client_ask(&busy, "GET", "/late", "", NULL);
  wait_for(&b.handled, 2, "handled");
  int port = b.port;
  close_bench(&b);
  expect(client_answer(&busy), 200, "late");
  assert_false(client_fill(&idle));
  client_close(&idle);
  client_close(&busy);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  assert_int_not_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
  close(fd);
}

static void mistakes_are_told(void **state) {
  (void)state;
  const pu_http_options bad[] = {{.host = "no.such.host.invalid"},
                                 {.port = 70000},
                                 {.unix_path = ""},
                                 {.unix_path = "/no/such/folder/x.sock"},
                                 {.tls_cert = "/no/such/file"},
                                 {.tls_cert = "/dev/null", .tls_key = "/dev/null"}};
  for (size_t i = 0; i < PU_COUNT(bad); i++) {
    pu_http_server *s;
    pu_error e = {0};
    assert_int_not_equal(pu_http_open(&bad[i], &s, &e), PU_OK);
    assert_null(s);
    assert_true(e.msg[0]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(requests_are_answered),
                                     cmocka_unit_test(pipelines_keep_their_order),
                                     cmocka_unit_test(sizes_are_bounded),
                                     cmocka_unit_test(nonsense_is_refused),
                                     cmocka_unit_test(an_expecting_client_is_told_to_go_on),
                                     cmocka_unit_test(the_gone_are_noticed),
                                     cmocka_unit_test(the_half_closed_are_answered),
                                     cmocka_unit_test(the_slow_are_dropped),
                                     cmocka_unit_test(silence_is_kept_alive),
                                     cmocka_unit_test(a_unix_socket_serves),
                                     cmocka_unit_test(a_drain_lets_answers_end),
                                     cmocka_unit_test(mistakes_are_told)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
