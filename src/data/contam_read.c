/* Evaluation sets in their own files: every string of every record. */
#include <string.h>

#include "src/data/contam.h"
#include "src/data/json_scan.h"
#include "src/data/rows.h"

enum { FIELD_MAX = 256, DEPTH = 16, NEST = 64, NAME_MAX = 32 };

/* A file that is read. */
typedef struct reading {
  pu_contam *c;
  pu_input *in;
  uint64_t number, records; /* number: of the record, among those that may hold nothing */
  char field[FIELD_MAX];
  pu_buf text; /* of a string with escapes */
} reading;

/* ---- JSON ---------------------------------------------------------------------------------------------------------
 */

/* The next value of a list, from behind its bracket or the last value; *found false: its end. */
static pu_scan_result next_value(const char **at, const char *end, bool first, pu_scan_value *v, bool *found) {
  *found = false;
  *at = pu_scan_space(*at, end);
  if (*at == end) return PU_SCAN_CUT;
  if (**at == ']') return PU_SCAN_WHOLE;
  if (!first && *(*at)++ != ',') return PU_SCAN_WRONG;
  pu_scan_result r = pu_scan(at, end, v);
  *found = r == PU_SCAN_WHOLE;
  return r;
}

/* The field's path behind its first len bytes: ".key", "[3]"; returns its length, cut where it is too long. */
static size_t path_add(reading *r, size_t len, const char *between, pu_str key, const char *behind) {
  size_t room = FIELD_MAX - len;
  int n = snprintf(r->field + len, room, "%s%.*s%s", len > 0 || *behind ? between : "", (int)PU_MIN(key.len, room),
                   key.ptr, behind);
  return n < 0 || (size_t)n >= room ? FIELD_MAX - 1 : len + (size_t)n;
}

static pu_err take_string(reading *r, const pu_scan_value *v, size_t len, pu_error *e) {
  pu_str text = pu_str_of(v->ptr, v->len);
  if (v->escapes) {
    pu_buf_clear(&r->text);
    if (!pu_scan_unescape(v, &r->text)) return pu_fail(e, PU_ERR_NOMEM, "decontaminate: no memory for a string");
    text = pu_str_of(r->text.data, r->text.len);
  }
  return contam_take(r->c, r->number, pu_str_of(r->field, len), text, e);
}

/* All strings of a value; what is nested deeper than any evaluation set is passed over. */
static pu_err walk(reading *r, const pu_scan_value *v, size_t len, int depth, pu_error *e) {
  const char *at = v->ptr + 1, *end = v->ptr + v->len;
  if (v->kind == '"') return take_string(r, v, len, e);
  if ((v->kind != '{' && v->kind != '[') || depth == NEST) return PU_OK;
  for (size_t i = 0;; i++) {
    pu_scan_value key, value;
    bool found;
    pu_scan_result got = v->kind == '{' ? pu_scan_member(&at, end, i == 0, &key, &value, &found)
                                        : next_value(&at, end, i == 0, &value, &found);
    if (got != PU_SCAN_WHOLE || !found) return PU_OK;
    char number[24];
    snprintf(number, sizeof number, "%zu", i);
    size_t below = v->kind == '{' ? path_add(r, len, ".", pu_str_of(key.ptr, key.len), "")
                                  : path_add(r, len, "[", pu_str_c(number), "]");
    PU_TRY(walk(r, &value, below, depth + 1, e));
  }
}

static pu_err add_record(reading *r, const pu_scan_value *v, pu_error *e) {
  r->number++;
  r->records++;
  return walk(r, v, 0, 0, e);
}

static pu_err add_list(reading *r, const pu_scan_value *list, pu_error *e) {
  const char *at = list->ptr + 1, *end = list->ptr + list->len;
  for (bool found = true, first = true; found; first = false) {
    pu_scan_value v;
    if (next_value(&at, end, first, &v, &found) != PU_SCAN_WHOLE) return PU_OK;
    if (found) PU_TRY(add_record(r, &v, e));
  }
  return PU_OK;
}

static bool holds_records(const pu_scan_value *v) {
  const char *first = v->kind == '[' ? pu_scan_space(v->ptr + 1, v->ptr + v->len) : "";
  return *first == '{' || *first == '[';
}

