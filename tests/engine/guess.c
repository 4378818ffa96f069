/* Guessing ahead gives the text that there is without, in fewer passes. */
#include "src/engine/internal.h"
#include "tests/device.h"
#include "tests/test.h"

#include <stdlib.h>

enum { VOCAB = 60, CONTEXT = 160, N = 8, ANSWER = 60 };

static pu_model *model(pu_backend *be, uint64_t seed, pu_dtype dtype, int64_t trained) {
  pu_model *m;
  pu_error e;
  const pu_hparams hp = {.vocab = VOCAB,
                         .hidden = 32,
                         .ffn = 48,
                         .layers = 2,
                         .heads = 2,
                         .kv_heads = 1,
                         .head_dim = 16,
                         .max_position = trained,
                         .norm_eps = 1e-5,
                         .rope = {.kind = trained < CONTEXT ? PU_ROPE_DYNAMIC : PU_ROPE_NONE,
                                  .base = 1e4,
                                  .factor = 2,
                                  .original_max = trained}};
  pu_model_options o = {.dtype = dtype, .tile = true};
  assert_ok(pu_model_random(pu_arch_find("internlm2"), &hp, seed, be, &o, &m, &e), &e);
  return m;
}

static pu_engine *engine(pu_model *m, pu_engine_options o) {
  pu_engine *en;
  pu_error e;
  o.context = CONTEXT;
  o.max_batch = 5;
  o.kv_block = 16;
  assert_ok(pu_engine_over(m, NULL, &o, &en, &e), &e);
  return en;
}

/* Prompts that repeat themselves; answers that do (cold) and that wander (warm), of which some end by an id. */
static pu_engine_stats answers(pu_engine *en, int32_t out[N][ANSWER], size_t n[N]) {
  pu_session *s[N];
  pu_error e;
  for (int i = 0; i < N; i++) {
    assert_ok(pu_session_open(en, &s[i], &e), &e);
    for (int at = 0; at < 20 + 9 * i; at++) {
      int32_t id = (int32_t)(pu_random_at(3, (uint64_t)i, (uint64_t)at % 11) % VOCAB);
      assert_ok(pu_session_append(s[i], &id, 1, &e), &e);
    }
    pu_sampling how = pu_sampling_default();
    how.max_tokens = i == 6 ? 1 : ANSWER;
    how.temperature = 0.1 * (i / 2);
    how.seed = (uint64_t)i;
    how.stop_ids = &(int32_t){7};
    how.n_stop_ids = 1;
    how.min_tokens = 4 * i;
    assert_ok(pu_session_start(s[i], &how, NULL, NULL, &e), &e);
  }
  for (bool more = true; more;) assert_ok(pu_engine_step(en, &more, &e), &e);
  for (int i = 0; i < N; i++) {
    const int32_t *ids = pu_session_answer(s[i], &n[i]);
    assert_int_not_equal(pu_session_finish(s[i]), PU_FINISH_NONE);
    memcpy(out[i], ids, n[i] * sizeof *ids);
    pu_session_close(s[i]);
  }
  pu_engine_stats st = pu_engine_get_stats(en);
  assert_int_equal(st.kv_blocks_used, 0);
  return st;
}

static void check(pu_engine *plain, pu_engine *guesses, pu_engine_stats *st, pu_engine_stats *before) {
  static int32_t want[N][ANSWER], got[N][ANSWER];
  size_t want_n[N], n[N];
  *before = answers(plain, want, want_n);
  *st = answers(guesses, got, n);
  for (int i = 0; i < N; i++) {
    assert_int_equal(n[i], want_n[i]);
    for (size_t k = 0; k < n[i]; k++)
      if (got[i][k] != want[i][k]) fail_msg("token %zu of answer %d is %d, not %d", k, i, got[i][k], want[i][k]);
  }
}

static void the_text_stays(void **state) {
  (void)state;
  pu_backend *be;
  pu_error e;
  assert_ok(pu_test_open(1, pu_isa_best(), &be, &e), &e);
  for (int trained = 50; trained <= CONTEXT; trained += CONTEXT - 50) {
    pu_model *m = model(be, 1, PU_F32, trained), *other = model(be, 2, PU_F32, trained);
    for (int guess = 1; guess <= PU_MOST_GUESS; guess += 7) {
      enum { LOOKUP, SAME, OTHER, KINDS };
      for (int kind = 0; kind < KINDS; kind++) {
        pu_engine_stats st, before;
        pu_engine *plain = engine(m, (pu_engine_options){0});
        pu_engine *draft = kind ? engine(kind == SAME ? m : other, (pu_engine_options){.no_prefix_cache = true}) : NULL;
        pu_engine *guesses = engine(m, (pu_engine_options){.guess = guess, .draft = draft});
        check(plain, guesses, &st, &before);
        assert_int_equal(before.guesses, 0);
        assert_true(st.guesses > 0 && st.guesses_right <= st.guesses);
        if (kind == LOOKUP) assert_true(st.guesses_right > 0);
        if (kind == SAME && trained == CONTEXT) assert_true(st.steps < before.steps);
        pu_engine_free(plain);
        pu_engine_free(guesses);
      }
    }
    pu_model_free(m);
    pu_model_free(other);
  }
  be->close(be);
}

static void mistakes_are_told(void **state) {
  (void)state;
  pu_backend *be;
  pu_error e;
  pu_engine *en;
  assert_ok(pu_test_open(1, PU_ISA_REF, &be, &e), &e);
  pu_model *m = model(be, 1, PU_F32, CONTEXT);
  pu_engine_options o = {.guess = 16};
  assert_int_equal(pu_engine_over(m, NULL, &o, &en, &e), PU_ERR_USAGE);
  o.guess = -1;
  assert_int_equal(pu_engine_over(m, NULL, &o, &en, &e), PU_ERR_USAGE);
  pu_model_free(m);
  be->close(be);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_text_stays), cmocka_unit_test(mistakes_are_told)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
