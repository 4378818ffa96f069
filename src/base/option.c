/* Option tables: rows found, values parsed from text, ranges, defaults, what is required. */
#include "src/base/option.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows ---- */

const pu_option *pu_option_find(const pu_option *table, const char *key) {
  for (const pu_option *row = table; row->key; row++)
    if (row->type != PU_OPT_GROUP && strcmp(row->key, key) == 0) return row;
  return NULL;
}

/* Edits (insert, delete, change, swap of neighbours) from a to b: Damerau and Levenshtein's "optimal string alignment",
 * three rows of the table at a time. */
size_t pu_edit_distance(const char *a, const char *b) {
  enum { LONGEST = 64 };
  size_t la = strlen(a), lb = strlen(b);
  if (la >= LONGEST || lb >= LONGEST) return SIZE_MAX;
  size_t rows[3][LONGEST];
  size_t *before = rows[0], *last = rows[1], *now = rows[2];
  for (size_t j = 0; j <= lb; j++) last[j] = before[j] = j;
  for (size_t i = 1; i <= la; i++) {
    now[0] = i;
    for (size_t j = 1; j <= lb; j++) {
      size_t d = last[j - 1] + (a[i - 1] != b[j - 1]);
      d = PU_MIN(d, PU_MIN(last[j], now[j - 1]) + 1);
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) d = PU_MIN(d, before[j - 2] + 1);
      now[j] = d;
    }
    size_t *spare = before;
    before = last;
    last = now;
    now = spare;
  }
  return last[lb];
}

const char *pu_options_nearest(const pu_option *table, const char *key) {
  size_t best = PU_MAX((size_t)2, strlen(key) / 3) + 1;
  const char *found = NULL, *tail = NULL;
  for (const pu_option *row = table; row->key; row++) {
    if (row->type == PU_OPT_GROUP) continue;
    size_t d = pu_edit_distance(key, row->key);
    if (d < best && d < strlen(row->key)) {
      best = d;
      found = row->key;
    }
    const char *dot = strrchr(row->key, '.'); /* "lr" for "optim.lr": the right name in the wrong place */
    if (dot && !tail && strcmp(dot + 1, key) == 0) tail = row->key;
  }
  return tail ? tail : found;
}

/* "train" for "trian": the group of keys nearest to key, as a row's key and how much of it. */
static const char *nearest_group(const pu_option *table, const char *key, int *len) {
  size_t best = PU_MAX((size_t)2, strlen(key) / 3) + 1;
  const char *found = NULL;
  for (const pu_option *row = table; row->key; row++) {
    for (const char *dot = strchr(row->key, '.'); dot && row->type != PU_OPT_GROUP; dot = strchr(dot + 1, '.')) {
      char group[64];
      snprintf(group, sizeof group, "%.*s", (int)(dot - row->key), row->key);
      size_t d = pu_edit_distance(key, group);
      if (d >= best) continue;
      best = d;
      found = row->key;
      *len = (int)(dot - row->key);
    }
  }
  return found;
}

/* The first key of the group that is called key: "optim.lr" for "optim". */
static const char *key_of_group(const pu_option *table, const char *key) {
  size_t n = strlen(key);
  for (const pu_option *row = table; row->key; row++)
    if (row->type != PU_OPT_GROUP && strncmp(row->key, key, n) == 0 && row->key[n] == '.') return row->key;
  return NULL;
}

pu_err pu_option_unknown(const pu_option *table, const char *key, const char *where, pu_error *e) {
  const char *inside = key_of_group(table, key);
  if (inside)
    return pu_fail(e, PU_ERR_USAGE, "%s: '%.100s' is a group of keys: give one of them, such as %s", where, key,
                   inside);
  const char *near = pu_options_nearest(table, key);
  int len = near ? (int)strlen(near) : 0;
  if (!near) near = nearest_group(table, key, &len);
  if (!near) return pu_fail(e, PU_ERR_USAGE, "%s: unknown key '%.100s'", where, key);
  return pu_fail(e, PU_ERR_USAGE, "%s: unknown key '%.100s'; did you mean '%.*s'?", where, key, len, near);
}

/* ---- values from text ---- */

static bool bounded(const pu_option *row) {
  return row->min != 0 || row->max != 0;
}

/* A maximum below the minimum, or one no value reaches, is none. */
static bool no_maximum(const pu_option *row) {
  return row->max < row->min || row->max >= 9.2e18;
}

static pu_err check_range(const pu_option *row, double v, const char *text, const char *where, pu_error *e) {
  if (!bounded(row) || (v >= row->min && (v <= row->max || no_maximum(row)))) return PU_OK;
  char min[32], max[32];
  pu_format_double(min, row->min);
  pu_format_double(max, row->max);
  if (no_maximum(row)) return pu_fail(e, PU_ERR_USAGE, "%s: %.40s is too small: at least %s", where, text, min);
  return pu_fail(e, PU_ERR_USAGE, "%s: %.40s is outside %s..%s", where, text, min, max);
}

