/* Published rules at their borders: a document on either side of each bound, English and Chinese; n-grams against a
 * plain reference; names, presets and bounds. What masking, normalising and lists do is in filter_texts.c. */
#include "tests/data/filter_apply.h"

/* Would the published bounds of this measure drop it? */
static bool drops(const char *filter, const char *measure, const char *text) {
  const pu_filter *f = pu_filter_find(filter);
  apply(filter, text);
  int i = measure_of(f, measure);
  return values[i] < f->measures[i].min || values[i] > f->measures[i].max;
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

/* ---- n-grams, found plainly: words compared with words ---- */

typedef struct word {
  const char *p;
  size_t len;
} word;

static bool same(const word *a, const word *b, size_t n) {
  for (size_t k = 0; k < n; k++)
    if (a[k].len != b[k].len || memcmp(a[k].p, b[k].p, a[k].len) != 0) return false;
  return true;
}

static size_t chars_of(const word *w, size_t n) {
  size_t chars = 0;
  for (size_t k = 0; k < n; k++)
    for (size_t i = 0; i < w[k].len; i++) chars += ((uint8_t)w[k].p[i] & 0xC0) != 0x80;
  return chars;
}

static double plain_top(const word *w, size_t n_words, size_t n) {
  size_t most = 1, longest = 0;
  for (size_t i = 0; i + n <= n_words; i++) {
    size_t times = 0, chars = chars_of(w + i, n);
    for (size_t k = 0; k + n <= n_words; k++) times += same(w + i, w + k, n);
    if (times < 2 || times < most || (times == most && chars <= longest)) continue;
    most = times;
    longest = chars;
  }
  return PU_MIN(1.0, (double)(most * longest) / (double)chars_of(w, n_words));
}

static double plain_duplicates(const word *w, size_t n_words, size_t n) {
  size_t met[600], n_met = 0, chars = 0;
  for (size_t i = 0; i + n <= n_words;) {
    bool before = false;
    for (size_t k = 0; k < n_met && !before; k++) before = same(w + met[k], w + i, n);
    if (before)
      chars += chars_of(w + i, n);
    else
      met[n_met++] = i;
    i += before ? n : 1;
  }
  return (double)chars / (double)chars_of(w, n_words);
}

/* Random texts of few words, so that n-grams of every length are there more than once. */
static void test_ngrams(void **state) {
  (void)state;
  static const char *const spaced[] = {"a ", "the ", "über ", "cat ", "sat\n", "characters "};
  static const char *const unspaced[] = {"的", "书", "天", "。", "と", "AI "};
  static const char *const tops[] = {"top_2", "top_3", "top_4"};
  static const char *const grams[] = {"ngrams_5", "ngrams_6", "ngrams_7", "ngrams_8", "ngrams_9", "ngrams_10"};
  pu_rng r;
  pu_rng_seed(&r, 7);
  for (int round = 0; round < 120; round++) {
    size_t n = pu_rng_below(&r, 500), kinds = 1 + pu_rng_below(&r, 6), step = round % 2 + 1;
    pu_doc_clear(&doc);
    for (size_t i = 0; i < n; i++) pu_buf_puts(&doc.text, (step == 2 ? unspaced : spaced)[pu_rng_below(&r, kinds)]);
    word w[600];
    const pu_view *v = pu_doc_view(&doc);
    size_t n_words = v->n_words;
    assert_true(n_words <= PU_COUNT(w));
    assert_int_equal(v->unspaced, step == 2 && n > 0);
    static pu_buf text;
    if (!text.max) pu_buf_init(&text, 1 << 20);
    pu_buf_clear(&text);
    pu_buf_append(&text, doc.text.data, doc.text.len);
    for (size_t i = 0; i < n_words; i++) w[i] = (word){text.data + v->words[i].at, v->words[i].len};
    apply_to_doc("gopher_repetition");
    for (size_t k = 0; k < PU_COUNT(tops) && n > 0; k++)
      assert_true(value("gopher_repetition", tops[k]) == plain_top(w, n_words, (k + 2) * step));
    for (size_t k = 0; k < PU_COUNT(grams) && n > 0; k++)
      assert_true(value("gopher_repetition", grams[k]) == plain_duplicates(w, n_words, (k + 5) * step));
  }
}

/* Words of four characters, a hundred of them: a character is a quarter of a percent. */
static void test_ngram_borders(void **state) {
  (void)state;
  const char *f = "gopher_repetition";
  /* "x000 x111" ten times: 80 of 400 characters, but other words between the copies. */
  static pu_buf text;
  if (!text.max) pu_buf_init(&text, 1 << 20);
  for (int copies = 10; copies <= 11; copies++) {
    pu_buf_clear(&text);
    for (int i = 0; i < copies; i++) pu_buf_puts(&text, "x000 x111 "), pu_buf_printf(&text, "y%03d ", i);
    for (int i = 3 * copies; i < 100; i++) pu_buf_printf(&text, "w%03d ", i);
    assert_int_equal(drops(f, "top_2", text.data), copies > 10);
  }
  assert_true(value(f, "top_3") == 0); /* no three words are there twice */
  /* A passage of `n` words of a hundred comes once more: n percent. */
  for (int n = 5; n <= 10; n++) {
    static const double bounds[] = {15, 14, 13, 12, 11, 10};
    static const char *const names[] = {"ngrams_5", "ngrams_6", "ngrams_7", "ngrams_8", "ngrams_9", "ngrams_10"};
    for (int again = 0; again <= 4; again++) {
      double share = 100.0 * n * again / 200.0;
      pu_buf_clear(&text);
      for (int i = 0; i < 200 - n * again; i++) pu_buf_printf(&text, "w%03d ", i);
      for (int k = 0; k < again; k++) /* the same n words, which begin differently far into the text */
        for (int i = 0; i < n; i++) pu_buf_printf(&text, "w%03d ", 20 + i);
      bool dropped = drops(f, names[n - 5], text.data);
      assert_true(fabs(100 * value(f, names[n - 5]) - share) < 1e-9);
      assert_int_equal(dropped, share > bounds[n - 5]);
    }
  }
}

static void test_fineweb(void **state) {
  (void)state;
  const char *f = "fineweb";
  assert_false(drops(f, "ended_lines", words("It ends.\n", 12, "it does not\n", 88)));
  assert_true(drops(f, "ended_lines", words("It ends.\n", 11, "it does not\n", 89)));
  assert_false(drops(f, "ended_lines", words("到此为止。\n", 12, "没有\n", 88)));
  assert_true(drops(f, "ended_lines", words("到此为止。\n", 11, "没有\n", 89)));
  const char *thirty = "a line of thirty characters ab\n", *more = "a line of thirty-one characters\n";
  assert_true(drops(f, "short_lines", words(thirty, 68, more, 32)));
  assert_false(drops(f, "short_lines", words(thirty, 67, more, 33)));
  assert_true(
      drops(f, "short_lines", words("这一行正好有十五个字不多也不少\n", 68, "这一行比十五个字要多上那么一两个\n", 32)));
  assert_false(
      drops(f, "short_lines", words("这一行正好有十五个字不多也不少\n", 67, "这一行比十五个字要多上那么一两个\n", 33)));
  /* Lines of ten characters: one of a hundred that was there before is a hundredth. */
  static pu_buf text;
  pu_buf_init(&text, 1 << 20);
  for (int again = 1; again <= 2; again++) {
    pu_buf_clear(&text);
    for (int i = 0; i < 100 - again; i++) pu_buf_printf(&text, "line %05d\n", i);
    for (int i = 0; i < again; i++) pu_buf_puts(&text, "line 00007\n");
    assert_int_equal(drops(f, "duplicate_characters", text.data), again > 1);
  }
  pu_buf_deinit(&text);
  assert_false(drops(f, "line_ends", words("one two three\n", 3, "word ", 1))); /* 3 of 10 */
  assert_true(drops(f, "line_ends", words("one two three\n", 3, "\n", 1)));     /* 4 of 9 */
  assert_false(drops(f, "line_ends", words("一二三四五六七八\n", 3, "", 0)));   /* 3 of 12: two characters are a word */
  assert_true(drops(f, "line_ends", words("一二三四五六\n", 3, "", 0)));        /* 3 of 9 */
}

static void test_c4(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    const char *f = k ? "c4_fineweb" : "c4";
    assert_true(drops(f, "sentences", words("This is a sentence of words. ", 4, "", 0)));
    assert_false(drops(f, "sentences", words("This is a sentence of words. ", 5, "", 0)));
    assert_true(drops(f, "sentences", words("这是一个句子。", 4, "", 0)));
    assert_false(drops(f, "sentences", words("这是一个句子！", 5, "", 0)));
    assert_true(drops(f, "curly_brackets", "This is a page { of code. And one more."));
    assert_false(drops(f, "curly_brackets", "This is a page of text. And one more."));
    assert_true(drops(f, "lorem_ipsum", "LOREM IPSUM dolor sit amet is no text at all."));
    assert_false(drops(f, "lorem_ipsum", "Lorem and ipsum are words of no language."));
  }
  apply("c4", "Mr. J. Smith went to the U.S. office in no. 5 today. He said e.g. this! Did he? \"Yes.\" He did...");
  assert_true(value("c4", "sentences") == 0); /* the only line ends in an ellipsis, so it is gone */
  apply("c4", "Mr. J. Smith went to No. 5 today. He said e.g. this! Did he? \"Yes.\" He did");
  assert_true(value("c4", "sentences") == 0);
  apply("c4_fineweb", "Mr. J. Smith went to No. 5 today. He said e.g. this! Did he? \"Yes.\" He did");
  assert_true(value("c4_fineweb", "sentences") == 5);
  apply("c4_fineweb", "他说：“好。”然后走了。真的吗？！是的……");
  assert_true(value("c4_fineweb", "sentences") == 4);
}

