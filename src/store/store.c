/* The database: opening it, its tables, its statements, what SQLite's errors are here. */
#include <stdlib.h>
#include <string.h>

#include "src/store/internal.h"

enum {
  MAGIC = 0x50555955, /* application_id: "PUYU" */
  VERSION = 1         /* user_version: of the tables */
};

/* Passages are FTS5's external content: their text is kept once. FTS5 takes no part in what happens to them, so whoever
 * drops one tells the index first, with the texts that were indexed (SQL_…_WORDS_DROP). */
static const char tables[] =
    "CREATE TABLE value(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE source(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,"
    " time INTEGER NOT NULL, note TEXT NOT NULL);"
    "CREATE TABLE document(id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES source ON DELETE CASCADE,"
    " name TEXT NOT NULL, title TEXT NOT NULL, UNIQUE(source, name));"
    "CREATE TABLE passage(id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES document ON DELETE CASCADE,"
    " number INTEGER NOT NULL, begin INTEGER NOT NULL, text TEXT NOT NULL, UNIQUE(document, number));"
    "CREATE VIEW indexed AS SELECT passage.id AS id, title, text FROM passage"
    " JOIN document ON document.id = passage.document;"
    "CREATE VIRTUAL TABLE words USING fts5(title, text, content='indexed', content_rowid='id', tokenize='puyu');";

#define WORDS_DROP                                                                                                     \
  "INSERT INTO words(words, rowid, title, text) SELECT 'delete', passage.id, title, text FROM document"                \
  " JOIN passage ON passage.document = document.id WHERE "

static const char *const texts[SQL_STATEMENTS] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_READ] = "BEGIN",
    [SQL_COMMIT] = "COMMIT",
    [SQL_SET] = "INSERT OR REPLACE INTO value(key, value) VALUES(?1, ?2)",
    [SQL_VALUE] = "SELECT value FROM value WHERE key = ?1",
    [SQL_SOURCE] = "SELECT id, size, time FROM source WHERE name = ?1",
    [SQL_SOURCE_ADD] = "INSERT INTO source(name, size, time, note) VALUES(?1, ?2, ?3, '')",
    [SQL_SOURCE_STAMP] = "UPDATE source SET size = ?2, time = ?3, note = '' WHERE id = ?1",
    [SQL_SOURCE_NOTE] = "UPDATE source SET note = ?2 WHERE id = ?1",
    [SQL_SOURCE_DROP] = "DELETE FROM source WHERE id = ?1",
    [SQL_SOURCES] = "SELECT name, note FROM source ORDER BY name",
    [SQL_SOURCE_WORDS_DROP] = WORDS_DROP "document.source = ?1",
    [SQL_DOCUMENT] = "SELECT id, title FROM document WHERE source = ?1 AND name = ?2",
    [SQL_DOCUMENT_ADD] = "INSERT INTO document(source, name, title) VALUES(?1, ?2, ?3)",
    [SQL_DOCUMENT_DROP] = "DELETE FROM document WHERE id = ?1",
    [SQL_DOCUMENTS_DROP] = "DELETE FROM document WHERE source = ?1",
    [SQL_DOCUMENT_WORDS_DROP] = WORDS_DROP "document.id = ?1",
    [SQL_PASSAGE_ADD] = "INSERT INTO passage(document, number, begin, text) VALUES(?1, ?2, ?3, ?4)",
    [SQL_PASSAGES] = "SELECT begin, text FROM passage WHERE document = ?1 ORDER BY number",
    [SQL_WORDS_ADD] = "INSERT INTO words(rowid, title, text) VALUES(?1, ?2, ?3)",
    [SQL_WORDS_REBUILD] = "INSERT INTO words(words) VALUES('rebuild')",
    [SQL_COUNT] = "SELECT (SELECT count(*) FROM source), (SELECT count(*) FROM document),"
                  " (SELECT count(*) FROM passage), page_count * page_size FROM pragma_page_count, pragma_page_size",
    [SQL_PASSAGE_COUNT] = "SELECT count(*) FROM passage",
    [SQL_TERM] = "SELECT doc FROM temp.term WHERE term = ?1",
    [SQL_MATCH] = "SELECT words.rowid, -rank, document FROM words JOIN passage ON passage.id = words.rowid"
                  " WHERE words MATCH ?1 AND rank MATCH 'bm25(5.0, 1.0)' ORDER BY rank LIMIT ?2",
    [SQL_HIT] = "SELECT source.name, document.name, title, text, begin, number FROM passage"
                " JOIN document ON document.id = passage.document JOIN source ON source.id = document.source"
                " WHERE passage.id = ?1",
};

