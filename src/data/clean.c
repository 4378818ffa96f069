/* The pass over documents: read, measured, rewritten, kept or dropped, unit by unit, all workers at once. */
#include <stdlib.h>
#include <string.h>

#include "src/data/clean.h"
#include "src/data/sources.h"

/* Filters that are open. */
typedef struct filters {
  pu_filter_set set;
  void *shared[PU_COUNT(((pu_filter_set *)0)->v)];
} filters;

typedef struct clean {
  const pu_clean_options *o;
  const pu_data_how *how;
  filters *sets; /* [1 + sources]: of all, then of each source that has its own */
  size_t n_sets;
  pu_source_units units; /* where it reads sources */
  pu_stage *before;      /* where it reads a stage */
  pu_stage_writer *w;
  pu_doc *docs; /* [workers] */
  int workers;
  bool writes;
  double done, total; /* bytes of sources, or units */
} clean;

typedef struct unit_run {
  clean *c;
  const filters *f; /* of its source */
  pu_doc *d;
  pu_unit_writer *out;
  pu_clean_counts *counts;
  pu_err skip_err; /* of writing what a reader skipped */
  pu_error *e;
} unit_run;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "clean: no memory");
}

/* ---- a document ---- */

typedef struct verdict {
  char rule[128]; /* empty: it stays */
  double value, min, max;
} verdict;

static void judge(const pu_filter_set *set, size_t f, const double *values, verdict *v) {
  int m = v->rule[0] ? -1 : pu_filter_drops(set, f, values);
  if (m < 0) return;
  snprintf(v->rule, sizeof v->rule, "%s.%s", set->v[f]->name, set->v[f]->measures[m].name);
  v->value = values[m];
  v->min = set->bounds[f][m].min;
  v->max = set->bounds[f][m].max;
}

/* All filters measure, also after one has dropped the document, so that other bounds can be applied later. */
static pu_err measure(unit_run *r, double (*values)[PU_FILTER_MEASURES], verdict *v, pu_error *e) {
  const pu_filter_set *set = &r->f->set;
  for (size_t f = 0; f < set->n; f++) {
    for (int i = 0; i < PU_FILTER_MEASURES; i++) values[f][i] = NAN;
    size_t mark = pu_arena_mark(r->d->arena);
    PU_TRY(set->v[f]->apply(r->f->shared[f], r->d, values[f], e));
    pu_arena_release(r->d->arena, mark);
    pu_clean_counts_values(r->counts, f, values[f]);
    judge(set, f, values[f], v);
  }
  return PU_OK;
}

static pu_err record(unit_run *r, uint64_t n, double (*values)[PU_FILTER_MEASURES], const verdict *v, pu_error *e) {
  const pu_filter_set *set = &r->f->set;
  PU_TRY(pu_unit_attrs_begin(r->out, n, r->d->id, e));
  PU_TRY(pu_unit_attr(r->out, "text", "bytes", (double)r->d->text.len, e));
  PU_TRY(pu_unit_attr_str(r->out, "lang", r->d->lang, e));
  for (size_t f = 0; f < set->n; f++)
    for (int i = 0; set->v[f]->measures[i].name; i++)
      PU_TRY(pu_unit_attr(r->out, set->v[f]->name, set->v[f]->measures[i].name, values[f][i], e));
  PU_TRY(pu_unit_attrs_end(r->out, e));
  if (v->rule[0]) PU_TRY(pu_unit_drop(r->out, n, r->d->id, v->rule, v->value, v->min, v->max, NULL, e));
  return pu_clean_counts_doc(r->counts, r->d, v->rule[0] ? v->rule : NULL, v->value, e);
}

static pu_err handle(unit_run *r, uint64_t n, pu_error *e) {
  double values[PU_COUNT(r->f->set.v)][PU_FILTER_MEASURES];
  verdict v = {.min = -INFINITY, .max = INFINITY, .value = NAN};
  PU_TRY(measure(r, values, &v, e));
  if (r->d->text.len == 0 && !v.rule[0]) v = (verdict){"text.bytes", 0, 1, INFINITY};
  if (r->c->writes) PU_TRY(pu_unit_doc(r->out, r->d, &n, e));
  return record(r, n, values, &v, e);
}

