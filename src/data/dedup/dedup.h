/* Inside data: what occurs again in a corpus larger than memory, and what of it goes.
 *
 * Units of documents go in one by one, each read whole by one thread: a document is known by its place, the number of
 * documents before it in all units. Whatever has to be compared across units goes through files in a work folder:
 *
 *   U.about, U.ids   per document what decides which one of a cluster stays, and its id
 *   U.keys           (key, place) of what may occur again, cut into parts: bands, or the leading bits of a hash
 *   P.part           of part P, all units' keys sorted and those that occur again looked at: pairs or places, sorted
 *   U.blobs          of the documents that the parts name: shingle sets, or texts
 *   R.edges, P.cuts  what the comparison of those gave
 *
 * Work folders (src/data/work.h) make that whole, shared and gone on with. Results depend on the order of the
 * documents, not on threads or ranks.
 *
 * What occurs again:
 *   exact      documents of the same bytes
 *   minhash    documents whose shingle sets have a Jaccard similarity of at least the threshold; candidates by MinHash
 *              and bands (shingle.h), each verified by its true similarity. Clusters are what is connected
 *   paragraph  what stands between blank lines; line: lines. Without the spaces around them, at least min_bytes of them
 *   substring  every passage of min_bytes bytes that stood at any earlier place (Lee et al. 2022 find them by a suffix
 *              array, which takes several times the corpus in memory). Here fingerprints are sampled so that any two
 *              equal passages share one (winnowing: Schleimer et al. 2003); around those that occur again, every
 *              passage's hash is sorted, and equal ones are compared byte by byte: the same passages, from disk
 *
 * Of documents, all but one of a cluster go; of the others, what is not the first occurrence is cut out. */
#ifndef PUYU_DATA_DEDUP_H
#define PUYU_DATA_DEDUP_H

#include "src/data/dedup/shingle.h"
#include "src/data/stage.h"

typedef struct pu_dedup_how {
  pu_dedup_mode mode;
  pu_dedup_keep keep;
  const char *score; /* for PU_KEEP_BEST: an attribute of the stage, "quality.score"; the largest stays */
  double threshold;  /* minhash: (0, 1] */
  int64_t min_bytes; /* paragraph, line, substring (there at least PU_DEDUP_PASSAGE); 0: the mode's default */
  size_t memory;     /* bytes for sorting, all threads together; 0: 1 GiB */
  pu_pool *pool;     /* NULL: one thread */
  int rank, ranks;   /* ranks 0: 1 */
  void (*progress)(void *arg, const char *what, double done, double total);
  void *progress_arg;
} pu_dedup_how;
enum { PU_DEDUP_PASSAGE = 40 };
pu_err pu_dedup_check(const pu_dedup_how *o, pu_error *e) PU_MUST_USE;
int64_t pu_dedup_min_bytes(const pu_dedup_how *o); /* with the default */
bool pu_dedup_cuts(pu_dedup_mode mode);            /* does it cut passages out, rather than drop documents? */

/* ---- documents in ---- */

typedef struct pu_dedup_doc {
  uint64_t n; /* its number in the unit's docs: for records */
  pu_str id, text, time;
  double score;
  pu_doc *doc; /* where there is one: borrowed */
} pu_dedup_doc;
typedef pu_err (*pu_dedup_take)(void *arg, const pu_dedup_doc *d, pu_error *e);
/* Hands all documents of a unit to take, the same ones in the same order whenever it is called; units may be read by
 * several threads. */
typedef struct pu_dedup_input {
  size_t units;
  pu_err (*each)(void *arg, size_t unit, pu_dedup_take take, void *take_arg, pu_error *e);
  void *arg;
  uint64_t hash; /* of what makes this input another one */
} pu_dedup_input;

/* ---- what was found ---- */

typedef struct pu_dedup pu_dedup;
/* dir: the work folder, made where it is missing; all ranks give the same one. Returns when this rank knows all. */
pu_err pu_dedup_find(const pu_dedup_input *in, const char *dir, const pu_dedup_how *o, pu_dedup **out,
                     pu_error *e) PU_MUST_USE;
void pu_dedup_free(pu_dedup *d); /* NULL is fine. The folder stays */
/* Rank 0 waits until no rank needs the folder any more, and removes it; d can be asked on. */
pu_err pu_dedup_clear(const pu_dedup *d, pu_error *e) PU_MUST_USE;
uint64_t pu_dedup_place(const pu_dedup *d,
                        size_t unit); /* of its first document; of unit `units`: how many there are */

/* exact, minhash: a document's cluster. Any thread. */
typedef struct pu_dedup_fate {
  bool clustered;    /* others are like it */
  uint64_t kept;     /* the place of the one that stays: its own, or another's */
  pu_str kept_id;    /* lives as long as d */
  double similarity; /* to that one: true Jaccard; below the threshold where others connect them */
} pu_dedup_fate;
pu_dedup_fate pu_dedup_fate_of(const pu_dedup *d, uint64_t place);
/* the others: a document without its later occurrences, appended to out; *cut: bytes that went. Any thread. */
pu_err pu_dedup_rewrite(const pu_dedup *d, uint64_t place, pu_str text, pu_buf *out, uint64_t *cut,
                        pu_error *e) PU_MUST_USE;

typedef struct pu_dedup_stats {
  uint64_t documents, keys, pairs, verified; /* verified: pairs that this rank found similar */
  uint64_t disk;                             /* bytes of the work folder's files, this rank's */
} pu_dedup_stats;
pu_dedup_stats pu_dedup_stats_of(const pu_dedup *d);

#endif
