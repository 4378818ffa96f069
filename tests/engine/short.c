/* Rows of logits that stay on a device: settings that change logits give the tokens that they give on the host from
 * whole rows, and rows are fetched only where that is due. */
#include "src/engine/internal.h"
#include "tests/device.h"
#include "tests/test.h"
#include "tests/tiny_model.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB = 300, CONTEXT = 256, ANSWER = 60, KINDS = 18, LOOPS = 10, ALL = KINDS + LOOPS };

typedef struct bench {
  pu_backend *be;
  pu_model *m;
  pu_error e;
} bench;

/* ---- what is fetched ---- */

static pu_err (*own_download)(pu_backend *, void *, const void *, size_t, pu_error *);
static int64_t rows_fetched;

static pu_err counting_download(pu_backend *be, void *host, const void *device, size_t bytes, pu_error *e) {
  rows_fetched += bytes == VOCAB * sizeof(float);
  return own_download(be, host, device, bytes, e);
}

/* Skips the test where logits are in the host's memory anyway. */
static bench open_bench(void) {
  bench b;
  const pu_hparams hp = pu_test_hparams(VOCAB, CONTEXT);
  assert_ok(pu_test_open(2, pu_isa_best(), &b.be, &b.e), &b.e);
  if (!b.be->memory || !b.be->forward[PU_OP_adjust_logits]) {
    b.be->close(b.be);
    skip();
  }
  own_download = b.be->download;
  b.be->download = counting_download;
  const pu_model_options o = {.dtype = PU_F32};
  assert_ok(pu_model_random(pu_arch_find("internlm2"), &hp, 11, b.be, &o, &b.m, &b.e), &b.e);
  return b;
}

static void close_bench(bench *b) {
  pu_model_free(b->m);
  b->be->close(b->be);
}

static pu_engine *open_engine(bench *b, int guess) {
  const pu_engine_options o = {.context = CONTEXT, .max_batch = ALL, .no_prefix_cache = true, .guess = guess};
  pu_engine *en;
  assert_ok(pu_engine_over(b->m, NULL, &o, &en, &b->e), &b->e);
  return en;
}

/* ---- settings ---- */

/* Those before WHOLE are chosen among the largest logits as long as the draw falls there. */
enum { WHOLE = 13 };

static const pu_logit_bias biases[] = {{7, 0.5f}, {250, 1}, {7, 0.25f}, {12, -INFINITY}, {80, 3}, {3, -1e-3f}};
static const int32_t letters[] = {80, 3, 250, 7, 11};
static const pu_ids_view words[] = {{letters, 1}, {letters + 1, 2}, {letters + 2, 1}, {letters, 5}, {letters + 3, 1}};
static const int32_t endings[] = {1, 2, 80, 81, 82, 250, VOCAB + 5, -1};

static void bias(pu_sampling *how) {
  how->logit_bias = biases;
  how->n_logit_bias = PU_COUNT(biases);
}

static void forbid(pu_sampling *how) {
  how->bad_words = words;
  how->n_bad_words = PU_COUNT(words);
}

static void end_late(pu_sampling *how) {
  how->stop_ids = endings;
  how->n_stop_ids = PU_COUNT(endings);
  how->min_tokens = ANSWER / 2;
}

/* More than there is room for. */
static void forbid_very_much(pu_sampling *how) {
  enum { MANY = 40000 };
  static pu_ids_view many[MANY];
  for (int i = 0; i < MANY; i++) many[i] = words[i % 3];
  how->bad_words = many;
  how->n_bad_words = MANY;
}

/* A token that comes again and again, so that it is guessed, until so many of it are a bad word, or the penalty has
 * become as much as its bias: after which, depends on the guesses before. */
static void loop(pu_sampling *how, int which) {
  enum { TOKEN = 80, SHORTEST = 10, WORDS = 4 };
  static int32_t same[SHORTEST + WORDS];
  static pu_ids_view word[WORDS];
  for (int i = 0; i < SHORTEST + WORDS; i++) same[i] = TOKEN;
  bias(how);
  if (which < WORDS) {
    word[which] = (pu_ids_view){same, (size_t)(SHORTEST + which)};
    how->bad_words = &word[which];
    how->n_bad_words = 1;
  } else {
    how->frequency_penalty = 0.2 + 0.013 * (which - WORDS);
  }
}

