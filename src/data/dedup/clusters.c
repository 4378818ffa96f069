/* Documents that are alike: pairs verified, joined to clusters, and one of each that stays. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/dedup/passes.h"

enum { BATCH = 1 << 16, GRAIN = 256 };

/* ---- union-find without locks (Anderson & Woll 1991): a root is the first of its cluster, so clusters are the same
 * in whatever order they grow ---------------------------------------------------------------------------------------
 */

static uint64_t find(const pu_dedup *d, uint64_t x) {
  for (;;) {
    uint64_t up = atomic_load_explicit(&d->parent[x], memory_order_acquire);
    if (up == 0) return x;
    uint64_t more = atomic_load_explicit(&d->parent[x - up], memory_order_acquire);
    if (more == 0) return x - up;
    /* Halves the path; another thread may have moved it on already. */
    atomic_compare_exchange_weak(&d->parent[x], &up, up + more);
    x = x - up;
  }
}

static void join(const pu_dedup *d, uint64_t a, uint64_t b) {
  for (;;) {
    a = find(d, a);
    b = find(d, b);
    if (a == b) return;
    uint64_t first = PU_MIN(a, b), second = PU_MAX(a, b), none = 0;
    if (atomic_compare_exchange_strong(&d->parent[second], &none, second - first)) return;
  }
}

/* ---- verification -------------------------------------------------------------------------------------------------
 */

static double similarity(const pu_dedup *d, uint64_t a, uint64_t b) {
  pu_str x = place_blob(d, a), y = place_blob(d, b);
  return pu_jaccard((const uint32_t *)(const void *)x.ptr, x.len / 4, (const uint32_t *)(const void *)y.ptr, y.len / 4);
}

/* Two sets of n and m have at most min / max in common. */
static bool possible(const pu_dedup *d, uint64_t a, uint64_t b) {
  double n = (double)place_blob(d, a).len, m = (double)place_blob(d, b).len;
  return PU_MIN(n, m) >= d->o.threshold * PU_MAX(n, m);
}

typedef struct batch {
  pu_dedup *d;
  pu_pair pairs[BATCH];
  bool similar[BATCH];
  size_t n;
} batch;

static pu_err verify_some(void *arg, size_t chunk, pu_error *e) {
  batch *b = arg;
  (void)e;
  const pu_dedup *d = b->d;
  for (size_t i = chunk * GRAIN; i < b->n && i < (chunk + 1) * GRAIN; i++) {
    uint64_t x = b->pairs[i].a, y = b->pairs[i].b;
    /* What is connected already would not be changed by one more edge. */
    b->similar[i] = find(d, x) != find(d, y) && possible(d, x, y) && similarity(d, x, y) >= d->o.threshold;
    if (b->similar[i]) join(d, x, y);
  }
  return PU_OK;
}

static pu_err verify_batch(batch *b, pu_work_file *f, pu_error *e) {
  PU_TRY(pu_work_all(&b->d->w, (b->n + GRAIN - 1) / GRAIN, verify_some, b, e));
  for (size_t i = 0; i < b->n; i++) {
    if (!b->similar[i]) continue;
    b->d->stats.verified++;
    PU_TRY(pu_work_put(f, &b->pairs[i], sizeof b->pairs[i], e));
  }
  b->n = 0;
  return PU_OK;
}

/* This rank's stretches of the pairs, in turn. */
static pu_err verify_all(batch *b, pu_work_file *f, pu_error *e) {
  found_iter it;
  pu_dedup *d = b->d;
  PU_TRY(found_begin(d, 0, &it, e));
  pu_err err = PU_OK;
  uint64_t i = 0;
  for (pu_pair x; err == PU_OK && found_next(&it, &x); i++) {
    if (i / BATCH % (uint64_t)d->w.ranks != (uint64_t)d->w.rank) continue;
    b->pairs[b->n++] = x;
    if (b->n == BATCH) err = verify_batch(b, f, e);
  }
  found_end(&it);
  return err == PU_OK ? verify_batch(b, f, e) : err;
}

