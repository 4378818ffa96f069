/* The report of a pipeline: what came in, what each rule took, what is left; one HTML file. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/clean.h"

enum { PAGE_MAX = 256 << 20, RULES_SHOWN = 40, SHARES_SHOWN = 24 };

static void put_text(pu_buf *b, const json_t *s) {
  pu_buf_html(b, pu_str_of(json_string_value(s), json_string_length(s)));
}

static const json_t *counts_of(const pu_stage *s) {
  return json_object_get(pu_stage_about(s), "counts");
}

static int64_t count(const pu_stage *s, const char *key) {
  return json_integer_value(json_object_get(counts_of(s), key));
}

static const char *grouped(int64_t n, char text[32]) {
  char plain[24];
  int len = snprintf(plain, sizeof plain, "%lld", (long long)n), at = 0;
  for (int i = 0; i < len; i++) {
    if (i > 0 && (len - i) % 3 == 0 && plain[i - 1] != '-') text[at++] = ',';
    text[at++] = plain[i];
  }
  text[at] = '\0';
  return text;
}

/* ---- the funnel ---- */

static const char *step_of(const pu_stage *s) {
  const char *step = json_string_value(json_object_get(pu_stage_about(s), "step"));
  return step ? step : "";
}

/* Its step and its folder's name: two filterings are both called "clean". */
static void put_name(pu_buf *b, const pu_stage *s) {
  const char *dir = pu_stage_dir(s), *slash = strrchr(dir, '/');
  pu_buf_html(b, pu_str_c(step_of(s)));
  pu_buf_puts(b, " <small>");
  pu_buf_html(b, pu_str_c(slash && slash[1] ? slash + 1 : dir));
  pu_buf_puts(b, "</small>");
}

/* Does the stage take documents away, and nothing else? Mixtures repeat and join them. */
static bool narrows(const pu_stage *s) {
  return strcmp(step_of(s), "mix") != 0 && strcmp(step_of(s), "tokenize") != 0;
}

static void put_funnel(pu_buf *b, pu_stage *const *v, size_t n) {
  char in[32], out[32], left[32];
  int64_t first = PU_MAX((int64_t)1, count(v[0], "documents"));
  pu_buf_puts(b, "<h2>Funnel</h2>\n<table><tr><th>step</th><th>documents in</th><th>dropped</th><th>left</th>"
                 "<th>tokens</th><th style=\"width:40%\"></th></tr>\n");
  for (size_t i = 0; i < n; i++) {
    int64_t seen = count(v[i], "documents"), dropped = count(v[i], "dropped"), tokens = count(v[i], "tokens");
    pu_buf_puts(b, "<tr><td>");
    put_name(b, v[i]);
    pu_buf_printf(b, "</td><td>%s</td><td>%s</td><td>%s</td>", grouped(seen, in), grouped(dropped, out),
                  grouped(seen - dropped, left));
    pu_buf_printf(b, "<td>%s</td><td>", tokens ? grouped(tokens, in) : "");
    if (narrows(v[i]))
      pu_buf_printf(b, "<i class=share style=\"width:%.1f%%\"></i>", 100.0 * (double)(seen - dropped) / (double)first);
    pu_buf_puts(b, "</td></tr>\n");
  }
  pu_buf_puts(b, "</table>\n");
}

static void put_tiles(pu_buf *b, pu_stage *const *v, size_t n) {
  char text[32];
  int64_t first = count(v[0], "documents"), left = first, skipped = 0, tokens = 0;
  for (size_t i = 0; i < n; i++) {
    skipped += count(v[i], "skipped");
    tokens += count(v[i], "tokens");
    if (narrows(v[i])) left = count(v[i], "documents") - count(v[i], "dropped");
  }
  pu_buf_puts(b, "<div class=tiles>");
  pu_page_tile(b, grouped(first, text), "documents read");
  pu_page_tile(b, pu_bytes_text((size_t)count(v[0], "bytes"), text), "of text");
  pu_page_tile(b, grouped(left, text), "documents left");
  snprintf(text, sizeof text, "%.1f %%", first ? 100.0 * (double)left / (double)first : 0);
  pu_page_tile(b, text, "of the documents stay");
  pu_page_tile(b, grouped(skipped, text), "broken records skipped");
  if (tokens > 0) pu_page_tile(b, grouped(tokens, text), "tokens in shards");
  pu_buf_puts(b, "</div>\n");
}

