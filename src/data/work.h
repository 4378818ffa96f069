/* Inside data: work folders, through which steps that compare or move documents across units share files.
 *
 * A file is made by one process, by unit, part or rank modulo the number of ranks, appears whole, and ends with a
 * footer that carries a hash of options and input. So processes that share the folder wait for one another's files and
 * do nothing else together, a killed run goes on with what is there, and leftovers of another run are not taken for
 * this one's. */
#ifndef PUYU_DATA_WORK_H
#define PUYU_DATA_WORK_H

#include "puyu/base.h"

typedef struct pu_work {
  const char *dir; /* there already; shorter than 4,000 bytes */
  uint64_t hash;   /* of options and input */
  pu_pool *pool;   /* NULL: one thread */
  int rank, ranks; /* ranks at least 1 */
  void (*progress)(void *arg, const char *what, double done, double total); /* may be NULL */
  void *progress_arg;
  _Atomic uint64_t disk; /* bytes written */
} pu_work;

/* "DIR/INDEX.KIND" */
void pu_work_path(const pu_work *w, char path[4096], size_t index, const char *kind);
/* Is the file there, of this run? Maps it; count: what the footer says. */
bool pu_work_map(const pu_work *w, size_t index, const char *kind, pu_map *m, uint64_t *count);
size_t pu_work_bytes(const pu_map *m); /* without the footer */
/* Waits until n files of a kind are there, and maps them; sees to SIGTERM. */
pu_err pu_work_wait(const pu_work *w, size_t n, const char *kind, pu_map *maps, uint64_t *counts,
                    pu_error *e) PU_MUST_USE;
/* A sign that this rank sets or takes back: "left", "failed"; await waits until all ranks have set it. A rank that
 * waits is told of one that failed. */
pu_err pu_work_sign(const pu_work *w, const char *kind, bool there, pu_error *e) PU_MUST_USE;
pu_err pu_work_await(const pu_work *w, const char *kind, pu_error *e) PU_MUST_USE;
/* Runs fn over 0..n, those of this rank whose file of that kind is not there; the error of the first that failed. */
typedef pu_err (*pu_work_fn)(void *arg, size_t index, pu_error *e);
pu_err pu_work_each(pu_work *w, size_t n, const char *kind, const char *what, pu_work_fn fn, void *arg,
                    pu_error *e) PU_MUST_USE;
/* Over 0..n, whatever files there are. */
pu_err pu_work_all(const pu_work *w, size_t n, pu_work_fn fn, void *arg, pu_error *e) PU_MUST_USE;

typedef struct pu_work_file {
  pu_writer *writer;
  pu_work *w;
  uint64_t bytes;
} pu_work_file;
pu_err pu_work_begin(pu_work *w, size_t index, const char *kind, pu_work_file *f, pu_error *e) PU_MUST_USE;
pu_err pu_work_put(pu_work_file *f, const void *data, size_t len, pu_error *e) PU_MUST_USE;
/* Adds the footer where err is PU_OK; else nothing is left. */
pu_err pu_work_end(pu_work_file *f, uint64_t count, pu_err err, pu_error *e) PU_MUST_USE;

/* ---- blobs: bytes by place, in the order of places ---- */

typedef struct pu_blob {
  uint64_t place, at;
} pu_blob;
typedef struct pu_blob_writer {
  pu_work_file file;
  pu_buf index;
} pu_blob_writer;
pu_err pu_blobs_begin(pu_work *w, size_t unit, pu_blob_writer *b, pu_error *e) PU_MUST_USE;
pu_err pu_blobs_add(pu_blob_writer *b, uint64_t place, const void *data, size_t len, pu_error *e) PU_MUST_USE;
pu_err pu_blobs_end(pu_blob_writer *b, pu_err err, pu_error *e) PU_MUST_USE;
/* count: of the map's footer. */
const pu_blob *pu_blobs_index(const pu_map *m, uint64_t count);
pu_str pu_blobs_at(const pu_map *m, uint64_t count, uint64_t i);
pu_str pu_blobs_find(const pu_map *m, uint64_t count, uint64_t place); /* ptr NULL: not there */

#endif
