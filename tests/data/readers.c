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
  expect_docs(put("a.jsonl", lines, strlen(lines)), "[x text] a中😀\n\"/|[s/n#17 text title=Té url=u] two\nlines|[s/n:7 "
                                                    "text lang=en] \xEF\xBF\xBDx|[s/n:9 text] last|");
  expect_skips("132: no string under \"content\" or \"text\"; name the key with --key|144: no object|"
               "147: column 16: premature end of input near '\"bro'|");
}

/* A line longer than any may be is passed over; the next one is there. */
static void test_long_line(void **state) {
  (void)state;
  enum { PIECE = 1 << 20, PIECES = 66 };
  char *piece = malloc(PIECE);
  FILE *f = fopen(at("long.jsonl"), "wb");
  assert_true(piece && f);
  memset(piece, 'x', PIECE);
  fputs("{\"text\": \"one\"}\n{\"text\": \"", f);
  for (int i = 0; i < PIECES; i++) assert_int_equal(fwrite(piece, 1, PIECE, f), PIECE);
  fputs("\"}\n{\"text\": \"three\"}\n", f);
  assert_int_equal(fclose(f), 0);
  free(piece);
  expect_docs(at("long.jsonl"), "[s/n:1 text] one|[s/n:3 text] three|");
  expect_skips("16: a line of more than 64 MiB|");
}

/* ---- compression ------------------------------------------------------------------------------------------------- */

static void test_zstd_header(void **state) {
  (void)state;
  char frame[128], bytes[256];
  size_t len = ZSTD_compress(frame, sizeof frame, "one\n", 4, 3);
  assert_false(ZSTD_isError(len));
  memcpy(bytes, "\x28\xB5\x2F\xFD\xFF\xFF\xFF\xFF\xFF\xFF", 10); /* a header that asks for too much */
  memset(bytes + 10, 0, 20);
  memcpy(bytes + 30, frame, len);
  expect_docs(put("a.zst", bytes, 30 + len), "[s/n:1 text] one\n|");
  assert_true(skipped.len > 0);
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static const char *named(const char *name, const char *text) {
  options.name = name;
  return put(name, text, strlen(text));
}

static void test_csv(void **state) {
  (void)state;
  expect_docs(
      named("a.csv", "\xEF\xBB\xBFID,Title,text,lang\r\n"
                     "x,T,\"a \"\"quoted\"\" one,\r\nwith two lines\",en\r\n"
                     ",,plain,\n"
                     "y,,\"\",\n"
                     "z,short row\n"
                     "\"w\" junk,,last,zh"),
      "[x text title=T lang=en] a \"quoted\" one,\nwith two lines|[s/a.csv:3 text] plain|[w text lang=zh] last|");
  expect_skips("");
  expect_docs(named("b.tsv", "a,b\tcontent\nx\ty, \"z\"\n"), "[s/b.tsv:2 text] y, \"z\"|");
  expect_docs(named("c.csv", "n;what;m\n1;the longest column;2\n3;of all;4\n"),
              "[s/c.csv:2 text] the longest column|[s/c.csv:3 text] of all|");
  options.key = "m";
  expect_docs(at("c.csv"), "[s/c.csv:2 text] 2|[s/c.csv:3 text] 4|");
  options.key = "none";
  expect_docs(at("c.csv"), "");
  expect_skips("0: no column \"none\": all of the file|");
  options.key = NULL;
  expect_docs(named("d.csv", "text,b\n\"never closed,1\nfine,2\n"), "[s/d.csv:3 text] fine|");
  expect_skips("7: a quotation mark that is never closed|");
  expect_docs(named("e.csv", ""), "");
}

/* ---- markup and code --------------------------------------------------------------------------------------------- */

static void test_markdown(void **state) {
  (void)state;
  expect_docs(
      named("a.md", "---\ntitle: \"A title\"\ntags: [x]\ndate: 2019-04-03\nlang: zh\n---\n\n# Heading\n\nText.\n"),
      "[s/a.md:1 markdown title=A title lang=zh time=2019-04-03] # Heading\n\nText.\n|");
  expect_docs(named("b.markdown", "+++\ntitle = 'T'\n+++\r\nText.\n"), "[s/b.markdown:1 markdown title=T] Text.\n|");
  expect_docs(named("c.md", "\n# Heading *one*\n\nText.\n"),
              "[s/c.md:1 markdown title=Heading *one*] \n# Heading *one*\n\nText.\n|");
  expect_docs(named("d.md", "---\nnot closed\n"), "[s/d.md:1 markdown] ---\nnot closed\n|");
  expect_docs(named("e.md", "---\ntitle: only this\n---\n"), "");
  expect_skips("");
}

static void test_latex(void **state) {
  (void)state;
  expect_docs(named("a.tex",
                    "\\documentclass{x} % comment\n\\title{A {nested} \\} title}\n\\author{Me}\n"
                    "%\\begin{document}\n\\begin{document}\n\n"
                    "One 5\\% of it % a comment\n   and on.\n% a line\n  % another\nTwo%\n\nThree \\\\% four\nfive\n"
                    "\\begin{verbatim}\n% kept\n\\end{verbatim}\n\\verb|%| \\input{x} \\verb+a%+%\n"
                    "\\end{document}\nignored"),
              "[s/a.tex:1 latex title=A {nested} \\} title author=Me] One 5\\% of it and on.\nTwo\n\nThree \\\\five\n"
              "\\begin{verbatim}\n% kept\n\\end{verbatim}\n\\verb|%| \\input{x} \\verb+a%+|");
  expect_docs(named("b.tex", "A part, % of a whole\nwithout a document."),
              "[s/b.tex:1 latex] A part, without a document.|");
  expect_docs(named("c.tex", "% nothing but this\n"), "");
  expect_skips("");
}

static void test_code(void **state) {
  (void)state;
  expect_docs(named("a.c", "int x;\r\n\ty;\n"), "[s/a.c:1 code] int x;\n\ty;\n|");
  expect_docs(named("Makefile", "all:\n\tcc\n"), "[s/Makefile:1 code] all:\n\tcc\n|");
  expect_docs(named("CMakeLists.txt", "project(x)\n"), "[s/CMakeLists.txt:1 code] project(x)\n|");
  expect_skips("");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_text, begin, end),
      cmocka_unit_test_setup_teardown(test_jsonl, begin, end),
      cmocka_unit_test_setup_teardown(test_long_line, begin, end),
      cmocka_unit_test_setup_teardown(test_zstd_header, begin, end),
      cmocka_unit_test_setup_teardown(test_csv, begin, end),
      cmocka_unit_test_setup_teardown(test_markdown, begin, end),
      cmocka_unit_test_setup_teardown(test_latex, begin, end),
      cmocka_unit_test_setup_teardown(test_code, begin, end),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
