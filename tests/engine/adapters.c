/* Sessions by different adapters in one engine: each answers as alone and as merged weights do; what is shared,
 * planned, refused. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "puyu/engine.h"
#include "tests/device.h"
#include "tests/test.h"
#include "tests/tiny_model.h"

enum { VOCAB = 300, CONTEXT = 256, ANSWER = 10, N = 9 };

static char folder[] = "/tmp/puyu-adapters-XXXXXX";

typedef struct bench {
  pu_backend *be;
  pu_model *m;
  char dir[2][300];
  pu_error e;
} bench;

static pu_model *make_model(pu_backend *be, pu_dtype dtype, bool tile, int64_t layers) {
  pu_model *m;
  pu_error e;
  pu_hparams hp = pu_test_hparams(VOCAB, CONTEXT);
  hp.layers = layers;
  pu_model_options o = {.dtype = dtype, .tile = tile};
  assert_ok(pu_model_random(pu_arch_find("internlm2"), &hp, 11, be, &o, &m, &e), &e);
  return m;
}

/* Strong enough that answers differ. */
static void make_adapter(pu_backend *be, const char *dir, int64_t rank, uint64_t seed) {
  const char *targets[] = {"wqkv", "wo", "w1", "w2", "w3"};
  pu_adapter_shape shape = {.rank = rank, .alpha = 8, .targets = {targets, PU_COUNT(targets)}};
  pu_model *m = make_model(be, PU_F32, false, 2);
  pu_adapter *a;
  pu_error e;
  size_t n;
  assert_ok(pu_adapter_create(m, &shape, seed, &a, &e), &e);
  pu_param *p = pu_adapter_params(a, &n);
  for (size_t i = 1; i < n; i += 2) {
    float *values = pu_test_download(be, p[i].w);
    for (int64_t k = 0; k < pu_tensor_count(p[i].w); k++)
      values[k] = (float)(pu_random_at(seed, i, (uint64_t)k) % 2001) / 2000 - 0.5f;
    pu_test_upload(be, p[i].w, values);
    free(values);
  }
  assert_ok(pu_adapter_save(a, dir, PU_F32, &e), &e);
  pu_adapter_free(a);
  pu_model_free(m);
}

static int open_bench(void **state) {
  static bench b;
  if (!mkdtemp(folder) || pu_test_open(2, pu_isa_best(), &b.be, &b.e) != PU_OK) return -1;
  for (int i = 0; i < 2; i++) {
    snprintf(b.dir[i], sizeof b.dir[i], "%s/%d", folder, i);
    make_adapter(b.be, b.dir[i], 3 + 5 * i, (uint64_t)i + 1);
  }
  *state = &b;
  return 0;
}

