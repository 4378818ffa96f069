/* Published rules at their borders in Chinese, where two characters are a word: for each bound a document that is right
 * at it, and stays, and one that is a step beyond. */
#include "tests/data/filter_apply.h"

static pu_buf text;
static uint32_t next_han; /* no character comes twice but where a test says so */

static void clear(void) {
  if (!text.max) pu_buf_init(&text, 1 << 24);
  pu_buf_clear(&text);
  next_han = 0x4E00;
}

static void put(const char *s, int n) {
  for (int i = 0; i < n; i++) assert_true(pu_buf_puts(&text, s));
}

/* n characters that were not there before. */
static void fresh(int n) {
  for (int i = 0; i < n; i++) assert_true(pu_utf8_put(&text, next_han++));
  assert_true(next_han < 0xA000);
}

/* n characters beginning with number `from` of those that fresh gives. */
static void again(uint32_t from, int n) {
  for (int i = 0; i < n; i++) assert_true(pu_utf8_put(&text, 0x4E00 + from + (uint32_t)i));
}

/* Is the text at the bound, or beyond it? */
static void assert_drops(bool want, const char *filter, const char *measure) {
  const pu_filter *f = pu_filter_find(filter);
  int i = measure_of(f, measure);
  apply(filter, text.data);
  bool drops = values[i] < f->measures[i].min || values[i] > f->measures[i].max;
  if (drops != want || isnan(values[i]))
    fail_msg("%s.%s: %.6f %s", filter, measure, values[i], drops ? "drops" : "stays");
}

/* a, n times, then b, m times. */
static void assert_two(bool want, const char *filter, const char *measure, const char *a, int n, const char *b, int m) {
  clear();
  put(a, n);
  put(b, m);
  assert_drops(want, filter, measure);
}

static void test_gopher_quality(void **state) {
  (void)state;
  const char *f = "gopher_quality";
  assert_two(true, f, "words", "书", 99, "", 0);
  assert_two(false, f, "words", "书", 100, "", 0);
  assert_two(false, f, "words", "书", 200000, "", 0);
  assert_two(true, f, "words", "书", 200001, "", 0);
  assert_true(isnan(value(f, "mean_word_length"))); /* which says nothing here */
  assert_two(false, f, "hashes", "字", 200, "#", 10);
  assert_two(true, f, "hashes", "字", 200, "#", 11);
  /* A Chinese ellipsis is two characters, and one of them. */
  assert_two(false, f, "ellipses", "他说的是这个……", 10, "字", 140);
  assert_two(true, f, "ellipses", "他说的是这个……", 11, "字", 134);
  assert_two(false, f, "bullet_lines", "・项目\n", 9, "一行\n", 1);
  assert_two(true, f, "bullet_lines", "・项目\n", 10, "", 0);
  assert_two(false, f, "ellipsis_lines", "如此……\n", 3, "到此为止。\n", 7);
  assert_two(true, f, "ellipsis_lines", "如此……\n", 4, "到此为止。\n", 6);
  assert_two(false, f, "alphabetic_words", "字", 80, "12 ", 20);
  assert_two(true, f, "alphabetic_words", "字", 79, "12 ", 21);
  assert_two(true, f, "stop_words", "的", 5, "书", 50);
  assert_two(false, f, "stop_words", "的", 5, "是", 5);
  assert_two(true, f, "stop_words", "這", 5, "这", 5); /* one word in two scripts */
}

/* Ten lines, or paragraphs, of ten characters, of which so many were there before. */
static void lines_again(int n, const char *end) {
  clear();
  for (int i = 0; i < 10 - n; i++) {
    fresh(10);
    put(end, 1);
  }
  for (int i = 0; i < n; i++) {
    again(0, 10);
    put(end, 1);
  }
}

static void test_lines_again(void **state) {
  (void)state;
  static const struct {
    const char *measure, *end;
    int most;
  } all[] = {
      {"lines", "\n", 3}, {"line_characters", "\n", 2}, {"paragraphs", "\n\n", 3}, {"paragraph_characters", "\n\n", 2}};
  for (size_t i = 0; i < PU_COUNT(all); i++) {
    lines_again(all[i].most, all[i].end);
    assert_drops(false, "gopher_repetition", all[i].measure);
    lines_again(all[i].most + 1, all[i].end);
    assert_drops(true, "gopher_repetition", all[i].measure);
  }
}

/* A passage of n characters, `times` times with others between, in `all` characters. */
static void frequent(int n, int times, int all) {
  clear();
  fresh(n);
  for (int i = 1; i < times; i++) {
    fresh(1);
    again(0, n);
  }
  fresh(all - n * times - (times - 1));
}

static void test_top(void **state) {
  (void)state;
  static const struct {
    const char *measure;
    int words, times, all; /* words * 2 * times / all is the bound */
  } all[] = {{"top_2", 2, 20, 400}, {"top_3", 3, 9, 300}, {"top_4", 4, 8, 400}};
  for (size_t i = 0; i < PU_COUNT(all); i++) {
    frequent(2 * all[i].words, all[i].times, all[i].all);
    assert_drops(false, "gopher_repetition", all[i].measure);
    frequent(2 * all[i].words, all[i].times + 1, all[i].all);
    assert_drops(true, "gopher_repetition", all[i].measure);
  }
}

