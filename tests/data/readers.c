/* Documents out of files of every kind, whole, in ranges, compressed, broken. */
#include "tests/data/reading.h"

#include <zlib.h>
#include <zstd.h>

#include "src/data/html/html.h"

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
