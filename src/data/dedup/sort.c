/* External merge sort of pairs of numbers. */
#include "src/data/dedup/sort.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FAN_IN = 64, SMALL = 32 };
#define LEAST_MEMORY ((size_t)1 << 20)
#define LEAST_BUFFER ((size_t)16 << 10) /* bytes of a run that are read at once */

static inline bool before(pu_pair x, pu_pair y) {
  return x.a != y.a ? x.a < y.a : x.b < y.b;
}

/* ---- in memory --------------------------------------------------------------------------------------------------- */

static void insertion(pu_pair *v, size_t n) {
  for (size_t i = 1; i < n; i++) {
    pu_pair x = v[i];
    size_t j = i;
    for (; j > 0 && before(x, v[j - 1]); j--) v[j] = v[j - 1];
    v[j] = x;
  }
}

/* Byte `place` of a pair, counted from the first that decides. */
static inline unsigned digit(pu_pair x, int place) {
  return (unsigned)((place < 8 ? x.a : x.b) >> (56 - 8 * (place & 7)) & 255);
}

/* By the bytes from `place` on; sixteen calls deep at most. */
static void flag_sort(pu_pair *v, size_t n, int place) {
  if (n <= SMALL || place == 16) {
    if (place < 16) insertion(v, n);
    return;
  }
  size_t count[256] = {0}, next[256], end[256], sum = 0;
  for (size_t i = 0; i < n; i++) count[digit(v[i], place)]++;
  for (int d = 0; d < 256; d++) {
    next[d] = sum;
    sum += count[d];
    end[d] = sum;
  }
  for (unsigned d = 0; d < 256; d++)
    while (next[d] < end[d]) {
      pu_pair x = v[next[d]];
      for (unsigned to; (to = digit(x, place)) != d;) {
        pu_pair other = v[next[to]];
        v[next[to]++] = x;
        x = other;
      }
      v[next[d]++] = x;
    }
  for (int d = 0; d < 256; d++)
    if (count[d] > 1) flag_sort(v + end[d] - count[d], count[d], place + 1);
}

void pu_pairs_sort(pu_pair *v, size_t n) {
  flag_sort(v, n, 0);
}

/* ---- merging: a heap of sources by their first pair -------------------------------------------------------------- */

typedef struct source {
  pu_pair head;
  size_t index;
} source;

static bool earlier(const source *x, const source *y) {
  return before(x->head, y->head) || (!before(y->head, x->head) && x->index < y->index);
}

static void sift(source *h, size_t n, size_t at) {
  source x = h[at];
  for (size_t child; (child = 2 * at + 1) < n; at = child) {
    if (child + 1 < n && earlier(&h[child + 1], &h[child])) child++;
    if (!earlier(&h[child], &x)) break;
    h[at] = h[child];
  }
  h[at] = x;
}

static void heapify(source *h, size_t n) {
  for (size_t i = n / 2; i-- > 0;) sift(h, n, i);
}

struct pu_merge {
  const pu_pair **at, **end;
  source *heap;
  size_t n;
};

pu_err pu_merge_open(const pu_pair *const *arrays, const size_t *lengths, size_t n, pu_merge **out, pu_error *e) {
  pu_merge *m = calloc(1, sizeof *m);
  if (m) {
    m->at = calloc(n + 1, sizeof *m->at);
    m->end = calloc(n + 1, sizeof *m->end);
    m->heap = calloc(n + 1, sizeof *m->heap);
  }
  *out = m;
  if (!m || !m->at || !m->end || !m->heap) {
    pu_merge_close(m);
    *out = NULL;
    return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory to merge %zu files", n);
  }
  for (size_t i = 0; i < n; i++) {
    if (lengths[i] == 0) continue;
    m->at[i] = arrays[i] + 1;
    m->end[i] = arrays[i] + lengths[i];
    m->heap[m->n++] = (source){arrays[i][0], i};
  }
  heapify(m->heap, m->n);
  return PU_OK;
}

bool pu_merge_next(pu_merge *m, pu_pair *out) {
  if (m->n == 0) return false;
  source *top = &m->heap[0];
  *out = top->head;
  if (m->at[top->index] < m->end[top->index])
    top->head = *m->at[top->index]++;
  else
    *top = m->heap[--m->n];
  if (m->n > 1) sift(m->heap, m->n, 0);
  return true;
}

void pu_merge_close(pu_merge *m) {
  if (!m) return;
  free(m->at);
  free(m->end);
  free(m->heap);
  free(m);
}

/* ---- on disk ----------------------------------------------------------------------------------------------------- */

/* A run of sorted pairs in a file of its own, read through a part of the memory. */
typedef struct run {
  FILE *file; /* unlinked as soon as it is open */
  pu_pair *buffer;
  size_t at, held, cap;
} run;

struct pu_sorter {
  char *prefix;
  pu_pair *v;              /* [room]: what is being added; while merging, the runs' buffers */
  size_t n, room, cap, at; /* room grows to cap before anything goes to disk */
  run runs[FAN_IN];
  source heap[FAN_IN];
  size_t n_runs, n_heap;
  int written;
  bool merging;
};

static pu_err disk_error(const pu_sorter *s, const char *what, pu_error *e) {
  return pu_fail(e, PU_ERR_IO, "%s: cannot %s a run of the sort: %s%s", s->prefix, what, strerror(errno),
                 errno == ENOSPC ? ": make room there, or work on another disk" : "");
}