/* ---- rules, with samples of what they dropped ---- */

static void put_samples(pu_buf *b, const json_t *samples) {
  size_t i;
  const json_t *s;
  if (json_array_size(samples) == 0) return;
  pu_buf_puts(b, "<details><summary>samples</summary>");
  json_array_foreach((json_t *)samples, i, s) {
    const json_t *value = json_object_get(s, "value");
    pu_buf_puts(b, "<div class=sample><small>");
    put_text(b, json_object_get(s, "id"));
    if (json_is_number(value)) pu_buf_printf(b, " · %.4g", json_number_value(value));
    pu_buf_puts(b, "</small>");
    put_text(b, json_object_get(s, "text"));
    pu_buf_puts(b, "</div>");
  }
  pu_buf_puts(b, "</details>");
}

typedef struct rule_row {
  const char *name;
  int64_t n;
} rule_row;

static int most_first(const void *a, const void *b) {
  const rule_row *x = a, *y = b;
  return x->n == y->n ? strcmp(x->name, y->name) : x->n < y->n ? 1 : -1;
}

/* The numbers of {"NAME": n}, the largest first; the caller's. NULL: there are none. */
static rule_row *sorted(const json_t *all, size_t *n) {
  const char *name;
  const json_t *v;
  *n = 0;
  rule_row *rows = json_object_size(all) > 0 ? calloc(json_object_size(all), sizeof *rows) : NULL;
  if (!rows) return NULL;
  json_object_foreach((json_t *)all, name, v) rows[(*n)++] = (rule_row){name, json_integer_value(v)};
  qsort(rows, *n, sizeof *rows, most_first);
  return rows;
}

static void put_rules(pu_buf *b, const pu_stage *s) {
  char text[32];
  size_t n;
  rule_row *rows = sorted(json_object_get(counts_of(s), "rules"), &n);
  if (!rows) return;
  pu_buf_puts(b, "<table><tr><th>rule</th><th>documents dropped</th><th style=\"width:60%\"></th></tr>\n");
  for (size_t i = 0; i < PU_MIN(n, (size_t)RULES_SHOWN); i++) {
    pu_buf_puts(b, "<tr><td>");
    pu_buf_html(b, pu_str_c(rows[i].name));
    pu_buf_printf(b, "</td><td>%s</td><td>", grouped(rows[i].n, text));
    put_samples(b, json_object_get(json_object_get(counts_of(s), "samples"), rows[i].name));
    pu_buf_puts(b, "</td></tr>\n");
  }
  pu_buf_puts(b, "</table>\n");
  free(rows);
}

/* Why records were skipped. */
static void put_skips(pu_buf *b, const pu_stage *s) {
  char text[32];
  size_t n;
  rule_row *rows = sorted(json_object_get(counts_of(s), "reasons"), &n);
  if (!rows) return;
  pu_buf_puts(b, "<h2>Skipped</h2>\n<p class=sub>File and place of each are in the stage's *.skips.jsonl.zst.</p>\n"
                 "<table><tr><th>why</th><th>records</th></tr>\n");
  for (size_t i = 0; i < PU_MIN(n, (size_t)RULES_SHOWN); i++) {
    pu_buf_puts(b, "<tr><td>");
    pu_buf_html(b, pu_str_c(rows[i].name));
    pu_buf_printf(b, "</td><td>%s</td></tr>\n", grouped(rows[i].n, text));
  }
  pu_buf_puts(b, "</table>\n");
  free(rows);
}

/* ---- histograms ---- */

