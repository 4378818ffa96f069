/* What is trained on is what is served: ids through the server's routes, losses through the engine. */
#include "tests/serve/tiny.h"
#include "tests/tune/tiny.h"

/* ---- ids ---- */

static const char tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"add\",\"description\":\"sums\","
                            "\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}}}}}]";

static const char *const talks[] = {
    "[{\"role\":\"user\",\"content\":\"one two\"},{\"role\":\"assistant\",\"content\":\"three\"}]",
    "[{\"role\":\"system\",\"content\":\"be <|im_end|> lazy\"},{\"role\":\"user\",\"content\":\"the fox\"},"
    "{\"role\":\"assistant\",\"content\":\"jumps\"},{\"role\":\"user\",\"content\":\"and \\u4f60\"},"
    "{\"role\":\"assistant\",\"content\":\" over the dog\\n\"}]",
    "[{\"role\":\"user\",\"content\":\"1+1\"},{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"c\","
    "\"type\":\"function\",\"function\":{\"name\":\"add\",\"arguments\":\"{\\\"a\\\": 1}\"}}]},"
    "{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"2\"},{\"role\":\"assistant\",\"content\":\"two\"}]",
};

/* The ids that the server makes of the first n messages, to be answered. */
static json_t *served(const tiny *b, const json_t *messages, size_t n, const char *path) {
  json_t *some = json_array();
  for (size_t i = 0; i < n; i++) json_array_append(some, json_array_get(messages, i));
  char *text = json_dumps(some, JSON_COMPACT), body[4000];
  snprintf(body, sizeof body, "{\"messages\":%s,\"tools\":%s}", text, tools);
  json_t *reply = tiny_post(b, path, 200, body);
  free(text);
  json_decref(some);
  return reply;
}

static void begins_with(const pu_ids *coded, const json_t *v, size_t n) {
  const json_t *ids = json_object_get(v, "tokens");
  assert_true(n <= coded->n && n <= json_array_size(ids));
  for (size_t i = 0; i < n; i++) assert_int_equal(pu_tune_id(coded->v[i]), json_integer_value(json_array_get(ids, i)));
}

static void check_talk(const tiny *b, const char *talk) {
  static const pu_train_source plain;
  char line[4000];
  pu_dialogues *d;
  pu_dialogue one;
  pu_error e;
  bool found;
  pu_ids coded = {0};
  snprintf(line, sizeof line, "{\"messages\":%s,\"tools\":%s}", talk, tools);
  assert_ok(pu_dialogues_parse("t", pu_str_c(line), &plain, &d, &e), &e);
  assert_ok(pu_dialogues_next(d, &one, &found, &e), &e);
  assert_true(found);
  assert_ok(pu_tune_encode(&one, pu_engine_chat(b->en), b->t, &coded, &e), &e);
  size_t n = json_array_size(one.messages), at = 0;
  /* What stands before each answer is the prompt that asks for it. */
  for (size_t i = 0; i < n; i++) {
    if (strcmp(json_string_value(json_object_get(json_array_get(one.messages, i), "role")), "assistant") != 0) continue;
    json_t *prompt = served(b, one.messages, i, "/tokenize");
    while (at < coded.n && coded.v[at] < 0) at++;
    assert_int_equal(at, tiny_int(prompt, "count"));
    begins_with(&coded, prompt, at);
    while (at < coded.n && coded.v[at] >= 0) at++;
    json_decref(prompt);
  }
  json_t *whole = served(b, one.messages, n, "/tokenize"), *text = served(b, one.messages, n, "/apply_template");
  begins_with(&coded, whole, coded.n);
  const pu_chat chat = {.messages = one.messages, .tools = one.tools};
  pu_buf own;
  pu_buf_init(&own, 1 << 20);
  assert_ok(pu_chat_render_text(pu_engine_chat(b->en), &chat, &own, &e), &e);
  assert_int_equal(strncmp(tiny_str(text, "prompt"), own.data, own.len), 0);
  pu_buf_deinit(&own);
  json_decref(whole);
  json_decref(text);
  pu_ids_deinit(&coded);
  pu_dialogue_deinit(&one);
  pu_dialogues_close(d);
}

static void test_ids(void **arg) {
  (void)arg;
  tiny b;
  tiny_open(&b, (pu_server_options){.host = "127.0.0.1"});
  for (size_t i = 0; i < PU_COUNT(talks); i++) check_talk(&b, talks[i]);
  tiny_close(&b);
}

/* ---- losses ---- */

