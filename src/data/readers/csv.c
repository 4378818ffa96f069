/* Tables of comma- or tab-separated values (RFC 4180, and what is seen beyond it): the first row names the columns,
 * each further one is a document, the text of one column: the one under the key, else "content" or "text", else the one
 * that has most of the first rows' bytes. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "src/data/reader.h"

enum { LOOK = 64 << 10, STEP = 1 << 20, COLUMNS = 1024, ROW_MAX = 16 << 20, FAILURES = 16 };

typedef struct cell {
  const char *ptr;
  size_t len;
  bool quoted; /* doubled quotes in it stand for one */
} cell;

typedef struct csv {
  char sign;
  bool plain; /* quotes mean nothing: too many were never closed */
  int failures;
  int text, id, title, url, author, lang, time; /* columns; -1: none */
  cell cells[COLUMNS];
  size_t n;
} csv;

typedef enum row { ROW, CUT, OPEN_QUOTE } row;

/* One cell from p on; returns behind it, or NULL: its quote is not closed. */
static const char *cell_read(const csv *c, const char *p, const char *end, cell *out) {
  *out = (cell){.ptr = p};
  if (!c->plain && p < end && *p == '"') {
    out->ptr = ++p;
    for (;;) {
      const char *quote = memchr(p, '"', (size_t)(end - p));
      if (!quote) return NULL;
      p = quote + 1;
      if (p < end && *p == '"') {
        out->quoted = true;
        p++;
        continue;
      }
      out->len = (size_t)(quote - out->ptr);
      break;
    }
    while (p < end && *p != c->sign && *p != '\n') p++; /* what stands behind a closing quote is nothing */
    return p;
  }
  while (p < end && *p != c->sign && *p != '\n') p++;
  out->len = (size_t)(p - out->ptr);
  if (out->len > 0 && (p == end || *p == '\n') && p[-1] == '\r') out->len--;
  return p;
}

/* One row of the bytes; *len counts its end. last: no more will come. */
static row row_read(csv *c, pu_str s, bool last, size_t *len) {
  const char *p = s.ptr, *end = s.ptr + s.len;
  for (c->n = 0;;) {
    cell ignored;
    p = cell_read(c, p, end, c->n < COLUMNS ? &c->cells[c->n] : &ignored);
    if (!p) return last ? OPEN_QUOTE : CUT;
    if (c->n < COLUMNS) c->n++;
    if (p == end) break;
    if (*p++ == '\n') {
      *len = (size_t)(p - s.ptr);
      return ROW;
    }
  }
  *len = s.len;
  return last ? ROW : CUT;
}

/* The next row, with its cells in the input's buffer until the next call. Looks at twice as much each time it is cut.
 * Where a quote is never closed, the line is skipped; after many of them quotes are characters like others. */
static pu_err row_next(csv *c, pu_input *in, bool *found, pu_error *e) {
  *found = false;
  for (size_t want = 1;;) {
    pu_str s;
    size_t len = 0;
    PU_TRY(pu_input_peek(in, want, &s, e));
    if (s.len == 0) return PU_OK;
    bool last = s.len < want || s.len >= ROW_MAX;
    row r = row_read(c, s, last, &len);
    if (r == CUT) {
      want = PU_MAX(2 * s.len, (size_t)STEP);
      continue;
    }
    if (r == ROW) {
      pu_input_take(in, len);
      pu_input_set_number(in, pu_input_number(in) + 1);
      *found = true;
      return PU_OK;
    }
    if (++c->failures >= FAILURES) c->plain = true;
    pu_input_skip(in, pu_input_at(in), "a quotation mark that is never closed");
    bool there;
    PU_TRY(pu_input_line(in, &s, &there, e));
    want = 1;
  }
}

/* ---- columns ----------------------------------------------------------------------------------------------------- */

static bool is_tabs(const char *name) {
  const char *at = strstr(name, ".tsv");
  return at && (at[4] == '\0' || strcmp(at + 4, ".gz") == 0 || strcmp(at + 4, ".zst") == 0);
}

/* The separator that the first line has most of. */
static char sign_of(pu_str head) {
  static const char signs[] = ",\t;|";
  size_t count[sizeof signs - 1] = {0}, best = 0;
  bool quoted = false;
  for (size_t i = 0; i < head.len && (quoted || head.ptr[i] != '\n'); i++) {
    const char *at = head.ptr[i] ? strchr(signs, head.ptr[i]) : NULL;
    quoted ^= head.ptr[i] == '"';
    if (at && !quoted) count[at - signs]++;
  }
  for (size_t i = 1; i < PU_COUNT(count); i++)
    if (count[i] > count[best]) best = i;
  return signs[best];
}

static int column_of(const csv *c, const char *name) {
  for (size_t i = 0; name && i < c->n; i++)
    if (c->cells[i].len == strlen(name) && strncasecmp(c->cells[i].ptr, name, c->cells[i].len) == 0) return (int)i;
  return -1;
}

static int first_of(const csv *c, const char *a, const char *b) {
  int i = column_of(c, a);
  return i >= 0 ? i : column_of(c, b);
}

/* The column with most bytes in the rows that the head holds. */
static int longest_column(csv *c, pu_str head) {
  size_t bytes[COLUMNS] = {0}, len, best = 0;
  bool first = true;
  for (; head.len > 0 && row_read(c, head, false, &len) == ROW; first = false) {
    for (size_t i = 0; i < c->n && !first; i++) bytes[i] += c->cells[i].len;
    head = pu_str_of(head.ptr + len, head.len - len);
  }
  for (size_t i = 1; i < COLUMNS; i++)
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
  c->sign = is_tabs(pu_input_name(in)) ? '\t' : sign_of(head);
  int longest = longest_column(c, head);
  PU_TRY(row_next(c, in, &found, e));
  if (!found) c->n = 0;
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

static pu_str cell_text(const csv *c, int column, pu_buf *space) {
  if (column < 0 || (size_t)column >= c->n) return (pu_str){0};
  const cell *s = &c->cells[column];
  if (!s->quoted) return pu_str_of(s->ptr, s->len);
  pu_buf_clear(space);
  for (const char *p = s->ptr, *end = p + s->len; p < end;) {
    const char *quote = memchr(p, '"', (size_t)(end - p));
    pu_buf_append(space, p, (size_t)((quote ? quote + 1 : end) - p));
    p = quote ? quote + 2 : end;
  }
  return pu_str_of(space->data ? space->data : "", space->len);
}

static pu_str cell_keep(const csv *c, int column, pu_doc *out) {
  pu_str s = cell_text(c, column, &out->spare);
  return s.len > 0 ? pu_doc_keep(out, s) : s;
}

static pu_err csv_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  csv *c = state;
  *found = false;
  if (c->text < 0) return PU_OK;
  for (;;) {
    PU_TRY(row_next(c, in, found, e));
    if (!*found) return PU_OK;
    if ((size_t)c->text < c->n && c->cells[c->text].len > 0) break;
  }
  out->id = cell_keep(c, c->id, out);
  out->title = cell_keep(c, c->title, out);
  out->url = cell_keep(c, c->url, out);
  out->author = cell_keep(c, c->author, out);
  out->lang = cell_keep(c, c->lang, out);
  out->time = cell_keep(c, c->time, out);
  PU_TRY(pu_doc_place(in, out, e));
  pu_buf_clear(&out->spare);
  return pu_text_append(cell_text(c, c->text, &out->spare), &out->text, e);
}

const pu_reader pu_reader_csv = {
    .name = "csv", .endings = ".csv .tsv", .state_size = sizeof(csv), .open = csv_open, .next = csv_next};
