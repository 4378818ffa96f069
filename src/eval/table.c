/* Results as a table: for a terminal, as Markdown, as JSON. */
#include <math.h>
#include <string.h>

#include "src/eval/internal.h"

enum { COLUMNS = 9, CELL = 64 };

typedef struct row {
  char cells[COLUMNS][CELL];
} row;

static void put_score(char cell[CELL], pu_eval_score s, bool percent) {
  double by = percent ? 100 : 1;
  if (isnan(s.value))
    snprintf(cell, CELL, "-");
  else if (isnan(s.error))
    snprintf(cell, CELL, "%.2f", s.value * by);
  else
    snprintf(cell, CELL, "%.2f +- %.2f", s.value * by, s.error * by);
}

static void put_share(char cell[CELL], int64_t n, int64_t of) {
  if (n)
    snprintf(cell, CELL, "%.1f %%", 100.0 * (double)n / (double)PU_MAX(of, 1));
  else
    snprintf(cell, CELL, "0");
}

static const char *const heads[COLUMNS] = {"model", "task",   "measure", "score",   "by subject",
                                           "n",     "unread", "cut",     "too long"};

static row row_of(const pu_eval_result *r) {
  row x;
  memset(&x, 0, sizeof x);
  bool percent = r->kind != PU_EVAL_PERPLEXITY;
  snprintf(x.cells[0], CELL, "%s", r->model);
  snprintf(x.cells[1], CELL, "%s", r->task);
  snprintf(x.cells[2], CELL, "%s", r->measure);
  put_score(x.cells[3], r->micro, percent);
  if (percent && r->subjects > 1) put_score(x.cells[4], r->macro, percent);
  if (!percent) snprintf(x.cells[4], CELL, "%.4f bits a byte", r->bits_per_byte);
  snprintf(x.cells[5], CELL, "%lld%s", (long long)r->n, percent ? "" : " windows");
  put_share(x.cells[6], r->unread, r->n);
  put_share(x.cells[7], r->cut, r->n);
  put_share(x.cells[8], r->too_long, r->n);
  return x;
}

static void put_row(pu_buf *b, const char *const *cells, const size_t *width, bool markdown) {
  for (int i = 0; i < COLUMNS; i++) {
    pu_buf_printf(b, "%s%s", i ? (markdown ? " | " : "  ") : (markdown ? "| " : ""), cells[i]);
    size_t n = pu_utf8_width(pu_str_c(cells[i]));
    if (i + 1 < COLUMNS || markdown)
      for (; n < width[i]; n++) pu_buf_putc(b, ' ');
  }
  pu_buf_puts(b, markdown ? " |\n" : "\n");
}

static void put_table(pu_buf *b, const pu_eval_result *v, size_t n, bool markdown) {
  size_t width[COLUMNS];
  const char *cells[COLUMNS];
  char rule[COLUMNS][CELL];
  for (int i = 0; i < COLUMNS; i++) width[i] = strlen(heads[i]);
  for (size_t k = 0; k < n; k++) {
    row x = row_of(&v[k]);
    for (int i = 0; i < COLUMNS; i++) width[i] = PU_MAX(width[i], pu_utf8_width(pu_str_c(x.cells[i])));
  }
  put_row(b, heads, width, markdown);
  for (int i = 0; i < COLUMNS; i++) {
    memset(rule[i], '-', PU_MIN(width[i], (size_t)CELL - 1));
    rule[i][PU_MIN(width[i], (size_t)CELL - 1)] = 0;
    cells[i] = rule[i];
  }
  if (markdown) put_row(b, cells, width, true);
  for (size_t k = 0; k < n; k++) {
    row x = row_of(&v[k]);
    for (int i = 0; i < COLUMNS; i++) cells[i] = x.cells[i];
    put_row(b, cells, width, markdown);
  }
}

static void put_number(pu_buf *b, const char *key, double v) {
  char text[32];
  pu_format_double(text, v); /* "null" where there is none */
  pu_buf_printf(b, ",\"%s\":%s", key, text);
}

static void put_json(pu_buf *b, const pu_eval_result *r) {
  pu_buf_puts(b, "{\"model\":");
  pu_buf_json_str(b, pu_str_c(r->model));
  pu_buf_puts(b, ",\"task\":");
  pu_buf_json_str(b, pu_str_c(r->task));
  pu_buf_puts(b, ",\"measure\":");
  pu_buf_json_str(b, pu_str_c(r->measure));
  put_number(b, "score", r->micro.value);
  put_number(b, "error", r->micro.error);
  if (r->kind == PU_EVAL_PERPLEXITY) {
    put_number(b, "token_perplexity", r->token_perplexity);
    put_number(b, "byte_perplexity", r->byte_perplexity);
    put_number(b, "bits_per_byte", r->bits_per_byte);
  } else {
    put_number(b, "macro", r->macro.value);
    put_number(b, "macro_error", r->macro.error);
  }
  pu_buf_printf(b, ",\"n\":%lld,\"subjects\":%lld,\"unread\":%lld,\"cut\":%lld,\"too_long\":%lld}\n", (long long)r->n,
                (long long)r->subjects, (long long)r->unread, (long long)r->cut, (long long)r->too_long);
}

pu_err pu_eval_table(const pu_eval_result *v, size_t n, pu_eval_form form, pu_buf *out, pu_error *e) {
  if (form == PU_EVAL_JSON)
    for (size_t i = 0; i < n; i++) put_json(out, &v[i]);
  else
    put_table(out, v, n, form == PU_EVAL_MARKDOWN);
  return out->failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for a table") : PU_OK;
}
