/* Inside data: an input whose bytes are wanted from several places, not one after the other: zip, Parquet. */
#ifndef PUYU_DATA_PLACES_H
#define PUYU_DATA_PLACES_H

#include "src/data/reader.h"

/* A plain file is read where it lies. Anything else (compressed, a member of an archive) is held in memory, at most
 * PU_DOC_MAX of it: of more, which is recorded, size is 0. */
typedef struct pu_places {
  pu_input *in;
  uint64_t size;
  bool in_memory;
  pu_buf all; /* in_memory: all of it */
} pu_places;

pu_err pu_places_open(pu_places *p, pu_input *in, pu_error *e) PU_MUST_USE;
void pu_places_close(pu_places *p); /* of all zeros: fine */
/* Up to len bytes (at most PU_INPUT_PEEK) from a place on, until the next call; fewer at the end. */
pu_err pu_places_bytes(pu_places *p, uint64_t at, size_t len, pu_str *out, pu_error *e) PU_MUST_USE;

#endif