/* ---- a unit ---- */

static void on_skip(void *arg, const char *path, uint64_t offset, const char *why) {
  unit_run *r = arg;
  if (r->skip_err == PU_OK) r->skip_err = pu_unit_skip(r->out, path, offset, why, r->e);
}

static pu_err read_file(unit_run *r, const pu_source_unit *u, const char *path, const pu_read_options *o, pu_error *e) {
  pu_input *in;
  pu_reading *reading;
  PU_TRY(pu_input_open(path, u->begin, u->end, o, &in, e));
  PU_TRY(pu_reading_open(in, &reading, e));
  pu_err err = PU_OK;
  for (bool found = true; err == PU_OK && found;) {
    pu_doc_clear(r->d);
    err = pu_reading_next(reading, r->d, &found, e);
    if (err == PU_OK && r->skip_err != PU_OK) err = r->skip_err;
    if (err == PU_OK && found) err = handle(r, 0, e);
    if (err == PU_OK && pu_signals_stop())
      err = pu_fail(e, PU_ERR_STOPPED, "stopped; what is done stays, the same command goes on");
  }
  pu_reading_close(reading);
  return err;
}

static pu_err read_sources(unit_run *r, size_t unit, pu_error *e) {
  const clean *c = r->c;
  const pu_source_unit *u = &c->units.v[unit];
  pu_read_options o = pu_source_read(&c->o->sources[u->source], (pu_skips){.skip = on_skip, .arg = r});
  for (size_t i = 0; i < u->n_files; i++) {
    const pu_source_file *file = &c->units.files[u->source][u->file + i];
    const char *path = file->path;
    o.id = file->name;
    o.repository = file->repository;
    pu_err err = file->why ? pu_unit_skip(r->out, path, 0, file->why, e) : read_file(r, u, path, &o, e);
    if (err == PU_ERR_FORMAT || err == PU_ERR_UNSUPPORTED) err = pu_unit_skip(r->out, path, 0, e ? e->msg : "", e);
    PU_TRY(err);
  }
  return PU_OK;
}

static pu_err read_stage(unit_run *r, size_t unit, pu_error *e) {
  pu_unit *in;
  PU_TRY(pu_unit_open(r->c->before, unit, &in, e));
  pu_err err = PU_OK;
  for (bool found = true; err == PU_OK && found;) {
    uint64_t n;
    err = pu_unit_next(in, r->d, &n, &found, e);
    if (err == PU_OK && found) err = handle(r, n, e);
    if (err == PU_OK && pu_signals_stop())
      err = pu_fail(e, PU_ERR_STOPPED, "stopped; what is done stays, the same command goes on");
  }
  pu_unit_close(in);
  return err;
}

static bool has_own(const pu_source *s) {
  return s->filters.n > 0 || s->bounds.n > 0;
}

static const filters *filters_of(const clean *c, size_t unit) {
  size_t source = c->before ? 0 : c->units.v[unit].source;
  return &c->sets[!c->before && has_own(&c->o->sources[source]) ? 1 + source : 0];
}

static pu_err run_unit(void *arg, size_t unit, int worker, pu_error *e) {
  clean *c = arg;
  unit_run r = {.c = c, .f = filters_of(c, unit), .d = &c->docs[worker], .e = e};
  PU_TRY(pu_clean_counts_create(&r.f->set, &r.counts, e));
  pu_err err = pu_unit_create(c->w, unit, &r.out, e);
  if (err == PU_OK) {
    err = c->before ? read_stage(&r, unit, e) : read_sources(&r, unit, e);
    if (err == PU_OK) err = r.skip_err;
    if (err == PU_OK) err = pu_clean_counts_put(r.counts, r.out, e);
    err = pu_unit_end(r.out, err, e);
  }
  pu_clean_counts_free(r.counts);
  return err;
}

/* ---- all ---- */

static json_t *strs_json(const pu_strs *s) {
  json_t *list = json_array();
  for (size_t i = 0; list && i < s->n; i++) json_array_append_new(list, json_string(s->v[i]));
  return list;
}

/* For a later call with other bounds: own filters only where there are any. */
static void put_own(json_t *to, const pu_source *s) {
  if (s->filters.n > 0) json_object_set_new(to, "filters", strs_json(&s->filters));
  if (s->bounds.n > 0) json_object_set_new(to, "bounds", strs_json(&s->bounds));
}

