/* Sources, their documents, their passages: put in, dropped, listed, read. */
#include <string.h>

#include "src/store/internal.h"

/* Puts a name into UTF-8 and within its bound. */
static pu_err name_check(pu_store *s, const char *what, pu_str name, pu_buf *spare, pu_str *out, pu_error *e) {
  PU_TRY(store_clean(name, spare, out, e));
  if (out->len <= PU_STORE_NAME_MAX) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: %s of %zu bytes, more than %zu", s->path, what, out->len, PU_STORE_NAME_MAX);
}

/* A source's number, 0: there is none; stamp may be NULL. */
static pu_err source_find(pu_store *s, pu_str name, int64_t *id, pu_store_stamp *stamp, pu_error *e) {
  sqlite3_stmt *st;
  bool row;
  *id = 0;
  PU_TRY(name_check(s, "a source's name", name, &s->clean, &name, e));
  PU_TRY(store_use(s, SQL_SOURCE, &st, e));
  store_bind(st, 1, name);
  PU_TRY(store_row(s, st, &row, e));
  if (row) {
    *id = sqlite3_column_int64(st, 0);
    if (stamp) *stamp = (pu_store_stamp){sqlite3_column_int64(st, 1), sqlite3_column_int64(st, 2)};
  }
  store_done(st);
  return PU_OK;
}

/* A statement of one number. */
static pu_err run_of(pu_store *s, store_sql which, int64_t id, pu_error *e) {
  sqlite3_stmt *st;
  PU_TRY(store_use(s, which, &st, e));
  (void)sqlite3_bind_int64(st, 1, id);
  return store_run(s, st, e);
}

pu_err pu_store_same(pu_store *s, pu_str source, pu_store_stamp stamp, bool *same, pu_error *e) {
  int64_t id;
  pu_store_stamp was = {0};
  *same = false;
  PU_TRY(source_find(s, source, &id, &was, e));
  *same = id != 0 && was.size == stamp.size && was.time == stamp.time;
  return PU_OK;
}

/* ---- one thing after the other, or nothing of it --------------------------------------------------------------------
 */

/* Several statements that belong together, also where no transaction was begun. */
static pu_err step_begin(pu_store *s, bool *own, pu_error *e) {
  *own = sqlite3_get_autocommit(s->db) != 0;
  return *own ? pu_store_begin(s, NULL, e) : PU_OK;
}

static pu_err step_end(pu_store *s, bool own, pu_err err, pu_error *e) {
  if (own && err == PU_OK) err = pu_store_commit(s, e);
  if (own && err != PU_OK) pu_store_rollback(s);
  return err;
}

/* ---- sources -------------------------------------------------------------------------------------------------------
 */

static pu_err source_begin(pu_store *s, pu_str source, pu_store_stamp stamp, pu_error *e) {
  sqlite3_stmt *st;
  int64_t id;
  PU_TRY(source_find(s, source, &id, NULL, e));
  if (id != 0) {
    PU_TRY(run_of(s, SQL_SOURCE_WORDS_DROP, id, e));
    PU_TRY(run_of(s, SQL_DOCUMENTS_DROP, id, e));
  }
  PU_TRY(name_check(s, "a source's name", source, &s->clean, &source, e));
  PU_TRY(store_use(s, id ? SQL_SOURCE_STAMP : SQL_SOURCE_ADD, &st, e));
  if (id)
    (void)sqlite3_bind_int64(st, 1, id);
  else
    store_bind(st, 1, source);
  (void)sqlite3_bind_int64(st, 2, stamp.size);
  (void)sqlite3_bind_int64(st, 3, stamp.time);
  return store_run(s, st, e);
}

pu_err pu_store_replace(pu_store *s, pu_str source, pu_store_stamp stamp, pu_error *e) {
  bool own;
  PU_TRY(step_begin(s, &own, e));
  return step_end(s, own, source_begin(s, source, stamp, e), e);
}

/* Many documents of one source come one after the other. */
static pu_err source_of(pu_store *s, pu_str name, int64_t *id, pu_error *e) {
  *id = s->source;
  if (s->source && pu_str_eq(name, pu_str_of(s->source_name.data, s->source_name.len))) return PU_OK;
  s->source = 0;
  PU_TRY(source_find(s, name, id, NULL, e));
  if (*id == 0)
    return pu_fail(e, PU_ERR_USAGE, "%s: no source '%.*s' was begun", s->path, (int)PU_MIN(name.len, (size_t)200),
                   name.ptr);
  pu_buf_clear(&s->source_name);
  if (pu_buf_append(&s->source_name, name.ptr, name.len)) s->source = *id;
  return PU_OK;
}