/* A file that is one value: a list of records, an object with one such list in it, or else one record. */
static pu_err add_value(reading *r, const pu_scan_value *v, pu_error *e) {
  pu_scan_value key, value, list = {0};
  size_t lists = 0;
  if (v->kind == '[') return add_list(r, v, e);
  const char *at = v->ptr + 1, *end = v->ptr + v->len;
  bool found = v->kind == '{';
  for (bool first = true; found; first = false) {
    if (pu_scan_member(&at, end, first, &key, &value, &found) != PU_SCAN_WHOLE) break;
    if (!found || !holds_records(&value)) continue;
    list = value;
    lists++;
  }
  return lists == 1 ? add_list(r, &list, e) : add_record(r, v, e);
}

static pu_err add_json_line(reading *r, pu_str line, pu_error *e) {
  const char *at = line.ptr, *end = line.ptr + line.len;
  pu_scan_value v;
  if (pu_scan_space(at, end) == end) {
    r->number++;
    return PU_OK;
  }
  if (pu_scan(&at, end, &v) == PU_SCAN_WHOLE && pu_scan_space(at, end) == end) return add_record(r, &v, e);
  r->number++;
  r->c->counts.broken++;
  return PU_OK;
}

static pu_err add_lines(reading *r, bool json, pu_error *e) {
  for (;;) {
    pu_str line;
    bool found;
    PU_TRY(pu_input_line(r->in, &line, &found, e));
    if (!found) return PU_OK;
    if (json) {
      PU_TRY(add_json_line(r, line, e));
      continue;
    }
    r->number++;
    r->records += line.len > 0;
    PU_TRY(contam_take(r->c, r->number, pu_str_of("", 0), line, e));
  }
}

/* One value, of any layout, or lines of values. */
static pu_err add_json(reading *r, pu_error *e) {
  pu_str all;
  PU_TRY(pu_input_peek(r->in, PU_DOC_MAX, &all, e));
  const char *at = all.ptr, *end = all.ptr + all.len;
  pu_scan_value v;
  if (all.len == 0) return PU_OK;
  if (pu_scan(&at, end, &v) == PU_SCAN_WHOLE && pu_scan_space(at, end) == end) return add_value(r, &v, e);
  return add_lines(r, true, e);
}

/* ---- tables -------------------------------------------------------------------------------------------------------
 */

/* A first row of short cells without spaces names the columns. It has nothing that would be looked for. */
static bool is_header(const pu_rows *rows) {
  size_t there = 0;
  for (size_t i = 0; i < rows->n; i++) {
    const pu_cell *s = &rows->cells[i];
    if (s->len > NAME_MAX || memchr(s->ptr, ' ', s->len)) return false;
    there += s->len > 0;
  }
  return there > 0;
}

static void names_take(const pu_rows *rows, char (*names)[NAME_MAX + 1]) {
  for (size_t i = 0; i < rows->n; i++)
    snprintf(names[i], NAME_MAX + 1, "%.*s", (int)rows->cells[i].len, rows->cells[i].ptr);
}

static pu_err add_row(reading *r, const pu_rows *rows, char (*names)[NAME_MAX + 1], pu_error *e) {
  r->number++;
  r->records++;
  for (size_t i = 0; i < rows->n; i++) {
    int len = names[i][0] ? snprintf(r->field, FIELD_MAX, "%s", names[i]) : snprintf(r->field, FIELD_MAX, "%zu", i + 1);
    PU_TRY(contam_take(r->c, r->number, pu_str_of(r->field, (size_t)len), pu_rows_text(rows, i, &r->text), e));
  }
  return PU_OK;
}

static pu_err add_rows(reading *r, pu_rows *rows, char (*names)[NAME_MAX + 1], pu_error *e) {
  pu_str head;
  PU_TRY(pu_input_peek(r->in, (size_t)64 << 10, &head, e));
  rows->sign = pu_rows_sign(pu_input_name(r->in), head);
  for (bool first = true, found;; first = false) {
    PU_TRY(pu_rows_next(rows, r->in, &found, e));
    if (!found) return PU_OK;
    if (first && is_header(rows))
      names_take(rows, names);
    else
      PU_TRY(add_row(r, rows, names, e));
  }
}