/* The same with all but the first one end to end, which is how much is duplicate. */
static void passage_again(int n, int times, int all) {
  clear();
  fresh(all - n * times);
  for (int i = 0; i < times; i++) again(7, n);
}

static void test_duplicates(void **state) {
  (void)state;
  static const struct {
    const char *measure;
    int words, times, all;
  } all[] = {{"ngrams_5", 5, 3, 200}, {"ngrams_6", 6, 7, 600},   {"ngrams_7", 7, 13, 1400},
             {"ngrams_8", 8, 3, 400}, {"ngrams_9", 9, 11, 1800}, {"ngrams_10", 10, 1, 200}};
  for (size_t i = 0; i < PU_COUNT(all); i++) {
    passage_again(2 * all[i].words, all[i].times, all[i].all);
    assert_drops(false, "gopher_repetition", all[i].measure);
    passage_again(2 * all[i].words, all[i].times + 1, all[i].all);
    assert_drops(true, "gopher_repetition", all[i].measure);
  }
}

static void test_fineweb(void **state) {
  (void)state;
  const char *f = "fineweb";
  assert_two(false, f, "ended_lines", "到此为止。\n", 12, "没有\n", 88);
  assert_two(true, f, "ended_lines", "到此为止。\n", 11, "没有\n", 89);
  const char *fifteen = "这一行正好有十五个字不多也不少\n", *sixteen = "这一行正好有十六个字不多也不少了\n";
  assert_two(false, f, "short_lines", fifteen, 67, sixteen, 33);
  assert_two(true, f, "short_lines", fifteen, 68, sixteen, 32);
  for (int more = 0; more <= 1; more++) {
    clear();
    for (int i = 0; i < 99 - more; i++) {
      fresh(20);
      put("\n", 1);
    }
    for (int i = 0; i < 1 + more; i++) {
      again(0, 20);
      put("\n", 1);
    }
    assert_drops(more > 0, f, "duplicate_characters");
  }
  assert_two(false, f, "line_ends", "一二三四五六七\n", 2, "一二三四五六\n", 1); /* 3 of 10 words */
  assert_two(true, f, "line_ends", "一二三四五六七\n", 1, "一二三四五六\n", 2);
}

static void test_c4(void **state) {
  (void)state;
  for (int k = 0; k < 2; k++) {
    const char *f = k ? "c4_fineweb" : "c4";
    assert_two(true, f, "sentences", "这是一个句子？", 4, "", 0);
    assert_two(false, f, "sentences", "这是一个句子？", 5, "", 0);
    assert_two(false, f, "curly_brackets", "这是一段文字，不是代码。", 5, "", 0);
    assert_two(true, f, "curly_brackets", "这是一段文字，不是代码。", 5, "{", 1);
    assert_two(true, f, "lorem_ipsum", "这是一段文字，不是代码。", 5, "Lorem ipsum", 1);
    apply(f, "他来过这里？"); /* five characters, which are not three words */
    assert_int_equal(doc.text.len, 0);
    apply(f, "他来过这里吗？");
    assert_string_equal(doc.text.data, "他来过这里吗？");
  }
}

static void test_wanjuan(void **state) {
  (void)state;
  const char *f = "wanjuan";
  assert_two(false, f, "separators", "━", 10, "字", 90);
  assert_two(true, f, "separators", "━", 11, "字", 89);
  assert_two(false, f, "line_length", "这里五字。\n", 5, "", 0);
  assert_two(true, f, "line_length", "这里五字。\n", 4, "四个字。\n", 1);
  assert_two(false, f, "broken_lines", "断开的一行\n", 7, "完整的一行。\n", 4); /* 7 of 10: the last of them goes on */
  assert_two(true, f, "broken_lines", "断开的一行\n", 8, "完整的一行。\n", 3);
  assert_two(false, f, "strange_characters", "\xEF\xBF\xBD", 1, "字", 99);
  assert_two(true, f, "strange_characters", "\xEF\xBF\xBD", 2, "字", 98);
  assert_two(false, f, "punctuation", "。", 30, "字", 70);
  assert_two(true, f, "punctuation", "。", 31, "字", 69);
  assert_two(false, f, "punctuation", "，", 2, "字", 998);
  assert_two(true, f, "punctuation", "，", 1, "字", 999);
  assert_two(false, f, "punctuation_spread", "，", 1, "字", 399);
  assert_two(true, f, "punctuation_spread", "，", 1, "字", 599);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_gopher_quality), cmocka_unit_test(test_lines_again), cmocka_unit_test(test_top),
      cmocka_unit_test(test_duplicates),     cmocka_unit_test(test_fineweb),     cmocka_unit_test(test_c4),
      cmocka_unit_test(test_wanjuan),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
