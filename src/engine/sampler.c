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
  size_t n = (size_t)vocab;
  *s = (pu_sampler){
      .vocab = vocab, .candidates = malloc(n * sizeof *s->candidates), .copy = malloc(n * sizeof *s->copy)};
  if (s->candidates && s->copy) return true;
  pu_sampler_deinit(s);
  return false;
}

void pu_sampler_deinit(pu_sampler *s) {
  free(s->candidates);
  free(s->copy);
  *s = (pu_sampler){0};
}

/* ---- penalties ---- */

/* Room for one id more. */
static bool seen_grow(pu_seen *s) {
  if (s->n < s->cap) return true;
  const size_t cap = PU_MAX(2 * s->cap, (size_t)64);
  int32_t *ids = realloc(s->ids, cap * sizeof *ids);
  if (ids) s->ids = ids;
  int32_t *times = realloc(s->times, cap * sizeof *times);
  if (times) s->times = times;
  float *minus = realloc(s->minus, cap * sizeof *minus);
  if (minus) s->minus = minus;
  if (ids && times && minus) s->cap = cap;
  return s->n < s->cap;
}

bool pu_penalises(const pu_sampling *o) {
  return o->repetition_penalty != 1 || o->presence_penalty != 0 || o->frequency_penalty != 0;
}

/* What is taken off the logit of an id that was generated so often: see pu_penalised. */
static float minus_of(const pu_sampling *o, int32_t times) {
  return (float)(times * o->frequency_penalty + (times > 0 ? o->presence_penalty : 0));
}

bool pu_seen_update(pu_seen *s, int64_t vocab, const pu_sampling *o, const int32_t *ids, size_t n, size_t answer_at) {
  if (!s->place) s->place = calloc((size_t)vocab, sizeof *s->place);
  if (!s->place) return false;
  if (o->repetition_penalty == 1) s->upto = PU_MAX(s->upto, PU_MIN(answer_at, n)); /* what was given counts not */
  for (; s->upto < n; s->upto++) {
    int32_t id = ids[s->upto];
    if (id < 0 || id >= vocab) continue;
    if (!s->place[id]) {
      if (!seen_grow(s)) return false;
      s->ids[s->n] = id;
      s->times[s->n] = 0;
      s->place[id] = (int32_t)++s->n;
    }
    size_t at = (size_t)s->place[id] - 1;
    s->times[at] += s->upto >= answer_at;
    s->minus[at] = minus_of(o, s->times[at]);
  }
  return true;
}

size_t pu_seen_write(const pu_seen *s, int64_t vocab, const pu_sampling *o, const int32_t *guess, int n_guess,
                     int32_t *ids, float *minus) {
  size_t n = s->n;
  if (n) {
    memcpy(ids, s->ids, n * sizeof *ids);
    memcpy(minus, s->minus, n * sizeof *minus);
  }
  for (int i = 0; i < n_guess; i++) {
    const int32_t id = guess[i];
    if (id < 0 || id >= vocab) continue;
    size_t at = s->place && s->place[id] ? (size_t)s->place[id] - 1 : s->n;
    while (at >= s->n && at < n && ids[at] != id) at++;
    int32_t times = at < s->n ? s->times[at] : 0;
    for (int k = 0; k <= i; k++) times += guess[k] == id;
    ids[at] = id;
    minus[at] = minus_of(o, times);
    n = PU_MAX(n, at + 1);
  }
  return n;
}

void pu_seen_deinit(pu_seen *s) {
  free(s->place);
  free(s->ids);
  free(s->times);
  free(s->minus);
  *s = (pu_seen){0};
}

static void penalise(float *logits, const pu_sampling *o, const pu_seen *seen) {
  const float r = (float)o->repetition_penalty;
  for (size_t i = 0; i < seen->n; i++) logits[seen->ids[i]] = pu_penalised(logits[seen->ids[i]], r, seen->minus[i]);
}

/* Has the beginning of a bad word come, so that its last id may not? */
static bool is_begun(const pu_ids_view *w, const pu_history *h) {
  if (w->n - 1 > h->n) return false;
  return w->n == 1 || memcmp(h->ids + (h->n - (w->n - 1)), w->v, (w->n - 1) * sizeof *w->v) == 0;
}

