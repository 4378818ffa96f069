/* A session alone and among others: the same tokens, and the same log-probabilities to the bit. */
#include "src/engine/internal.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB = 300, CONTEXT = 256, OTHERS = 31, N = OTHERS + 1, ANSWER = 12 };

typedef struct bench {
  pu_backend *be;
  pu_model *m;
  pu_error e;
} bench;

/* wide: inner sizes above the depth at which products are cut. */
static bench open_model(pu_isa isa, pu_dtype dtype, bool wide) {
  bench b;
  const pu_hparams hp = {.vocab = VOCAB,
                         .hidden = wide ? 320 : 64,
                         .ffn = wide ? 2600 : 96,
                         .layers = 2,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = wide ? 64 : 16,
                         .max_position = CONTEXT,
                         .norm_eps = 1e-5,
                         .rope = {.base = 1e4, .factor = 1}};
  assert_ok(pu_cpu_open(2, isa, &b.be, &b.e), &b.e);
  pu_model_options o = {.dtype = dtype, .tile = true};
  assert_ok(pu_model_random(pu_arch_find("internlm2"), &hp, 11, b.be, &o, &b.m, &b.e), &b.e);
  return b;
}

static void close_model(bench *b) {
  pu_model_free(b->m);
  b->be->close(b->be);
}

static pu_session *begin(pu_engine *en, int i) {
  pu_session *s;
  pu_error e;
  assert_ok(pu_session_open(en, &s, &e), &e);
  for (int at = 0, n = 1 + (i * 37) % 90; at < n; at++) {
    int32_t id = (int32_t)(3 + pu_random_at(7, (uint64_t)i, (uint64_t)at) % (VOCAB - 3));
    assert_ok(pu_session_append(s, &id, 1, &e), &e);
  }
  pu_sampling how = pu_sampling_default();
  how.max_tokens = ANSWER;
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

static int compare(bench *b, pu_kv_type type, const char *what) {
  pu_engine_options o = {.context = CONTEXT, .max_batch = N, .no_prefix_cache = true, .kv_type = type};
  pu_engine *many, *one;
  pu_session *s[N];
  int differ = 0;
  assert_ok(pu_engine_over(b->m, NULL, &o, &many, &b->e), &b->e);
  assert_ok(pu_engine_over(b->m, NULL, &o, &one, &b->e), &b->e);
  for (int i = 0; i < N; i++) s[i] = begin(many, i);
  run(many);
  for (int i = 0; i < N; i++) {
    pu_session *alone = begin(one, i);
    run(one);
    size_t n, m;
    const pu_token_info *x = pu_session_tokens(s[i], &n), *y = pu_session_tokens(alone, &m);
    assert_int_equal(n, m);
    for (size_t k = 0; k < n; k++) {
      if (x[k].id != y[k].id) fail_msg("%s: token %zu of session %d is %d, not %d", what, k, i, x[k].id, y[k].id);
      differ += memcmp(&x[k].logprob, &y[k].logprob, sizeof(float)) != 0 ||
                memcmp(x[k].top_logprobs, y[k].top_logprobs, 3 * sizeof(float)) != 0;
    }
    pu_session_close(alone);
  }
  pu_engine_free(many);
  pu_engine_free(one);
  return differ;
}

/* Tokens always; to the bit where products of few and of many rows add in the same order: see the README. */
static void alone_as_among_others(void **state) {
  (void)state;
  static const struct {
    pu_isa isa;
    pu_dtype dtype;
    bool wide, to_the_bit;
  } cases[] = {{PU_ISA_REF, PU_F32, false, true},
               {PU_ISA_REF, PU_BF16, false, true},
               {PU_ISA_AVX2, PU_F32, false, false},
               {PU_ISA_AVX512, PU_F32, false, false},
               {PU_ISA_AMX, PU_BF16, true, true}};
  for (size_t i = 0; i < PU_COUNT(cases) && cases[i].isa <= pu_isa_best(); i++) {
    bench b = open_model(cases[i].isa, cases[i].dtype, cases[i].wide);
    const bool exact = cases[i].isa == PU_ISA_REF && cases[i].dtype == PU_F32; /* in few bits a last bit may show */
    const pu_kv_type last = exact ? PU_KV_INT4 : PU_KV_SAME;
    for (pu_kv_type type = PU_KV_SAME; type <= last; type++) {
      int differ = compare(&b, type, pu_isa_name(cases[i].isa));
      if (differ && cases[i].to_the_bit)
        fail_msg("%s, cache %d: %d of %d differ", pu_isa_name(cases[i].isa), type, differ, N * ANSWER);
    }
    close_model(&b);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(alone_as_among_others)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
