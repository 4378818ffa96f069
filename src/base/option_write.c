/* Option values as YAML that reads back to the same values. */
#include "src/base/option.h"
#include "src/base/utf8.h"

#include <math.h>
#include <string.h>

typedef struct writer {
  pu_buf *out;
  pu_error *e;
} writer;

static pu_err write_rows(writer *w, const pu_option *table, const void *in, const char *prefix, int indent, bool item);

/* ---- texts ---- */

static bool is_reserved(const char *s) {
  static const char *const words[] = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
  for (size_t i = 0; i < PU_COUNT(words); i++)
    if (strcasecmp(s, words[i]) == 0) return true;
  return false;
}

/* Texts that no YAML reader takes for anything else. */
static bool is_plain(const char *s) {
  static const char safe[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./-+@";
  bool start = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || *s == '/' || strncmp(s, "./", 2) == 0 ||
               strncmp(s, "../", 3) == 0;
  return start && s[strspn(s, safe)] == 0 && !is_reserved(s);
}

/* Characters that YAML forbids, or reads as a line break that folds. */
static bool needs_escape(uint32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0) || c == '"' || c == '\\' || c == 0x2028 || c == 0x2029 || c == 0xFEFF ||
         c == 0xFFFE || c == 0xFFFF;
}

static pu_err write_text(writer *w, const char *s) {
  if (is_plain(s)) {
    pu_buf_puts(w->out, s);
    return PU_OK;
  }
  pu_buf_putc(w->out, '"');
  for (size_t len = strlen(s), i = 0; i < len;) {
    uint32_t c;
    int n = pu_utf8_step((const uint8_t *)s + i, len - i, &c);
    if (n < 0) return pu_fail(w->e, PU_ERR_FORMAT, "'%.80s' is not UTF-8, so it cannot be written as YAML", s);
    if (c == '"' || c == '\\')
      pu_buf_printf(w->out, "\\%c", (char)c);
    else if (c == '\n')
      pu_buf_puts(w->out, "\\n");
    else if (needs_escape(c))
      pu_buf_printf(w->out, "\\u%04X", c);
    else
      pu_buf_append(w->out, s + i, (size_t)n);
    i += (size_t)n;
  }
  pu_buf_putc(w->out, '"');
  return PU_OK;
}

/* ---- values ---- */

static void write_number(writer *w, double v) {
  char text[32];
  pu_format_double(text, v);
  pu_buf_puts(w->out, isinf(v) ? (v > 0 ? ".inf" : "-.inf") : text);
}

static pu_err write_enum(writer *w, const pu_option *row, int index) {
  const char *p = row->choices;
  for (; index > 0 && *p; index--) p += strcspn(p, "|") + (p[strcspn(p, "|")] == '|');
  if (index < 0 || !*p) return pu_fail(w->e, PU_ERR_INTERNAL, "'%s' holds no choice", row->key);
  pu_buf_append(w->out, p, strcspn(p, "|"));
  return PU_OK;
}

static pu_err write_strs(writer *w, const pu_strs *list) {
  pu_buf_putc(w->out, '[');
  for (size_t i = 0; i < list->n; i++) {
    if (i) pu_buf_puts(w->out, ", ");
    PU_TRY(write_text(w, list->v[i]));
  }
  pu_buf_putc(w->out, ']');
  return PU_OK;
}

static void write_floats(writer *w, const pu_floats *list) {
  pu_buf_putc(w->out, '[');
  for (size_t i = 0; i < list->n; i++) {
    if (i) pu_buf_puts(w->out, ", ");
    write_number(w, list->v[i]);
  }
  pu_buf_putc(w->out, ']');
}

static pu_err write_scalar(writer *w, const pu_option *row, const void *in) {
  const char *field = (const char *)in + row->offset;
  switch (row->type) {
  case PU_OPT_BOOL:
    pu_buf_puts(w->out, *(const bool *)field ? "true" : "false");
    break;
  case PU_OPT_INT:
    pu_buf_printf(w->out, "%lld", (long long)*(const int64_t *)field);
    break;
  case PU_OPT_FLOAT:
    write_number(w, *(const double *)field);
    break;
  case PU_OPT_STR: {
    const char *s = *(const char *const *)field;
    if (s) return write_text(w, s);
    pu_buf_puts(w->out, "null");
    break;
  }
  case PU_OPT_ENUM:
    return write_enum(w, row, *(const int *)field);
  case PU_OPT_FLOATS:
    write_floats(w, (const pu_floats *)(const void *)field);
    break;
  case PU_OPT_STRS:
    return write_strs(w, (const pu_strs *)(const void *)field);
  case PU_OPT_LIST:
  case PU_OPT_GROUP:
    break;
  }
  return PU_OK;
}