/* What may not come now: the ends of bad words whose beginnings have come, and h->never. */
static void forbid(float *logits, int64_t vocab, const pu_sampling *o, const pu_history *h) {
  for (size_t i = 0; i < h->n_never; i++)
    if (h->never[i] >= 0 && h->never[i] < vocab) logits[h->never[i]] = -INFINITY;
  for (size_t i = 0; i < o->n_bad_words; i++) {
    const pu_ids_view *w = &o->bad_words[i];
    if (is_begun(w, h)) logits[w->v[w->n - 1]] = -INFINITY;
  }
}

size_t pu_sampler_forbidden(const pu_sampling *o, const pu_history *h, int32_t *ids) {
  size_t n = 0;
  for (size_t i = 0; i < h->n_never; i++) ids[n++] = h->never[i];
  for (size_t i = 0; i < o->n_bad_words; i++)
    if (is_begun(&o->bad_words[i], h)) ids[n++] = o->bad_words[i].v[o->bad_words[i].n - 1];
  return n;
}

void pu_sampler_bias(float *logits, int64_t vocab, const pu_sampling *o) {
  for (size_t i = 0; i < o->n_logit_bias; i++)
    if (o->logit_bias[i].id >= 0 && o->logit_bias[i].id < vocab) logits[o->logit_bias[i].id] += o->logit_bias[i].bias;
}

const float *pu_sampler_copy(pu_sampler *s, const float *logits) {
  return memcpy(s->copy, logits, (size_t)s->vocab * sizeof *logits);
}

/* ---- over the whole vocabulary: loops in lanes, which compilers turn into vectors ---- */

enum { LANES = 16 };

/* The first of the largest; NaN counts as smallest. */
static int32_t argmax(const float *logits, int64_t vocab) {
  float most[LANES], all = -INFINITY;
  int64_t i = 0;
  for (int j = 0; j < LANES; j++) most[j] = -INFINITY;
  for (; i + LANES <= vocab; i += LANES)
    for (int j = 0; j < LANES; j++) most[j] = logits[i + j] > most[j] ? logits[i + j] : most[j];
  for (; i < vocab; i++) most[0] = logits[i] > most[0] ? logits[i] : most[0];
  for (int j = 0; j < LANES; j++) all = most[j] > all ? most[j] : all;
  for (i = 0; i < vocab; i++)
    if (logits[i] == all) return (int32_t)i;
  return 0;
}

/* e^x for x <= 0, to about 2 units of the last place: 2^n 2^f with a polynomial in f, |f| <= 1/2 (the terms of the
 * exponential series). Below 2^-126: as good as nothing, and so is what is no number. */
static inline float exp_below(float x) {
  float y = x * 1.44269504f;
  y = y > -126.0f ? y : -126.0f;
  float n = (y + 12582912.0f) - 12582912.0f, f = (y - n) * 0.693147181f; /* rounds to the nearest whole number */
  float p = 1 + f * (1 + f * (1 / 2.0f + f * (1 / 6.0f + f * (1 / 24.0f + f * (1 / 120.0f + f * (1 / 720.0f))))));
  union {
    int32_t i;
    float f;
  } scale = {.i = ((int32_t)n + 127) << 23};
  return p * scale.f;
}

/* The sum of e^((logit - largest) / temperature). */
static double mass_of_all(const float *logits, int64_t vocab, float largest, double temperature) {
  enum { RUN = 256 }; /* sums of so many are short enough for floats */
  float by = (float)(1 / temperature);
  double sum = 0;
  int64_t i = 0;
  while (i + LANES <= vocab) {
    float lane[LANES] = {0};
    for (int k = 0; k < RUN && i + LANES <= vocab; k++, i += LANES)
      for (int j = 0; j < LANES; j++) lane[j] += exp_below((logits[i + j] - largest) * by);
    for (int j = 0; j < LANES; j++) sum += (double)lane[j];
  }
  for (; i < vocab; i++) sum += (double)exp_below((logits[i] - largest) * by);
  return sum;
}

double pu_log_sum_exp(const float *logits, int64_t vocab) {
  float largest = logits[argmax(logits, vocab)];
  return (double)largest + log(mass_of_all(logits, vocab, largest, 1));
}

/* ---- ranking on demand ---- */

/* Larger logits first, lower ids among equals: the order is the same whatever the sort. */
static int by_logit(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}

/* The candidates so far: c[0, sorted) are the largest, in order. Those below `least` are not gathered yet; those below
 * `floor` never are: what has less than e^-40 of the largest one's mass cannot be drawn. */