static const char *bound_text(double v, char text[32]) {
  if (isfinite(v))
    snprintf(text, 32, "%.4g", v);
  else
    snprintf(text, 32, "none");
  return text;
}

static void put_histogram(pu_buf *b, const char *name, const pu_measure *m, const pu_bound *bound, const json_t *bins) {
  int64_t most = 0, total = 0;
  char low[32], high[32];
  for (int i = 0; i < PU_BINS; i++) {
    int64_t n = json_integer_value(json_array_get(bins, (size_t)i));
    most = PU_MAX(most, n);
    total += n;
  }
  if (total == 0) return;
  pu_buf_puts(b, "<figure><figcaption>");
  pu_buf_html(b, pu_str_c(name));
  pu_buf_printf(b, "<span>from %s to %s</span></figcaption><div class=bars>", bound_text(bound->min, low),
                bound_text(bound->max, high));
  for (int i = 0; i < PU_BINS; i++) {
    int64_t n = json_integer_value(json_array_get(bins, (size_t)i));
    double start = pu_measure_bin_start(m, i), end = pu_measure_bin_start(m, i + 1);
    bool out = (i + 1 < PU_BINS ? end <= bound->min : end < bound->min) || (start > bound->max && start > 0) ||
               (start >= bound->max && bound->max > 0);
    pu_buf_printf(b, "<i%s style=\"height:%.1f%%\" title=\"%.3g–%.3g: %lld\"></i>", out ? " class=out" : "",
                  100.0 * (double)n / (double)most, start, end, (long long)n);
  }
  pu_buf_puts(b, "</div><p class=sub style=\"margin:6px 4px;font-size:.82rem\">");
  pu_buf_html(b, pu_str_c(m->help));
  pu_buf_puts(b, "</p></figure>\n");
}

static pu_err put_histograms(pu_buf *b, const pu_stage *s, pu_error *e) {
  const json_t *all = json_object_get(counts_of(s), "histograms"),
               *options = json_object_get(pu_stage_about(s), "options"), *filters = json_object_get(options, "filters"),
               *bounds = json_object_get(options, "bounds");
  if (json_object_size(all) == 0) return PU_OK;
  pu_filter_set *set = malloc(sizeof *set);
  const char **v = calloc(json_array_size(filters) + json_array_size(bounds) + 1, sizeof *v);
  pu_err err = set && v ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "report: no memory");
  for (size_t i = 0; err == PU_OK && i < json_array_size(filters); i++)
    v[i] = json_string_value(json_array_get(filters, i));
  for (size_t i = 0; err == PU_OK && i < json_array_size(bounds); i++)
    v[json_array_size(filters) + i] = json_string_value(json_array_get(bounds, i));
  if (err == PU_OK)
    err = pu_filter_set_make(&(pu_strs){v, json_array_size(filters)},
                             &(pu_strs){v + json_array_size(filters), json_array_size(bounds)}, set, e);
  if (err == PU_OK) {
    pu_buf_puts(b, "<h2>Measures</h2><p class=sub>Documents by value; red: out of bounds.</p>\n<div class=charts>");
    for (size_t f = 0; f < set->n; f++)
      for (int i = 0; set->v[f]->measures[i].name; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s.%s", set->v[f]->name, set->v[f]->measures[i].name);
        put_histogram(b, name, &set->v[f]->measures[i], &set->bounds[f][i], json_object_get(all, name));
      }
    pu_buf_puts(b, "</div>\n");
  }
  free(v);
  free(set);
  return err;
}

/* ---- shares ---- */

