/* Which filters run: names, presets and bounds that are changed. */
#include <stdlib.h>
#include <string.h>

#include "src/data/filter.h"

static const pu_filter_preset presets[] = {
    {"gopher", "MassiveText's rules: repetition, then quality", "gopher_repetition gopher_quality", NULL},
    {"fineweb-all", "the filters of FineWeb, in its order",
     "language gopher_repetition gopher_quality c4_fineweb fineweb", NULL},
    {"web", "web pages: normalised, the user's lists, one language each, all published rules, personal data masked",
     "normalise domains language gopher_repetition gopher_quality c4_fineweb fineweb wanjuan words mask", NULL},
    {"books", "books: hard line breaks and verse are no faults, and long texts repeat themselves more",
     "normalise language gopher_repetition gopher_quality words mask",
     "gopher_quality.words.max=.inf gopher_repetition.lines.max=0.5 gopher_repetition.paragraphs.max=0.5 "
     "gopher_repetition.line_characters.max=0.4 gopher_repetition.paragraph_characters.max=0.4 "
     "gopher_repetition.ngrams_5.max=0.25 gopher_repetition.ngrams_6.max=0.2 gopher_repetition.ngrams_7.max=0.18 "
     "gopher_repetition.ngrams_8.max=0.16 gopher_repetition.ngrams_9.max=0.15 gopher_repetition.ngrams_10.max=0.15"},
    {"code", "source code: only what holds for any text", "normalise domains wanjuan words mask",
     "wanjuan.separators.max=.inf wanjuan.line_length.min=0 wanjuan.broken_lines.max=.inf "
     "wanjuan.punctuation.max=.inf wanjuan.punctuation_spread.min=0"},
    {"chat", "conversations: short turns are no fault", "normalise language wanjuan words mask",
     "wanjuan.line_length.min=0 wanjuan.punctuation.min=0 wanjuan.punctuation_spread.min=0"},
    {NULL, NULL, NULL, NULL},
};

const pu_filter_preset *pu_filter_presets(void) {
  return presets;
}

static const pu_filter *find(pu_str name) {
  for (size_t i = 0; pu_filter_all[i]; i++)
    if (pu_str_eq(pu_str_c(pu_filter_all[i]->name), name)) return pu_filter_all[i];
  return NULL;
}

const pu_filter *pu_filter_find(const char *name) {
  return find(pu_str_c(name));
}

static const pu_filter_preset *preset_of(const char *name) {
  for (size_t i = 0; presets[i].name; i++)
    if (strcmp(presets[i].name, name) == 0) return &presets[i];
  return NULL;
}

/* The next word of a list separated by spaces; its length 0: none is left. */
static pu_str next_word(const char **at) {
  *at += strspn(*at, " ");
  pu_str word = pu_str_of(*at, strcspn(*at, " "));
  *at += word.len;
  return word;
}

static void nearer(const char *name, const char *other, size_t *best, const char **nearest) {
  size_t d = pu_edit_distance(name, other);
  if (d >= *best) return;
  *best = d;
  *nearest = other;
}

static pu_err unknown(const char *name, pu_error *e) {
  size_t best = 4;
  const char *near = NULL;
  for (size_t i = 0; presets[i].name; i++) nearer(name, presets[i].name, &best, &near);
  for (size_t i = 0; pu_filter_all[i]; i++) nearer(name, pu_filter_all[i]->name, &best, &near);
  if (near) return pu_fail(e, PU_ERR_USAGE, "filters: '%s' is no filter and no preset; did you mean '%s'?", name, near);
  return pu_fail(e, PU_ERR_USAGE, "filters: '%s' is no filter and no preset", name);
}

static pu_err add(pu_filter_set *s, const pu_filter *f, pu_error *e) {
  for (size_t i = 0; i < s->n; i++)
    if (s->v[i] == f) return PU_OK; /* named twice: where it was first */
  if (s->n == PU_COUNT(s->v)) return pu_fail(e, PU_ERR_USAGE, "filters: more than %zu", PU_COUNT(s->v));
  for (int k = 0; k < PU_FILTER_MEASURES && f->measures[k].name; k++)
    s->bounds[s->n][k] = (pu_bound){f, k, f->measures[k].min, f->measures[k].max};
  s->v[s->n++] = f;
  return PU_OK;
}

static pu_err no_bound(pu_str change, const char *why, pu_error *e) {
  return pu_fail(e, PU_ERR_USAGE, "filters: '%.*s': %s; write FILTER.MEASURE.min=NUMBER or .max=NUMBER",
                 (int)change.len, change.ptr, why);
}

