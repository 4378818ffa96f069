/* Which files a folder has. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "puyu/text.h"
#include "src/rag/internal.h"

enum { MAX_DEPTH = 64 };

/* The index and what SQLite keeps beside it, where they are inside of the folder. */
static bool is_index(const pu_rag *r, const char *path) {
  static const char *const endings[] = {"", "-wal", "-shm", "-journal"};
  size_t n = strlen(r->index);
  if (strncmp(path, r->index, n) != 0) return false;
  for (size_t i = 0; i < PU_COUNT(endings); i++)
    if (strcmp(path + n, endings[i]) == 0) return true;
  return false;
}

static pu_err file_add(rag_files *f, const char *path, const struct stat *st, pu_error *e) {
  if (f->n == f->cap) {
    size_t cap = f->cap ? 2 * f->cap : 256;
    rag_file *grown = realloc(f->v, cap * sizeof *grown);
    if (!grown) return pu_fail(e, PU_ERR_NOMEM, "no memory for a list of %zu files", cap);
    f->v = grown;
    f->cap = cap;
  }
  int64_t time = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
  f->v[f->n++] = (rag_file){.path = path, .stamp = {(int64_t)st->st_size, time}};
  return PU_OK;
}

static pu_err walk(const pu_rag *r, rag_files *f, const char *dir, int depth, pu_error *e) {
  char **names;
  size_t n;
  if (depth > MAX_DEPTH) return pu_fail(e, PU_ERR_USAGE, "%s: folders nested deeper than %d", dir, MAX_DEPTH);
  PU_TRY(pu_dir_list(f->arena, dir, &names, &n, e));
  for (size_t i = 0; i < n; i++) {
    struct stat st;
    if (names[i][0] == '.') continue;
    char *path = pu_path_join(f->arena, dir, names[i]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to list its files", r->dir);
    if (lstat(path, &st) != 0) continue; /* gone since it was listed */
    if (S_ISDIR(st.st_mode))
      PU_TRY(walk(r, f, path, depth + 1, e));
    else if (S_ISREG(st.st_mode) && !is_index(r, path))
      PU_TRY(file_add(f, path + strlen(r->dir) + 1, &st, e));
  }
  return PU_OK;
}

static int by_path(const void *a, const void *b) {
  return strcmp(((const rag_file *)a)->path, ((const rag_file *)b)->path);
}

pu_err rag_walk(const pu_rag *r, rag_files *out, pu_error *e) {
  PU_TRY(pu_arena_create((size_t)1 << 30, &out->arena, e));
  PU_TRY(walk(r, out, r->dir, 0, e));
  if (out->n > 0) qsort(out->v, out->n, sizeof *out->v, by_path);
  return PU_OK;
}

void rag_files_free(rag_files *f) {
  free(f->v);
  pu_arena_free(f->arena);
}

const rag_file *rag_files_find(const rag_files *f, pu_str path) {
  size_t low = 0, high = f->n;
  while (low < high) {
    size_t mid = (low + high) / 2, len = strlen(f->v[mid].path);
    int order = memcmp(path.ptr, f->v[mid].path, PU_MIN(path.len, len));
    if (order == 0 && path.len == len) return &f->v[mid];
    if (order < 0 || (order == 0 && path.len < len))
      high = mid;
    else
      low = mid + 1;
  }
  return NULL;
}
