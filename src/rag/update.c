/* The index made what the folder is. */
#include <stdlib.h>
#include <string.h>

#include "puyu/data.h"
#include "puyu/text.h"
#include "src/rag/internal.h"

enum {
  BATCH = 16 << 20,   /* bytes of files after which what was done is kept */
  BATCH_FILES = 4096, /* or files */
  HEADING_MAX = 120   /* bytes of a first line that is taken for a title */
};

typedef struct update {
  pu_rag *r;
  rag_files files;
  pu_rag_counts *counts;
  void (*progress)(void *arg, double done, double total);
  void *progress_arg;
  double total, done; /* bytes of changed files; of those that are finished */
  double batch_bytes;
  uint64_t batch_files;
  bool open; /* a batch has begun */
} update;

/* ---- batches
 * --------------------------------------------------------------------------------------------------------- */

static pu_err batch_begin(update *u, pu_error *e) {
  if (u->open) return PU_OK;
  PU_TRY(pu_store_begin(u->r->store, &u->counts->busy, e));
  u->open = !u->counts->busy;
  u->batch_bytes = 0;
  u->batch_files = 0;
  return PU_OK;
}

static pu_err batch_end(update *u, pu_error *e) {
  if (!u->open) return PU_OK;
  PU_TRY(pu_store_commit(u->r->store, e));
  u->open = false;
  return PU_OK;
}

static pu_err batch_count(update *u, double bytes, pu_error *e) {
  u->batch_bytes += bytes;
  u->batch_files++;
  return u->batch_bytes >= BATCH || u->batch_files >= BATCH_FILES ? batch_end(u, e) : PU_OK;
}

/* ---- a document
 * ------------------------------------------------------------------------------------------------------ */

static pu_str trim(pu_str s) {
  while (s.len > 0 && strchr(" \t\r#=*_-", s.ptr[0])) s.ptr++, s.len--;
  while (s.len > 0 && strchr(" \t\r#=*_-", s.ptr[s.len - 1])) s.len--;
  return s;
}

/* The first line that holds something, where it is short and not all there is. */
static pu_str heading(pu_str text) {
  for (size_t at = 0; at < text.len;) {
    const char *line = text.ptr + at, *end = memchr(line, '\n', text.len - at);
    size_t n = end ? (size_t)(end - line) : text.len - at;
    pu_str s = trim(pu_str_of(line, n));
    at += n + 1;
    if (s.len > 0) return s.len <= HEADING_MAX && at < text.len ? s : pu_str_of("", 0);
  }
  return pu_str_of("", 0);
}

static bool begins(pu_str s, const char *with, size_t n) {
  return s.len >= n && memcmp(s.ptr, with, n) == 0;
}

/* What a document is called behind its file's name (see rag.h), from the id that data gave it. */
static void id_make(pu_str given, const char *path, pu_buf *id) {
  size_t n = strlen(path);
  pu_buf_clear(id);
  if (!begins(given, path, n) || given.len == n || (given.ptr[n] != ':' && given.ptr[n] != '/')) {
    pu_buf_putc(id, '#');
    pu_buf_append(id, given.ptr, PU_MIN(given.len, PU_STORE_NAME_MAX / 2));
    return;
  }
  pu_str rest = pu_str_of(given.ptr + n, given.len - n);
  if (pu_str_ends(rest, ":1")) rest.len -= 2;
  pu_buf_append(id, rest.ptr, PU_MIN(rest.len, PU_STORE_NAME_MAX / 2));
}

/* Ids of records need not be different ones; no document may take the place of another one. */
static pu_err id_single(update *u, pu_str source, uint64_t number, pu_buf *id, pu_error *e) {
  bool found = false;
  PU_TRY(pu_store_get(u->r->store, source, pu_str_of(id->data ? id->data : "", id->len), 0, 0, NULL, NULL, &found, e));
  if (found) pu_buf_printf(id, "~%llu", (unsigned long long)number);
  return id->failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for an id") : PU_OK;
}

