/* Rows of tables. */
#include "src/data/rows.h"

#include <string.h>

enum { STEP = 1 << 20, ROW_MAX = 16 << 20, FAILURES = 16 };

typedef enum row { ROW, CUT, OPEN_QUOTE } row;

/* One cell from p on; returns behind it, or NULL: its quote is not closed. */
static const char *cell_read(const pu_rows *r, const char *p, const char *end, pu_cell *out) {
  *out = (pu_cell){.ptr = p};
  if (!r->plain && p < end && *p == '"') {
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
    while (p < end && *p != r->sign && *p != '\n') p++; /* what stands behind a closing quote is nothing */
    return p;
  }
  while (p < end && *p != r->sign && *p != '\n') p++;
  out->len = (size_t)(p - out->ptr);
  if (out->len > 0 && (p == end || *p == '\n') && p[-1] == '\r') out->len--;
  return p;
}

/* One row of the bytes; *len counts its end. last: no more will come. */
static row row_read(pu_rows *r, pu_str s, bool last, size_t *len) {
  const char *p = s.ptr, *end = s.ptr + s.len;
  for (r->n = 0;;) {
    pu_cell ignored;
    p = cell_read(r, p, end, r->n < PU_ROW_COLUMNS ? &r->cells[r->n] : &ignored);
    if (!p) return last ? OPEN_QUOTE : CUT;
    if (r->n < PU_ROW_COLUMNS) r->n++;
    if (p == end) break;
    if (*p++ == '\n') {
      *len = (size_t)(p - s.ptr);
      return ROW;
    }
  }
  *len = s.len;
  return last ? ROW : CUT;
}

bool pu_rows_first(pu_rows *r, pu_str bytes, size_t *len) {
  return row_read(r, bytes, false, len) == ROW;
}

/* Looks at twice as much each time that a row is cut. */
pu_err pu_rows_next(pu_rows *r, pu_input *in, bool *found, pu_error *e) {
  *found = false;
  for (size_t want = 1;;) {
    pu_str s;
    size_t len = 0;
    PU_TRY(pu_input_peek(in, want, &s, e));
    if (s.len == 0) return PU_OK;
    bool last = s.len < want || s.len >= ROW_MAX;
    row read = row_read(r, s, last, &len);
    if (read == CUT) {
      want = PU_MAX(2 * s.len, (size_t)STEP);
      continue;
    }
    if (read == ROW) {
      pu_input_take(in, len);
      pu_input_set_number(in, pu_input_number(in) + 1);
      *found = true;
      return PU_OK;
    }
    if (++r->failures >= FAILURES) r->plain = true;
    pu_input_skip(in, pu_input_at(in), "a quotation mark that is never closed");
    bool there;
    PU_TRY(pu_input_line(in, &s, &there, e));
    want = 1;
  }
}

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

char pu_rows_sign(const char *name, pu_str head) {
  return is_tabs(name) ? '\t' : sign_of(head);
}

pu_str pu_rows_text(const pu_rows *r, size_t column, pu_buf *space) {
  if (column >= r->n) return (pu_str){0};
  const pu_cell *s = &r->cells[column];
  if (!s->quoted) return pu_str_of(s->ptr, s->len);
  pu_buf_clear(space);
  for (const char *p = s->ptr, *end = p + s->len; p < end;) {
    const char *quote = memchr(p, '"', (size_t)(end - p));
    pu_buf_append(space, p, (size_t)((quote ? quote + 1 : end) - p));
    p = quote ? quote + 2 : end;
  }
  return pu_str_of(space->data ? space->data : "", space->len);
}
