/* Which tokens make sample number i: a pure function of (seed, i), so that any number of ranks, and a run that was
 * resumed, read the same samples in the same order.
 *
 * The source. Samples come in blocks of BLOCK. In every block source s has a fixed quota of slots, its weight to the
 * nearest 1/BLOCK (but at least one), and one shuffle of the slots, made from the seed, serves all blocks. So a table
 * says for slot i % BLOCK which source it reads and how many slots of the block read it before: the ordinal of sample i
 * among its source's samples is (i / BLOCK) * quota + that rank, without any history.
 *
 * The window. A source of T tokens has ceil((T - 1) / L) windows at a stride of L, so that with one token of overlap
 * each token but the first is a target exactly once a pass. The last window is moved back until it is full; the
 * targets it shares with its neighbour are -1 there. A source shorter than one window is padded with id 0 and targets
 * of -1. Pass p reads the windows in the order of a permutation keyed by (seed, source, p): a Feistel network over the
 * next power of four with cycle walking (Black & Rogaway 2002), so nothing is stored. */
#include <stdlib.h>
#include <string.h>

#include "puyu/shards.h"

enum { BLOCK = 1 << 16, ROUNDS = 6, MAX_SOURCES = 4096 };

typedef struct mix_source {
  const pu_shards *shards;
  uint64_t tokens, windows;
  int64_t quota;
} mix_source;

struct pu_mix {
  mix_source *sources;
  size_t n;
  int64_t seq_len;
  uint64_t seed;
  uint16_t *slot_source; /* [BLOCK] */
  uint16_t *slot_rank;   /* [BLOCK] */
};

/* ---- the order of windows ---------------------------------------------------------------------------------------- */

/* A permutation of [0, n), keyed. Rounds of a hash on halves of `half` bits; walking on until inside takes less than
 * four steps on average, because 4^half < 4 n. */
static uint64_t permute(uint64_t key, uint64_t n, uint64_t at) {
  int half = 1;
  while (half < 32 && ((uint64_t)1 << (2 * half)) < n) half++;
  uint64_t low = ((uint64_t)1 << half) - 1;
  do {
    uint64_t left = at >> half, right = at & low;
    for (uint64_t round = 0; round < ROUNDS; round++) {
      uint64_t mixed = left ^ (pu_random_at(key, round, right) & low);
      left = right;
      right = mixed;
    }
    at = left << half | right;
  } while (at >= n);
  return at;
}

/* ---- weights to slots -------------------------------------------------------------------------------------------- */

static pu_err weights_check(const pu_mix_source *sources, size_t n, double *total, pu_error *e) {
  size_t zeros = 0;
  *total = 0;
  for (size_t i = 0; i < n; i++) {
    double w = sources[i].weight;
    if (!(w >= 0) || w > 1e300) return pu_fail(e, PU_ERR_USAGE, "source %zu: its weight must be a positive number", i);
    zeros += w == 0;
    *total += w;
  }
  if (zeros > 0 && zeros < n)
    return pu_fail(e, PU_ERR_USAGE, "weights: give every source a weight above 0, or none (then tokens decide)");
  return PU_OK;
}

/* Shares of BLOCK by largest remainder would need a sort; taking from the largest quota until the sum fits gives the
 * same to within a slot, and never takes a source's last slot. */
static void quotas_set(pu_mix *m, const pu_mix_source *sources, double total) {
  double tokens = 0;
  for (size_t i = 0; i < m->n; i++) tokens += (double)m->sources[i].tokens;
  int64_t left = BLOCK;
  for (size_t i = 0; i < m->n; i++) {
    double share = total > 0 ? sources[i].weight / total : (double)m->sources[i].tokens / tokens;
    m->sources[i].quota = PU_MAX((int64_t)(share * BLOCK + 0.5), 1);
    left -= m->sources[i].quota;
  }
  for (; left != 0; left += left < 0 ? 1 : -1) {
    size_t largest = 0;
    for (size_t i = 1; i < m->n; i++)
      if (m->sources[i].quota > m->sources[largest].quota) largest = i;
    m->sources[largest].quota += left < 0 ? -1 : 1;
  }
}

static void slots_set(pu_mix *m) {
  size_t at = 0;
  for (size_t i = 0; i < m->n; i++)
    for (int64_t k = 0; k < m->sources[i].quota; k++) m->slot_source[at++] = (uint16_t)i;
  pu_rng r;
  pu_rng_seed(&r, m->seed);
  for (size_t i = BLOCK - 1; i > 0; i--) {
    size_t j = pu_rng_below(&r, i + 1);
    uint16_t swapped = m->slot_source[i];
    m->slot_source[i] = m->slot_source[j];
    m->slot_source[j] = swapped;
  }
  uint16_t count[MAX_SOURCES] = {0};
  for (size_t i = 0; i < BLOCK; i++) m->slot_rank[i] = count[m->slot_source[i]]++;
}