/* Paths and sizes: a run is gone on with only where they are the same. */
static json_t *source_json(const pu_source *s, const pu_source_file *files, size_t n) {
  uint64_t hash = 0;
  for (size_t i = 0; i < n; i++) {
    hash = pu_hash64(files[i].path, strlen(files[i].path), hash);
    hash = pu_hash64(&files[i].bytes, sizeof files[i].bytes, hash);
  }
  char text[32];
  snprintf(text, sizeof text, "%016llx", (unsigned long long)hash);
  json_t *all =
      json_pack("{s:s, s:s?, s:s?, s:s?, s:i, s:i, s:s, s:I}", "name", s->name, "format", s->format, "key", s->key,
                "charset", s->charset, "split", s->split, "html", s->html, "files", text, "n_files", (json_int_t)n);
  if (all) put_own(all, s);
  return all;
}

static json_t *options_json(const clean *c) {
  const pu_clean_options *o = c->o;
  json_t *all = json_object(), *sources = json_array();
  for (size_t i = 0; !c->before && i < o->n_sources; i++)
    json_array_append_new(sources, source_json(&o->sources[i], c->units.files[i], c->units.n_files[i]));
  json_object_set_new(all, "sources", sources);
  json_object_set_new(all, "filters", strs_json(&o->filters));
  json_object_set_new(all, "bounds", strs_json(&o->bounds));
  json_object_set_new(all, "domains", strs_json(&o->filter.domains));
  json_object_set_new(all, "words", strs_json(&o->filter.words));
  json_object_set_new(all, "languages", strs_json(&o->filter.languages));
  json_object_set_new(all, "fold",
                      json_pack("[i,i,b,b]", o->filter.width, o->filter.han, o->filter.nfkc, o->filter.mask));
  return all;
}

static pu_err open_set(clean *c, filters *to, pu_error *e) {
  for (size_t f = 0; f < to->set.n; f++) {
    c->writes |= to->set.v[f]->rewrites;
    if (to->set.v[f]->open) PU_TRY(to->set.v[f]->open(&c->o->filter, &to->shared[f], e));
  }
  return PU_OK;
}

/* all, then more; v NULL: no memory. */
static pu_strs joined(pu_arena *arena, const pu_strs *all, const pu_strs *more) {
  pu_strs out = {pu_arena_alloc(arena, (all->n + more->n + 1) * sizeof(char *)), all->n + more->n};
  for (size_t i = 0; out.v && i < out.n; i++) out.v[i] = i < all->n ? all->v[i] : more->v[i - all->n];
  return out;
}

/* The set of a source that has filters or bounds of its own. */
static pu_err own_set(const pu_strs *names, const pu_strs *bounds, const pu_source *s, pu_filter_set *out,
                      pu_error *e) {
  static const pu_strs none;
  bool own = s->filters.n > 0;
  pu_arena *arena;
  PU_TRY(pu_arena_create((size_t)16 << 20, &arena, e));
  pu_strs all = joined(arena, own ? &none : bounds, &s->bounds);
  pu_err err = all.v ? pu_filter_set_make(own ? &s->filters : names, &all, out, e) : nomem(e);
  pu_arena_free(arena);
  return err == PU_OK ? PU_OK : pu_fail_in(e, err, "source '%s'", s->name);
}

static pu_err open_filters(clean *c, const char *before, pu_error *e) {
  const pu_clean_options *o = c->o;
  c->n_sets = 1 + (before ? 0 : o->n_sources);
  c->sets = calloc(c->n_sets, sizeof *c->sets);
  if (!c->sets) return nomem(e);
  PU_TRY(pu_filter_set_make(&o->filters, &o->bounds, &c->sets[0].set, e));
  PU_TRY(open_set(c, &c->sets[0], e));
  for (size_t i = 1; i < c->n_sets; i++) {
    if (!has_own(&o->sources[i - 1])) continue;
    PU_TRY(own_set(&o->filters, &o->bounds, &o->sources[i - 1], &c->sets[i].set, e));
    PU_TRY(open_set(c, &c->sets[i], e));
  }
  return PU_OK;
}

