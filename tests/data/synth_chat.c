/* Rule-made conversations: the same each time, in OpenAI's form, true, and free of what is held out. Every call's
 * expression is computed here, and every number that a question holds is found in it. */
#include "tests/test.h"

#include <stdlib.h>

#include "puyu/data.h"

enum { MOST_ASKS = 4096 };

typedef struct scan {
  uint64_t hash;
  int dialogues, valid, calls, large, small, with_tools, talks[PU_TALKS], english;
  char *asks[MOST_ASKS]; /* of users */
  size_t n_asks;
  bool keeps;
} scan;

/* The numbers of a text in their order; how many there are. */
static int numbers(const char *s, long *v, int most) {
  int n = 0;
  while (*s && n < most) {
    if (*s < '0' || *s > '9') {
      s++;
      continue;
    }
    char *end;
    v[n++] = strtol(s, &end, 10);
    s = end;
  }
  return n;
}

static const char *text_of(const json_t *m, const char *key) {
  return json_string_value(json_object_get(m, key));
}

/* "12+345": computed. The pair is one that training may see. */
static long compute(const char *expression, long *a, long *b) {
  char *end;
  *a = strtol(expression, &end, 10);
  char op = *end;
  assert_true(op == '+' || op == '-');
  *b = strtol(end + 1, &end, 10);
  assert_int_equal(*end, 0);
  assert_false(pu_synth_heldout(op, (int)*a, (int)*b));
  return op == '+' ? *a + *b : *a - *b;
}

/* A question, its call, what that gave, and the answer. */
static void check_call(const json_t *messages, size_t i, const char *asked, int *large) {
  const json_t *call = json_array_get(json_object_get(json_array_get(messages, i), "tool_calls"), 0),
               *result = json_array_get(messages, i + 1), *function = json_object_get(call, "function");
  long a, b, of[4], said[2];
  assert_string_equal(text_of(function, "name"), "calculator");
  json_t *arguments = json_loads(text_of(function, "arguments"), 0, NULL);
  assert_non_null(arguments);
  long value = compute(text_of(arguments, "expression"), &a, &b);
  json_decref(arguments);
  assert_true(value >= 0);
  *large += a >= 1000 || b >= 1000 || value >= 1000;
  assert_int_equal(numbers(asked, of, 4), 2);
  assert_true((of[0] == a && of[1] == b) || (of[0] == b && of[1] == a));
  assert_string_equal(text_of(result, "role"), "tool");
  assert_string_equal(text_of(result, "tool_call_id"), text_of(call, "id"));
  assert_int_equal(atol(text_of(result, "content")), value);
  assert_int_equal(numbers(text_of(json_array_get(messages, i + 2), "content"), said, 2), 1);
  assert_int_equal(said[0], value);
}

/* Sums that are answered at once. */
static void check_small(scan *s, const char *asked, const char *answer, bool tools) {
  long of[4], said[2];
  bool is_sum = strstr(answer, "The answer is ") || strstr(answer, "答案是");
  if (!is_sum) return;
  assert_false(tools);
  assert_int_equal(numbers(asked, of, 4), 2);
  assert_int_equal(numbers(answer, said, 2), 1);
  long low = of[0] < of[1] ? of[0] : of[1], high = of[0] + of[1] - low;
  assert_true(high < 1000 && said[0] < 1000);
  bool minus = strchr(asked, '-') || strstr(asked, "减") || strstr(asked, "minus") || strstr(asked, "take");
  assert_int_equal(said[0], minus ? high - low : low + high);
  assert_false(pu_synth_heldout(minus ? '-' : '+', (int)high, (int)low));
  s->small++;
}

