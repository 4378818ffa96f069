/* Filters at their borders: a document on either side of each bound, English and Chinese; what masking and normalising
 * leave of a text; and names, presets and bounds. */
#include "src/data/filter.h"
#include "tests/test.h"

static pu_doc doc;
static double values[PU_FILTER_MEASURES];

static void apply(const char *name, const char *text) {
  static const pu_filter_options o = {.nfkc = true, .mask = true};
  const pu_filter *f = pu_filter_find(name);
  pu_error e;
  void *shared = NULL;
  assert_non_null(f);
  pu_doc_clear(&doc);
  assert_true(pu_buf_puts(&doc.text, text));
  for (int i = 0; i < PU_FILTER_MEASURES; i++) values[i] = NAN;
  if (f->open) assert_ok(f->open(&o, &shared, &e), &e);
  assert_ok(f->apply(shared, &doc, values, &e), &e);
  if (f->close) f->close(shared);
}

static double value(const char *filter, const char *measure) {
  const pu_filter *f = pu_filter_find(filter);
  for (int i = 0; f->measures[i].name; i++)
    if (strcmp(f->measures[i].name, measure) == 0) return values[i];
  fail_msg("%s has no measure %s", filter, measure);
  return NAN;
}

/* Would the published bounds of this measure drop it? */
static bool drops(const char *filter, const char *measure, const char *text) {
  const pu_filter *f = pu_filter_find(filter);
  apply(filter, text);
  double v = value(filter, measure);
  for (int i = 0; f->measures[i].name; i++)
    if (strcmp(f->measures[i].name, measure) == 0) return v < f->measures[i].min || v > f->measures[i].max;
  return false;
}

/* n times a word, then m times another. */
static const char *words(const char *a, int n, const char *b, int m) {
  static pu_buf text;
  if (!text.max) pu_buf_init(&text, 1 << 24);
  pu_buf_clear(&text);
  for (int i = 0; i < n; i++) pu_buf_puts(&text, a);
  for (int i = 0; i < m; i++) pu_buf_puts(&text, b);
  return text.data;
}

static void test_gopher_quality(void **state) {
  (void)state;
  const char *f = "gopher_quality";
  assert_true(drops(f, "words", words("the ", 49, "", 0)));
  assert_false(drops(f, "words", words("the ", 50, "", 0)));
  assert_false(drops(f, "words", words("the ", 100000, "", 0)));
  assert_true(drops(f, "words", words("the ", 100001, "", 0)));
  assert_true(drops(f, "words", words("书", 99, "", 0))); /* two characters are a word */
  assert_false(drops(f, "words", words("书", 100, "", 0)));
  assert_true(drops(f, "mean_word_length", words("of ", 60, "", 0)));
  assert_false(drops(f, "mean_word_length", words("the ", 60, "", 0)));
  assert_false(drops(f, "mean_word_length", words("abcdefghij ", 60, "", 0)));
  assert_true(drops(f, "mean_word_length", words("abcdefghijk ", 60, "", 0)));
  assert_false(drops(f, "hashes", words("word ", 100, "#", 10)));
  assert_true(drops(f, "hashes", words("word ", 100, "#", 11)));
  assert_false(drops(f, "ellipses", words("word ", 100, "… ", 10)));
  assert_true(drops(f, "ellipses", words("word ", 100, "… ", 11)));
  assert_false(drops(f, "bullet_lines", words("- item\n", 9, "line\n", 1)));
  assert_true(drops(f, "bullet_lines", words("• 书\n", 10, "", 0)));
  assert_false(drops(f, "ellipsis_lines", words("so it goes...\n", 3, "line\n", 7)));
  assert_true(drops(f, "ellipsis_lines", words("如此……\n", 4, "行\n", 6)));
  assert_false(drops(f, "alphabetic_words", words("word ", 8, "123 ", 2)));
  assert_true(drops(f, "alphabetic_words", words("word ", 79, "123 ", 21)));
  assert_true(drops(f, "stop_words", words("the ", 9, "cat ", 9)));
  assert_false(drops(f, "stop_words", words("the ", 1, "of ", 1)));
  assert_true(drops(f, "stop_words", words("的", 5, "书", 50)));
  assert_false(drops(f, "stop_words", words("的", 5, "是", 5)));
}

/* n different lines, then m copies of another. */
static const char *lines(int n, const char *copied, int m) {
  static pu_buf text;
  if (!text.max) pu_buf_init(&text, 1 << 24);
  pu_buf_clear(&text);
  for (int i = 0; i < n; i++) pu_buf_printf(&text, "line number %d of its own kind, say %d\n", i, i * 7919);
  for (int i = 0; i < m; i++) pu_buf_puts(&text, copied);
  return text.data;
}

static void test_gopher_repetition(void **state) {
  (void)state;
  const char *f = "gopher_repetition";
  assert_false(drops(f, "lines", lines(7, "again\n", 3)));
  assert_true(drops(f, "lines", lines(5, "again\n", 5)));
  assert_false(drops(f, "line_characters", lines(20, "x\n", 5)));
  assert_true(drops(f, "line_characters", lines(2, "a long line that comes once more and once more\n", 3)));
  assert_false(drops(f, "paragraphs", "a\n\nb\n\nc\n\nd"));
  assert_true(drops(f, "paragraphs", "a\n\na\n\na\n\nd"));
  assert_true(drops(f, "ngrams_10", words("one two three four five six seven eight nine ten ", 12, "", 0)));
  assert_false(drops(f, "ngrams_10", lines(40, "", 0)));
  assert_true(drops(f, "ngrams_10", words("天地玄黄宇宙洪荒日月盈昃", 12, "", 0)));
}

