/* The report of a run: one HTML file without scripts or outside resources. */
#include "src/train/history.h"

#include "puyu/train.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { PAGE_MAX = 256 << 20, SAMPLES_OPEN = 6 };

/* ---- summary ---- */

static void number_tile(pu_buf *b, double v, const char *format, const char *label) {
  char text[64];
  if (!isfinite(v)) return;
  if (format)
    snprintf(text, sizeof text, "%.*f%s", format[0] - '0', v, format + 1); /* digits, then the unit */
  else
    pu_train_number_text(v, text);
  pu_page_tile(b, text, label);
}

static void time_tile(pu_buf *b, double seconds) {
  char text[32];
  long long s = (long long)(seconds + 0.5);
  if (s >= 3600)
    snprintf(text, sizeof text, "%lld h %02lld min", s / 3600, s / 60 % 60);
  else if (s >= 60)
    snprintf(text, sizeof text, "%lld min %02lld s", s / 60, s % 60);
  else
    snprintf(text, sizeof text, "%lld s", s);
  pu_page_tile(b, text, "in training steps");
}

static void put_tiles(pu_buf *b, const pu_train_history *h, const pu_train_series *smooth) {
  char text[64];
  int64_t planned = (int64_t)json_integer_value(json_object_get(h->facts, "steps"));
  pu_buf_puts(b, "<div class=tiles>");
  number_tile(b, pu_train_series_last(smooth), "3", "training loss, smoothed");
  number_tile(b, pu_train_series_last(&h->valid), "3", "validation loss");
  number_tile(b, exp(pu_train_series_last(&h->valid)), "2", "validation perplexity");
  if (planned > h->steps)
    snprintf(text, sizeof text, "%lld / %lld", (long long)h->steps, (long long)planned);
  else
    snprintf(text, sizeof text, "%lld", (long long)h->steps);
  pu_page_tile(b, text, "steps");
  number_tile(b, (double)h->tokens, NULL, "tokens trained on");
  number_tile(b, pu_train_series_median(&h->rate), NULL, "tokens/s, median");
  number_tile(b, pu_train_series_median(&h->mfu), "0 %", "MFU, median");
  time_tile(b, h->seconds);
  if (h->skipped) number_tile(b, (double)h->skipped, "0", "steps skipped");
  pu_buf_puts(b, "</div>\n");
}

/* ---- curves ---- */

static void put_loss_sized(pu_buf *b, const char *id, int width, int height, const pu_train_history *h,
                           const pu_train_series *smooth) {
  pu_train_chart c = {.id = id, .title = "Loss", .width = width, .height = height, .robust = true};
  bool differ = h->loss.n >= PU_TRAIN_SMOOTH_FROM; /* otherwise two curves would lie on each other */
  c.curves[c.n++] = (pu_train_curve){.s = &h->loss, .style = differ ? "c0 faint" : "c0", .label = "each step"};
  if (differ) c.curves[c.n++] = (pu_train_curve){.s = smooth, .style = "c0", .label = "smoothed"};
  c.curves[c.n++] = (pu_train_curve){.s = &h->valid, .style = "c1", .label = "validation", .dots = true};
  pu_train_chart_svg(&c, b);
}

static void put_loss(pu_buf *b, const pu_train_history *h, const pu_train_series *smooth) {
  pu_buf_puts(b, "<div class=wide>");
  put_loss_sized(b, "loss", 1040, 340, h, smooth);
  put_loss_sized(b, "loss-narrow", 480, 300, h, smooth);
  pu_buf_puts(b, "</div>");
}

static void put_curve(pu_buf *b, const char *id, const char *title, const pu_train_series *s, const char *colour,
                      bool from_zero) {
  pu_train_chart c = {.id = id, .title = title, .width = 500, .height = 230, .robust = true, .n = 1};
  c.from_zero = from_zero;
  c.curves[0] = (pu_train_curve){.s = s, .style = colour};
  pu_train_chart_svg(&c, b);
}

