/* A file's bytes, unpacked where it is compressed; and JSON objects one after the other in them. */
#ifndef PUYU_TUNE_BYTES_H
#define PUYU_TUNE_BYTES_H

#include "puyu/base.h"

typedef struct pu_tune_bytes {
  pu_map map;      /* the file */
  pu_buf unpacked; /* where it is compressed */
  pu_str text;     /* what it holds: a view of one of the two */
} pu_tune_bytes;

/* Plain, gzip or zstd, by its first bytes; at most max bytes unpacked. Close also after an error. */
pu_err pu_tune_bytes_open(const char *path, size_t max, pu_tune_bytes *out, pu_error *e) PU_MUST_USE;
void pu_tune_bytes_close(pu_tune_bytes *b);

/* JSON Lines, or the elements of one array. */
typedef struct pu_tune_objects {
  const char *name;
  pu_str text;
  size_t at;
  uint64_t line;                   /* of at, from 1 */
  bool begun, array, first, ended; /* ended: the array is */
} pu_tune_objects;

enum { PU_TUNE_OBJECT_MAX = 64 << 20 };
/* The next one, as text that begins with '{', and the line it begins in; ptr NULL: that was all. */
pu_err pu_tune_objects_next(pu_tune_objects *o, pu_str *object, uint64_t *line, pu_error *e) PU_MUST_USE;

#endif