static pu_err open_input(clean *c, const char *before, const char ***names, pu_error *e) {
  if (before) return pu_stage_open(before, &c->before, e);
  PU_TRY(pu_source_units_make(c->o->sources, c->o->n_sources, &c->units, e));
  const char **v = pu_arena_alloc(c->units.arena, (c->units.n + 1) * sizeof *v);
  if (!v) return nomem(e);
  for (size_t i = 0; i < c->units.n; i++) v[i] = c->units.v[i].name;
  *names = v;
  return PU_OK;
}

static void show(void *arg, double units) {
  const clean *c = arg;
  if (c->how->progress) c->how->progress(c->how->progress_arg, "clean", units, (double)pu_stage_writer_units(c->w));
}

static pu_err run(clean *c, const char *dir, const char *before, pu_error *e) {
  const char **names = NULL;
  c->writes = !before;
  PU_TRY(open_filters(c, before, e));
  PU_TRY(open_input(c, before, &names, e));
  json_t *options = options_json(c);
  const pu_stage_options so = {.step = "clean",
                               .options = options,
                               .before = c->before,
                               .units = names,
                               .n_units = c->units.n,
                               .docs = c->writes,
                               .force = c->how->force,
                               .rank = c->how->rank,
                               .ranks = c->how->ranks};
  pu_err err = pu_stage_create(dir, &so, &c->w, e);
  json_decref(options);
  PU_TRY(err);
  c->workers = c->how->pool ? pu_pool_size(c->how->pool) : 1;
  c->docs = calloc((size_t)c->workers, sizeof *c->docs);
  if (!c->docs) return nomem(e);
  for (int i = 0; i < c->workers; i++) PU_TRY(pu_doc_init(&c->docs[i], e));
  PU_TRY(pu_stage_run(c->w, c->how->pool, run_unit, c, show, c, e));
  return pu_stage_end(c->w, e);
}

static void finish(clean *c) {
  for (int i = 0; c->docs && i < c->workers; i++) pu_doc_deinit(&c->docs[i]);
  free(c->docs);
  for (size_t i = 0; c->sets && i < c->n_sets; i++)
    for (size_t f = 0; f < c->sets[i].set.n; f++)
      if (c->sets[i].set.v[f]->close) c->sets[i].set.v[f]->close(c->sets[i].shared[f]);
  free(c->sets);
  pu_stage_writer_free(c->w);
  pu_stage_close(c->before);
  pu_source_units_deinit(&c->units);
}

pu_err pu_data_counts(const char *dir, pu_data_result *out, pu_error *e) {
  pu_stage *s;
  *out = (pu_data_result){0};
  PU_TRY(pu_stage_open(dir, &s, e));
  const json_t *counts = json_object_get(pu_stage_about(s), "counts");
  out->documents = (uint64_t)json_integer_value(json_object_get(counts, "documents"));
  out->dropped = (uint64_t)json_integer_value(json_object_get(counts, "dropped"));
  out->bytes = (uint64_t)json_integer_value(json_object_get(counts, "bytes"));
  out->skipped = (uint64_t)json_integer_value(json_object_get(counts, "skipped"));
  pu_stage_close(s);
  return PU_OK;
}

pu_err pu_clean_run(const char *dir, const char *before, const pu_clean_options *o, const pu_data_how *how,
                    pu_data_result *out, pu_error *e) {
  clean *c = calloc(1, sizeof *c);
  if (!c) return nomem(e);
  c->o = o;
  c->how = how;
  pu_err err = run(c, dir, before, e);
  finish(c);
  free(c);
  return err == PU_OK ? pu_data_counts(dir, out, e) : err;
}

/* ---- other bounds ---- */

typedef struct apply {
  pu_filter_set *sets; /* [1 + sources], as above */
  const char **names;  /* [sources]: NULL: it has no filters of its own */
  size_t n_sources;
  pu_stage *of;
  pu_stage_writer *w;
  const pu_data_how *how;
} apply;

static void values_of(const json_t *line, const pu_filter *f, double *values) {
  for (int i = 0; f->measures[i].name; i++) {
    char name[128];
    snprintf(name, sizeof name, "%s.%s", f->name, f->measures[i].name);
    const json_t *v = json_object_get(line, name);
    values[i] = json_is_number(v) ? json_number_value(v) : NAN;
  }
}

