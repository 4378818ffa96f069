/* Reading stages: which folder has the documents, whose drops count, and one unit's documents that are still in. */
#include <stdlib.h>
#include <string.h>

#include "src/data/json_scan.h"
#include "src/data/reader.h"
#include "src/data/stage.h"

enum { ABOUT_MAX = 256 << 20, CHAIN_MAX = 64 };
#define UNIT_DOCS_MAX ((uint64_t)1 << 32)

struct pu_stage {
  pu_arena *arena;
  const char *dir, *docs;
  const char *drops[CHAIN_MAX]; /* folders whose drops count, the earliest first */
  size_t n_drops, n_units;
  const char **units;
  json_t *about;
};

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "stage: no memory");
}

bool pu_data_is_stage(const char *dir) {
  char path[4096];
  return (size_t)snprintf(path, sizeof path, "%s/stage.json", dir) < sizeof path && pu_path_exists(path);
}

pu_err pu_data_find_stage(const char *dir, bool *is_stage, pu_error *e) {
  char path[4096];
  *is_stage = pu_data_is_stage(dir);
  if (*is_stage || (size_t)snprintf(path, sizeof path, "%s/begun.json", dir) >= sizeof path || !pu_path_exists(path))
    return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: a stage that is not finished; the command that began it goes on with it", dir);
}

/* What stage.json says lies beside it, from its folder. */
static const char *beside(pu_arena *a, const char *dir, const char *name) {
  if (strcmp(name, ".") == 0) return dir;
  return name[0] == '/' ? pu_arena_strdup(a, name) : pu_path_join(a, dir, name);
}

static pu_err read_about(pu_stage *s, const char *path, pu_error *e) {
  const char *docs;
  PU_TRY(pu_json_read(path, ABOUT_MAX, &s->about, e));
  PU_TRY(pu_json_str_or(s->about, "docs", ".", &docs, path, e));
  const json_t *after = json_object_get(s->about, "drops"), *units = json_object_get(s->about, "units");
  if (!json_is_array(after) || json_array_size(after) > CHAIN_MAX)
    return pu_fail(e, PU_ERR_FORMAT, "%s: \"drops\" must be a list of at most %d folders", path, CHAIN_MAX);
  if (!json_is_array(units)) return pu_fail(e, PU_ERR_FORMAT, "%s: \"units\" must be a list of names", path);
  s->n_drops = json_array_size(after);
  s->n_units = json_array_size(units);
  s->docs = docs[0] ? beside(s->arena, s->dir, docs) : docs;
  s->units = pu_arena_alloc(s->arena, (s->n_units + 1) * sizeof *s->units);
  if (!s->docs || !s->units) return nomem(e);
  for (size_t i = 0; i < s->n_drops; i++) {
    const char *name = json_string_value(json_array_get(after, i));
    if (!name || !(s->drops[i] = beside(s->arena, s->dir, name)))
      return pu_fail(e, PU_ERR_FORMAT, "%s: \"drops\"[%zu] is no folder's name", path, i);
  }
  for (size_t i = 0; i < s->n_units; i++) {
    s->units[i] = json_string_value(json_array_get(units, i));
    if (!s->units[i] || strchr(s->units[i], '/'))
      return pu_fail(e, PU_ERR_FORMAT, "%s: \"units\"[%zu] is no unit's name", path, i);
  }
  return PU_OK;
}

pu_err pu_stage_open(const char *dir, pu_stage **out, pu_error *e) {
  *out = NULL;
  pu_stage *s = calloc(1, sizeof *s);
  if (!s) return nomem(e);
  pu_err err = pu_arena_create((size_t)1 << 30, &s->arena, e);
  const char *path = NULL;
  if (err == PU_OK &&
      (!(s->dir = pu_arena_strdup(s->arena, dir)) || !(path = pu_path_join(s->arena, dir, "stage.json"))))
    err = nomem(e);
  if (err == PU_OK && !pu_path_exists(path))
    err = pu_fail(e, PU_ERR_USAGE, "%s: no stage of the pipeline (there is no stage.json: it was not finished)", dir);
  if (err == PU_OK) err = read_about(s, path, e);
  if (err == PU_OK)
    *out = s;
  else
    pu_stage_close(s);
  return err;
}

void pu_stage_close(pu_stage *s) {
  if (!s) return;
  json_decref(s->about);
  pu_arena_free(s->arena);
  free(s);
}

const char *pu_stage_dir(const pu_stage *s) {
  return s->dir;
}
size_t pu_stage_units(const pu_stage *s) {
  return s->n_units;
}
const char *pu_stage_unit(const pu_stage *s, size_t unit) {
  return s->units[unit];
}
const json_t *pu_stage_about(const pu_stage *s) {
  return s->about;
}