static void test_fineweb_and_c4(void **state) {
  (void)state;
  assert_false(drops("fineweb", "ended_lines", words("It ends.\n", 12, "it does not\n", 88)));
  assert_true(drops("fineweb", "ended_lines", words("It ends.\n", 11, "it does not\n", 89)));
  assert_false(drops("fineweb", "ended_lines", words("到此为止。\n", 12, "没有\n", 88)));
  assert_true(
      drops("fineweb", "short_lines", words("short line\n", 68, "this line has more than thirty characters\n", 32)));
  assert_false(
      drops("fineweb", "short_lines", words("short line\n", 67, "this line has more than thirty characters\n", 33)));
  assert_true(drops("c4", "sentences", words("This is a sentence of words. ", 4, "", 0)));
  assert_false(drops("c4", "sentences", words("This is a sentence of words. ", 5, "", 0)));
  assert_true(drops("c4", "curly_brackets", "This is a page { of code }. And one more."));
  assert_true(drops("c4", "lorem_ipsum", "Lorem ipsum dolor sit amet is no text at all."));
  apply("c4", "A sentence of five words stays.\nno end of one here\nPlease enable Javascript to go on.\n");
  assert_non_null(strstr(doc.text.data, "stays"));
  assert_null(strstr(doc.text.data, "no end"));
  assert_null(strstr(doc.text.data, "avascript"));
}

static void test_mask(void **state) {
  (void)state;
  static const char *const found[] = {"Write to jane.doe@example.com today.", "他的手机是13812345678。",
                                      "身份证11010519491231002X号",           "card 4111 1111 1111 1111 is it",
                                      "the server at 203.0.113.42 is up",     "key AKIAIOSFODNN7EXAMPLE here"};
  static const char *const secret[] = {"jane.doe@",           "13812345678",  "11010519491231002X",
                                       "4111 1111 1111 1111", "203.0.113.42", "AKIAIOSFODNN7EXAMPLE"};
  for (size_t i = 0; i < PU_COUNT(found); i++) {
    apply("mask", found[i]);
    if (strstr(doc.text.data, secret[i])) fail_msg("not masked: %s", doc.text.data);
  }
  static const char *const kept[] = {"Version 1.2.3 of 2024-01-02 costs 1234567 in all.", "身份证110105194912310021号",
                                     "card 4111 1111 1111 1112 is none", "在2024年有12345人"};
  for (size_t i = 0; i < PU_COUNT(kept); i++) {
    apply("mask", kept[i]);
    assert_string_equal(doc.text.data, kept[i]);
  }
}

static void test_normalise(void **state) {
  (void)state;
  apply("normalise", "a \r\nb\r\n\xC2\xA0"
                     "c\xE2\x80\x8B"
                     "d \xEF\xAC\x81sh e\xCC\x81\n");
  assert_null(strchr(doc.text.data, '\r'));
  assert_null(strstr(doc.text.data, "\xE2\x80\x8B"));
  assert_non_null(strstr(doc.text.data, "fish"));
  assert_non_null(strstr(doc.text.data, "\xC3\xA9"));
  apply("normalise", "Das fÃ¼nfte Stück");
  assert_non_null(strstr(doc.text.data, "ü"));
  apply("normalise", "```\nint  x;\n```\n\n| a | b |\n");
  assert_non_null(strstr(doc.text.data, "int  x;"));
}

static pu_err make(const char *filter, const char *bound, pu_filter_set *set, pu_error *e) {
  const char *names[] = {filter}, *changes[] = {bound};
  return pu_filter_set_make(&(pu_strs){names, 1}, &(pu_strs){changes, bound ? 1 : 0}, set, e);
}

static void test_sets(void **state) {
  (void)state;
  pu_error e;
  pu_filter_set set;
  for (const pu_filter_preset *p = pu_filter_presets(); p->name; p++) {
    assert_ok(make(p->name, NULL, &set, &e), &e);
    assert_true(set.n > 0);
  }
  assert_ok(make("gopher_quality", "gopher_quality.words.min=20", &set, &e), &e);
  double v[PU_FILTER_MEASURES];
  for (int i = 0; i < PU_FILTER_MEASURES; i++) v[i] = NAN;
  assert_int_equal(pu_filter_drops(&set, 0, v), -1); /* nothing is known */
  v[0] = 20;
  assert_int_equal(pu_filter_drops(&set, 0, v), -1);
  v[0] = 19;
  assert_int_equal(pu_filter_drops(&set, 0, v), 0);
  assert_int_equal(make("gopher_qualty", NULL, &set, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "gopher_quality"));
  assert_int_equal(make("gopher_quality", "gopher_quality.wrds.min=2", &set, &e), PU_ERR_USAGE);
  assert_int_equal(make("gopher_quality", "gopher_quality.words.min=two", &set, &e), PU_ERR_USAGE);
}

static int begin(void **state) {
  (void)state;
  pu_error e;
  return pu_doc_init(&doc, &e);
}

static int end(void **state) {
  (void)state;
  pu_doc_deinit(&doc);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gopher_quality), cmocka_unit_test(test_gopher_repetition),
      cmocka_unit_test(test_fineweb_and_c4), cmocka_unit_test(test_mask),
      cmocka_unit_test(test_normalise),      cmocka_unit_test(test_sets),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
