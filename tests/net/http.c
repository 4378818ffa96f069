/* The grammar: heads that are right, heads that are refused and with which status, chunks however they are divided. */
#include "src/net/http.h"
#include "tests/test.h"

static int parse(const char *text, http_head *h) {
  static char copy[HTTP_MAX_HEAD + 1];
  const char *why;
  assert_true(strlen(text) < sizeof copy);
  strcpy(copy, text);
  return http_head_parse(copy, strlen(copy), h, &why);
}

#define HOST "Host: x\r\n"

static void heads_are_read(void **state) {
  (void)state;
  http_head h;
  assert_int_equal(parse("POST /v1/a%20b?x=%31 HTTP/1.1\r\nHOST:  x \t\r\nContent-length: 12\r\nA:\r\n\r\n", &h), 0);
  assert_string_equal(h.method, "POST");
  assert_string_equal(h.path, "/v1/a b");
  assert_string_equal(h.query, "x=%31");
  assert_string_equal(http_head_get(&h, "host"), "x");
  assert_string_equal(http_head_get(&h, "a"), "");
  assert_null(http_head_get(&h, "b"));
  assert_int_equal(h.length, 12);
  assert_true(h.keep_alive && !h.chunked && !h.expects_continue);
  assert_int_equal(parse("GET http://host:80/p?q HTTP/1.1\r\n" HOST "Connection: TE, close\r\n\r\n", &h), 0);
  assert_string_equal(h.path, "/p");
  assert_string_equal(h.query, "q");
  assert_false(h.keep_alive);
  assert_int_equal(parse("GET http://host HTTP/1.1\r\n" HOST "\r\n", &h), 0);
  assert_string_equal(h.path, "/");
  assert_int_equal(parse("GET / HTTP/1.0\r\n\r\n", &h), 0);
  assert_false(h.keep_alive);
  assert_int_equal(parse("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", &h), 0);
  assert_true(h.keep_alive);
  assert_int_equal(parse("PUT / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nExpect: 100-Continue\r\n\r\n", &h),
                   0);
  assert_true(h.chunked && h.expects_continue);
  assert_int_equal(parse("PUT / HTTP/1.1\r\n" HOST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", &h), 0);
}

static void others_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *head;
    int status;
  } rows[] = {
      {"\r\n\r\n", 400},
      {"GET\r\n\r\n", 400},
      {"GET /\r\n\r\n", 400},
      {"GET  / HTTP/1.1\r\n" HOST "\r\n", 400},
      {"GET / HTTP/1.1 \r\n" HOST "\r\n", 400},
      {"G(T / HTTP/1.1\r\n" HOST "\r\n", 400},
      {"GET / HTTP/2.0\r\n" HOST "\r\n", 505},
      {"GET / FTP/1.1\r\n" HOST "\r\n", 400},
      {"GET x HTTP/1.1\r\n" HOST "\r\n", 400},
      {"GET /%0 HTTP/1.1\r\n" HOST "\r\n", 400},
      {"GET /%00 HTTP/1.1\r\n" HOST "\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400}, /* no host */
      {"GET / HTTP/1.1\r\n" HOST " folded\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n" HOST "A : b\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n" HOST "A\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n" HOST "A: b\001\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n" HOST "A: b\nC: d\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n" HOST "A: b\rC: d\r\n\r\n", 400},
      {"PUT / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n", 400},
      {"PUT / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\n", 400},
      {"PUT / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n", 400},
      {"PUT / HTTP/1.1\r\n" HOST "Content-Length: 99999999999999999999999\r\n\r\n", 400},
      {"PUT / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
      {"PUT / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"PUT / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501},
      {"PUT / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501},
      {"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
  };
  http_head h;
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    int got = parse(rows[i].head, &h);
    if (got != rows[i].status) fail_msg("row %zu: %d, not %d: %s", i, got, rows[i].status, rows[i].head);
  }
  char many[HTTP_MAX_HEAD] = "GET / HTTP/1.1\r\n" HOST;
  for (int i = 0; i < HTTP_MAX_HEADERS; i++) strcat(many, "a: b\r\n");
  assert_int_equal(parse(strcat(many, "\r\n"), &h), 431);
  char far[HTTP_MAX_HEAD] = "GET /";
  memset(far + 5, 'a', 9000);
  assert_int_equal(parse(strcat(far, " HTTP/1.1\r\n" HOST "\r\n"), &h), 414);
}

/* Fed in pieces of `piece` bytes; the status, or -1 where more is wanted. *used: bytes taken. */
static int feed(const char *text, size_t piece, pu_buf *body, size_t *used) {
  http_chunks c = {0};
  size_t n = strlen(text);
  pu_buf_clear(body);
  for (*used = 0; *used < n && c.state != HTTP_CHUNK_DONE;) {
    size_t took;
    int bad = http_chunks_feed(&c, text + *used, PU_MIN(piece, n - *used), &took, body);
    *used += took;
    if (bad) return bad;
  }
  return c.state == HTTP_CHUNK_DONE ? 0 : -1;
}

static void chunks_are_joined(void **state) {
  (void)state;
  static const char good[] = "3\r\nabc\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\nGET / next";
  static const struct {
    const char *text;
    int status;
  } rows[] = {{"3\r\nabc\r\n", -1},          {"3\r\nabcd\r\n", 400}, {"\r\n", 400},         {"g\r\n", 400},
              {"3\nabc\r\n", 400},           {"-3\r\nabc\r\n", 400}, {"3 \rx", 400},        {"1\r\na\n", 400},
              {"1000000000000000\r\n", 400}, {"0\r\n\r\n", 0},       {"0\r\na\r\n\r\n", 0}, {"28\r\n", -1}};
  pu_buf body;
  pu_buf_init(&body, 32);
  for (size_t piece = 1; piece < sizeof good; piece++) {
    size_t used;
    assert_int_equal(feed(good, piece, &body, &used), 0);
    assert_string_equal(body.data, "abc0123456789");
    assert_string_equal(good + used, "GET / next");
    for (size_t i = 0; i < PU_COUNT(rows); i++)
      if (feed(rows[i].text, piece, &body, &used) != rows[i].status) fail_msg("chunks, row %zu, by %zu", i, piece);
  }
  size_t used;
  assert_int_equal(feed("28\r\n0123456789012345678901234567890123456789\r\n", 100, &body, &used), 413);
  char endless[20000] = "1;";
  memset(endless + 2, 'x', sizeof endless - 3);
  body.failed = false;
  assert_int_equal(feed(endless, 1000, &body, &used), 400);
  pu_buf_deinit(&body);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(heads_are_read), cmocka_unit_test(others_are_refused),
                                     cmocka_unit_test(chunks_are_joined)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