/* Which lines C4 keeps, and what of them. */
static void test_c4_lines(void **state) {
  (void)state;
  static const char *const gone[] = {
      "Two words.",
      "This line has no end at all",
      "This line trails off...",
      "Please turn on JavaScript now.",
      "Read our Terms of Use before you go on.",
      "We use cookies on this page, too.",
      "他们走",
      "你好吗？",
      "请阅读我们的隐私政策再继续吧。",
      "这一行没有标点也没有结尾",
      "这一行渐渐没有了声音……",
  };
  static const char *const stay[] = {"It has three.",  "He said that \"this line ends\"", "Does this line end?",
                                     "她来过这里吗？", "他说：“这一行到此为止。”",        "（这一行也一样。）"};
  for (size_t i = 0; i < PU_COUNT(gone); i++) {
    apply("c4", gone[i]);
    if (doc.text.len > 0) fail_msg("kept: %s", gone[i]);
  }
  for (size_t i = 0; i < PU_COUNT(stay); i++) {
    apply("c4", stay[i]);
    if (strcmp(doc.text.data, stay[i]) != 0) fail_msg("lost: %s", stay[i]);
  }
  apply("c4", "The first line stays.\nmenu\nThe second one stays, too.\n\nfooter\n\nA new paragraph begins here.");
  assert_string_equal(doc.text.data,
                      "The first line stays.\nThe second one stays, too.\n\nA new paragraph begins here.");
  assert_true(fabs(value("c4", "kept_lines") - 0.6) < 1e-9);
  apply("c4_fineweb", "this line needs no end\nbut three words\nno, two\n");
  assert_string_equal(doc.text.data, "this line needs no end\nbut three words");
  apply("c4", "Water[1] is wet[23][citation needed]; see [fig 1] and a[1b] of it[edit].");
  assert_string_equal(doc.text.data, "Water is wet; see [fig 1] and a[1b] of it.");
  static pu_buf text;
  pu_buf_init(&text, 1 << 16);
  for (int n = 1000; n <= 1001; n++) {
    pu_buf_clear(&text);
    pu_buf_puts(&text, "A word of ");
    for (int i = 1; i < n; i++) pu_buf_putc(&text, 'x');
    pu_buf_putc(&text, '.');
    apply("c4", text.data);
    assert_int_equal(doc.text.len == 0, n > 1000);
  }
  pu_buf_deinit(&text);
}