pu_err pu_store_note(pu_store *s, pu_str source, pu_str note, pu_error *e) {
  sqlite3_stmt *st;
  int64_t id;
  PU_TRY(source_of(s, source, &id, e));
  PU_TRY(store_clean(note, &s->clean, &note, e));
  note.len = store_border(note, PU_STORE_NAME_MAX);
  PU_TRY(store_use(s, SQL_SOURCE_NOTE, &st, e));
  (void)sqlite3_bind_int64(st, 1, id);
  store_bind(st, 2, note);
  return store_run(s, st, e);
}

pu_err pu_store_sources(pu_store *s, pu_store_source_fn fn, void *arg, pu_error *e) {
  sqlite3_stmt *st;
  bool row = true;
  PU_TRY(store_use(s, SQL_SOURCES, &st, e));
  pu_err err = PU_OK;
  for (;;) {
    PU_TRY(store_row(s, st, &row, e));
    if (row) err = fn(arg, store_column(st, 0), store_column(st, 1), e);
    if (!row || err != PU_OK) break;
  }
  store_done(st);
  return err;
}

/* ---- documents -----------------------------------------------------------------------------------------------------
 */

/* A document's number, 0: there is none; its title appended, unless NULL. */
static pu_err document_find(pu_store *s, int64_t source, pu_str name, int64_t *id, pu_buf *title, pu_error *e) {
  sqlite3_stmt *st;
  bool row;
  *id = 0;
  PU_TRY(name_check(s, "an id", name, &s->clean, &name, e));
  PU_TRY(store_use(s, SQL_DOCUMENT, &st, e));
  (void)sqlite3_bind_int64(st, 1, source);
  store_bind(st, 2, name);
  PU_TRY(store_row(s, st, &row, e));
  pu_str had = store_column(st, 1);
  if (row) *id = sqlite3_column_int64(st, 0);
  if (row && title) pu_buf_append(title, had.ptr, had.len);
  store_done(st);
  return PU_OK;
}

static pu_err document_drop(pu_store *s, int64_t id, pu_error *e) {
  PU_TRY(run_of(s, SQL_DOCUMENT_WORDS_DROP, id, e));
  return run_of(s, SQL_DOCUMENT_DROP, id, e);
}

static pu_err document_add(pu_store *s, int64_t source, pu_str name, pu_str title, int64_t *id, pu_error *e) {
  sqlite3_stmt *st;
  PU_TRY(store_use(s, SQL_DOCUMENT_ADD, &st, e));
  (void)sqlite3_bind_int64(st, 1, source);
  store_bind(st, 2, name);
  store_bind(st, 3, title);
  PU_TRY(store_run(s, st, e));
  *id = sqlite3_last_insert_rowid(s->db);
  return PU_OK;
}

static pu_err passage_add(pu_store *s, int64_t document, int number, pu_str title, pu_str text, size_t begin, size_t n,
                          pu_error *e) {
  sqlite3_stmt *st;
  pu_str passage = pu_str_of(text.ptr + begin, n);
  PU_TRY(store_use(s, SQL_PASSAGE_ADD, &st, e));
  (void)sqlite3_bind_int64(st, 1, document);
  (void)sqlite3_bind_int(st, 2, number);
  (void)sqlite3_bind_int64(st, 3, (int64_t)begin);
  store_bind(st, 4, passage);
  PU_TRY(store_run(s, st, e));
  int64_t id = sqlite3_last_insert_rowid(s->db);
  PU_TRY(store_use(s, SQL_WORDS_ADD, &st, e));
  (void)sqlite3_bind_int64(st, 1, id);
  store_bind(st, 2, title);
  store_bind(st, 3, passage);
  return store_run(s, st, e);
}

/* A document without a text has one passage all the same: its title is found. */
static pu_err passages_add(pu_store *s, int64_t document, pu_str title, pu_str text, pu_error *e) {
  size_t at = 0;
  int number = 0;
  do {
    size_t n = store_passage(pu_str_of(text.ptr + at, text.len - at));
    PU_TRY(passage_add(s, document, ++number, title, text, at, n, e));
    at += n;
  } while (at < text.len);
  return PU_OK;
}

typedef struct clean_document {
  pu_buf spare[3];
  pu_str id, title, text;
} clean_document;

static pu_err clean(pu_store *s, const pu_store_document *d, clean_document *c, pu_error *e) {
  PU_TRY(name_check(s, "an id", d->id, &c->spare[0], &c->id, e));
  pu_str title = pu_str_of(d->title.ptr, PU_MIN(d->title.len, PU_STORE_NAME_MAX));
  PU_TRY(store_clean(title, &c->spare[1], &c->title, e));
  c->title.len = store_border(c->title, PU_STORE_NAME_MAX);
  return store_clean(d->text, &c->spare[2], &c->text, e);
}

