/* What is in blocks of the cache, and the second tier in host memory: where a block lies, and how it is copied.
 *
 * A block is a piece of each layer's keys and one of its values. Here the pieces of a layer's blocks lie together; in
 * the host's memory a block's do. So a copy between the tiers is two calls of copy_rows, one row a layer. Nobody on
 * this side ever looks into what was copied: it goes back the way it came, in line behind the copy that brought it.
 *
 * The host's memory is address space until it is used. Areas of it are pinned when they are first used, since pinning
 * takes the memory and some time; the areas' sizes are multiples of both blocks and pages, so that no copy crosses two.
 */
#include <unistd.h>

#include "src/engine/internal.h"

enum { AREA = 64 << 20 }; /* bytes that are pinned at a time */

size_t pu_host_block_bytes(size_t block, int32_t tokens) {
  return block + sizeof(pu_block) + (size_t)tokens * sizeof(int32_t);
}

static size_t in_pages(size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return (bytes + page - 1) / page * page;
}

static size_t piece_bytes(const pu_tensor *t) {
  return pu_tensor_bytes(t) / (size_t)t->shape[0];
}

/* A block's pieces of all layers: the first one, and how far apart they are. */
typedef struct pieces {
  char *at;
  size_t stride;
} pieces;

static pieces find(const pu_engine *en, int32_t b, bool values) {
  const pu_kv *kv = &en->kv[0];
  const pu_host_tier *t = &en->host_tier;
  const pu_tensor *x = values ? kv->v : kv->k;
  size_t layers = (size_t)en->m->hp.layers, piece = piece_bytes(x);
  if (b < en->cache.n) return (pieces){(char *)x->data + (size_t)b * piece, en->plan.cache / layers};
  int32_t h = b - en->cache.n - 1;
  size_t at = (size_t)(h / t->area_blocks) * t->area + (size_t)(h % t->area_blocks) * t->block;
  return (pieces){t->memory + at + (values ? layers * piece_bytes(kv->k) : 0), piece};
}

pu_err pu_host_copy(pu_engine *en, int32_t from, int32_t to, pu_error *e) {
  for (int v = 0; v < 2; v++) {
    pieces x = find(en, from, v), y = find(en, to, v);
    size_t bytes = piece_bytes(v ? en->kv[0].v : en->kv[0].k);
    PU_TRY(en->be->copy_rows(en->be, y.at, y.stride, x.at, x.stride, bytes, en->m->hp.layers, e));
  }
  return PU_OK;
}

/* Up to the area that has block b. What cannot be pinned serves as well, only slower. */
static void pin(pu_engine *en, int32_t b) {
  pu_host_tier *t = &en->host_tier;
  pu_error why;
  while (en->be->pin && !t->pins_no_more && t->pinned <= (b - en->cache.n - 1) / t->area_blocks) {
    if (en->be->pin(en->be, t->memory + (size_t)t->pinned * t->area, t->area, &why) == PU_OK) {
      t->pinned++;
    } else {
      pu_log(PU_LOG_WARN, "%s; prefixes in host memory are copied more slowly from here on", why.msg);
      t->pins_no_more = true;
    }
  }
}

static pu_err copy(void *arg, int32_t from, int32_t to, pu_error *e) {
  pu_engine *en = arg;
  if (to > en->cache.n) pin(en, to);
  return pu_host_copy(en, from, to, e);
}

pu_err pu_host_open(pu_engine *en, pu_error *e) {
  pu_host_tier *t = &en->host_tier;
  int32_t n = en->cache.n_host;
  if (n == 0) return PU_OK;
  t->block = en->plan.cache / (size_t)en->plan.kv_blocks;
  t->area_blocks = (int32_t)PU_MIN(PU_MAX(AREA / t->block, (size_t)1), (size_t)n);
  t->area = in_pages((size_t)t->area_blocks * t->block);
  size_t areas = ((size_t)n + (size_t)t->area_blocks - 1) / (size_t)t->area_blocks;
  PU_TRY(pu_arena_create(areas * t->area, &t->arena, e));
  t->memory = pu_arena_alloc(t->arena, areas * t->area);
  if (!t->memory) return pu_fail(e, PU_ERR_NOMEM, "no memory for prefixes beside the cache");
  en->cache.copy = copy;
  en->cache.copy_arg = en;
  return PU_OK;
}

void pu_host_close(pu_engine *en) {
  pu_host_tier *t = &en->host_tier;
  pu_error e;
  if (t->pinned && en->be->sync(en->be, &e) != PU_OK) pu_log(PU_LOG_WARN, "%s", e.msg);
  while (t->pinned) en->be->unpin(en->be, t->memory + (size_t)--t->pinned * t->area);
  pu_arena_free(t->arena);
}
