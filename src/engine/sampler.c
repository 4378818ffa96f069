/* From logits to a token. The candidates are ranked only as far as they are needed: a vocabulary has a hundred thousand
 * ids, and the few largest hold nearly all the mass. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/internal.h"

typedef struct pu_candidate {
  float logit;
  int32_t id;
} candidate;

pu_sampling pu_sampling_default(void) {
  return (pu_sampling){.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .top_logprobs = -1};
}

bool pu_sampler_init(pu_sampler *s, int64_t vocab) {
  *s = (pu_sampler){
      .vocab = vocab, .candidates = malloc((size_t)vocab * sizeof *s->candidates), .seen = calloc((size_t)vocab, 1)};
  if (s->candidates && s->seen) return true;
  pu_sampler_deinit(s);
  return false;
}

void pu_sampler_deinit(pu_sampler *s) {
  free(s->candidates);
  free(s->seen);
  *s = (pu_sampler){0};
}

/* ---- penalties ---- */

/* True the first time an id of the vocabulary is asked for. */
static bool is_new(pu_sampler *s, int32_t id) {
  if (id < 0 || id >= s->vocab || s->seen[id]) return false;
  s->seen[id] = 1;
  return true;
}

static void forget(pu_sampler *s, const int32_t *ids, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (ids[i] >= 0 && ids[i] < s->vocab) s->seen[ids[i]] = 0;
}

/* Repetition: once for each id that was seen (Keskar et al. 2019). Presence once, frequency as often as it was
 * generated. */
static void penalise(pu_sampler *s, float *logits, const pu_sampling *o, const pu_history *h) {
  if (o->repetition_penalty != 1) {
    float r = (float)o->repetition_penalty;
    for (size_t i = 0; i < h->n; i++)
      if (is_new(s, h->ids[i])) logits[h->ids[i]] *= logits[h->ids[i]] > 0 ? 1 / r : r;
    forget(s, h->ids, h->n);
  }
  if (o->presence_penalty == 0 && o->frequency_penalty == 0) return;
  const int32_t *answer = h->ids + (h->n - h->n_answer);
  for (size_t i = 0; i < h->n_answer; i++) {
    int32_t id = answer[i];
    if (id < 0 || id >= s->vocab) continue;
    logits[id] -= (float)(o->frequency_penalty + (is_new(s, id) ? o->presence_penalty : 0));
  }
  forget(s, answer, h->n_answer);
}

static int32_t argmax(const float *logits, int64_t vocab) {
  int64_t best = 0;
  for (int64_t i = 1; i < vocab; i++)
    if (logits[i] > logits[best] || isnan(logits[best])) best = i;
  return (int32_t)best;
}

/* ---- ranking on demand ---- */

/* Larger logits first, lower ids among equals: the order is the same whatever the sort. */
static int by_logit(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}

typedef struct ranking {
  candidate *c;
  size_t n, sorted; /* c[0, sorted) are the largest, in order */
} ranking;

static void swap(candidate *a, candidate *b) {
  candidate t = *a;
  *a = *b;
  *b = t;
}

/* Quickselect (Hoare 1961): puts the `want` first of c[0, n) in front. The pivot is the middle one of three. */
static void select_first(candidate *c, size_t n, size_t want) {
  while (n > 32 && want < n) {
    size_t mid = n / 2, last = n - 1, store = 0;
    if (by_logit(&c[mid], &c[0]) < 0) swap(&c[mid], &c[0]);
    if (by_logit(&c[last], &c[0]) < 0) swap(&c[last], &c[0]);
    if (by_logit(&c[mid], &c[last]) < 0) swap(&c[mid], &c[last]);
    for (size_t i = 0; i < last; i++)
      if (by_logit(&c[i], &c[last]) < 0) swap(&c[i], &c[store++]);
    swap(&c[store], &c[last]);
    if (want <= store) {
      n = store;
    } else {
      c += store + 1;
      n -= store + 1;
      want -= store + 1;
    }
  }
  if (want > 0 && want < n) qsort(c, n, sizeof *c, by_logit);
}

/* Sees to it that the candidate of rank i is at its place; each call for more sorts several times as many. */
static const candidate *at_rank(ranking *r, size_t i) {
  if (i >= r->sorted) {
    size_t more = PU_MIN(PU_MAX((size_t)64, 4 * r->sorted), r->n - r->sorted);
    candidate *rest = r->c + r->sorted;
    select_first(rest, r->n - r->sorted, more);
    qsort(rest, more, sizeof *rest, by_logit);
    r->sorted += more;
  }
  return &r->c[i];
}

/* ---- the draw ---- */

/* Those whose share of the mass is more than nothing in a double: e^-40 of the largest. */
static ranking gather(pu_sampler *s, const float *logits, double temperature, float largest) {
  ranking r = {.c = s->candidates};
  double least = (double)largest - 40 * temperature;
  for (int64_t i = 0; i < s->vocab; i++)
    if (logits[i] >= least) r.c[r.n++] = (candidate){logits[i], (int32_t)i};
  return r;
}

/* Relative to the largest logit's, which is 1. */
static double weight(const candidate *c, float largest, const pu_sampling *o) {
  return exp(((double)c->logit - largest) / o->temperature);
}

/* Top-p (Holtzman et al. 2020): the fewest that have this share of the mass. Min-p: those not too far below the
 * largest. Both cut the ranking's tail. Returns the mass of what is left. */
static double cut_tail(ranking *r, const pu_sampling *o, float largest, double sum) {
  double mass = 0;
  size_t n = 0;
  for (; n < r->n && mass < o->top_p * sum; n++) {
    double w = weight(at_rank(r, n), largest, o);
    if (w < o->min_p) break;
    mass += w;
  }
  r->n = n;
  return mass;
}

static int32_t draw(ranking *r, const pu_sampling *o, float largest, pu_rng *rng) {
  if (o->top_k > 0 && (size_t)o->top_k < r->n) {
    select_first(r->c, r->n, (size_t)o->top_k);
    r->n = (size_t)o->top_k;
  }
  double mass = 0;
  for (size_t i = 0; i < r->n; i++) mass += weight(&r->c[i], largest, o);
  if (o->top_p < 1 || o->min_p > 0) mass = cut_tail(r, o, largest, mass);
  double u = pu_rng_uniform(rng) * mass;
  for (size_t i = 0; i + 1 < r->n; i++)
    if ((u -= weight(at_rank(r, i), largest, o)) < 0) return r->c[i].id;
  return at_rank(r, r->n - 1)->id;
}

int32_t pu_sampler_next(pu_sampler *s, float *logits, const pu_sampling *o, const pu_history *h, pu_rng *rng) {
  penalise(s, logits, o, h);
  int32_t best = argmax(logits, s->vocab);
  float largest = logits[best];
  if (o->temperature <= 0 || o->top_k == 1 || !isfinite(largest)) return best;
  ranking r = gather(s, logits, o->temperature, largest);
  return draw(&r, o, largest, rng);
}

int32_t pu_sample_token(float *logits, int64_t vocab, const pu_sampling *o, const int32_t *history, size_t n_history,
                        size_t n_answer, pu_rng *rng) {
  pu_sampler s;
  if (!pu_sampler_init(&s, vocab)) return argmax(logits, vocab); /* without memory the text is merely less varied */
  int32_t id = pu_sampler_next(&s, logits, o, &(pu_history){history, n_history, n_answer}, rng);
  pu_sampler_deinit(&s);
  return id;
}