typedef struct ranking {
  candidate *c;
  size_t n, sorted, most; /* most: top-k */
  const float *logits;
  int64_t vocab;
  double least, floor;
  double mass;       /* of all, where logits is NULL and c[0, n) are what is known */
  bool part, beyond; /* part: there are more than the n; beyond: one of those was asked for */
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

/* Most draws end among a handful of tokens. So at first only what is near the largest is gathered, then the rest. */
static void gather(ranking *r, double least) {
  for (int64_t i = 0; i < r->vocab; i++)
    if (r->logits[i] >= least && r->logits[i] < r->least) r->c[r->n++] = (candidate){r->logits[i], (int32_t)i};
  r->least = least;
}

static ranking rank_all(pu_sampler *s, const float *logits, const pu_sampling *o, float largest) {
  double near = (double)largest - 8 * o->temperature, floor = (double)largest - 40 * o->temperature;
  ranking r = {.c = s->candidates, .logits = logits, .vocab = s->vocab, .least = INFINITY, .floor = floor};
  r.most = o->top_k > 0 ? (size_t)PU_MIN(o->top_k, s->vocab) : (size_t)s->vocab;
  gather(&r, near);
  return r;
}

/* The candidate of rank i; NULL: there are not so many. Each call for more sorts several times as many. */
static const candidate *at_rank(ranking *r, size_t i) {
  if (i >= r->most) return NULL;
  if (i >= r->n && r->least > r->floor) gather(r, r->floor);
  if (i >= r->n) {
    r->beyond |= r->part;
    return NULL;
  }
  if (i >= r->sorted) {
    size_t more = PU_MIN(PU_MAX((size_t)64, 4 * r->sorted), r->n - r->sorted);
    candidate *rest = r->c + r->sorted;
    select_first(rest, r->n - r->sorted, more);
    qsort(rest, more, sizeof *rest, by_logit);
    r->sorted += more;
  }
  return &r->c[i];
}

size_t pu_sampler_top(pu_sampler *s, const float *logits, size_t n, int32_t *ids) {
  ranking r = {
      .c = s->candidates, .logits = logits, .vocab = s->vocab, .most = n, .least = INFINITY, .floor = -INFINITY};
  gather(&r, -INFINITY);
  size_t i = 0;
  for (const candidate *c; (c = at_rank(&r, i)); i++) ids[i] = c->id;
  return i;
}

/* ---- the draw ---- */

/* Relative to the largest logit's, which is 1. */
static double weight(const candidate *c, float largest, const pu_sampling *o) {
  return exp(((double)c->logit - largest) / o->temperature);
}

static double mass_of(ranking *r, const pu_sampling *o, float largest) {
  if (r->most >= (size_t)r->vocab && !r->logits) return r->mass;
  if (r->most >= (size_t)r->vocab) return mass_of_all(r->logits, r->vocab, largest, o->temperature);
  double mass = 0;
  const candidate *c;
  for (size_t i = 0; (c = at_rank(r, i)); i++) mass += weight(c, largest, o);
  return mass;
}

/* Locally typical sampling (Meister et al. 2023): the tokens whose surprise -log p is nearest to its expectation, the
 * entropy, as many as have this share of the mass. Returns the mass of what is left. */
static double keep_typical(ranking *r, const pu_sampling *o, float largest) {
  double mass = 0, mean = 0, kept = 0;
  size_t n = 0;
  while (at_rank(r, n)) n++;
  for (size_t i = 0; i < n; i++) {
    double w = weight(&r->c[i], largest, o);
    mass += w;
    mean += w * (((double)r->c[i].logit - largest) / o->temperature);
  }
  mean /= mass; /* of log p, but for the constant that it shares with each */
  for (size_t i = 0; i < n; i++)
    r->c[i].logit = (float)-fabs(((double)r->c[i].logit - largest) / o->temperature - mean);
  qsort(r->c, n, sizeof *r->c, by_logit);
  size_t left = 0;
  while (left < n && kept < o->typical_p * mass) {
    candidate *c = &r->c[left++];
    c->logit = r->logits[c->id];
    kept += weight(c, largest, o);
  }
  qsort(r->c, left, sizeof *r->c, by_logit);
  r->n = r->sorted = r->most = left;
  return kept;
}

/* Top-p (Holtzman et al. 2020): the fewest that have this share of the mass. Min-p: those not too far below the
 * largest. Both cut the ranking's tail. Returns the mass of what is left. */
static double cut_tail(ranking *r, const pu_sampling *o, float largest, double sum) {
  const candidate *c = at_rank(r, 0);
  double mass = 0, least = c ? o->min_p * weight(c, largest, o) : 0;
  size_t n = 0;
  for (; mass < o->top_p * sum && (c = at_rank(r, n)); n++) {
    double w = weight(c, largest, o);
    if (w < least) break;
    mass += w;
  }
  r->most = n;
  return mass;
}

static int32_t draw(ranking *r, const pu_sampling *o, float largest, pu_rng *rng) {
  double mass = o->typical_p < 1 ? keep_typical(r, o, largest) : mass_of(r, o, largest);
  if (o->top_p < 1 || o->min_p > 0) mass = cut_tail(r, o, largest, mass);
  double u = pu_rng_uniform(rng) * mass;
  int32_t id = 0;
  const candidate *c;
  for (size_t i = 0; (c = at_rank(r, i)); i++) {
    id = c->id;
    if ((u -= weight(c, largest, o)) < 0) break;
  }
  return id;
}

int32_t pu_sampler_next(pu_sampler *s, float *logits, const pu_sampling *o, const pu_history *h, pu_rng *rng) {
  if (h->seen) penalise(logits, o, h->seen);
  forbid(logits, s->vocab, o, h);
  int32_t best = argmax(logits, s->vocab);
  float largest = logits[best];
  if (o->temperature <= 0 || o->top_k == 1 || !isfinite(largest)) return best;
  ranking r = rank_all(s, logits, o, largest);
  return draw(&r, o, largest, rng);
}

static bool is_forbidden(int32_t id, const pu_sampling *o, const pu_history *h) {
  for (size_t i = 0; i < h->n_never; i++)
    if (h->never[i] == id) return true;
  for (size_t i = 0; i < o->n_bad_words; i++)
    if (o->bad_words[i].v[o->bad_words[i].n - 1] == id && is_begun(&o->bad_words[i], h)) return true;
  return false;
}

bool pu_sampler_short(pu_sampler *s, const pu_logit_row *row, const pu_sampling *o, const pu_history *h, pu_rng *rng,
                      int32_t *id) {
  if (o->temperature <= 0 || o->top_k == 1) {
    for (int i = 0; i < row->k; i++) {
      *id = row->ids[i];
      if (!is_forbidden(*id, o, h)) return true;
    }
    return false;
  }
  /* What may not come counts in the sums, where the device knows nothing of it. */
  const bool all_may = row->how == PU_ROW_CHANGED || (h->n_never == 0 && o->n_bad_words == 0);
  if (!all_may || o->top_k > row->k) return false;
  float largest = row->values[0];
  ranking r = {.c = s->candidates, .vocab = s->vocab, .floor = (double)largest - 40 * o->temperature};
  r.least = r.floor;
  r.mass = row->scaled_sum;
  r.most = o->top_k > 0 ? (size_t)o->top_k : (size_t)s->vocab;
  while ((int)r.n < row->k && (double)row->values[r.n] >= r.floor) {
    r.c[r.n] = (candidate){row->values[r.n], row->ids[r.n]};
    r.n++;
  }
  r.sorted = r.n;
  r.part = (int)r.n == row->k && !row->whole;
  pu_rng before = *rng;
  *id = draw(&r, o, largest, rng);
  if (r.beyond) *rng = before;
  return !r.beyond;
}

int32_t pu_sample_token(float *logits, int64_t vocab, const pu_sampling *o, const int32_t *history, size_t n_history,
                        size_t n_answer, pu_rng *rng) {
  pu_sampler s;
  pu_seen seen = {0};
  if (!pu_sampler_init(&s, vocab) || !pu_seen_update(&seen, vocab, o, history, n_history, n_history - n_answer)) {
    pu_sampler_deinit(&s);
    pu_seen_deinit(&seen);
    return argmax(logits, vocab); /* without memory the text is merely less varied */
  }
  size_t n_never = (int64_t)n_answer < o->min_tokens ? o->n_stop_ids : 0;
  pu_history h = {history, n_history, &seen, o->stop_ids, n_never};
  pu_sampler_bias(logits, vocab, o);
  int32_t id = pu_sampler_next(&s, logits, o, &h, rng);
  pu_sampler_deinit(&s);
  pu_seen_deinit(&seen);
  return id;
}
