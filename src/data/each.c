/* What a stage holds, document by document: for people who look, and for files of what is kept. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/stage.h"

/* A document that a rule dropped, by its line. */
typedef struct drop {
  uint64_t n;
  char rule[128];
  double value;
} drop;

typedef struct held {
  uint64_t key; /* the n smallest are the sample */
  pu_kept d;    /* its strings owned */
  char *rule;
} held;

typedef struct each {
  const pu_stage *s;
  const char *dropped;
  int64_t n, n_held;
  uint64_t seed;
  held *sample; /* [n] */
  drop *drops;  /* of one unit, by line */
  size_t n_drops, cap_drops;
  pu_err (*fn)(void *arg, const pu_kept *d, pu_error *e);
  void *arg;
} each;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "data: no memory");
}

static pu_str copy(pu_str s) {
  char *p = malloc(s.len + 1);
  if (!p) return (pu_str){0};
  if (s.len) memcpy(p, s.ptr, s.len);
  p[s.len] = '\0';
  return pu_str_of(p, s.len);
}

static void held_free(held *h) {
  free((char *)h->d.id.ptr);
  free((char *)h->d.text.ptr);
  free((char *)h->d.source.ptr);
  free((char *)h->d.lang.ptr);
  free((char *)h->d.url.ptr);
  free((char *)h->d.title.ptr);
  free(h->rule);
}

static pu_err hold(each *a, uint64_t key, const pu_kept *d, pu_error *e) {
  int64_t at = a->n_held;
  if (at == a->n) { /* the largest key goes, if it is not this one */
    at = 0;
    for (int64_t i = 1; i < a->n; i++)
      if (a->sample[i].key > a->sample[at].key) at = i;
    if (key >= a->sample[at].key) return PU_OK;
    held_free(&a->sample[at]);
  } else {
    a->n_held++;
  }
  held *h = &a->sample[at];
  *h = (held){.key = key, .rule = d->rule ? strdup(d->rule) : NULL};
  h->d = (pu_kept){copy(d->id),  copy(d->text),  copy(d->source), copy(d->lang),
                   copy(d->url), copy(d->title), h->rule,         d->value};
  return h->d.text.ptr && h->d.id.ptr ? PU_OK : nomem(e);
}

static pu_err give(each *a, size_t unit, uint64_t n, const pu_kept *d, pu_error *e) {
  if (a->n > 0) return hold(a, pu_random_at(a->seed, unit, n), d, e);
  return a->fn(a->arg, d, e);
}

static pu_err kept_unit(each *a, size_t unit, pu_doc *d, pu_error *e) {
  pu_unit *u;
  PU_TRY(pu_unit_open(a->s, unit, &u, e));
  pu_err err = PU_OK;
  for (bool found = true; err == PU_OK && found;) {
    uint64_t n;
    err = pu_unit_next(u, d, &n, &found, e);
    const pu_kept k = {d->id, pu_str_of(d->text.data, d->text.len), d->source, d->lang, d->url, d->title, NULL, NAN};
    if (err == PU_OK && found) err = give(a, unit, n, &k, e);
  }
  pu_unit_close(u);
  return err;
}

static pu_err read_drops(each *a, size_t unit, pu_error *e) {
  pu_records *r;
  PU_TRY(pu_records_open(a->s, unit, "drops", &r, e));
  pu_err err = PU_OK;
  a->n_drops = 0;
  for (bool found = true; err == PU_OK && found;) {
    const json_t *line;
    err = pu_records_next(r, &line, &found, e);
    const char *rule = found && err == PU_OK ? json_string_value(json_object_get(line, "rule")) : NULL;
    if (!rule || strncmp(rule, a->dropped, strlen(a->dropped)) != 0) continue;
    if (a->n_drops == a->cap_drops) {
      size_t cap = PU_MAX((size_t)256, 2 * a->cap_drops);
      drop *grown = realloc(a->drops, cap * sizeof *grown);
      if (!grown) {
        err = nomem(e);
        break;
      }
      a->drops = grown;
      a->cap_drops = cap;
    }
    drop *d = &a->drops[a->n_drops++];
    d->n = (uint64_t)json_integer_value(json_object_get(line, "n"));
    snprintf(d->rule, sizeof d->rule, "%s", rule);
    d->value = json_is_number(json_object_get(line, "value")) ? json_number_value(json_object_get(line, "value")) : NAN;
  }
  pu_records_close(r);
  return err;
}

static pu_str member(const json_t *o, const char *key) {
  const json_t *v = json_object_get(o, key);
  return json_is_string(v) ? pu_str_of(json_string_value(v), json_string_length(v)) : pu_str_of("", 0);
}

static pu_err dropped_unit(each *a, size_t unit, pu_error *e) {
  pu_records *r;
  PU_TRY(read_drops(a, unit, e));
  if (a->n_drops == 0) return PU_OK;
  PU_TRY(pu_records_open(a->s, unit, "docs", &r, e));
  pu_err err = PU_OK;
  size_t at = 0;
  for (uint64_t n = 0; err == PU_OK && at < a->n_drops; n++) {
    const json_t *o;
    bool found;
    err = pu_records_next(r, &o, &found, e);
    if (err != PU_OK || !found) break;
    if (n != a->drops[at].n) continue;
    const pu_kept k = {member(o, "id"),  member(o, "content"), member(o, "source"), member(o, "lang"),
                       member(o, "url"), member(o, "title"),   a->drops[at].rule,   a->drops[at].value};
    err = give(a, unit, n, &k, e);
    at++;
  }
  pu_records_close(r);
  return err;
}

static int by_key(const void *a, const void *b) {
  const held *x = a, *y = b;
  return (x->key > y->key) - (x->key < y->key);
}

static pu_err run(each *a, pu_doc *d, pu_error *e) {
  if (a->n > 0 && !(a->sample = calloc((size_t)a->n, sizeof *a->sample))) return nomem(e);
  for (size_t u = 0; u < pu_stage_units(a->s); u++) PU_TRY(a->dropped ? dropped_unit(a, u, e) : kept_unit(a, u, d, e));
  if (a->n_held) qsort(a->sample, (size_t)a->n_held, sizeof *a->sample, by_key);
  for (int64_t i = 0; i < a->n_held; i++) PU_TRY(a->fn(a->arg, &a->sample[i].d, e));
  return PU_OK;
}

pu_err pu_data_each(const char *stage, const char *dropped, int64_t n, uint64_t seed,
                    pu_err (*fn)(void *arg, const pu_kept *d, pu_error *e), void *arg, pu_error *e) {
  pu_stage *s;
  pu_doc d = {0};
  PU_TRY(pu_stage_open(stage, &s, e));
  each a = {.s = s, .dropped = dropped, .n = n, .seed = seed, .fn = fn, .arg = arg};
  pu_err err = pu_doc_init(&d, e);
  if (err == PU_OK) err = run(&a, &d, e);
  for (int64_t i = 0; i < a.n_held; i++) held_free(&a.sample[i]);
  free(a.sample);
  free(a.drops);
  pu_doc_deinit(&d);
  pu_stage_close(s);
  return err;
}