/* ---- errors --------------------------------------------------------------------------------------------------------
 */

pu_err store_fail(const pu_store *s, int rc, pu_error *e) {
  const char *why = sqlite3_errmsg(s->db);
  switch (rc & 0xFF) {
  case SQLITE_NOMEM:
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", s->path);
  case SQLITE_NOTADB:
    return pu_fail(e, PU_ERR_FORMAT, "%s: no database", s->path);
  case SQLITE_CORRUPT:
    return pu_fail(e, PU_ERR_FORMAT, "%s: a damaged database (%s): remove it and make it again", s->path, why);
  case SQLITE_BUSY:
  case SQLITE_LOCKED:
    return pu_fail(e, PU_ERR_IO, "%s: another process is writing to it; try again when it is done", s->path);
  case SQLITE_CANTOPEN:
  case SQLITE_FULL:
  case SQLITE_IOERR:
  case SQLITE_PERM:
  case SQLITE_READONLY:
  case SQLITE_AUTH:
    return pu_fail(e, PU_ERR_IO, "%s: %s", s->path, why);
  case SQLITE_TOOBIG:
    return pu_fail(e, PU_ERR_FORMAT, "%s: %s", s->path, why);
  default:
    return pu_fail(e, PU_ERR_INTERNAL, "%s: %s", s->path, why);
  }
}

/* ---- statements ----------------------------------------------------------------------------------------------------
 */

pu_err store_use(pu_store *s, store_sql which, sqlite3_stmt **out, pu_error *e) {
  sqlite3_stmt **st = &s->kept[which];
  *out = NULL;
  if (!*st) {
    int rc = sqlite3_prepare_v3(s->db, texts[which], -1, SQLITE_PREPARE_PERSISTENT, st, NULL);
    if (rc == SQLITE_ERROR) { /* the tables are not those that were made here */
      const char *why = sqlite3_errmsg(s->db);
      return pu_fail(e, PU_ERR_FORMAT, "%s: a damaged database (%s): remove it and make it again", s->path, why);
    }
    if (rc != SQLITE_OK) return store_fail(s, rc, e);
  }
  *out = *st;
  return PU_OK;
}

void store_done(sqlite3_stmt *st) {
  (void)sqlite3_reset(st); /* says again what step has said */
  (void)sqlite3_clear_bindings(st);
}

pu_err store_row(pu_store *s, sqlite3_stmt *st, bool *row, pu_error *e) {
  int rc = sqlite3_step(st);
  *row = rc == SQLITE_ROW;
  if (rc == SQLITE_ROW || rc == SQLITE_DONE) return PU_OK;
  pu_err err = store_fail(s, rc, e);
  store_done(st);
  return err;
}

pu_err store_run(pu_store *s, sqlite3_stmt *st, pu_error *e) {
  bool row;
  PU_TRY(store_row(s, st, &row, e));
  store_done(st);
  return PU_OK;
}

void store_bind(sqlite3_stmt *st, int at, pu_str text) {
  (void)sqlite3_bind_text64(st, at, text.ptr ? text.ptr : "", text.len, SQLITE_STATIC, SQLITE_UTF8);
}

pu_str store_column(sqlite3_stmt *st, int column) {
  const char *text = (const char *)sqlite3_column_text(st, column);
  return text ? pu_str_of(text, (size_t)sqlite3_column_bytes(st, column)) : pu_str_of("", 0);
}

pu_err store_run_kept(pu_store *s, store_sql which, pu_error *e) {
  sqlite3_stmt *st;
  PU_TRY(store_use(s, which, &st, e));
  return store_run(s, st, e);
}

static pu_err run_text(pu_store *s, const char *sql, pu_error *e) {
  int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
  return rc == SQLITE_OK ? PU_OK : store_fail(s, rc, e);
}

