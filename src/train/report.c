/* The report of a run: one HTML file without scripts or outside resources. */
#include "src/train/history.h"

#include "puyu/train.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { PAGE_MAX = 256 << 20, SAMPLES_OPEN = 6 };

static const char style[] =
    ":root{color-scheme:light dark;--bg:#fbfaf8;--card:#fff;--ink:#1f2328;--dim:#6a737d;--line:#e4e2dd;"
    "--c0:#2563c9;--c1:#d4650f;--c2:#1a8a5b;--c3:#9046b8;--c4:#b3842a;--c5:#c2355d;--c6:#3a8fa8;--c7:#6b7280}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14161a;--card:#1c1f25;--ink:#e6e7ea;--dim:#969ca6;--line:#30343c;"
    "--c0:#7aa9f7;--c1:#f2a25c;--c2:#62c795;--c3:#c896e6;--c4:#dcba6a;--c5:#f08aa5;--c6:#7fcbe0;--c7:#a7adb8}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);"
    "font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans CJK SC','PingFang SC',sans-serif}\n"
    "main{max-width:1080px;margin:0 auto;padding:28px 20px 60px}h1{font-size:1.6rem;margin:0;overflow-wrap:anywhere}"
    "h2{font-size:1.1rem;margin:36px 0 12px}.sub{color:var(--dim);margin:4px 0 22px}\n"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(46%,220px),1fr));gap:10px}"
    ".tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:11px 14px}"
    ".tile b{display:block;white-space:nowrap;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums}"
    ".tile span{color:var(--dim);font-size:.82rem}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:14px;margin-top:14px}"
    "figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 12px 6px}"
    "figcaption{display:flex;flex-wrap:wrap;gap:4px 16px;align-items:baseline;padding:0 4px 6px;font-size:.9rem}"
    "figcaption span{color:var(--dim);font-size:.82rem}figcaption i{display:inline-block;width:14px;height:3px;"
    "border-radius:2px;margin-right:6px;vertical-align:middle;background:currentColor}\n"
    "svg{display:block;width:100%;height:auto}svg "
    "text{fill:var(--dim);font-size:13px;font-variant-numeric:tabular-nums}"
    ".grid{stroke:var(--line);fill:none}polyline{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}"
    ".faint{opacity:.45;stroke-width:1}.dot{fill:currentColor}\n"
    ".c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}"
    ".c5{color:var(--c5)}.c6{color:var(--c6)}.c7{color:var(--c7)}"
    ".wide{grid-column:1/-1}#loss-narrow{display:none}\n"
    "@media(max-width:640px){#loss{display:none}#loss-narrow{display:block}main{padding:20px 12px 40px}}\n"
    ".sample{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px;margin:8px 0;"
    "white-space:pre-wrap;overflow-wrap:anywhere}.sample small{color:var(--dim);display:block}.sample "
    "b{font-weight:600}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:5px 10px 5px 0;vertical-align:top;"
    "border-bottom:1px solid var(--line);overflow-wrap:anywhere}"
    "th{color:var(--dim);font-weight:400;white-space:nowrap}\n"
    "@media(max-width:640px){td,th{padding:4px 6px 4px 0;white-space:normal}th{width:45%}}\n"
    "pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px;overflow:auto;"
    "font-size:.85rem}summary{cursor:pointer;color:var(--dim);margin:10px 0}footer{color:var(--dim);font-size:.82rem;"
    "margin-top:40px}\n";

/* ---- summary ---- */

static void tile(pu_buf *b, const char *value, const char *label) {
  pu_buf_printf(b, "<div class=tile><b>%s</b><span>%s</span></div>", value, label);
}

static void number_tile(pu_buf *b, double v, const char *format, const char *label) {
  char text[64];
  if (!isfinite(v)) return;
  if (format)
    snprintf(text, sizeof text, "%.*f%s", format[0] - '0', v, format + 1); /* digits, then the unit */
  else
    pu_train_number_text(v, text);
  tile(b, text, label);
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
  tile(b, text, "in training steps");
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
  tile(b, text, "steps");
  number_tile(b, (double)h->tokens, NULL, "tokens trained on");
  number_tile(b, pu_train_series_median(&h->rate), NULL, "tokens/s, median");
  number_tile(b, pu_train_series_median(&h->mfu), "0 %", "MFU, median");
  time_tile(b, h->seconds);
  if (h->skipped) number_tile(b, (double)h->skipped, "0", "steps skipped");
  pu_buf_puts(b, "</div>\n");
}

/* ---- curves ---- */

static void put_loss(pu_buf *b, const pu_train_history *h, const pu_train_series *smooth) {
  pu_train_chart c = {.id = "loss", .title = "Loss", .width = 1040, .height = 340, .robust = true};
  bool differ = h->loss.n >= PU_TRAIN_SMOOTH_FROM; /* otherwise two curves would lie on each other */
  c.curves[c.n++] = (pu_train_curve){.s = &h->loss, .style = differ ? "c0 faint" : "c0", .label = "each step"};
  if (differ) c.curves[c.n++] = (pu_train_curve){.s = smooth, .style = "c0", .label = "smoothed"};
  c.curves[c.n++] = (pu_train_curve){.s = &h->valid, .style = "c1", .label = "validation", .dots = true};
  pu_buf_puts(b, "<div class=wide>");
  pu_train_chart_svg(&c, b);
  c.id = "loss-narrow";
  c.width = 480;
  c.height = 300;
  pu_train_chart_svg(&c, b);
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
  } rows[] = {{"family", "model family"},
              {"parameters", "parameters"},
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
  pu_buf_puts(b, "<!doctype html><html lang=en><meta charset=utf-8>"
                 "<meta name=viewport content=\"width=device-width,initial-scale=1\"><title>");
  pu_buf_html(b, pu_str_c(run));
  pu_buf_printf(b, " · puyu</title>\n<style>%s</style>\n<main><h1>", style);
  pu_buf_html(b, pu_str_c(run));
  pu_buf_puts(b, "</h1><p class=sub>");
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
  pu_buf_puts(b, "<footer>Made by puyu report.</footer></main></html>\n");
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
