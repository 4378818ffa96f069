/* Inside dedup: keys, and what its passes share. */
#ifndef PUYU_DATA_PASSES_H
#define PUYU_DATA_PASSES_H

#include "src/data/dedup/dedup.h"
#include "src/data/dedup/sort.h"
#include "src/data/work.h"

/* ---- keys: pairs (key, place in unit), by part ---- */

enum { PARTS = 64, PART_SHIFT = 58 }; /* of keys that are hashes: their leading bits. (Bands: up to 128) */

typedef struct key_writer {
  pu_work_file file;
  pu_pair *pairs, *sorted; /* [KEY_BLOCK] */
  uint8_t *parts;
  size_t n, n_parts;
  uint64_t total;
} key_writer;
pu_err keys_begin(pu_work *w, size_t unit, size_t parts, key_writer *k, pu_error *e) PU_MUST_USE;
pu_err keys_add(key_writer *k, size_t part, uint64_t key, uint64_t place, pu_error *e) PU_MUST_USE;
pu_err keys_end(key_writer *k, pu_err err, pu_error *e) PU_MUST_USE;
/* All pairs of one part of a file into a sorter, with `base` added to places. */
pu_err keys_sort(const pu_map *m, size_t parts, size_t part, uint64_t base, pu_sorter *s, pu_error *e) PU_MUST_USE;

/* ---- all of it --------------------------------------------------------------------------------------------------- */

enum { AT_BITS = 26, CUT_PARTS = 16 }; /* where something is: document's place << AT_BITS | byte (PU_DOC_MAX) */
#define AT_MASK (((uint64_t)1 << AT_BITS) - 1)

/* What every document leaves. */
typedef struct about {
  uint64_t n, check; /* its number in the unit's docs; a second hash of its bytes */
  uint64_t id_at, time;
  double score;
  uint32_t length, id_len;
} about;

/* Several files of a kind, mapped. */
typedef struct file_set {
  pu_map *maps;
  uint64_t *counts;
  size_t n;
} file_set;

struct pu_dedup {
  pu_work w;
  pu_dedup_how o;
  pu_dedup_input in;
  pu_bands bands;
  size_t parts;
  int shift;        /* of places, to make room for bytes: 0 or AT_BITS */
  uint64_t passage; /* min_bytes, with its default */
  uint64_t *base;   /* [units + 1] */
  file_set abouts, ids, keys, found, blobs, edges, cuts;
  uint8_t *named;           /* [documents / 8]: a bit for each that the parts name */
  _Atomic uint64_t *parent; /* [documents]: how far before a document its parent in the cluster is; 0: it is a root */
  uint64_t *best;           /* [documents]: of a cluster's root, 1 + the place of the one that stays; 0: no cluster */
  pu_dedup_stats stats;
};

pu_err files_wait(pu_dedup *d, file_set *f, size_t n, const char *kind, pu_error *e) PU_MUST_USE;
size_t place_unit(const pu_dedup *d, uint64_t place);
const about *place_about(const pu_dedup *d, uint64_t place);
pu_str place_blob(const pu_dedup *d, uint64_t place); /* ptr NULL: none */
/* What parts found, in one order, each once, from `least` on. */
typedef struct found_iter {
  pu_merge *merge;
  pu_pair last;
  bool any;
} found_iter;
pu_err found_begin(const pu_dedup *d, uint64_t least, found_iter *it, pu_error *e) PU_MUST_USE;
bool found_next(found_iter *it, pu_pair *out);
void found_end(found_iter *it);

/* Makes file `kind` of a part: find reads its keys through one sorter, puts what it finds into the other, and write
 * takes it from there in order. */
typedef pu_err (*part_find_fn)(const pu_dedup *d, size_t part, pu_sorter *in, pu_sorter *out, pu_error *e);
typedef pu_err (*part_write_fn)(pu_sorter *s, pu_work_file *f, uint64_t *count, pu_error *e);
pu_err part_sorted(pu_dedup *d, size_t part, const char *kind, part_find_fn find, part_write_fn write,
                   pu_error *e) PU_MUST_USE;

pu_err dedup_scan(pu_dedup *d, pu_error *e) PU_MUST_USE;     /* scan.c: U.about, U.ids, U.keys */
pu_err dedup_parts(pu_dedup *d, pu_error *e) PU_MUST_USE;    /* parts.c: P.part */
pu_err dedup_blobs(pu_dedup *d, pu_error *e) PU_MUST_USE;    /* blobs.c: U.blobs */
pu_err dedup_clusters(pu_dedup *d, pu_error *e) PU_MUST_USE; /* clusters.c: R.edges; who stays */
pu_err dedup_passages(pu_dedup *d, pu_error *e) PU_MUST_USE; /* passages.c: P.cuts */

/* Calls take for every line or paragraph of at least `least` bytes. item: without the spaces around it; whole: what
 * goes with it when it is cut, up to the next one. */
typedef pu_err (*item_fn)(void *arg, pu_str item, pu_str whole, pu_error *e);
pu_err items_each(pu_str text, bool lines, size_t least, item_fn take, void *arg, pu_error *e) PU_MUST_USE;

/* A hash of the last `width` bytes. */
typedef struct byte_roll {
  uint64_t sum, drop;
} byte_roll;
static inline byte_roll byte_roll_of(size_t width) {
  byte_roll r = {0, 1};
  for (size_t i = 0; i < width; i++) r.drop *= PU_ROLL_FACTOR;
  return r;
}
static inline void byte_roll_in(byte_roll *r, uint8_t in) {
  r->sum = r->sum * PU_ROLL_FACTOR + in + 1;
}
static inline void byte_roll_on(byte_roll *r, uint8_t out, uint8_t in) {
  r->sum = r->sum * PU_ROLL_FACTOR + in + 1 - r->drop * ((uint64_t)out + 1);
}

/* Winnowing: any `passage` bytes hold a place that take is told, chosen by the hashes of the grams in it alone. */
size_t winnow_gram(size_t passage); /* bytes of a gram */
typedef pu_err (*winnow_fn)(void *arg, uint64_t hash, size_t at, pu_error *e);
pu_err winnow(pu_str text, size_t passage, winnow_fn take, void *arg, pu_error *e) PU_MUST_USE;

#endif
