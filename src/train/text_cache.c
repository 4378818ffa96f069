#include "src/train/text_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 1 << 20, MAX_DEPTH = 32 };

/* ---- which files ---- */

typedef struct file_list {
  pu_arena *a;
  const char **paths;
  size_t n, cap;
  uint64_t key; /* of how files are read, their names, sizes and times: a changed file makes a new cache */
  double bytes;
} file_list;

static bool wanted(const char *name, int type) {
  static const char *const text[] = {".txt", ".md", NULL}, *const jsonl[] = {".jsonl", NULL};
  size_t n = strlen(name);
  for (const char *const *end = type == PU_SOURCE_TEXT ? text : jsonl; *end; end++)
    if (n > strlen(*end) && strcmp(name + n - strlen(*end), *end) == 0) return true;
  return false;
}

static pu_err add_file(file_list *l, const char *path, pu_error *e) {
  struct stat st;
  if (stat(path, &st) != 0) return pu_fail(e, PU_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
  if (l->n == MAX_FILES) return pu_fail(e, PU_ERR_USAGE, "%s: more than %d files: use shards", path, MAX_FILES);
  if (l->n == l->cap) {
    size_t cap = PU_MAX(l->cap * 2, 64);
    const char **more = realloc(l->paths, cap * sizeof *more);
    if (!more) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of files", path);
    l->paths = more;
    l->cap = cap;
  }
  if (!(l->paths[l->n++] = pu_arena_strdup(l->a, path)))
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of files", path);
  int64_t facts[3] = {st.st_size, st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
  l->key = pu_hash64(facts, sizeof facts, pu_hash64(path, strlen(path), l->key));
  l->bytes += (double)st.st_size;
  return PU_OK;
}

static pu_err add_path(file_list *l, const char *path, int type, int depth, pu_error *e) {
  if (!pu_path_is_dir(path)) return add_file(l, path, e);
  if (depth == MAX_DEPTH) return pu_fail(e, PU_ERR_USAGE, "%s: folders nested deeper than %d", path, MAX_DEPTH);
  char **names;
  size_t n;
  PU_TRY(pu_dir_list(l->a, path, &names, &n, e));
  for (size_t i = 0; i < n; i++) {
    char *below = pu_path_join(l->a, path, names[i]);
    if (!below) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the list of files", path);
    if (pu_path_is_dir(below) || wanted(names[i], type)) PU_TRY(add_path(l, below, type, depth + 1, e));
  }
  return PU_OK;
}

/* ---- their documents ---- */

typedef struct work {
  const pu_train_source *source;
  const pu_tokenizer *t;
  pu_encoder *enc;
  pu_shard_writer *writer;
  pu_ids ids;
  pu_progress *progress;
  double done;
} work;

static pu_err add_document(work *w, pu_str text, uint64_t id, pu_error *e) {
  if (text.len == 0) return PU_OK;
  w->ids.n = 0;
  PU_TRY(pu_encoder_encode(w->enc, text, PU_ENCODE_BOS | PU_ENCODE_EOS, &w->ids, e));
  return pu_shard_writer_add(w->writer, w->ids.v, w->ids.n, NULL, id, e);
}

static const json_t *text_of(const json_t *object, const char *key) {
  if (key) return json_object_get(object, key);
  const json_t *content = json_object_get(object, "content");
  return content ? content : json_object_get(object, "text");
}

static pu_err add_line(work *w, pu_str line, const char *path, int64_t number, pu_error *e) {
  char where[600];
  snprintf(where, sizeof where, "%.500s:%lld", path, (long long)number);
  json_t *object;
  PU_TRY(pu_json_parse(where, line, &object, e));
  const json_t *text = text_of(object, w->source->key);
  pu_err err = PU_OK;
  if (!json_is_string(text))
    err = pu_fail(e, PU_ERR_FORMAT, "%s: no text under '%s': set the source's `key`", where,
                  w->source->key ? w->source->key : "content");
  else
    err = add_document(w, pu_str_of(json_string_value(text), json_string_length(text)),
                       pu_hash64(where, strlen(where), 0), e);
  json_decref(object);
  return err;
}

static pu_err add_lines(work *w, pu_str text, const char *path, pu_error *e) {
  int64_t number = 0;
  for (size_t at = 0; at < text.len;) {
    const char *end = memchr(text.ptr + at, '\n', text.len - at);
    size_t len = end ? (size_t)(end - text.ptr) - at : text.len - at;
    number++;
    pu_str line = pu_str_of(text.ptr + at, len);
    at += len + 1;
    if (line.len == 0 || (line.len == 1 && line.ptr[0] == '\r')) continue;
    PU_TRY(add_line(w, line, path, number, e));
    pu_progress_set(w->progress, w->done + (double)at, NULL);
  }
  return PU_OK;
}

static pu_err add_text_file(work *w, const char *path, pu_error *e) {
  pu_map map;
  PU_TRY(pu_map_open(path, &map, e));
  pu_str text = pu_str_of((const char *)map.data, map.len);
  pu_err err = w->source->type == PU_SOURCE_TEXT ? add_document(w, text, pu_hash64(path, strlen(path), 0), e)
                                                 : add_lines(w, text, path, e);
  w->done += (double)map.len;
  pu_progress_set(w->progress, w->done, NULL);
  pu_map_close(&map);
  return err;
}

static pu_err write_shards(work *w, const file_list *l, const char *dir, pu_error *e) {
  pu_shard_writer_options o = {.vocab_size = pu_tokenizer_size(w->t), .tokenizer_hash = pu_tokenizer_hash(w->t)};
  PU_TRY(pu_encoder_create(w->t, &w->enc, e));
  pu_err err = pu_shard_writer_open(dir, &o, &w->writer, e);
  if (err == PU_OK) {
    w->progress = pu_progress_open("tokenise", "B", l->bytes);
    for (size_t i = 0; err == PU_OK && i < l->n; i++) {
      err = add_text_file(w, l->paths[i], e);
      if (err == PU_OK && pu_signals_stop())
        err = pu_fail(e, PU_ERR_STOPPED, "stopped while text was tokenised: the same command begins that anew");
    }
    pu_progress_close(w->progress);
    if (err == PU_OK)
      err = pu_shard_writer_close(w->writer, e);
    else
      pu_shard_writer_abort(w->writer);
  }
  pu_ids_deinit(&w->ids);
  pu_encoder_free(w->enc);
  return err;
}

/* ---- the cache ---- */

static pu_err make_cache(const file_list *l, const pu_train_source *s, const pu_tokenizer *t, const char *dir,
                         pu_error *e) {
  const char *temporary = pu_arena_printf(l->a, "%s.tmp", dir);
  if (!temporary) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its name", dir);
  PU_TRY(pu_remove_tree(temporary, e));
  PU_TRY(pu_mkdirs(temporary, e));
  work w = {.source = s, .t = t};
  pu_err err = write_shards(&w, l, temporary, e);
  if (err == PU_OK && rename(temporary, dir) != 0)
    err = pu_fail(e, PU_ERR_IO, "%s: cannot rename the cache into place: %s", dir, strerror(errno));
  if (err != PU_OK) (void)!pu_remove_tree(temporary, NULL);
  return err;
}

pu_err pu_train_text_cache(const pu_train_source *s, const pu_tokenizer *t, const char *run, pu_arena *a,
                           const char **dir, pu_error *e) {
  file_list l = {.a = a, .key = pu_hash64(&s->type, sizeof s->type, pu_tokenizer_hash(t))};
  if (s->key) l.key = pu_hash64(s->key, strlen(s->key), l.key);
  pu_err err = add_path(&l, s->path, s->type, 0, e);
  if (err == PU_OK && l.n == 0)
    err = pu_fail(e, PU_ERR_USAGE, "%s: no %s files in it", s->path, s->type == PU_SOURCE_TEXT ? ".txt" : ".jsonl");
  *dir = err == PU_OK ? pu_arena_printf(a, "%s/cache/text-%016llx", run, (unsigned long long)l.key) : NULL;
  if (err == PU_OK && !*dir) err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the name of its cache", s->path);
  if (err == PU_OK && !pu_path_is_dir(*dir)) err = make_cache(&l, s, t, *dir, e);
  free(l.paths);
  return err;
}

/* By the last part of the name: all lie in one folder, however the run is spelled. */
static bool kept(const char *name, const char *const *keep, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (keep[i] && strcmp(name, strrchr(keep[i], '/') + 1) == 0) return true;
  return false;
}

static pu_err prune(pu_arena *a, const char *run, const char *const *keep, size_t n, pu_error *e) {
  const char *cache = pu_path_join(a, run, "cache");
  char **names;
  size_t n_names;
  if (!cache) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the name of its cache", run);
  if (!pu_path_is_dir(cache)) return PU_OK;
  PU_TRY(pu_dir_list(a, cache, &names, &n_names, e));
  for (size_t i = 0; i < n_names; i++) {
    const char *path = pu_path_join(a, cache, names[i]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for the names in it", cache);
    if (strncmp(names[i], "text-", 5) == 0 && !kept(names[i], keep, n)) PU_TRY(pu_remove_tree(path, e));
  }
  (void)!rmdir(cache); /* where nothing is left in it */
  return PU_OK;
}

pu_err pu_train_text_cache_prune(const char *run, const char *const *keep, size_t n, pu_error *e) {
  pu_arena *a;
  PU_TRY(pu_arena_create((size_t)16 << 20, &a, e));
  pu_err err = prune(a, run, keep, n, e);
  pu_arena_free(a);
  return err;
}