static pu_err document_put(update *u, const rag_file *f, const char *path, const pu_document *d, uint64_t number,
                           pu_buf *id, pu_error *e) {
  pu_str source = pu_str_c(f->path);
  id_make(d->id, path, id);
  if (number > 1) PU_TRY(id_single(u, source, number, id, e));
  const char *slash = strrchr(f->path, '/');
  pu_str title = d->title.len > 0 ? d->title : heading(d->text);
  if (title.len == 0 && number == 1) title = pu_str_c(slash ? slash + 1 : f->path);
  const pu_store_document put = {pu_str_of(id->data ? id->data : "", id->len), title, d->text};
  u->counts->documents++;
  return pu_store_put(u->r->store, source, &put, e);
}

/* ---- a file
 * ---------------------------------------------------------------------------------------------------------- */

static bool is_broken(pu_err err) {
  return err == PU_ERR_FORMAT || err == PU_ERR_IO || err == PU_ERR_UNSUPPORTED || err == PU_ERR_USAGE;
}

/* Puts the documents of an open file. What is wrong with the file goes into *read, what is wrong with the index is the
 * error. */
static pu_err documents_put(update *u, const rag_file *f, const char *path, pu_corpus *c, pu_err *read, pu_error *e) {
  pu_buf id;
  pu_err err = PU_OK;
  pu_buf_init(&id, 2 * PU_STORE_NAME_MAX);
  for (uint64_t number = 1; err == PU_OK; number++) {
    pu_document d;
    bool found;
    if (pu_signals_stop()) {
      err = pu_fail(e, PU_ERR_STOPPED, "stopped; what was indexed before is kept");
      break;
    }
    *read = pu_corpus_next(c, &d, &found, e);
    if (*read != PU_OK || !found) break;
    err = document_put(u, f, path, &d, number, &id, e);
    if (u->progress) u->progress(u->progress_arg, u->done + pu_corpus_done(c), u->total);
  }
  pu_buf_deinit(&id);
  return err;
}

/* Why a file could not be read is kept with it. The system's refusal may be another one the next time, though its time
 * stays: such a file is tried again. */
static pu_err broken_note(update *u, const rag_file *f, const char *path, pu_err why, const pu_error *said,
                          pu_error *e) {
  pu_str source = pu_str_c(f->path), note = pu_str_c(said->msg);
  size_t n = strlen(path);
  if (begins(note, path, n)) note = pu_str_of(note.ptr + n, note.len - n); /* the source's name says it */
  while (note.len > 0 && (note.ptr[0] == ':' || note.ptr[0] == ' ')) note.ptr++, note.len--;
  if (why == PU_ERR_IO) PU_TRY(pu_store_replace(u->r->store, source, (pu_store_stamp){-1, -1}, e));
  return pu_store_note(u->r->store, source, note, e);
}

static pu_err file_read(update *u, const rag_file *f, pu_error *e) {
  pu_str source = pu_str_c(f->path);
  const char *path = pu_path_join(u->files.arena, u->r->dir, f->path);
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", f->path);
  pu_corpus *c;
  PU_TRY(pu_store_replace(u->r->store, source, f->stamp, e));
  pu_err read = pu_corpus_open(&path, 1, PU_SPLIT_FILE, NULL, &c, e), err = PU_OK;
  if (read == PU_OK) {
    err = documents_put(u, f, path, c, &read, e);
    pu_corpus_close(c);
  }
  if (err != PU_OK || (read != PU_OK && !is_broken(read))) return err != PU_OK ? err : read;
  u->counts->read++;
  u->counts->bytes += (double)f->stamp.size;
  const pu_error said = *e;
  return read == PU_OK ? PU_OK : broken_note(u, f, path, read, &said, e);
}

/* ---- the folder
 * ------------------------------------------------------------------------------------------------------ */

