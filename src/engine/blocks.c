/* Blocks of the cache: free, held by sessions, or held by the prefix tree alone.
 *
 * Those of the last kind are a list by age, from which blocks are taken when none is free. Its oldest never has
 * children in the tree: a session holds the blocks of its path and gives the last one back first, so a child is always
 * given back before its parent. Taking one is thus a matter of a few links, and no search is needed for what may go. */
#include <stdlib.h>

#include "src/engine/internal.h"

bool pu_cache_init(pu_cache *c, int32_t n, int32_t size) {
  *c = (pu_cache){.n = n, .size = size, .oldest = -1, .newest = -1};
  c->b = calloc((size_t)n + 1, sizeof *c->b);
  c->ids = malloc((size_t)n * (size_t)size * sizeof *c->ids);
  c->free = malloc((size_t)n * sizeof *c->free);
  if (!c->b || !c->ids || !c->free) {
    pu_cache_deinit(c);
    return false;
  }
  for (int32_t b = 0; b <= n; b++) c->b[b].child = -1;
  for (int32_t b = n; b-- > 0;) c->free[c->n_free++] = b;
  return true;
}

void pu_cache_deinit(pu_cache *c) {
  free(c->b);
  free(c->ids);
  free(c->free);
  *c = (pu_cache){0};
}

int32_t pu_cache_available(const pu_cache *c) {
  return c->n_free + c->n_kept;
}

/* ---- those that only the tree holds ---- */

static void keep(pu_cache *c, int32_t b) {
  c->b[b].older = c->newest;
  c->b[b].newer = -1;
  *(c->newest < 0 ? &c->oldest : &c->b[c->newest].newer) = b;
  c->newest = b;
  c->n_kept++;
}

static void unkeep(pu_cache *c, int32_t b) {
  int32_t older = c->b[b].older, newer = c->b[b].newer;
  *(older < 0 ? &c->oldest : &c->b[older].newer) = newer;
  *(newer < 0 ? &c->newest : &c->b[newer].older) = older;
  c->n_kept--;
}

/* ---- taking and giving ---- */

int32_t pu_cache_take(pu_cache *c) {
  int32_t b = c->n_free ? c->free[--c->n_free] : c->oldest;
  if (b < 0) return -1;
  if (c->b[b].tokens) {
    unkeep(c, b);
    pu_prefix_remove(c, b);
  }
  c->b[b].holders = 1;
  return b;
}

void pu_cache_hold(pu_cache *c, int32_t b) {
  if (c->b[b].holders++ == 0) unkeep(c, b);
}

void pu_cache_give(pu_cache *c, int32_t b) {
  if (--c->b[b].holders) return;
  if (c->b[b].tokens)
    keep(c, b);
  else
    c->free[c->n_free++] = b;
}