static bool bound_value(pu_str text, double *v) {
  static const struct {
    const char *name;
    double v;
  } endless[] = {{".inf", INFINITY}, {"+.inf", INFINITY}, {"-.inf", -INFINITY}};
  for (size_t i = 0; i < PU_COUNT(endless); i++)
    if (pu_str_eq(text, pu_str_c(endless[i].name))) return *v = endless[i].v, true;
  char copy[64], *end;
  if (text.len == 0 || text.len >= sizeof copy) return false;
  memcpy(copy, text.ptr, text.len);
  copy[text.len] = '\0';
  *v = strtod(copy, &end);
  return *end == '\0' && !isnan(*v) && copy[0] > ' ';
}

/* The bound that "FILTER.MEASURE" names, in the set; NULL with a reason. */
static pu_bound *bound_of(pu_filter_set *s, pu_str name, const char **why) {
  const char *dot = memchr(name.ptr, '.', name.len);
  *why = "no measure is named";
  if (!dot) return NULL;
  size_t at = 0, n = (size_t)(dot - name.ptr);
  const pu_filter *f = find(pu_str_of(name.ptr, n));
  *why = f ? "this filter is not among those that run" : "no such filter";
  while (f && at < s->n && s->v[at] != f) at++;
  if (!f || at == s->n) return NULL;
  *why = "the filter has no such measure";
  for (int k = 0; k < PU_FILTER_MEASURES && f->measures[k].name; k++)
    if (pu_str_eq(pu_str_c(f->measures[k].name), pu_str_of(dot + 1, name.len - n - 1))) return &s->bounds[at][k];
  return NULL;
}

static pu_err change_bound(pu_filter_set *s, pu_str change, pu_error *e) {
  const char *equals = memchr(change.ptr, '=', change.len), *why;
  size_t n = equals ? (size_t)(equals - change.ptr) : 0;
  double v;
  if (!equals) return no_bound(change, "no '='", e);
  if (!bound_value(pu_str_of(equals + 1, change.len - n - 1), &v)) return no_bound(change, "no number", e);
  bool min = n > 4 && memcmp(equals - 4, ".min", 4) == 0, max = n > 4 && memcmp(equals - 4, ".max", 4) == 0;
  if (!min && !max) return no_bound(change, "neither min nor max", e);
  pu_bound *b = bound_of(s, pu_str_of(change.ptr, n - 4), &why);
  if (!b) return no_bound(change, why, e);
  *(min ? &b->min : &b->max) = v;
  return PU_OK;
}

static pu_err add_preset(pu_filter_set *s, const pu_filter_preset *p, pu_error *e) {
  const char *at = p->filters;
  for (pu_str word = next_word(&at); word.len > 0; word = next_word(&at)) {
    const pu_filter *f = find(word);
    if (!f) return pu_fail(e, PU_ERR_INTERNAL, "filters: preset %s names %.*s", p->name, (int)word.len, word.ptr);
    PU_TRY(add(s, f, e));
  }
  at = p->changes ? p->changes : "";
  for (pu_str word = next_word(&at); word.len > 0; word = next_word(&at)) PU_TRY(change_bound(s, word, e));
  return PU_OK;
}

pu_err pu_filter_set_make(const pu_strs *names, const pu_strs *changes, pu_filter_set *out, pu_error *e) {
  *out = (pu_filter_set){0};
  for (size_t i = 0; i < names->n; i++) {
    const pu_filter_preset *p = preset_of(names->v[i]);
    const pu_filter *f = pu_filter_find(names->v[i]);
    if (!p && !f) return unknown(names->v[i], e);
    PU_TRY(p ? add_preset(out, p, e) : add(out, f, e));
  }
  for (size_t i = 0; changes && i < changes->n; i++) PU_TRY(change_bound(out, pu_str_c(changes->v[i]), e));
  return PU_OK;
}

int pu_filter_drops(const pu_filter_set *s, size_t filter, const double *values) {
  const pu_filter *f = s->v[filter];
  for (int k = 0; k < PU_FILTER_MEASURES && f->measures[k].name; k++) {
    const pu_bound *b = &s->bounds[filter][k];
    if (values[k] < b->min || values[k] > b->max) return k; /* false of NAN */
  }
  return -1;
}

bool pu_filter_at(size_t i, const char **name, const char **summary, const pu_measure **measures) {
  for (size_t k = 0; k <= i; k++)
    if (!pu_filter_all[k]) return false;
  *name = pu_filter_all[i]->name;
  *summary = pu_filter_all[i]->summary;
  *measures = pu_filter_all[i]->measures;
  return true;
}
