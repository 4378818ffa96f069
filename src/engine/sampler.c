/* From logits to a token. Each filter works on the candidates that the one before it left, sorted by logit. */
#include <math.h>
#include <stdlib.h>

#include "src/engine/internal.h"

typedef struct candidate {
  float logit;
  int32_t id;
} candidate;

pu_sampling pu_sampling_default(void) {
  return (pu_sampling){.top_p = 1, .repetition_penalty = 1};
}

/* Repetition: once for each id that was seen (Keskar et al. 2019). Presence and frequency: by how often it was
 * generated. Counting is by marking what was handled already: histories are short beside vocabularies. */
static void penalise(float *logits, int64_t vocab, const pu_sampling *o, const int32_t *history, size_t n,
                     size_t n_answer) {
  if (o->repetition_penalty != 1 && o->repetition_penalty > 0) {
    uint8_t *seen = calloc((size_t)vocab, 1);
    if (!seen) return; /* without memory the text is merely less varied */
    for (size_t i = 0; i < n; i++) {
      int32_t id = history[i];
      if (id < 0 || id >= vocab || seen[id]) continue;
      seen[id] = 1;
      float r = (float)o->repetition_penalty;
      logits[id] = logits[id] > 0 ? logits[id] / r : logits[id] * r;
    }
    free(seen);
  }
  if (o->presence_penalty == 0 && o->frequency_penalty == 0) return;
  uint8_t *present = calloc((size_t)vocab, 1);
  for (size_t i = n - n_answer; present && i < n; i++) {
    int32_t id = history[i];
    if (id < 0 || id >= vocab) continue;
    logits[id] -= (float)o->frequency_penalty;
    if (!present[id]) logits[id] -= (float)o->presence_penalty;
    present[id] = 1;
  }
  free(present);
}

static int32_t argmax(const float *logits, int64_t vocab) {
  int64_t best = 0;
  for (int64_t i = 1; i < vocab; i++)
    if (logits[i] > logits[best] || isnan(logits[best])) best = i;
  return (int32_t)best;
}

/* Larger logits first, lower ids among equals: the order is the same whatever the sort. */
static int by_logit(const void *a, const void *b) {
  const candidate *x = a, *y = b;
  if (x->logit != y->logit) return x->logit < y->logit ? 1 : -1;
  return (x->id > y->id) - (x->id < y->id);
}

/* Those that can matter: with top-k or min-p most of a vocabulary is far below the largest logit, and is not sorted. */
static size_t gather(candidate *c, const float *logits, int64_t vocab, const pu_sampling *o, float largest) {
  float floor = -INFINITY;
  if (o->min_p > 0)
    floor = largest + (float)(log(o->min_p) * o->temperature);
  else if (o->top_p < 1)
    floor = largest - (float)(40 * o->temperature); /* e^-40 of the largest: none of the mass */
  size_t n = 0;
  for (int64_t i = 0; i < vocab; i++)
    if (logits[i] >= floor) c[n++] = (candidate){logits[i], (int32_t)i};
  return n;
}

static size_t cut_top_p(const double *p, size_t n, double top_p, double sum) {
  double mass = 0;
  for (size_t i = 0; i < n; i++)
    if ((mass += p[i]) >= top_p * sum) return i + 1;
  return n;
}

static int32_t draw(candidate *c, size_t n, const pu_sampling *o, pu_rng *rng, double *p) {
  qsort(c, n, sizeof *c, by_logit);
  if (o->top_k > 0) n = PU_MIN(n, (size_t)o->top_k);
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += p[i] = exp(((double)c[i].logit - c[0].logit) / o->temperature);
  if (o->top_p < 1) n = cut_top_p(p, n, o->top_p, sum);
  while (n > 1 && o->min_p > 0 && p[n - 1] < o->min_p) n--; /* p[0] is 1 */
  sum = 0;
  for (size_t i = 0; i < n; i++) sum += p[i];
  double u = pu_rng_uniform(rng) * sum;
  for (size_t i = 0; i + 1 < n; i++)
    if ((u -= p[i]) < 0) return c[i].id;
  return c[n - 1].id;
}

int32_t pu_sample_token(float *logits, int64_t vocab, const pu_sampling *o, const int32_t *history, size_t n_history,
                        size_t n_answer, pu_rng *rng) {
  penalise(logits, vocab, o, history, n_history, n_answer);
  int32_t best = argmax(logits, vocab);
  if (o->temperature <= 0 || o->top_k == 1) return best;
  candidate *c = malloc((size_t)vocab * sizeof *c);
  double *p = malloc((size_t)vocab * sizeof *p);
  if (c && p) {
    size_t n = gather(c, logits, vocab, o, logits[best]);
    if (n) best = draw(c, n, o, rng, p);
  }
  free(c);
  free(p);
  return best;
}
