/* A whole run: stage after stage, each from the one before it; then mixtures and their shards, all from the last. */
#include <string.h>

#include "puyu/data.h"

typedef struct run {
  const pu_data_config *cfg;
  const pu_data_how *how;
  pu_arena *arena;
  const char **stages; /* folders, the earliest first */
  size_t n, numbered;  /* of them: all but shards */
  pu_data_result *out;
} run;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "data: no memory");
}

/* The folder of the next stage. */
static pu_err next_dir(run *r, const char *step, const char **out, pu_error *e) {
  *out = pu_arena_printf(r->arena, "%s/%zu-%s", r->cfg->out, ++r->numbered, step);
  return *out ? PU_OK : nomem(e);
}

static pu_err clean(run *r, pu_error *e) {
  const pu_data_config *c = r->cfg;
  const pu_clean_options o = {.sources = c->sources.items,
                              .n_sources = c->sources.n,
                              .filters = c->filters,
                              .bounds = c->bounds,
                              .filter = c->filter};
  const char *dir;
  PU_TRY(next_dir(r, "clean", &dir, e));
  PU_TRY(pu_clean_run(dir, NULL, &o, r->how, r->out, e));
  r->stages[r->n++] = dir;
  return PU_OK;
}

static pu_err mode_of(const char *name, int *mode, pu_error *e) {
  for (*mode = 0; *mode < PU_DEDUP_MODES; ++*mode)
    if (strcmp(pu_dedup_mode_names[*mode], name) == 0) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "dedup.modes: '%s' is none of " PU_DEDUP_MODES_TEXT, name);
}

/* Names of mixtures are names of folders. */
static pu_err check_mixes(const pu_mix_options *v, size_t n, pu_error *e) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
  for (size_t i = 0; i < n; i++) {
    size_t len = strlen(v[i].name);
    if (len == 0 || len > 64 || strspn(v[i].name, letters) != len)
      return pu_fail(e, PU_ERR_USAGE, "mix: the name '%s' must be letters, digits, - _ (it names a folder)", v[i].name);
    for (size_t k = 0; k < i; k++)
      if (strcmp(v[k].name, v[i].name) == 0) return pu_fail(e, PU_ERR_USAGE, "mix: two are called '%s'", v[i].name);
  }
  return PU_OK;
}

/* A weight of a source that there is not would end a run at its last step. */
static pu_err check_weights(const pu_data_config *cfg, const pu_mix_options *mix, pu_error *e) {
  const pu_source *sources = cfg->sources.items;
  for (size_t i = 0; i < mix->weights.n; i++) {
    const char *weight = mix->weights.v[i];
    size_t len = strcspn(weight, "=");
    bool found = false;
    for (size_t k = 0; k < cfg->sources.n; k++)
      found |= sources[k].name && strlen(sources[k].name) == len && strncmp(sources[k].name, weight, len) == 0;
    if (!found) return pu_fail(e, PU_ERR_USAGE, "mix %s: weights: '%s' is of none of the sources", mix->name, weight);
  }
  return PU_OK;
}

static pu_err check(const pu_data_config *cfg, pu_error *e) {
  const pu_mix_options *mixes = cfg->mixes.items;
  int mode;
  if (cfg->tokenizer && !pu_path_exists(cfg->tokenizer))
    return pu_fail(e, PU_ERR_USAGE, "shards.tokenizer: %s: there is no such file or folder", cfg->tokenizer);
  for (size_t i = 0; i < cfg->mixes.n; i++) PU_TRY(check_weights(cfg, &mixes[i], e));
  for (size_t i = 0; i < cfg->dedup.n; i++) PU_TRY(mode_of(cfg->dedup.v[i], &mode, e));
  for (size_t i = 0; i < cfg->contam.against.n; i++)
    if (!pu_path_exists(cfg->contam.against.v[i]))
      return pu_fail(e, PU_ERR_USAGE, "decontaminate.against: %s: there is no such file or folder",
                     cfg->contam.against.v[i]);
  return check_mixes(cfg->mixes.items, cfg->mixes.n, e);
}

static pu_err dedup(run *r, pu_error *e) {
  for (size_t i = 0; i < r->cfg->dedup.n; i++) {
    pu_dedup_options o = r->cfg->dedup_by;
    const char *name = r->cfg->dedup.v[i], *dir;
    pu_data_result one;
    PU_TRY(mode_of(name, &o.mode, e));
    PU_TRY(next_dir(r, name, &dir, e));
    PU_TRY(pu_dedup_run(dir, r->stages[r->n - 1], &o, r->how, &one, e));
    r->stages[r->n++] = dir;
    r->out->dropped += one.dropped;
  }
  return PU_OK;
}

