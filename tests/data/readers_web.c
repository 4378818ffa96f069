/* Documents out of web archives, whole and broken. */
#include "tests/data/reading.h"

#include <zlib.h>

static pu_buf file, body, record;

static int buffers_begin(void **state) {
  pu_buf_init(&file, PU_BUF_MAX);
  pu_buf_init(&body, PU_BUF_MAX);
  pu_buf_init(&record, PU_BUF_MAX);
  begin(state);
  options.name = "n.warc";
  return 0;
}

static int buffers_end(void **state) {
  pu_buf_deinit(&file);
  pu_buf_deinit(&body);
  pu_buf_deinit(&record);
  return end(state);
}

/* ---- making archives --------------------------------------------------------------------------------------------- */

/* windowBits: 31 gzip, 15 zlib, -15 neither. */
static void pack_to(pu_buf *out, const void *data, size_t len, int bits) {
  z_stream z = {0};
  assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
  size_t most = deflateBound(&z, len) + 32;
  assert_true(pu_buf_reserve(out, most));
  z.next_in = (uint8_t *)(uintptr_t)data;
  z.avail_in = (unsigned)len;
  z.next_out = (uint8_t *)out->data + out->len;
  z.avail_out = (unsigned)most;
  assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
  out->len += most - z.avail_out;
  deflateEnd(&z);
}

/* Appends a record to the file, as a gzip member of its own where that is wanted. */
static void add(const char *type, const char *uri, const char *content_type, const void *data, size_t len, bool gzip) {
  pu_buf_clear(&record);
  pu_buf_printf(&record, "WARC/1.0\r\nWARC-Type: %s\r\nWARC-Date: 2019-04-03T17:45:12Z\r\n", type);
  if (uri) pu_buf_printf(&record, "WARC-Target-URI: %s\r\n", uri);
  if (content_type) pu_buf_printf(&record, "Content-Type: %s\r\n", content_type);
  pu_buf_printf(&record, "content-length: %zu\r\n\r\n", len);
  pu_buf_append(&record, data, len);
  pu_buf_puts(&record, "\r\n\r\n");
  if (gzip)
    pack_to(&file, record.data, record.len, 31);
  else
    pu_buf_append(&file, record.data, record.len);
}

static void add_text(const char *type, const char *content_type, const char *text) {
  add(type, "http://a/", content_type, text, strlen(text), false);
}

/* What a server sent: headers and body. */
static void add_answer(const char *headers, const void *data, size_t len) {
  pu_buf_clear(&body);
  pu_buf_printf(&body, "HTTP/1.1 200 OK\r\n%s\r\n", headers);
  pu_buf_append(&body, data, len);
  add("response", "http://a/", "application/http; msgtype=response", body.data, body.len, false);
}

static const char *file_put(const char *name) {
  const char *path = put(name, file.data, file.len);
  pu_buf_clear(&file);
  return path;
}

static void expect(const char *name, const char *want, const char *skips) {
  pu_buf_clear(&got);
  pu_buf_clear(&skipped);
  read_range(file_put(name), 0, 0, false);
  assert_string_equal(got.data ? got.data : "", want);
  assert_string_equal(skipped.data ? skipped.data : "", skips);
}

/* ---- records ----------------------------------------------------------------------------------------------------- */

static void test_kinds(void **state) {
  (void)state;
  add_text("warcinfo", "application/warc-fields", "software: x");
  add_text("request", "application/http; msgtype=request", "GET / HTTP/1.1\r\n\r\n");
  add_answer("Content-Type: text/plain\r\n", "one", 3);
  add_text("metadata", "text/plain", "of the crawl");
  add_text("revisit", "application/http; msgtype=response", "HTTP/1.1 200 OK\r\n\r\n");
  add("resource", "metadata://gnu.org/software/wget/warc/x.txt", "text/plain", "log", 3, false);
  add("resource", "<http://b/>", "text/plain; charset=utf-8", "two", 3, false);
  add_text("conversion", "text/plain", "three");
  add_answer("CONTENT-TYPE: text/html\r\n",
             "<title>T</title><p>A paragraph that is long enough, with several words in it, to be the main text of a "
             "page.</p>",
             110);
  expect_docs(file_put("kinds.warc"),
              "[s/n.warc:3 text url=http://a/ time=2019-04-03T17:45:12Z] one|"
              "[s/n.warc:7 text url=http://b/ time=2019-04-03T17:45:12Z] two|"
              "[s/n.warc:8 text url=http://a/ time=2019-04-03T17:45:12Z] three|"
              "[s/n.warc:9 html title=T url=http://a/ time=2019-04-03T17:45:12Z] A paragraph that is long enough, with "
              "several words in it, to be the main text of a page.|");
  expect_skips("");
}