/* Mean loss of what is learned of the conversations, as the engine scores their tokens. */
static double scored(state *s, const char *model, const char *adapter) {
  const pu_engine_adapter beside = {"trained", adapter};
  const pu_engine_options o = {.dtype = PU_F32, .threads = 1, .adapters = &beside, .n_adapters = adapter ? 1 : 0};
  const pu_train_source source = {.path = path_in(s, "valid.jsonl")};
  pu_engine *en;
  pu_dialogues *d;
  pu_dialogue one;
  bool found;
  double sum = 0;
  size_t count = 0;
  assert_ok(pu_engine_open(model, &o, &en, &s->e), &s->e);
  assert_ok(pu_dialogues_open(source.path, &source, &d, &s->e), &s->e);
  for (;;) {
    pu_ids coded = {0};
    pu_session *session;
    size_t n;
    bool more = true;
    assert_ok(pu_dialogues_next(d, &one, &found, &s->e), &s->e);
    if (!found) break;
    assert_ok(pu_tune_encode(&one, pu_engine_chat(en), pu_engine_tokenizer(en), &coded, &s->e), &s->e);
    assert_ok(pu_session_open(en, &session, &s->e), &s->e);
    assert_ok(pu_session_adapter(session, adapter ? "trained" : NULL, &s->e), &s->e);
    assert_ok(pu_session_score(session, 0, &s->e), &s->e);
    for (size_t i = 0; i < coded.n; i++) {
      int32_t id = pu_tune_id(coded.v[i]);
      assert_ok(pu_session_append(session, &id, 1, &s->e), &s->e);
    }
    while (more) assert_ok(pu_engine_step(en, &more, &s->e), &s->e);
    const pu_token_info *info = pu_session_prompt(session, &n);
    assert_int_equal(n, coded.n);
    for (size_t i = 0; i < n; i++) {
      if (coded.v[i] < 0) continue;
      sum -= (double)info[i].logprob;
      count++;
    }
    pu_session_close(session);
    pu_dialogue_deinit(&one);
    pu_ids_deinit(&coded);
  }
  pu_dialogues_close(d);
  pu_engine_free(en);
  return sum / (double)count;
}

static void merge(state *s, const char *adapter, const char *out) {
  pu_backend *be;
  pu_model *m;
  pu_tokenizer *t = tiny_learned();
  const pu_model_options mo = {.dtype = PU_F32};
  assert_ok(pu_backend_open("cpu", 1, &be, &s->e), &s->e);
  assert_ok(pu_model_load(path_in(s, "m"), be, &mo, &m, &s->e), &s->e);
  assert_ok(pu_model_merge(m, adapter, &s->e), &s->e);
  assert_ok(pu_model_save(m, out, PU_F32, 0, &s->e), &s->e);
  assert_ok(pu_tokenizer_save(t, out, &s->e), &s->e);
  pu_tokenizer_free(t);
  pu_model_free(m);
  be->close(be);
}

static void near(double a, double b) {
  if (!(fabs(a - b) < 1e-4 * b)) fail_msg("%.8g is not %.8g", a, b);
}

static const char more[] = "data: {seq_len: 96, sources: [{path: $D/sums.jsonl}]}\noptim: {lr: 1e-2}\n"
                           "validate: {batches: 100, path: $D/valid.jsonl}\n%s";

/* Each family has its own order of rows in the files. */
static void test_losses(void **arg) {
  state *s = *arg;
  static const char *const families[] = {"internlm2", "llama"};
  write_sums(s, "sums.jsonl", 60, 1);
  write_sums(s, "valid.jsonl", 20, 2);
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    const char *full = pu_arena_printf(s->a, "full%zu", i), *lora = pu_arena_printf(s->a, "lora%zu", i);
    write_model(s, "m", families[i]);
    double before = scored(s, path_in(s, "m"), NULL);
    assert_ok(
        run_yaml(s, sft_yaml(s, full, "steps: 10, global_batch: 8", pu_arena_printf(s->a, more, "")), &tune_hooks),
        &s->e);
    assert_true(s->result.valid_loss < 0.9 * before);
    near(scored(s, step_of(s, full, 10), NULL), s->result.valid_loss);
    const char *with = pu_arena_printf(s->a, more, "lora: {rank: 4, alpha: 8}");
    assert_ok(run_yaml(s, sft_yaml(s, lora, "steps: 20, global_batch: 8", with), &tune_hooks), &s->e);
    assert_true(s->result.valid_loss < 0.95 * before);
    double trained = s->result.valid_loss;
    near(scored(s, path_in(s, "m"), step_of(s, lora, 20)), trained);
    merge(s, step_of(s, lora, 20), path_in(s, pu_arena_printf(s->a, "merged%zu", i)));
    near(scored(s, path_in(s, pu_arena_printf(s->a, "merged%zu", i)), NULL), trained);
    /* And on from there, as an adapter that came from elsewhere. */
    const char *onward = pu_arena_printf(s->a, more, pu_arena_printf(s->a, "lora: {path: %s}", step_of(s, lora, 20)));
    assert_ok(
        run_yaml(s, sft_yaml(s, pu_arena_printf(s->a, "on%zu", i), "steps: 10, global_batch: 8", onward), &tune_hooks),
        &s->e);
    assert_true(s->result.valid_loss < trained);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_ids),
      cmocka_unit_test_setup_teardown(test_losses, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