static void check_turns(scan *s, const json_t *messages, bool tools) {
  size_t n = json_array_size(messages);
  for (size_t i = 0; i < n; i++) {
    const json_t *ask = json_array_get(messages, i), *answer = json_array_get(messages, ++i);
    assert_string_equal(text_of(ask, "role"), "user");
    assert_string_equal(text_of(answer, "role"), "assistant");
    assert_true(text_of(ask, "content")[0] != 0);
    assert_null(strchr(text_of(ask, "content"), '{')); /* a slot that was not filled */
    if (s->keeps && s->n_asks < MOST_ASKS) s->asks[s->n_asks++] = strdup(text_of(ask, "content"));
    if (!json_object_get(answer, "tool_calls")) {
      assert_true(text_of(answer, "content")[0] != 0);
      check_small(s, text_of(ask, "content"), text_of(answer, "content"), tools);
      continue;
    }
    assert_true(tools && i + 2 < n);
    check_call(messages, i, text_of(ask, "content"), &s->large);
    s->calls++;
    i += 2;
  }
}

static pu_err on_dialogue(void *arg, const pu_synth_dialogue *d, pu_error *e) {
  scan *s = arg;
  json_t *o;
  assert_null(memchr(d->json.ptr, '\n', d->json.len)); /* a line */
  assert_ok(pu_json_parse("a conversation", d->json, &o, e), e);
  bool tools = json_object_get(o, "tools") != NULL;
  assert_int_equal(tools, d->talk == PU_TALK_TOOL);
  check_turns(s, json_object_get(o, "messages"), tools);
  json_decref(o);
  s->hash = pu_hash64(d->json.ptr, d->json.len, s->hash + d->valid);
  s->dialogues++;
  s->valid += d->valid;
  s->talks[d->talk]++;
  s->with_tools += tools;
  s->english += strcmp(d->lang, "en") == 0;
  return PU_OK;
}

static scan scan_run(pu_synth_chat_options o, bool keeps) {
  scan s = {.keeps = keeps};
  pu_error e;
  const pu_synth_chat_sink sink = {.dialogue = on_dialogue, .arg = &s};
  assert_ok(pu_synth_chat_run(&o, &sink, &e), &e);
  return s;
}

static void test_true(void **state) {
  (void)state;
  pu_synth_chat_options o = pu_synth_chat_defaults();
  o.dialogues = 4000;
  scan s = scan_run(o, false);
  assert_int_equal(s.dialogues, 4000);
  assert_in_range(s.with_tools, 930, 1150); /* 26 in a hundred */
  assert_in_range(s.english, 1850, 2150);
  assert_in_range(s.valid, 20, 70);
  assert_true(s.calls > 900 && s.small > 5000);
  assert_in_range(s.large * 100 / s.calls, 70, 80); /* three in four */
  for (int k = 0; k < PU_TALKS; k++) assert_true(s.talks[k] > 100);
}

static void test_deterministic(void **state) {
  (void)state;
  pu_synth_chat_options o = pu_synth_chat_defaults();
  o.dialogues = 300;
  scan a = scan_run(o, false), b = scan_run(o, false);
  o.seed++;
  scan c = scan_run(o, false);
  assert_int_equal(a.hash, b.hash);
  assert_int_not_equal(a.hash, c.hash);
}

static void test_kinds(void **state) {
  (void)state;
  pu_synth_chat_options o = pu_synth_chat_defaults();
  o.dialogues = 200;
  memset(o.weights, 0, sizeof o.weights);
  o.weights[PU_TALK_FACTS] = 3;
  assert_int_equal(scan_run(o, false).talks[PU_TALK_FACTS], 200);
}

static pu_err on_tool(void *arg, const pu_synth_dialogue *d, pu_error *e) {
  json_t *o;
  assert_ok(pu_json_parse("a conversation", d->json, &o, e), e);
  const json_t *function = json_object_get(json_array_get(json_object_get(o, "tools"), 0), "function");
  assert_string_equal(text_of(function, "description"), arg);
  json_decref(o);
  return PU_OK;
}

