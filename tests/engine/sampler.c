/* Choosing tokens: every filter against a plain version, ties, odd logits, seeds, frequencies. */
#include "src/engine/internal.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

enum { MOST = 3000 };

typedef struct entry {
  double logit, weight;
  float surprise;
  int32_t id;
} entry;

static int by_logit(const void *a, const void *b) {
  const entry *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return x->id < y->id ? -1 : 1;
}

/* Penalties as the header says them, one id at a time. */
static void plain_penalties(float *logits, int64_t vocab, const pu_sampling *o, const int32_t *history, size_t n,
                            size_t n_answer) {
  for (int32_t id = 0; id < vocab; id++) {
    int seen = 0, made = 0;
    for (size_t i = 0; i < n; i++) {
      seen += history[i] == id;
      made += history[i] == id && i >= n - n_answer;
    }
    float r = (float)o->repetition_penalty;
    if (seen && r != 1) logits[id] *= logits[id] > 0 ? 1 / r : r;
    if (made) logits[id] -= (float)(made * o->frequency_penalty + o->presence_penalty);
  }
}

/* Bias, then what the last id of a bad word must not follow. */
static void plain_bias(float *logits, const pu_sampling *o) {
  for (size_t i = 0; i < o->n_logit_bias; i++) logits[o->logit_bias[i].id] += o->logit_bias[i].bias;
}
static void plain_bans(float *logits, const pu_sampling *o, const int32_t *history, size_t n) {
  for (size_t i = 0; i < o->n_bad_words; i++) {
    const pu_ids_view *w = &o->bad_words[i];
    bool follows = w->n <= n + 1;
    for (size_t k = 0; follows && k + 1 < w->n; k++) follows = history[n - (w->n - 1) + k] == w->v[k];
    if (follows) logits[w->v[w->n - 1]] = -INFINITY;
  }
}

static int by_surprise(const void *a, const void *b) {
  const entry *x = a, *y = b;
  if (x->surprise != y->surprise) return x->surprise < y->surprise ? -1 : 1;
  return x->id < y->id ? -1 : 1;
}

/* How many of all[0, n) are typical; they come to the front, in order of their logits. */
static size_t plain_typical(entry *all, size_t n, const pu_sampling *o) {
  double sum = 0, entropy = 0, mass = 0, top = all[0].logit;
  for (size_t i = 0; i < n; i++) sum += all[i].weight = exp((all[i].logit - top) / o->temperature);
  for (size_t i = 0; i < n; i++)
    if (all[i].weight > 0) entropy -= all[i].weight / sum * log(all[i].weight / sum);
  for (size_t i = 0; i < n; i++) /* as a float, so that what is equal but for rounding is a tie */
    all[i].surprise = (float)fabs(-((all[i].logit - top) / o->temperature - log(sum)) - entropy);
  qsort(all, n, sizeof *all, by_surprise);
  size_t left = 0;
  while (left < n && mass < o->typical_p * sum) mass += all[left++].weight;
  qsort(all, left, sizeof *all, by_logit);
  return left;
}

/* Sorts everything and walks; *kept: how many could be drawn, the first of all[]. */
static int32_t plain_sample(float *logits, int64_t vocab, const pu_sampling *o, pu_rng *rng, entry *all, size_t *kept) {
  for (int32_t i = 0; i < vocab; i++) all[i] = (entry){.logit = logits[i], .id = i};
  qsort(all, (size_t)vocab, sizeof *all, by_logit);
  *kept = 1;
  if (o->temperature == 0) return all[0].id;
  size_t n = (size_t)vocab;
  if (o->top_k > 0) n = PU_MIN(n, (size_t)o->top_k);
  if (o->typical_p < 1) n = plain_typical(all, n, o);
  double sum = 0, mass = 0;
  for (size_t i = 0; i < n; i++) sum += all[i].weight = exp((all[i].logit - all[0].logit) / o->temperature);
  size_t top = 0;
  while (top < n && mass < o->top_p * sum) mass += all[top++].weight;
  if (o->top_p >= 1) top = n;
  while (top > 1 && all[top - 1].weight < o->min_p) top--;
  mass = 0;
  for (size_t i = 0; i < top; i++) mass += all[i].weight;
  *kept = top;
  if (o->top_k == 1) return all[0].id;
  double u = pu_rng_uniform(rng) * mass;
  for (size_t i = 0; i + 1 < top; i++)
    if ((u -= all[i].weight) < 0) return all[i].id;
  return all[top - 1].id;
}