static void change(pu_sampling *how, int kind) {
  if (kind >= KINDS) {
    loop(how, kind - KINDS);
    return;
  }
  static const double repetition[KINDS] = {
      [1] = 1.3, [2] = 0.8, [9] = 1.05, [10] = 1.2, [14] = 1.3, [15] = 1.3, [16] = 1.1, [17] = 1.1};
  if (repetition[kind] > 0) how->repetition_penalty = repetition[kind];
  if (kind == 3 || kind >= 9) how->presence_penalty = 0.01;
  if (kind == 3 || kind == 4 || kind == 9) how->frequency_penalty = kind == 4 ? -0.02 : 0.02;
  if (kind == 5 || kind == 9 || kind == 11 || kind == 12) bias(how);
  if (kind == 6 || kind == 9 || kind == 12) forbid(how);
  if (kind == 7 || kind == 8 || kind == 9) end_late(how);
  if (kind == 8) how->top_k = 40;
  if (kind == 9) how->top_p = 0.9;
  if (kind == 11 || kind == 12 || kind == 14) how->top_logprobs = 3;
  if (kind == 11 || kind == 12) how->presence_penalty = 0;
  if (kind == 13) how->top_k = 100;
  if (kind == 15) how->typical_p = 0.9;
  if (kind == 16) forbid_very_much(how);
  if (kind == 17) how->top_k = 65;
}

static pu_session *begin(pu_engine *en, int kind, double temperature, int repeats) {
  pu_session *s;
  pu_error e;
  assert_ok(pu_session_open(en, &s, &e), &e);
  for (int at = 0, n = 3 + (kind * 37) % 90; at < n; at++) {
    int32_t id = (int32_t)(3 + pu_random_at(7, (uint64_t)kind, (uint64_t)at % (repeats ? 5 : 1000)) % (VOCAB - 3));
    assert_ok(pu_session_append(s, &id, 1, &e), &e);
  }
  pu_sampling how = pu_sampling_default();
  how.max_tokens = ANSWER;
  how.temperature = temperature;
  how.seed = (uint64_t)kind;
  change(&how, kind);
  assert_ok(pu_session_start(s, &how, NULL, NULL, &e), &e);
  return s;
}

/* ---- the same twice ---- */

static void run(pu_engine *en) {
  pu_error e;
  for (bool more = true; more;) assert_ok(pu_engine_step(en, &more, &e), &e);
}

static void same(pu_session *a, pu_session *b, int kind, double temperature) {
  size_t n, m;
  const int32_t *x = pu_session_answer(a, &n), *y = pu_session_answer(b, &m);
  for (size_t i = 0; i < PU_MIN(n, m); i++)
    if (x[i] != y[i])
      fail_msg("settings %d at %g: token %zu is %d, not %d", kind, temperature, i, (int)x[i], (int)y[i]);
  assert_int_equal(n, m);
  const pu_token_info *p = pu_session_tokens(a, &n), *q = pu_session_tokens(b, &m);
  assert_int_equal(n, m);
  for (size_t i = 0; i < n; i++) {
    assert_true(fabsf(p[i].logprob - q[i].logprob) < 1e-4f);
    for (int k = 0; k < 3; k++) {
      assert_int_equal(p[i].top_ids[k], q[i].top_ids[k]);
      assert_true(fabsf(p[i].top_logprobs[k] - q[i].top_logprobs[k]) < 1e-4f);
    }
  }
}

/* Sessions of kinds [first, last) together. Where the device looks at no row, all are fetched and changed on the host.
 * Returns how many rows are fetched where it does. */
static int64_t check(bench *b, int guess, int first, int last, double temperature, int64_t *guessed) {
  pu_session *got[ALL], *want[ALL];
  pu_engine *en = open_engine(b, guess);
  for (int i = first; i < last; i++) got[i] = begin(en, i, temperature, guess > 0);
  rows_fetched = 0;
  run(en);
  const int64_t fetched = rows_fetched;
  if (guessed) *guessed = pu_engine_get_stats(en).guesses_right;
  pu_op_fn own = b->be->forward[PU_OP_top_logits];
  b->be->forward[PU_OP_top_logits] = NULL;
  for (int i = first; i < last; i++) want[i] = begin(en, i, temperature, guess > 0);
  run(en);
  b->be->forward[PU_OP_top_logits] = own;
  assert_true(rows_fetched - fetched >= ANSWER / 2 * (last - first));
  for (int i = first; i < last; i++) same(got[i], want[i], i, temperature);
  pu_engine_free(en);
  return fetched;
}

