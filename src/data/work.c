/* Files of a work folder. */
#include "src/data/work.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { POLL_US = 20000 };

typedef struct footer {
  char magic[8];
  uint64_t hash, count, check; /* check: over the fields before */
} footer;

static footer footer_of(const pu_work *w, uint64_t count) {
  footer f = {"puyuwork", w->hash, count, 0};
  f.check = pu_hash64(&f, offsetof(footer, check), 0);
  return f;
}

void pu_work_path(const pu_work *w, char path[4096], size_t index, const char *kind) {
  snprintf(path, 4096, "%s/%06zu.%s", w->dir, index, kind);
}

bool pu_work_map(const pu_work *w, size_t index, const char *kind, pu_map *m, uint64_t *count) {
  char path[4096];
  pu_work_path(w, path, index, kind);
  *m = (pu_map){0};
  if (!pu_path_exists(path) || pu_map_open(path, m, NULL) != PU_OK) return false;
  footer f;
  if (m->len >= sizeof f) {
    memcpy(&f, m->data + m->len - sizeof f, sizeof f);
    footer want = footer_of(w, f.count);
    if (memcmp(&f, &want, sizeof f) == 0) {
      *count = f.count;
      return true;
    }
  }
  pu_map_close(m);
  *m = (pu_map){0};
  return false;
}

size_t pu_work_bytes(const pu_map *m) {
  return m->len - sizeof(footer);
}

/* ---- other ranks ---------------------------------------------------------------------------------------------------
 */

pu_err pu_work_sign(const pu_work *w, const char *kind, bool there, pu_error *e) {
  char path[4096];
  pu_work_path(w, path, (size_t)w->rank, kind);
  if (there) return pu_file_write(path, "", 0, e);
  return pu_remove_tree(path, e);
}

static bool signed_by(const pu_work *w, int rank, const char *kind) {
  char path[4096];
  pu_work_path(w, path, (size_t)rank, kind);
  return pu_path_exists(path);
}

static pu_err doze(const pu_work *w, pu_error *e) {
  if (pu_signals_stop() || pu_signals_stop_writing())
    return pu_fail(e, PU_ERR_STOPPED, "%s: stopped while waiting for other ranks", w->dir);
  for (int r = 0; r < w->ranks; r++)
    if (r != w->rank && signed_by(w, r, "failed")) return pu_fail(e, PU_ERR_STOPPED, "%s: rank %d failed", w->dir, r);
  usleep(POLL_US);
  return PU_OK;
}

pu_err pu_work_await(const pu_work *w, const char *kind, pu_error *e) {
  for (int r = 0; r < w->ranks; r++)
    while (!signed_by(w, r, kind)) PU_TRY(doze(w, e));
  return PU_OK;
}

