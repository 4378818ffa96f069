/* The report as a page: scores of models side by side, subjects, and samples to look at. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/eval/report.h"

enum { MOST_SHOWN = 4000 }; /* bytes of a text */

static const char *const group_names[GROUPS] = {"wrong", "right", "nothing found in the answer", "cut at the limit",
                                                "too long for the context"};

/* ---- pieces ---- */

static void put_score(pu_buf *b, pu_eval_score s, pu_eval_kind kind) {
  double by = kind == PU_EVAL_PERPLEXITY ? 1 : 100;
  if (isnan(s.value))
    pu_buf_puts(b, "–");
  else
    pu_buf_printf(b, "%.2f", s.value * by);
  if (!isnan(s.error)) pu_buf_printf(b, " <small>± %.2f</small>", s.error * by);
}

static void put_html(pu_buf *b, const json_t *s) {
  size_t n = json_string_length(s), most = n;
  const char *text = json_string_value(s) ? json_string_value(s) : "";
  if (n > MOST_SHOWN) /* to the beginning of a character */
    for (most = MOST_SHOWN; most && ((unsigned char)text[most] & 0xC0) == 0x80;) most--;
  pu_buf_html(b, pu_str_of(text, most));
  if (most < n) pu_buf_printf(b, " … <small>(%zu bytes more)</small>", n - most);
}

static void put_bar(pu_buf *b, double share) {
  if (!isnan(share)) pu_buf_printf(b, "<i class=share style=\"width:%.1f%%\"></i>", 100 * share);
}

/* ---- scores ---- */

static bool is_first(const eval_sets *s, size_t i, const char *key) {
  for (size_t k = 0; k < i; k++)
    if (json_equal(json_object_get(s->v[k].head, key), json_object_get(s->v[i].head, key))) return false;
  return true;
}

static const eval_set *of_both(const eval_sets *s, const char *model, const char *task) {
  for (size_t i = s->n; i-- > 0;)
    if (strcmp(s->v[i].result.model, model) == 0 && strcmp(s->v[i].result.task, task) == 0) return &s->v[i];
  return NULL;
}

/* A row a task, a column a model. */
static void put_side_by_side(pu_buf *b, const eval_sets *s) {
  pu_buf_puts(b, "<h2>Models side by side</h2>\n<table><tr><th>task</th>");
  for (size_t m = 0; m < s->n; m++) {
    if (!is_first(s, m, "model")) continue;
    pu_buf_puts(b, "<th>");
    pu_buf_html(b, pu_str_c(s->v[m].result.model));
    pu_buf_puts(b, "</th>");
  }
  pu_buf_puts(b, "</tr>\n");
  for (size_t t = 0; t < s->n; t++) {
    if (!is_first(s, t, "task")) continue;
    pu_buf_puts(b, "<tr><td>");
    pu_buf_html(b, pu_str_c(s->v[t].result.task));
    pu_buf_printf(b, " <small>%s</small></td>", s->v[t].result.measure);
    for (size_t m = 0; m < s->n; m++) {
      if (!is_first(s, m, "model")) continue;
      const eval_set *x = of_both(s, s->v[m].result.model, s->v[t].result.task);
      pu_buf_puts(b, "<td>");
      if (x) put_score(b, x->result.micro, x->kind);
      pu_buf_puts(b, "</td>");
    }
    pu_buf_puts(b, "</tr>\n");
  }
  pu_buf_puts(b, "</table>\n");
}

static void put_share(pu_buf *b, int64_t n, int64_t of) {
  pu_buf_printf(b, "<td>%.1f %%</td>", of ? 100.0 * (double)n / (double)of : 0);
}