static const double temperatures[] = {0, 0.01, 0.02};

static void alone(void **state) {
  (void)state;
  bench b = open_bench();
  for (size_t t = 0; t < PU_COUNT(temperatures); t++)
    for (int kind = 0; kind < KINDS; kind++) {
      int64_t fetched = check(&b, 0, kind, kind + 1, temperatures[t], NULL);
      bool listed = kind < WHOLE;
      if (kind == 12 && temperatures[t] > 0)
        listed = false; /* its log-probabilities are from before what may not come */
      if (listed && fetched) fail_msg("settings %d at %g: %lld rows", kind, temperatures[t], (long long)fetched);
      if (!listed) assert_int_equal(fetched, ANSWER);
    }
  close_bench(&b);
}

static void together(void **state) {
  (void)state;
  bench b = open_bench();
  for (size_t t = 0; t < PU_COUNT(temperatures); t++) {
    assert_int_equal(check(&b, 0, 0, WHOLE - 1, temperatures[t], NULL), 0);
    assert_true(check(&b, 0, 0, KINDS, temperatures[t], NULL) >= ANSWER * (KINDS - WHOLE));
  }
  close_bench(&b);
}

/* A row that is fetched after all has been changed already. */
static void draws_beyond_the_largest(void **state) {
  (void)state;
  bench b = open_bench();
  for (int kind = 1; kind < WHOLE; kind++) {
    int64_t fetched = check(&b, 0, kind, kind + 1, 3, NULL);
    if (kind != 8) assert_in_range(fetched, ANSWER / 4, ANSWER); /* top-k 40: never beyond */
  }
  check(&b, 0, 0, KINDS, 3, NULL);
  close_bench(&b);
}

/* Rows behind guesses are changed as if those had come. */
static void behind_guesses(void **state) {
  (void)state;
  bench b = open_bench();
  for (size_t t = 0; t < PU_COUNT(temperatures); t++) {
    int64_t guessed = 0;
    assert_int_equal(check(&b, 4, 0, WHOLE - 1, temperatures[t], &guessed), 0);
    assert_true(guessed > 0);
    check(&b, 4, 0, ALL, temperatures[t], NULL);
    assert_int_equal(check(&b, 4, KINDS, ALL, temperatures[t], &guessed), 0);
    assert_true(guessed > ANSWER);
  }
  close_bench(&b);
}

/* A device changes all of a list at a time: no id may stand there twice. */
static void biases_are_merged(void **state) {
  (void)state;
  bench b = open_bench();
  pu_engine *en = open_engine(&b, 0);
  const pu_session *s = begin(en, 5, 0, 0);
  assert_int_equal(s->how.n_logit_bias, PU_COUNT(biases) - 1);
  for (size_t i = 0; i < s->how.n_logit_bias; i++) {
    float sum = 0;
    for (size_t k = 0; k < PU_COUNT(biases); k++) sum += biases[k].id == s->how.logit_bias[i].id ? biases[k].bias : 0;
    assert_true(s->how.logit_bias[i].bias == sum);
    for (size_t k = 0; k < i; k++) assert_int_not_equal(s->how.logit_bias[k].id, s->how.logit_bias[i].id);
  }
  pu_engine_free(en);
  close_bench(&b);
}

/* Lists grow from step to step, and the steps are made ready all the same. */
static void steps_are_made_ready(void **state) {
  (void)state;
  bench b = open_bench();
  pu_engine *en = open_engine(&b, 0);
  for (int kind = 1; kind < 7; kind++) begin(en, kind, 0.01, 0);
  run(en);
  const pu_engine_stats s = pu_engine_get_stats(en);
  if (b.be->record)
    assert_in_range(s.steps_ahead, s.steps * 2 / 3, s.steps - 1);
  else
    assert_int_equal(s.steps_ahead, 0);
  pu_engine_free(en);
  close_bench(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(alone),          cmocka_unit_test(together),          cmocka_unit_test(draws_beyond_the_largest),
      cmocka_unit_test(behind_guesses), cmocka_unit_test(biases_are_merged), cmocka_unit_test(steps_are_made_ready)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
