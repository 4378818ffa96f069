/* Words of texts: what they are folded to, which bytes they stand for. */
#include "tests/test.h"

#include "src/store/terms.h"

typedef struct seen {
  pu_buf all;
  pu_str text;
  size_t at; /* terms come in order */
} seen;

static int see(void *arg, const store_term *t) {
  static const char kinds[] = {' ', '+', '.'};
  seen *s = arg;
  assert_true(t->begin < t->end && t->end <= s->text.len && t->begin >= s->at);
  assert_true(t->text.len > 0 && t->text.len <= STORE_TERM_MAX);
  s->at = t->begin;
  if (s->all.len > 0) pu_buf_putc(&s->all, ' ');
  if (t->kind != STORE_WORD && t->first) pu_buf_putc(&s->all, '<');
  pu_buf_append(&s->all, t->text.ptr, t->text.len);
  if (t->kind != STORE_WORD) pu_buf_putc(&s->all, kinds[t->kind]);
  return 0;
}

/* Words as they are, pairs with a +, last characters with a full stop, < before the first of a run. */
static void expect(const char *text, const char *want) {
  seen s = {.text = pu_str_c(text)};
  pu_buf_init(&s.all, 1 << 16);
  pu_buf_putc(&s.all, '|');
  assert_int_equal(store_terms(s.text, see, &s), 0);
  if (strcmp(s.all.data + 1 + (s.all.len > 1), want) != 0)
    fail_msg("\"%s\" gave \"%s\", not \"%s\"", text, s.all.data + 1, want);
  pu_buf_deinit(&s.all);
}

static void test_words(void **state) {
  (void)state;
  expect("", "");
  expect(" .,!\n\t", "");
  expect("Hello, World", "hello world");
  expect("snake_case x86-64 3.14", "snake case x86 64 3 14");
  expect("don't", "don t");
  expect("МОСКВА Йод", "москва йод"); /* marks stay outside of Latin script */
  expect("ΣΊΣΥΦΟΣ", "σίσυφοσ");       /* one case for every form of a letter */
  expect("हिन्दी भाषा", "हिन्दी भाषा"); /* vowel signs are part of a word */
}

static void test_latin(void **state) {
  (void)state;
  expect("café CAFÉ cafe\xCC\x81 cafe", "cafe cafe cafe cafe");
  expect("Ångström naïve Ünïcödé ệ", "angstrom naive unicode e");
  expect("Straße STRASSE", "strasse strasse");
  expect("ﬁn ＡＢＣ１２ ① ㎏ ™", "fin abc12 1 kg tm");
  expect("İstanbul", "istanbul");
  expect("co\xC2\xADop", "coop"); /* a soft hyphen */
}

static void test_packed(void **state) {
  (void)state;
  expect("机器学习", "<机器+ 器学+ 学习+ 习.");
  expect("学", "<学.");
  expect("机器 学习", "<机器+ 器. <学习+ 习.");
  expect("第5章", "<第. 5 <章.");
  expect("GPT模型v2", "gpt <模型+ 型. v2");
  expect("你好，世界", "<你好+ 好. <世界+ 界.");
  expect("算\n法", "<算法+ 法.");  /* a line's end does not part a word */
  expect("算\n\n法", "<算. <法."); /* a paragraph's does */
  expect("カタカナ", "<カタ+ タカ+ カナ+ ナ.");
  expect("ｶﾞｷﾞ", "<ガギ+ ギ.");             /* half-width, with sound marks of their own */
  expect("か\xE3\x82\x99き", "<がき+ き."); /* a combining one */
  expect("한국어", "<한국+ 국어+ 어.");
  expect("\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB\xE1\x84\x80\xE1\x85\xAE\xE1\x86\xA8", "<한국+ 국."); /* as jamo */
  expect("\xE2\xBC\x80\xEF\xA4\x80", "<一豈+ 豈."); /* a radical and a compatibility ideograph */
  expect("\xF0\xA0\x80\x80\xF0\xA0\x80\x81", "<\xF0\xA0\x80\x80\xF0\xA0\x80\x81+ \xF0\xA0\x80\x81.");
  expect("人々", "<人々+ 々.");
}