static void put_results(pu_buf *b, const eval_sets *s) {
  pu_buf_puts(b, "<h2>Scores</h2>\n<table><tr><th>model</th><th>task</th><th>measure</th><th>score</th>"
                 "<th>mean of subjects</th><th>n</th><th>unread</th><th>cut</th><th>too long</th></tr>\n");
  for (size_t i = 0; i < s->n; i++) {
    const pu_eval_result *r = &s->v[i].result;
    pu_buf_puts(b, "<tr><td>");
    pu_buf_html(b, pu_str_c(r->model));
    pu_buf_printf(b, "</td><td><a href=\"#t%zu\">", i);
    pu_buf_html(b, pu_str_c(r->task));
    pu_buf_printf(b, "</a></td><td>%s</td><td>", r->measure);
    put_score(b, r->micro, s->v[i].kind);
    pu_buf_puts(b, "</td><td>");
    if (s->v[i].kind == PU_EVAL_PERPLEXITY)
      pu_buf_printf(b, "%.4f bits a byte", r->bits_per_byte);
    else if (r->subjects > 1)
      put_score(b, r->macro, s->v[i].kind);
    pu_buf_printf(b, "</td><td>%lld</td>", (long long)r->n);
    put_share(b, r->unread, r->n);
    put_share(b, r->cut, r->n);
    put_share(b, r->too_long, r->n);
    pu_buf_puts(b, "</tr>\n");
  }
  pu_buf_puts(
      b, "</table>\n<p class=sub>Errors are standard errors: of the sample of questions, or, of a perplexity, of the "
         "windows. Unread: nothing was found in the answer; cut: it reached its limit of tokens.</p>\n");
}

/* ---- a task ---- */

static void put_rules(pu_buf *b, const eval_set *s) {
  pu_eval_result r;
  if (s->kind != PU_EVAL_CHOICE) return;
  pu_buf_puts(
      b, "<table><tr><th>compared by</th><th>score</th><th>mean of subjects</th><th style=\"width:40%\"></th></tr>\n");
  for (int i = 0; i < PU_EVAL_RULES; i++) {
    eval_tally_result(s->tally, s->kind, i, &r);
    if (isnan(r.micro.value)) continue;
    pu_buf_printf(b, "<tr><td>%s%s%s</td><td>", i == s->rule ? "<b>" : "", pu_eval_rule_names[i],
                  i == s->rule ? "</b>" : "");
    put_score(b, r.micro, s->kind);
    pu_buf_puts(b, "</td><td>");
    if (r.subjects > 1) put_score(b, r.macro, s->kind);
    pu_buf_puts(b, "</td><td>");
    put_bar(b, r.micro.value);
    pu_buf_puts(b, "</td></tr>\n");
  }
  pu_buf_puts(b, "</table>\n");
}

static void put_subjects(pu_buf *b, const eval_set *s) {
  pu_eval_result r;
  const char *name;
  if (s->result.subjects < 2) return;
  pu_buf_printf(b,
                "<details><summary>%lld subjects</summary><table><tr><th>subject</th><th>score</th><th>n</th>"
                "<th style=\"width:40%%\"></th></tr>\n",
                (long long)s->result.subjects);
  for (size_t i = 0; (name = eval_tally_subject(s->tally, i, s->kind, s->rule, &r)); i++) {
    pu_buf_puts(b, "<tr><td>");
    pu_buf_html(b, pu_str_c(name));
    pu_buf_puts(b, "</td><td>");
    put_score(b, r.micro, s->kind);
    pu_buf_printf(b, "</td><td>%lld</td><td>", (long long)r.n);
    put_bar(b, r.micro.value);
    pu_buf_puts(b, "</td></tr>\n");
  }
  pu_buf_puts(b, "</table></details>\n");
}

/* ---- samples ---- */

static void put_options(pu_buf *b, const eval_set *s, const json_t *r) {
  const json_t *options = json_object_get(r, "options"), *told = json_object_get(r, "told");
  int64_t right = json_integer_value(json_object_get(r, "right")),
          pick = json_integer_value(json_object_get(json_object_get(r, "picks"), pu_eval_rule_names[s->rule]));
  pu_buf_puts(b, "<table>");
  for (size_t i = 0; i < json_array_size(options); i++) {
    const json_t *t = json_array_get(told, i);
    pu_buf_printf(b, "<tr><td>%s%s</td><td>", (int64_t)i == right ? "✓" : "", (int64_t)i == pick ? " ◀ picked" : "");
    put_html(b, json_array_get(options, i));
    pu_buf_printf(b, "</td><td>%.3f nats, %lld tokens</td></tr>", json_number_value(json_object_get(t, "nats")),
                  (long long)json_integer_value(json_object_get(t, "tokens")));
  }
  pu_buf_puts(b, "</table>");
}

static void put_answer(pu_buf *b, const json_t *r) {
  pu_buf_puts(b, "<small>answer</small>");
  put_html(b, json_object_get(r, "text"));
  pu_buf_puts(b, "<small>found</small>");
  put_html(b, json_object_get(r, "found"));
  pu_buf_puts(b, "<small>wanted</small>");
  put_html(b, json_object_get(r, "answer"));
}

