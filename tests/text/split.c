/* The scanners cut like the patterns they stand for, as PCRE2 reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
// cmocka wants the four above
#include <cmocka.h>

#include "puyu/text.h"
#include "src/text/split.h"

static pu_error err;

typedef struct cuts {
  const uint8_t *base;
  size_t at[4096];
  size_t n;
} cuts;

static pu_err note(void *arg, const uint8_t *p, size_t n, pu_error *e) {
  (void)e;
  cuts *c = arg;
  if (c->base) assert_ptr_equal(p, c->base + (c->n ? c->at[c->n - 1] : 0));
  c->at[c->n] = (c->n ? c->at[c->n - 1] : 0) + n;
  c->n++;
  return PU_OK;
}

static text_splitter *make(const char *pattern, split_behavior behavior, bool invert, bool plain) {
  text_splitter *s = NULL;
  if (text_splitter_regex(pu_str_c(pattern), behavior, invert, plain, &s, &err) != PU_OK) fail_msg("%s", err.msg);
  return s;
}

/* Characters where the alternatives meet, then anything that Unicode 13 and later agree on. */
static void random_text(pu_rng *r, pu_buf *b) {
  static const char *const seeds[] = {"'",
                                      "s",
                                      "S",
                                      "t",
                                      "re",
                                      "vE",
                                      "LL",
                                      "'d",
                                      " ",
                                      "  ",
                                      "\n",
                                      "\r\n",
                                      "\t",
                                      "a",
                                      "B",
                                      "1",
                                      "23",
                                      ".",
                                      "!?",
                                      "_",
                                      "\xC2\xA0",
                                      "\xE3\x80\x80",
                                      "\xE4\xB8\xAD",
                                      "\xC3\xA9",
                                      "\xC5\xBF",
                                      "\xD9\xA3",
                                      "\xC2\xB2",
                                      "\xE2\x85\xA7",
                                      "\xCC\x81",
                                      "\xF0\x9F\x98\x80",
                                      "\xE2\x80\xA8",
                                      "\xC2\x85",
                                      "\xE1\x9A\x80",
                                      "-",
                                      "\0x",
                                      "\x1C"};
  pu_buf_clear(b);
  size_t n = pu_rng_below(r, 40);
  for (size_t i = 0; i < n; i++) {
    const char *s = seeds[pu_rng_below(r, PU_COUNT(seeds))];
    if (pu_rng_below(r, 8) > 0) {
      pu_buf_append(b, s, *s ? strlen(s) : 1);
    } else {
      pu_utf8_put(b, 0x20 + (uint32_t)pu_rng_below(r, 0x2FE0));
    }
  }
}

static void check_scanner(void **state) {
  const char *pattern = *state;
  text_splitter *fast = make(pattern, SPLIT_ISOLATED, false, false);
  text_splitter *slow = make(pattern, SPLIT_ISOLATED, false, true);
  pu_rng r;
  pu_rng_seed(&r, 11);
  pu_buf b;
  pu_buf_init(&b, 1 << 16);
  for (int i = 0; i < 60000; i++) {
    random_text(&r, &b);
    if (b.len == 0 || memmem(b.data, b.len, "\xE1\xA0\x8E", 3)) continue; /* U+180E: a space to PCRE2 only */
    const uint8_t *p = (const uint8_t *)b.data;
    static cuts x, y;
    x.n = y.n = 0;
    x.base = y.base = p;
    assert_int_equal(text_split(&fast, 1, p, b.len, note, &x, &err), PU_OK);
    assert_int_equal(text_split(&slow, 1, p, b.len, note, &y, &err), PU_OK);
    bool same = x.n == y.n && memcmp(x.at, y.at, x.n * sizeof *x.at) == 0;
    if (!same) fail_msg("other words than PCRE2's in: %s", b.data);
    assert_int_equal(x.at[x.n - 1], b.len);
  }
  pu_buf_deinit(&b);
  text_splitter_free(fast);
  text_splitter_free(slow);
}

static pu_err show(void *arg, const uint8_t *p, size_t n, pu_error *e) {
  (void)e;
  pu_buf_printf(arg, "[%.*s]", (int)n, (const char *)p);
  return PU_OK;
}

static void expect(text_splitter *const *s, int n, const char *text, const char *want) {
  pu_buf b;
  pu_buf_init(&b, 1 << 10);
  assert_int_equal(text_split(s, n, (const uint8_t *)text, strlen(text), show, &b, &err), PU_OK);
  assert_string_equal(b.data, want);
  pu_buf_deinit(&b);
}

/* The five behaviours, on the example of Hugging Face's documentation. */
static void test_behaviors(void **state) {
  (void)state;
  static const char *const want[] = {"[the][-][final][-][-][countdown]", "[the][final][countdown]",
                                     "[the-][final-][-][countdown]", "[the][-final][-][-countdown]",
                                     "[the][-][final][--][countdown]"};
  for (int i = 0; i < 5; i++) {
    text_splitter *s = make("-", (split_behavior)i, false, false);
    expect(&s, 1, "the-final--countdown", want[i]);
    text_splitter_free(s);
  }
  text_splitter *inverted = make("[a-z]+", SPLIT_REMOVED, true, false); /* keeps what matches */
  expect(&inverted, 1, "the-final--countdown", "[the][final][countdown]");
  text_splitter_free(inverted);
}

static void test_sequence_and_digits(void **state) {
  (void)state;
  text_splitter *s[2] = {make("-", SPLIT_ISOLATED, false, false), NULL};
  assert_int_equal(text_splitter_digits(true, &s[1], &err), PU_OK);
  expect(s, 2, "a12-3b", "[a][1][2][-][3][b]");
  text_splitter_free(s[1]);
  assert_int_equal(text_splitter_digits(false, &s[1], &err), PU_OK);
  expect(s, 2, "a12-3b", "[a][12][-][3][b]");
  text_splitter_free(s[0]);
  text_splitter_free(s[1]);
}

/* Bytes that are not UTF-8 lose nothing and crash nothing. */
static void test_invalid_bytes(void **state) {
  (void)state;
  static const char *const patterns[] = {split_pattern_gpt2, split_pattern_llama3, split_pattern_qwen2};
  pu_rng r;
  pu_rng_seed(&r, 5);
  for (int i = 0; i < 3000; i++) {
    uint8_t p[64];
    size_t n = 1 + pu_rng_below(&r, sizeof p);
    for (size_t k = 0; k < n; k++) p[k] = (uint8_t)pu_rng_next(&r);
    text_splitter *s = make(patterns[i % 3], SPLIT_ISOLATED, false, i % 2);
    static cuts c;
    c.n = 0;
    c.base = p;
    assert_int_equal(text_split(&s, 1, p, n, note, &c, &err), PU_OK);
    assert_int_equal(c.at[c.n - 1], n);
    text_splitter_free(s);
  }
  text_splitter *bad = NULL;
  assert_int_equal(text_splitter_regex(pu_str_c("(a"), SPLIT_ISOLATED, false, false, &bad, &err), PU_ERR_UNSUPPORTED);
  assert_non_null(strstr(err.msg, "PCRE2"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      {"gpt2 equals PCRE2", check_scanner, NULL, NULL, (void *)split_pattern_gpt2},
      {"llama3 equals PCRE2", check_scanner, NULL, NULL, (void *)split_pattern_llama3},
      {"qwen2 equals PCRE2", check_scanner, NULL, NULL, (void *)split_pattern_qwen2},
      cmocka_unit_test(test_behaviors),
      cmocka_unit_test(test_sequence_and_digits),
      cmocka_unit_test(test_invalid_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
