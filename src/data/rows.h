/* Inside data: rows of comma- or tab-separated values (RFC 4180, and what is seen beyond it) out of an input. */
#ifndef PUYU_DATA_ROWS_H
#define PUYU_DATA_ROWS_H

#include "src/data/reader.h"

enum { PU_ROW_COLUMNS = 1024 };

typedef struct pu_cell {
  const char *ptr;
  size_t len;
  bool quoted; /* doubled quotes in it stand for one: pu_rows_text */
} pu_cell;

typedef struct pu_rows {
  char sign;  /* between cells */
  bool plain; /* quotes mean nothing: too many were never closed */
  int failures;
  pu_cell cells[PU_ROW_COLUMNS]; /* of the row that was read; further ones are passed over */
  size_t n;
} pu_rows;

/* The separator, by the input's name or its first line. */
char pu_rows_sign(const char *name, pu_str head);
/* A whole row at the beginning of the bytes into cells; *len counts its end. false: more bytes are needed. */
bool pu_rows_first(pu_rows *r, pu_str bytes, size_t *len);
/* The next row, with its cells in the input's buffer until the next call; it counts as one of the input's number. Where
 * a quote is never closed, the line is skipped; after many of them quotes are characters like others. */
pu_err pu_rows_next(pu_rows *r, pu_input *in, bool *found, pu_error *e) PU_MUST_USE;
/* A cell's text, in the input's buffer or in space. */
pu_str pu_rows_text(const pu_rows *r, size_t column, pu_buf *space);

#endif
