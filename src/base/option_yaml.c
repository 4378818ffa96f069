/* YAML into option tables, event by event. What a configuration needs is read; what makes YAML surprising is refused:
 * aliases, tags, several documents, keys given twice. */
#include "src/base/option.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum {
  MAX_BYTES = 1 << 20,
  MAX_DEPTH = 32,
  MAX_ITEMS = 1 << 16,
  MAX_PATH = 200, /* of a dotted key */
};

/* Dotted keys already read into a table. Unknown keys fail at once, so there are never more of them than rows and
 * their prefixes. */
typedef struct seen {
  const struct seen *next;
  const char *path;
  size_t line;
} seen;

typedef struct reader {
  yaml_parser_t parser;
  yaml_event_t event; /* the current one */
  const char *name;
  bool has_lines; /* false for text from the command line: name alone tells the place */
  pu_arena *arena;
  pu_error *e;
  int depth;
} reader;

/* The table that is being filled. */
typedef struct target {
  const pu_option *table;
  void *out;
  const seen *seen;
  const char *list; /* the key whose items these are, or NULL */
} target;

static pu_err read_mapping(reader *r, target *t, const char *prefix);
static pu_err read_value(reader *r, const pu_option *row, void *out);

/* "train.yaml:12" */
static const char *place(const reader *r, char dst[300], size_t line) {
  if (r->has_lines)
    snprintf(dst, 300, "%.250s:%zu", r->name, line + 1);
  else
    snprintf(dst, 300, "%.250s", r->name);
  return dst;
}

static pu_err fail_here(reader *r, const char *message, const char *about) {
  char where[300];
  return pu_fail(r->e, PU_ERR_USAGE, "%s: '%.100s' %s", place(r, where, r->event.start_mark.line), about, message);
}

/* ---- events ---- */

static pu_err syntax_error(reader *r) {
  char where[300];
  const yaml_parser_t *p = &r->parser;
  if (p->error == YAML_MEMORY_ERROR) return pu_fail(r->e, PU_ERR_NOMEM, "%s: no memory to read it", r->name);
  const char *problem = p->problem ? p->problem : "not YAML";
  place(r, where, p->problem_mark.line);
  if (p->error == YAML_READER_ERROR)
    return pu_fail(r->e, PU_ERR_FORMAT, "%s: %s at byte %zu", r->name, problem, p->problem_offset);
  return pu_fail(r->e, PU_ERR_FORMAT, "%s: %s%s%s", where, problem, p->context ? " " : "",
                 p->context ? p->context : "");
}

/* What is refused wherever it stands. */
static pu_err refuse(reader *r) {
  char where[300];
  const yaml_event_t *ev = &r->event;
  const char *what = NULL;
  if (ev->type == YAML_ALIAS_EVENT) what = "aliases (*name) are not read: write the value again";
  if ((ev->type == YAML_SCALAR_EVENT && ev->data.scalar.tag) ||
      (ev->type == YAML_SEQUENCE_START_EVENT && ev->data.sequence_start.tag) ||
      (ev->type == YAML_MAPPING_START_EVENT && ev->data.mapping_start.tag))
    what = "tags (!name) are not read: remove it";
  if (ev->type == YAML_SCALAR_EVENT && strlen((const char *)ev->data.scalar.value) != ev->data.scalar.length)
    what = "a text holds a NUL byte";
  if (!what) return PU_OK;
  return pu_fail(r->e, PU_ERR_USAGE, "%s: %s", place(r, where, ev->start_mark.line), what);
}

static pu_err next(reader *r) {
  yaml_event_delete(&r->event);
  if (!yaml_parser_parse(&r->parser, &r->event)) {
    memset(&r->event, 0, sizeof r->event);
    return syntax_error(r);
  }
  return refuse(r);
}

