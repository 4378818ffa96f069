/* What a pass counts: histograms of measures, shares of sources, languages and kinds, samples of what each rule
 * dropped. */
#include <stdlib.h>
#include <string.h>

#include "src/data/clean.h"

enum { SAMPLES = 8, SAMPLE_BYTES = 400 };

struct pu_clean_counts {
  const pu_filter_set *set;
  int64_t (*bins)[PU_FILTER_MEASURES][PU_BINS]; /* [filters] */
  json_t *shares;  /* {"source": {"web": [documents, bytes, documents kept, bytes kept]}, "lang": …, "type": …} */
  json_t *samples; /* {"RULE": [{"id", "value", "text"}]} */
};

bool pu_measure_is_share(const pu_measure *m) {
  return (isfinite(m->max) && m->max <= 1) || (!isfinite(m->max) && isfinite(m->min) && m->min <= 1 && m->min > 0);
}

int pu_measure_bin(const pu_measure *m, double value) {
  double at = pu_measure_is_share(m) ? value * PU_BINS : 2 * log2(1 + PU_MAX(value, 0));
  return (int)PU_MAX(0, PU_MIN(at, PU_BINS - 1));
}

double pu_measure_bin_start(const pu_measure *m, int bin) {
  return pu_measure_is_share(m) ? (double)bin / PU_BINS : exp2(bin / 2.0) - 1;
}

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "clean: no memory");
}

pu_err pu_clean_counts_create(const pu_filter_set *set, pu_clean_counts **out, pu_error *e) {
  pu_clean_counts *c = *out = calloc(1, sizeof *c);
  if (!c) return nomem(e);
  c->set = set;
  c->bins = calloc(set->n + 1, sizeof *c->bins);
  c->shares = json_pack("{s:{}, s:{}, s:{}}", "source", "lang", "type");
  c->samples = json_object();
  if (c->bins && c->shares && c->samples) return PU_OK;
  pu_clean_counts_free(c);
  *out = NULL;
  return nomem(e);
}

void pu_clean_counts_free(pu_clean_counts *c) {
  if (!c) return;
  free(c->bins);
  json_decref(c->shares);
  json_decref(c->samples);
  free(c);
}

void pu_clean_counts_values(pu_clean_counts *c, size_t filter, const double *values) {
  const pu_measure *m = c->set->v[filter]->measures;
  for (int i = 0; m[i].name; i++)
    if (!isnan(values[i])) c->bins[filter][i][pu_measure_bin(&m[i], values[i])]++;
}

static pu_err share(json_t *of, pu_str key, size_t bytes, bool kept, pu_error *e) {
  if (key.len == 0) key = pu_str_c("unknown");
  json_t *row = json_object_getn(of, key.ptr, key.len);
  if (!row) {
    row = json_pack("[i,i,i,i]", 0, 0, 0, 0);
    if (json_object_setn_new(of, key.ptr, key.len, row) != 0) return nomem(e);
  }
  const json_int_t more[4] = {1, (json_int_t)bytes, kept, kept ? (json_int_t)bytes : 0};
  for (size_t i = 0; i < 4; i++) {
    json_t *v = json_array_get(row, i);
    json_integer_set(v, json_integer_value(v) + more[i]);
  }
  return PU_OK;
}

static pu_err sample(pu_clean_counts *c, const pu_doc *d, const char *rule, double value, pu_error *e) {
  json_t *list = json_object_get(c->samples, rule);
  if (!list && json_object_set_new(c->samples, rule, list = json_array()) != 0) return nomem(e);
  if (json_array_size(list) >= SAMPLES) return PU_OK;
  size_t len = PU_MIN(d->text.len, (size_t)SAMPLE_BYTES);
  while (len < d->text.len && len > 0 && ((uint8_t)d->text.data[len] & 0xC0) == 0x80) len--;
  json_t *o = json_pack("{s:s%, s:s%}", "id", d->id.ptr ? d->id.ptr : "", d->id.len, "text",
                        d->text.data ? d->text.data : "", len);
  if (!isnan(value) && isfinite(value)) json_object_set_new(o, "value", json_real(value));
  return o && json_array_append_new(list, o) == 0 ? PU_OK : nomem(e);
}

pu_err pu_clean_counts_doc(pu_clean_counts *c, const pu_doc *d, const char *rule, double value, pu_error *e) {
  PU_TRY(share(json_object_get(c->shares, "source"), d->source, d->text.len, !rule, e));
  PU_TRY(share(json_object_get(c->shares, "lang"), d->lang, d->text.len, !rule, e));
  PU_TRY(share(json_object_get(c->shares, "type"), d->type, d->text.len, !rule, e));
  return rule ? sample(c, d, rule, value, e) : PU_OK;
}

pu_err pu_clean_counts_put(const pu_clean_counts *c, pu_unit_writer *u, pu_error *e) {
  json_t *all = json_object();
  if (!all) return nomem(e);
  for (size_t f = 0; f < c->set->n; f++) {
    const pu_measure *m = c->set->v[f]->measures;
    for (int i = 0; m[i].name; i++) {
      char name[128];
      json_t *row = json_array();
      for (int b = 0; row && b < PU_BINS; b++) json_array_append_new(row, json_integer(c->bins[f][i][b]));
      snprintf(name, sizeof name, "%s.%s", c->set->v[f]->name, m[i].name);
      json_object_set_new(all, name, row);
    }
  }
  PU_TRY(pu_unit_count(u, "histograms", all, e));
  PU_TRY(pu_unit_count(u, "shares", json_incref(c->shares), e));
  return pu_unit_count(u, "samples", json_incref(c->samples), e);
}
