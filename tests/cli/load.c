/* `bench serve` from the inside: lengths and traces, and a load on our own server whose figures have to agree. */
#include <math.h>

#include "src/cli/load.h"
#include "tests/net/served.h"
#include "tests/serve/tiny.h"

static pu_arena *arena;

static int open_arena(void **state) {
  (void)state;
  return pu_arena_create((size_t)64 << 20, &arena, NULL);
}

static int close_arena(void **state) {
  (void)state;
  pu_arena_free(arena);
  return 0;
}

/* ---- plans ---- */

static void lengths_are_drawn(void **state) {
  (void)state;
  enum { N = 20000 };
  double input_sum = 0, output_sum = 0;
  int64_t input, output, again, longest = 0;
  for (uint64_t i = 0; i < N; i++) {
    pu_load_draw_lengths(&(pu_load_lengths){0}, 5, i, &input, &output);
    assert_true(input >= 4 && input <= 1024 && output >= 4 && input + output <= 2048);
    input_sum += (double)input;
    output_sum += (double)output;
    longest = PU_MAX(longest, input + output);
    pu_load_draw_lengths(&(pu_load_lengths){0}, 5, i, &again, &output);
    assert_int_equal(input, again);
  }
  /* The means of the distribution, less what the cut takes. */
  assert_true(input_sum / N > 135 && input_sum / N < 165);
  assert_true(output_sum / N > 310 && output_sum / N < 342);
  assert_int_equal(longest, 2048);
  for (uint64_t i = 0; i < 1000; i++) {
    pu_load_draw_lengths(&(pu_load_lengths){10, 20, 5, 5, 22}, 5, i, &input, &output);
    assert_true(input >= 10 && input <= 18 && output >= 1 && output <= 5 && input + output <= 22);
  }
}

static void prompts_have_their_lengths(void **state) {
  (void)state;
  pu_tokenizer *t = tiny_tokenizer();
  pu_load_plan plan, same;
  pu_error e;
  const pu_load_lengths lengths = {7, 7, 3, 3, 0};
  assert_ok(pu_load_random(20, &lengths, 1, t, arena, &plan, &e), &e);
  assert_ok(pu_load_random(20, &lengths, 1, t, arena, &same, &e), &e);
  for (size_t i = 0; i < plan.n; i++) {
    pu_ids ids = {0};
    assert_ok(pu_encode(t, plan.v[i].prompt, 0, &ids, &e), &e);
    assert_int_equal(ids.n, 7);
    assert_int_equal(plan.v[i].output, 3);
    assert_true(pu_str_eq(plan.v[i].prompt, same.v[i].prompt));
    if (i) assert_false(pu_str_eq(plan.v[i].prompt, plan.v[i - 1].prompt));
    pu_ids_deinit(&ids);
  }
  pu_tokenizer_free(t);
}

static pu_err read_trace(const char *text, size_t n, pu_load_plan *plan, pu_error *e) {
  char path[64];
  snprintf(path, sizeof path, "/tmp/puyu-test-trace-%d", (int)getpid());
  assert_ok(pu_file_write(path, text, strlen(text), e), e);
  pu_err err = pu_load_trace(path, n, 1, NULL, arena, plan, e);
  unlink(path);
  return err;
}

static void traces_are_read(void **state) {
  (void)state;
  pu_load_plan plan;
  pu_error e;
  assert_ok(read_trace("{\"prompt\": \"a\", \"output_len\": 3}\n\n {\"prompt\":\"b\",\"output_len\":1}", 9, &plan, &e),
            &e);
  assert_int_equal(plan.n, 2);
  assert_true(pu_str_eq(plan.v[1].prompt, pu_str_c("b")));
  assert_int_equal(plan.v[0].output, 3);
#define TURNS(a, b)                                                                                                    \
  "{\"conversations\":[{\"from\":\"human\",\"value\":\"" a "\"},{\"from\":\"gpt\",\"value\":\"" b "\"}]}"
  static const char share_gpt[] = " [" TURNS("sixteen bytes, 1", "twenty bytes are five") "," TURNS(
      "short", "also") ","
                       "{\"conversations\":[]},{}," TURNS("sixteen bytes, 2", "twenty bytes are five") "]";
#undef TURNS
  assert_ok(read_trace(share_gpt, 9, &plan, &e), &e);
  assert_int_equal(plan.n, 2);
  assert_int_equal(plan.v[0].input, 4);
  assert_int_equal(plan.v[0].output, 5);
  assert_ok(read_trace(share_gpt, 1, &plan, &e), &e);
  assert_int_equal(plan.n, 1);
  static const char *const wrong[] = {"", "[]", "{\"prompt\": 1}", "{\"prompt\": \"a\", \"output_len\": 0}", "{", "[1"};
  for (size_t i = 0; i < PU_COUNT(wrong); i++)
    if (read_trace(wrong[i], 9, &plan, &e) != PU_ERR_FORMAT) fail_msg("'%s' was read", wrong[i]);
}

