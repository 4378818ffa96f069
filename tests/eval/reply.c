/* What servers answer, by hand: which tokens an option's are, what is missing, what went wrong. */
#include "src/eval/internal.h"
#include "tests/test.h"

#include <math.h>

#define TOKENS(texts, values, offsets, finish)                                                                         \
  "{\"index\":0,\"finish_reason\":" finish ",\"logprobs\":{\"tokens\":[" texts "],\"token_logprobs\":[" values         \
  "],\"text_offset\":[" offsets "]}}"

static bool all_counts;

static pu_err told(const char *choices, const char *option, bool with_one, eval_told *out) {
  char body[1000];
  pu_error e;
  const pu_str options[] = {pu_str_c(option)};
  eval_ask ask = {.options = options, .n_options = 1, .whole = all_counts, .told = out};
  snprintf(body, sizeof body, "{\"choices\":[%s]}", choices);
  return eval_reply_told("http://x", pu_str_c(body), with_one, &ask, &e);
}

static void is(const eval_told *t, double nats, int64_t tokens, double whole, int64_t whole_tokens) {
  assert_true(fabs(t->nats - nats) < 1e-12 && fabs(t->whole_nats - whole) < 1e-12);
  assert_int_equal(t->tokens, tokens);
  assert_int_equal(t->whole_tokens, whole_tokens);
}

static void options_are_at_the_end(void **state) {
  (void)state;
  all_counts = true;
  eval_told t;
  static const char four[] = TOKENS("\"Q\",\":\",\" ab\",\"c\"", "null,-1,-2,-4", "0,1,2,5", "\"length\"");
  assert_int_equal(told(four, " abc", false, &t), PU_OK);
  is(&t, 6, 2, 7, 4);
  assert_int_equal(told(four, "c", false, &t), PU_OK);
  is(&t, 4, 1, 7, 4);
  assert_int_equal(told(four, "bc", false, &t), PU_OK); /* a token over the border is the option's */
  is(&t, 6, 2, 7, 4);
  assert_int_equal(told(four, " ab", true, &t), PU_OK); /* the last one was made */
  is(&t, 2, 1, 3, 3);
  static const char ended[] = TOKENS("\"Q\",\" a\"", "null,-1", "0,1", "\"stop\"");
  assert_int_equal(told(ended, " a", true, &t), PU_OK); /* nothing was: it ended */
  is(&t, 1, 1, 1, 2);
  /* A character of two tokens, and an offset at the beginning that counts a space that is not in the text. */
  static const char han[] = TOKENS("\" Q\",\"\xEF\xBF\xBD\",\"\"", "null,-1,-2", "0,2,3", "null");
  assert_int_equal(told(han, "\xE4\xBD\xA0", false, &t), PU_OK);
  is(&t, 3, 2, 3, 3);
}

/* Unless the whole counts, what stands before the option may be told without figures. */
static void the_rest_may_be_untold(void **state) {
  (void)state;
  eval_told t;
  static const char two[] = TOKENS("\"Q\",\":\",\" ab\",\"c\"", "null,null,-2,-4", "0,1,2,5", "\"length\"");
  all_counts = true;
  assert_int_equal(told(two, " abc", false, &t), PU_ERR_UNSUPPORTED);
  all_counts = false;
  assert_int_equal(told(two, " abc", false, &t), PU_OK);
  is(&t, 6, 2, 6, 4);
  assert_int_equal(told(two, ": abc", false, &t), PU_ERR_UNSUPPORTED);
}

static void what_is_missing(void **state) {
  (void)state;
  static const char *const rows[] = {"",
                                     "{\"index\":0,\"text\":\"x\",\"logprobs\":null}",
                                     "{\"index\":7}",
                                     TOKENS("\"Q\",\"a\"", "null,null", "0,1", "null"),
                                     TOKENS("\"Q\"", "null,-1", "0,1", "null"),
                                     TOKENS("", "", "", "null")};
  eval_told t;
  for (size_t i = 0; i < PU_COUNT(rows); i++) assert_int_equal(told(rows[i], "a", false, &t), PU_ERR_UNSUPPORTED);
}

static void answers(void **state) {
  (void)state;
  pu_error e;
  eval_ask ask = {0};
  pu_buf_init(&ask.text, 1 << 16);
  pu_str body =
      pu_str_c("{\"choices\":[{\"text\":\"a\",\"message\":{\"content\":\"b\"},\"finish_reason\":\"length\"}]}");
  assert_ok(eval_reply_answer("x", body, false, &ask, &e), &e);
  assert_ok(eval_reply_answer("x", body, true, &ask, &e), &e);
  assert_string_equal(ask.text.data, "ab");
  assert_true(ask.cut);
  assert_int_equal(eval_reply_answer("x", pu_str_c("{}"), false, &ask, &e), PU_ERR_FORMAT);
  assert_int_equal(eval_reply_answer("x", pu_str_c("<html>"), false, &ask, &e), PU_ERR_FORMAT);
  pu_buf_deinit(&ask.text);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(options_are_at_the_end), cmocka_unit_test(the_rest_may_be_untold),
                                     cmocka_unit_test(what_is_missing), cmocka_unit_test(answers)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
