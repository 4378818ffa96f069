/* Documents: the view of words, lines and paragraphs against a plain reference; copies of strings. */
#include "src/data/doc.h"
#include "tests/test.h"

static pu_doc doc;

/* ---- a plain reference: one character after the other ---- */

typedef enum kind { SPACE, WORD, HAN, MARK } kind;

static kind kind_of(uint32_t cp) {
  if (cp <= ' ') return cp == ' ' || (cp >= 9 && cp <= 13) ? SPACE : WORD;
  if (cp == 0xA0 || cp == 0x3000 || cp == 0x2003) return SPACE;
  if (cp == 0x3001 || cp == 0x3002 || cp == 0xFF0C || cp == 0x300A) return MARK;
  return (cp >= 0x3040 && cp <= 0x30FF) || (cp >= 0x3400 && cp <= 0x4DBF) || (cp >= 0x4E00 && cp <= 0x9FFF) ||
                 (cp >= 0x0E00 && cp <= 0x0E7F) || (cp >= 0x20000 && cp <= 0x2FFFF)
             ? HAN
             : WORD;
}

static bool is_letter(uint32_t cp) {
  if (cp < 0x80) return (cp | 0x20) >= 'a' && (cp | 0x20) <= 'z';
  return cp != 0x2014 && cp != 0x201C && cp != 0xFFFD && cp != 0x1F600; /* of those that are drawn below */
}

typedef struct plain {
  pu_span words[4096];
  size_t n, chars, han, letters;
} plain;

static void read_plain(plain *p) {
  kind open = SPACE;
  *p = (plain){.n = 0};
  for (size_t i = 0, step; i < doc.text.len; i += step) {
    uint32_t cp;
    step = pu_utf8_next(pu_str_of(doc.text.data + i, doc.text.len - i), &cp);
    kind is = kind_of(cp);
    p->chars++;
    p->han += is == HAN;
    p->letters += is == WORD && is_letter(cp);
    if (is == SPACE) {
      open = SPACE;
      continue;
    }
    if (is != open || is == HAN) p->words[p->n++] = (pu_span){(uint32_t)i, 0};
    p->words[p->n - 1].len += (uint32_t)step;
    open = is;
  }
}

static void check_words(void) {
  static plain p;
  read_plain(&p);
  const pu_view *v = pu_doc_view(&doc);
  assert_non_null(v);
  assert_int_equal(v->n_words, p.n);
  assert_int_equal(v->n_chars, p.chars);
  assert_int_equal(v->n_han, p.han);
  assert_int_equal(v->unspaced, (double)p.han > 0.3 * (double)(p.han + p.letters));
  for (size_t i = 0; i < p.n; i++) {
    assert_int_equal(v->words[i].at, p.words[i].at);
    assert_int_equal(v->words[i].len, p.words[i].len);
  }
  for (size_t i = 0; i < p.n; i++) /* words have the same hash where they are the same */
    for (size_t k = i > 40 ? i - 40 : 0; k < i; k++) {
      bool same = pu_str_eq(pu_str_of(doc.text.data + p.words[i].at, p.words[i].len),
                            pu_str_of(doc.text.data + p.words[k].at, p.words[k].len));
      assert_int_equal(v->word_hashes[i] == v->word_hashes[k], same);
    }
}

static void test_words(void **state) {
  (void)state;
  static const char *const pieces[] = {
      "a",        "word",         "under", "standing", "x,",   "12",  "-",  " ",  "  ", "\n", "\t",
      "\x01",     "汉",           "字",    "一",       "龥",   "䷀",  "㐀", "。", "，", "《", "\xE3\x80\x80",
      "\xC2\xA0", "\xE2\x80\x83", "é",     "Привет",   "かな", "ไทย", "𠀀", "—",  "“",  "😀",  "\xEF\xBF\xBD"};
  pu_rng r;
  pu_rng_seed(&r, 11);
  for (int round = 0; round < 2000; round++) {
    pu_doc_clear(&doc);
    size_t kinds = 1 + pu_rng_below(&r, PU_COUNT(pieces));
    for (size_t i = pu_rng_below(&r, 200); i > 0; i--)
      pu_buf_puts(&doc.text, pieces[(pu_rng_below(&r, kinds) + (size_t)round) % PU_COUNT(pieces)]);
    check_words();
  }
}

/* Words that differ in one byte, or in length only, have hashes of their own. */
static void test_hashes(void **state) {
  (void)state;
  static uint64_t seen[4096];
  size_t n = 0;
  pu_doc_clear(&doc);
  for (int len = 1; len <= 40; len++)
    for (int at = -1; at < len; at++) {
      for (int k = 0; k < len; k++) pu_buf_putc(&doc.text, k == at ? 'b' : 'a');
      pu_buf_putc(&doc.text, ' ');
    }
  const pu_view *v = pu_doc_view(&doc);
  for (size_t i = 0; i < v->n_words; i++) {
    for (size_t k = 0; k < n; k++)
      if (seen[k] == v->word_hashes[i])
        fail_msg("%.*s and %.*s", (int)v->words[i].len, doc.text.data + v->words[i].at, (int)v->words[k].len,
                 doc.text.data + v->words[k].at);
    seen[n++] = v->word_hashes[i];
  }
  assert_int_equal(n, 40 + 40 * 41 / 2);
}

static void expect_spans(const pu_span *spans, size_t n, const char *want) {
  char got[256] = "";
  for (size_t i = 0; i < n; i++) {
    size_t used = strlen(got);
    snprintf(got + used, sizeof got - used, "%s%.*s", i ? "|" : "", (int)spans[i].len, doc.text.data + spans[i].at);
  }
  assert_string_equal(got, want);
}

static void test_lines(void **state) {
  (void)state;
  static const struct {
    const char *text, *lines, *paragraphs;
  } cases[] = {
      {"", "", ""},
      {" \n\t\n", "", ""},
      {"one", "one", "one"},
      {" a \nb\n\n \nc\n", "a|b|c", "a \nb|c"},
      {"\n\na\n\nb", "a|b", "a|b"},
  };
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_doc_clear(&doc);
    pu_buf_puts(&doc.text, cases[i].text);
    const pu_view *v = pu_doc_view(&doc);
    expect_spans(v->lines, v->n_lines, cases[i].lines);
    expect_spans(v->paragraphs, v->n_paragraphs, cases[i].paragraphs);
  }
}

static void test_rewritten(void **state) {
  (void)state;
  pu_doc_clear(&doc);
  pu_buf_puts(&doc.text, "one two");
  assert_int_equal(pu_doc_view(&doc)->n_words, 2);
  pu_buf_puts(&doc.spare, "three");
  pu_doc_rewritten(&doc);
  assert_int_equal(pu_doc_view(&doc)->n_words, 1);
  assert_string_equal(doc.text.data, "three");
  assert_int_equal(doc.spare.len, 0);
  pu_str kept = pu_doc_keep(&doc, pu_str_c("a\xFF\xE4\xB8"));
  assert_true(pu_utf8_valid(kept));
  assert_memory_equal(kept.ptr, "a\xEF\xBF\xBD", 4);
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
      cmocka_unit_test(test_words),
      cmocka_unit_test(test_hashes),
      cmocka_unit_test(test_lines),
      cmocka_unit_test(test_rewritten),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
