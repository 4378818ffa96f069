/* Parquet tables: each row is a document, the text of one column of strings: the one under the key, else "content" or
 * "text", else the one with most bytes. Fields of structs are "a.b"; lists and maps are not read. What is broken in a
 * row group leaves the next one readable. */
#include <string.h>
#include <strings.h>

#include "src/data/parquet/column.h"

enum { TAIL = 8 };
enum { ID, TITLE, URL, AUTHOR, LANG, TIME, ABOUT };
enum { ROW_COST = 16 }; /* bytes that a row counts for beside its text: many are told in few */

typedef struct parquet {
  pu_arena *arena;
  pu_places file;
  pu_buf footer;
  pu_parquet_meta meta;
  int text, about[ABOUT]; /* leaves; -1: none */
  pu_parquet_column columns[1 + ABOUT];
  size_t group; /* the next one */
  bool in_group;
} parquet;

static const struct {
  const char *name, *other;
} about_names[ABOUT] = {{"id", NULL},     {"title", NULL},      {"url", NULL},
                        {"author", NULL}, {"lang", "language"}, {"time", "date"}};

/* ---- which columns ----------------------------------------------------------------------------------------------- */

static bool is_number(const pu_parquet_leaf *l) {
  return l->type == PU_PARQUET_INT32 || l->type == PU_PARQUET_INT64;
}

static int leaf_of(const parquet *p, const char *name) {
  for (size_t i = 0; name && i < p->meta.n_leaves; i++)
    if (strcasecmp(p->meta.leaves[i].path, name) == 0) return (int)i;
  return -1;
}

static int longest_leaf(const parquet *p) {
  int best = -1;
  for (size_t i = 0; i < p->meta.n_leaves; i++) {
    const pu_parquet_leaf *l = &p->meta.leaves[i];
    if (l->type != PU_PARQUET_BYTES || l->repeated) continue;
    if (best < 0 || l->bytes > p->meta.leaves[best].bytes) best = (int)i;
  }
  return best;
}