static pu_err apply_line(const pu_filter_set *set, const json_t *line, pu_unit_writer *out, pu_error *e) {
  verdict v = {.min = -INFINITY, .max = INFINITY, .value = NAN};
  for (size_t f = 0; f < set->n; f++) {
    double values[PU_FILTER_MEASURES];
    values_of(line, set->v[f], values);
    judge(set, f, values, &v);
  }
  if (json_number_value(json_object_get(line, "text.bytes")) < 1 && !v.rule[0])
    v = (verdict){"text.bytes", 0, 1, INFINITY};
  uint64_t n = (uint64_t)json_integer_value(json_object_get(line, "n"));
  const json_t *id = json_object_get(line, "id");
  pu_str name = pu_str_of(json_string_value(id), json_string_length(id));
  PU_TRY(pu_unit_attrs_begin(out, n, name, e));
  PU_TRY(pu_unit_attrs_end(out, e));
  return v.rule[0] ? pu_unit_drop(out, n, name, v.rule, v.value, v.min, v.max, NULL, e) : PU_OK;
}

/* Units are called SOURCE-00012. */
static const pu_filter_set *set_of(const apply *a, const char *unit) {
  const char *dash = strrchr(unit, '-');
  for (size_t i = 0; dash && i < a->n_sources; i++)
    if (a->names[i] && pu_str_eq(pu_str_c(a->names[i]), pu_str_of(unit, (size_t)(dash - unit)))) return &a->sets[1 + i];
  return &a->sets[0];
}

static pu_err apply_unit(void *arg, size_t unit, int worker, pu_error *e) {
  (void)worker;
  const apply *a = arg;
  const pu_filter_set *set = set_of(a, pu_stage_unit(a->of, unit));
  pu_records *in;
  pu_unit_writer *out;
  PU_TRY(pu_records_open(a->of, unit, "attrs", &in, e));
  pu_err err = pu_unit_create(a->w, unit, &out, e);
  if (err == PU_OK) {
    for (bool found = true; err == PU_OK && found;) {
      const json_t *line;
      err = pu_records_next(in, &line, &found, e);
      if (err == PU_OK && found) err = apply_line(set, line, out, e);
    }
    err = pu_unit_end(out, err, e);
  }
  pu_records_close(in);
  return err;
}

static pu_err strs_of(const json_t *list, pu_arena *arena, pu_strs *out, pu_error *e) {
  *out = (pu_strs){pu_arena_zalloc(arena, (json_array_size(list) + 1) * sizeof(char *)), json_array_size(list)};
  if (!out->v) return nomem(e);
  for (size_t i = 0; i < out->n; i++) {
    out->v[i] = json_string_value(json_array_get(list, i));
    if (!out->v[i]) return pu_fail(e, PU_ERR_FORMAT, "stage.json: a list of names holds something else");
  }
  return PU_OK;
}

static bool has_filter(const pu_filter_set *set, const char *bound) {
  for (size_t f = 0; f < set->n; f++)
    if (strncmp(set->v[f]->name, bound, strcspn(bound, ".")) == 0 && set->v[f]->name[strcspn(bound, ".")] == '\0')
      return true;
  return false;
}

/* Those of the new bounds that say something of the set. Of no set's filter: left to the first, which finds the error.
 */
static pu_err rebound(apply *a, size_t i, const pu_strs *names, const pu_strs *old, const pu_strs *bounds,
                      pu_arena *arena, pu_error *e) {
  pu_strs all = {pu_arena_zalloc(arena, (old->n + bounds->n + 1) * sizeof(char *)), old->n};
  if (!all.v) return nomem(e);
  if (old->n > 0) memcpy(all.v, old->v, old->n * sizeof *all.v);
  for (size_t k = 0; k < bounds->n; k++) {
    bool any = false;
    for (size_t n = 0; n <= a->n_sources; n++) any |= has_filter(&a->sets[n], bounds->v[k]);
    if (has_filter(&a->sets[i], bounds->v[k]) || (i == 0 && !any)) all.v[all.n++] = bounds->v[k];
  }
  return pu_filter_set_make(names, &all, &a->sets[i], e);
}