const json_t *pu_stage_shares(const pu_stage *s, const char *of) {
  return json_object_get(json_object_get(json_object_get(pu_stage_about(s), "counts"), "shares"), of);
}

/* ---- lines of a file ---- */

typedef struct lines {
  pu_input *in;
  pu_read_options options;
  pu_error broken; /* what the input skipped: puyu wrote these files, so nothing may be missing */
  uint64_t n;
} lines;

static void note_broken(void *arg, const char *path, uint64_t offset, const char *why) {
  lines *l = arg;
  if (l->broken.code == PU_OK)
    pu_fail(&l->broken, PU_ERR_FORMAT, "%s: byte %llu: %s; make the stage anew", path, (unsigned long long)offset, why);
}

static pu_err lines_open(lines *l, const char *dir, const char *unit, const char *kind, pu_error *e) {
  char path[4096];
  if ((size_t)snprintf(path, sizeof path, "%s/%s.%s.jsonl.zst", dir, unit, kind) >= sizeof path)
    return pu_fail(e, PU_ERR_USAGE, "%s: the path is too long", dir);
  *l = (lines){.options = {.own = true, .skips = {.skip = note_broken, .arg = l}}};
  return pu_input_open(path, 0, 0, &l->options, &l->in, e);
}

static pu_err lines_read(lines *l, pu_str *line, bool *found, pu_error *e) {
  PU_TRY(pu_input_line(l->in, line, found, e));
  if (l->broken.code != PU_OK) {
    if (e) *e = l->broken;
    return l->broken.code;
  }
  l->n += *found;
  return PU_OK;
}

/* The next line as JSON that the caller owns. */
static pu_err lines_next(lines *l, json_t **out, bool *found, pu_error *e) {
  pu_str line;
  *out = NULL;
  PU_TRY(lines_read(l, &line, found, e));
  if (!*found) return PU_OK;
  pu_err err = pu_json_parse("", line, out, e);
  if (err != PU_OK) return pu_fail_in(e, err, "%s: line %llu", pu_input_name(l->in), (unsigned long long)l->n);
  return PU_OK;
}

static void lines_close(lines *l) {
  pu_input_close(l->in);
  *l = (lines){0};
}

/* ---- records ---- */

static pu_err docs_open(lines *l, const pu_stage *s, size_t unit, pu_error *e) {
  if (s->docs[0]) return lines_open(l, s->docs, s->units[unit], "docs", e);
  return pu_fail(e, PU_ERR_USAGE,
                 "%s: the documents of this mixture went into shards at once; mix without --tokenizer to have them",
                 s->dir);
}

struct pu_records {
  lines in;
  json_t *line;
};

pu_err pu_records_open(const pu_stage *s, size_t unit, const char *kind, pu_records **out, pu_error *e) {
  *out = calloc(1, sizeof **out);
  if (!*out) return nomem(e);
  pu_err err = strcmp(kind, "docs") == 0 ? docs_open(&(*out)->in, s, unit, e)
                                         : lines_open(&(*out)->in, s->dir, s->units[unit], kind, e);
  if (err == PU_OK) return PU_OK;
  pu_records_close(*out);
  *out = NULL;
  return err;
}

pu_err pu_records_next(pu_records *r, const json_t **line, bool *found, pu_error *e) {
  json_decref(r->line);
  r->line = NULL;
  PU_TRY(lines_next(&r->in, &r->line, found, e));
  *line = r->line;
  return PU_OK;
}

void pu_records_close(pu_records *r) {
  if (!r) return;
  json_decref(r->line);
  lines_close(&r->in);
  free(r);
}

/* ---- documents ---- */

struct pu_unit {
  lines in;
  uint64_t *gone; /* bits: lines that were dropped */
  uint64_t n_gone, at;
};

static pu_err mark(pu_unit *u, const json_t *line, const char *path, pu_error *e) {
  const json_t *n = json_object_get(line, "n");
  if (!json_is_integer(n) || json_integer_value(n) < 0 || (uint64_t)json_integer_value(n) >= UNIT_DOCS_MAX)
    return pu_fail(e, PU_ERR_FORMAT, "%s: a line without its \"n\"", path);
  uint64_t i = (uint64_t)json_integer_value(n);
  if (i >= u->n_gone) {
    uint64_t want = PU_MAX(2 * u->n_gone, (i / 64 + 16) * 64);
    uint64_t *grown = realloc(u->gone, want / 8);
    if (!grown) return nomem(e);
    memset((uint8_t *)grown + u->n_gone / 8, 0, (want - u->n_gone) / 8);
    u->gone = grown;
    u->n_gone = want;
  }
  u->gone[i / 64] |= (uint64_t)1 << (i % 64);
  return PU_OK;
}

