/* Tables of comma- or tab-separated values (RFC 4180, and what is seen beyond it): the first row names the columns,
 * each further one is a document, the text of one column: the one under the key, else "content" or "text", else the one
 * that has most of the first rows' bytes. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "src/data/rows.h"

enum { LOOK = 64 << 10 };

typedef struct csv {
  int text, id, title, url, author, lang, time; /* columns; -1: none */
  pu_rows rows;
} csv;

/* ---- columns ----------------------------------------------------------------------------------------------------- */

static int column_of(const csv *c, const char *name) {
  for (size_t i = 0; name && i < c->rows.n; i++)
    if (c->rows.cells[i].len == strlen(name) && strncasecmp(c->rows.cells[i].ptr, name, c->rows.cells[i].len) == 0)
      return (int)i;
  return -1;
}

static int first_of(const csv *c, const char *a, const char *b) {
  int i = column_of(c, a);
  return i >= 0 ? i : column_of(c, b);
}

/* The column with most bytes in the rows that the head holds. */
static int longest_column(csv *c, pu_str head) {
  size_t bytes[PU_ROW_COLUMNS] = {0}, len, best = 0;
  bool first = true;
  for (; head.len > 0 && pu_rows_first(&c->rows, head, &len); first = false) {
    for (size_t i = 0; i < c->rows.n && !first; i++) bytes[i] += c->rows.cells[i].len;
    head = pu_str_of(head.ptr + len, head.len - len);
  }
  for (size_t i = 1; i < PU_ROW_COLUMNS; i++)
    if (bytes[i] > bytes[best]) best = i;
  return (int)best;
}

static pu_err csv_open(void *state, pu_input *in, pu_error *e) {
  csv *c = state;
  pu_str head;
  bool found;
  const char *key = pu_input_options(in)->key;
  PU_TRY(pu_input_as_text(in, e));
  PU_TRY(pu_input_peek(in, LOOK, &head, e));
  c->rows.sign = pu_rows_sign(pu_input_name(in), head);
  int longest = longest_column(c, head);
  PU_TRY(pu_rows_next(&c->rows, in, &found, e));
  if (!found) c->rows.n = 0;
  c->text = key ? column_of(c, key) : first_of(c, "content", "text");
  if (c->text < 0 && key && found) {
    char why[200];
    snprintf(why, sizeof why, "no column \"%.100s\": all of the file", key);
    pu_input_skip(in, 0, why);
  } else if (c->text < 0) {
    c->text = longest;
  }
  c->id = column_of(c, "id");
  c->title = column_of(c, "title");
  c->url = column_of(c, "url");
  c->author = column_of(c, "author");
  c->lang = first_of(c, "lang", "language");
  c->time = first_of(c, "time", "date");
  return PU_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static pu_str cell_keep(const csv *c, int column, pu_doc *out) {
  pu_str s = pu_rows_text(&c->rows, column < 0 ? SIZE_MAX : (size_t)column, &out->spare);
  return s.len > 0 ? pu_doc_keep(out, s) : s;
}

static pu_err csv_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  csv *c = state;
  *found = false;
  if (c->text < 0) return PU_OK;
  for (;;) {
    PU_TRY(pu_rows_next(&c->rows, in, found, e));
    if (!*found) return PU_OK;
    if ((size_t)c->text < c->rows.n && c->rows.cells[c->text].len > 0) break;
  }
  out->id = cell_keep(c, c->id, out);
  out->title = cell_keep(c, c->title, out);
  out->url = cell_keep(c, c->url, out);
  out->author = cell_keep(c, c->author, out);
  out->lang = cell_keep(c, c->lang, out);
  out->time = cell_keep(c, c->time, out);
  PU_TRY(pu_doc_place(in, out, e));
  pu_buf_clear(&out->spare);
  return pu_text_append(pu_rows_text(&c->rows, (size_t)c->text, &out->spare), &out->text, e);
}

const pu_reader pu_reader_csv = {
    .name = "csv", .endings = ".csv .tsv", .state_size = sizeof(csv), .open = csv_open, .next = csv_next};