pu_err pu_sorter_create(const char *prefix, size_t memory, pu_sorter **out, pu_error *e) {
  pu_sorter *s = calloc(1, sizeof *s);
  if (s) {
    s->cap = PU_MAX(memory, LEAST_MEMORY) / sizeof *s->v;
    s->prefix = strdup(prefix);
    s->room = PU_MIN(s->cap, LEAST_MEMORY / sizeof *s->v);
    s->v = malloc(s->room * sizeof *s->v);
  }
  *out = s;
  if (s && s->prefix && s->v) return PU_OK;
  pu_sorter_free(s);
  *out = NULL;
  return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for sorting (%zu MiB)", memory >> 20);
}

void pu_sorter_free(pu_sorter *s) {
  if (!s) return;
  for (size_t i = 0; i < s->n_runs; i++)
    if (s->runs[i].file) fclose(s->runs[i].file);
  free(s->v);
  free(s->prefix);
  free(s);
}

static pu_err run_open(pu_sorter *s, FILE **out, pu_error *e) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s.%d.run", s->prefix, s->written++);
  *out = fopen(path, "w+be");
  if (!*out) return disk_error(s, "write", e);
  unlink(path);
  return PU_OK;
}

static pu_err run_fill(const pu_sorter *s, run *r, pu_error *e) {
  r->at = 0;
  r->held = fread(r->buffer, sizeof *r->buffer, r->cap, r->file);
  return ferror(r->file) ? disk_error(s, "read", e) : PU_OK;
}

/* All runs from their beginning, each with its part of buffer. */
static pu_err merge_begin(pu_sorter *s, pu_pair *buffer, size_t cap, pu_error *e) {
  s->n_heap = 0;
  for (size_t i = 0; i < s->n_runs; i++) {
    run *r = &s->runs[i];
    r->cap = cap / s->n_runs;
    r->buffer = buffer + i * r->cap;
    rewind(r->file);
    PU_TRY(run_fill(s, r, e));
    if (r->held > 0) s->heap[s->n_heap++] = (source){r->buffer[r->at++], i};
  }
  heapify(s->heap, s->n_heap);
  return PU_OK;
}

static pu_err merge_step(pu_sorter *s, pu_pair *out, bool *found, pu_error *e) {
  *found = s->n_heap > 0;
  if (!*found) return PU_OK;
  source *top = &s->heap[0];
  *out = top->head;
  run *r = &s->runs[top->index];
  if (r->at == r->held) PU_TRY(run_fill(s, r, e));
  if (r->at < r->held)
    top->head = r->buffer[r->at++];
  else
    *top = s->heap[--s->n_heap];
  if (s->n_heap > 1) sift(s->heap, s->n_heap, 0);
  return PU_OK;
}

/* All runs there are become one. */
static pu_err runs_join(pu_sorter *s, pu_error *e) {
  FILE *file;
  PU_TRY(run_open(s, &file, e));
  size_t half = s->cap / 2, n = 0;
  pu_pair *out = s->v + half;
  pu_err err = merge_begin(s, s->v, half, e);
  for (bool more = true; err == PU_OK && more;) {
    pu_pair x;
    err = merge_step(s, &x, &more, e);
    if (err == PU_OK && more) out[n++] = x;
    if (n < s->cap - half && more) continue;
    if (err == PU_OK && fwrite(out, sizeof *out, n, file) != n) err = disk_error(s, "write", e);
    n = 0;
  }
  if (err != PU_OK) {
    fclose(file);
    return err;
  }
  for (size_t i = 0; i < s->n_runs; i++) fclose(s->runs[i].file);
  s->runs[0] = (run){.file = file};
  s->n_runs = 1;
  return PU_OK;
}

/* What is in memory becomes a run. */
static pu_err spill(pu_sorter *s, pu_error *e) {
  FILE *file;
  pu_pairs_sort(s->v, s->n);
  PU_TRY(run_open(s, &file, e));
  setvbuf(file, NULL, _IONBF, 0); /* read and written in large pieces */
  s->runs[s->n_runs++] = (run){.file = file};
  if (fwrite(s->v, sizeof *s->v, s->n, file) != s->n) return disk_error(s, "write", e);
  s->n = 0;
  size_t most = PU_MIN((size_t)FAN_IN, s->cap / 2 * sizeof *s->v / LEAST_BUFFER);
  return s->n_runs >= most ? runs_join(s, e) : PU_OK;
}

static pu_err make_room(pu_sorter *s, pu_error *e) {
  if (s->room == s->cap) return spill(s, e);
  size_t room = s->room < s->cap / 2 ? 2 * s->room : s->cap;
  pu_pair *grown = realloc(s->v, room * sizeof *grown);
  if (!grown) return pu_fail(e, PU_ERR_NOMEM, "dedup: no memory for sorting (%zu MiB)", room * sizeof *grown >> 20);
  s->v = grown;
  s->room = room;
  return PU_OK;
}

pu_err pu_sorter_add(pu_sorter *s, uint64_t a, uint64_t b, pu_error *e) {
  if (s->n == s->room) PU_TRY(make_room(s, e));
  s->v[s->n++] = (pu_pair){a, b};
  return PU_OK;
}

pu_err pu_sorter_next(pu_sorter *s, pu_pair *out, bool *found, pu_error *e) {
  if (!s->merging) {
    s->merging = true;
    if (s->n_runs == 0) {
      pu_pairs_sort(s->v, s->n);
    } else {
      PU_TRY(spill(s, e));
      PU_TRY(merge_begin(s, s->v, s->cap, e));
    }
  }
  if (s->n_runs > 0) return merge_step(s, out, found, e);
  *found = s->at < s->n;
  if (*found) *out = s->v[s->at++];
  return PU_OK;
}

int pu_sorter_runs(const pu_sorter *s) {
  return s->written;
}
