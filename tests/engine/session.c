/* Sessions over small random models: an answer depends on its own session only, whatever the batch, the chunks, the
 * cache's blocks; rewinding is as if it had never been; bounds and errors. */
#include "src/engine/internal.h"
#include "tests/device.h"
#include "tests/test.h"
#include "tests/tiny_model.h"

#include <stdlib.h>

enum { VOCAB = 300, CONTEXT = 256, ANSWER = 20 };

typedef struct bench {
  pu_backend *be;
  pu_model *m;
  pu_error e;
} bench;

static bench open_model(pu_isa isa, pu_dtype dtype, bool tile) {
  bench b;
  pu_hparams hp = pu_test_hparams(VOCAB, CONTEXT);
  hp.bos = 1;
  hp.eos[0] = 2;
  hp.n_eos = 1;
  assert_ok(pu_test_open(2, isa, &b.be, &b.e), &b.e);
  pu_model_options o = {.dtype = dtype, .tile = tile};
  assert_ok(pu_model_random(pu_arch_find("internlm2"), &hp, 11, b.be, &o, &b.m, &b.e), &b.e);
  return b;
}

static void close_model(bench *b) {
  pu_model_free(b->m);
  b->be->close(b->be);
}

/* All of it is done with a cache in few bits, too, with the plain references, which add in one order however
 * tokens are divided: elsewhere a value between two steps may go to the one or the other. */
static pu_kv_type cache_type;
static pu_isa best(void) {
  return cache_type ? PU_ISA_REF : pu_isa_best();
}

static pu_engine *engine(bench *b, pu_engine_options o) {
  pu_engine *en;
  o.kv_type = cache_type;
  assert_ok(pu_engine_over(b->m, NULL, &o, &en, &b->e), &b->e);
  return en;
}

/* Prompt number i: its own length and ids. */
static const int lengths[] = {1, 7, 40, 33, 100, 64, 2, 31};
static int32_t prompt_id(size_t i, int at) {
  return (int32_t)(3 + pu_random_at(5, i, (uint64_t)at) % (VOCAB - 3));
}

static pu_session *begin(pu_engine *en, size_t i, const pu_sampling *how) {
  pu_session *s;
  pu_error e;
  assert_ok(pu_session_open(en, &s, &e), &e);
  for (int at = 0; at < lengths[i]; at++) {
    int32_t id = prompt_id(i, at);
    assert_ok(pu_session_append(s, &id, 1, &e), &e);
  }
  assert_ok(pu_session_start(s, how, NULL, NULL, &e), &e);
  return s;
}

static void run_all(pu_engine *en) {
  pu_error e;
  for (bool more = true; more;) assert_ok(pu_engine_step(en, &more, &e), &e);
}

static pu_sampling sampling(size_t i) {
  pu_sampling how = pu_sampling_default();
  how.max_tokens = ANSWER - (int64_t)i; /* they end at different steps */
  how.ignore_eos = true;
  how.seed = i;
  if (i % 2) how.temperature = 1; /* greedy and drawn */
  return how;
}

static void check_answer(const pu_session *s, const int32_t *want, size_t want_n, const char *what, size_t i) {
  size_t n;
  const int32_t *ids = pu_session_answer(s, &n);
  assert_int_equal(pu_session_finish(s), PU_FINISH_LENGTH);
  assert_int_equal(n, want_n);
  for (size_t k = 0; k < n; k++)
    if (ids[k] != want[k]) fail_msg("%s: token %zu of answer %zu is %d, not %d", what, k, i, (int)ids[k], (int)want[k]);
}

enum { N = PU_COUNT(lengths) };

static void answers_alone(bench *b, pu_engine_options o, int32_t want[N][ANSWER]) {
  for (size_t i = 0; i < N; i++) {
    pu_engine *en = engine(b, o);
    pu_sampling how = sampling(i);
    pu_session *s = begin(en, i, &how);
    run_all(en);
    size_t n;
    const int32_t *ids = pu_session_answer(s, &n);
    assert_int_equal(n, how.max_tokens);
    memcpy(want[i], ids, n * sizeof *ids);
    pu_engine_free(en);
  }
}

/* All together; some come when others are in the middle of their answers. */
static void check_together(bench *b, pu_engine_options o, int32_t want[N][ANSWER], const char *what) {
  pu_session *s[N];
  pu_error e;
  o.max_batch = N;
  pu_engine *en = engine(b, o);
  for (size_t i = 0; i < N; i++) {
    pu_sampling how = sampling(i);
    s[i] = begin(en, i, &how);
    bool more;
    if (i % 3 == 2)
      for (int step = 0; step < 3; step++) assert_ok(pu_engine_step(en, &more, &e), &e);
  }
  run_all(en);
  for (size_t i = 0; i < N; i++) check_answer(s[i], want[i], (size_t)sampling(i).max_tokens, what, i);
  for (size_t i = 0; i < N; i++) pu_session_close(s[i]);
  pu_engine_stats st = pu_engine_get_stats(en);
  assert_int_equal(st.kv_blocks_used, 0); /* every block came back */
  assert_int_equal(st.running + st.waiting, 0);
  pu_engine_free(en);
}

