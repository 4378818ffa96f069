/* The main job, end to end: the stages in src/cli/demo/, one after the other, then a table and a report. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "src/cli/demo/demo.h"
#include "src/cli/rows.h"

typedef pu_demo_options options;

static const pu_option rows[] = {
    PU_ROW(options, text, "text", STR, .meta = "PATH",
           .help = "your own text: a file or a folder of whatever `puyu data extract` reads (text, JSON Lines, web "
                   "pages, tables, books, archives); without it, text made by rules"),
    PU_ROW(options, out, "out", STR, .dflt = "demo", .meta = "DIR", .letter = 'o',
           .help = "where everything is written; what an earlier demo left there is replaced"),
    PU_ROW(options, minutes, "minutes", FLOAT, .dflt = "8", .min = 0.05, .max = 1e4, .meta = "M",
           .help = "time for pretraining; the rest takes one to two minutes more"),
    PU_ROW_SHAPE(options, "puyu-2m"),
    PU_ROW(options, vocab_size, "vocab-size", INT, .dflt = "2048", .min = 300, .max = 200000, .meta = "N",
           .help = "pieces of the tokenizer"),
    PU_ROW(options, megabytes, "megabytes", INT, .dflt = "24", .min = 1, .max = 4096, .meta = "N",
           .help = "size of the text made by rules"),
    PU_ROW_SEED(options, "of text, weights and sample order"),
    PU_ROW_DEVICE(options, device),
    PU_ROW_THREADS(options, 64),
    {0},
};

static const pu_demo_stage *const stages[] = {&pu_demo_corpus,   &pu_demo_data,   &pu_demo_tokenizer, &pu_demo_shards,
                                              &pu_demo_pretrain, &pu_demo_answer, &pu_demo_quantise,  &pu_demo_serve};

/* ---- the table and the report ---- */

void pu_demo_row(pu_demo_table *t, const char *label, const char *fmt, ...) {
  char value[160];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(value, sizeof value, fmt, ap);
  va_end(ap);
  fprintf(t->out, "  %-28s %s\n", label, value);
  pu_buf_printf(&t->html, "<tr><th>%s</th><td>", label);
  pu_buf_html(&t->html, pu_str_c(value));
  pu_buf_puts(&t->html, "</td></tr>\n");
}

void pu_demo_sample(pu_demo *d, const char *prompt, pu_str text) {
  pu_log_sample(" ", prompt, text);
  pu_buf_puts(&d->samples, "<p class=\"sample\"><b>");
  pu_buf_html(&d->samples, pu_str_c(prompt));
  pu_buf_puts(&d->samples, "</b>");
  pu_buf_html(&d->samples, text);
  pu_buf_puts(&d->samples, "</p>\n");
}

static pu_err finish(pu_demo *d, double started, pu_error *e) {
  pu_demo_table t = {.out = d->cli->out};
  pu_buf_init(&t.html, PU_BUF_MAX);
  pu_buf_puts(&t.html, "<h2>The demo</h2>\n<table>\n");
  fprintf(t.out, "\n");
  for (size_t i = 0; i < PU_COUNT(stages); i++)
    if (stages[i]->rows) stages[i]->rows(d, &t);
  pu_demo_row(&t, "time", "%.0f s", pu_now() - started);
  pu_buf_puts(&t.html, "</table>\n<p>What became of the text, step by step: <a "
                       "href=\"data/report.html\">data/report.html</a></p>\n<h3>What it writes</h3>\n");
  pu_buf_append(&t.html, d->samples.data, d->samples.len);
  fprintf(t.out, "  %-28s %s; of its data %s/report.html\n  %-28s puyu chat %s\n", "report", d->report, d->data,
          "talk to it", d->trained.checkpoint);
  pu_err err = t.html.failed || d->samples.failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for the report") : PU_OK;
  if (!err) err = pu_report_write(d->run, d->report, t.html.data, e);
  pu_buf_deinit(&t.html);
  return err;
}

/* ---- before anything is touched ---- */

/* An earlier demo is replaced, anything else is left alone: the lock file tells which it is, and keeps a second demo
 * away while this one runs. */
