/* The second pass: of each part the keys of all units, sorted, and what has the same one. */
#include <limits.h>

#include "src/data/dedup/passes.h"

enum { NEAR = 4 }; /* documents of the same band are paired with the first of them and with so many before them */

/* Places of the key that is being read. */
typedef struct group {
  const pu_dedup *d;
  pu_sorter *out;
  uint64_t key, seen;
  uint64_t first, last[NEAR];
} group;

/* exact: two documents of one hash are the same if their lengths and second hashes are. One that is like none of the
 * group's first few is left alone: that takes a collision of 64 bits. */
static pu_err add_exact(group *g, uint64_t place, pu_error *e) {
  uint64_t known = PU_MIN(g->seen, (uint64_t)NEAR);
  const about *a = known > 0 ? place_about(g->d, place) : NULL;
  for (uint64_t i = 0; i < known; i++) {
    const about *b = place_about(g->d, g->last[i]);
    if (a->check == b->check && a->length == b->length) return pu_sorter_add(g->out, g->last[i], place, e);
  }
  if (known < NEAR) g->last[g->seen++] = place;
  return PU_OK;
}

static pu_err add_band(group *g, uint64_t place, pu_error *e) {
  if (g->seen > 0) PU_TRY(pu_sorter_add(g->out, g->first, place, e));
  for (uint64_t i = 0; i < NEAR && i < g->seen; i++)
    if (g->last[i] != g->first) PU_TRY(pu_sorter_add(g->out, g->last[i], place, e));
  g->last[g->seen++ % NEAR] = place;
  return PU_OK;
}

static pu_err add(group *g, uint64_t place, pu_error *e) {
  if (g->seen == 0) g->first = place;
  switch (g->d->o.mode) {
  case PU_DEDUP_EXACT:
    return add_exact(g, place, e);
  case PU_DEDUP_MINHASH:
    return add_band(g, place, e);
  case PU_DEDUP_SUBSTRING:
    if (g->seen == 1) PU_TRY(pu_sorter_add(g->out, g->first, 0, e));
    break;
  default:
    break;
  }
  if (g->seen++ > 0) PU_TRY(pu_sorter_add(g->out, place, 0, e));
  return PU_OK;
}

static pu_err groups(pu_sorter *in, group *g, pu_error *e) {
  for (;;) {
    pu_pair x;
    bool more;
    PU_TRY(pu_sorter_next(in, &x, &more, e));
    if (!more) return PU_OK;
    if (x.a != g->key) {
      g->key = x.a;
      g->seen = 0;
    }
    PU_TRY(add(g, x.b, e));
  }
}

static pu_err write_once(pu_sorter *s, pu_work_file *f, uint64_t *count, pu_error *e) {
  pu_pair last = {0, 0}, x;
  for (bool more = true;;) {
    PU_TRY(pu_sorter_next(s, &x, &more, e));
    if (!more) return PU_OK;
    if (*count > 0 && x.a == last.a && x.b == last.b) continue;
    last = x;
    ++*count;
    PU_TRY(pu_work_put(f, &x, sizeof x, e));
  }
}

static pu_err part_find(const pu_dedup *d, size_t part, pu_sorter *in, pu_sorter *out, pu_error *e) {
  for (size_t u = 0; u < d->in.units; u++)
    PU_TRY(keys_sort(&d->keys.maps[u], d->parts, part, d->base[u] << d->shift, in, e));
  group g = {.d = d, .out = out};
  return groups(in, &g, e);
}

pu_err part_sorted(pu_dedup *d, size_t part, const char *kind, part_find_fn find, part_write_fn write, pu_error *e) {
  char in_path[PATH_MAX], out_path[PATH_MAX];
  pu_work_path(&d->w, in_path, part, "in");
  pu_work_path(&d->w, out_path, part, "out");
  size_t memory = d->o.memory / (size_t)(d->o.pool ? pu_pool_size(d->o.pool) : 1) / 2;
  pu_sorter *in = NULL, *out = NULL;
  pu_err err = pu_sorter_create(in_path, memory, &in, e);
  if (err == PU_OK) err = pu_sorter_create(out_path, memory, &out, e);
  if (err == PU_OK) err = find(d, part, in, out, e);
  pu_sorter_free(in);
  pu_work_file f = {0};
  uint64_t count = 0;
  if (err == PU_OK) err = pu_work_begin(&d->w, part, kind, &f, e);
  if (err == PU_OK) err = write(out, &f, &count, e);
  err = pu_work_end(&f, count, err, e);
  pu_sorter_free(out);
  return err;
}

static pu_err part_make(void *arg, size_t part, pu_error *e) {
  return part_sorted(arg, part, "part", part_find, write_once, e);
}

pu_err dedup_parts(pu_dedup *d, pu_error *e) {
  PU_TRY(pu_work_each(&d->w, d->parts, "part", "comparing", part_make, d, e));
  return files_wait(d, &d->found, d->parts, "part", e);
}