static pu_err put_sources(pu_buf *b, const pu_train_history *h, pu_error *e) {
  static const char *const colours[PU_TRAIN_SOURCES] = {"c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7"};
  pu_train_series smooth[PU_TRAIN_SOURCES] = {0};
  pu_train_chart c = {.id = "sources", .title = "Loss by source, smoothed", .width = 500, .height = 230};
  c.robust = true;
  bool ok = true;
  for (size_t i = 0; i < h->n_sources; i++) {
    ok = ok && pu_train_series_smooth(&h->source[i], &smooth[i]);
    c.curves[c.n++] = (pu_train_curve){.s = &smooth[i], .style = colours[i], .label = h->source_name[i]};
  }
  if (ok) pu_train_chart_svg(&c, b);
  for (size_t i = 0; i < h->n_sources; i++) pu_train_series_deinit(&smooth[i]);
  return ok ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for the curves by source");
}

static pu_err put_charts(pu_buf *b, const pu_train_history *h, const pu_train_series *smooth, pu_error *e) {
  pu_buf_puts(b, "<div class=charts>");
  put_loss(b, h, smooth);
  put_curve(b, "rate", "Learning rate", &h->lr, "c2", true);
  put_curve(b, "norm", "Gradient norm, before clipping", &h->norm, "c3", true);
  put_curve(b, "speed", "Tokens per second", &h->rate, "c6", true);
  pu_err err = PU_OK;
  if (h->n_sources)
    err = put_sources(b, h, e);
  else
    put_curve(b, "mfu", "MFU, %", &h->mfu, "c4", true);
  pu_buf_puts(b, "</div>\n");
  return err;
}

/* ---- samples, facts, configuration ---- */

static pu_str json_text(const json_t *o, const char *key) {
  const json_t *s = json_object_get(o, key);
  return json_is_string(s) ? pu_str_of(json_string_value(s), json_string_length(s)) : pu_str_of("", 0);
}

static void put_sample(pu_buf *b, const json_t *s) {
  pu_buf_printf(b, "<div class=sample><small>step %lld</small><b>",
                (long long)json_integer_value(json_object_get(s, "step")));
  pu_buf_html(b, json_text(s, "prompt"));
  pu_buf_puts(b, "</b>");
  pu_buf_html(b, json_text(s, "text"));
  pu_buf_puts(b, "</div>\n");
}

/* The newest first; most of them folded away. */
static void put_samples(pu_buf *b, const pu_train_history *h) {
  size_t n = json_array_size(h->samples);
  if (n == 0) return;
  pu_buf_puts(b, "<h2>Samples</h2>\n");
  for (size_t i = 0; i < n; i++) {
    if (i == SAMPLES_OPEN) pu_buf_printf(b, "<details><summary>%zu older ones</summary>\n", n - i);
    put_sample(b, json_array_get(h->samples, n - 1 - i));
  }
  if (n > SAMPLES_OPEN) pu_buf_puts(b, "</details>\n");
}

static void put_fact(pu_buf *b, const char *key, const json_t *value) {
  char text[32];
  pu_buf_puts(b, "<tr><th>");
  pu_buf_html(b, pu_str_c(key));
  pu_buf_puts(b, "</th><td>");
  if (json_is_string(value))
    pu_buf_html(b, pu_str_of(json_string_value(value), json_string_length(value)));
  else if (json_is_number(value))
    pu_buf_puts(b, pu_train_number_text(json_number_value(value), text));
  pu_buf_puts(b, "</td></tr>\n");
}