static pu_err claim(pu_demo *d, pu_claim **held, pu_error *e) {
  static const char LOCK[] = "demo.lock";
  const char *out = d->o->out;
  char *lock = pu_path_join(d->a, out, LOCK), **names;
  size_t n = 0;
  if (!lock) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  if (pu_path_is_dir(out)) PU_TRY(pu_dir_list(d->a, out, &names, &n, e));
  if (n && !pu_path_exists(lock))
    return pu_fail(e, PU_ERR_USAGE, "--out %s: what is there was not made by a demo; name an empty or a new folder",
                   out);
  pu_err err = pu_claim_open(out, LOCK, held, e);
  return err ? pu_fail_in(e, err, "--out %s", out) : PU_OK;
}

/* The text must survive the removal of an earlier demo. */
static pu_err check_text(const options *o, pu_error *e) {
  char text[PATH_MAX], out[PATH_MAX];
  if (!o->text) return PU_OK;
  if (!realpath(o->text, text)) return pu_fail(e, PU_ERR_IO, "--text %s: no such file or folder", o->text);
  if (!realpath(o->out, out)) return PU_OK; /* it is not there yet */
  size_t len = strlen(out);
  if (strncmp(text, out, len) == 0 && (text[len] == '/' || !text[len]))
    return pu_fail(e, PU_ERR_USAGE, "--text %s lies in --out %s, which the demo replaces: name another --out", o->text,
                   o->out);
  return PU_OK;
}

static pu_err check_options(const options *o, pu_error *e) {
  if (!o->out[0]) return pu_fail(e, PU_ERR_USAGE, "--out is empty: name a folder");
  const pu_shape *shape;
  PU_TRY(pu_cli_shape(o->shape, &shape, e));
  return check_text(o, e);
}

static pu_err prepare(pu_demo *d, pu_claim **held, pu_error *e) {
  const char *out = d->o->out;
  d->raw = pu_path_join(d->a, out, "raw");
  d->data = pu_path_join(d->a, out, "data");
  d->corpus = pu_path_join(d->a, out, "corpus.jsonl");
  d->tokenizer = pu_path_join(d->a, out, "tokenizer");
  d->shards = pu_path_join(d->a, out, "shards");
  d->run = pu_path_join(d->a, out, "run");
  d->quantised = pu_path_join(d->a, out, "model-4bit");
  d->report = pu_path_join(d->a, out, "report.html");
  if (!d->raw || !d->data || !d->corpus || !d->tokenizer || !d->shards || !d->run || !d->quantised || !d->report)
    return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  PU_TRY(check_options(d->o, e));
  return claim(d, held, e);
}

static pu_err run(const pu_cli *cli, const void *opt, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  pu_demo d = {.o = opt, .cli = cli, .a = cli->arena, .sums = {.arena = cli->arena}};
  double started = pu_now();
  pu_claim *held = NULL; /* as long as the demo runs */
  pu_buf_init(&d.samples, PU_BUF_MAX);
  pu_signals_catch();
  pu_err err = prepare(&d, &held, e);
  for (size_t i = 0; i < PU_COUNT(stages) && !err; i++) {
    pu_log(PU_LOG_INFO, "[%zu/%zu] %s (%.0f s so far)", i + 1, PU_COUNT(stages), stages[i]->title, pu_now() - started);
    err = stages[i]->run(&d, e);
    if (!err && pu_signals_stop()) err = pu_fail(e, PU_ERR_STOPPED, "stopped by a signal");
  }
  if (!err) err = finish(&d, started, e);
  pu_claim_close(held);
  pu_sum_list_deinit(&d.sums);
  pu_buf_deinit(&d.samples);
  return err;
}

const pu_command pu_command_demo = {
    .name = "demo",
    .summary = "make a corpus, train a tokenizer and a small model on it, and let it answer",
    .usage = "[options]",
    .details = "Runs the whole chain in one go: a corpus made by rules (or your own text), the data pipeline,\n"
               "a tokenizer, token shards, pretraining of a small InternLM2-type model, answers, the same\n"
               "model in 4 bits, and a server that curl asks. Ends with a table and a self-contained page,\n"
               "OUT/report.html. Every stage is also a command of its own: data synth, data run, tokenizer\n"
               "train, data tokenize, train, generate, quantize, serve, report.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