static void percentiles_lie_between(void **state) {
  (void)state;
  double v[] = {1, 2, 3, 4, 5};
  const pu_load_times t = {v, 5}, none = {0};
  assert_true(pu_load_percentile(&t, 0.5) == 3 && pu_load_percentile(&t, 1) == 5);
  assert_true(fabs(pu_load_percentile(&t, 0.9) - 4.6) < 1e-9);
  assert_true(pu_load_mean(&t) == 3);
  assert_true(isnan(pu_load_mean(&none)) && isnan(pu_load_percentile(&none, 0.5)));
}

/* ---- loads ---- */

static double sum_of(const pu_load_times *t) {
  double sum = 0;
  for (size_t i = 0; i < t->n; i++) sum += t->v[i];
  return sum;
}

static void figures_agree(void **state) {
  (void)state;
  enum { N = 30 };
  tiny b;
  pu_error e;
  pu_load_plan plan;
  pu_load_result r;
  char url[100];
  const char *name;
  int64_t context;
  tiny_open(&b, (pu_server_options){.model_name = "tiny"});
  snprintf(url, sizeof url, "%s/v1/", pu_server_url(b.sv));
  pu_load_options o = {.url = url, .ignore_eos = true, .concurrency = 5, .rate = INFINITY};
  assert_ok(pu_load_model(&o, arena, &name, &context, &e), &e);
  assert_string_equal(name, "tiny");
  assert_int_equal(context, TINY_CONTEXT);
  assert_ok(pu_load_random(N, &(pu_load_lengths){5, 40, 2, 20, context}, 1, b.t, arena, &plan, &e), &e);
  int64_t wanted = 0, asked = 0;
  for (size_t i = 0; i < N; i++) wanted += plan.v[i].output, asked += plan.v[i].input;
  for (int chat = 0; chat < 2; chat++) {
    o.chat = chat;
    o.rate = chat ? 300 : INFINITY;
    o.model = name;
    assert_ok(pu_load_run(&o, &plan, &r, &e), &e);
    if (r.failed) fail_msg("%zu failed: %s", r.failed, r.reasons[0].text);
    assert_int_equal(r.completed, N);
    assert_int_equal(r.failed + r.unfinished + r.short_answers, 0);
    assert_true(r.counted);
    assert_int_equal(r.output_tokens, wanted);
    if (!chat) assert_int_equal(r.input_tokens, asked + N); /* each with its bos */
    assert_int_equal(r.first.n, N);
    assert_int_equal(r.whole.n, N);
    assert_true(r.gap.n <= (size_t)(wanted - N)); /* fewer where tokens came together */
    /* An answer's gaps lie between its first text and its end. */
    assert_true(sum_of(&r.gap) <= sum_of(&r.whole) - sum_of(&r.first) + 1e-6);
    assert_true(r.first.v[0] > 0 && r.seconds >= r.whole.v[N - 1]);
    assert_true(!chat || r.seconds > 0.02); /* thirty at 300 a second take a tenth */
    pu_load_result_deinit(&r);
  }
  tiny_close(&b);
}

/* Another server: it does not count tokens, and has its own ways to fail. */
static void other_server(void *arg, pu_http_request *r) {
#define TEXT(s) "data: {\"choices\":[{\"text\":\"" s "\"}]}\n\n"
  static const char *const answers[] = {
      TEXT("a") TEXT("b") ": hm\n\n" TEXT("") TEXT("c") "data: {\"choices\":[]}\n\ndata: [DONE]\n\n", TEXT("a"),
      TEXT("a") "data: {\"error\":{\"message\":\"no luck\"}}\n\n", "data: nonsense\n\n"};
#undef TEXT
  size_t *n = arg;
  pu_http_reply(r, 200, "text/event-stream", pu_str_c(answers[(*n)++ % PU_COUNT(answers)]));
}