static void test_tool(void **state) {
  (void)state;
  char about[] = "Adds.";
  pu_error e;
  const pu_synth_chat_options o = {
      .dialogues = 20,
      .weights = {[PU_TALK_TOOL] = 1},
      .tool = "{\"type\": \"function\", \"function\": {\"name\": \"calculator\", \"description\": \"Adds.\"}}"};
  assert_ok(pu_synth_chat_run(&o, &(pu_synth_chat_sink){.dialogue = on_tool, .arg = about}, &e), &e);
}

typedef struct questions {
  const scan *s;
  int sums, facts;
  char last[128];
} questions;

static pu_err on_question(void *arg, const pu_synth_question *q, pu_error *e) {
  questions *all = arg;
  (void)e;
  for (size_t i = 0; i < all->s->n_asks; i++)
    assert_string_not_equal(all->s->asks[i], q->ask); /* nobody was taught it */
  assert_string_not_equal(all->last, q->ask);
  snprintf(all->last, sizeof all->last, "%s", q->ask);
  assert_non_null(strstr(q->prompt, q->ask));
  assert_int_equal(q->within, 0);
  pu_buf json;
  json_t *o;
  pu_buf_init(&json, 1 << 16);
  assert_true(pu_synth_question_json(q, &json));
  assert_ok(pu_json_parse("a question", pu_str_of(json.data, json.len), &o, e), e);
  assert_string_equal(text_of(o, "reply"), q->reply);
  json_decref(o);
  pu_buf_deinit(&json);
  if (!q->op) {
    all->facts++;
    return PU_OK;
  }
  long of[4], said[2];
  all->sums++;
  assert_true(pu_synth_heldout(q->op, q->a, q->b));
  assert_int_equal(numbers(q->ask, of, 4), 2);
  assert_true(of[0] == q->a && of[1] == q->b && q->a < 10000000 && q->b < 10000000);
  assert_int_equal(atol(q->answer), q->op == '+' ? q->a + q->b : q->a - q->b);
  assert_int_equal(numbers(q->reply, said, 2), 1);
  assert_int_equal(said[0], atol(q->answer));
  return PU_OK;
}

static void test_questions(void **state) {
  (void)state;
  pu_synth_chat_options o = pu_synth_chat_defaults();
  o.dialogues = 2000;
  o.questions = 60;
  scan s = scan_run(o, true);
  questions all = {.s = &s};
  pu_error e;
  assert_ok(pu_synth_chat_run(&o, &(pu_synth_chat_sink){.question = on_question, .arg = &all}, &e), &e);
  assert_int_equal(all.sums, 120);
  assert_in_range(all.facts, 20, 60);
  for (size_t i = 0; i < s.n_asks; i++) free(s.asks[i]);
}

static pu_err stop(void *arg, const pu_synth_dialogue *d, pu_error *e) {
  (void)d;
  ++*(int *)arg;
  return pu_fail(e, PU_ERR_STOPPED, "enough");
}

static void test_errors(void **state) {
  (void)state;
  pu_error e;
  int calls = 0;
  pu_synth_chat_options o = pu_synth_chat_defaults();
  const pu_synth_chat_sink sink = {.dialogue = stop, .arg = &calls};
  assert_int_equal(pu_synth_chat_run(&o, &sink, &e), PU_ERR_STOPPED);
  o.weights[1] = -1;
  assert_int_equal(pu_synth_chat_run(&o, &sink, &e), PU_ERR_USAGE);
  o = pu_synth_chat_defaults();
  o.valid_fraction = 1;
  assert_int_equal(pu_synth_chat_run(&o, &sink, &e), PU_ERR_USAGE);
  o = pu_synth_chat_defaults();
  o.dialogues = -1;
  assert_int_equal(pu_synth_chat_run(&o, &sink, &e), PU_ERR_USAGE);
  assert_int_equal(calls, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_true), cmocka_unit_test(test_deterministic), cmocka_unit_test(test_kinds),
      cmocka_unit_test(test_tool), cmocka_unit_test(test_questions),     cmocka_unit_test(test_errors),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