static void put_sample(pu_buf *b, const eval_set *s, const json_t *r) {
  const char *after = json_string_value(json_object_get(r, "after"));
  const json_t *before = after ? json_object_get(s->before, after) : NULL;
  pu_buf_puts(b, "<div class=sample><small>");
  put_html(b, json_object_get(r, "subject"));
  pu_buf_printf(b, " %lld</small>", (long long)json_integer_value(json_object_get(r, "number")));
  if (json_string_length(before)) {
    pu_buf_printf(b, "<details><summary>%lld examples before it</summary>",
                  (long long)json_integer_value(json_object_get(r, "shots")));
    put_html(b, before);
    pu_buf_puts(b, "</details>");
  }
  put_html(b, json_object_get(r, "question"));
  if (s->kind == PU_EVAL_CHOICE)
    put_options(b, s, r);
  else
    put_answer(b, r);
  pu_buf_puts(b, "</div>");
}

static void put_samples(pu_buf *b, const eval_set *s) {
  for (int g = 0; g < GROUPS; g++) {
    const eval_shown *x = &s->groups[g];
    if (x->n == 0) continue;
    pu_buf_printf(b, "<details><summary>%s: %lld", group_names[g], (long long)x->all);
    if (x->all > (int64_t)x->n) pu_buf_printf(b, ", %zu of them", x->n);
    pu_buf_puts(b, "</summary>");
    for (size_t i = 0; i < x->n; i++) put_sample(b, s, x->v[i]);
    pu_buf_puts(b, "</details>\n");
  }
}

static void put_task(pu_buf *b, const eval_set *s, size_t i) {
  int64_t asked = json_integer_value(json_object_get(s->head, "questions"));
  pu_buf_printf(b, "<h2 id=t%zu>", i);
  pu_buf_html(b, pu_str_c(s->result.task));
  pu_buf_puts(b, ", ");
  pu_buf_html(b, pu_str_c(s->result.model));
  pu_buf_puts(b, "</h2>\n<p class=sub>");
  put_html(b, json_object_get(s->head, "about"));
  if (s->result.n < asked)
    pu_buf_printf(b, "<br>The run is not at its end: %lld of %lld are there.", (long long)s->result.n,
                  (long long)asked);
  pu_buf_puts(b, "<br>");
  put_html(b, json_object_get(s->head, "identity"));
  pu_buf_puts(b, "</p>\n");
  if (s->kind == PU_EVAL_PERPLEXITY)
    pu_buf_printf(b, "<p>A token: %.3f; a byte: %.4f; bits a byte: %.4f.</p>\n", s->result.token_perplexity,
                  s->result.byte_perplexity, s->result.bits_per_byte);
  put_rules(b, s);
  put_subjects(b, s);
  put_samples(b, s);
}

static void put_tiles(pu_buf *b, const eval_sets *s) {
  int64_t n = 0, models = 0, tasks = 0;
  char text[24];
  for (size_t i = 0; i < s->n; i++) {
    n += s->v[i].result.n;
    models += is_first(s, i, "model");
    tasks += is_first(s, i, "task");
  }
  const int64_t values[] = {models, tasks, n};
  const char *const labels[] = {"models", "tasks", "questions and windows"};
  pu_buf_puts(b, "<div class=tiles>");
  for (size_t i = 0; i < PU_COUNT(values); i++) {
    snprintf(text, sizeof text, "%lld", (long long)values[i]);
    pu_page_tile(b, text, labels[i]);
  }
  pu_buf_puts(b, "</div>\n");
}

pu_err eval_page(const eval_sets *s, pu_buf *out, pu_error *e) {
  bool several = false;
  for (size_t i = 1; i < s->n; i++) several |= is_first(s, i, "model");
  pu_page_begin(out, pu_str_c("Evaluation"));
  pu_buf_puts(out, "<p class=sub>what models know, by what they were asked</p>\n");
  put_tiles(out, s);
  if (several) put_side_by_side(out, s);
  put_results(out, s);
  for (size_t i = 0; i < s->n; i++) put_task(out, &s->v[i], i);
  pu_page_end(out, "puyu eval report");
  return out->failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for the report") : PU_OK;
}
