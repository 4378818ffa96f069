/* Records of a file as JSON objects: for evaluation sets, where what is broken is an error. */
#include <string.h>

#include "src/data/rows.h"

typedef pu_err (*record_fn)(void *arg, uint64_t number, const json_t *record, pu_error *e);

typedef struct reading {
  pu_input *in;
  const char *path;
  const pu_strs *columns;
  record_fn each;
  void *arg;
  uint64_t number;
  pu_buf space;
  char broken[200]; /* the first thing that was; "": nothing */
} reading;

static void on_skip(void *arg, const char *path, uint64_t offset, const char *why) {
  reading *r = arg;
  (void)path;
  if (!r->broken[0]) snprintf(r->broken, sizeof r->broken, "byte %llu: %s", (unsigned long long)offset, why);
}

static pu_err check_broken(const reading *r, pu_error *e) {
  return r->broken[0] ? pu_fail(e, PU_ERR_FORMAT, "%s: %s", r->path, r->broken) : PU_OK;
}

/* Takes over the record. */
static pu_err give(reading *r, json_t *record, pu_error *e) {
  pu_err err = PU_OK;
  if (!record)
    err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a record", r->path);
  else if (!json_is_object(record))
    err = pu_fail(e, PU_ERR_FORMAT, "%s:%llu: not a JSON object", r->path, (unsigned long long)r->number);
  else
    err = r->each(r->arg, r->number, record, e);
  json_decref(record);
  return err;
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static pu_err lines_each(reading *r, pu_error *e) {
  for (;;) {
    pu_str line;
    bool found;
    char where[80];
    json_t *v;
    PU_TRY(pu_input_line(r->in, &line, &found, e));
    PU_TRY(check_broken(r, e));
    if (!found) return PU_OK;
    r->number++;
    while (line.len > 0 && strchr(" \t\r", line.ptr[line.len - 1])) line.len--;
    if (line.len == 0) continue;
    snprintf(where, sizeof where, "line %llu", (unsigned long long)r->number);
    if (pu_json_parse(where, line, &v, e)) return pu_fail_in(e, PU_ERR_FORMAT, "%s", r->path);
    PU_TRY(give(r, v, e));
  }
}

/* A list of records, or an object with one such list in it. */
static pu_err json_each(reading *r, pu_error *e) {
  pu_str all;
  json_t *v, *list, *member;
  const char *key;
  size_t i;
  bool cut;
  PU_TRY(pu_input_rest(r->in, PU_DOC_MAX, &all, &cut, e));
  PU_TRY(check_broken(r, e));
  if (cut) return pu_fail(e, PU_ERR_FORMAT, "%s: above 64 MiB; make it JSON Lines, an object a line", r->path);
  PU_TRY(pu_json_parse(r->path, all, &v, e));
  list = v;
  json_object_foreach(v, key, member) if (json_is_array(member)) list = member;
  pu_err err = json_is_array(list) ? PU_OK : pu_fail(e, PU_ERR_FORMAT, "%s: holds no list of records", r->path);
  json_array_foreach(list, i, member) {
    if (err) break;
    r->number++;
    err = give(r, json_incref(member), e);
  }
  json_decref(v);
  return err;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

static json_t *text_of(pu_str s) {
  return json_stringn(s.ptr ? s.ptr : "", s.len);
}

static pu_err name_columns(reading *r, const pu_rows *rows, json_t *names, pu_error *e) {
  for (size_t i = 0; i < rows->n; i++) {
    pu_str name = pu_rows_text(rows, i, &r->space);
    if (json_array_append_new(names, text_of(name)))
      return pu_fail(e, PU_ERR_FORMAT, "%s:1: the name of column %zu is no text", r->path, i + 1);
  }
  return PU_OK;
}

static pu_err give_row(reading *r, const pu_rows *rows, const json_t *names, pu_error *e) {
  size_t n = json_array_size(names);
  if (rows->n == 1 && rows->cells[0].len == 0) return PU_OK;
  if (rows->n != n)
    return pu_fail(e, PU_ERR_FORMAT, "%s: row %llu has %zu cells; there are %zu columns", r->path,
                   (unsigned long long)r->number, rows->n, n);
  json_t *record = json_object();
  for (size_t i = 0; record && i < n; i++) {
    const char *name = json_string_value(json_array_get(names, i));
    if (json_object_set_new(record, name, text_of(pu_rows_text(rows, i, &r->space)))) {
      json_decref(record);
      return pu_fail(e, PU_ERR_FORMAT, "%s: row %llu, cell %zu: not UTF-8", r->path, (unsigned long long)r->number,
                     i + 1);
    }
  }
  return give(r, record, e);
}

static pu_err rows_each(reading *r, pu_rows *rows, json_t *names, pu_error *e) {
  pu_str head;
  PU_TRY(pu_input_peek(r->in, (size_t)64 << 10, &head, e));
  const char *end = head.len ? memchr(head.ptr, '\n', head.len) : NULL;
  size_t first = end ? (size_t)(end - head.ptr) : head.len;
  /* What the first line has most of may be in a question where no names of columns stand. */
  bool commas = pu_ends_with(r->path, ".csv") && first && memchr(head.ptr, ',', first);
  rows->sign = commas ? ',' : pu_rows_sign(r->path, head);
  for (size_t i = 0; i < r->columns->n; i++) json_array_append_new(names, json_string(r->columns->v[i]));
  for (bool found;;) {
    PU_TRY(pu_rows_next(rows, r->in, &found, e));
    PU_TRY(check_broken(r, e));
    if (!found) return PU_OK;
    r->number++;
    if (json_array_size(names) == 0)
      PU_TRY(name_columns(r, rows, names, e));
    else
      PU_TRY(give_row(r, rows, names, e));
  }
}

static pu_err table_each(reading *r, pu_error *e) {
  pu_arena *a;
  PU_TRY(pu_arena_create((size_t)1 << 20, &a, e));
  pu_rows *rows = pu_arena_zalloc(a, sizeof *rows);
  json_t *names = json_array();
  pu_err err = rows && names ? rows_each(r, rows, names, e) : pu_fail(e, PU_ERR_NOMEM, "%s: no memory", r->path);
  json_decref(names);
  pu_arena_free(a);
  return err;
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

/* So many lines a record as there are columns; without columns, the whole file as "text". */
static pu_err text_each(reading *r, pu_error *e) {
  pu_str s;
  bool found, cut;
  if (r->columns->n == 0) {
    PU_TRY(pu_input_rest(r->in, PU_DOC_MAX, &s, &cut, e));
    PU_TRY(check_broken(r, e));
    r->number = 1;
    if (cut) return pu_fail(e, PU_ERR_FORMAT, "%s: above 64 MiB", r->path);
    return give(r, json_pack("{s:o}", "text", text_of(s)), e);
  }
  for (;;) {
    r->number++;
    json_t *record = json_object();
    for (size_t i = 0; i < r->columns->n; i++) {
      pu_err err = pu_input_line(r->in, &s, &found, e);
      if (!err) err = check_broken(r, e);
      if (!err && !found && i > 0)
        err = pu_fail(e, PU_ERR_FORMAT, "%s: ends after %zu of the %zu lines of record %llu", r->path, i, r->columns->n,
                      (unsigned long long)r->number);
      if (err || !found) {
        json_decref(record);
        return err;
      }
      json_object_set_new(record, r->columns->v[i], text_of(s));
    }
    PU_TRY(give(r, record, e));
  }
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static pu_err read_all(reading *r, pu_error *e) {
  static const struct {
    const char *ending;
    pu_err (*each)(reading *r, pu_error *e);
  } forms[] = {{".json", json_each},
               {".jsonl", lines_each},
               {".ndjson", lines_each},
               {".csv", table_each},
               {".tsv", table_each}};
  pu_str name = pu_str_c(r->path);
  PU_TRY(pu_input_as_text(r->in, e));
  if (pu_str_ends(name, ".gz")) name.len -= 3;
  if (pu_str_ends(name, ".zst")) name.len -= 4;
  for (size_t i = 0; i < PU_COUNT(forms); i++)
    if (pu_str_ends(name, forms[i].ending)) return forms[i].each(r, e);
  return text_each(r, e);
}

pu_err pu_records_each(const char *path, const pu_strs *columns, record_fn each, void *arg, pu_error *e) {
  static const pu_strs none = {0};
  reading r = {.path = path, .columns = columns ? columns : &none, .each = each, .arg = arg};
  const pu_read_options o = {.source = "records", .name = path, .skips = {on_skip, &r, NULL}};
  if (pu_path_is_dir(path)) return pu_fail(e, PU_ERR_USAGE, "%s: a folder; a file is wanted", path);
  PU_TRY(pu_input_open(path, 0, 0, &o, &r.in, e));
  pu_buf_init(&r.space, PU_DOC_MAX);
  pu_err err = read_all(&r, e);
  pu_buf_deinit(&r.space);
  pu_input_close(r.in);
  return err;
}