static void put_facts(pu_buf *b, const pu_train_history *h) {
  static const struct {
    const char *key, *label;
  } rows[] = {{"task", "task"},
              {"family", "model family"},
              {"parameters", "parameters"},
              {"adapter_parameters", "of the adapter, which alone is trained"},
              {"base", "the model's matrices meanwhile"},
              {"layers", "layers"},
              {"hidden", "hidden size"},
              {"vocab", "vocabulary"},
              {"data_tokens", "tokens in the data"},
              {"global_batch", "sequences a step"},
              {"seq_len", "tokens a sequence"},
              {"processor", "processor"},
              {"threads", "threads"},
              {"isa", "instruction set"},
              {"matrix_flops", "matrix FLOP/s (what MFU is held against)"},
              {"planned_bytes", "memory planned, bytes"},
              {"started", "started (last time)"}};
  if (!h->facts) return;
  pu_buf_puts(b, "<h2>Model, data, machine</h2>\n<table>\n");
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    const json_t *v = json_object_get(h->facts, rows[i].key);
    if (v) put_fact(b, rows[i].label, v);
  }
  pu_buf_puts(b, "</table>\n");
}

static pu_err put_page(pu_buf *b, const char *run, const pu_train_history *h, const char *extra_html, pu_error *e) {
  pu_train_series smooth = {0};
  if (!pu_train_series_smooth(&h->loss, &smooth)) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its curves", run);
  char parameters[32];
  double count = json_number_value(json_object_get(h->facts, "parameters"));
  pu_page_begin(b, pu_str_c(run));
  pu_buf_puts(b, "<p class=sub>");
  pu_buf_html(b, json_text(h->facts, "family"));
  if (count > 0) pu_buf_printf(b, " · %s parameters", pu_train_number_text(count, parameters));
  pu_buf_puts(b, " · ");
  pu_buf_html(b, json_text(h->facts, "started"));
  pu_buf_puts(b, "</p>\n");
  put_tiles(b, h, &smooth);
  if (extra_html) pu_buf_puts(b, extra_html);
  pu_buf_puts(b, "<h2>Curves</h2>\n");
  pu_err err = put_charts(b, h, &smooth, e);
  put_samples(b, h);
  put_facts(b, h);
  if (h->config.len) {
    pu_buf_puts(b, "<h2>Configuration</h2>\n<pre>");
    pu_buf_html(b, pu_str_of(h->config.data, h->config.len));
    pu_buf_puts(b, "</pre>\n");
  }
  pu_page_end(b, "puyu report");
  pu_train_series_deinit(&smooth);
  return err;
}

pu_err pu_report_write(const char *run_dir, const char *out_path, const char *extra_html, pu_error *e) {
  char path[PATH_MAX];
  if (!out_path && snprintf(path, sizeof path, "%s/report.html", run_dir) >= (int)sizeof path)
    return pu_fail(e, PU_ERR_USAGE, "%.80s…: the name of the run is too long", run_dir);
  pu_train_history h;
  pu_buf page;
  pu_buf_init(&page, PAGE_MAX);
  pu_err err = pu_train_history_read(run_dir, &h, e);
  if (err == PU_OK) err = put_page(&page, run_dir, &h, extra_html, e);
  if (err == PU_OK && page.failed)
    err = pu_fail(e, PU_ERR_NOMEM, "%s: the report is above %d bytes", run_dir, PAGE_MAX);
  if (err == PU_OK) err = pu_file_write(out_path ? out_path : path, page.data, page.len, e);
  pu_buf_deinit(&page);
  pu_train_history_close(&h);
  return err;
}

pu_err pu_report_curves(const char *run_dir, const char *id, pu_buf *out, pu_error *e) {
  char name[2][80];
  pu_train_history h;
  pu_train_series smooth = {0};
  snprintf(name[0], sizeof name[0], "%s-loss", id);
  snprintf(name[1], sizeof name[1], "%s-speed", id);
  pu_err err = pu_train_history_read(run_dir, &h, e);
  if (!err && !pu_train_series_smooth(&h.loss, &smooth))
    err = pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its curves", run_dir);
  if (!err) {
    pu_buf_puts(out, "<div class=charts>");
    put_loss_sized(out, name[0], 500, 230, &h, &smooth);
    put_curve(out, name[1], "Tokens per second", &h.rate, "c6", true);
    pu_buf_puts(out, "</div>\n");
  }
  pu_train_series_deinit(&smooth);
  pu_train_history_close(&h);
  return err;
}
