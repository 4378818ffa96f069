/* What is found in answers, and which answers are the same; scores computed by hand. */
#include "src/eval/internal.h"
#include "tests/test.h"

#include <math.h>

static void open_rules(const char *rule, size_t n_choices, eval_extractor **x) {
  pu_error e;
  const char *rules[] = {rule}, *choices[26] = {0};
  const pu_eval_task t = {.name = "t", .extract = {rules, 1}, .choices = {choices, n_choices}};
  assert_ok(eval_extractor_open(&t, x, &e), &e);
}

/* wanted NULL: nothing is found. */
static void finds(const eval_extractor *x, const char *text, const char *wanted) {
  pu_buf b;
  pu_error e;
  bool found;
  pu_buf_init(&b, 1 << 16);
  assert_ok(eval_extract(x, pu_str_c(text), &b, &found, &e), &e);
  if (found != (wanted != NULL)) fail_msg("'%s': %s", text, found ? b.data : "nothing is found");
  if (wanted && strcmp(b.data, wanted) != 0) fail_msg("'%s': '%s', not '%s'", text, b.data, wanted);
  pu_buf_deinit(&b);
}

static void letters(void **state) {
  (void)state;
  static const struct {
    const char *text, *wanted;
  } rows[] = {{"B", "B"},
              {" B.", "B"},
              {"**D**", "D"},
              {"(C) because", "C"},
              {"Ｂ", "B"},
              {"答案：Ｃ。", "C"},
              {"答案是 **A**，因为", "A"},
              {"正确答案为（D）", "D"},
              {"故选B", "B"},
              {"A cat has four legs, so the answer is C.", "C"},
              {"The answer is (A). No, the answer is: B", "B"},
              {"Answer: \\boxed{D}", "D"},
              {"It is D, not A.", "D"},
              {"I think it is B", "B"},
              {"A cat", NULL},
              {"E", NULL},
              {"Because", NULL},
              {"", NULL},
              {"\xFF\xFE C", "C"}};
  eval_extractor *x;
  open_rules("letter", 4, &x);
  for (size_t i = 0; i < PU_COUNT(rows); i++) finds(x, rows[i].text, rows[i].wanted);
  eval_extractor_close(x);
  open_rules("letter", 0, &x); /* any letter */
  finds(x, "the answer is E", "E");
  eval_extractor_close(x);
}

static void numbers(void **state) {
  (void)state;
  static const struct {
    const char *text, *wanted;
  } rows[] = {{"It costs 1,200 dollars.", "1200"},
              {"first 5, then 18", "18"},
              {"５＋３＝８", "8"},
              {"答案是１，２００", "1200"},
              {"$3.50", "3.5"},
              {"x = -7.", "-7"},
              {"10-3", "3"},
              {"007", "7"},
              {"-0", "0"},
              {".5", "0.5"},
              {"1,20", "20"}, /* no thousands: a list */
              {"100%", "100"},
              {"a1 b2", NULL},
              {"none", NULL},
              {"-", NULL}};
  eval_extractor *x;
  open_rules("number", 0, &x);
  for (size_t i = 0; i < PU_COUNT(rows); i++) finds(x, rows[i].text, rows[i].wanted);
  eval_extractor_close(x);
}