static double pick(pu_rng *r, const double *from, size_t n) {
  return from[pu_rng_below(r, n)];
}

static pu_sampling random_options(pu_rng *r) {
  pu_sampling o = pu_sampling_default();
  o.temperature = pick(r, (double[]){0, 0.01, 0.3, 1, 1, 1, 5}, 7);
  o.top_k = (int64_t)pick(r, (double[]){0, 0, 1, 2, 7, 40, 100000}, 7);
  o.top_p = pick(r, (double[]){1, 1, 0.001, 0.3, 0.9, 0.999}, 6);
  o.min_p = pick(r, (double[]){0, 0, 0, 0.01, 0.3, 1}, 6);
  o.repetition_penalty = pick(r, (double[]){1, 1, 1.3, 0.5}, 4);
  o.presence_penalty = pick(r, (double[]){0, 0, 0.7, -0.4}, 4);
  o.frequency_penalty = pick(r, (double[]){0, 0, 0.2, -1}, 4);
  o.typical_p = pick(r, (double[]){1, 1, 1, 0.9, 0.2}, 5);
  return o;
}

/* coarse: many ties. */
static void random_logits(float *x, int64_t n, bool coarse, pu_rng *r) {
  for (int64_t i = 0; i < n; i++) {
    x[i] = (float)(3 * pu_rng_normal(r));
    if (coarse) x[i] = rintf(x[i]);
  }
}

static void equals_the_plain_sampler(void **state) {
  (void)state;
  static const int64_t sizes[] = {1, 2, 5, 33, 64, 65, 500, MOST};
  static float a[MOST], b[MOST];
  static entry all[MOST];
  pu_rng r;
  pu_rng_seed(&r, 7);
  for (int round = 0; round < 3000; round++) {
    int64_t vocab = sizes[pu_rng_below(&r, PU_COUNT(sizes))];
    int32_t history[12];
    size_t n = pu_rng_below(&r, PU_COUNT(history) + 1), n_answer = pu_rng_below(&r, n + 1), kept;
    for (size_t i = 0; i < n; i++) history[i] = (int32_t)pu_rng_below(&r, (uint64_t)PU_MIN(vocab, 6));
    pu_sampling o = random_options(&r);
    random_logits(a, vocab, round % 2, &r);
    pu_logit_bias bias[] = {{0, 2.5f}, {(int32_t)vocab - 1, -1}, {(int32_t)(vocab / 2), -INFINITY}};
    int32_t word[] = {(int32_t)pu_rng_below(&r, 3) % (int32_t)vocab, (int32_t)pu_rng_below(&r, 3) % (int32_t)vocab};
    const pu_ids_view words[] = {{word, 2}, {word + 1, 1}};
    o.logit_bias = bias;
    o.n_logit_bias = vocab > 2 && pu_rng_below(&r, 3) == 0 ? PU_COUNT(bias) : 0;
    o.bad_words = words;
    o.n_bad_words = vocab > 2 ? pu_rng_below(&r, 3) : 0;
    memcpy(b, a, sizeof a);
    plain_bias(b, &o);
    pu_rng ra, rb;
    pu_rng_seed(&ra, (uint64_t)round);
    rb = ra;
    plain_penalties(b, vocab, &o, history, n, n_answer);
    plain_bans(b, &o, history, n);
    int32_t want = plain_sample(b, vocab, &o, &rb, all, &kept);
    int32_t got = pu_sample_token(a, vocab, &o, history, n, n_answer, &ra);
    if (got != want)
      fail_msg("round %d: %d, not %d (V %lld, T %g, k %lld, p %g, min %g, typical %g)", round, (int)got, (int)want,
               (long long)vocab, o.temperature, (long long)o.top_k, o.top_p, o.min_p, o.typical_p);
    assert_memory_equal(a, b, (size_t)vocab * sizeof *a); /* the penalties, to the bit */
  }
}

