/* Files of sources, cut into units. The cut depends on the files alone, so that any number of workers makes the same.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/data/sources.h"

enum { MAX_DEPTH = 32 };

typedef struct listing {
  pu_arena *arena;
  pu_source_file *v;
  size_t n, cap;
} listing;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "sources: no memory");
}

static pu_err list(listing *l, const char *path, int depth, pu_error *e) {
  struct stat st;
  if (stat(path, &st) != 0) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  if (S_ISDIR(st.st_mode)) {
    char **names;
    size_t n;
    if (depth == MAX_DEPTH) return pu_fail(e, PU_ERR_USAGE, "%s: folders nested deeper than %d", path, MAX_DEPTH);
    PU_TRY(pu_dir_list(l->arena, path, &names, &n, e));
    for (size_t i = 0; i < n; i++) {
      char *below = pu_path_join(l->arena, path, names[i]);
      if (!below) return nomem(e);
      if (names[i][0] != '.') PU_TRY(list(l, below, depth + 1, e));
    }
    return PU_OK;
  }
  if (!S_ISREG(st.st_mode)) return PU_OK; /* a pipe would wait for ever */
  if (l->n == l->cap) {
    size_t cap = PU_MAX((size_t)64, 2 * l->cap);
    pu_source_file *grown = realloc(l->v, cap * sizeof *grown);
    if (!grown) return nomem(e);
    l->v = grown;
    l->cap = cap;
  }
  char *copy = pu_arena_strdup(l->arena, path);
  if (!copy) return nomem(e);
  l->v[l->n++] = (pu_source_file){copy, (uint64_t)st.st_size};
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
    for (size_t k = 0; err == PU_OK && k < s->paths.n; k++) err = list(&l, s->paths.v[k], 0, e);
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