static void test_wanjuan(void **state) {
  (void)state;
  const char *f = "wanjuan";
  assert_false(drops(f, "separators", words("=", 10, "x", 90)));
  assert_true(drops(f, "separators", words("=", 11, "x", 89)));
  assert_true(drops(f, "separators", words("━", 11, "字", 89)));
  assert_false(drops(f, "separators", words("-x", 50, "", 0))); /* hyphens are none */
  assert_true(drops(f, "separators", words("----------", 5, "字", 50)));
  assert_false(drops(f, "line_length", words("ten chars.\n", 5, "", 0)));
  assert_true(drops(f, "line_length", words("nine char\n", 5, "", 0)));
  assert_false(drops(f, "line_length", words("这里五字。\n", 5, "", 0)));
  assert_true(drops(f, "line_length", words("四字。。\n", 5, "", 0)));
  assert_false(drops(f, "broken_lines", words("broken in the\n", 8, "Whole one.\n", 3))); /* 7 of 10 */
  assert_true(drops(f, "broken_lines", words("broken in the\n", 9, "Whole one.\n", 2)));  /* 8 of 10 */
  assert_false(
      drops(f, "broken_lines", words("断开的一行\n", 7, "完整的一行。\n", 4))); /* the last broken one goes on, too */
  assert_true(drops(f, "broken_lines", words("断开的一行\n", 8, "完整的一行。\n", 3)));
  assert_false(drops(f, "strange_characters", words("\xEF\xBF\xBD", 1, "x", 99)));
  assert_true(drops(f, "strange_characters", words("\xEF\xBF\xBD", 2, "字", 98)));
  assert_true(drops(f, "strange_characters", words("\xEE\x80\x80", 2, "字", 98))); /* private use */
  assert_false(drops(f, "punctuation", words(".", 30, "x", 70)));
  assert_true(drops(f, "punctuation", words("。", 31, "字", 69)));
  assert_false(drops(f, "punctuation", words(".", 2, "x", 998)));
  assert_true(drops(f, "punctuation", words("。", 1, "字", 999)));
  assert_false(drops(f, "punctuation", words("字", 99, "", 0))); /* too short to tell */
  assert_true(isnan(value(f, "punctuation")));
  assert_false(drops(f, "punctuation_spread", words(",", 200, "x", 200)));
  assert_true(drops(f, "punctuation_spread", words("，", 200, "字", 400)));
}

