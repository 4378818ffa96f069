/* Inside rag. */
#ifndef PUYU_RAG_INTERNAL_H
#define PUYU_RAG_INTERNAL_H

#include "puyu/rag.h"

struct pu_rag {
  pu_store *store;
  char *dir;   /* without links in it */
  char *index; /* likewise; its file */
};

typedef struct rag_file {
  const char *path; /* below the folder */
  pu_store_stamp stamp;
  bool changed;
} rag_file;

typedef struct rag_files {
  rag_file *v; /* by the bytes of their paths */
  size_t n, cap;
  pu_arena *arena; /* holds the paths */
} rag_files;

/* The folder's files, but the index's own. out is all zeros at first; free it after errors as well. */
pu_err rag_walk(const pu_rag *r, rag_files *out, pu_error *e) PU_MUST_USE;
void rag_files_free(rag_files *f);
const rag_file *rag_files_find(const rag_files *f, pu_str path); /* NULL: not there */

/* Where a folder's index lies in the user's cache, whose folder is made. The caller's to free. */
pu_err rag_cache_path(const char *dir, char **out, pu_error *e) PU_MUST_USE;

#endif