static void test_odd(void **state) {
  (void)state;
  char word[400];
  seen s = {.text = pu_str_of("a\0b\xFF"
                              "c\xE6\x9C",
                              7)};
  pu_buf_init(&s.all, 1 << 16);
  assert_int_equal(store_terms(s.text, see, &s), 0);
  assert_string_equal(s.all.data, "a b c"); /* what is no UTF-8 parts words */
  pu_buf_deinit(&s.all);
  expect("\xCC\x81", ""); /* a mark alone */
  expect("-\xCC\x81z", "z");
  expect("🙂 ok", "ok");
  memset(word, 'x', sizeof word);
  s = (seen){.text = pu_str_of(word, sizeof word)};
  pu_buf_init(&s.all, 1 << 16);
  assert_int_equal(store_terms(s.text, see, &s), 0);
  assert_int_equal(s.all.len, STORE_TERM_MAX); /* of a long word the beginning */
  pu_buf_deinit(&s.all);
}

/* More marks than a cluster holds say nothing, wherever the cluster is cut. */
static void test_many_marks(void **state) {
  (void)state;
  pu_buf text;
  pu_buf_init(&text, 1 << 16);
  pu_buf_putc(&text, 'a');
  for (int i = 0; i < 200; i++) pu_buf_puts(&text, "\xCC\x81");
  pu_buf_puts(&text, "b c");
  seen s = {.text = pu_str_of(text.data, text.len)};
  pu_buf_init(&s.all, 1 << 16);
  assert_int_equal(store_terms(s.text, see, &s), 0);
  assert_string_equal(s.all.data, "ab c");
  pu_buf_deinit(&s.all);
  pu_buf_deinit(&text);
}

/* ---- random texts ---- */

typedef struct want {
  pu_str term;
  bool found;
} want;

static int look(void *arg, const store_term *t) {
  want *w = arg;
  w->found = w->found || pu_str_eq(t->text, w->term);
  return 0;
}

/* The bytes that a term stands for have the term in them. */
static int check_slice(void *arg, const store_term *t) {
  const pu_str *text = arg;
  want w = {.term = t->text};
  assert_true(t->begin < t->end && t->end <= text->len);
  assert_int_equal(store_terms(pu_str_of(text->ptr + t->begin, t->end - t->begin), look, &w), 0);
  if (!w.found)
    fail_msg("\"%.*s\" is not in its bytes of \"%.*s\"", (int)t->text.len, t->text.ptr, (int)text->len, text->ptr);
  return 0;
}

static void put_random(pu_buf *text, pu_rng *rng) {
  static const uint32_t ranges[][2] = {{0x20, 0x24F},    {0x300, 0x36F},   {0x370, 0x6FF},   {0x900, 0x9FF},
                                       {0x1100, 0x11FF}, {0x1E00, 0x1FFF}, {0x2100, 0x24FF}, {0x3000, 0x33FF},
                                       {0xAC00, 0xAD00}, {0xF900, 0xFAFF}, {0xFB00, 0xFDFF}, {0xFF00, 0xFFDC}};
  const uint32_t *range = ranges[pu_rng_below(rng, PU_COUNT(ranges))];
  uint32_t c = range[0] + (uint32_t)pu_rng_below(rng, range[1] - range[0] + 1);
  if (c < 0x80)
    pu_buf_putc(text, (char)c);
  else if (c < 0x800)
    pu_buf_printf(text, "%c%c", (char)(0xC0 | c >> 6), (char)(0x80 | (c & 0x3F)));
  else
    pu_buf_printf(text, "%c%c%c", (char)(0xE0 | c >> 12), (char)(0x80 | (c >> 6 & 0x3F)), (char)(0x80 | (c & 0x3F)));
}

static void test_random(void **state) {
  (void)state;
  pu_rng rng;
  pu_buf text;
  pu_buf_init(&text, 1 << 12);
  pu_rng_seed(&rng, 11);
  for (int round = 0; round < 20000; round++) {
    pu_buf_clear(&text);
    for (int i = 0; i < 12; i++) put_random(&text, &rng);
    pu_str view = pu_str_of(text.data, text.len);
    assert_int_equal(store_terms(view, check_slice, &view), 0);
  }
  pu_buf_deinit(&text);
}

static int stop_at_two(void *arg, const store_term *t) {
  (void)t;
  return ++*(int *)arg == 2 ? 7 : 0;
}

static void test_stop(void **state) {
  (void)state;
  int n = 0;
  assert_int_equal(store_terms(pu_str_c("a b c 学习"), stop_at_two, &n), 7);
  assert_int_equal(n, 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_words),      cmocka_unit_test(test_latin),
                                     cmocka_unit_test(test_packed),     cmocka_unit_test(test_odd),
                                     cmocka_unit_test(test_many_marks), cmocka_unit_test(test_random),
                                     cmocka_unit_test(test_stop)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
