/* Inside data: the values of one column of a Parquet file, one after the other. Pages of version 1 and 2; values plain
 * or by a dictionary; packed by Snappy, gzip or zstd, or not. Source: Apache Parquet, Encodings.md. */
#ifndef PUYU_DATA_PARQUET_COLUMN_H
#define PUYU_DATA_PARQUET_COLUMN_H

#include "src/data/parquet/meta.h"
#include "src/data/places.h"

/* Numbers of few bits, in runs of one value and in packed eights. */
typedef struct pu_parquet_runs {
  const uint8_t *at, *end;
  int bits;
  uint64_t left;   /* of the run */
  bool packed;     /* is it one of packed numbers? */
  uint32_t value;  /* of all, where it is not */
  uint64_t window; /* of packed bits: `held` of them */
  int held;
} pu_parquet_runs;

typedef struct pu_parquet_column {
  const pu_parquet_leaf *leaf;
  pu_places *file;
  int codec;
  uint64_t at, left; /* of the chunk's bytes */
  uint64_t values;   /* of the chunk, not yet given out */
  pu_buf page, dictionary;
  pu_str *words; /* of the dictionary */
  size_t n_words, cap_words;
  uint64_t page_values; /* of the page, not yet given out */
  bool coded;           /* by the dictionary */
  pu_parquet_runs levels, indexes;
  pu_str plain;    /* not yet given out */
  char number[24]; /* the last one */
  const char *why; /* what ended it before its time; NULL: nothing */
} pu_parquet_column;

void pu_parquet_column_open(pu_parquet_column *c, const pu_parquet_leaf *leaf, pu_places *file);
void pu_parquet_column_close(pu_parquet_column *c); /* of all zeros: fine */
/* Goes to a chunk. */
void pu_parquet_column_begin(pu_parquet_column *c, const pu_parquet_chunk *chunk);
/* The next value, until the next call: bytes as they are, whole numbers in digits. *null: there is none in this row.
 * *found false: the chunk is over, or `why` says what is broken. */
pu_err pu_parquet_column_next(pu_parquet_column *c, pu_str *value, bool *null, bool *found, pu_error *e) PU_MUST_USE;

#endif
