#include "src/text/bpe.h"

#include <stdlib.h>
#include <string.h>

/* Up to here a scan over an array in the first-level cache beats a heap. */
#define SHORT 32

typedef struct bpe_node {
  uint32_t prev, next; /* places; UINT32_MAX: none */
  uint32_t rank;       /* of the pair that begins here */
  int32_t to;          /* what that pair becomes */
} bpe_node;

void bpe_pairs_deinit(bpe_pairs *p) {
  free(p->slots);
  *p = (bpe_pairs){0};
}

static bpe_pair *pair_slot(const bpe_pairs *p, uint64_t key) {
  size_t i = text_mix(key) & p->mask;
  while (p->slots[i].key != UINT64_MAX && p->slots[i].key != key) i = (i + 1) & p->mask;
  return &p->slots[i];
}

static bool pairs_grow(bpe_pairs *p) {
  size_t cap = p->slots ? (p->mask + 1) * 2 : 256;
  bpe_pairs bigger = {malloc(cap * sizeof(bpe_pair)), cap - 1, p->n};
  if (!bigger.slots) return false;
  for (size_t i = 0; i < cap; i++) bigger.slots[i].key = UINT64_MAX;
  for (size_t i = 0; p->slots && i <= p->mask; i++) {
    if (p->slots[i].key != UINT64_MAX) *pair_slot(&bigger, p->slots[i].key) = p->slots[i];
  }
  free(p->slots);
  *p = bigger;
  return true;
}

bool bpe_pairs_put(bpe_pairs *p, int32_t left, int32_t right, uint32_t rank, int32_t id) {
  if ((!p->slots || p->n * 2 > p->mask) && !pairs_grow(p)) return false;
  uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  bpe_pair *s = pair_slot(p, key);
  if (s->key == key) return true;
  *s = (bpe_pair){key, rank, id};
  p->n++;
  return true;
}

void bpe_work_deinit(bpe_work *w) {
  free(w->nodes);
  free(w->heap);
  *w = (bpe_work){0};
}

static size_t merge_short(const bpe_pairs *p, int32_t *s, size_t n) {
  uint32_t rank[SHORT];
  int32_t to[SHORT];
  for (size_t i = 0; i + 1 < n; i++) {
    const bpe_pair *r = bpe_pairs_get(p, s[i], s[i + 1]);
    rank[i] = r ? r->rank : BPE_NO_RANK;
    to[i] = r ? r->id : -1;
  }
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; i++) {
      if (rank[i] < rank[best]) best = i;
    }
    if (rank[best] == BPE_NO_RANK) break;
    s[best] = to[best];
    n--;
    for (size_t i = best + 1; i < n; i++) {
      s[i] = s[i + 1];
      rank[i - 1] = rank[i];
      to[i - 1] = to[i];
    }
    for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++) {
      const bpe_pair *r = bpe_pairs_get(p, s[i], s[i + 1]);
      rank[i] = r ? r->rank : BPE_NO_RANK;
      to[i] = r ? r->id : -1;
    }
  }
  return n;
}

static bool heap_push(bpe_work *w, uint64_t item) {
  if (w->n_heap == w->cap_heap) {
    size_t cap = w->cap_heap ? w->cap_heap * 2 : 256;
    uint64_t *heap = realloc(w->heap, cap * sizeof *heap);
    if (!heap) return false;
    w->heap = heap;
    w->cap_heap = cap;
  }
  size_t i = w->n_heap++;
  for (; i > 0 && w->heap[(i - 1) / 2] > item; i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
  w->heap[i] = item;
  return true;
}

static uint64_t heap_pop(bpe_work *w) {
  uint64_t top = w->heap[0], last = w->heap[--w->n_heap];
  size_t i = 0;
  for (size_t child = 1; child < w->n_heap; child = 2 * i + 1) {
    if (child + 1 < w->n_heap && w->heap[child + 1] < w->heap[child]) child++;
    if (w->heap[child] >= last) break;
    w->heap[i] = w->heap[child];
    i = child;
  }
  w->heap[i] = last;
  return top;
}

typedef struct merging {
  const bpe_pairs *pairs;
  bpe_work *w;
  int32_t *s;
  bpe_seen_fn seen;
  void *arg;
} merging;

/* Looks up the pair that begins at place i, and queues it. */
static bool consider(merging *m, uint32_t i) {
  bpe_node *node = &m->w->nodes[i];
  node->rank = BPE_NO_RANK;
  if (node->next == UINT32_MAX) return true;
  const bpe_pair *r = bpe_pairs_get(m->pairs, m->s[i], m->s[node->next]);
  if (!r) return true;
  node->rank = r->rank;
  node->to = r->id;
  if (m->seen) m->seen(m->arg, m->s[i], m->s[node->next], r->id);
  return heap_push(m->w, (uint64_t)r->rank << 32 | i);
}

/* A queued pair is stale when the pair at its place has changed since: then the place has another rank (or the same
 * rank, and the entry is as good as the newer one, which has the same key). */
static bool merge_all(merging *m) {
  bpe_node *nodes = m->w->nodes;
  while (m->w->n_heap > 0) {
    uint64_t top = heap_pop(m->w);
    uint32_t i = (uint32_t)top;
    if (nodes[i].rank != (uint32_t)(top >> 32)) continue;
    uint32_t right = nodes[i].next;
    m->s[i] = nodes[i].to;
    nodes[right].rank = BPE_NO_RANK;
    nodes[i].next = nodes[right].next;
    if (nodes[i].next != UINT32_MAX) nodes[nodes[i].next].prev = i;
    if (nodes[i].prev != UINT32_MAX && !consider(m, nodes[i].prev)) return false;
    if (!consider(m, i)) return false;
  }
  return true;
}

static bool reserve_nodes(bpe_work *w, size_t n) {
  if (n <= w->cap_nodes) return true;
  size_t cap = PU_MAX(n, w->cap_nodes * 2);
  bpe_node *nodes = realloc(w->nodes, cap * sizeof *nodes);
  if (!nodes) return false;
  w->nodes = nodes;
  w->cap_nodes = cap;
  return true;
}

pu_err bpe_merge(const bpe_pairs *p, bpe_work *w, int32_t *s, size_t *n, bpe_seen_fn seen, void *arg, pu_error *e) {
  if (*n <= SHORT && !seen) {
    *n = merge_short(p, s, *n);
    return PU_OK;
  }
  if (*n >= UINT32_MAX) return pu_fail(e, PU_ERR_UNSUPPORTED, "a text of %zu characters is too long: split it", *n);
  if (!reserve_nodes(w, *n)) return pu_fail(e, PU_ERR_NOMEM, "no memory to merge %zu characters", *n);
  uint32_t count = (uint32_t)*n;
  for (uint32_t i = 0; i < count; i++) {
    w->nodes[i] = (bpe_node){i == 0 ? UINT32_MAX : i - 1, i + 1 < count ? i + 1 : UINT32_MAX, BPE_NO_RANK, -1};
  }
  merging m = {p, w, s, seen, arg};
  w->n_heap = 0;
  bool ok = true;
  for (uint32_t i = 0; i < count && ok; i++) ok = consider(&m, i);
  if (!ok || !merge_all(&m)) return pu_fail(e, PU_ERR_NOMEM, "no memory to merge %zu characters", *n);
  size_t out = 0;
  for (uint32_t i = 0; i < count && i != UINT32_MAX; i = w->nodes[i].next) s[out++] = s[i];
  *n = out;
  return PU_OK;
}