static void test_nothing_to_read(void **state) {
  (void)state;
  add("response", "http://a/", "application/http", "HTTP/1.0 404 Not Found\r\nContent-Type: text/plain\r\n\r\ngone", 54,
      false);
  add_answer("Content-Type: image/png\r\n", "\x89PNG", 4);
  add_answer("", "x", 1);
  add_answer("Content-Type: text/html\r\n", "<html></html>", 13);
  add_answer("Content-Type: text/plain\r\nContent-Encoding: br\r\n", "???", 3);
  expect("nothing.warc", "",
         "0: an answer of status 404|204: a record of a type that is not read: image/png|420: a record without a type|"
         "608: a record without text|833: a body in an encoding that is not read|");
}

static void test_bodies(void **state) {
  (void)state;
  static const char chunks[] = "4;ext=1\r\none \r\n0003\r\ntwo\r\n0\r\n\r\n";
  static const char text[] = "Content-Type: text/plain\r\n", chunked[] = "Transfer-Encoding: chunked\r\n";
  char headers[200];
  pu_buf packed, both;
  pu_buf_init(&packed, 1 << 20);
  pu_buf_init(&both, 1 << 20);
  snprintf(headers, sizeof headers, "%s%s", text, chunked);
  add_answer(headers, chunks, strlen(chunks));
  add_answer(headers, "joined already", 14);
  add_answer(headers, "4\r\none \r\nffff\r\ncut", 18);
  snprintf(headers, sizeof headers, "%sContent-Encoding: gzip\r\n", text);
  pack_to(&packed, "gzip", 4, 31);
  add_answer(headers, packed.data, packed.len);
  add_answer(headers, packed.data, packed.len - 9);
  add_answer(headers, "unpacked already", 16);
  snprintf(headers, sizeof headers, "%sContent-Encoding: gzip\r\nTransfer-Encoding: gzip, Chunked\r\n", text);
  pu_buf_printf(&both, "%zx\r\n", packed.len);
  pu_buf_append(&both, packed.data, packed.len);
  pu_buf_puts(&both, "\r\n0\r\n\r\n");
  add_answer(headers, both.data, both.len);
  for (int bits = -15; bits <= 15; bits += 30) {
    snprintf(headers, sizeof headers, "%sContent-Encoding: deflate\r\n", text);
    pu_buf_clear(&packed);
    pack_to(&packed, "deflate", 7, bits);
    add_answer(headers, packed.data, packed.len);
  }
  snprintf(headers, sizeof headers, "%sContent-Encoding: utf-8\r\n", text);
  add_answer(headers, "no encoding", 11);
  pu_buf_deinit(&packed);
  pu_buf_deinit(&both);
  expect(
      "bodies.warc", "one two|joined already|one cut|gzip|gzip|unpacked already|gzip|deflate|deflate|no encoding|",
      "528: a chunk of the body whose size is wrong|1048: a compressed body that is broken, cut short or too large|");
}

/* The header's charset decides where the bytes leave it open. */
static void test_charset(void **state) {
  (void)state;
  add_answer("Content-Type: text/plain; charset=\"koi8-r\"\r\n", "\xF0\xD2\xC9\xD7\xC5\xD4", 6);
  add_answer("Content-Type: text/plain; Charset=windows-1251\r\n", "\xCF\xF0\xE8\xE2\xE5\xF2", 6);
  add_answer("Content-Type: text/plain; charset=gbk\r\n", "\xC4\xE3\xBA\xC3", 4);
  add_answer("Content-Type: text/plain; charset=latin-1\r\n", "Привет", 12);
  expect("charset.warc", "Привет|Привет|你好|Привет|", "");
}

/* ---- ARC --------------------------------------------------------------------------------------------------------- */

static void test_arc(void **state) {
  (void)state;
  pu_buf_puts(&file, "filedesc://x.arc 0.0.0.0 20140216050221 text/plain 9\n1 0 Me\n\n\n"
                     "http://a/b c d 1.2.3.4 20140216050221 text/html 53\n"
                     "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\none\r\ntwo\n\n"
                     "dns:a 1.2.3.4 20140216050221 text/dns 3\nabc\n"
                     "http://bare/ 1.2.3.4 201402160502 text/plain 4\nbare\n");
  expect_docs(file_put("a.arc"), "[s/n.warc:2 text url=http://a/b c d time=2014-02-16T05:02:21Z] one\ntwo|"
                                 "[s/n.warc:4 text url=http://bare/ time=2014-02-16T05:02:00Z] bare|");
  expect_skips("");
}

/* ---- what is broken ---------------------------------------------------------------------------------------------- */

static size_t add_three(size_t starts[4]) {
  static const char *const texts[] = {"the first text", "the second text", "the third text"};
  for (int i = 0; i < 3; i++) {
    starts[i] = file.len;
    add("resource", "http://a/", "text/plain", texts[i], strlen(texts[i]), false);
  }
  return starts[3] = file.len;
}

