/* What occurs again in a corpus: the passes, in their order. */
#include "src/data/dedup/dedup.h"

#include <stdlib.h>
#include <string.h>

#include "src/data/dedup/passes.h"

const char *const pu_dedup_mode_names[PU_DEDUP_MODES] = {"exact", "minhash", "paragraph", "line", "substring"};
const char *const pu_dedup_keep_names[PU_KEEPS] = {"first", "newest", "longest", "best"};

#define DEFAULT_MEMORY ((size_t)1 << 30)
enum { DEFAULT_ITEM = 32, DEFAULT_PASSAGE = 200 };

bool pu_dedup_cuts(pu_dedup_mode mode) {
  return mode != PU_DEDUP_EXACT && mode != PU_DEDUP_MINHASH;
}

int64_t pu_dedup_min_bytes(const pu_dedup_how *o) {
  if (o->min_bytes > 0) return o->min_bytes;
  return o->mode == PU_DEDUP_SUBSTRING ? DEFAULT_PASSAGE : DEFAULT_ITEM;
}

pu_err pu_dedup_check(const pu_dedup_how *o, pu_error *e) {
  if ((unsigned)o->mode >= PU_DEDUP_MODES || (unsigned)o->keep >= PU_KEEPS)
    return pu_fail(e, PU_ERR_USAGE, "dedup: no such mode, or no such rule of who stays");
  if (o->mode == PU_DEDUP_MINHASH && !(o->threshold > 0 && o->threshold <= 1))
    return pu_fail(e, PU_ERR_USAGE, "dedup: the threshold is %g: it is a similarity, above 0 and at most 1",
                   o->threshold);
  if (o->min_bytes < 0 || o->min_bytes > (int64_t)PU_DOC_MAX)
    return pu_fail(e, PU_ERR_USAGE, "dedup: passages of %lld bytes: 0 (the default) to 64 MiB",
                   (long long)o->min_bytes);
  if (o->mode == PU_DEDUP_SUBSTRING && pu_dedup_min_bytes(o) < PU_DEDUP_PASSAGE)
    return pu_fail(e, PU_ERR_USAGE, "dedup: passages of %lld bytes are found everywhere: at least %d",
                   (long long)o->min_bytes, (int)PU_DEDUP_PASSAGE);
  if (o->keep == PU_KEEP_BEST && !o->score)
    return pu_fail(e, PU_ERR_USAGE, "dedup: to keep the best one, name the attribute that says which is");
  int ranks = PU_MAX(o->ranks, 1);
  if (o->rank < 0 || o->rank >= ranks)
    return pu_fail(e, PU_ERR_USAGE, "dedup: rank %d of %d: it is between 0 and %d", o->rank, ranks, ranks - 1);
  return PU_OK;
}

pu_err files_wait(pu_dedup *d, file_set *f, size_t n, const char *kind, pu_error *e) {
  f->maps = calloc(n + 1, sizeof *f->maps);
  f->counts = calloc(n + 1, sizeof *f->counts);
  if (!f->maps || !f->counts) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory");
  f->n = n;
  return pu_work_wait(&d->w, n, kind, f->maps, f->counts, e);
}

static void files_free(file_set *f) {
  for (size_t i = 0; f->maps && i < f->n; i++) pu_map_close(&f->maps[i]);
  free(f->maps);
  free(f->counts);
}

size_t place_unit(const pu_dedup *d, uint64_t place) {
  size_t low = 0, high = d->in.units; /* the last unit that does not begin behind it, of empty ones the last too */
  while (high - low > 1) {
    size_t mid = low + (high - low) / 2;
    if (d->base[mid] <= place)
      low = mid;
    else
      high = mid;
  }
  return low;
}

const about *place_about(const pu_dedup *d, uint64_t place) {
  size_t u = place_unit(d, place);
  return (const about *)(const void *)d->abouts.maps[u].data + (place - d->base[u]);
}

pu_str place_blob(const pu_dedup *d, uint64_t place) {
  size_t u = place_unit(d, place);
  return pu_blobs_find(&d->blobs.maps[u], d->blobs.counts[u], place - d->base[u]);
}

