/* Files of sources, cut into units. The cut depends on the files alone, so that any number of workers makes the same.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/data/sources.h"

enum { MAX_DEPTH = 32 };

typedef struct place {
  dev_t dev;
  ino_t ino;
} place;

typedef struct listing {
  pu_arena *arena;
  size_t base;            /* bytes of a path before the name of its file */
  const char *repository; /* of what is listed now, in ids; NULL: none yet */
  place in[MAX_DEPTH];    /* folders that what is listed now lies in */
  pu_source_file *v;
  size_t n, cap;
} listing;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "sources: no memory");
}

static const char *name_of(const listing *l, const char *path) {
  return path + l->base + strspn(path + l->base, "/");
}

static pu_err list(listing *l, const char *path, int depth, pu_error *e);

static pu_err list_folder(listing *l, const char *path, int depth, pu_error *e) {
  char **names;
  size_t n;
  const char *outer = l->repository;
  PU_TRY(pu_dir_list(l->arena, path, &names, &n, e));
  bool is_one = depth == 1 && !outer;
  for (size_t i = 0; i < n; i++) is_one |= strcmp(names[i], ".git") == 0;
  if (is_one) l->repository = name_of(l, path);
  for (size_t i = 0; i < n; i++) {
    char *below = pu_path_join(l->arena, path, names[i]);
    if (!below) return nomem(e);
    if (names[i][0] != '.') PU_TRY(list(l, below, depth + 1, e));
  }
  l->repository = outer;
  return PU_OK;
}

/* Where it is what the name says anyway, documents need not carry it. */
static const char *repository_of(const listing *l, const char *name) {
  size_t first = strcspn(name, "/"), len = l->repository ? strlen(l->repository) : 0;
  bool said = name[first] ? len == first && strncmp(name, l->repository ? l->repository : "", first) == 0 : len == 0;
  return said ? NULL : l->repository;
}

static pu_err add_file(listing *l, const char *path, uint64_t bytes, const char *why, pu_error *e) {
  if (l->n == l->cap) {
    size_t cap = PU_MAX((size_t)64, 2 * l->cap);
    pu_source_file *grown = realloc(l->v, cap * sizeof *grown);
    if (!grown) return nomem(e);
    l->v = grown;
    l->cap = cap;
  }
  char *copy = pu_arena_strdup(l->arena, path), *reason = why ? pu_arena_strdup(l->arena, why) : NULL;
  if (!copy || (why && !reason)) return nomem(e);
  const char *name = name_of(l, copy);
  l->v[l->n++] = (pu_source_file){copy, name, repository_of(l, name), bytes, reason};
  return PU_OK;
}

/* NULL: it can be listed. */
static const char *why_not(listing *l, const char *path, const struct stat *st, int depth) {
  if (access(path, R_OK | X_OK) != 0) return strerror(errno);
  for (int i = 0; i < depth; i++)
    if (l->in[i].dev == st->st_dev && l->in[i].ino == st->st_ino) return "a link to a folder that it lies in";
  if (depth == MAX_DEPTH) return "folders nested too deep";
  l->in[depth] = (place){st->st_dev, st->st_ino};
  return NULL;
}

static pu_err list(listing *l, const char *path, int depth, pu_error *e) {
  struct stat st;
  const char *why;
  if (stat(path, &st) != 0)
    return depth > 0 ? add_file(l, path, 0, strerror(errno), e)
                     : pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  if (S_ISDIR(st.st_mode)) {
    why = why_not(l, path, &st, depth);
    if (!why) return list_folder(l, path, depth, e);
    return depth > 0 ? add_file(l, path, 0, why, e) : pu_fail(e, PU_ERR_IO, "%s: %s", path, why);
  }
  if (!S_ISREG(st.st_mode)) return PU_OK; /* a pipe would wait for ever */
  why = depth > 0 && access(path, R_OK) != 0 ? strerror(errno) : NULL;
  return add_file(l, path, why ? 0 : (uint64_t)st.st_size, why, e);
}

/* Without "./" before it, "/" behind it, and more than one "/" in a place. */
static char *cleaned(pu_arena *a, const char *path) {
  char *out = pu_arena_alloc(a, strlen(path) + 2), *p = out;
  if (!out) return NULL;
  while (path[0] == '.' && path[1] == '/') path += 1 + strspn(path + 1, "/");
  for (const char *c = path; *c; c++)
    if (*c != '/' || p == out || p[-1] != '/') *p++ = *c;
  if (p > out + 1 && p[-1] == '/') p--;
  if (p == out) *p++ = '.';
  *p = '\0';
  return out;
}

/* Bytes of the folder that the path is in, with the slash. */
static size_t parent_bytes(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? (size_t)(slash - path) + 1 : 0;
}

/* Of a folder that is no repository itself, all of it. Else the last folder that all of the paths are in. */
static size_t base_bytes(pu_arena *a, char *const *paths, size_t n) {
  const char *git = n == 1 ? pu_path_join(a, paths[0], ".git") : NULL;
  if (n == 1 && pu_path_is_dir(paths[0]) && !(git && pu_path_exists(git))) return strlen(paths[0]);
  size_t base = n > 0 ? parent_bytes(paths[0]) : 0;
  for (size_t i = 1; i < n; i++) {
    size_t same = 0, most = PU_MIN(base, parent_bytes(paths[i])), k = 0;
    for (; k < most && paths[0][k] == paths[i][k]; k++)
      if (paths[0][k] == '/') same = k + 1;
    base = same;
  }
  return base;
}