static pu_err find_changed(update *u, pu_error *e) {
  for (size_t i = 0; i < u->files.n; i++) {
    rag_file *f = &u->files.v[i];
    bool same;
    if (!pu_utf8_valid(pu_str_c(f->path))) {
      pu_log(PU_LOG_WARN, "%s: passed over, since its name is no UTF-8", f->path);
      continue;
    }
    PU_TRY(pu_store_same(u->r->store, pu_str_c(f->path), f->stamp, &same, e));
    f->changed = !same;
    if (!same) u->total += (double)f->stamp.size;
    u->counts->files++;
  }
  return PU_OK;
}

static pu_err read_changed(update *u, pu_error *e) {
  for (size_t i = 0; i < u->files.n; i++) {
    const rag_file *f = &u->files.v[i];
    bool same;
    if (!f->changed) continue;
    PU_TRY(batch_begin(u, e));
    if (u->counts->busy) return PU_OK;
    PU_TRY(pu_store_same(u->r->store, pu_str_c(f->path), f->stamp, &same, e)); /* another process may have read it */
    if (!same) PU_TRY(file_read(u, f, e));
    u->done += (double)f->stamp.size;
    if (u->progress) u->progress(u->progress_arg, u->done, u->total);
    PU_TRY(batch_count(u, (double)f->stamp.size, e));
  }
  return batch_end(u, e);
}

typedef struct gone {
  const rag_files *files;
  pu_buf names; /* each with its NUL */
  uint64_t broken;
} gone;

static pu_err source_look(void *arg, pu_str source, pu_str note, pu_error *e) {
  gone *g = arg;
  if (rag_files_find(g->files, source)) {
    g->broken += note.len > 0;
    return PU_OK;
  }
  pu_buf_append(&g->names, source.ptr, source.len);
  pu_buf_putc(&g->names, '\0');
  return g->names.failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for files that are gone") : PU_OK;
}

static pu_err remove_names(update *u, const pu_buf *names, pu_error *e) {
  for (size_t at = 0; at < names->len; at += strlen(names->data + at) + 1) {
    PU_TRY(batch_begin(u, e));
    if (u->counts->busy) return PU_OK;
    PU_TRY(pu_store_remove(u->r->store, pu_str_c(names->data + at), pu_str_of(NULL, 0), e));
    u->counts->removed++;
    PU_TRY(batch_count(u, 0, e));
  }
  return batch_end(u, e);
}

static pu_err remove_gone(update *u, pu_error *e) {
  gone g = {.files = &u->files};
  pu_buf_init(&g.names, PU_BUF_MAX);
  pu_err err = pu_store_sources(u->r->store, source_look, &g, e);
  u->counts->broken = g.broken;
  if (err == PU_OK) err = remove_names(u, &g.names, e);
  pu_buf_deinit(&g.names);
  return err;
}

pu_err pu_rag_update(pu_rag *r, void (*progress)(void *arg, double done, double total), void *arg, pu_rag_counts *out,
                     pu_error *e) {
  update u = {.r = r, .counts = out, .progress = progress, .progress_arg = arg};
  *out = (pu_rag_counts){0};
  pu_err err = rag_walk(r, &u.files, e);
  if (err == PU_OK) err = find_changed(&u, e);
  if (err == PU_OK) err = read_changed(&u, e);
  if (err == PU_OK && !out->busy) err = remove_gone(&u, e);
  if (err != PU_OK && u.open) pu_store_rollback(r->store);
  rag_files_free(&u.files);
  return err;
}

/* ---- what was broken
 * ------------------------------------------------------------------------------------------------- */

typedef struct telling {
  pu_err (*fn)(void *arg, pu_str source, pu_str why, pu_error *e);
  void *arg;
} telling;

static pu_err tell(void *arg, pu_str source, pu_str note, pu_error *e) {
  const telling *t = arg;
  return note.len > 0 ? t->fn(t->arg, source, note, e) : PU_OK;
}

pu_err pu_rag_broken(pu_rag *r, pu_err (*fn)(void *arg, pu_str source, pu_str why, pu_error *e), void *arg,
                     pu_error *e) {
  telling t = {fn, arg};
  return pu_store_sources(r->store, tell, &t, e);
}