static void put_share(pu_buf *b, const json_t *rows, const char *title) {
  const char *name;
  const json_t *row;
  char docs[32], kept[32];
  size_t shown = 0;
  double total = 0;
  if (json_object_size(rows) == 0) return;
  json_object_foreach((json_t *)rows, name, row) total += json_number_value(json_array_get(row, 3));
  pu_buf_printf(b,
                "<h2>%s</h2>\n<table><tr><th></th><th>documents in</th><th>left</th><th>share of the text left</th>"
                "<th style=\"width:30%%\"></th></tr>\n",
                title);
  json_object_foreach((json_t *)rows, name, row) {
    if (shown++ == SHARES_SHOWN) break;
    double share = total > 0 ? 100.0 * json_number_value(json_array_get(row, 3)) / total : 0;
    pu_buf_puts(b, "<tr><td>");
    pu_buf_html(b, pu_str_c(name));
    pu_buf_printf(
        b, "</td><td>%s</td><td>%s</td><td>%.1f %%</td><td><i class=share style=\"width:%.1f%%\"></i></td></tr>\n",
        grouped(json_integer_value(json_array_get(row, 0)), docs),
        grouped(json_integer_value(json_array_get(row, 2)), kept), share, share);
  }
  pu_buf_puts(b, "</table>\n");
}

static void put_shares(pu_buf *b, const pu_stage *s) {
  put_share(b, pu_stage_shares(s, "source"), "Sources");
  put_share(b, pu_stage_shares(s, "lang"), "Languages");
  put_share(b, pu_stage_shares(s, "type"), "Kinds of text");
}

/* Of a mixture: how often each source comes. */
static void put_mixture(pu_buf *b, const pu_stage *s) {
  const json_t *options = json_object_get(pu_stage_about(s), "options"), *mix = json_object_get(options, "mix"), *row;
  const json_t *sources = json_object_get(mix ? mix : options, "sources");
  char docs[32], bytes[32];
  size_t i;
  if (!mix && strcmp(step_of(s), "mix") != 0) return; /* of a mixture, or of its shards */
  pu_buf_puts(b, "<h2>Mixture</h2>\n<table><tr><th>source</th><th>documents</th><th>text</th><th>passes</th></tr>\n");
  json_array_foreach((json_t *)sources, i, row) {
    pu_buf_puts(b, "<tr><td>");
    put_text(b, json_object_get(row, "source"));
    pu_buf_printf(b, "</td><td>%s</td><td>%s</td><td>%.2f</td></tr>\n",
                  grouped(json_integer_value(json_object_get(row, "documents")), docs),
                  pu_bytes_text((size_t)json_integer_value(json_object_get(row, "bytes")), bytes),
                  json_number_value(json_object_get(row, "passes")));
  }
  pu_buf_puts(b, "</table>\n");
}

/* Of a decontamination: the evaluation sets that were touched, the most touched first, and some of what touched them.
 */
static void put_touches(pu_buf *b, const json_t *touches) {
  size_t i;
  const json_t *s;
  if (json_array_size(touches) == 0) return;
  pu_buf_puts(b, "<details><summary>what touched what</summary>");
  json_array_foreach((json_t *)touches, i, s) {
    pu_buf_puts(b, "<div class=sample><small>");
    put_text(b, json_object_get(s, "id"));
    pu_buf_puts(b, " · ");
    put_text(b, json_object_get(s, "file"));
    pu_buf_printf(b, ":%lld ", (long long)json_integer_value(json_object_get(s, "number")));
    put_text(b, json_object_get(s, "field"));
    pu_buf_puts(b, " · ");
    put_text(b, json_object_get(s, "by"));
    pu_buf_printf(b, " %.3g</small>", json_number_value(json_object_get(s, "share")));
    put_text(b, json_object_get(s, "ngram"));
    pu_buf_puts(b, "</div>");
  }
  pu_buf_puts(b, "</details>\n");
}

