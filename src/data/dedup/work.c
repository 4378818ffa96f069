/* Files of the work folder. */
#include "src/data/dedup/work.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEY_BLOCK = 1 << 16, POLL_US = 20000 };

typedef struct footer {
  char magic[8];
  uint64_t hash, count, check; /* check: over the fields before */
} footer;

static footer footer_of(const work *w, uint64_t count) {
  footer f = {"pudedup1", w->hash, count, 0};
  f.check = pu_hash64(&f, offsetof(footer, check), 0);
  return f;
}

void work_path(const work *w, char path[4096], size_t index, const char *kind) {
  snprintf(path, 4096, "%s/%06zu.%s", w->dir, index, kind);
}

bool work_map(const work *w, size_t index, const char *kind, pu_map *m, uint64_t *count) {
  char path[4096];
  work_path(w, path, index, kind);
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

/* ---- other ranks ---------------------------------------------------------------------------------------------------
 */

pu_err work_sign(const work *w, const char *kind, bool there, pu_error *e) {
  char path[4096];
  work_path(w, path, (size_t)w->rank, kind);
  if (there) return pu_file_write(path, "", 0, e);
  return pu_remove_tree(path, e);
}

static bool signed_by(const work *w, int rank, const char *kind) {
  char path[4096];
  work_path(w, path, (size_t)rank, kind);
  return pu_path_exists(path);
}

static pu_err doze(const work *w, pu_error *e) {
  if (pu_signals_stop() || pu_signals_stop_writing())
    return pu_fail(e, PU_ERR_STOPPED, "%s: stopped while waiting for other ranks", w->dir);
  for (int r = 0; r < w->ranks; r++)
    if (r != w->rank && signed_by(w, r, "failed")) return pu_fail(e, PU_ERR_STOPPED, "%s: rank %d failed", w->dir, r);
  usleep(POLL_US);
  return PU_OK;
}

pu_err work_await(const work *w, const char *kind, pu_error *e) {
  for (int r = 0; r < w->ranks; r++)
    while (!signed_by(w, r, kind)) PU_TRY(doze(w, e));
  return PU_OK;
}

pu_err work_wait(const work *w, size_t n, const char *kind, pu_map *maps, uint64_t *counts, pu_error *e) {
  for (size_t i = 0; i < n; i++)
    while (!work_map(w, i, kind, &maps[i], &counts[i])) {
      if (w->ranks == 1) return pu_fail(e, PU_ERR_IO, "%s/%06zu.%s: cannot be read", w->dir, i, kind);
      PU_TRY(doze(w, e));
    }
  return PU_OK;
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

typedef struct loop {
  const work *w;
  const size_t *items;
  work_fn fn;
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
  if (l->what && l->w->o->progress) l->w->o->progress(l->w->o->progress_arg, l->what, (double)done, (double)l->n);
  pthread_mutex_unlock(&l->lock);
}

static void loop_range(void *arg, int64_t begin, int64_t end, int worker) {
  (void)worker;
  for (int64_t i = begin; i < end; i++) loop_one(arg, (size_t)i);
}

static pu_err loop_run(loop *l, pu_error *e) {
  l->first_failed = SIZE_MAX;
  pthread_mutex_init(&l->lock, NULL);
  if (l->w->o->pool)
    pu_pool_run(l->w->o->pool, (int64_t)l->n, 1, loop_range, l);
  else
    loop_range(l, 0, (int64_t)l->n, 0);
  pthread_mutex_destroy(&l->lock);
  if (l->err != PU_OK && e) *e = l->error;
  return l->err;
}

pu_err work_all(const work *w, size_t n, work_fn fn, void *arg, pu_error *e) {
  loop l = {.w = w, .fn = fn, .arg = arg, .n = n};
  return loop_run(&l, e);
}

pu_err work_each(work *w, size_t n, const char *kind, const char *what, work_fn fn, void *arg, pu_error *e) {
  size_t *items = malloc((n + 1) * sizeof *items);
  if (!items) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory");
  size_t mine = 0;
  for (size_t i = 0; i < n; i++) {
    pu_map m;
    uint64_t count;
    if (i % (size_t)w->ranks != (size_t)w->rank) continue;
    if (work_map(w, i, kind, &m, &count))
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

pu_err out_begin(work *w, size_t index, const char *kind, out_file *f, pu_error *e) {
  char path[4096];
  work_path(w, path, index, kind);
  *f = (out_file){.w = w};
  return pu_writer_begin(path, &f->writer, e);
}

pu_err out_put(out_file *f, const void *data, size_t len, pu_error *e) {
  f->bytes += len;
  return pu_writer_put(f->writer, data, len, e);
}

pu_err out_end(out_file *f, uint64_t count, pu_err err, pu_error *e) {
  if (!f->writer) return err;
  footer last = footer_of(f->w, count);
  if (err == PU_OK) err = out_put(f, &last, sizeof last, e);
  err = pu_writer_end(f->writer, err, e);
  if (err == PU_OK) atomic_fetch_add(&f->w->disk, f->bytes);
  *f = (out_file){0};
  return err;
}

/* ---- keys: blocks of [parts] counts, then pairs sorted by part ----------------------------------------------------
 */

pu_err keys_begin(work *w, size_t unit, size_t parts, key_writer *k, pu_error *e) {
  *k = (key_writer){.n_parts = parts};
  k->pairs = malloc(KEY_BLOCK * sizeof *k->pairs);
  k->sorted = malloc(KEY_BLOCK * sizeof *k->sorted);
  k->parts = malloc(KEY_BLOCK);
  if (!k->pairs || !k->sorted || !k->parts) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for keys");
  return out_begin(w, unit, "keys", &k->file, e);
}

static pu_err keys_flush(key_writer *k, pu_error *e) {
  uint64_t counts[256] = {0};
  size_t at[256], sum = 0;
  for (size_t i = 0; i < k->n; i++) counts[k->parts[i]]++;
  for (size_t p = 0; p < k->n_parts; p++) {
    at[p] = sum;
    sum += counts[p];
  }
  for (size_t i = 0; i < k->n; i++) k->sorted[at[k->parts[i]]++] = k->pairs[i];
  PU_TRY(out_put(&k->file, counts, k->n_parts * sizeof *counts, e));
  PU_TRY(out_put(&k->file, k->sorted, k->n * sizeof *k->sorted, e));
  k->total += k->n;
  k->n = 0;
  return PU_OK;
}

pu_err keys_add(key_writer *k, size_t part, uint64_t key, uint64_t place, pu_error *e) {
  if (k->n == KEY_BLOCK) PU_TRY(keys_flush(k, e));
  k->parts[k->n] = (uint8_t)part;
  k->pairs[k->n++] = (pu_pair){key, place};
  return PU_OK;
}

pu_err keys_end(key_writer *k, pu_err err, pu_error *e) {
  if (err == PU_OK && k->n > 0) err = keys_flush(k, e);
  err = out_end(&k->file, k->total, err, e);
  free(k->pairs);
  free(k->sorted);
  free(k->parts);
  return err;
}

pu_err keys_sort(const pu_map *m, size_t parts, size_t part, uint64_t base, pu_sorter *s, pu_error *e) {
  const uint64_t *p = (const uint64_t *)(const void *)m->data;
  const uint64_t *end = p + (m->len - sizeof(footer)) / sizeof *p;
  while (p < end) {
    const uint64_t *counts = p;
    uint64_t skip = 0, all = 0;
    for (size_t i = 0; i < parts; i++) {
      if (i < part) skip += counts[i];
      all += counts[i];
    }
    const uint64_t *pairs = p + parts;
    for (uint64_t i = 0; i < counts[part]; i++) {
      const uint64_t *pair = pairs + 2 * (skip + i);
      PU_TRY(pu_sorter_add(s, pair[0], pair[1] + base, e));
    }
    p = pairs + 2 * all;
  }
  return PU_OK;
}

/* ---- blobs: bytes, then the index -------------------------------------------------------------------------------- */

pu_err blobs_begin(work *w, size_t unit, blob_writer *b, pu_error *e) {
  pu_buf_init(&b->index, PU_BUF_MAX);
  return out_begin(w, unit, "blobs", &b->file, e);
}

pu_err blobs_add(blob_writer *b, uint64_t place, const void *data, size_t len, pu_error *e) {
  blob x = {place, b->file.bytes};
  static const char zeros[8];
  if (!pu_buf_append(&b->index, &x, sizeof x)) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for an index");
  PU_TRY(out_put(&b->file, &len, sizeof len, e));
  PU_TRY(out_put(&b->file, data, len, e));
  return out_put(&b->file, zeros, (8 - len % 8) % 8, e);
}

pu_err blobs_end(blob_writer *b, pu_err err, pu_error *e) {
  if (err == PU_OK && b->index.len > 0) err = out_put(&b->file, b->index.data, b->index.len, e);
  err = out_end(&b->file, b->index.len / sizeof(blob), err, e);
  pu_buf_deinit(&b->index);
  return err;
}

const blob *blobs_index(const pu_map *m, uint64_t count) {
  return (const blob *)(const void *)(m->data + m->len - sizeof(footer) - count * sizeof(blob));
}

pu_str blobs_at(const pu_map *m, uint64_t count, uint64_t i) {
  const char *p = (const char *)m->data + blobs_index(m, count)[i].at;
  size_t len;
  memcpy(&len, p, sizeof len);
  return pu_str_of(p + sizeof len, len);
}

pu_str blobs_find(const pu_map *m, uint64_t count, uint64_t place) {
  const blob *index = blobs_index(m, count);
  uint64_t low = 0, high = count;
  while (low < high) {
    uint64_t mid = low + (high - low) / 2;
    if (index[mid].place < place)
      low = mid + 1;
    else
      high = mid;
  }
  return low < count && index[low].place == place ? blobs_at(m, count, low) : pu_str_of(NULL, 0);
}
