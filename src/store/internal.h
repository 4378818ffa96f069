/* Inside store. */
#ifndef PUYU_STORE_INTERNAL_H
#define PUYU_STORE_INTERNAL_H

#include <sqlite3.h>

#include "puyu/store.h"

/* Statements that are kept, in the order of `texts` in store.c. */
typedef enum store_sql {
  SQL_BEGIN,
  SQL_READ,
  SQL_COMMIT,
  SQL_SET,
  SQL_VALUE,
  SQL_SOURCE,
  SQL_SOURCE_ADD,
  SQL_SOURCE_STAMP,
  SQL_SOURCE_NOTE,
  SQL_SOURCE_DROP,
  SQL_SOURCES,
  SQL_SOURCE_WORDS_DROP,
  SQL_DOCUMENT,
  SQL_DOCUMENT_ADD,
  SQL_DOCUMENT_DROP,
  SQL_DOCUMENTS_DROP,
  SQL_DOCUMENT_WORDS_DROP,
  SQL_PASSAGE_ADD,
  SQL_PASSAGES,
  SQL_WORDS_ADD,
  SQL_WORDS_REBUILD,
  SQL_COUNT,
  SQL_PASSAGE_COUNT,
  SQL_TERM,
  SQL_MATCH,
  SQL_HIT,
  SQL_STATEMENTS
} store_sql;

struct pu_store {
  sqlite3 *db;
  char *path; /* in messages */
  sqlite3_stmt *kept[SQL_STATEMENTS];
  int64_t source; /* the one that was put to last, and its name: SQL_SOURCE is asked once for many documents */
  pu_buf source_name;
  pu_buf clean; /* a text whose bytes are no UTF-8, made so */
};

/* What SQLite said, as one of our errors. */
pu_err store_fail(const pu_store *s, int rc, pu_error *e);
/* A kept statement, ready to be bound and stepped. */
pu_err store_use(pu_store *s, store_sql which, sqlite3_stmt **out, pu_error *e) PU_MUST_USE;
/* One row, or none; the statement is at it until store_done. */
pu_err store_row(pu_store *s, sqlite3_stmt *st, bool *row, pu_error *e) PU_MUST_USE;
/* Steps a statement that gives no rows, and ends it. */
pu_err store_run(pu_store *s, sqlite3_stmt *st, pu_error *e) PU_MUST_USE;
/* The same of one that has nothing to be bound. */
pu_err store_run_kept(pu_store *s, store_sql which, pu_error *e) PU_MUST_USE;
void store_done(sqlite3_stmt *st);
/* Binds a text that stays where it is until the statement is done. */
void store_bind(sqlite3_stmt *st, int at, pu_str text);
pu_str store_column(sqlite3_stmt *st, int column); /* until the next step */

/* Makes the index's words those of terms.h known to this connection. */
pu_err store_tokenizer_register(pu_store *s, pu_error *e) PU_MUST_USE;
/* What words depend on: a file that was made with others is indexed anew. */
const char *store_words_version(void);

/* ---- text.c ---- */

/* Bytes of the next passage of a text; 0 at its end. */
size_t store_passage(pu_str text);
/* The text itself where it is UTF-8, else a copy in spare. */
pu_err store_clean(pu_str text, pu_buf *spare, pu_str *out, pu_error *e) PU_MUST_USE;
/* The largest n <= at where a character begins. */
size_t store_border(pu_str text, size_t at);
size_t store_next(pu_str text, size_t at); /* where the character behind the one at a place begins */
/* Does a sentence, a line, a word end behind the byte before `at`, which is not 0? */
bool store_sentence_ends(const char *p, size_t at);
bool store_line_ends(const char *p, size_t at);
bool store_word_ends(const char *p, size_t at);

/* ---- query.c ---- */

typedef struct store_query store_query;
pu_err store_query_parse(pu_str text, store_query **out, pu_error *e) PU_MUST_USE;
void store_query_free(store_query *q);
bool store_query_empty(const store_query *q);
/* FTS5's expression for passages that have all of the words. */
bool store_query_all(const store_query *q, pu_buf *out);
/* And for those that have any of the telling ones; rows: how many passages have a term. False: no memory. */
typedef pu_err (*store_rows_fn)(void *arg, pu_str term, uint64_t *rows, pu_error *e);
pu_err store_query_any(const store_query *q, uint64_t passages, store_rows_fn rows, void *arg, pu_buf *out,
                       pu_error *e) PU_MUST_USE;
/* Which of the query's terms this is; -1: none. */
enum { STORE_QUERY_TERMS = 512 };
int store_query_find(const store_query *q, pu_str term);
bool store_query_prefix(const store_query *q, int which); /* any term that begins so was looked for */

/* ---- snippet.c ---- */

/* Appends a snippet of the passage. */
bool store_snippet(const store_query *q, pu_str passage, const char *open, const char *close, pu_buf *out);

#endif
