/* rag: a folder's documents, found by their words. What is read is what data reads (docs/data.md); what is found, and
 * how it is ranked, is store's (puyu/store.h).
 *
 * Sources are the folder's files by their path below it, "guide/install.md"; a document's id says which one of the file
 * it is, so that source and id together name it: "" the file itself, ":12" its line, row or record, "/part.html" a member
 * of an archive, "#wiki-7" a record with an id of its own.
 *
 * Files that begin with a dot, and what is in folders that do, are passed over, and so are symbolic links, which may
 * lead out of the folder, and whatever is no plain file.
 *
 * The index is a file of its own, by default in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache: puyu/search,
 * readable by its owner alone); the folder itself is never written to. */
#ifndef PUYU_RAG_H
#define PUYU_RAG_H

#include "puyu/store.h"

typedef struct pu_rag pu_rag;

/* index NULL: the folder's own in the cache, which is made again where it is damaged. An index belongs to one folder:
 * that of another one is PU_ERR_USAGE. Nothing is read yet: pu_rag_update. */
pu_err pu_rag_open(const char *dir, const char *index, pu_rag **out, pu_error *e) PU_MUST_USE;
void pu_rag_close(pu_rag *r); /* NULL is fine */
const char *pu_rag_index(const pu_rag *r); /* where the index lies */

typedef struct pu_rag_counts {
  uint64_t files;     /* in the folder, as far as they are looked at */
  uint64_t read;      /* of them now, since they are new or their size or time changed */
  uint64_t removed;   /* files that were in the index and are gone */
  uint64_t broken;    /* that are no text, or broken somewhere: what was before that place is in the index */
  uint64_t documents; /* read now */
  double bytes;       /* of the files that were read now */
  bool busy;          /* another process was writing all the time: the index is as that one has it so far */
} pu_rag_counts;

/* Makes the index what the folder is: new and changed files are read, others are not, those that are gone leave. What is
 * done is kept some 16 MiB at a time, so a run that is stopped (PU_ERR_STOPPED, by pu_signals_stop) need not begin anew.
 * progress may be NULL: bytes of the files to be read. */
pu_err pu_rag_update(pu_rag *r, void (*progress)(void *arg, double done, double total), void *arg, pu_rag_counts *out,
                     pu_error *e) PU_MUST_USE;
/* Each file that could not be read, or not to its end, and why. */
pu_err pu_rag_broken(pu_rag *r, pu_err (*fn)(void *arg, pu_str source, pu_str why, pu_error *e), void *arg, pu_error *e)
    PU_MUST_USE;

/* The folder's texts, for pu_store_search and pu_store_get. */
pu_store *pu_rag_store(pu_rag *r);
/* Searches, and appends the answer as one JSON object, for a model or a program:
 * {"query": …, "files": …, "hits": [{"file": "a.zip/b.md", "title", "passage", "begin", "end", "score", "all", "text"}]}
 * text: a snippet with what was found between **, or with `whole` all of the passage. */
pu_err pu_rag_json(pu_rag *r, pu_str query, size_t k, bool whole, pu_buf *out, pu_error *e) PU_MUST_USE;

#endif
