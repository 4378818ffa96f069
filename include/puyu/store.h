/* store: texts kept in one SQLite database, with a full-text index over them (FTS5). It knows nothing of folders or of
 * formats: who calls it names where texts come from and hands them over.
 *
 * Sources.  What changes as one, a file say, is a source: a name and a stamp (size and time) by which it is known to be
 *           unchanged. A source has documents, each with an id of its own in it, a title and a text.
 * Passages. A text is cut into passages of one to two KiB, at paragraphs where there are any: they are what is found and
 *           ranked. Put together in their order they are the text again.
 * Words.    Letters and digits, without case, width, compatibility forms (NFKC) and, in Latin script, without accents.
 *           Han, kana and Hangul are indexed as overlapping pairs of characters, so any part of a run is found, a single
 *           character too. Traditional and simplified characters are different ones.
 * Queries.  Plain words, nothing in them is syntax. Passages that have them as they stand come first, then those with all
 *           of them; where these are fewer than asked for, those with some of them follow. A run of Han, kana or Hangul has to stand in the
 *           text as it is to count as all of it; a part of what follows is any pair of it. Ranked by BM25 (Robertson and
 *           Zaragoza 2009), a word in the title weighs as several in the text.
 *
 * Errors.   PU_ERR_FORMAT: the file is no database, is damaged, or another program's; PU_ERR_UNSUPPORTED: it is a newer
 *           puyu's; PU_ERR_IO: the system said no, or another process has been writing for longer than PU_STORE_WAIT_MS.
 * Threads.  A store is used by one thread at a time. Any number of processes may have the same file open: one writes at
 *           a time, the others wait for it; readers see what was committed and wait for nobody. */
#ifndef PUYU_STORE_H
#define PUYU_STORE_H

#include "puyu/base.h"

#define PU_STORE_TEXT_MAX  ((size_t)64 << 20) /* bytes of a document's text */
#define PU_STORE_NAME_MAX  ((size_t)4 << 10)  /* of a source's name, of an id; of a title the rest is cut off */
#define PU_STORE_QUERY_MAX ((size_t)4 << 10)  /* of a query; at most 64 different words of it are looked for */
#define PU_STORE_K_MAX     100                /* hits */
#define PU_STORE_WAIT_MS   30000              /* how long another writer is waited for */

typedef struct pu_store pu_store;

/* Opens the file, made where it is missing (not its folder); path NULL: in memory. A file of an older puyu, or one whose
 * words were found by other tables of Unicode, is brought up to date. */
pu_err pu_store_open(const char *path, pu_store **out, pu_error *e) PU_MUST_USE;
void pu_store_close(pu_store *s); /* NULL is fine; what was begun and not committed is undone */

/* All or nothing of what is written in between, and much faster than one by one. They do not nest. busy: true, and
 * nothing was begun, where another process has been writing all the time; NULL: that is an error. */
pu_err pu_store_begin(pu_store *s, bool *busy, pu_error *e) PU_MUST_USE;
pu_err pu_store_commit(pu_store *s, pu_error *e) PU_MUST_USE;
void pu_store_rollback(pu_store *s); /* fine where nothing was begun */

/* A value that its user keeps beside the texts. found NULL or false: there is none. */
pu_err pu_store_set(pu_store *s, const char *key, pu_str value, pu_error *e) PU_MUST_USE;
pu_err pu_store_value(pu_store *s, const char *key, pu_buf *value, bool *found, pu_error *e) PU_MUST_USE;

/* ---- what is in it ----------------------------------------------------------------------------------------------- */

/* Compared, and nothing else. */
typedef struct pu_store_stamp {
  int64_t size, time;
} pu_store_stamp;

/* Any bytes: what is not UTF-8 becomes U+FFFD, in offsets too. */
typedef struct pu_store_document {
  pu_str id; /* one in its source; a document that has it already is replaced */
  pu_str title, text;
} pu_store_document;

/* Is there a source of this name with this stamp? */
pu_err pu_store_same(pu_store *s, pu_str source, pu_store_stamp stamp, bool *same, pu_error *e) PU_MUST_USE;
/* Begins a source, or begins it anew: documents it had are dropped, and its note. */
pu_err pu_store_replace(pu_store *s, pu_str source, pu_store_stamp stamp, pu_error *e) PU_MUST_USE;
/* What is to be remembered of a source: why it could not be read, say. */
pu_err pu_store_note(pu_store *s, pu_str source, pu_str note, pu_error *e) PU_MUST_USE;
/* Adds a document to a source that was begun (else PU_ERR_USAGE). */
pu_err pu_store_put(pu_store *s, pu_str source, const pu_store_document *d, pu_error *e) PU_MUST_USE;
/* Drops a document, or (id.ptr NULL) a source with all of them. What is not there is fine. */
pu_err pu_store_remove(pu_store *s, pu_str source, pu_str id, pu_error *e) PU_MUST_USE;

/* Every source, by the bytes of its name; note.len 0: none. Views live until fn returns, which must not write. */
typedef pu_err (*pu_store_source_fn)(void *arg, pu_str source, pu_str note, pu_error *e);
pu_err pu_store_sources(pu_store *s, pu_store_source_fn fn, void *arg, pu_error *e) PU_MUST_USE;

/* Appends up to max bytes of a document's text from a place on (whole characters; fewer at its end), and its title.
 * Either buffer may be NULL. */
pu_err pu_store_get(pu_store *s, pu_str source, pu_str id, uint64_t from, size_t max, pu_buf *title, pu_buf *text,
                    bool *found, pu_error *e) PU_MUST_USE;

typedef struct pu_store_counts {
  uint64_t sources, documents, passages, bytes; /* bytes: of the database */
} pu_store_counts;
pu_err pu_store_count(pu_store *s, pu_store_counts *out, pu_error *e) PU_MUST_USE;

/* ---- search ------------------------------------------------------------------------------------------------------ */

typedef struct pu_store_ask {
  pu_str query;            /* of any bytes; without a word in it nothing is found */
  size_t k;                /* how many, at most PU_STORE_K_MAX */
  const char *open, *close; /* what stands around words that were found, in snippets; NULL: nothing */
} pu_store_ask;

/* Of one document at most three passages come before those of others. */
typedef struct pu_store_hit {
  pu_str source, id, title;
  pu_str snippet;      /* some 240 bytes around what was found, UTF-8 on one line; "…" where it was cut; empty if the text is */
  uint64_t begin, end; /* the passage, in bytes of the text: for pu_store_get */
  uint32_t passage;    /* its number in the document, from 1 */
  double score;        /* larger is better, among those that have as much of the query */
  bool all;            /* has all words of the query */
} pu_store_hit;

typedef struct pu_store_hits {
  pu_store_hit *v; /* best first */
  size_t n;
  pu_arena *arena; /* holds them */
} pu_store_hits;

pu_err pu_store_search(pu_store *s, const pu_store_ask *ask, pu_store_hits *out, pu_error *e) PU_MUST_USE;
void pu_store_hits_deinit(pu_store_hits *hits); /* of all zeros: fine */

#endif