static void boxes_and_patterns(void **state) {
  (void)state;
  eval_extractor *x;
  pu_error e;
  open_rules("boxed", 0, &x);
  finds(x, "so \\boxed{1} and \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}");
  finds(x, "\\boxed 5 is it", "5");
  finds(x, "\\boxed{unclosed", NULL);
  finds(x, "5", NULL);
  eval_extractor_close(x);
  open_rules("#### *([0-9,]+)", 0, &x);
  finds(x, "so 7\n#### 1,200\n\n#### 9", "1,200");
  finds(x, "no mark 7", NULL);
  eval_extractor_close(x);
  open_rules("(a+)+$", 0, &x); /* its steps are bounded */
  finds(x, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", NULL);
  eval_extractor_close(x);
  const char *bad[] = {"(unclosed"};
  const pu_eval_task t = {.name = "t", .extract = {bad, 1}};
  assert_int_equal(eval_extractor_open(&t, &x, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "(unclosed"));
  eval_extractor_close(x);
}

static void the_same_and_others(void **state) {
  (void)state;
  static const struct {
    pu_eval_compare how;
    const char *a, *b;
    bool same;
  } rows[] = {{PU_EVAL_EXACT, " Paris\n", "paris", true},
              {PU_EVAL_EXACT, "Paris", "London", false},
              {PU_EVAL_NUMBER, "1,200", "1200.00", true},
              {PU_EVAL_NUMBER, "$18", "18", true},
              {PU_EVAL_NUMBER, "１８", "18", true},
              {PU_EVAL_NUMBER, "18", "19", false},
              {PU_EVAL_NUMBER, "many", "many", true},
              {PU_EVAL_MATH, "\\dfrac{14}{3}", "\\frac{14}{3}", true},
              {PU_EVAL_MATH, "14/3", "\\frac{14}{3}", true},
              {PU_EVAL_MATH, "\\frac12", "\\frac{1}{2}", true},
              {PU_EVAL_MATH, "\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})", true},
              {PU_EVAL_MATH, "\\text{Evelyn}", "Evelyn", true},
              {PU_EVAL_MATH, "x=5", "5", true},
              {PU_EVAL_MATH, "45^\\circ", "45", true},
              {PU_EVAL_MATH, "$p - q$.", "p-q", true},
              {PU_EVAL_MATH, "\\sqrt2", "\\sqrt{2}", true},
              {PU_EVAL_MATH, "10\\%", "10", true},
              {PU_EVAL_MATH, "1,234", "1234", true},
              {PU_EVAL_MATH, "p-q", "q-p", false},
              {PU_EVAL_MATH, "", "0", false}};
  for (size_t i = 0; i < PU_COUNT(rows); i++)
    if (eval_same(rows[i].how, pu_str_c(rows[i].a), pu_str_c(rows[i].b)) != rows[i].same)
      fail_msg("'%s' and '%s' are %sthe same", rows[i].a, rows[i].b, rows[i].same ? "not " : "");
}

/* Nats 4 over 2 tokens against 3 over 1: each rule's pick by hand. */
static void rules_pick(void **state) {
  (void)state;
  const pu_str options[] = {pu_str_c(" abcdefgh"), pu_str_c(" \xE4\xBD\xA0\xE5\xA5\xBD")}; /* 8 and 2 characters */
  const eval_told told[] = {{4, 2, 30, 20}, {3, 1, 28, 19}};
  assert_int_equal(eval_pick(PU_EVAL_SUM, told, options, 2), 1);      /* 4 > 3 */
  assert_int_equal(eval_pick(PU_EVAL_TOKEN, told, options, 2), 0);    /* 2 < 3 */
  assert_int_equal(eval_pick(PU_EVAL_CHAR, told, options, 2), 0);     /* 4/8 < 3/2 */
  assert_int_equal(eval_pick(PU_EVAL_BYTE, told, options, 2), 0);     /* 4/8 = 3/6: the first */
  assert_int_equal(eval_pick(PU_EVAL_SEQUENCE, told, options, 2), 1); /* 30/20 > 28/19 */
}

/* 3 of 4 right in one subject, 1 of 2 in another: 4/6, and the mean of 3/4 and 1/2. */
static void means_and_errors(void **state) {
  (void)state;
  eval_tally *t = eval_tally_new();
  pu_eval_result r = {0};
  for (int i = 0; i < 6; i++) {
    eval_sample s = {.score = i != 3 && i != 5, .cut = i == 0, .unread = i > 3};
    for (int k = 0; k < PU_EVAL_RULES; k++) s.picks[k] = k == PU_EVAL_SUM ? s.score : -1;
    assert_true(eval_tally_add(t, i < 4 ? "a" : "b", &s));
  }
  for (int rule = -1; rule <= 0; rule++) {
    eval_tally_result(t, PU_EVAL_CHOICE, rule, &r);
    assert_true(fabs(r.micro.value - 4.0 / 6) < 1e-12);
    assert_true(fabs(r.micro.error - sqrt(4.0 / 6 * 2 / 6 / 5)) < 1e-12);
    assert_true(fabs(r.macro.value - 0.625) < 1e-12);
    assert_true(fabs(r.macro.error - sqrt(0.75 * 0.25 / 3 + 0.5 * 0.5 / 1) / 2) < 1e-12);
    assert_int_equal(r.n, 6);
    assert_int_equal(r.subjects, 2);
    assert_int_equal(r.cut, 1);
    assert_int_equal(r.unread, 2);
  }
  eval_tally_result(t, PU_EVAL_CHOICE, PU_EVAL_SEQUENCE, &r);
  assert_true(isnan(r.micro.value)); /* not known */
  eval_tally_free(t);
  t = eval_tally_new(); /* two windows: 6 nats of 3 tokens, 2 of 1; 2 words, 16 bytes */
  assert_true(eval_tally_add(t, "", &(eval_sample){.nats = 6, .tokens = 3, .words = 2, .bytes = 16}));
  assert_true(eval_tally_add(t, "", &(eval_sample){.nats = 2, .tokens = 1}));
  eval_tally_result(t, PU_EVAL_PERPLEXITY, -1, &r);
  assert_true(fabs(r.micro.value - exp(4)) < 1e-9);
  assert_true(fabs(r.micro.error) < 1e-9); /* both windows have 2 nats a token */
  assert_true(fabs(r.token_perplexity - exp(2)) < 1e-9);
  assert_true(fabs(r.bits_per_byte - 0.5 / log(2)) < 1e-12);
  eval_tally_free(t);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(letters),
                                     cmocka_unit_test(numbers),
                                     cmocka_unit_test(boxes_and_patterns),
                                     cmocka_unit_test(the_same_and_others),
                                     cmocka_unit_test(rules_pick),
                                     cmocka_unit_test(means_and_errors)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
