/* How often each source comes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/mix.h"

enum { KEPT_DOCUMENTS = 2, KEPT_BYTES = 3 }; /* places in a row of stage.json's shares */

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "mix: no memory");
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const pu_mix_share *)a)->source, ((const pu_mix_share *)b)->source);
}

static pu_err read_sources(const pu_stage *s, pu_mix_plan *p, pu_error *e) {
  const json_t *sources = pu_stage_shares(s, "source"), *row;
  const char *name;
  p->v = calloc(json_object_size(sources) + 1, sizeof *p->v);
  if (!p->v) return nomem(e);
  json_object_foreach((json_t *)sources, name, row) {
    uint64_t documents = (uint64_t)json_integer_value(json_array_get(row, KEPT_DOCUMENTS));
    uint64_t bytes = (uint64_t)json_integer_value(json_array_get(row, KEPT_BYTES));
    if (documents > 0) p->v[p->n++] = (pu_mix_share){name, documents, bytes, 0};
  }
  if (p->n == 0) return pu_fail(e, PU_ERR_USAGE, "%s: no document is left to mix", pu_stage_dir(s));
  qsort(p->v, p->n, sizeof *p->v, by_name);
  return PU_OK;
}

static pu_mix_share *find(const pu_mix_plan *p, pu_str source) {
  for (size_t i = 0; i < p->n; i++)
    if (pu_str_eq(pu_str_c(p->v[i].source), source)) return &p->v[i];
  return NULL;
}

/* "books=0.3" */
static pu_err read_weight(const pu_mix_plan *p, const char *text, double *weights, pu_error *e) {
  const char *at = strrchr(text, '=');
  char *end = NULL;
  double weight = at ? strtod(at + 1, &end) : -1;
  if (!at || end == at + 1 || *end || !(weight >= 0) || !isfinite(weight))
    return pu_fail(e, PU_ERR_USAGE, "weights: '%s' is not SOURCE=NUMBER", text);
  const pu_mix_share *s = find(p, pu_str_of(text, (size_t)(at - text)));
  if (!s)
    return pu_fail(e, PU_ERR_USAGE, "weights: '%s': of '%.*s' there is no document; there are '%s'%s", text,
                   (int)(at - text), text, p->v[0].source, p->n > 1 ? " and others" : "");
  weights[s - p->v] = weight;
  return PU_OK;
}

/* Sources without a weight do not come, where any has one. */
static pu_err weigh(const pu_mix_plan *p, const pu_mix_options *o, double *weights, pu_error *e) {
  double sum = 0, power = 1 / (o->temperature > 0 ? o->temperature : 1);
  for (size_t i = 0; i < o->weights.n; i++) PU_TRY(read_weight(p, o->weights.v[i], weights, e));
  for (size_t i = 0; o->weights.n == 0 && i < p->n; i++) weights[i] = pow((double)p->v[i].bytes, power);
  for (size_t i = 0; i < p->n; i++) sum += weights[i];
  return sum > 0 ? PU_OK : pu_fail(e, PU_ERR_USAGE, "weights: all of them are 0");
}

/* One round: what is wanted is shared out among the sources that are not at the cap. True: one more is at it now. */
static bool share_out(pu_mix_plan *p, const double *weights, double wanted, double cap, bool *full) {
  double left = wanted, sum = 0;
  bool more = false;
  for (size_t i = 0; i < p->n; i++) {
    if (full[i])
      left -= cap * (double)p->v[i].bytes;
    else
      sum += weights[i];
  }
  for (size_t i = 0; sum > 0 && i < p->n; i++) {
    pu_mix_share *s = &p->v[i];
    if (full[i]) continue;
    s->passes = PU_MAX(0.0, left) * weights[i] / sum / (double)PU_MAX(s->bytes, 1u);
    if (s->passes <= cap) continue;
    s->passes = cap;
    full[i] = more = true;
  }
  return more;
}

/* Without a wanted amount: as much as there is of the sources that come. */
static pu_err plan(pu_mix_plan *p, const pu_mix_options *o, double *weights, bool *full, pu_error *e) {
  double cap = o->cap > 0 ? o->cap : INFINITY, wanted = (double)o->bytes, out = 0;
  PU_TRY(weigh(p, o, weights, e));
  for (size_t i = 0; o->bytes <= 0 && i < p->n; i++) wanted += weights[i] > 0 ? (double)p->v[i].bytes : 0;
  while (share_out(p, weights, wanted, cap, full)) {}
  for (size_t i = 0; i < p->n; i++) out += p->v[i].passes * (double)p->v[i].bytes;
  p->bytes = (uint64_t)out;
  return PU_OK;
}

pu_err pu_mix_plan_make(const pu_stage *s, const pu_mix_options *o, pu_mix_plan *out, pu_error *e) {
  *out = (pu_mix_plan){0};
  PU_TRY(read_sources(s, out, e));
  double *weights = calloc(out->n, sizeof *weights);
  bool *full = calloc(out->n, sizeof *full);
  pu_err err = weights && full ? plan(out, o, weights, full, e) : nomem(e);
  free(weights);
  free(full);
  json_t *all = err == PU_OK ? pu_mix_plan_json(out, o) : NULL;
  char *text = all ? json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
  if (err == PU_OK && !text) err = nomem(e);
  if (text) out->hash = pu_hash64(text, strlen(text), 0);
  free(text);
  json_decref(all);
  return err;
}

void pu_mix_plan_deinit(pu_mix_plan *p) {
  free(p->v);
  *p = (pu_mix_plan){0};
}

double pu_mix_passes(const pu_mix_plan *p, pu_str source) {
  const pu_mix_share *s = find(p, source);
  return s ? s->passes : 0;
}

json_t *pu_mix_plan_json(const pu_mix_plan *p, const pu_mix_options *o) {
  json_t *all = json_pack("{s:I, s:I, s:s, s:[]}", "seed", (json_int_t)o->seed, "min_bytes", (json_int_t)o->min_bytes,
                          "join", pu_join_names[o->join], "sources");
  if (!all) return NULL;
  if (o->join != PU_JOIN_NONE) {
    json_object_set_new(all, "join_bytes", json_integer(o->join_bytes));
    json_object_set_new(all, "valid", json_real(o->valid_fraction));
  }
  for (size_t i = 0; i < p->n; i++) {
    const pu_mix_share *s = &p->v[i];
    json_array_append_new(json_object_get(all, "sources"),
                          json_pack("{s:s, s:I, s:I, s:f}", "source", s->source, "documents", (json_int_t)s->documents,
                                    "bytes", (json_int_t)s->bytes, "passes", s->passes));
  }
  return all;
}