static pu_err read_drops(pu_unit *u, const char *dir, const char *unit, pu_error *e) {
  lines l;
  pu_err err = lines_open(&l, dir, unit, "drops", e);
  for (bool found = true; err == PU_OK && found;) {
    json_t *line;
    err = lines_next(&l, &line, &found, e);
    if (err == PU_OK && found) err = mark(u, line, pu_input_name(l.in), e);
    json_decref(line);
  }
  lines_close(&l);
  return err;
}

pu_err pu_unit_open(const pu_stage *s, size_t unit, pu_unit **out, pu_error *e) {
  *out = NULL;
  pu_unit *u = calloc(1, sizeof *u);
  if (!u) return nomem(e);
  pu_err err = PU_OK;
  for (size_t i = 0; err == PU_OK && i < s->n_drops; i++) err = read_drops(u, s->drops[i], s->units[unit], e);
  if (err == PU_OK) err = docs_open(&u->in, s, unit, e);
  if (err == PU_OK)
    *out = u;
  else
    pu_unit_close(u);
  return err;
}

/* Where a member of the line goes; NULL: nowhere. */
static pu_str *place_of(pu_doc *d, const pu_scan_value *key) {
  const struct {
    const char *name;
    pu_str *to;
  } all[] = {{"id", &d->id},     {"source", &d->source}, {"repository", &d->repository},
             {"url", &d->url},   {"title", &d->title},   {"author", &d->author},
             {"time", &d->time}, {"lang", &d->lang},     {"type", &d->type}};
  for (size_t i = 0; i < PU_COUNT(all); i++)
    if (pu_str_eq(pu_str_c(all[i].name), pu_str_of(key->ptr, key->len))) return all[i].to;
  return NULL;
}

static bool put_member(pu_doc *d, const pu_scan_value *key, const pu_scan_value *value) {
  pu_str *to = place_of(d, key), plain = pu_str_of(value->ptr, value->len);
  if (!to || value->kind != '"') return true;
  pu_buf_clear(&d->spare);
  if (value->escapes) {
    if (!pu_scan_unescape(value, &d->spare)) return false;
    plain = pu_str_of(d->spare.data, d->spare.len);
  }
  if (plain.len > 0) *to = pu_doc_keep(d, plain);
  return true;
}

/* Scanned where it lies: most of a line is one string, of which a tree of JSON would make two copies. */
static pu_err fill(pu_doc *d, pu_str line, bool *wrong, pu_error *e) {
  const char *at = pu_scan_space(line.ptr, line.ptr + line.len), *end = line.ptr + line.len;
  bool text = false, found = true;
  pu_doc_clear(d);
  *wrong = at == end || *at++ != '{' || pu_utf8_prefix(line) < line.len;
  for (bool first = true; !*wrong && found; first = false) {
    pu_scan_value key, value;
    *wrong = pu_scan_member(&at, end, first, &key, &value, &found) != PU_SCAN_WHOLE;
    if (*wrong || !found) break;
    bool is_text = value.kind == '"' && pu_str_eq(pu_str_c("content"), pu_str_of(key.ptr, key.len));
    if (is_text && text) pu_buf_clear(&d->text);
    if (!(is_text ? pu_scan_unescape(&value, &d->text) : put_member(d, &key, &value))) return nomem(e);
    text |= is_text;
  }
  pu_buf_clear(&d->spare);
  *wrong |= !text || pu_scan_space(at, end) != end;
  return PU_OK;
}

pu_err pu_unit_next(pu_unit *u, pu_doc *d, uint64_t *n, bool *found, pu_error *e) {
  for (;;) {
    pu_str line;
    bool wrong;
    PU_TRY(lines_read(&u->in, &line, found, e));
    if (!*found) return PU_OK;
    *n = u->at++;
    if (*n < u->n_gone && (u->gone[*n / 64] >> (*n % 64) & 1)) continue;
    PU_TRY(fill(d, line, &wrong, e));
    if (!wrong) return PU_OK;
    return pu_fail(e, PU_ERR_FORMAT, "%s: line %llu: no JSON object with \"content\"", pu_input_name(u->in.in),
                   (unsigned long long)u->in.n);
  }
}

void pu_unit_close(pu_unit *u) {
  if (!u) return;
  lines_close(&u->in);
  free(u->gone);
  free(u);
}