static pu_err put(pu_store *s, pu_str source, const clean_document *c, pu_error *e) {
  int64_t of, id;
  PU_TRY(source_of(s, source, &of, e));
  PU_TRY(document_find(s, of, c->id, &id, NULL, e));
  if (id != 0) PU_TRY(document_drop(s, id, e));
  PU_TRY(document_add(s, of, c->id, c->title, &id, e));
  return passages_add(s, id, c->title, c->text, e);
}

pu_err pu_store_put(pu_store *s, pu_str source, const pu_store_document *d, pu_error *e) {
  clean_document c = {0};
  bool own = false;
  if (d->text.len > PU_STORE_TEXT_MAX)
    return pu_fail(e, PU_ERR_USAGE, "%s: a text of %zu bytes, more than %zu", s->path, d->text.len, PU_STORE_TEXT_MAX);
  for (size_t i = 0; i < PU_COUNT(c.spare); i++) pu_buf_init(&c.spare[i], 4 * PU_STORE_TEXT_MAX);
  pu_err err = clean(s, d, &c, e);
  if (err == PU_OK) err = step_begin(s, &own, e);
  if (err == PU_OK) err = step_end(s, own, put(s, source, &c, e), e);
  for (size_t i = 0; i < PU_COUNT(c.spare); i++) pu_buf_deinit(&c.spare[i]);
  return err;
}

static pu_err take_out(pu_store *s, pu_str source, pu_str id, pu_error *e) {
  int64_t of, document = 0;
  PU_TRY(source_find(s, source, &of, NULL, e));
  s->source = 0;
  if (of == 0) return PU_OK;
  if (id.ptr) {
    PU_TRY(document_find(s, of, id, &document, NULL, e));
    return document ? document_drop(s, document, e) : PU_OK;
  }
  PU_TRY(run_of(s, SQL_SOURCE_WORDS_DROP, of, e));
  return run_of(s, SQL_SOURCE_DROP, of, e);
}

pu_err pu_store_remove(pu_store *s, pu_str source, pu_str id, pu_error *e) {
  bool own;
  PU_TRY(step_begin(s, &own, e));
  return step_end(s, own, take_out(s, source, id, e), e);
}

/* ---- reading -------------------------------------------------------------------------------------------------------
 */

/* Appends what of a passage, which begins at `begin`, lies in [from, from + *left). */
static void put_part(pu_str passage, uint64_t begin, uint64_t from, size_t *left, pu_buf *out) {
  size_t at = from > begin ? (size_t)PU_MIN(from - begin, (uint64_t)passage.len) : 0;
  while (at < passage.len && ((uint8_t)passage.ptr[at] & 0xC0) == 0x80) at++;
  pu_str rest = pu_str_of(passage.ptr + at, passage.len - at);
  size_t n = store_border(rest, *left);
  pu_buf_append(out, rest.ptr, n);
  *left = n < rest.len ? 0 : *left - n;
}

static pu_err get_text(pu_store *s, int64_t document, uint64_t from, size_t max, pu_buf *text, pu_error *e) {
  sqlite3_stmt *st;
  bool row = true;
  PU_TRY(store_use(s, SQL_PASSAGES, &st, e));
  (void)sqlite3_bind_int64(st, 1, document);
  for (size_t left = max; left > 0;) {
    PU_TRY(store_row(s, st, &row, e));
    if (!row) break;
    put_part(store_column(st, 1), (uint64_t)sqlite3_column_int64(st, 0), from, &left, text);
  }
  store_done(st);
  return PU_OK;
}

pu_err pu_store_get(pu_store *s, pu_str source, pu_str id, uint64_t from, size_t max, pu_buf *title, pu_buf *text,
                    bool *found, pu_error *e) {
  int64_t of, document = 0;
  *found = false;
  PU_TRY(source_find(s, source, &of, NULL, e));
  if (of != 0) PU_TRY(document_find(s, of, id, &document, title, e));
  *found = document != 0;
  if (*found && text) PU_TRY(get_text(s, document, from, max, text, e));
  if ((title && title->failed) || (text && text->failed))
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a document", s->path);
  return PU_OK;
}

pu_err pu_store_count(pu_store *s, pu_store_counts *out, pu_error *e) {
  sqlite3_stmt *st;
  bool row;
  uint64_t *const to[] = {&out->sources, &out->documents, &out->passages, &out->bytes};
  *out = (pu_store_counts){0};
  PU_TRY(store_use(s, SQL_COUNT, &st, e));
  PU_TRY(store_row(s, st, &row, e));
  for (size_t i = 0; row && i < PU_COUNT(to); i++) *to[i] = (uint64_t)sqlite3_column_int64(st, (int)i);
  store_done(st);
  return PU_OK;
}
