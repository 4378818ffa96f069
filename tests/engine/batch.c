/* A session alone and among forty others, prompts read in chunks: the same tokens, and the same log-probabilities to
 * the bit, on every instruction set, for every type of weights and of the cache. And of long answers, whose steps a
 * device may keep: the same as where it keeps none. */
#include "src/engine/internal.h"
#include "tests/device.h"
#include "tests/test.h"
#include "tests/tiny_model.h"

#include <stdlib.h>

enum { VOCAB = 300, CONTEXT = 256, OTHERS = 40, N = OTHERS + 1, ANSWER = 8, CHUNK = 24 };

typedef struct bench {
  pu_backend *be;
  pu_model *m;
  pu_error e;
} bench;

/* wide: inner sizes above the depth at which products are cut. */
static bench open_model(pu_isa isa, pu_dtype dtype, pu_quant quant, bool wide) {
  bench b;
  pu_hparams hp = pu_test_hparams(VOCAB, CONTEXT);
  hp.hidden = wide ? 320 : hp.hidden;
  hp.ffn = wide ? 1700 : hp.ffn;
  hp.head_dim = wide ? 64 : hp.head_dim;
  assert_ok(pu_test_open(2, isa, &b.be, &b.e), &b.e);
  pu_model_options o = {.dtype = dtype, .tile = true, .quant = quant};
  assert_ok(pu_model_random(pu_arch_find("internlm2"), &hp, 11, b.be, &o, &b.m, &b.e), &b.e);
  return b;
}

static void close_model(bench *b) {
  pu_model_free(b->m);
  b->be->close(b->be);
}

static pu_session *begin(pu_engine *en, int i, int32_t tokens) {
  pu_session *s;
  pu_error e;
  assert_ok(pu_session_open(en, &s, &e), &e);
  for (int at = 0, n = 1 + (i * 37) % 90; at < n; at++) {
    int32_t id = (int32_t)(3 + pu_random_at(7, (uint64_t)i, (uint64_t)at) % (VOCAB - 3));
    assert_ok(pu_session_append(s, &id, 1, &e), &e);
  }
  pu_sampling how = pu_sampling_default();
  how.max_tokens = tokens;
  how.top_logprobs = 3;
  how.temperature = i % 2;
  how.seed = (uint64_t)i;
  assert_ok(pu_session_start(s, &how, NULL, NULL, &e), &e);
  return s;
}

static void run(pu_engine *en) {
  pu_error e;
  for (bool more = true; more;) assert_ok(pu_engine_step(en, &more, &e), &e);
}

static void same(const pu_session *a, const pu_session *b, const char *what, int i) {
  size_t n, m;
  const pu_token_info *x = pu_session_tokens(a, &n), *y = pu_session_tokens(b, &m);
  assert_int_equal(n, m);
  for (size_t k = 0; k < n; k++) {
    if (x[k].id != y[k].id) fail_msg("%s: token %zu of session %d is %d, not %d", what, k, i, x[k].id, y[k].id);
    if (memcmp(&x[k].logprob, &y[k].logprob, sizeof(float)) != 0 ||
        memcmp(x[k].top_logprobs, y[k].top_logprobs, 3 * sizeof(float)) != 0)
      fail_msg("%s: token %zu of session %d has another log-probability", what, k, i);
  }
}

/* Beside those that are compared: with weights in few bits and bf16 a device promises a token the same bits among five
 * or more, not the same alone (compute.h). */
enum { COMPANY = 6 };

static void keep_company(pu_engine *en, pu_session *s[COMPANY], int company) {
  for (int i = 0; i < company; i++) {
    if (s[i] && pu_session_finish(s[i]) == PU_FINISH_NONE) continue;
    pu_session_close(s[i]);
    s[i] = begin(en, i * 90, CONTEXT); /* of one token */
  }
}

static bool done(pu_session *const *s, int n) {
  for (int i = 0; i < n; i++)
    if (pu_session_finish(s[i]) == PU_FINISH_NONE) return false;
  return true;
}

/* Sessions [first, first + n), with others beside them. */
static void answer_beside(pu_engine *en, pu_session *beside[COMPANY], int company, pu_session **s, int first, int n) {
  pu_error e;
  keep_company(en, beside, company);
  for (int i = 0; i < n; i++) s[i] = begin(en, first + i, ANSWER);
  for (bool more; !done(s, n); keep_company(en, beside, company)) assert_ok(pu_engine_step(en, &more, &e), &e);
}

/* A few at a time, whose steps then have no more than sixteen tokens. */
enum { FEW_BATCH = 12, FEW_CHUNK = 4 };

/* few: as far as a device's promise goes for weights in few bits. company: how many stand beside those compared. */
static void compare(bench *b, pu_kv_type type, bool few, int company, const char *what) {
  pu_engine_options o = {.context = CONTEXT,
                         .max_batch = few ? FEW_BATCH : N,
                         .prefill_chunk = few ? FEW_CHUNK : CHUNK,
                         .no_prefix_cache = true,
                         .kv_type = type};
  pu_engine *many, *one;
  pu_session *s[N], *alone, *beside_many[COMPANY] = {0}, *beside_one[COMPANY] = {0};
  const int group = company ? FEW_BATCH - company : N;
  assert_ok(pu_engine_over(b->m, NULL, &o, &many, &b->e), &b->e);
  assert_ok(pu_engine_over(b->m, NULL, &o, &one, &b->e), &b->e);
  for (int first = 0; first < N; first += group)
    answer_beside(many, beside_many, company, s + first, first, PU_MIN(group, N - first));
  for (int i = 0; i < N; i++) {
    answer_beside(one, beside_one, company, &alone, i, 1);
    same(s[i], alone, what, i);
    pu_session_close(alone);
  }
  pu_engine_free(many);
  pu_engine_free(one);
}