static pu_err edges_make(void *arg, size_t rank, pu_error *e) {
  pu_dedup *d = arg;
  batch *b = calloc(1, sizeof *b);
  if (!b) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory");
  b->d = d;
  pu_work_file f;
  pu_err err = pu_work_begin(&d->w, rank, "edges", &f, e);
  if (err == PU_OK) err = verify_all(b, &f, e);
  free(b);
  return pu_work_end(&f, d->stats.verified, err, e);
}

/* The files depend on the number of ranks, so their names hold it: another number begins anew. */
static pu_err edges_find(pu_dedup *d, pu_error *e) {
  pu_map m;
  uint64_t count;
  uint64_t hash = d->w.hash;
  d->w.hash = hash + (uint64_t)d->w.ranks;
  size_t rank = (size_t)d->w.rank, ranks = (size_t)d->w.ranks;
  pu_err err = PU_OK;
  if (pu_work_map(&d->w, rank, "edges", &m, &count))
    pu_map_close(&m);
  else
    err = edges_make(d, rank, e);
  if (err == PU_OK) err = files_wait(d, &d->edges, ranks, "edges", e);
  d->w.hash = hash;
  return err;
}

/* ---- who stays ----------------------------------------------------------------------------------------------------
 */

static bool better(const pu_dedup *d, const about *a, const about *b) {
  switch (d->o.keep) {
  case PU_KEEP_NEWEST:
    return a->time > b->time;
  case PU_KEEP_LONGEST:
    return a->length > b->length;
  case PU_KEEP_BEST:
    return a->score > b->score || (b->score != b->score && a->score == a->score);
  default:
    return false;
  }
}

static void choose(pu_dedup *d) {
  uint64_t n = d->base[d->in.units];
  for (uint64_t x = 0; x < n; x++) {
    uint64_t root = find(d, x);
    if (root == x) continue;
    atomic_store(&d->parent[x], x - root);
    if (d->best[root] == 0) d->best[root] = root + 1;
    if (better(d, place_about(d, x), place_about(d, d->best[root] - 1))) d->best[root] = x + 1;
  }
}

pu_err dedup_clusters(pu_dedup *d, pu_error *e) {
  uint64_t n = d->base[d->in.units] + 1;
  d->parent = calloc(n, sizeof *d->parent); /* touched only where there are clusters */
  d->best = calloc(n, sizeof *d->best);
  if (!d->parent || !d->best)
    return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for %llu documents", (unsigned long long)n);
  const file_set *edges = &d->found;
  if (d->o.mode == PU_DEDUP_MINHASH) {
    PU_TRY(dedup_blobs(d, e));
    PU_TRY(edges_find(d, e));
    edges = &d->edges;
  }
  for (size_t i = 0; i < edges->n; i++) {
    const pu_pair *v = (const pu_pair *)(const void *)edges->maps[i].data;
    for (uint64_t k = 0; k < edges->counts[i]; k++) join(d, v[k].a, v[k].b);
  }
  choose(d);
  return PU_OK;
}

pu_dedup_fate pu_dedup_fate_of(const pu_dedup *d, uint64_t place) {
  pu_dedup_fate fate = {.kept = place};
  uint64_t root = find(d, place);
  if (!d->best || d->best[root] == 0) return fate;
  fate.clustered = true;
  fate.kept = d->best[root] - 1;
  fate.similarity = 1;
  if (d->o.mode == PU_DEDUP_MINHASH && fate.kept != place) fate.similarity = similarity(d, fate.kept, place);
  const about *a = place_about(d, fate.kept);
  fate.kept_id = pu_str_of((const char *)d->ids.maps[place_unit(d, fate.kept)].data + a->id_at, a->id_len);
  return fate;
}
