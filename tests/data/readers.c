/* Documents out of files of every kind, whole, in ranges, compressed, broken. */
#include "tests/test.h"

#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "src/data/html/html.h"
#include "src/data/reader.h"

/* Stands in for the extraction of pages, which has tests of its own. */
pu_err pu_html_extract(pu_str html, pu_html_mode mode, pu_arena *a, pu_buf *out, pu_html_page *page, pu_error *e) {
  (void)mode, (void)a;
  *page = (pu_html_page){0};
  return pu_buf_append(out, html.ptr, html.len) ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory");
}

const char *pu_html_charset(pu_str bytes, pu_arena *a) {
  const char *at = memmem(bytes.ptr, bytes.len, "charset=", 8);
  return at ? pu_arena_strndup(a, at + 8, strcspn(at + 8, "\">")) : NULL;
}

static char dir[64];

static int make_dir(void **state) {
  (void)state;
  strcpy(dir, "/tmp/puyu-readers-XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
  (void)state;
  return pu_remove_tree(dir, NULL) == PU_OK ? 0 : -1;
}

static const char *at(const char *name) {
  static char path[8][256];
  static int next;
  char *p = path[next++ % 8];
  snprintf(p, sizeof path[0], "%s/%s", dir, name);
  return p;
}

static const char *put(const char *name, const void *data, size_t len) {
  const char *path = at(name);
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(data, 1, len, f), len);
  assert_int_equal(fclose(f), 0);
  return path;
}

/* ---- what was read, as text: "[ID TYPE title=… ] TEXT|", and what was skipped: "OFFSET: WHY|" ---- */

static pu_buf got, skipped;
static pu_read_options options; /* of the test; cleared by begin */

static void on_skip(void *arg, const char *path, uint64_t offset, const char *why) {
  (void)arg, (void)path;
  pu_buf_printf(&skipped, "%llu: %s|", (unsigned long long)offset, why);
}

static int begin(void **state) {
  (void)state;
  pu_buf_init(&got, PU_BUF_MAX);
  pu_buf_init(&skipped, 1 << 20);
  options = (pu_read_options){.source = "s", .name = "n", .skips = {on_skip, NULL}};
  return 0;
}

static int end(void **state) {
  (void)state;
  pu_buf_deinit(&got);
  pu_buf_deinit(&skipped);
  return 0;
}

static void field(const char *name, pu_str value) {
  if (value.len > 0) pu_buf_printf(&got, " %s=%.*s", name, (int)value.len, value.ptr);
}

static void read_range(const char *path, uint64_t from, uint64_t to, bool fields) {
  pu_error e;
  pu_input *in;
  pu_reading *r;
  pu_doc d;
  assert_ok(pu_doc_init(&d, &e), &e);
  assert_ok(pu_input_open(path, from, to, &options, &in, &e), &e);
  assert_ok(pu_reading_open(in, &r, &e), &e);
  for (bool found = true;;) {
    assert_ok(pu_reading_next(r, &d, &found, &e), &e);
    if (!found) break;
    assert_true(pu_utf8_valid(pu_str_of(d.text.data, d.text.len)));
    if (fields) {
      pu_buf_printf(&got, "[%.*s %.*s", (int)d.id.len, d.id.ptr, (int)d.type.len, d.type.ptr);
      field("title", d.title);
      field("url", d.url);
      field("lang", d.lang);
      field("time", d.time);
      field("author", d.author);
      pu_buf_puts(&got, "] ");
    }
    pu_buf_append(&got, d.text.data, d.text.len);
    pu_buf_putc(&got, '|');
  }
  pu_reading_close(r);
  pu_doc_deinit(&d);
}

static void expect_docs(const char *path, const char *want) {
  pu_buf_clear(&got);
  pu_buf_clear(&skipped);
  read_range(path, 0, 0, true);
  assert_string_equal(got.data ? got.data : "", want);
}

static void expect_skips(const char *want) {
  assert_string_equal(skipped.data ? skipped.data : "", want);
}

/* ---- text and JSON ----------------------------------------------------------------------------------------------- */

static void test_text(void **state) {
  (void)state;
  static const char text[] = "\xEF\xBB\xBF\n \none\r\ntwo\r\n\r\n \t\n\nthr\xFF"
                             "ee\n\nfour";
  const char *path = put("a.txt", text, strlen(text));
  expect_docs(path, "[s/n:1 text] \n \none\ntwo\n\n \t\n\nthr\xEF\xBF\xBD"
                    "ee\n\nfour|");
  options.split = PU_SPLIT_BLANK;
  expect_docs(path, "[s/n:3 text] one\ntwo|[s/n:8 text] thr\xEF\xBF\xBD"
                    "ee|[s/n:10 text] four|");
  options.split = PU_SPLIT_LINE;
  expect_docs(path, "[s/n:3 text] one|[s/n:4 text] two|[s/n:8 text] thr\xEF\xBF\xBD"
                    "ee|[s/n:10 text] four|");
  expect_docs(put("empty.txt", "", 0), "");
  expect_skips("");
}

static void test_jsonl(void **state) {
  (void)state;
  static const char lines[] = "{\"id\": \"x\", \"content\": \"a\\u4e2d\\ud83d\\ude00\\n\\\"\\/\", \"text\": 5}\n\n"
                              "{\"text\": \"two\\r\\nlines\", \"id\": 17, \"title\": \"T\\u00e9\", \"url\": \"u\"}\r\n"
                              "{\"text\": 3}\n[]\n{\"content\": \"bro\n{\"content\": \"\\ud800x\", \"lang\": \"en\"}\n"
                              "{\"content\": \"\"}\n{\"m\": [1, {\"a\": [{}]}, true], \"content\": \"last\"}";
  expect_docs(
      put("a.jsonl", lines, strlen(lines)),
      "[x text] a中😀\n\"/|[17 text title=Té url=u] two\nlines|[s/n:7 text lang=en] \xEF\xBF\xBDx|[s/n:9 text] last|");
  expect_skips("132: no string under \"content\" or \"text\"; name the key with --key|144: no object|"
               "147: column 16: premature end of input near '\"bro'|");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_text, begin, end),
      cmocka_unit_test_setup_teardown(test_jsonl, begin, end),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