/* Everything that the files depend on; the rule of who stays comes after them. */
static uint64_t run_hash(const pu_dedup *d) {
  char text[256];
  int n = snprintf(text, sizeof text, "%d %d %d %llu %.17g %.100s", (int)d->o.mode, d->bands.bands, d->bands.rows,
                   (unsigned long long)d->passage, d->o.threshold, d->o.score ? d->o.score : "");
  return pu_hash64(text, (size_t)n, d->in.hash ^ d->in.units);
}

static pu_err begin(pu_dedup *d, const char *dir, pu_error *e) {
  PU_TRY(pu_dedup_check(&d->o, e));
  d->passage = (uint64_t)pu_dedup_min_bytes(&d->o);
  d->parts = PARTS;
  if (d->o.mode == PU_DEDUP_MINHASH) {
    d->bands = pu_bands_for(d->o.threshold);
    d->parts = (size_t)d->bands.bands;
  } else {
    d->o.threshold = 0;
  }
  d->shift = pu_dedup_cuts(d->o.mode) ? AT_BITS : 0;
  if (d->o.memory == 0) d->o.memory = DEFAULT_MEMORY;
  d->w.pool = d->o.pool;
  d->w.progress = d->o.progress;
  d->w.progress_arg = d->o.progress_arg;
  d->w.rank = d->o.rank;
  d->w.ranks = PU_MAX(d->o.ranks, 1);
  d->w.hash = run_hash(d);
  d->w.dir = strdup(dir);
  if (!d->w.dir) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory");
  PU_TRY(pu_mkdirs(dir, e));
  PU_TRY(pu_work_sign(&d->w, "left", false, e));
  return pu_work_sign(&d->w, "failed", false, e);
}

static pu_err passes(pu_dedup *d, pu_error *e) {
  PU_TRY(dedup_scan(d, e));
  PU_TRY(dedup_parts(d, e));
  if (!pu_dedup_cuts(d->o.mode)) PU_TRY(dedup_clusters(d, e));
  if (d->o.mode == PU_DEDUP_SUBSTRING) PU_TRY(dedup_passages(d, e));
  d->stats.disk = d->w.disk;
  return pu_work_sign(&d->w, "left", true, e);
}

pu_err pu_dedup_find(const pu_dedup_input *in, const char *dir, const pu_dedup_how *o, pu_dedup **out, pu_error *e) {
  *out = NULL;
  pu_dedup *d = calloc(1, sizeof *d);
  if (!d) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory");
  d->o = *o;
  d->in = *in;
  pu_err err = begin(d, dir, e);
  if (err == PU_OK) {
    err = passes(d, e);
    pu_error unsaid; /* the first error is the one to tell */
    if (err != PU_OK && pu_work_sign(&d->w, "failed", true, &unsaid) != PU_OK)
      pu_log(PU_LOG_WARN, "%s; other ranks wait until they are stopped", unsaid.msg);
  }
  if (err == PU_OK)
    *out = d;
  else
    pu_dedup_free(d);
  return err;
}

pu_err pu_dedup_clear(const pu_dedup *d, pu_error *e) {
  if (d->w.rank > 0) return PU_OK;
  PU_TRY(pu_work_await(&d->w, "left", e));
  return pu_remove_tree(d->w.dir, e);
}

void pu_dedup_free(pu_dedup *d) {
  if (!d) return;
  file_set *sets[] = {&d->abouts, &d->ids, &d->keys, &d->found, &d->blobs, &d->edges, &d->cuts};
  for (size_t i = 0; i < PU_COUNT(sets); i++) files_free(sets[i]);
  free(d->base);
  free(d->named);
  free((void *)d->parent);
  free(d->best);
  free((char *)d->w.dir);
  free(d);
}

uint64_t pu_dedup_place(const pu_dedup *d, size_t unit) {
  return d->base[unit];
}

pu_dedup_stats pu_dedup_stats_of(const pu_dedup *d) {
  return d->stats;
}