static pu_err number(pu_store *s, const char *sql, int64_t *out, pu_error *e) {
  sqlite3_stmt *st = NULL;
  int rc = sqlite3_prepare_v2(s->db, sql, -1, &st, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_step(st);
  *out = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
  pu_err err = rc == SQLITE_ROW || rc == SQLITE_DONE ? PU_OK : store_fail(s, rc, e);
  sqlite3_finalize(st);
  return err;
}

/* ---- opening -------------------------------------------------------------------------------------------------------
 */

/* A file is data: what its schema says may not call functions with effects, nor write into SQLite's own tables. */
static pu_err distrust(pu_store *s, pu_error *e) {
  static const int settings[][2] = {{SQLITE_DBCONFIG_DEFENSIVE, 1},
                                    {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0},
                                    {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
                                    {SQLITE_DBCONFIG_DQS_DML, 0},
                                    {SQLITE_DBCONFIG_DQS_DDL, 0}};
  for (size_t i = 0; i < PU_COUNT(settings); i++) {
    int rc = sqlite3_db_config(s->db, settings[i][0], settings[i][1], NULL);
    if (rc != SQLITE_OK) return store_fail(s, rc, e);
  }
  (void)sqlite3_limit(s->db, SQLITE_LIMIT_LENGTH, 256 << 20);
  return run_text(s, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON", e);
}

static pu_err connect(pu_store *s, const char *path, pu_error *e) {
  const int how = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE;
  int rc = sqlite3_open_v2(path ? path : ":memory:", &s->db, how, NULL);
  if (!s->db) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", s->path);
  if (rc != SQLITE_OK) return store_fail(s, rc, e);
  (void)sqlite3_extended_result_codes(s->db, 1);
  (void)sqlite3_busy_timeout(s->db, PU_STORE_WAIT_MS);
  return distrust(s, e);
}

/* Whose file is it, and how old? *made: it has our tables. */
static pu_err identify(pu_store *s, bool *made, pu_error *e) {
  int64_t magic, version, objects;
  PU_TRY(number(s, "PRAGMA application_id", &magic, e));
  PU_TRY(number(s, "PRAGMA user_version", &version, e));
  PU_TRY(number(s, "SELECT count(*) FROM sqlite_schema", &objects, e));
  *made = magic == MAGIC;
  if (magic != MAGIC && (magic != 0 || version != 0 || objects > 0))
    return pu_fail(e, PU_ERR_FORMAT, "%s: a database of another program; it is left as it is", s->path);
  if (version > VERSION)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: made by a newer puyu (version %lld of the file, this one reads %d)",
                   s->path, (long long)version, VERSION);
  return PU_OK;
}

static pu_err words_mark(pu_store *s, pu_error *e) {
  char version[64];
  store_words_version(version);
  return pu_store_set(s, "words", pu_str_c(version), e);
}

static pu_err make_tables(pu_store *s, pu_error *e) {
  char marks[128];
  bool made;
  PU_TRY(identify(s, &made, e)); /* another process may have been first */
  if (made) return PU_OK;
  snprintf(marks, sizeof marks, "PRAGMA application_id = %d; PRAGMA user_version = %d", MAGIC, VERSION);
  PU_TRY(run_text(s, tables, e));
  PU_TRY(words_mark(s, e));
  return run_text(s, marks, e);
}

/* Words that other tables of Unicode found would neither be found nor be dropped again. */
static pu_err check_words(pu_store *s, bool *same, pu_error *e) {
  char now[64];
  pu_buf version;
  bool found;
  store_words_version(now);
  pu_buf_init(&version, 4096);
  pu_err err = pu_store_value(s, "words", &version, &found, e);
  *same = err == PU_OK && found && version.len == strlen(now) && memcmp(version.data, now, version.len) == 0;
  pu_buf_deinit(&version);
  return err;
}

static pu_err index_again(pu_store *s, pu_error *e) {
  PU_TRY(store_run_kept(s, SQL_WORDS_REBUILD, e));
  return words_mark(s, e);
}

static pu_err in_transaction(pu_store *s, pu_err (*fn)(pu_store *, pu_error *), pu_error *e) {
  PU_TRY(pu_store_begin(s, NULL, e));
  pu_err err = fn(s, e);
  if (err == PU_OK) err = pu_store_commit(s, e);
  if (err != PU_OK) pu_store_rollback(s);
  return err;
}

/* Two that open a new file at once are in each other's way here, and this is the one lock that SQLite does not wait
 * for by itself. */
static pu_err log_ahead(pu_store *s, pu_error *e) {
  for (int waited = 0;; waited += 10) {
    int rc = sqlite3_exec(s->db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
    if (rc == SQLITE_OK) return PU_OK;
    if ((rc & 0xFF) != SQLITE_BUSY || waited >= PU_STORE_WAIT_MS) return store_fail(s, rc, e);
    (void)sqlite3_sleep(10);
  }
}

/* What it says at one moment: another process may just be making the tables. */
static pu_err identify_at_once(pu_store *s, bool *made, pu_error *e) {
  PU_TRY(run_text(s, "BEGIN", e));
  pu_err err = identify(s, made, e);
  if (err == PU_OK) return run_text(s, "COMMIT", e);
  pu_store_rollback(s);
  return err;
}

static pu_err prepare(pu_store *s, pu_error *e) {
  bool made, same;
  PU_TRY(identify_at_once(s, &made, e)); /* before anything is written to it */
  PU_TRY(log_ahead(s, e));
  PU_TRY(run_text(s, "PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON", e));
  PU_TRY(store_tokenizer_register(s, e));
  if (!made) PU_TRY(in_transaction(s, make_tables, e));
  PU_TRY(check_words(s, &same, e));
  if (!same) PU_TRY(in_transaction(s, index_again, e));
  return run_text(s, "CREATE VIRTUAL TABLE temp.term USING fts5vocab('main', 'words', 'row')", e);
}

pu_err pu_store_open(const char *path, pu_store **out, pu_error *e) {
  *out = NULL;
  pu_store *s = calloc(1, sizeof *s);
  if (s) s->path = strdup(path ? path : "the index in memory");
  if (!s || !s->path) {
    free(s);
    return pu_fail(e, PU_ERR_NOMEM, "store: no memory");
  }
  pu_buf_init(&s->source_name, PU_STORE_NAME_MAX);
  pu_buf_init(&s->clean, 4 * PU_STORE_TEXT_MAX);
  pu_err err = connect(s, path, e);
  if (err == PU_OK) err = prepare(s, e);
  if (err != PU_OK) {
    pu_store_close(s);
    return err;
  }
  *out = s;
  return PU_OK;
}

void pu_store_close(pu_store *s) {
  if (!s) return;
  for (size_t i = 0; i < SQL_STATEMENTS; i++) (void)sqlite3_finalize(s->kept[i]);
  (void)sqlite3_close(s->db);
  pu_buf_deinit(&s->source_name);
  pu_buf_deinit(&s->clean);
  free(s->path);
  free(s);
}

/* ---- transactions --------------------------------------------------------------------------------------------------
 */

pu_err pu_store_begin(pu_store *s, bool *busy, pu_error *e) {
  s->source = 0; /* another process may have dropped it */
  pu_err err = store_run_kept(s, SQL_BEGIN, e);
  if (!busy) return err;
  *busy = err != PU_OK && (sqlite3_errcode(s->db) & 0xFF) == SQLITE_BUSY;
  return *busy ? PU_OK : err;
}

pu_err pu_store_commit(pu_store *s, pu_error *e) {
  return store_run_kept(s, SQL_COMMIT, e);
}

void pu_store_rollback(pu_store *s) {
  s->source = 0; /* it may never have been */
  if (!sqlite3_get_autocommit(s->db)) (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
}

/* ---- values --------------------------------------------------------------------------------------------------------
 */

pu_err pu_store_set(pu_store *s, const char *key, pu_str value, pu_error *e) {
  sqlite3_stmt *st;
  PU_TRY(store_use(s, SQL_SET, &st, e));
  store_bind(st, 1, pu_str_c(key));
  (void)sqlite3_bind_blob64(st, 2, value.ptr ? value.ptr : "", value.len, SQLITE_STATIC);
  return store_run(s, st, e);
}

pu_err pu_store_value(pu_store *s, const char *key, pu_buf *value, bool *found, pu_error *e) {
  sqlite3_stmt *st;
  *found = false;
  PU_TRY(store_use(s, SQL_VALUE, &st, e));
  store_bind(st, 1, pu_str_c(key));
  PU_TRY(store_row(s, st, found, e));
  if (*found) pu_buf_append(value, sqlite3_column_blob(st, 0), (size_t)sqlite3_column_bytes(st, 0));
  store_done(st);
  return value->failed ? pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its value '%s'", s->path, key) : PU_OK;
}