pu_err pu_mix_create(const pu_mix_source *sources, size_t n, int64_t seq_len, uint64_t seed, pu_mix **out,
                     pu_error *e) {
  *out = NULL;
  if (n == 0 || n > MAX_SOURCES) return pu_fail(e, PU_ERR_USAGE, "a mix has 1 to %d sources, not %zu", MAX_SOURCES, n);
  if (seq_len < 1 || seq_len > INT32_MAX) return pu_fail(e, PU_ERR_USAGE, "seq_len must be 1 or more");
  double total;
  PU_TRY(weights_check(sources, n, &total, e));
  for (size_t i = 0; i < n; i++)
    if (pu_shards_tokens(sources[i].shards) < 2)
      return pu_fail(e, PU_ERR_USAGE, "source %zu: fewer than two tokens, so nothing to predict", i);
  pu_mix *m = calloc(1, sizeof *m);
  if (m) {
    m->sources = calloc(n, sizeof *m->sources);
    m->slot_source = malloc(BLOCK * sizeof *m->slot_source);
    m->slot_rank = malloc(BLOCK * sizeof *m->slot_rank);
  }
  if (!m || !m->sources || !m->slot_source || !m->slot_rank) {
    pu_mix_free(m);
    return pu_fail(e, PU_ERR_NOMEM, "mix: no memory");
  }
  m->n = n;
  m->seq_len = seq_len;
  m->seed = seed;
  for (size_t i = 0; i < n; i++) {
    uint64_t tokens = pu_shards_tokens(sources[i].shards);
    m->sources[i] =
        (mix_source){.shards = sources[i].shards, .tokens = tokens, .windows = (tokens - 2) / (uint64_t)seq_len + 1};
  }
  quotas_set(m, sources, total);
  slots_set(m);
  *out = m;
  return PU_OK;
}

void pu_mix_free(pu_mix *m) {
  if (!m) return;
  free(m->sources);
  free(m->slot_source);
  free(m->slot_rank);
  free(m);
}

uint64_t pu_mix_epoch_samples(const pu_mix *m, size_t source) {
  return source < m->n ? m->sources[source].windows : 0;
}

/* ---- a sample ---------------------------------------------------------------------------------------------------- */

/* Targets whose loss mask says no become -1. */
static void targets_mask(const pu_shards *s, uint64_t at, int64_t n, int32_t *targets) {
  int32_t ids[512];
  uint8_t mask[512];
  for (int64_t done = 0; done < n;) {
    int64_t part = PU_MIN(n - done, (int64_t)PU_COUNT(ids));
    pu_shards_read(s, at + (uint64_t)done, part, ids, mask);
    for (int64_t i = 0; i < part; i++) targets[done + i] = mask[i] ? ids[i] : -1;
    done += part;
  }
}

/* The documents that begin inside; what stands before a beginning does not predict it. */
static void boundaries_set(const pu_shards *s, uint64_t begin, int64_t n, pu_sample *out) {
  uint64_t end = begin + (uint64_t)n; /* at most the source's last token, so the source's own end is never met */
  for (uint64_t document = pu_shards_find(s, begin) + 1;; document++) {
    uint64_t start = pu_shards_document_start(s, document);
    if (start > end) break;
    out->targets[start - begin - 1] = -1;
    if (start < end) out->starts[out->n_starts++] = (int32_t)(start - begin);
  }
}

void pu_mix_read(const pu_mix *m, uint64_t index, bool cross_document, pu_sample *out) {
  size_t slot = index % BLOCK;
  out->source = m->slot_source[slot];
  const mix_source *s = &m->sources[out->source];
  uint64_t ordinal = index / BLOCK * (uint64_t)s->quota + m->slot_rank[slot];
  uint64_t pass = ordinal / s->windows;
  uint64_t key = pu_random_at(m->seed, (uint64_t)out->source + 1, pass);
  uint64_t window = permute(key, s->windows, ordinal % s->windows);

  uint64_t len = (uint64_t)m->seq_len, wanted = window * len, begin = wanted;
  if (begin + len + 1 > s->tokens) begin = s->tokens > len + 1 ? s->tokens - len - 1 : 0;
  int64_t n = (int64_t)PU_MIN(len, s->tokens - 1 - begin); /* positions that have a next token */
  pu_shards_read(s->shards, begin, n, out->ids, NULL);
  targets_mask(s->shards, begin + 1, n, out->targets);
  for (uint64_t i = 0; i < wanted - begin; i++) out->targets[i] = -1;
  for (int64_t i = n; i < m->seq_len; i++) {
    out->ids[i] = 0;
    out->targets[i] = -1;
  }
  out->starts[0] = 0;
  out->n_starts = 1;
  if (!cross_document) boundaries_set(s->shards, begin, n, out);
}
