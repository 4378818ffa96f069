/* A whole run: stage after stage, each from the one before it. */
#include <string.h>

#include "puyu/data.h"

enum { STAGES = 8 };

typedef struct run {
  const pu_data_config *cfg;
  const pu_data_how *how;
  pu_arena *arena;
  const char *stages[STAGES]; /* folders, the earliest first */
  size_t n;
} run;

/* The folder of the next stage; it counts once its step succeeded. */
static pu_err next_dir(const run *r, const char *step, const char **out, pu_error *e) {
  *out = pu_arena_printf(r->arena, "%s/%zu-%s", r->cfg->out, r->n + 1, step);
  return *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "data: no memory");
}

static pu_err clean(run *r, pu_data_result *out, pu_error *e) {
  const pu_data_config *c = r->cfg;
  const pu_clean_options o = {.sources = c->sources.items,
                              .n_sources = c->sources.n,
                              .filters = c->filters,
                              .bounds = c->bounds,
                              .filter = c->filter};
  const char *dir;
  PU_TRY(next_dir(r, "clean", &dir, e));
  PU_TRY(pu_clean_run(dir, NULL, &o, r->how, out, e));
  r->stages[r->n++] = dir;
  return PU_OK;
}

static pu_err mode_of(const char *name, int *mode, pu_error *e) {
  for (*mode = 0; *mode < PU_DEDUP_MODES; ++*mode)
    if (strcmp(pu_dedup_mode_names[*mode], name) == 0) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "dedup.modes: '%s' is none of " PU_DEDUP_MODES_TEXT, name);
}

static pu_err check(const pu_data_config *cfg, pu_error *e) {
  int mode;
  if (cfg->dedup.n >= STAGES) return pu_fail(e, PU_ERR_USAGE, "dedup.modes: more than %d", STAGES - 1);
  for (size_t i = 0; i < cfg->dedup.n; i++) PU_TRY(mode_of(cfg->dedup.v[i], &mode, e));
  return PU_OK;
}

static pu_err dedup(run *r, pu_data_result *total, pu_error *e) {
  for (size_t i = 0; i < r->cfg->dedup.n; i++) {
    pu_dedup_options o = r->cfg->dedup_by;
    const char *name = r->cfg->dedup.v[i], *dir;
    pu_data_result one;
    PU_TRY(mode_of(name, &o.mode, e));
    PU_TRY(next_dir(r, name, &dir, e));
    PU_TRY(pu_dedup_run(dir, r->stages[r->n - 1], &o, r->how, &one, e));
    r->stages[r->n++] = dir;
    total->dropped += one.dropped;
  }
  return PU_OK;
}

static pu_err report(const run *r, pu_error *e) {
  if (r->how->rank > 0) return PU_OK;
  const char *path = pu_path_join(r->arena, r->cfg->out, "report.html"), *slash = strrchr(r->cfg->out, '/');
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "data: no memory");
  return pu_data_report(slash && slash[1] ? slash + 1 : r->cfg->out, r->stages, r->n, path, e);
}

pu_err pu_data_run(const pu_data_config *cfg, const pu_data_how *how, pu_data_result *out, pu_error *e) {
  run r = {.cfg = cfg, .how = how};
  *out = (pu_data_result){0};
  PU_TRY(check(cfg, e));
  PU_TRY(pu_arena_create((size_t)1 << 20, &r.arena, e));
  pu_err err = clean(&r, out, e);
  if (err == PU_OK) err = dedup(&r, out, e);
  if (err == PU_OK) err = report(&r, e);
  pu_arena_free(r.arena);
  return err;
}
