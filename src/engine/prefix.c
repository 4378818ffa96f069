/* The prefix cache: a tree of blocks. A path from the root spells the ids whose keys and values its blocks hold; a node
 * is a block, and the block's number is the node's: there is nothing to allocate. All nodes but leaves are full blocks,
 * a leaf may be a part of one. Siblings may begin alike, so a match takes the one that goes along furthest (cf. the
 * radix trees of Zheng et al. 2024, SGLang, whose edges are divided where blocks here are copied). */
#include <string.h>

#include "src/engine/internal.h"

static int64_t in_common(const int32_t *a, const int32_t *b, int64_t n) {
  int64_t i = 0;
  while (i < n && a[i] == b[i]) i++;
  return i;
}

static const int32_t *ids_of(const pu_cache *c, int32_t b) {
  return c->ids + (size_t)b * (size_t)c->size;
}

/* The child of `at` that goes along with ids[0, n) furthest. */
static int32_t furthest(const pu_cache *c, int32_t at, uint64_t salt, const int32_t *ids, int64_t n, int64_t *common) {
  int32_t best = -1;
  *common = 0;
  for (int32_t b = c->b[at].child; b >= 0 && *common < c->size; b = c->b[b].after) {
    if (c->b[b].salt != salt) continue;
    int64_t same = in_common(ids_of(c, b), ids, PU_MIN(n, c->b[b].tokens));
    if (same <= *common) continue;
    *common = same;
    best = b;
  }
  return best;
}

int64_t pu_prefix_match(pu_cache *c, uint64_t salt, const int32_t *ids, int64_t n, int32_t *blocks, int32_t *n_blocks) {
  int64_t got = 0, common = c->size;
  *n_blocks = 0;
  for (int32_t at = c->n; got < n && common == c->size; got += common) {
    at = furthest(c, at, salt, ids + got, n - got, &common);
    if (at < 0 || at > c->n || common < PU_MIN(PU_LEAST_PART, c->size)) break;
    pu_cache_hold(c, at);
    blocks[(*n_blocks)++] = at;
  }
  return got;
}

int32_t pu_prefix_next_host(const pu_cache *c, uint64_t salt, int32_t parent, const int32_t *ids, int64_t n,
                            int64_t *common) {
  int32_t h = furthest(c, parent < 0 ? c->n : parent, salt, ids, n, common);
  return h > c->n && *common >= PU_MIN(PU_LEAST_PART, c->size) ? h : -1;
}

int32_t pu_prefix_insert(pu_cache *c, uint64_t salt, int32_t parent, int32_t b, const int32_t *ids, int32_t n) {
  if (parent < 0) parent = c->n;
  size_t bytes = (size_t)n * sizeof *ids;
  int32_t first = c->b[parent].child;
  for (int32_t i = first; i >= 0; i = c->b[i].after)
    if (c->b[i].salt == salt && c->b[i].tokens >= n && memcmp(ids_of(c, i), ids, bytes) == 0) {
      if (i < c->n || c->b[i].tokens > n) return i;
      pu_prefix_move(c, i, b);
      pu_cache_forget(c, i);
      return b;
    }
  c->b[b] = (pu_block){.holders = c->b[b].holders,
                       .tokens = n,
                       .parent = parent,
                       .child = -1,
                       .before = -1,
                       .after = first,
                       .salt = salt};
  memcpy(c->ids + (size_t)b * (size_t)c->size, ids, bytes);
  if (first >= 0) c->b[first].before = b;
  c->b[parent].child = b;
  return b;
}

void pu_prefix_remove(pu_cache *c, int32_t b) {
  pu_block *x = &c->b[b];
  *(x->before < 0 ? &c->b[x->parent].child : &c->b[x->before].after) = x->after;
  if (x->after >= 0) c->b[x->after].before = x->before;
  x->tokens = 0;
}

void pu_prefix_move(pu_cache *c, int32_t from, int32_t to) {
  pu_block *x = &c->b[from], *y = &c->b[to];
  *y = (pu_block){.holders = y->holders,
                  .tokens = x->tokens,
                  .parent = x->parent,
                  .child = x->child,
                  .before = x->before,
                  .after = x->after,
                  .salt = x->salt};
  memcpy(c->ids + (size_t)to * (size_t)c->size, ids_of(c, from), (size_t)x->tokens * sizeof *c->ids);
  *(x->before < 0 ? &c->b[x->parent].child : &c->b[x->before].after) = to;
  if (x->after >= 0) c->b[x->after].before = to;
  for (int32_t b = x->child; b >= 0; b = c->b[b].after) c->b[b].parent = to;
  x->tokens = 0;
  x->child = -1;
}