/* Weights with a scale a row are multiplied in bf16's stead. */
static bool takes(pu_dtype type, pu_quant quant) {
  if (quant == PU_QUANT_FP8) return type == PU_BF16 && pu_test_fp8();
  return quant != PU_QUANT_I8 || (type == PU_BF16 && pu_test_tiles());
}

static void alone_as_among_others(void **state) {
  (void)state;
  static const pu_dtype types[] = {PU_F32, PU_BF16};
  static const struct {
    pu_quant quant;
    bool wide;
    pu_kv_type first, last; /* of the cache */
  } cases[] = {{PU_QUANT_NONE, true, PU_KV_SAME, PU_KV_SAME}, {PU_QUANT_NONE, false, PU_KV_SAME, PU_KV_INT4},
               {PU_QUANT_Q8, false, PU_KV_SAME, PU_KV_SAME},  {PU_QUANT_Q4, false, PU_KV_SAME, PU_KV_SAME},
               {PU_QUANT_FP8, false, PU_KV_SAME, PU_KV_SAME}, {PU_QUANT_I8, false, PU_KV_SAME, PU_KV_SAME}};
  for (pu_isa isa = PU_ISA_REF; isa <= pu_isa_best(); isa++)
    for (size_t t = 0; t < PU_COUNT(types); t++)
      for (size_t i = 0; i < PU_COUNT(cases); i++) {
        if (cases[i].wide && isa == PU_ISA_REF) continue; /* one value at a time, that takes long */
        if (!takes(types[t], cases[i].quant)) continue;
        bench b = open_model(isa, types[t], cases[i].quant, cases[i].wide);
        for (pu_kv_type type = cases[i].first; type <= cases[i].last; type++) {
          char what[80];
          (void)snprintf(what, sizeof what, "%s, %s, weights %d, cache %d", pu_isa_name(isa), pu_dtype_name(types[t]),
                         (int)cases[i].quant, (int)type);
          bool few = (cases[i].quant == PU_QUANT_Q8 || cases[i].quant == PU_QUANT_Q4) && !strcmp(b.be->name, "cuda");
          compare(&b, type, few, few && types[t] == PU_BF16 ? COMPANY : 0, what);
        }
        close_model(&b);
      }
}

/* Sessions that end one after the other, so that steps of each number of them come again and again, twice. */
enum { FEW = 4, LONG = 120 };

static void answer(pu_engine *en, pu_session **s) {
  for (int i = 0; i < FEW; i++) s[i] = begin(en, i, LONG - 25 * i);
  run(en);
}

static void kept_steps_say_the_same(void **state) {
  (void)state;
  static const struct {
    pu_dtype dtype;
    pu_quant quant;
    pu_kv_type last; /* of the cache */
  } cases[] = {{PU_F32, PU_QUANT_NONE, PU_KV_INT4},
               {PU_BF16, PU_QUANT_NONE, PU_KV_INT4},
               {PU_BF16, PU_QUANT_FP8, PU_KV_SAME},
               {PU_BF16, PU_QUANT_I8, PU_KV_SAME}};
  for (size_t t = 0; t < PU_COUNT(cases); t++)
    for (pu_kv_type type = PU_KV_SAME; type <= cases[t].last; type++) {
      if (!takes(cases[t].dtype, cases[t].quant)) continue;
      bench b = open_model(pu_isa_best(), cases[t].dtype, cases[t].quant, cases[t].quant == PU_QUANT_NONE);
      pu_engine_options o = {.context = CONTEXT, .max_batch = FEW, .no_prefix_cache = true, .kv_type = type};
      pu_engine *en;
      pu_session *kept[2][FEW], *anew[FEW];
      assert_ok(pu_engine_over(b.m, NULL, &o, &en, &b.e), &b.e);
      for (int i = 0; i < 2; i++) answer(en, kept[i]);
      pu_err (*record)(pu_backend *, uint64_t, uint64_t *, pu_error *) = b.be->record;
      b.be->record = NULL;
      answer(en, anew);
      b.be->record = record;
      for (int i = 0; i < FEW; i++) {
        same(kept[0][i], anew[i], "first", i);
        same(kept[1][i], anew[i], "second", i);
      }
      pu_engine_free(en);
      close_model(&b);
    }
}

/* Of an undisturbed batch nearly all steps are made ready while the one before runs, and taken as they were. */
static void steps_are_made_ready(void **state) {
  (void)state;
  bench b = open_model(pu_isa_best(), PU_BF16, PU_QUANT_NONE, false);
  const pu_engine_options o = {.context = CONTEXT, .max_batch = FEW, .no_prefix_cache = true};
  pu_engine *en;
  assert_ok(pu_engine_over(b.m, NULL, &o, &en, &b.e), &b.e);
  for (int i = 0; i < FEW; i++) begin(en, i, LONG);
  run(en);
  const pu_engine_stats s = pu_engine_get_stats(en);
  if (b.be->record)
    assert_in_range(s.steps_ahead, s.steps * 3 / 4, s.steps - 1);
  else
    assert_int_equal(s.steps_ahead, 0);
  pu_engine_free(en);
  close_model(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(alone_as_among_others), cmocka_unit_test(kept_steps_say_the_same),
                                     cmocka_unit_test(steps_are_made_ready)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