static void put_touched_rows(pu_buf *b, const json_t *touched, const json_t *sets, rule_row *rows) {
  const char *name;
  const json_t *v, *documents;
  char text[3][32];
  size_t n = 0;
  json_object_foreach((json_t *)touched, name, v) rows[n++] = (rule_row){name, (int64_t)json_object_size(v)};
  if (n > 0) qsort(rows, n, sizeof *rows, most_first);
  for (size_t i = 0; i < PU_MIN(n, (size_t)RULES_SHOWN); i++) {
    int64_t sum = 0;
    json_object_foreach(json_object_get(touched, rows[i].name), name, documents) sum += json_integer_value(documents);
    pu_buf_puts(b, "<tr><td>");
    pu_buf_html(b, pu_str_c(rows[i].name));
    pu_buf_printf(b, "</td><td>%s</td><td>%s</td><td>%s</td></tr>\n",
                  grouped(json_integer_value(json_object_get(sets, rows[i].name)), text[0]),
                  grouped(rows[i].n, text[1]), grouped(sum, text[2]));
  }
  if (n > RULES_SHOWN) pu_buf_printf(b, "<tr><td>and %zu more</td></tr>\n", n - RULES_SHOWN);
}

static void put_contamination(pu_buf *b, const pu_stage *s) {
  const json_t *options = json_object_get(pu_stage_about(s), "options"), *sets = json_object_get(options, "sets"),
               *touched = json_object_get(counts_of(s), "touched");
  char text[3][32];
  if (strcmp(step_of(s), "decontaminate") != 0) return;
  rule_row *rows = calloc(json_object_size(touched) + 1, sizeof *rows);
  if (!rows) return;
  pu_buf_printf(b,
                "<h2>Evaluation sets</h2>\n<p class=sub>%s items in %s files were looked for; %s documents touch "
                "some of them. All are in contam.jsonl beside the stage.</p>\n",
                grouped(json_integer_value(json_object_get(options, "items")), text[0]),
                grouped((int64_t)json_object_size(sets), text[1]), grouped(count(s, "touching"), text[2]));
  if (json_object_size(touched) > 0) {
    pu_buf_puts(b, "<table><tr><th>set</th><th>records</th><th>touched</th><th>touches</th></tr>\n");
    put_touched_rows(b, touched, sets, rows);
    pu_buf_puts(b, "</table>\n");
  }
  put_touches(b, json_object_get(counts_of(s), "touches"));
  free(rows);
}

static void put_options(pu_buf *b, const pu_stage *s) {
  char *text = json_dumps(json_object_get(pu_stage_about(s), "options"), JSON_INDENT(2));
  pu_buf_puts(b, "<details><summary>options</summary><pre>");
  pu_buf_html(b, pu_str_c(text ? text : ""));
  pu_buf_puts(b, "</pre></details>\n");
  free(text);
}

static pu_err put_page(pu_buf *b, const char *title, pu_stage *const *v, size_t n, pu_error *e) {
  pu_page_begin(b, pu_str_c(title));
  pu_buf_puts(b, "<p class=sub>from raw text to what is kept</p>\n");
  put_tiles(b, v, n);
  put_funnel(b, v, n);
  for (size_t i = 0; i < n; i++) {
    pu_buf_puts(b, "<h2>Step: ");
    put_name(b, v[i]);
    pu_buf_puts(b, "</h2>\n");
    put_rules(b, v[i]);
    put_skips(b, v[i]);
    PU_TRY(put_histograms(b, v[i], e));
    put_mixture(b, v[i]);
    put_contamination(b, v[i]);
    put_shares(b, v[i]);
    put_options(b, v[i]);
  }
  pu_page_end(b, "puyu data report");
  return b->failed ? pu_fail(e, PU_ERR_NOMEM, "%s: the report is above %d bytes", title, PAGE_MAX) : PU_OK;
}

pu_err pu_data_report(const char *title, const char *const *stages, size_t n, const char *path, pu_error *e) {
  pu_stage **v = calloc(n + 1, sizeof *v);
  pu_buf page;
  pu_buf_init(&page, PAGE_MAX);
  pu_err err = v ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "report: no memory");
  for (size_t i = 0; err == PU_OK && i < n; i++) err = pu_stage_open(stages[i], &v[i], e);
  if (err == PU_OK) err = put_page(&page, title, v, n, e);
  if (err == PU_OK) err = pu_file_write(path, page.data, page.len, e);
  for (size_t i = 0; v && i < n; i++) pu_stage_close(v[i]);
  free(v);
  pu_buf_deinit(&page);
  return err;
}