static bool is_in_got(const char *text) { /* there may be zero bytes */
  return memmem(got.data, got.len, text, strlen(text)) != NULL;
}

static void read_again(void) {
  pu_buf_clear(&got);
  pu_buf_clear(&skipped);
  read_range(file_put("again.warc"), 0, 0, false);
  pu_buf_puts(&got, ""); /* a NUL, also where nothing came */
}

static void test_lost_and_found(void **state) {
  (void)state;
  size_t starts[4];
  pu_buf_puts(&file, "rubbish\n\n");
  add_three(starts);
  pu_buf_puts(&file, "more\nrubbish");
  expect("rubbish.warc", "the first text|the second text|the third text|",
         "0: no record begins here|326: a record whose length is wrong|");
  add_three(starts);
  memcpy(strstr(file.data, "length: 14"), "length: 99", 10);
  expect("long.warc", "the first text|the second text|the third text|", "0: a record whose length is wrong|");
  add_three(starts);
  memcpy(strstr(file.data, "length: 14"), "length:  3", 10);
  expect("short.warc", "the|the second text|the third text|", "0: a record whose length is wrong|");
  add_three(starts);
  file.len = starts[3] - 8;
  expect("cut.warc", "the first text|the second text|the third |", "317: a record that is cut short|");
  pu_buf_puts(&file,
              "WARC/1.0\r\nWARC-Type: resource\r\nContent-Type: text/plain\r\nContent-Length: 99999999999\r\n\r\n");
  add_three(starts);
  expect("huge.warc", "the first text|the second text|the third text|", "0: a record of more than 64 MiB|");
}

/* Whatever one byte becomes, the records are read that neither it nor the line end before is of. */
static void test_each_byte(void **state) {
  (void)state;
  static const char values[] = {0, '\n', '9'};
  static const char *const texts[] = {"the first text", "the second text", "the third text"};
  size_t starts[4], len = add_three(starts);
  char whole[1024];
  assert_true(len <= sizeof whole);
  memcpy(whole, file.data, len);
  for (size_t i = 0; i < len; i++) {
    for (size_t v = 0; v < sizeof values; v++) {
      pu_buf_clear(&file);
      pu_buf_append(&file, whole, len);
      file.data[i] = values[v];
      read_again();
      for (int k = 0; k < 3; k++)
        if ((i + 1 < starts[k] || i >= starts[k + 1]) && !is_in_got(texts[k]))
          fail_msg("byte %zu to %d loses '%s': %s", i, values[v], texts[k], got.data);
    }
  }
  for (size_t n = 0; n < len; n++) { /* and cut anywhere */
    pu_buf_clear(&file);
    pu_buf_append(&file, whole, n);
    read_again();
    for (int k = 0; k < 3; k++)
      if (n >= starts[k + 1] && !is_in_got(texts[k])) fail_msg("%zu bytes lose '%s'", n, texts[k]);
  }
}

static void test_gzip(void **state) {
  (void)state;
  size_t starts[4];
  add("resource", "http://a/", "text/plain", "one", 3, true);
  add("resource", "http://a/", "text/plain", "two", 3, true);
  expect("members.warc.gz", "one|two|", "");
  pu_buf whole;
  pu_buf_init(&whole, 1 << 20);
  size_t len = add_three(starts);
  pack_to(&whole, file.data, len, 31);
  pu_buf_clear(&file);
  pu_buf_append(&file, whole.data, whole.len);
  expect("whole.warc.gz", "the first text|the second text|the third text|", "");
  pu_buf_deinit(&whole);
  add("resource", "http://a/", "text/plain", "one", 3, true);
  size_t broken = file.len;
  add("resource", "http://a/", "text/plain", "two", 3, true);
  memset(file.data + broken + 30, 0xFF, 20);
  add("resource", "http://a/", "text/plain", "three", 5, true);
  pu_buf_clear(&got);
  read_range(file_put("broken.warc.gz"), 0, 0, false);
  assert_non_null(strstr(got.data, "one|"));
  assert_non_null(strstr(got.data, "three|"));
  assert_string_equal(skipped.data, "146: broken gzip data|146: a record whose header is broken|");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_kinds, buffers_begin, buffers_end),
      cmocka_unit_test_setup_teardown(test_nothing_to_read, buffers_begin, buffers_end),
      cmocka_unit_test_setup_teardown(test_bodies, buffers_begin, buffers_end),
      cmocka_unit_test_setup_teardown(test_charset, buffers_begin, buffers_end),
      cmocka_unit_test_setup_teardown(test_arc, buffers_begin, buffers_end),
      cmocka_unit_test_setup_teardown(test_lost_and_found, buffers_begin, buffers_end),
      cmocka_unit_test_setup_teardown(test_each_byte, buffers_begin, buffers_end),
      cmocka_unit_test_setup_teardown(test_gzip, buffers_begin, buffers_end),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