static pu_err add_table(reading *r, pu_error *e) {
  pu_arena *a;
  PU_TRY(pu_arena_create((size_t)1 << 20, &a, e));
  pu_rows *rows = pu_arena_zalloc(a, sizeof *rows);
  char(*names)[NAME_MAX + 1] = pu_arena_zalloc(a, PU_ROW_COLUMNS * sizeof *names);
  pu_err err = rows && names ? add_rows(r, rows, names, e) : pu_fail(e, PU_ERR_NOMEM, "decontaminate: no memory");
  pu_arena_free(a);
  return err;
}

/* ---- files --------------------------------------------------------------------------------------------------------
 */

typedef enum form { NONE, JSON, LINES, TABLE } form;

static form form_of(const char *name) {
  static const struct {
    const char *ending;
    form form;
  } forms[] = {{".json", JSON}, {".jsonl", LINES}, {".ndjson", LINES}, {".csv", TABLE}, {".tsv", TABLE}};
  pu_str s = pu_str_c(name);
  if (pu_str_ends(s, ".gz")) s.len -= 3;
  if (pu_str_ends(s, ".zst")) s.len -= 4;
  for (size_t i = 0; i < PU_COUNT(forms); i++)
    if (pu_str_ends(s, forms[i].ending)) return forms[i].form;
  return NONE;
}

static void on_skip(void *arg, const char *path, uint64_t offset, const char *why) {
  (void)path, (void)offset, (void)why;
  ++*(uint64_t *)arg;
}

static pu_err read_all(reading *r, const char *name, pu_error *e) {
  PU_TRY(pu_input_as_text(r->in, e));
  switch (form_of(name)) {
  case JSON:
    return add_json(r, e);
  case TABLE:
    return add_table(r, e);
  case LINES:
    return add_lines(r, true, e);
  default:
    return add_lines(r, false, e);
  }
}

pu_err contam_add_as(pu_contam *c, const char *path, const char *name, pu_error *e) {
  const pu_read_options o = {
      .source = "evaluation", .name = name, .skips = {.skip = on_skip, .arg = &c->counts.broken}};
  reading r = {.c = c};
  uint64_t broken = c->counts.broken;
  PU_TRY(contam_file_begin(c, name, e));
  PU_TRY(pu_input_open(path, 0, 0, &o, &r.in, e));
  pu_buf_init(&r.text, PU_BUF_MAX);
  pu_err err = read_all(&r, name, e);
  pu_buf_deinit(&r.text);
  pu_input_close(r.in);
  contam_file_end(c, r.records);
  broken = c->counts.broken - broken;
  if (err == PU_OK && broken > r.records)
    err = pu_fail(e, PU_ERR_FORMAT, "%s: %llu records cannot be read and %llu can: not what its name says", name,
                  (unsigned long long)broken, (unsigned long long)r.records);
  return err;
}

static pu_err add_below(pu_contam *c, pu_arena *a, const char *path, int depth, pu_error *e) {
  char **names;
  size_t n;
  if (depth == DEPTH) return pu_fail(e, PU_ERR_USAGE, "%s: folders nested deeper than %d", path, DEPTH);
  PU_TRY(pu_dir_list(a, path, &names, &n, e));
  for (size_t i = 0; i < n; i++) {
    const char *below = pu_path_join(a, path, names[i]);
    if (!below) return pu_fail(e, PU_ERR_NOMEM, "decontaminate: no memory");
    if (names[i][0] == '.') continue;
    if (pu_path_is_dir(below))
      PU_TRY(add_below(c, a, below, depth + 1, e));
    else if (form_of(below) != NONE)
      PU_TRY(contam_add_as(c, below, below, e));
  }
  return PU_OK;
}

pu_err contam_add(pu_contam *c, const char *path, pu_error *e) {
  if (!pu_path_is_dir(path)) return contam_add_as(c, path, path, e);
  pu_arena *a;
  PU_TRY(pu_arena_create((size_t)1 << 30, &a, e));
  pu_err err = add_below(c, a, path, 0, e);
  pu_arena_free(a);
  return err;
}
