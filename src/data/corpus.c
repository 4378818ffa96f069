/* A corpus that a user names: the documents of files and folders, by the readers. What the pipeline would pass over as
 * broken is an error here. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/data/reader.h"

enum { MAX_DEPTH = 16 };

typedef struct corpus_file {
  char *path;
  double bytes;
} corpus_file;

struct pu_corpus {
  pu_arena *arena;
  corpus_file *files;
  size_t n, cap, at; /* at: the file that is open, or the next one */
  pu_read_options o;
  pu_input *in;        /* of reading, which owns it */
  pu_reading *reading; /* NULL: no file is open */
  pu_doc doc;          /* the last one given out */
  pu_error broken;     /* what could not be read; empty: nothing so far */
  double total, finished;
};

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "corpus: no memory");
}

/* ---- which files ------------------------------------------------------------------------------------------------- */

static pu_err files_add(pu_corpus *c, const char *path, int depth, pu_error *e) {
  struct stat st;
  if (stat(path, &st) != 0) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  if (S_ISDIR(st.st_mode)) {
    if (depth == MAX_DEPTH) return pu_fail(e, PU_ERR_USAGE, "%s: folders nested deeper than %d", path, MAX_DEPTH);
    char **names;
    size_t n;
    PU_TRY(pu_dir_list(c->arena, path, &names, &n, e));
    for (size_t i = 0; i < n; i++) {
      char *below = pu_path_join(c->arena, path, names[i]);
      if (!below) return nomem(e);
      if (names[i][0] != '.') PU_TRY(files_add(c, below, depth + 1, e));
    }
    return PU_OK;
  }
  if (c->n == c->cap) {
    size_t cap = c->cap ? c->cap * 2 : 64;
    corpus_file *grown = realloc(c->files, cap * sizeof *grown);
    if (!grown) return nomem(e);
    c->files = grown;
    c->cap = cap;
  }
  char *copy = pu_arena_strdup(c->arena, path);
  if (!copy) return nomem(e);
  c->files[c->n++] = (corpus_file){copy, (double)st.st_size};
  c->total += (double)st.st_size;
  return PU_OK;
}

/* ---- what is broken ---------------------------------------------------------------------------------------------- */

static void on_skip(void *arg, const char *path, uint64_t offset, const char *why) {
  pu_corpus *c = arg;
  (void)offset;
  if (c->broken.msg[0]) return;
  uint64_t number = c->in ? pu_input_number(c->in) : 0;
  char place[32] = "";
  if (number > 0) snprintf(place, sizeof place, ":%llu", (unsigned long long)number);
  (void)pu_fail(&c->broken, PU_ERR_FORMAT, "%s%s: %s", path, place, why);
}

/* Pages of other types, pictures in archives: nothing that a text would be missing. */
static void on_pass(void *arg, const char *path, uint64_t offset, const char *why) {
  (void)arg, (void)path, (void)offset, (void)why;
}

static pu_err broken_check(const pu_corpus *c, pu_error *e) {
  return c->broken.msg[0] ? pu_fail(e, PU_ERR_FORMAT, "%s", c->broken.msg) : PU_OK;
}

/* ---- one after the other ----------------------------------------------------------------------------------------- */

pu_err pu_corpus_open(const char *const *paths, size_t n, pu_split split, const char *key, pu_corpus **out,
                      pu_error *e) {
  *out = NULL;
  pu_corpus *c = calloc(1, sizeof *c);
  if (!c) return nomem(e);
  c->o = (pu_read_options){.split = split, .skips = {.skip = on_skip, .pass = on_pass, .arg = c}};
  pu_err err = pu_arena_create((size_t)256 << 20, &c->arena, e);
  if (err == PU_OK) err = pu_doc_init(&c->doc, e);
  if (err == PU_OK && key && !(c->o.key = pu_arena_strdup(c->arena, key))) err = nomem(e);
  for (size_t i = 0; err == PU_OK && i < n; i++) err = files_add(c, paths[i], 0, e);
  if (err == PU_OK && c->n == 0)
    err = n == 0
              ? pu_fail(e, PU_ERR_USAGE, "corpus: no files were given")
              : pu_fail(e, PU_ERR_USAGE,
                        "%s: no file in this folder; text (.txt) or JSON Lines (.jsonl, .json) belong there, or other "
                        "documents that are read (docs/data.md), plain or with .gz or .zst",
                        paths[0]);
  if (err != PU_OK) {
    pu_corpus_close(c);
    return err;
  }
  *out = c;
  return PU_OK;
}

/* Who names a file so believes it to be compressed. */
static pu_err pack_check(const pu_corpus *c, pu_error *e) {
  static const char *const endings[][2] = {{".gz", "gzip"}, {".zst", "zstd"}};
  const char *path = c->files[c->at].path;
  for (size_t i = 0; i < PU_COUNT(endings); i++) {
    size_t n = strlen(path), m = strlen(endings[i][0]);
    if (n < m || strcmp(path + n - m, endings[i][0]) != 0 || pu_input_packed(c->in)) continue;
    return pu_fail(e, PU_ERR_FORMAT, "%s: not %s data, though its name ends with %s: rename it", path, endings[i][1],
                   endings[i][0]);
  }
  return PU_OK;
}

static pu_err file_begin(pu_corpus *c, pu_error *e) {
  pu_input *in;
  pu_str head;
  PU_TRY(pu_input_open(c->files[c->at].path, 0, 0, &c->o, &in, e));
  c->in = in;
  pu_err err = pu_input_peek(in, 1, &head, e);
  if (err == PU_OK && head.len > 0) err = pack_check(c, e);
  if (err == PU_OK) return pu_reading_open(in, &c->reading, e);
  pu_input_close(in);
  return err;
}

static void file_end(pu_corpus *c) {
  pu_reading_close(c->reading);
  c->reading = NULL;
  c->in = NULL;
  c->finished += c->files[c->at].bytes;
  c->at++;
}

pu_err pu_corpus_next(pu_corpus *c, pu_document *out, bool *found, pu_error *e) {
  *found = false;
  while (c->at < c->n) {
    if (!c->reading) PU_TRY(file_begin(c, e));
    PU_TRY(broken_check(c, e));
    PU_TRY(pu_reading_next(c->reading, &c->doc, found, e));
    PU_TRY(broken_check(c, e));
    if (*found) {
      *out = (pu_document){c->doc.id, pu_str_of(c->doc.text.data, c->doc.text.len), c->doc.title};
      return PU_OK;
    }
    file_end(c);
  }
  return PU_OK;
}

pu_err pu_corpus_fail_empty(const pu_corpus *c, pu_error *e) {
  if (c->n == 1) return pu_fail(e, PU_ERR_FORMAT, "%s: no text in it", c->files[0].path);
  return pu_fail(e, PU_ERR_FORMAT, "%s and %zu more: no text in them", c->files[0].path, c->n - 1);
}

void pu_corpus_close(pu_corpus *c) {
  if (!c) return;
  pu_reading_close(c->reading);
  pu_doc_deinit(&c->doc);
  free(c->files);
  pu_arena_free(c->arena);
  free(c);
}

double pu_corpus_bytes(const pu_corpus *c) {
  return c->total;
}

double pu_corpus_done(const pu_corpus *c) {
  return c->finished + (c->reading ? (double)pu_input_raw(c->in) : 0);
}
