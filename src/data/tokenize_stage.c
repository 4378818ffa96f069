/* A stage's documents to shards: each unit by one thread. */
#include <stdlib.h>
#include <string.h>

#include "src/data/tokenize.h"

typedef struct step {
  const pu_tokenize_options *o;
  const pu_data_how *how;
  const char *dir;
  const pu_stage *before;
  pu_stage_writer *w;
  const char **domains; /* names of sources, sorted; the stage's */
  size_t n_domains;
  pu_sharding *sharding;
} step;

static pu_err put_docs(const step *s, size_t number, pu_unit_shards *out, pu_error *e) {
  pu_doc d = {0};
  pu_unit *in = NULL;
  pu_err err = pu_doc_init(&d, e);
  if (err == PU_OK) err = pu_unit_open(s->before, number, &in, e);
  for (bool found = true; err == PU_OK && found;) {
    uint64_t n;
    err = pu_unit_next(in, &d, &n, &found, e);
    if (err == PU_OK && found) err = pu_unit_shards_doc(out, &d, n, NULL, e);
  }
  pu_unit_close(in);
  pu_doc_deinit(&d);
  return err;
}

static pu_err make_unit(void *arg, size_t number, int worker, pu_error *e) {
  const step *s = arg;
  pu_unit_writer *out;
  pu_unit_shards *shards;
  PU_TRY(pu_unit_create(s->w, number, &out, e));
  pu_err err = pu_unit_shards_open(s->sharding, pu_stage_unit(s->before, number), worker, out, &shards, e);
  if (err == PU_OK) err = pu_unit_shards_end(shards, put_docs(s, number, shards, e), e);
  return pu_unit_end(out, err, e);
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static pu_err find_domains(step *s, pu_error *e) {
  const json_t *sources = pu_stage_shares(s->before, "source"), *row;
  const char *name;
  size_t n = json_object_size(sources);
  s->domains = calloc(n + 1, sizeof *s->domains);
  if (!s->domains) return pu_fail(e, PU_ERR_NOMEM, "tokenize: no memory");
  json_object_foreach((json_t *)sources, name, row) s->domains[s->n_domains++] = name;
  if (n > 1) qsort(s->domains, n, sizeof *s->domains, by_name);
  return PU_OK;
}

/* Of a document of both sides the side would be wrong. */
static pu_err check_joined(const step *s, pu_error *e) {
  const json_t *options = json_object_get(pu_stage_about(s->before), "options");
  const char *join = json_string_value(json_object_get(options, "join"));
  double valid = json_number_value(json_object_get(options, "valid"));
  if (!join || strcmp(join, pu_join_names[PU_JOIN_NONE]) == 0 || s->o->valid_fraction <= 0 ||
      s->o->valid_fraction == valid)
    return PU_OK;
  return pu_fail(e, PU_ERR_USAGE,
                 "%s: its documents were joined for a validation fraction of %g, not %g: mix them once more with "
                 "--valid-fraction %g",
                 pu_stage_dir(s->before), valid, s->o->valid_fraction, s->o->valid_fraction);
}

static void show(void *arg, double units) {
  const step *s = arg;
  if (s->how->progress) s->how->progress(s->how->progress_arg, "tokenize", units, (double)pu_stage_writer_units(s->w));
}

static pu_err create(step *s, pu_error *e) {
  json_t *options = pu_sharding_json(s->sharding);
  if (!options) return pu_fail(e, PU_ERR_NOMEM, "tokenize: no memory");
  const pu_stage_options so = {.step = "tokenize",
                               .options = options,
                               .before = s->before,
                               .force = s->how->force,
                               .rank = s->how->rank,
                               .ranks = s->how->ranks};
  pu_err err = pu_stage_create(s->dir, &so, &s->w, e);
  json_decref(options);
  return err;
}

static pu_err run(step *s, pu_error *e) {
  PU_TRY(check_joined(s, e));
  PU_TRY(find_domains(s, e));
  PU_TRY(pu_sharding_create(s->dir, s->o, s->how, s->domains, s->n_domains, &s->sharding, e));
  PU_TRY(create(s, e));
  PU_TRY(pu_stage_run(s->w, s->how->pool, make_unit, s, show, s, e));
  return pu_stage_end(s->w, e);
}

pu_err pu_tokenize_stage(const char *dir, const char *before, const pu_tokenize_options *o, const pu_data_how *how,
                         pu_tokenize_result *out, pu_error *e) {
  step s = {.o = o, .how = how, .dir = dir};
  pu_stage *in;
  *out = (pu_tokenize_result){0};
  PU_TRY(pu_tokenize_check(o, e));
  PU_TRY(pu_stage_open(before, &in, e));
  s.before = in;
  pu_err err = run(&s, e);
  pu_sharding_free(s.sharding);
  free(s.domains);
  pu_stage_writer_free(s.w);
  pu_stage_close(in);
  return err == PU_OK ? pu_sharding_result(dir, out, e) : err;
}