/* Observed frequencies within five standard deviations of the probabilities. */
static void draws_by_probability(void **state) {
  (void)state;
  enum { V = 40, DRAWS = 20000 };
  static const struct {
    double temperature, top_p, min_p;
    int64_t top_k;
  } cases[] = {{1, 1, 0, 0}, {0.5, 1, 0, 0}, {2, 0.8, 0, 0}, {1, 1, 0.1, 0}, {1, 0.9, 0.02, 10}};
  pu_rng r;
  pu_rng_seed(&r, 3);
  for (size_t c = 0; c < PU_COUNT(cases); c++) {
    float logits[V], copy[V];
    entry all[V];
    size_t kept;
    int count[V] = {0};
    random_logits(logits, V, false, &r);
    pu_sampling o = pu_sampling_default();
    o.temperature = cases[c].temperature;
    o.top_p = cases[c].top_p;
    o.min_p = cases[c].min_p;
    o.top_k = cases[c].top_k;
    for (int i = 0; i < DRAWS; i++) {
      memcpy(copy, logits, sizeof copy);
      count[pu_sample_token(copy, V, &o, NULL, 0, 0, &r)]++;
    }
    memcpy(copy, logits, sizeof copy);
    plain_sample(copy, V, &o, &r, all, &kept);
    double mass = 0;
    int drawn = 0;
    for (size_t i = 0; i < kept; i++) mass += all[i].weight;
    for (size_t i = 0; i < kept; i++) {
      double p = all[i].weight / mass, off = count[all[i].id] - DRAWS * p;
      if (fabs(off) > 5 * sqrt(DRAWS * p * (1 - p)) + 1)
        fail_msg("case %zu: id %d came %d times, not about %.0f", c, (int)all[i].id, count[all[i].id], DRAWS * p);
      drawn += count[all[i].id];
    }
    assert_int_equal(drawn, DRAWS); /* nothing that was cut */
  }
}

static void a_seed_repeats(void **state) {
  (void)state;
  enum { V = 1000, N = 50 };
  float logits[V];
  int32_t first[N];
  int same_as_other = 0;
  pu_sampling o = pu_sampling_default();
  o.temperature = 1;
  for (int pass = 0; pass < 3; pass++) {
    pu_rng values, draws;
    pu_rng_seed(&values, 1);
    pu_rng_seed(&draws, pass < 2 ? 5 : 6);
    for (int i = 0; i < N; i++) {
      random_logits(logits, V, false, &values);
      int32_t id = pu_sample_token(logits, V, &o, NULL, 0, 0, &draws);
      if (pass == 0) first[i] = id;
      if (pass == 1) assert_int_equal(id, first[i]);
      if (pass == 2) same_as_other += id == first[i];
    }
  }
  assert_true(same_as_other < N / 2);
}