static pu_err parse_int(const pu_option *row, const char *text, int64_t *v, const char *where, pu_error *e) {
  const char *digits = text + (text[0] == '-' || text[0] == '+');
  if (!*digits || digits[strspn(digits, "0123456789")])
    return pu_fail(e, PU_ERR_USAGE, "%s: '%.80s' is not an integer", where, text);
  errno = 0;
  long long n = strtoll(text, NULL, 10);
  if (errno) return pu_fail(e, PU_ERR_USAGE, "%s: %.80s does not fit into 64 bits", where, text);
  PU_TRY(check_range(row, (double)n, text, where, e));
  *v = n;
  return PU_OK;
}

pu_err pu_option_number(const pu_option *row, const char *text, double *v, const char *where, pu_error *e) {
  const char *bare = text + (text[0] == '-' || text[0] == '+');
  bool inf = strcmp(bare, "inf") == 0 || strcmp(bare, ".inf") == 0;
  char *end = NULL;
  double d = 0;
  if (inf)
    d = text[0] == '-' ? -INFINITY : INFINITY;
  else if (*bare && bare[strspn(bare, "0123456789.eE+-")] == 0)
    d = strtod(text, &end);
  if (!inf && (!end || end == text || *end))
    return pu_fail(e, PU_ERR_USAGE, "%s: '%.80s' is not a number", where, text);
  if (isinf(d) && !(inf && d == (d > 0 ? row->max : row->min)))
    return pu_fail(e, PU_ERR_USAGE, "%s: %.80s is not finite", where, text);
  PU_TRY(check_range(row, d, text, where, e));
  *v = d;
  return PU_OK;
}

static pu_err parse_bool(const char *text, bool *v, const char *where, pu_error *e) {
  static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
  for (size_t i = 0; i < PU_COUNT(words); i++)
    if (strcasecmp(text, words[i]) == 0) {
      *v = i & 1;
      return PU_OK;
    }
  return pu_fail(e, PU_ERR_USAGE, "%s: '%.80s' is neither true nor false", where, text);
}

void pu_option_choices(const char *choices, char *dst, size_t size) {
  size_t n = 0;
  for (const char *p = choices; *p && n + 3 < size; p++) {
    if (*p == '|')
      dst[n++] = ',', dst[n++] = ' ';
    else
      dst[n++] = *p;
  }
  dst[n] = 0;
}

/* Where text is among "a|b|c", or -1. */
static int choice_of(const char *choices, pu_str text) {
  int index = 0;
  for (const char *p = choices; *p; index++) {
    size_t n = strcspn(p, "|");
    if (n == text.len && memcmp(p, text.ptr, n) == 0) return index;
    p += n + (p[n] == '|');
  }
  return -1;
}

/* The choice that an old word stands for, or text itself. */
static pu_str today(const pu_option *row, const char *text) {
  size_t len = strlen(text);
  for (const char *p = row->also ? row->also : ""; *p;) {
    size_t n = strcspn(p, "|");
    if (n > len && memcmp(p, text, len) == 0 && p[len] == '=') return (pu_str){p + len + 1, n - len - 1};
    p += n + (p[n] == '|');
  }
  return pu_str_c(text);
}

static pu_err parse_enum(const pu_option *row, const char *text, int *v, const char *where, pu_error *e) {
  int index = choice_of(row->choices, today(row, text));
  if (index >= 0) {
    *v = index;
    return PU_OK;
  }
  char list[256];
  pu_option_choices(row->choices, list, sizeof list);
  return pu_fail(e, PU_ERR_USAGE, "%s: '%.80s' is not one of %s", where, text, list);
}

pu_err pu_option_copy(pu_arena *a, const void *from, size_t n, size_t size, void **to, pu_error *e) {
  size_t bytes;
  *to = NULL;
  if (pu_mul_overflows(n, size, &bytes) || !(*to = pu_arena_alloc(a, bytes)))
    return pu_fail(e, PU_ERR_NOMEM, "no memory for an option's list of %zu", n);
  if (n) memcpy(*to, from, bytes);
  return PU_OK;
}

/* "0.9,0.95" */
static pu_err parse_floats(const pu_option *row, const char *text, pu_floats *out, const char *where, pu_arena *a,
                           pu_error *e) {
  double v[64];
  size_t n = 0;
  for (const char *p = text; *p;) {
    size_t len = strcspn(p, ",");
    char item[48];
    if (len >= sizeof item || n == PU_COUNT(v))
      return pu_fail(e, PU_ERR_USAGE, "%s: '%.80s' is not a list of numbers such as 0.9,0.95", where, text);
    const char *from = p + strspn(p, " ");
    size_t used = (size_t)(p + len - PU_MIN(from, p + len));
    memcpy(item, from, used);
    while (used > 0 && item[used - 1] == ' ') used--;
    item[used] = 0;
    PU_TRY(pu_option_number(row, item, &v[n++], where, e));
    p += len + (p[len] == ',');
  }
  void *copy;
  PU_TRY(pu_option_copy(a, v, n, sizeof *v, &copy, e));
  *out = (pu_floats){copy, n};
  return PU_OK;
}