/* ---- rows ---- */

/* Does reading nothing give the same? Then the line would only be noise. */
static bool is_absent(const pu_option *row, const void *in) {
  if (row->type == PU_OPT_GROUP) return true;
  return row->type == PU_OPT_STR && !row->dflt && !*(const char *const *)((const char *)in + row->offset);
}

/* Is row below prefix ("" or "optim")? Then its key after the prefix, else NULL. */
static const char *below(const pu_option *row, const char *prefix, size_t n) {
  if (n == 0) return row->key;
  return strncmp(row->key, prefix, n) == 0 && row->key[n] == '.' ? row->key + n + 1 : NULL;
}

static bool same_group(const char *rest, const char *other, size_t len) {
  return other && strncmp(rest, other, len) == 0 && other[len] == '.';
}

/* Indents a line; the first line of a list's item stands behind its dash. */
static void start_line(writer *w, int indent, bool *item) {
  if (*item)
    pu_buf_printf(w->out, "%*s- ", indent - 2, "");
  else
    pu_buf_printf(w->out, "%*s", indent, "");
  *item = false;
}

static pu_err write_list(writer *w, const pu_option *row, const pu_list *list, int indent) {
  if (list->n == 0) {
    pu_buf_puts(w->out, " []\n");
    return PU_OK;
  }
  pu_buf_putc(w->out, '\n');
  for (size_t i = 0; i < list->n; i++) {
    size_t before = w->out->len;
    PU_TRY(write_rows(w, row->sub, (const char *)list->items + i * row->sub_size, "", indent + 4, true));
    if (w->out->len == before) pu_buf_printf(w->out, "%*s- {}\n", indent + 2, "");
  }
  return PU_OK;
}

static pu_err write_row(writer *w, const pu_option *row, const char *name, const void *in, int indent) {
  pu_buf_printf(w->out, "%s:", name);
  if (row->type == PU_OPT_LIST)
    return write_list(w, row, (const pu_list *)(const void *)((const char *)in + row->offset), indent);
  pu_buf_putc(w->out, ' ');
  PU_TRY(write_scalar(w, row, in));
  pu_buf_putc(w->out, '\n');
  return PU_OK;
}

/* The rows below a prefix, in the table's order; rows that share a further prefix are gathered under its first row. */
static pu_err write_rows(writer *w, const pu_option *table, const void *in, const char *prefix, int indent, bool item) {
  size_t n = strlen(prefix);
  for (const pu_option *row = table; row->key; row++) {
    const char *rest = below(row, prefix, n);
    if (!rest || is_absent(row, in)) continue;
    size_t len = strcspn(rest, ".");
    if (!rest[len]) {
      start_line(w, indent, &item);
      PU_TRY(write_row(w, row, rest, in, indent));
      continue;
    }
    bool written = false;
    for (const pu_option *before = table; before < row && !written; before++)
      written = !is_absent(before, in) && same_group(rest, below(before, prefix, n), len);
    if (written) continue;
    char group[256];
    int used = snprintf(group, sizeof group, "%.*s", (int)(rest - row->key + (ptrdiff_t)len), row->key);
    if (used < 0 || (size_t)used >= sizeof group)
      return pu_fail(w->e, PU_ERR_INTERNAL, "'%.80s…' is too long for a key", row->key);
    start_line(w, indent, &item);
    pu_buf_printf(w->out, "%.*s:\n", (int)len, rest);
    PU_TRY(write_rows(w, table, in, group, indent + 2, false));
  }
  return PU_OK;
}

pu_err pu_options_write_yaml(const pu_option *table, const void *in, pu_buf *out, pu_error *e) {
  writer w = {out, e};
  PU_TRY(write_rows(&w, table, in, "", 0, false));
  return out->failed ? pu_fail(e, PU_ERR_NOMEM, "no memory to write the options") : PU_OK;
}
