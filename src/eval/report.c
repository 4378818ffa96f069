/* Reports: what the logs of folders say. */
#include "src/eval/report.h"

#include <stdlib.h>
#include <string.h>

/* ---- one log ---- */

static const char *text_of(const json_t *o, const char *key) {
  const char *s = json_string_value(json_object_get(o, key));
  return s ? s : "";
}

static pu_err take_head(void *arg, json_t *record, pu_error *e) {
  eval_set *set = arg;
  (void)e;
  if (json_object_get(record, "key") || !json_object_get(record, "run")) return PU_OK;
  json_decref(set->head);
  set->head = json_incref(record);
  return PU_OK;
}

static eval_group group_of(const eval_sample *s) {
  return s->too_long    ? GROUP_TOO_LONG
         : s->unread    ? GROUP_UNREAD
         : s->cut       ? GROUP_CUT
         : s->score > 0 ? GROUP_RIGHT
                        : GROUP_WRONG;
}

static void show(eval_shown *g, json_t *record) {
  const char *key = text_of(record, "key");
  uint64_t hash = pu_hash64(key, strlen(key), 0);
  size_t at = g->n;
  g->all++;
  if (at == EVAL_SHOWN && hash >= g->hash[at - 1]) return;
  if (at == EVAL_SHOWN) json_decref(g->v[--at]);
  g->n = at + 1;
  for (; at > 0 && g->hash[at - 1] > hash; at--) {
    g->v[at] = g->v[at - 1];
    g->hash[at] = g->hash[at - 1];
  }
  g->v[at] = json_incref(record);
  g->hash[at] = hash;
}

typedef struct taking {
  eval_set *set;
  json_t *seen;
} taking;

static bool counts(const taking *t, const json_t *record) {
  int64_t limit = json_integer_value(json_object_get(t->set->head, "limit"));
  const char *key = text_of(record, "key");
  if (!key[0] || strcmp(text_of(record, "run"), text_of(t->set->head, "run")) != 0) return false;
  if (limit && t->set->kind != PU_EVAL_PERPLEXITY && json_integer_value(json_object_get(record, "index")) >= limit)
    return false;
  return !json_object_get(t->seen, key);
}

static pu_err take_sample(void *arg, json_t *record, pu_error *e) {
  taking *t = arg;
  eval_sample s;
  const char *before = text_of(record, "before");
  if (before[0]) json_object_set(t->set->before, before, json_object_get(record, "text"));
  if (!counts(t, record)) return PU_OK;
  json_object_set_new(t->seen, text_of(record, "key"), json_true());
  eval_sample_read(record, &s);
  if (t->set->rule >= 0) s.score = s.picks[t->set->rule] > 0;
  if (!eval_tally_add(t->set->tally, text_of(record, "subject"), &s))
    return pu_fail(e, PU_ERR_NOMEM, "no memory for a report");
  if (t->set->kind != PU_EVAL_PERPLEXITY) show(&t->set->groups[group_of(&s)], record);
  return PU_OK;
}

static void read_kind(eval_set *set) {
  const char *kind = text_of(set->head, "kind"), *rule = text_of(set->head, "rule");
  set->kind = strcmp(kind, "choice") == 0     ? PU_EVAL_CHOICE
              : strcmp(kind, "generate") == 0 ? PU_EVAL_GENERATE
                                              : PU_EVAL_PERPLEXITY;
  set->rule = set->kind == PU_EVAL_CHOICE ? PU_EVAL_SUM : -1;
  for (int i = 0; i < PU_EVAL_RULES && set->kind == PU_EVAL_CHOICE; i++)
    if (strcmp(rule, pu_eval_rule_names[i]) == 0) set->rule = i;
}

static pu_err read_log(const char *path, eval_set *set, pu_error *e) {
  taking t = {.set = set, .seen = json_object()};
  set->before = json_object();
  set->tally = eval_tally_new();
  pu_err err = t.seen && set->before && set->tally ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for a report");
  if (!err) err = eval_log_each(path, take_head, set, e);
  if (!err && !text_of(set->head, "task")[0])
    err = pu_fail(e, PU_ERR_FORMAT, "%s: not a log of puyu eval: no line says what was asked", path);
  if (!err) read_kind(set);
  if (!err) err = eval_log_each(path, take_sample, &t, e);
  json_decref(t.seen);
  if (err) return err;
  eval_tally_result(set->tally, set->kind, set->rule, &set->result);
  set->result.model = text_of(set->head, "model");
  set->result.task = text_of(set->head, "task");
  return PU_OK;
}

/* ---- folders ---- */

static pu_err add_log(eval_sets *sets, const char *path, pu_error *e) {
  if (sets->n == sets->cap) {
    size_t cap = sets->cap ? 2 * sets->cap : 16;
    eval_set *v = realloc(sets->v, cap * sizeof *v);
    if (!v) return pu_fail(e, PU_ERR_NOMEM, "no memory for a report");
    sets->v = v;
    sets->cap = cap;
  }
  sets->v[sets->n] = (eval_set){0};
  return read_log(path, &sets->v[sets->n++], e);
}

/* DIR/MODEL/TASK.jsonl, or DIR/TASK.jsonl, or the file itself. */
static pu_err add_path(eval_sets *sets, pu_arena *a, const char *path, int depth, pu_error *e) {
  char **names;
  size_t n;
  if (!pu_path_is_dir(path)) return add_log(sets, path, e);
  PU_TRY(pu_dir_list(a, path, &names, &n, e));
  for (size_t i = 0; i < n; i++) {
    const char *below = pu_path_join(a, path, names[i]);
    if (!below) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", path);
    bool folder = pu_path_is_dir(below);
    if ((folder && depth < 2) || (!folder && pu_ends_with(names[i], ".jsonl")))
      PU_TRY(add_path(sets, a, below, depth + 1, e));
  }
  return PU_OK;
}

static pu_err put_results(const eval_sets *sets, pu_eval_form form, pu_buf *out, pu_error *e) {
  pu_eval_result *v = calloc(sets->n, sizeof *v);
  if (!v) return pu_fail(e, PU_ERR_NOMEM, "no memory for a report");
  for (size_t i = 0; i < sets->n; i++) v[i] = sets->v[i].result;
  pu_err err = pu_eval_table(v, sets->n, form, out, e);
  free(v);
  return err;
}

static void sets_free(eval_sets *sets) {
  for (size_t i = 0; i < sets->n; i++) {
    eval_set *s = &sets->v[i];
    for (int g = 0; g < GROUPS; g++)
      for (size_t k = 0; k < s->groups[g].n; k++) json_decref(s->groups[g].v[k]);
    json_decref(s->head);
    json_decref(s->before);
    eval_tally_free(s->tally);
  }
  free(sets->v);
}

pu_err pu_eval_report(const char *const *dirs, size_t n, pu_eval_form form, pu_buf *out, pu_error *e) {
  eval_sets sets = {0};
  pu_arena *a;
  PU_TRY(pu_arena_create((size_t)64 << 20, &a, e));
  pu_err err = PU_OK;
  for (size_t i = 0; i < n && !err; i++) {
    size_t before = sets.n;
    err = add_path(&sets, a, dirs[i], 0, e);
    if (!err && sets.n == before) err = pu_fail(e, PU_ERR_IO, "%s: no logs of puyu eval in it", dirs[i]);
  }
  if (!err) err = form == PU_EVAL_HTML ? eval_page(&sets, out, e) : put_results(&sets, form, out, e);
  sets_free(&sets);
  pu_arena_free(a);
  return err;
}