static pu_err enter(reader *r) {
  char where[300];
  if (++r->depth <= MAX_DEPTH) return PU_OK;
  return pu_fail(r->e, PU_ERR_USAGE, "%s: nested deeper than %d levels", place(r, where, r->event.start_mark.line),
                 MAX_DEPTH);
}

static const char *scalar_text(const reader *r) {
  return (const char *)r->event.data.scalar.value;
}

/* `key:`, `key: ~` and `key: null`, but not `key: "null"` */
static bool is_null(const reader *r) {
  if (r->event.type != YAML_SCALAR_EVENT || r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return false;
  const char *s = scalar_text(r);
  return !*s || strcmp(s, "~") == 0 || strcmp(s, "null") == 0;
}

/* ---- values ---- */

/* Called for each item of a sequence, with the item's first event current. Appends to `items`. */
typedef pu_err item_fn(reader *r, const pu_option *row, pu_buf *items);

static pu_err keep(reader *r, pu_buf *items, const void *item, size_t size) {
  char where[300];
  if (pu_buf_append(items, item, size)) return PU_OK;
  return pu_fail(r->e, PU_ERR_NOMEM, "%s: a list of more than %d", place(r, where, r->event.start_mark.line),
                 MAX_ITEMS);
}

static pu_err number_item(reader *r, const pu_option *row, pu_buf *items) {
  char where[300];
  double v;
  if (r->event.type != YAML_SCALAR_EVENT) return fail_here(r, "is a list of numbers", row->key);
  PU_TRY(pu_option_number(row, scalar_text(r), &v, place(r, where, r->event.start_mark.line), r->e));
  return keep(r, items, &v, sizeof v);
}

static pu_err text_item(reader *r, const pu_option *row, pu_buf *items) {
  if (r->event.type != YAML_SCALAR_EVENT) return fail_here(r, "is a list of texts", row->key);
  const char *s = pu_arena_strdup(r->arena, scalar_text(r));
  if (!s) return pu_fail(r->e, PU_ERR_NOMEM, "%s: no memory for its texts", r->name);
  return keep(r, items, &s, sizeof s);
}

static pu_err mapping_item(reader *r, const pu_option *row, pu_buf *items) {
  if (r->event.type != YAML_MAPPING_START_EVENT) return fail_here(r, "is a list of mappings: - key: value", row->key);
  void *item = pu_arena_zalloc(r->arena, row->sub_size);
  if (!item) return pu_fail(r->e, PU_ERR_NOMEM, "%s: no memory for '%s'", r->name, row->key);
  PU_TRY(pu_options_default(row->sub, item, r->arena, r->e));
  target t = {.table = row->sub, .out = item, .list = row->key};
  PU_TRY(read_mapping(r, &t, ""));
  return keep(r, items, item, row->sub_size);
}

static pu_err gather(reader *r, const pu_option *row, item_fn *fn, pu_buf *items) {
  PU_TRY(enter(r));
  PU_TRY(next(r));
  while (r->event.type != YAML_SEQUENCE_END_EVENT) {
    PU_TRY(fn(r, row, items));
    PU_TRY(next(r));
  }
  r->depth--;
  return PU_OK;
}

static pu_err read_sequence(reader *r, const pu_option *row, void *out) {
  static const struct {
    item_fn *fn;
    size_t size;
  } kinds[] = {[PU_OPT_FLOATS] = {number_item, sizeof(double)},
               [PU_OPT_STRS] = {text_item, sizeof(const char *)},
               [PU_OPT_LIST] = {mapping_item, 0}};
  size_t size = row->type == PU_OPT_LIST ? row->sub_size : kinds[row->type].size;
  pu_buf items;
  pu_buf_init(&items, size * MAX_ITEMS);
  void *copy = NULL;
  pu_err err = gather(r, row, kinds[row->type].fn, &items);
  size_t n = items.len / size;
  if (err == PU_OK) err = pu_option_copy(r->arena, items.data, n, size, &copy, r->e);
  pu_buf_deinit(&items);
  PU_TRY(err);
  void *field = pu_option_field(row, out);
  if (row->type == PU_OPT_FLOATS) *(pu_floats *)field = (pu_floats){copy, n};
  if (row->type == PU_OPT_STRS) *(pu_strs *)field = (pu_strs){copy, n};
  if (row->type == PU_OPT_LIST) *(pu_list *)field = (pu_list){copy, n};
  return PU_OK;
}

static bool is_list(const pu_option *row) {
  return row->type == PU_OPT_FLOATS || row->type == PU_OPT_STRS || row->type == PU_OPT_LIST;
}

/* The value of one row, its first event current; leaves its last event current. */
static pu_err read_value(reader *r, const pu_option *row, void *out) {
  char where[300];
  if (r->event.type == YAML_MAPPING_START_EVENT)
    return fail_here(r, is_list(row) ? "takes a list, not a mapping" : "takes one value, not a mapping", row->key);
  if (r->event.type == YAML_SEQUENCE_START_EVENT) {
    if (!is_list(row)) return fail_here(r, "takes one value, not a list", row->key);
    return read_sequence(r, row, out);
  }
  if (is_null(r)) {
    if (row->type != PU_OPT_STR) return fail_here(r, "has no value: give one, or remove the key", row->key);
    *(const char **)pu_option_field(row, out) = NULL;
    return PU_OK;
  }
  if (row->type == PU_OPT_LIST) return fail_here(r, "is a list of mappings: - key: value", row->key);
  if (row->type == PU_OPT_STRS) *(pu_strs *)pu_option_field(row, out) = (pu_strs){0};
  return pu_option_set_scalar(row, out, scalar_text(r), place(r, where, r->event.start_mark.line), r->arena, r->e);
}

/* ---- mappings ---- */

static bool is_prefix(const pu_option *table, const char *path) {
  size_t n = strlen(path);
  for (const pu_option *row = table; row->key; row++)
    if (row->type != PU_OPT_GROUP && strncmp(row->key, path, n) == 0 && row->key[n] == '.') return true;
  return false;
}

static pu_err note_seen(reader *r, target *t, const char *path) {
  char where[300];
  size_t line = r->event.start_mark.line;
  for (const seen *s = t->seen; s; s = s->next)
    if (strcmp(s->path, path) == 0)
      return pu_fail(r->e, PU_ERR_USAGE, "%s: '%s' was given already in line %zu", place(r, where, line), path,
                     s->line + 1);
  seen *s = pu_arena_alloc(r->arena, sizeof *s);
  const char *copy = pu_arena_strdup(r->arena, path);
  if (!s || !copy) return pu_fail(r->e, PU_ERR_NOMEM, "%s: no memory for its keys", r->name);
  *s = (seen){t->seen, copy, line};
  t->seen = s;
  return PU_OK;
}

/* A key is current: its value goes to a row, or its mapping is entered. */
static pu_err read_entry(reader *r, target *t, const char *prefix) {
  char where[300], path[MAX_PATH];
  if (r->event.type != YAML_SCALAR_EVENT) return fail_here(r, "holds a key that is not a plain text", r->name);
  int n = snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", scalar_text(r));
  const pu_option *row = n < MAX_PATH ? pu_option_find(t->table, path) : NULL;
  bool group = !row && n < MAX_PATH && is_prefix(t->table, path);
  place(r, where, r->event.start_mark.line);
  if (!row && !group) {
    pu_err err = pu_option_unknown(t->table, path, where, r->e);
    if (t->list && r->e) {
      size_t used = strlen(r->e->msg);
      snprintf(r->e->msg + used, sizeof r->e->msg - used, " (in '%s')", t->list);
    }
    return err;
  }
  PU_TRY(note_seen(r, t, path));
  PU_TRY(next(r));
  if (row) return read_value(r, row, t->out);
  if (is_null(r)) return PU_OK; /* a heading whose keys are all commented out */
  if (r->event.type != YAML_MAPPING_START_EVENT)
    return fail_here(r, "is a group of keys: put them, indented, below it", path);
  return read_mapping(r, t, path);
}

static pu_err read_mapping(reader *r, target *t, const char *prefix) {
  PU_TRY(enter(r));
  PU_TRY(next(r));
  while (r->event.type != YAML_MAPPING_END_EVENT) {
    PU_TRY(read_entry(r, t, prefix));
    PU_TRY(next(r));
  }
  r->depth--;
  return PU_OK;
}

/* ---- documents ---- */

static pu_err open_reader(reader *r, const char *name, bool has_lines, pu_str text, pu_arena *a, pu_error *e) {
  *r = (reader){.name = name, .has_lines = has_lines, .arena = a, .e = e};
  if (text.len > MAX_BYTES)
    return pu_fail(e, PU_ERR_FORMAT, "%s: %zu bytes of YAML, more than the limit of %d", name, text.len, MAX_BYTES);
  if (!yaml_parser_initialize(&r->parser)) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory to read it", name);
  yaml_parser_set_input_string(&r->parser, (const unsigned char *)(text.len ? text.ptr : ""), text.len);
  return PU_OK;
}

static void close_reader(reader *r) {
  yaml_event_delete(&r->event);
  yaml_parser_delete(&r->parser);
}

/* Stream start, document start, and the first event of the content; *empty when there is none. */
static pu_err begin_document(reader *r, bool *empty) {
  PU_TRY(next(r));
  PU_TRY(next(r));
  *empty = r->event.type == YAML_STREAM_END_EVENT;
  return *empty ? PU_OK : next(r);
}

static pu_err end_document(reader *r) {
  PU_TRY(next(r));
  PU_TRY(next(r));
  if (r->event.type == YAML_STREAM_END_EVENT) return PU_OK;
  char where[300];
  return pu_fail(r->e, PU_ERR_USAGE, "%s: a second document (---): only one is read",
                 place(r, where, r->event.start_mark.line));
}

static pu_err read_document(reader *r, target *t) {
  bool empty;
  PU_TRY(begin_document(r, &empty));
  if (empty) return PU_OK;
  if (!is_null(r)) {
    if (r->event.type != YAML_MAPPING_START_EVENT) return fail_here(r, "is not a mapping of key: value", r->name);
    PU_TRY(read_mapping(r, t, ""));
  }
  return end_document(r);
}

pu_err pu_options_parse_yaml(const pu_option *table, void *out, const char *name, pu_str text, pu_arena *a,
                             pu_error *e) {
  reader r;
  target t = {.table = table, .out = out};
  PU_TRY(open_reader(&r, name, true, text, a, e));
  pu_err err = read_document(&r, &t);
  close_reader(&r);
  return err;
}

pu_err pu_options_read_yaml(const pu_option *table, void *out, const char *path, pu_arena *a, pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, MAX_BYTES);
  pu_err err = pu_file_read(path, MAX_BYTES, &text, e);
  if (err == PU_OK) err = pu_options_parse_yaml(table, out, path, pu_str_of(text.data, text.len), a, e);
  pu_buf_deinit(&text);
  return err;
}

/* ---- one value from text ---- */

static pu_err read_flow(reader *r, const pu_option *row, void *out) {
  bool empty;
  PU_TRY(begin_document(r, &empty));
  PU_TRY(read_value(r, row, out));
  return end_document(r);
}

pu_err pu_options_set(const pu_option *table, void *out, const char *key, const char *value, const char *where,
                      pu_arena *a, pu_error *e) {
  const pu_option *row = pu_option_find(table, key);
  if (!row || !is_list(row) || value[0] != '[') return pu_options_set_text(table, out, key, value, where, a, e);
  reader r; /* a whole list, as it would stand in YAML */
  PU_TRY(open_reader(&r, where, false, pu_str_c(value), a, e));
  pu_err err = read_flow(&r, row, out);
  close_reader(&r);
  return err;
}