static void an_answer_is_its_sessions_own(void **state) {
  (void)state;
  static const struct {
    const char *what;
    pu_engine_options o;
  } cases[] = {{"together", {0}},
               {"blocks of 1", {.kv_block = 1}},
               {"blocks of 7", {.kv_block = 7}},
               {"blocks of 64, chunks of 16", {.kv_block = 64, .prefill_chunk = 16}},
               {"chunks of 5", {.prefill_chunk = 5}},
               {"chunks of 1", {.prefill_chunk = 1}}};
  for (pu_isa isa = PU_ISA_REF; isa <= best(); isa++) {
    bench f32 = open_model(isa, PU_F32, isa % 2), bf16 = open_model(isa, PU_BF16, isa % 2 == 0);
    int32_t want[N][ANSWER];
    for (size_t i = 0; i < PU_COUNT(cases); i++) {
      answers_alone(&f32, (pu_engine_options){0}, want);
      check_together(&f32, cases[i].o, want, cases[i].what);
      answers_alone(&bf16, cases[i].o, want); /* its rounding shows where prompts are divided, so divide them alike */
      check_together(&bf16, cases[i].o, want, cases[i].what);
    }
    close_model(&f32);
    close_model(&bf16);
  }
}

static void append(pu_session *s, size_t prompt, int from, int to) {
  pu_error e;
  for (int at = from; at < to; at++) {
    int32_t id = prompt_id(prompt, at);
    assert_ok(pu_session_append(s, &id, 1, &e), &e);
  }
}

/* A session that was led astray and brought back goes on as one that never was. */
static void rewound_is_fresh(void **state) {
  (void)state;
  bench b = open_model(best(), PU_F32, true);
  pu_engine *en = engine(&b, (pu_engine_options){.max_batch = 2, .kv_block = 8});
  pu_sampling how = sampling(0);
  for (int keep = 0; keep <= 40; keep += keep == 7 || keep == 15 ? 1 : 4) {
    pu_session *astray, *fresh;
    assert_ok(pu_session_open(en, &astray, &b.e), &b.e);
    append(astray, 4, 0, keep);
    append(astray, 5, 0, 20);
    assert_ok(pu_session_generate(astray, &how, NULL, NULL, &b.e), &b.e);
    assert_ok(pu_session_rewind(astray, keep, &b.e), &b.e);
    assert_int_equal(pu_session_length(astray), keep);
    append(astray, 4, keep, 60);
    assert_ok(pu_session_generate(astray, &how, NULL, NULL, &b.e), &b.e);
    assert_ok(pu_session_open(en, &fresh, &b.e), &b.e);
    append(fresh, 4, 0, 60);
    assert_ok(pu_session_generate(fresh, &how, NULL, NULL, &b.e), &b.e);
    size_t n;
    const int32_t *ids = pu_session_answer(fresh, &n);
    check_answer(astray, ids, n, "rewound", (size_t)keep);
    pu_session_close(astray);
    pu_session_close(fresh);
  }
  pu_engine_free(en);
  close_model(&b);
}

/* A second question after an answer: as if all had been one prompt. */
static void history_goes_on(void **state) {
  (void)state;
  bench b = open_model(best(), PU_F32, true);
  pu_engine *en = engine(&b, (pu_engine_options){.max_batch = 2});
  pu_sampling how = sampling(0);
  pu_session *s, *once;
  assert_ok(pu_session_open(en, &s, &b.e), &b.e);
  assert_ok(pu_session_open(en, &once, &b.e), &b.e);
  append(s, 1, 0, 30);
  assert_ok(pu_session_generate(s, &how, NULL, NULL, &b.e), &b.e);
  append(once, 1, 0, 30);
  size_t n;
  const int32_t *ids = pu_session_answer(s, &n);
  assert_ok(pu_session_append(once, ids, n, &b.e), &b.e);
  append(s, 2, 0, 10);
  append(once, 2, 0, 10);
  assert_ok(pu_session_generate(s, &how, NULL, NULL, &b.e), &b.e);
  assert_ok(pu_session_generate(once, &how, NULL, NULL, &b.e), &b.e);
  ids = pu_session_answer(once, &n);
  check_answer(s, ids, n, "second answer", 0);
  pu_engine_free(en);
  close_model(&b);
}