static pu_err copy_text(const char *text, const char **out, const char *where, pu_arena *a, pu_error *e) {
  *out = pu_arena_strdup(a, text);
  return *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a text of %zu bytes", where, strlen(text));
}

static pu_err append_text(const char *text, pu_strs *list, const char *where, pu_arena *a, pu_error *e) {
  const char *copy;
  PU_TRY(copy_text(text, &copy, where, a, e));
  const char **v = pu_arena_alloc(a, (list->n + 1) * sizeof *v);
  if (!v) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a list of %zu", where, list->n + 1);
  if (list->n) memcpy(v, list->v, list->n * sizeof *v);
  v[list->n] = copy;
  *list = (pu_strs){v, list->n + 1};
  return PU_OK;
}

pu_err pu_option_set_scalar(const pu_option *row, void *out, const char *text, const char *where, pu_arena *a,
                            pu_error *e) {
  void *field = pu_option_field(row, out);
  switch (row->type) {
  case PU_OPT_BOOL:
    return parse_bool(text, field, where, e);
  case PU_OPT_INT:
    return parse_int(row, text, field, where, e);
  case PU_OPT_FLOAT:
    return pu_option_number(row, text, field, where, e);
  case PU_OPT_STR:
    return copy_text(text, field, where, a, e);
  case PU_OPT_ENUM:
    return parse_enum(row, text, field, where, e);
  case PU_OPT_FLOATS:
    return parse_floats(row, text, field, where, a, e);
  case PU_OPT_STRS:
    return append_text(text, field, where, a, e);
  case PU_OPT_LIST:
  case PU_OPT_GROUP:
    break;
  }
  return pu_fail(e, PU_ERR_USAGE, "%s: '%s' is a list of mappings: write it as [{key: value}]", where, row->key);
}

pu_err pu_options_set_text(const pu_option *table, void *out, const char *key, const char *value, const char *where,
                           pu_arena *a, pu_error *e) {
  const pu_option *row = pu_option_find(table, key);
  if (!row) return pu_option_unknown(table, key, where, e);
  return pu_option_set_scalar(row, out, value, where, a, e);
}

/* ---- whole tables ---- */

static void clear_field(const pu_option *row, void *out) {
  static const size_t size[] = {
      [PU_OPT_BOOL] = sizeof(bool),        [PU_OPT_INT] = sizeof(int64_t),  [PU_OPT_FLOAT] = sizeof(double),
      [PU_OPT_STR] = sizeof(const char *), [PU_OPT_ENUM] = sizeof(int),     [PU_OPT_FLOATS] = sizeof(pu_floats),
      [PU_OPT_STRS] = sizeof(pu_strs),     [PU_OPT_LIST] = sizeof(pu_list), [PU_OPT_GROUP] = 0,
  };
  memset(pu_option_field(row, out), 0, size[row->type]);
}

pu_err pu_options_default(const pu_option *table, void *out, pu_arena *a, pu_error *e) {
  for (const pu_option *row = table; row->key; row++) {
    if (row->type == PU_OPT_GROUP) continue;
    clear_field(row, out);
    if (row->dflt) PU_TRY(pu_options_set(table, out, row->key, row->dflt, row->key, a, e));
  }
  return PU_OK;
}

/* A number is missing when it is 0 and 0 is out of range; a text or list when there is none. */
static bool missing(const pu_option *row, const void *in) {
  const char *field = (const char *)in + row->offset;
  pu_error ignored;
  switch (row->type) {
  case PU_OPT_INT:
    return *(const int64_t *)field == 0 && check_range(row, 0, "0", "", &ignored) != PU_OK;
  case PU_OPT_FLOAT:
    return *(const double *)field == 0 && check_range(row, 0, "0", "", &ignored) != PU_OK;
  case PU_OPT_STR:
    return *(const char *const *)field == NULL;
  case PU_OPT_FLOATS:
    return ((const pu_floats *)field)->n == 0;
  case PU_OPT_STRS:
    return ((const pu_strs *)field)->n == 0;
  case PU_OPT_LIST:
    return ((const pu_list *)field)->n == 0;
  case PU_OPT_BOOL:
  case PU_OPT_ENUM:
  case PU_OPT_GROUP:
    break;
  }
  return false;
}

pu_err pu_options_check(const pu_option *table, const void *in, const char *where, pu_error *e) {
  for (const pu_option *row = table; row->key; row++) {
    if (row->required && missing(row, in))
      return pu_fail(e, PU_ERR_USAGE, "%s: '%s' is required%s%s", where, row->key, row->help ? ": " : "",
                     row->help ? row->help : "");
    if (row->type != PU_OPT_LIST) continue;
    const pu_list *list = (const void *)((const char *)in + row->offset);
    for (size_t i = 0; i < list->n; i++) {
      char item[300];
      snprintf(item, sizeof item, "%.200s: %.60s[%zu]", where, row->key, i);
      PU_TRY(pu_options_check(row->sub, (const char *)list->items + i * row->sub_size, item, e));
    }
  }
  return PU_OK;
}