static int close_bench(void **state) {
  bench *b = *state;
  pu_error e;
  b->be->close(b->be);
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static pu_engine *open_engine(bench *b, pu_model *m, pu_engine_options o) {
  pu_engine *en;
  const pu_engine_adapter adapters[] = {{"one", b->dir[0]}, {"two", b->dir[1]}};
  o.context = CONTEXT;
  o.adapters = adapters;
  o.n_adapters = 2;
  assert_ok(pu_engine_over(m, NULL, &o, &en, &b->e), &b->e);
  return en;
}

/* Session i goes by none, one or two, in turn; its prompt has `len` ids of its own. */
static pu_session *begin(pu_engine *en, int i, const char *adapter, int len) {
  pu_session *s;
  pu_error e;
  assert_ok(pu_session_open(en, &s, &e), &e);
  if (adapter) assert_ok(pu_session_adapter(s, adapter, &e), &e);
  for (int at = 0; at < len; at++) {
    int32_t id = (int32_t)(3 + pu_random_at(7, (uint64_t)i, (uint64_t)at) % (VOCAB - 3));
    assert_ok(pu_session_append(s, &id, 1, &e), &e);
  }
  pu_sampling how = pu_sampling_default();
  how.max_tokens = ANSWER;
  how.top_logprobs = 0;
  assert_ok(pu_session_start(s, &how, NULL, NULL, &e), &e);
  return s;
}

static void run(pu_engine *en) {
  pu_error e;
  for (bool more = true; more;) assert_ok(pu_engine_step(en, &more, &e), &e);
}

static const char *const turn[] = {NULL, "one", "two"};

static int length_of(int i) {
  return 1 + i * 37 % 90;
}

/* Among others the same tokens with the same log-probabilities, to the bit with the reference's products. */
static void same_as_alone(void **state) {
  bench *b = *state;
  pu_backend *ref;
  assert_ok(pu_test_open(2, PU_ISA_REF, &ref, &b->e), &b->e);
  pu_model *m = make_model(ref, PU_F32, true, 2);
  pu_engine *many = open_engine(b, m, (pu_engine_options){.max_batch = N, .no_prefix_cache = true});
  pu_engine *one = open_engine(b, m, (pu_engine_options){.max_batch = N, .no_prefix_cache = true});
  pu_session *s[N];
  for (int i = 0; i < N; i++) s[i] = begin(many, i, turn[i % 3], length_of(i));
  run(many);
  for (int i = 0; i < N; i++) {
    pu_session *alone = begin(one, i, turn[i % 3], length_of(i));
    run(one);
    size_t n, k;
    const pu_token_info *x = pu_session_tokens(s[i], &n), *y = pu_session_tokens(alone, &k);
    assert_int_equal(n, ANSWER);
    assert_int_equal(k, ANSWER);
    for (size_t t = 0; t < n; t++) {
      assert_int_equal(x[t].id, y[t].id);
      assert_memory_equal(&x[t].logprob, &y[t].logprob, sizeof(float));
    }
    pu_session_close(alone);
  }
  pu_engine_free(many);
  pu_engine_free(one);
  pu_model_free(m);
  ref->close(ref);
}

/* Tiled weights with adapters beside them say what merged weights say; so do guesses by a draft that knows no adapter.
 */
static void same_as_merged(void **state) {
  bench *b = *state;
  pu_model *m = make_model(b->be, PU_F32, true, 2), *small = make_model(b->be, PU_F32, true, 1);
  pu_engine *draft, *guessing, *en = open_engine(b, m, (pu_engine_options){.max_batch = 4});
  pu_engine_options o = {.max_batch = 4, .context = CONTEXT};
  assert_ok(pu_engine_over(small, NULL, &o, &draft, &b->e), &b->e);
  guessing = open_engine(b, m, (pu_engine_options){.max_batch = 4, .guess = 3, .draft = draft});
  int differ = 0;
  for (int i = 0; i < 2; i++) {
    pu_model *merged = make_model(b->be, PU_F32, false, 2);
    pu_engine *of_merged;
    assert_ok(pu_model_merge(merged, b->dir[i], &b->e), &b->e);
    assert_ok(pu_engine_over(merged, NULL, &o, &of_merged, &b->e), &b->e);
    pu_session *x = begin(en, 5, turn[i + 1], 40), *y = begin(of_merged, 5, NULL, 40), *base = begin(en, 5, NULL, 40),
               *guessed = begin(guessing, 5, turn[i + 1], 40);
    run(en);
    run(of_merged);
    run(guessing);
    size_t n;
    const pu_token_info *p = pu_session_tokens(x, &n), *q = pu_session_tokens(y, &n);
    const int32_t *r = pu_session_answer(base, &n), *g = pu_session_answer(guessed, &n);
    for (size_t t = 0; t < ANSWER; t++) {
      assert_int_equal(p[t].id, q[t].id);
      assert_int_equal(p[t].id, g[t]);
      assert_true(fabs((double)p[t].logprob - (double)q[t].logprob) < 1e-4);
      differ += p[t].id != r[t];
    }
    pu_engine_free(of_merged);
    pu_model_free(merged);
  }
  assert_true(differ > ANSWER / 2);
  pu_engine_free(en);
  pu_engine_free(guessing); /* with the draft */
  pu_model_free(m);
  pu_model_free(small);
}

/* The same ids by another adapter are another text to the prefix cache; by the same one, seven full blocks are there.
 */
static void prefixes_are_told_apart(void **state) {
  bench *b = *state;
  pu_model *m = make_model(b->be, PU_F32, true, 2);
  pu_engine *en = open_engine(b, m, (pu_engine_options){.max_batch = 4, .kv_block = 8});
  for (int i = 0; i < 3; i++) {
    pu_session *s = begin(en, 1, turn[i], 64);
    run(en);
    assert_int_equal(pu_engine_get_stats(en).prefix_tokens_hit, 56 * i);
    pu_session *again = begin(en, 1, turn[i], 64), *fork;
    run(en);
    assert_int_equal(pu_engine_get_stats(en).prefix_tokens_hit, 56 * (i + 1));
    assert_memory_equal(pu_session_answer(s, &(size_t){0}), pu_session_answer(again, &(size_t){0}), ANSWER * 4);
    assert_ok(pu_session_fork(again, &fork, &b->e), &b->e);
    assert_ok(pu_session_rewind(fork, 64, &b->e), &b->e);
    pu_sampling how = pu_sampling_default();
    how.max_tokens = ANSWER;
    assert_ok(pu_session_generate(fork, &how, NULL, NULL, &b->e), &b->e);
    assert_memory_equal(pu_session_answer(s, &(size_t){0}), pu_session_answer(fork, &(size_t){0}), ANSWER * 4);
  }
  pu_engine_free(en);
  pu_model_free(m);
}

static void added_and_removed(void **state) {
  bench *b = *state;
  pu_error *e = &b->e;
  pu_model *m = make_model(b->be, PU_BF16, true, 2);
  pu_engine *en;
  pu_engine_options o = {.max_batch = 4, .context = CONTEXT};
  assert_ok(pu_engine_over(m, NULL, &o, &en, e), e);
  size_t before = pu_engine_get_plan(en).weights, bytes;
  assert_ok(pu_adapter_measure(b->dir[0], m->arch, &m->hp, PU_BF16, &bytes, e), e);
  assert_null(pu_engine_adapter_at(en, 0));
  assert_ok(pu_engine_add_adapter(en, "one", b->dir[0], e), e);
  assert_int_equal(pu_engine_add_adapter(en, "one", b->dir[1], e), PU_ERR_USAGE);
  assert_int_equal(pu_engine_add_adapter(en, "", b->dir[1], e), PU_ERR_USAGE);
  assert_int_equal(pu_engine_add_adapter(en, "nowhere", folder, e), PU_ERR_IO);
  assert_string_equal(pu_engine_adapter_at(en, 0), "one");
  assert_null(pu_engine_adapter_at(en, 1));
  assert_int_equal(pu_engine_get_plan(en).weights, before + bytes);
  pu_session *s = begin(en, 1, "one", 20);
  run(en);
  assert_int_equal(pu_session_adapter(s, NULL, e), PU_ERR_USAGE); /* it has tokens */
  assert_int_equal(pu_engine_remove_adapter(en, "one", e), PU_ERR_USAGE);
  assert_non_null(strstr(e->msg, "1 sessions go by"));
  pu_session_close(s);
  assert_ok(pu_engine_remove_adapter(en, "one", e), e);
  assert_int_equal(pu_engine_remove_adapter(en, "one", e), PU_ERR_USAGE);
  assert_int_equal(pu_engine_get_plan(en).weights, before);
  /* Another one under the name takes nothing from what the first one cached. */
  assert_ok(pu_engine_add_adapter(en, "one", b->dir[1], e), e);
  int64_t hits = pu_engine_get_stats(en).prefix_tokens_hit;
  s = begin(en, 1, "one", 20);
  run(en);
  assert_int_equal(pu_engine_get_stats(en).prefix_tokens_hit, hits);
  assert_int_equal(pu_session_open(en, &s, e), PU_OK);
  assert_int_equal(pu_session_adapter(s, "three", e), PU_ERR_USAGE);
  pu_engine_free(en);
  pu_model_free(m);
}

/* What the plan has counted is there; what it has not may not be taken. */
static void planned(void **state) {
  bench *b = *state;
  pu_model *m = make_model(b->be, PU_F32, true, 2);
  pu_engine *plain, *en;
  pu_engine_options o = {.max_batch = 2, .context = CONTEXT, .memory = (size_t)64 << 20};
  assert_ok(pu_engine_over(m, NULL, &o, &plain, &b->e), &b->e);
  pu_engine_plan p = pu_engine_get_plan(plain);
  o.memory = p.weights + p.work + p.cache; /* to the byte */
  en = open_engine(b, m, o);
  pu_engine_plan q = pu_engine_get_plan(en);
  assert_true(q.weights > p.weights && q.kv_blocks < p.kv_blocks && q.weights + q.work + q.cache <= o.memory);
  pu_engine_free(en);
  pu_engine_free(plain);
  assert_ok(pu_engine_over(m, NULL, &o, &en, &b->e), &b->e);
  assert_int_equal(pu_engine_add_adapter(en, "one", b->dir[0], &b->e), PU_ERR_NOMEM);
  assert_non_null(strstr(b->e.msg, "are left"));
  pu_engine_free(en);
  pu_model_free(m);
}

/* The greedy continuation that transformers and PEFT give. */
static void peft_says_the_same(void **state) {
  static const char dir[] = PU_SHARED "/fixtures/hf/llama-lora",
                    adapter[] = PU_SHARED "/fixtures/hf/llama-lora/adapter";
  enum { GIVEN = 8, MADE = 32 };
  pu_safetensors *s;
  pu_engine *en;
  pu_session *x;
  pu_error e;
  (void)state;
  if (!pu_path_is_dir(dir)) {
    print_message("skipped: there is no %s\n", dir);
    return;
  }
  const pu_engine_adapter one = {"one", adapter};
  pu_engine_options o = {.dtype = PU_F32, .max_batch = 1, .adapters = &one, .n_adapters = 1};
  assert_ok(pu_engine_open(dir, &o, &en, &e), &e);
  assert_ok(pu_safetensors_open(PU_SHARED "/fixtures/hf/llama-lora/expected.safetensors", &s, &e), &e);
  int32_t ids[GIVEN + MADE];
  memcpy(ids, pu_safetensors_find(s, "greedy_ids")->data, sizeof ids);
  assert_ok(pu_session_open(en, &x, &e), &e);
  assert_ok(pu_session_adapter(x, "one", &e), &e);
  assert_ok(pu_session_append(x, ids, GIVEN, &e), &e);
  pu_sampling how = pu_sampling_default();
  how.max_tokens = MADE;
  how.ignore_eos = true;
  assert_ok(pu_session_generate(x, &how, NULL, NULL, &e), &e);
  size_t n;
  const int32_t *made = pu_session_answer(x, &n);
  assert_int_equal(n, MADE);
  assert_memory_equal(made, ids + GIVEN, MADE * sizeof *ids);
  pu_safetensors_close(s);
  pu_engine_free(en);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(same_as_alone),     cmocka_unit_test(same_as_merged), cmocka_unit_test(prefixes_are_told_apart),
      cmocka_unit_test(added_and_removed), cmocka_unit_test(planned),        cmocka_unit_test(peft_says_the_same),
  };
  return cmocka_run_group_tests(tests, open_bench, close_bench);
}