static void other_servers_are_measured(void **state) {
  (void)state;
  pu_error e;
  pu_load_result r;
  size_t n = 0;
  pu_load_request requests[] = {
      {pu_str_c("x"), 7, 4}, {pu_str_c("x"), 7, 4}, {pu_str_c("x"), 7, 4}, {pu_str_c("x"), 7, 4}};
  const pu_load_plan plan = {requests, PU_COUNT(requests)};
  served s = served_open((pu_http_options){.handler = other_server, .arg = &n});
  const pu_load_options o = {.url = pu_http_url(s.s), .model = "x", .concurrency = 1, .rate = INFINITY};
  assert_ok(pu_load_run(&o, &plan, &r, &e), &e);
  assert_int_equal(r.completed, 1);
  assert_false(r.counted);
  assert_int_equal(r.input_tokens, 7);
  assert_int_equal(r.output_tokens, 3);
  assert_int_equal(r.short_answers, 1);
  assert_int_equal(r.gap.n, 2);
  assert_int_equal(r.each.n, 1);
  assert_true(fabs(pu_load_mean(&r.each) - pu_load_mean(&r.gap)) < 1e-9);
  assert_int_equal(r.failed, 3);
  static const char *const why[] = {"the stream ended early", "status 200: no luck", "status 200: nonsense"};
  for (size_t i = 0; i < PU_COUNT(why); i++) assert_string_equal(r.reasons[i].text, why[i]);
  pu_load_result_deinit(&r);
  served_close(s);
}

static void failures_are_told(void **state) {
  (void)state;
  const char *keys[] = {"key"}, *name;
  int64_t context;
  tiny b;
  pu_error e;
  pu_load_result r;
  tiny_open(&b, (pu_server_options){.model_name = "tiny", .api_keys = keys, .n_api_keys = 1});
  char url[100];
  snprintf(url, sizeof url, "%s", pu_server_url(b.sv));
  pu_load_options o = {.url = url, .model = "tiny", .rate = INFINITY};
  static char long_text[8 * TINY_CONTEXT];
  memset(long_text, '7', sizeof long_text - 1);
  pu_load_request requests[] = {{pu_str_c("one"), 1, 2}, {pu_str_c(long_text), 1, 2}, {pu_str_c("two"), 1, 2}};
  const pu_load_plan plan = {requests, PU_COUNT(requests)};
  assert_int_equal(pu_load_model(&o, arena, &name, &context, &e), PU_ERR_IO);
  assert_non_null(strstr(e.msg, "PUYU_API_KEY"));
  assert_ok(pu_load_run(&o, &plan, &r, &e), &e);
  assert_int_equal(r.failed, 3);
  assert_int_equal(r.n_reasons, 1);
  assert_int_equal(r.reasons[0].n, 3);
  assert_non_null(strstr(r.reasons[0].text, "status 401: a valid key is needed"));
  pu_load_result_deinit(&r);
  o.api_key = "key";
  assert_ok(pu_load_run(&o, &plan, &r, &e), &e);
  assert_int_equal(r.completed, 2);
  assert_int_equal(r.failed, 1);
  assert_non_null(strstr(r.reasons[0].text, "status 400: "));
  pu_load_result_deinit(&r);
  tiny_close(&b);
  assert_ok(pu_load_run(&o, &plan, &r, &e), &e); /* nobody is there */
  assert_int_equal(r.failed, 3);
  pu_load_result_deinit(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(lengths_are_drawn), cmocka_unit_test(prompts_have_their_lengths),
                                     cmocka_unit_test(traces_are_read),   cmocka_unit_test(percentiles_lie_between),
                                     cmocka_unit_test(figures_agree),     cmocka_unit_test(other_servers_are_measured),
                                     cmocka_unit_test(failures_are_told)};
  return cmocka_run_group_tests(tests, open_arena, close_arena);
}
