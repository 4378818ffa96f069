/* Conversations over a small random model: what is kept between answers changes nothing, old turns give way, undo. */
#include "src/cli/conversation.h"
#include "tests/device.h"
#include "tests/test.h"

#include <stdlib.h>

enum { CONTEXT = 160 };

typedef struct bench {
  pu_tokenizer *t;
  pu_backend *be;
  pu_model *m;
  pu_error e;
} bench;

static pu_tokenizer *make_tokenizer(void) {
  pu_bpe_options o = {.vocab_size = 300, .min_count = 2};
  pu_bpe_trainer *trainer;
  pu_tokenizer *t;
  pu_buf json;
  pu_error e;
  pu_buf_init(&json, 1 << 24);
  assert_ok(pu_bpe_trainer_create(&o, &trainer, &e), &e);
  assert_ok(pu_bpe_trainer_add(trainer, pu_str_c("user assistant system user assistant system"), &e), &e);
  assert_ok(pu_bpe_trainer_finish(trainer, &json, &e), &e);
  assert_ok(pu_tokenizer_parse_json(pu_str_of(json.data, json.len), &t, &e), &e);
  pu_bpe_trainer_free(trainer);
  pu_buf_deinit(&json);
  return t;
}

static int set_up(void **state) {
  bench *b = calloc(1, sizeof *b);
  b->t = make_tokenizer();
  const pu_hparams hp = {.vocab = pu_tokenizer_size(b->t),
                         .hidden = 32,
                         .ffn = 64,
                         .layers = 2,
                         .heads = 2,
                         .kv_heads = 1,
                         .head_dim = 16,
                         .max_position = CONTEXT,
                         .norm_eps = 1e-5,
                         .bos = -1,
                         .rope = {.base = 1e4, .factor = 1}};
  assert_ok(pu_test_open(1, pu_isa_best(), &b->be, &b->e), &b->e);
  pu_model_options o = {.dtype = PU_F32, .tile = true};
  assert_ok(pu_model_random(pu_arch_find("internlm2"), &hp, 3, b->be, &o, &b->m, &b->e), &b->e);
  *state = b;
  return 0;
}

static int tear_down(void **state) {
  bench *b = *state;
  pu_model_free(b->m);
  b->be->close(b->be);
  pu_tokenizer_free(b->t);
  free(b);
  return 0;
}

static pu_engine *engine(bench *b) {
  pu_engine *en;
  pu_engine_options o = {.context = CONTEXT, .max_batch = 2};
  assert_ok(pu_engine_over(b->m, b->t, &o, &en, &b->e), &b->e);
  return en;
}

static bool never(void) {
  return false;
}

static bool always(void) {
  return true;
}

static bool hear(void *arg, pu_str text) {
  return pu_buf_append(arg, text.ptr, text.len);
}

/* The answer's text; *dropped: turns that gave way. */
static void ask(bench *b, pu_conversation *c, const char *question, pu_buf *heard, size_t *dropped) {
  pu_sampling how = pu_sampling_default();
  how.max_tokens = 10;
  pu_buf_clear(heard);
  assert_ok(pu_conversation_ask(c, pu_str_c(question), &how, hear, heard, never, dropped, &b->e), &b->e);
}

/* The ids that were answered, rendered and read anew by a session of its own, give the same answer. */
static void kept_work_changes_nothing(void **state) {
  bench *b = *state;
  pu_engine *en = engine(b);
  pu_conversation c;
  pu_buf heard;
  size_t dropped, n, made;
  pu_buf_init(&heard, 1 << 20);
  assert_ok(pu_conversation_open(en, &c, &b->e), &b->e);
  assert_ok(pu_conversation_system(&c, "be brief", &b->e), &b->e);
  static const char *const questions[] = {"one", "two two", "three", "four!"};
  for (size_t i = 0; i < PU_COUNT(questions); i++) {
    ask(b, &c, questions[i], &heard, &dropped);
    assert_int_equal(c.n, 1 + 2 * (i + 1));
    assert_int_equal(dropped, 0);
    pu_str said = c.m[c.n - 1].content;
    assert_int_equal(said.len, heard.len);
    if (said.len) assert_memory_equal(said.ptr, heard.data, said.len);
    pu_session *fresh;
    pu_ids ids = {0};
    pu_sampling how = pu_sampling_default();
    int32_t stop[8];
    how.max_tokens = 10;
    how.stop_ids = stop;
    how.n_stop_ids = pu_chat_stop_ids(pu_engine_chat(en), b->t, stop, PU_COUNT(stop));
    assert_ok(pu_chat_ids(pu_engine_chat(en), b->t, c.m, c.n - 1, true, &ids, &b->e), &b->e);
    assert_ok(pu_session_open(en, &fresh, &b->e), &b->e);
    assert_ok(pu_session_append(fresh, ids.v, ids.n, &b->e), &b->e);
    assert_ok(pu_session_generate(fresh, &how, NULL, NULL, &b->e), &b->e);
    const int32_t *want = pu_session_answer(fresh, &n), *got = pu_session_answer(c.session, &made);
    assert_int_equal(made, n);
    assert_memory_equal(got, want, n * sizeof *got);
    pu_session_close(fresh);
    pu_ids_deinit(&ids);
    if (i == 2) assert_true(pu_conversation_undo(&c)); /* and the same once more */
    if (i == 2) ask(b, &c, "another", &heard, &dropped);
  }
  pu_conversation_close(&c);
  pu_buf_deinit(&heard);
  pu_engine_free(en);
}