typedef struct strs_pair {
  pu_strs names, bounds;
} strs_pair;

/* What source number i has for itself, if it has anything. */
static pu_err read_own(apply *a, const json_t *source, size_t i, strs_pair *of, pu_arena *arena, pu_error *e) {
  pu_source s = {.name = json_string_value(json_object_get(source, "name"))};
  strs_pair *own = &of[1 + i];
  PU_TRY(strs_of(json_object_get(source, "filters"), arena, &s.filters, e));
  PU_TRY(strs_of(json_object_get(source, "bounds"), arena, &s.bounds, e));
  if (!has_own(&s) || !s.name) return PU_OK;
  a->names[i] = s.name;
  *own = s.filters.n > 0 ? (strs_pair){s.filters, s.bounds}
                         : (strs_pair){of[0].names, joined(arena, &of[0].bounds, &s.bounds)};
  if (!own->bounds.v) return nomem(e);
  return pu_filter_set_make(&own->names, &own->bounds, &a->sets[1 + i], e);
}

/* Filters and bounds of the stage, then the new bounds. */
static pu_err apply_set(apply *a, const pu_strs *bounds, pu_arena *arena, pu_error *e) {
  const json_t *options = json_object_get(pu_stage_about(a->of), "options");
  const json_t *sources = json_object_get(options, "sources");
  if (!json_is_array(json_object_get(options, "filters")))
    return pu_fail(e, PU_ERR_USAGE, "%s: no stage that filters made", pu_stage_dir(a->of));
  a->n_sources = json_array_size(sources);
  a->sets = pu_arena_zalloc(arena, (1 + a->n_sources) * sizeof *a->sets);
  a->names = pu_arena_zalloc(arena, (1 + a->n_sources) * sizeof *a->names);
  strs_pair *of = pu_arena_zalloc(arena, (1 + a->n_sources) * sizeof *of);
  if (!a->sets || !a->names || !of) return nomem(e);
  PU_TRY(strs_of(json_object_get(options, "filters"), arena, &of[0].names, e));
  PU_TRY(strs_of(json_object_get(options, "bounds"), arena, &of[0].bounds, e));
  PU_TRY(pu_filter_set_make(&of[0].names, &of[0].bounds, &a->sets[0], e));
  for (size_t i = 0; i < a->n_sources; i++) PU_TRY(read_own(a, json_array_get(sources, i), i, of, arena, e));
  for (size_t i = 0; i <= a->n_sources; i++)
    if (i == 0 || a->names[i - 1]) PU_TRY(rebound(a, i, &of[i].names, &of[i].bounds, bounds, arena, e));
  return PU_OK;
}

static pu_err apply_run(apply *a, const char *dir, const pu_strs *bounds, pu_error *e) {
  json_t *options = json_copy(json_object_get(pu_stage_about(a->of), "options"));
  json_object_set_new(options, "again", strs_json(bounds));
  const pu_stage_options so = {.step = "bounds",
                               .options = options,
                               .before = a->of,
                               .force = a->how->force,
                               .instead = true,
                               .rank = a->how->rank,
                               .ranks = a->how->ranks};
  pu_err err = pu_stage_create(dir, &so, &a->w, e);
  json_decref(options);
  if (err == PU_OK) err = pu_stage_run(a->w, a->how->pool, apply_unit, a, NULL, NULL, e);
  return err == PU_OK ? pu_stage_end(a->w, e) : err;
}

pu_err pu_clean_apply(const char *dir, const char *of, const pu_strs *bounds, const pu_data_how *how,
                      pu_data_result *out, pu_error *e) {
  apply *a = calloc(1, sizeof *a);
  pu_arena *arena = NULL;
  if (!a) return nomem(e);
  a->how = how;
  pu_err err = pu_arena_create((size_t)1 << 30, &arena, e);
  if (err == PU_OK) err = pu_stage_open(of, &a->of, e);
  if (err == PU_OK) err = apply_set(a, bounds, arena, e);
  if (err == PU_OK) err = apply_run(a, dir, bounds, e);
  pu_stage_writer_free(a->w);
  pu_stage_close(a->of);
  pu_arena_free(arena);
  free(a);
  return err == PU_OK ? pu_data_counts(dir, out, e) : err;
}
