/* Inside data: what the footer of a Parquet file says. Source: Apache Parquet, parquet.thrift (format 2.10). */
#ifndef PUYU_DATA_PARQUET_META_H
#define PUYU_DATA_PARQUET_META_H

#include "src/data/parquet/thrift.h"

enum { PU_PARQUET_LEAVES = 4096, PU_PARQUET_NESTED = 32 };
/* Types of values. */
enum { PU_PARQUET_INT32 = 1, PU_PARQUET_INT64 = 2, PU_PARQUET_BYTES = 6 };

/* A column that has values. */
typedef struct pu_parquet_leaf {
  const char *path; /* "a.b": in the arena */
  int type;
  int max_def;    /* how many of the fields on its path are optional: a value at a lower level is none */
  bool repeated;  /* in a list or a map */
  uint64_t bytes; /* unpacked, in all row groups */
} pu_parquet_leaf;

typedef struct pu_parquet_chunk {
  uint64_t at, len; /* in the file, the dictionary's page first */
  uint64_t values;
  int codec;
} pu_parquet_chunk;

typedef struct pu_parquet_meta {
  pu_arena *arena;
  pu_parquet_leaf *leaves;
  size_t n_leaves;
  pu_parquet_chunk *chunks; /* [groups][leaves]; one that the footer does not tell has no values */
  size_t n_groups;
} pu_parquet_meta;

/* *why: what is broken in it, or NULL. Memory is at most some 100 times the footer's size. */
pu_err pu_parquet_meta_read(pu_str footer, pu_arena *a, pu_parquet_meta *out, const char **why,
                            pu_error *e) PU_MUST_USE;

#endif