static pu_err decontaminate(run *r, pu_error *e) {
  const char *dir;
  pu_contam *c;
  pu_data_result one;
  if (r->cfg->contam.against.n == 0) return PU_OK;
  PU_TRY(next_dir(r, "decontaminate", &dir, e));
  PU_TRY(pu_contam_open(&r->cfg->contam, r->how->memory, &c, e));
  pu_err err = pu_contam_run(dir, r->stages[r->n - 1], c, r->how, &one, e);
  pu_contam_close(c);
  PU_TRY(err);
  r->stages[r->n++] = dir;
  r->out->dropped += one.dropped;
  return PU_OK;
}

/* Shards of what is left, or of a mixture of it. */
static pu_err shards(run *r, const pu_tokenizer *t, const char *from, const pu_mix_options *mix, pu_error *e) {
  const pu_data_config *c = r->cfg;
  const pu_tokenize_options o = {.tokenizer = t,
                                 .valid_fraction = c->valid_fraction,
                                 .bos = c->bos,
                                 .eos = c->eos,
                                 .internevo = c->internevo,
                                 .max_tokens = (uint64_t)c->shard_tokens};
  const char *dir = pu_arena_printf(r->arena, "%s/shards%s%s", c->out, mix ? "/" : "", mix ? mix->name : "");
  pu_tokenize_result one;
  if (!dir) return nomem(e);
  PU_TRY(mix ? pu_mix_shards(dir, from, mix, &o, r->how, &one, e) : pu_tokenize_stage(dir, from, &o, r->how, &one, e));
  r->stages[r->n++] = dir;
  r->out->tokens += one.tokens;
  return PU_OK;
}

static pu_err mixture(run *r, const char *from, const pu_mix_options *o, pu_error *e) {
  pu_data_result one;
  const char *step = pu_arena_printf(r->arena, "mix-%s", o->name), *dir;
  if (!step) return nomem(e);
  PU_TRY(next_dir(r, step, &dir, e));
  pu_mix_options mix = *o;
  mix.valid_fraction = r->cfg->valid_fraction; /* of shards that may be made of it later */
  PU_TRY(pu_mix_documents(dir, from, &mix, r->how, &one, e));
  r->stages[r->n++] = dir;
  return PU_OK;
}

/* Where there is a tokenizer, mixtures become shards at once. */
static pu_err mix_all(run *r, const pu_tokenizer *t, pu_error *e) {
  const pu_mix_options *v = r->cfg->mixes.items;
  const char *from = r->stages[r->n - 1];
  if (r->cfg->mixes.n == 0) return t ? shards(r, t, from, NULL, e) : PU_OK;
  for (size_t i = 0; i < r->cfg->mixes.n; i++) PU_TRY(t ? shards(r, t, from, &v[i], e) : mixture(r, from, &v[i], e));
  return PU_OK;
}

static pu_err report(const run *r, pu_error *e) {
  if (r->how->rank > 0) return PU_OK;
  const char *path = pu_path_join(r->arena, r->cfg->out, "report.html"), *slash = strrchr(r->cfg->out, '/');
  if (!path) return nomem(e);
  return pu_data_report(slash && slash[1] ? slash + 1 : r->cfg->out, r->stages, r->n, path, e);
}

static pu_err steps(run *r, const pu_tokenizer *t, pu_error *e) {
  PU_TRY(clean(r, e));
  PU_TRY(dedup(r, e));
  PU_TRY(decontaminate(r, e));
  PU_TRY(mix_all(r, t, e));
  return report(r, e);
}

pu_err pu_data_run(const pu_data_config *cfg, const pu_data_how *how, pu_data_result *out, pu_error *e) {
  run r = {.cfg = cfg, .how = how, .out = out};
  *out = (pu_data_result){0};
  PU_TRY(check(cfg, e));
  PU_TRY(pu_arena_create((size_t)1 << 20, &r.arena, e));
  r.stages = pu_arena_alloc(r.arena, (3 + cfg->dedup.n + 2 * cfg->mixes.n) * sizeof *r.stages);
  pu_tokenizer *t = NULL;
  pu_err err = r.stages ? PU_OK : nomem(e);
  if (err == PU_OK && cfg->tokenizer) err = pu_tokenizer_load(cfg->tokenizer, &t, e); /* a broken one is told at once */
  if (err == PU_OK) err = steps(&r, t, e);
  pu_tokenizer_free(t);
  pu_arena_free(r.arena);
  return err;
}