/* What a rule cannot say of a text is unknown, and nothing of an empty text is a number that no bound allows for. */
static void test_unknown(void **state) {
  (void)state;
  apply("gopher_quality", words("的书", 100, "", 0));
  assert_true(isnan(value("gopher_quality", "mean_word_length")));
  apply("gopher_quality", words("ไทย", 100, "", 0));
  assert_true(isnan(value("gopher_quality", "stop_words")));
  pu_doc_clear(&doc);
  pu_buf_puts(&doc.text, words("le chat ", 100, "", 0));
  doc.lang = pu_str_c("fr");
  apply_to_doc("gopher_quality");
  assert_true(isnan(value("gopher_quality", "stop_words")));
  apply("gopher_quality", "“The” cat AND (of) course, That... be");
  assert_true(value("gopher_quality", "stop_words") == 5);
  apply("gopher_quality", "這於為與"); /* traditional forms */
  assert_true(value("gopher_quality", "stop_words") == 4);
  apply("gopher_quality", "これは本で、とても");
  assert_true(value("gopher_quality", "stop_words") >= 3);
  for (size_t k = 0; pu_filter_all[k]; k++) {
    apply(pu_filter_all[k]->name, "");
    for (int i = 0; pu_filter_all[k]->measures[i].name; i++) assert_false(isinf(values[i]));
    assert_int_equal(doc.text.len, 0);
  }
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gopher_quality), cmocka_unit_test(test_gopher_repetition), cmocka_unit_test(test_ngrams),
      cmocka_unit_test(test_ngram_borders),  cmocka_unit_test(test_fineweb),           cmocka_unit_test(test_c4),
      cmocka_unit_test(test_c4_lines),       cmocka_unit_test(test_wanjuan),           cmocka_unit_test(test_unknown),
      cmocka_unit_test(test_sets),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