static void answers_end(void **state) {
  (void)state;
  bench b = open_model(best(), PU_BF16, true);
  pu_engine *en = engine(&b, (pu_engine_options){.context = 50});
  pu_session *s;
  size_t n;
  int32_t stop[1];
  pu_sampling how = sampling(0);
  assert_ok(pu_session_open(en, &s, &b.e), &b.e);
  append(s, 3, 0, 10);
  how.max_tokens = 0;
  assert_ok(pu_session_generate(s, &how, NULL, NULL, &b.e), &b.e); /* to the end of the context */
  assert_int_equal(pu_session_finish(s), PU_FINISH_LENGTH);
  const int32_t *ids = pu_session_answer(s, &n);
  assert_int_equal(n, 40);
  assert_int_equal(pu_session_length(s), 50);
  size_t at = 5;
  stop[0] = ids[at];
  for (size_t i = 0; i < at; i++) /* where it comes first */
    if (ids[i] == stop[0]) at = i;
  how.stop_ids = stop;
  how.n_stop_ids = 1;
  assert_ok(pu_session_rewind(s, 10, &b.e), &b.e);
  assert_ok(pu_session_generate(s, &how, NULL, NULL, &b.e), &b.e);
  stop[0] = -1; /* the session has its own copy */
  assert_int_equal(pu_session_finish(s), PU_FINISH_STOP);
  (void)pu_session_answer(s, &n);
  assert_int_equal(n, at); /* without the ending one */
  /* A full context: nothing can be made. */
  assert_ok(pu_session_rewind(s, 10, &b.e), &b.e);
  append(s, 4, 0, 40);
  assert_ok(pu_session_generate(s, &how, NULL, NULL, &b.e), &b.e);
  assert_int_equal(pu_session_finish(s), PU_FINISH_LENGTH);
  (void)pu_session_answer(s, &n);
  assert_int_equal(n, 0);
  pu_engine_free(en);
  close_model(&b);
}

#define REFUSED(call, code, b)                                                                                         \
  do {                                                                                                                 \
    (b).e.msg[0] = 0;                                                                                                  \
    assert_int_equal((call), (code));                                                                                  \
    assert_true((b).e.msg[0]);                                                                                         \
  } while (0)

static void mistakes_are_told(void **state) {
  (void)state;
  bench b = open_model(PU_ISA_REF, PU_F32, false);
  pu_engine *en;
  const pu_engine_options bad[] = {
      {.context = -1}, {.max_batch = -3}, {.max_batch = 1 << 20}, {.kv_block = -1}, {.prefill_chunk = -2}};
  for (size_t i = 0; i < PU_COUNT(bad); i++) REFUSED(pu_engine_over(b.m, NULL, &bad[i], &en, &b.e), PU_ERR_USAGE, b);
  en = engine(&b, (pu_engine_options){.context = 20});
  pu_session *s;
  assert_ok(pu_session_open(en, &s, &b.e), &b.e);
  pu_sampling how = sampling(0);
  REFUSED(pu_session_start(s, &how, NULL, NULL, &b.e), PU_ERR_USAGE, b); /* an empty prompt */
  const int32_t ids[21] = {3, -1, VOCAB};
  REFUSED(pu_session_append(s, ids, 21, &b.e), PU_ERR_USAGE, b);
  REFUSED(pu_session_append(s, ids + 1, 1, &b.e), PU_ERR_USAGE, b);
  REFUSED(pu_session_append(s, ids + 2, 1, &b.e), PU_ERR_USAGE, b);
  assert_int_equal(pu_session_length(s), 0);
  REFUSED(pu_session_rewind(s, 1, &b.e), PU_ERR_USAGE, b);
  assert_ok(pu_session_append(s, ids, 1, &b.e), &b.e);
  const char *stop[] = {"x"};
  pu_sampling wrong[] = {how, how, how, how, how};
  wrong[0].temperature = -1;
  wrong[1].top_p = 0;
  wrong[2].min_p = 2;
  wrong[3].top_k = -1;
  wrong[4].stop = stop;
  wrong[4].n_stop = 1; /* without a tokenizer */
  for (size_t i = 0; i < PU_COUNT(wrong); i++)
    REFUSED(pu_session_start(s, &wrong[i], NULL, NULL, &b.e), PU_ERR_USAGE, b);
  assert_ok(pu_session_start(s, &how, NULL, NULL, &b.e), &b.e);
  REFUSED(pu_session_append(s, ids, 1, &b.e), PU_ERR_USAGE, b); /* in the middle of an answer */
  REFUSED(pu_session_start(s, &how, NULL, NULL, &b.e), PU_ERR_USAGE, b);
  pu_engine_free(en);
  close_model(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(an_answer_is_its_sessions_own),
                                     cmocka_unit_test(rewound_is_fresh), cmocka_unit_test(history_goes_on),
                                     cmocka_unit_test(answers_end), cmocka_unit_test(mistakes_are_told)};
  int failed = 0;
  for (cache_type = PU_KV_SAME; cache_type <= PU_KV_INT4; cache_type += PU_KV_INT4 - PU_KV_SAME)
    failed += cmocka_run_group_tests(tests, NULL, NULL);
  return failed;
}