static void odd_logits(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 1);
  pu_sampling greedy = pu_sampling_default(), warm = greedy;
  warm.temperature = 1;
  warm.top_p = 0.9;
  const struct {
    float v[4];
    int32_t want;
  } cases[] = {
      {{NAN, 1, 3, 2}, 2},      {{0, NAN, NAN, -200}, 0},   {{-INFINITY, -INFINITY, 5, -INFINITY}, 2},
      {{1, INFINITY, 2, 3}, 1}, {{NAN, NAN, NAN, NAN}, -1}, {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}, -1}};
  for (size_t i = 0; i < PU_COUNT(cases); i++)
    for (int w = 0; w < 2; w++) {
      float v[4];
      memcpy(v, cases[i].v, sizeof v);
      int32_t id = pu_sample_token(v, 4, w ? &warm : &greedy, NULL, 0, 0, &r);
      assert_in_range(id, 0, 3); /* whatever the logits: an id */
      if (cases[i].want >= 0) assert_int_equal(id, cases[i].want);
    }
  float tie[] = {1, 7, 7, 7};
  assert_int_equal(pu_sample_token(tie, 4, &greedy, NULL, 0, 0, &r), 1);
  float strange[] = {1, 2};
  warm.repetition_penalty = 1.5;
  int32_t history[] = {-1, 99, 1};
  assert_in_range(pu_sample_token(strange, 2, &warm, history, 3, 3, &r), 0, 1);
}

enum { V = 40, N = 300 };

/* What a sequence says by itself: the different ids of [from, n), and what is taken off each. */
static void must_be_seen(const int32_t *ids, size_t n, size_t from, size_t answer_at, const pu_sampling *o,
                         const int32_t *got, const float *minus, size_t n_got) {
  bool there[V] = {false};
  for (size_t k = 0; k < n_got; k++) {
    int times = 0, seen = 0;
    assert_in_range(got[k], 0, V - 1);
    assert_false(there[got[k]]);
    there[got[k]] = true;
    for (size_t i = from; i < n; i++) seen += ids[i] == got[k], times += ids[i] == got[k] && i >= answer_at;
    assert_true(seen > 0);
    assert_true(minus[k] == (times ? (float)(times * o->frequency_penalty + o->presence_penalty) : 0));
  }
  for (size_t i = from; i < n; i++) assert_true(ids[i] < 0 || ids[i] >= V || there[ids[i]]);
}

/* Each different id once, and how often it was generated, however the sequence came; ids that there are not are left
 * out. Without a repetition penalty what was given does not count. */
static void what_was_seen_is_kept(void **state) {
  (void)state;
  enum { ANSWER = 60 };
  int32_t ids[N], next[V + N];
  float minus[V + N];
  pu_rng r;
  pu_rng_seed(&r, 8);
  for (int i = 0; i < N; i++) ids[i] = (int32_t)pu_rng_below(&r, V + 10) - 5;
  for (int repeats = 0; repeats < 2; repeats++) {
    pu_sampling o = pu_sampling_default();
    o.presence_penalty = 0.3;
    o.frequency_penalty = 0.7;
    o.repetition_penalty = repeats ? 1.1 : 1;
    const size_t from = repeats ? 0 : ANSWER;
    pu_seen step = {0}, once = {0};
    for (size_t n = 0; n <= N; n += 1 + n % 7) {
      assert_true(pu_seen_update(&step, V, &o, ids, n, ANSWER));
      must_be_seen(ids, n, from, ANSWER, &o, step.ids, step.minus, step.n);
      if (n < ANSWER) continue; /* guesses belong to an answer */
      for (int guesses = 0; guesses < 16 && n + (size_t)guesses <= N; guesses++) {
        size_t n_next = pu_seen_write(&step, V, &o, ids + n, guesses, next, minus);
        must_be_seen(ids, n + (size_t)guesses, from, ANSWER, &o, next, minus, n_next);
      }
    }
    assert_true(pu_seen_update(&step, V, &o, ids, N, ANSWER));
    assert_true(pu_seen_update(&once, V, &o, ids, N, ANSWER));
    assert_int_equal(step.n, V);
    assert_int_equal(once.n, V);
    assert_memory_equal(step.ids, once.ids, V * sizeof *once.ids);
    assert_memory_equal(step.minus, once.minus, V * sizeof *once.minus);
    pu_seen_deinit(&step);
    pu_seen_deinit(&once);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(equals_the_plain_sampler), cmocka_unit_test(draws_by_probability),
                                     cmocka_unit_test(a_seed_repeats), cmocka_unit_test(odd_logits),
                                     cmocka_unit_test(what_was_seen_is_kept)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
