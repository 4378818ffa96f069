/* Blocks of the cache: free, held by sessions, or held by the prefix tree alone.
 *
 * Those of the last kind are a list by age, from which blocks are taken when none is free. Its oldest never has
 * children among them: a session holds the blocks of its path and gives the last one back first, so a child is always
 * given back before its parent. Taking one is thus a matter of a few links, and no search is needed for what may go.
 *
 * Second tier. Where host memory is there for it, what such a block holds is copied there before the block is taken,
 * and its place in the tree becomes that of a block of the host's. So a place is in one tier at a time; a path from the
 * root is first of blocks here, then of the host's; and as a parent comes to the host after its children, the host's
 * oldest is a leaf as well: it goes when another one needs its room. When a session's ids lead along such blocks they
 * are brought back, from the root on. Copies are put in line with the device's operations, which nobody waits for:
 * whatever is written into either block afterwards comes after them. */
#include <stdlib.h>

#include "src/engine/internal.h"

bool pu_cache_init(pu_cache *c, int32_t n, int32_t n_host, int32_t size) {
  *c = (pu_cache){.n = n, .n_host = n_host, .size = size, .host_free = -1, .kept = {-1, -1, 0}, .host = {-1, -1, 0}};
  size_t all = (size_t)n + 1 + (size_t)n_host;
  c->b = calloc(all, sizeof *c->b);
  c->ids = malloc(all * (size_t)size * sizeof *c->ids);
  c->free = malloc((size_t)n * sizeof *c->free);
  if (!c->b || !c->ids || !c->free) {
    pu_cache_deinit(c);
    return false;
  }
  for (int32_t b = 0; b <= n; b++) c->b[b].child = -1; /* the host's get it when they are used: they may be millions */
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
  return c->n_free + c->kept.n;
}

/* ---- lists by age ---- */

static void link_newest(pu_cache *c, pu_block_list *l, int32_t b) {
  c->b[b].older = l->newest;
  c->b[b].newer = -1;
  *(l->newest < 0 ? &l->oldest : &c->b[l->newest].newer) = b;
  l->newest = b;
  l->n++;
}

static void leave(pu_cache *c, pu_block_list *l, int32_t b) {
  int32_t older = c->b[b].older, newer = c->b[b].newer;
  *(older < 0 ? &l->oldest : &c->b[older].newer) = newer;
  *(newer < 0 ? &l->newest : &c->b[newer].older) = older;
  l->n--;
}

/* ---- the host's blocks ---- */

/* One that is free, or that nobody has asked for longest. -1: there is none. */
static int32_t host_take(pu_cache *c) {
  int32_t h = c->host_free;
  if (h >= 0) {
    c->host_free = c->b[h].older;
    return h;
  }
  if (c->host_begun < c->n_host) return c->n + 1 + c->host_begun++;
  h = c->host.oldest;
  if (h >= 0) {
    leave(c, &c->host, h);
    pu_prefix_remove(c, h);
  }
  return h;
}

static void host_give(pu_cache *c, int32_t h) {
  c->b[h].older = c->host_free;
  c->host_free = h;
}

void pu_cache_forget(pu_cache *c, int32_t h) {
  leave(c, &c->host, h);
  host_give(c, h);
}

/* Makes room of the oldest block that only the tree holds. Where none of the host's can be had, and where it is too
 * short to be asked for, it has no children there either. */
static pu_err put_out(pu_cache *c, pu_error *e) {
  int32_t b = c->kept.oldest, h = c->b[b].tokens < PU_MIN(PU_LEAST_PART, c->size) ? -1 : host_take(c);
  if (h >= 0) {
    pu_err err = c->copy(c->copy_arg, b, h, e);
    if (err) {
      host_give(c, h);
      return err;
    }
    pu_prefix_move(c, b, h);
    link_newest(c, &c->host, h);
    c->n_out++;
  } else {
    pu_prefix_remove(c, b);
  }
  leave(c, &c->kept, b);
  return PU_OK;
}

static pu_err copy_in(pu_cache *c, int32_t h, int32_t *out, pu_error *e) {
  PU_TRY(pu_cache_take(c, out, e));
  pu_err err = c->copy(c->copy_arg, h, *out, e);
  if (err) pu_cache_give(c, *out);
  return err;
}

/* Meanwhile h is in no list: it must not be what makes room for the block that it is brought to. */
pu_err pu_cache_bring(pu_cache *c, int32_t h, int32_t n, int32_t *out, pu_error *e) {
  leave(c, &c->host, h);
  pu_err err = copy_in(c, h, out, e);
  bool all = !err && n == c->b[h].tokens;
  if (all && n == c->size) {
    pu_prefix_move(c, h, *out);
    host_give(c, h);
  } else if (all) {
    pu_prefix_remove(c, h);
    host_give(c, h);
  } else {
    link_newest(c, &c->host, h);
  }
  c->n_in += !err;
  return err;
}

/* ---- taking and giving ---- */

pu_err pu_cache_take(pu_cache *c, int32_t *out, pu_error *e) {
  if (!pu_cache_available(c)) return pu_fail(e, PU_ERR_INTERNAL, "the cache has no free block");
  int32_t b = c->kept.oldest;
  if (c->n_free)
    b = c->free[--c->n_free];
  else
    PU_TRY(put_out(c, e));
  c->b[b].holders = 1;
  *out = b;
  return PU_OK;
}

void pu_cache_hold(pu_cache *c, int32_t b) {
  if (c->b[b].holders++ == 0) leave(c, &c->kept, b);
}

void pu_cache_give(pu_cache *c, int32_t b) {
  if (--c->b[b].holders) return;
  if (c->b[b].tokens)
    link_newest(c, &c->kept, b);
  else
    c->free[c->n_free++] = b;
}