pu_err pu_work_wait(const pu_work *w, size_t n, const char *kind, pu_map *maps, uint64_t *counts, pu_error *e) {
  for (size_t i = 0; i < n; i++)
    while (!pu_work_map(w, i, kind, &maps[i], &counts[i])) {
      if (w->ranks == 1) return pu_fail(e, PU_ERR_IO, "%s/%06zu.%s: cannot be read", w->dir, i, kind);
      PU_TRY(doze(w, e));
    }
  return PU_OK;
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

typedef struct loop {
  const pu_work *w;
  const size_t *items;
  pu_work_fn fn;
  void *arg;
  const char *what;
  size_t n;
  _Atomic size_t done;
  pthread_mutex_t lock;
  size_t first_failed; /* SIZE_MAX: none */
  pu_err err;
  pu_error error;
} loop;

static void loop_one(loop *l, size_t i) {
  pthread_mutex_lock(&l->lock);
  bool failed = l->first_failed != SIZE_MAX;
  pthread_mutex_unlock(&l->lock);
  if (failed) return;
  pu_error mine = {0};
  pu_err err = l->fn(l->arg, l->items ? l->items[i] : i, &mine);
  size_t done = atomic_fetch_add(&l->done, 1) + 1;
  pthread_mutex_lock(&l->lock);
  if (err != PU_OK && i < l->first_failed) {
    l->first_failed = i;
    l->err = err;
    l->error = mine;
  }
  if (l->what && l->w->progress) l->w->progress(l->w->progress_arg, l->what, (double)done, (double)l->n);
  pthread_mutex_unlock(&l->lock);
}

static void loop_range(void *arg, int64_t begin, int64_t end, int worker) {
  (void)worker;
  for (int64_t i = begin; i < end; i++) loop_one(arg, (size_t)i);
}

static pu_err loop_run(loop *l, pu_error *e) {
  l->first_failed = SIZE_MAX;
  pthread_mutex_init(&l->lock, NULL);
  if (l->w->pool)
    pu_pool_run(l->w->pool, (int64_t)l->n, 1, loop_range, l);
  else
    loop_range(l, 0, (int64_t)l->n, 0);
  pthread_mutex_destroy(&l->lock);
  if (l->err != PU_OK && e) *e = l->error;
  return l->err;
}

pu_err pu_work_all(const pu_work *w, size_t n, pu_work_fn fn, void *arg, pu_error *e) {
  loop l = {.w = w, .fn = fn, .arg = arg, .n = n};
  return loop_run(&l, e);
}

pu_err pu_work_each(pu_work *w, size_t n, const char *kind, const char *what, pu_work_fn fn, void *arg, pu_error *e) {
  size_t *items = malloc((n + 1) * sizeof *items);
  if (!items) return pu_fail(e, PU_ERR_NOMEM, "no memory");
  size_t mine = 0;
  for (size_t i = 0; i < n; i++) {
    pu_map m;
    uint64_t count;
    if (i % (size_t)w->ranks != (size_t)w->rank) continue;
    if (pu_work_map(w, i, kind, &m, &count))
      pu_map_close(&m);
    else
      items[mine++] = i;
  }
  loop l = {.w = w, .items = items, .fn = fn, .arg = arg, .what = what, .n = mine};
  pu_err err = loop_run(&l, e);
  free(items);
  return err;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

pu_err pu_work_begin(pu_work *w, size_t index, const char *kind, pu_work_file *f, pu_error *e) {
  char path[4096];
  pu_work_path(w, path, index, kind);
  *f = (pu_work_file){.w = w};
  return pu_writer_begin(path, &f->writer, e);
}

pu_err pu_work_put(pu_work_file *f, const void *data, size_t len, pu_error *e) {
  f->bytes += len;
  return pu_writer_put(f->writer, data, len, e);
}

pu_err pu_work_end(pu_work_file *f, uint64_t count, pu_err err, pu_error *e) {
  if (!f->writer) return err;
  footer last = footer_of(f->w, count);
  if (err == PU_OK) err = pu_work_put(f, &last, sizeof last, e);
  err = pu_writer_end(f->writer, err, e);
  if (err == PU_OK) atomic_fetch_add(&f->w->disk, f->bytes);
  *f = (pu_work_file){0};
  return err;
}

/* ---- blobs: bytes, then the index -------------------------------------------------------------------------------- */

pu_err pu_blobs_begin(pu_work *w, size_t unit, pu_blob_writer *b, pu_error *e) {
  pu_buf_init(&b->index, PU_BUF_MAX);
  return pu_work_begin(w, unit, "blobs", &b->file, e);
}

pu_err pu_blobs_add(pu_blob_writer *b, uint64_t place, const void *data, size_t len, pu_error *e) {
  pu_blob x = {place, b->file.bytes};
  static const char zeros[8];
  if (!pu_buf_append(&b->index, &x, sizeof x)) return pu_fail(e, PU_ERR_NOMEM, "no memory for an index");
  PU_TRY(pu_work_put(&b->file, &len, sizeof len, e));
  PU_TRY(pu_work_put(&b->file, data, len, e));
  return pu_work_put(&b->file, zeros, (8 - len % 8) % 8, e);
}

pu_err pu_blobs_end(pu_blob_writer *b, pu_err err, pu_error *e) {
  if (err == PU_OK && b->index.len > 0) err = pu_work_put(&b->file, b->index.data, b->index.len, e);
  err = pu_work_end(&b->file, b->index.len / sizeof(pu_blob), err, e);
  pu_buf_deinit(&b->index);
  return err;
}

const pu_blob *pu_blobs_index(const pu_map *m, uint64_t count) {
  return (const pu_blob *)(const void *)(m->data + pu_work_bytes(m) - count * sizeof(pu_blob));
}

pu_str pu_blobs_at(const pu_map *m, uint64_t count, uint64_t i) {
  const char *p = (const char *)m->data + pu_blobs_index(m, count)[i].at;
  size_t len;
  memcpy(&len, p, sizeof len);
  return pu_str_of(p + sizeof len, len);
}

pu_str pu_blobs_find(const pu_map *m, uint64_t count, uint64_t place) {
  const pu_blob *index = pu_blobs_index(m, count);
  uint64_t low = 0, high = count;
  while (low < high) {
    uint64_t mid = low + (high - low) / 2;
    if (index[mid].place < place)
      low = mid + 1;
    else
      high = mid;
  }
  return low < count && index[low].place == place ? pu_blobs_at(m, count, low) : pu_str_of(NULL, 0);
}