static void columns_choose(parquet *p, pu_input *in) {
  const char *key = pu_input_options(in)->key;
  char why[200];
  p->text = leaf_of(p, key ? key : "content");
  if (p->text < 0 && !key) p->text = leaf_of(p, "text");
  if (p->text < 0 && !key) p->text = longest_leaf(p);
  const pu_parquet_leaf *l = p->text >= 0 ? &p->meta.leaves[p->text] : NULL;
  if (!l || l->type != PU_PARQUET_BYTES || l->repeated) {
    if (!l && key)
      snprintf(why, sizeof why, "no column \"%.100s\": all of the file", key);
    else if (!l)
      snprintf(why, sizeof why, "no column of strings: all of the file");
    else
      snprintf(why, sizeof why, "the column \"%.100s\" holds no strings, or lists of them: all of the file", l->path);
    pu_input_skip(in, 0, why);
    p->text = -1;
  }
  for (int i = 0; i < ABOUT; i++) {
    int at = leaf_of(p, about_names[i].name);
    if (at < 0) at = leaf_of(p, about_names[i].other);
    const pu_parquet_leaf *a = at >= 0 ? &p->meta.leaves[at] : NULL;
    bool fits = a && at != p->text && !a->repeated && (a->type == PU_PARQUET_BYTES || (i == ID && is_number(a)));
    p->about[i] = fits ? at : -1;
  }
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static pu_err footer_read(parquet *p, const char **why, pu_error *e) {
  pu_str s;
  uint64_t size = p->file.size;
  *why = NULL;
  PU_TRY(pu_places_bytes(&p->file, size - PU_MIN(size, (uint64_t)TAIL), TAIL, &s, e));
  if (s.len < TAIL || memcmp(s.ptr + 4, "PAR1", 4) != 0) {
    bool sealed = s.len == TAIL && memcmp(s.ptr + 4, "PARE", 4) == 0;
    *why = sealed ? "an encrypted Parquet file" : "a Parquet file without its footer: it is cut short";
    return PU_OK;
  }
  const uint8_t *n = (const uint8_t *)s.ptr;
  uint64_t len = (uint64_t)n[0] | (uint64_t)n[1] << 8 | (uint64_t)n[2] << 16 | (uint64_t)n[3] << 24;
  if (len > size - TAIL || len > PU_DOC_MAX) {
    *why = "a Parquet file with a broken footer";
    return PU_OK;
  }
  PU_TRY(pu_places_bytes(&p->file, size - TAIL - len, (size_t)len, &s, e));
  if (!pu_buf_append(&p->footer, s.ptr, s.len)) return pu_fail(e, PU_ERR_NOMEM, "parquet: no memory");
  return pu_parquet_meta_read(pu_str_of(p->footer.data ? p->footer.data : "", p->footer.len), p->arena, &p->meta, why,
                              e);
}

static pu_err parquet_open(void *state, pu_input *in, pu_error *e) {
  parquet *p = state;
  const char *why;
  p->text = -1;
  pu_buf_init(&p->footer, PU_DOC_MAX);
  PU_TRY(pu_arena_create((size_t)8 << 30, &p->arena, e));
  PU_TRY(pu_places_open(&p->file, in, e));
  PU_TRY(footer_read(p, &why, e));
  if (why) {
    pu_input_skip(in, p->file.size, why);
    return PU_OK;
  }
  columns_choose(p, in);
  if (p->text < 0) return PU_OK;
  pu_parquet_column_open(&p->columns[0], &p->meta.leaves[p->text], &p->file);
  for (int i = 0; i < ABOUT; i++)
    if (p->about[i] >= 0) pu_parquet_column_open(&p->columns[1 + i], &p->meta.leaves[p->about[i]], &p->file);
  return PU_OK;
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static void group_begin(parquet *p) {
  const pu_parquet_chunk *chunks = p->meta.chunks + p->group++ * p->meta.n_leaves;
  pu_parquet_column_begin(&p->columns[0], &chunks[p->text]);
  for (int i = 0; i < ABOUT; i++)
    if (p->about[i] >= 0) pu_parquet_column_begin(&p->columns[1 + i], &chunks[p->about[i]]);
  p->in_group = true;
}

static void skip_column(pu_input *in, const pu_parquet_column *c, const char *what) {
  char line[300];
  snprintf(line, sizeof line, "column \"%.60s\": %s%s", c->leaf->path, c->why, what);
  pu_input_skip(in, c->at, line);
}

/* What is known of the row beside its text. A column that breaks is told once, and without values from then on. */
static pu_err about_read(parquet *p, pu_input *in, pu_doc *out, pu_error *e) {
  pu_str *const to[ABOUT] = {&out->id, &out->title, &out->url, &out->author, &out->lang, &out->time};
  for (int i = 0; i < ABOUT; i++) {
    pu_parquet_column *c = &p->columns[1 + i];
    pu_str value;
    bool null, found;
    if (p->about[i] < 0 || c->why) continue;
    PU_TRY(pu_parquet_column_next(c, &value, &null, &found, e));
    if (c->why) skip_column(in, c, "");
    if (found && value.len > 0) *to[i] = pu_doc_keep(out, value);
  }
  return PU_OK;
}

/* Many rows may be told in few bytes: what they give is bounded as what comes out of compression is. */
static bool may_give(pu_input *in, size_t len) {
  return pu_input_unpacked(in, len + ROW_COST) == len + ROW_COST;
}

static pu_err parquet_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  parquet *p = state;
  *found = false;
  while (p->text >= 0 && !pu_input_full(in)) {
    pu_str text;
    bool null, there;
    if (!p->in_group && p->group == p->meta.n_groups) return PU_OK;
    if (!p->in_group) group_begin(p);
    PU_TRY(pu_parquet_column_next(&p->columns[0], &text, &null, &there, e));
    if (!there) {
      if (p->columns[0].why) skip_column(in, &p->columns[0], ": the rest of the row group");
      p->in_group = false;
      continue;
    }
    pu_input_set_number(in, pu_input_number(in) + 1);
    PU_TRY(about_read(p, in, out, e));
    *found = may_give(in, text.len) && text.len > 0;
    if (*found) {
      PU_TRY(pu_doc_place(in, out, e));
      return pu_text_append(text, &out->text, e);
    }
    pu_doc_clear(out);
  }
  return PU_OK;
}

static void parquet_close(void *state) {
  parquet *p = state;
  for (size_t i = 0; i < PU_COUNT(p->columns); i++) pu_parquet_column_close(&p->columns[i]);
  pu_places_close(&p->file);
  pu_buf_deinit(&p->footer);
  pu_arena_free(p->arena);
}

static bool parquet_looks(pu_str head) {
  return head.len >= 4 && memcmp(head.ptr, "PAR1", 4) == 0;
}

const pu_reader pu_reader_parquet = {.name = "parquet",
                                     .endings = ".parquet .parq .pq",
                                     .binary = true,
                                     .looks = parquet_looks,
                                     .state_size = sizeof(parquet),
                                     .open = parquet_open,
                                     .next = parquet_next,
                                     .close = parquet_close};