static pu_err list_all(listing *l, const pu_strs *paths, pu_error *e) {
  char **v = pu_arena_zalloc(l->arena, (paths->n + 1) * sizeof *v);
  if (!v) return nomem(e);
  for (size_t i = 0; i < paths->n; i++)
    if (!(v[i] = cleaned(l->arena, paths->v[i]))) return nomem(e);
  l->base = base_bytes(l->arena, v, paths->n);
  for (size_t i = 0; i < paths->n; i++) PU_TRY(list(l, v[i], 0, e));
  return PU_OK;
}

static pu_err add(pu_source_units *u, const pu_source *s, pu_source_unit unit, size_t number, pu_error *e) {
  if (u->n == u->cap) {
    size_t cap = PU_MAX((size_t)64, 2 * u->cap);
    pu_source_unit *grown = realloc(u->v, cap * sizeof *grown);
    if (!grown) return nomem(e);
    u->v = grown;
    u->cap = cap;
  }
  unit.name = pu_arena_printf(u->arena, "%s-%05zu", s->name, number);
  if (!unit.name) return nomem(e);
  u->v[u->n++] = unit;
  return PU_OK;
}

static pu_err cut(pu_source_units *u, const pu_source *s, size_t source, pu_error *e) {
  const pu_source_file *files = u->files[source];
  const pu_read_options o = pu_source_read(s, (pu_skips){0});
  size_t n = u->n_files[source], number = 0;
  for (size_t i = 0; i < n;) {
    pu_source_unit unit = {.source = source, .file = i, .n_files = 1, .bytes = files[i].bytes};
    bool split = false;
    if (files[i].bytes > PU_UNIT_BYTES) PU_TRY(pu_file_in_ranges(files[i].path, &o, &split, e));
    if (split) {
      for (uint64_t at = 0; at < files[i].bytes; at += PU_UNIT_BYTES) {
        unit.begin = at;
        unit.end = PU_MIN(at + PU_UNIT_BYTES, files[i].bytes);
        unit.bytes = unit.end - unit.begin;
        PU_TRY(add(u, s, unit, number++, e));
      }
      i++;
      continue;
    }
    for (i++; i < n && unit.n_files < PU_UNIT_FILES && unit.bytes + files[i].bytes <= PU_UNIT_BYTES; i++) {
      unit.bytes += files[i].bytes;
      unit.n_files++;
    }
    PU_TRY(add(u, s, unit, number++, e));
  }
  return PU_OK;
}

static pu_err check_name(const pu_source *s, size_t i, const pu_source *all, pu_error *e) {
  const char *name = s->name ? s->name : "";
  bool good = name[0] && strlen(name) <= 64;
  for (const char *c = name; *c; c++) good &= isalnum((unsigned char)*c) || *c == '-' || *c == '_' || *c == '.';
  if (!good || name[0] == '.')
    return pu_fail(e, PU_ERR_USAGE, "source %zu: its name '%s' must be letters, digits, - _ . (it names files)", i + 1,
                   name);
  for (size_t k = 0; k < i; k++)
    if (strcmp(all[k].name, name) == 0) return pu_fail(e, PU_ERR_USAGE, "two sources are called '%s'", name);
  return PU_OK;
}

pu_err pu_source_units_make(const pu_source *sources, size_t n, pu_source_units *out, pu_error *e) {
  *out = (pu_source_units){0};
  PU_TRY(pu_arena_create((size_t)4 << 30, &out->arena, e));
  out->files = pu_arena_zalloc(out->arena, (n + 1) * sizeof *out->files);
  out->n_files = pu_arena_zalloc(out->arena, (n + 1) * sizeof *out->n_files);
  if (!out->files || !out->n_files) return nomem(e);
  for (size_t i = 0; i < n; i++) {
    const pu_source *s = &sources[i];
    listing l = {.arena = out->arena};
    pu_err err = check_name(s, i, sources, e);
    if (err == PU_OK) err = list_all(&l, &s->paths, e);
    out->files[i] = l.v;
    out->n_files[i] = l.n;
    PU_TRY(err);
    if (l.n == 0)
      return pu_fail(e, PU_ERR_USAGE, "source '%s': no file in %s", s->name, s->paths.n ? s->paths.v[0] : "it");
    PU_TRY(cut(out, s, i, e));
  }
  return n > 0 ? PU_OK : pu_fail(e, PU_ERR_USAGE, "no source was given");
}

void pu_source_units_deinit(pu_source_units *u) {
  for (size_t i = 0; u->files && u->files[i]; i++) free(u->files[i]);
  free(u->v);
  pu_arena_free(u->arena);
  *u = (pu_source_units){0};
}

pu_read_options pu_source_read(const pu_source *s, pu_skips skips) {
  return (pu_read_options){.source = s->name,
                           .format = s->format,
                           .key = s->key,
                           .charset = s->charset,
                           .split = (pu_split)s->split,
                           .html = s->html,
                           .skips = skips};
}