static void old_turns_give_way(void **state) {
  bench *b = *state;
  pu_engine *en = engine(b);
  pu_conversation c;
  pu_buf heard;
  size_t dropped, total = 0;
  pu_buf_init(&heard, 1 << 20);
  assert_ok(pu_conversation_open(en, &c, &b->e), &b->e);
  assert_ok(pu_conversation_system(&c, "stays", &b->e), &b->e);
  for (int i = 0; i < 12; i++) {
    char question[40];
    snprintf(question, sizeof question, "question number %d", i);
    ask(b, &c, question, &heard, &dropped);
    total += dropped;
    assert_true(pu_session_length(c.session) <= CONTEXT);
    assert_int_equal(c.n, 1 + 2 * ((size_t)i + 1 - total));
    assert_string_equal(c.m[0].content.ptr, "stays");
    assert_string_equal(c.m[c.n - 2].content.ptr, question); /* the newest is there */
  }
  assert_true(total > 0);
  /* A question that can never fit is refused, and nothing is lost. */
  char long_question[CONTEXT * 4];
  memset(long_question, 'x', sizeof long_question - 1);
  long_question[sizeof long_question - 1] = 0;
  pu_sampling how = pu_sampling_default();
  size_t before = c.n;
  assert_int_equal(pu_conversation_ask(&c, pu_str_c(long_question), &how, hear, &heard, never, &dropped, &b->e),
                   PU_ERR_USAGE);
  assert_int_equal(c.n, before);
  ask(b, &c, "and on", &heard, &dropped);
  pu_conversation_reset(&c);
  assert_int_equal(c.n, 1);
  assert_false(pu_conversation_undo(&c));
  pu_conversation_close(&c);
  pu_buf_deinit(&heard);
  pu_engine_free(en);
}

static void stopped_answers_stay(void **state) {
  bench *b = *state;
  pu_engine *en = engine(b);
  pu_conversation c;
  pu_buf heard, json;
  size_t dropped;
  json_t *j;
  pu_buf_init(&heard, 1 << 20);
  pu_buf_init(&json, 1 << 20);
  assert_ok(pu_conversation_open(en, &c, &b->e), &b->e);
  pu_sampling how = pu_sampling_default();
  pu_str odd = pu_str_of("say \"a\"\nb", 9);
  assert_ok(pu_conversation_ask(&c, odd, &how, hear, &heard, always, &dropped, &b->e), &b->e);
  assert_int_equal(c.n, 2);
  assert_int_equal(c.m[1].content.len, 0);
  ask(b, &c, "go on", &heard, &dropped);
  assert_true(pu_conversation_json(&c, &json));
  assert_ok(pu_json_parse("saved", pu_str_of(json.data, json.len), &j, &b->e), &b->e);
  const json_t *m = json_object_get(j, "messages");
  assert_int_equal(json_array_size(m), 4);
  assert_string_equal(json_string_value(json_object_get(json_array_get(m, 0), "content")), odd.ptr);
  assert_string_equal(json_string_value(json_object_get(json_array_get(m, 3), "role")), "assistant");
  json_decref(j);
  pu_conversation_close(&c);
  pu_buf_deinit(&heard);
  pu_buf_deinit(&json);
  pu_engine_free(en);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(kept_work_changes_nothing), cmocka_unit_test(old_turns_give_way),
                                     cmocka_unit_test(stopped_answers_stay)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
