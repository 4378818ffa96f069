/* The main job, end to end: the stages in src/cli/demo/, one after the other, then a table and a report. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/cli/demo/demo.h"
#include "src/cli/rows.h"
#include "src/cli/tools.h"

typedef pu_demo_options options;

static const pu_option rows[] = {
    PU_ROW(options, text, "text", STR, .meta = "PATH",
           .help = "your own text: a file or a folder of whatever `puyu data extract` reads (text, JSON Lines, web "
                   "pages, tables, books, archives); without it, text made by rules"),
    PU_ROW(options, out, "out", STR, .dflt = "demo", .meta = "DIR", .letter = 'o',
           .help = "where everything is written; what an earlier demo left there is replaced"),
    PU_ROW(options, minutes, "minutes", FLOAT, .dflt = "12", .min = 0.05, .max = 1e4, .meta = "M",
           .help = "time for both trainings together; the rest takes two to three minutes more"),
    PU_ROW_SHAPE(options, "puyu-2m"),
    PU_ROW(options, vocab_size, "vocab-size", INT, .dflt = "2048", .min = 300, .max = 200000, .meta = "N",
           .help = "pieces of the tokenizer"),
    PU_ROW(options, megabytes, "megabytes", INT, .dflt = "24", .min = 1, .max = 4096, .meta = "N",
           .help = "size of the text made by rules"),
    PU_ROW(options, dialogues, "dialogues", INT, .dflt = "30000", .min = 200, .max = 1e7, .meta = "N",
           .help = "conversations made by rules, to fine-tune on"),
    PU_ROW(options, questions, "questions", INT, .dflt = "250", .min = 1, .max = 20000, .meta = "N",
           .help = "held-out sums that it is asked, for each range and operation"),
    PU_ROW_SEED(options, "of text, weights and sample order"),
    PU_ROW_DEVICE(options, device),
    PU_ROW_THREADS(options, 64),
    {0},
};

static const pu_demo_stage *const stages[] = {&pu_demo_corpus,        &pu_demo_data,      &pu_demo_tokenizer,
                                              &pu_demo_shards,        &pu_demo_pretrain,  &pu_demo_ask_pretrained,
                                              &pu_demo_tune,          &pu_demo_ask_tuned, &pu_demo_quantise,
                                              &pu_demo_ask_quantised, &pu_demo_serve,     &pu_demo_use_tool};

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

void pu_demo_sample(pu_buf *html, const char *prompt, pu_str text) {
  pu_log_sample(" ", prompt, text);
  pu_buf_puts(html, "<div class=sample><b>");
  pu_buf_html(html, pu_str_c(prompt));
  pu_buf_puts(html, "</b> ");
  pu_buf_html(html, text);
  pu_buf_puts(html, "</div>\n");
}

static void tiles(const pu_demo *d, pu_buf *b, double seconds) {
  char text[64];
  pu_buf_puts(b, "<div class=tiles>");
  snprintf(text, sizeof text, "%.2f M", (double)d->parameters / 1e6);
  pu_page_tile(b, text, "parameters");
  snprintf(text, sizeof text, "%.1f M", (double)(d->trained.tokens + d->tuned.tokens) / 1e6);
  pu_page_tile(b, text, "tokens trained on");
  snprintf(text, sizeof text, "%.0f", d->trained.tok_per_s);
  pu_page_tile(b, text, "tokens a second, pretraining");
  snprintf(text, sizeof text, "%.0f %%", 100.0 * d->use.helped / PU_MAX(d->use.asked, 1));
  pu_page_tile(b, text, "of large sums right with the tool");
  snprintf(text, sizeof text, "%.0f min %02d s", floor(seconds / 60), (int)fmod(seconds, 60));
  pu_page_tile(b, text, "from nothing to here");
  pu_buf_puts(b, "</div>\n");
}

static void set_table(pu_buf *html, bool *open, bool wanted) {
  if (*open != wanted) pu_buf_puts(html, wanted ? "<table>\n" : "</table>\n");
  *open = wanted;
}

/* Rows of stages that follow each other are one table. */
static pu_err parts(pu_demo *d, pu_demo_table *t, pu_error *e) {
  bool open = false;
  for (size_t i = 0; i < PU_COUNT(stages); i++) {
    const pu_demo_stage *s = stages[i];
    if (s->heading) {
      set_table(&t->html, &open, false);
      pu_buf_printf(&t->html, "<h2>%s</h2>\n<p>%s</p>\n", s->heading, s->about);
    }
    if (s->rows) {
      set_table(&t->html, &open, true);
      s->rows(d, t);
    }
    if (!s->part) continue;
    set_table(&t->html, &open, false);
    PU_TRY(s->part(d, &t->html, e));
  }
  set_table(&t->html, &open, false);
  return PU_OK;
}

static void go_on(const pu_demo *d, pu_buf *b) {
  pu_buf_puts(b, "<h2>Go on from here</h2>\n<pre>");
  const char *lines[][2] = {{"puyu chat ", d->tuned.checkpoint}, {"puyu serve ", d->quantised}};
  for (size_t i = 0; i < PU_COUNT(lines); i++) {
    pu_buf_puts(b, lines[i][0]);
    pu_buf_html(b, pu_str_c(lines[i][1]));
    pu_buf_putc(b, '\n');
  }
  pu_buf_puts(b, "</pre>\n");
}

static pu_err finish(pu_demo *d, double started, pu_error *e) {
  pu_demo_table t = {.out = d->cli->out};
  double seconds = pu_now() - started;
  pu_buf_init(&t.html, PU_BUF_MAX);
  pu_page_begin(&t.html, pu_str_c("From text to a model that uses a tool"));
  pu_buf_printf(&t.html, "<p class=sub>puyu demo · %s · %s</p>\n", d->o->shape,
                d->o->text ? "a text of one's own, conversations made by rules"
                           : "text and conversations made by rules");
  tiles(d, &t.html, seconds);
  fprintf(t.out, "\n");
  pu_buf_puts(&t.html,
              "<h2>What each step changed</h2>\n<p>The same questions each time. The sums are in nothing that it "
              "learned from; the facts are in the text, but no conversation asks for them.</p>\n");
  pu_demo_scores(d, &t);
  fprintf(t.out, "\n");
  pu_err err = parts(d, &t, e);
  go_on(d, &t.html);
  pu_page_end(&t.html, "puyu demo");
  fprintf(t.out, "  %-28s %.0f s\n", "time", seconds);
  fprintf(t.out, "  %-28s %s; of its data %s/report.html\n  %-28s puyu chat %s\n", "report", d->report, d->data,
          "talk to it", d->tuned.checkpoint);
  if (!err && t.html.failed) err = pu_fail(e, PU_ERR_NOMEM, "no memory for the report");
  if (!err) err = pu_file_write(d->report, t.html.data, t.html.len, e);
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

/* It computes only after minutes of making data. */
static pu_err check_device(const options *o, pu_error *e) {
  pu_backend *be;
  PU_TRY(pu_backend_open(o->device, 1, &be, e));
  be->close(be);
  return PU_OK;
}

static pu_err check_options(const options *o, pu_error *e) {
  if (!o->out[0]) return pu_fail(e, PU_ERR_USAGE, "--out is empty: name a folder");
  const pu_shape *shape;
  PU_TRY(pu_cli_shape(o->shape, &shape, e));
  PU_TRY(check_text(o, e));
  return check_device(o, e);
}

static pu_err prepare(pu_demo *d, pu_claim **held, pu_error *e) {
  const struct {
    char **to;
    const char *name;
  } paths[] = {{&d->raw, "raw"},
               {&d->data, "data"},
               {&d->corpus, "corpus.jsonl"},
               {&d->talks, "conversations"},
               {&d->questions, "questions"},
               {&d->tokenizer, "tokenizer"},
               {&d->shards, "shards"},
               {&d->run, "run"},
               {&d->chat, "chat"},
               {&d->quantised, "model-4bit"},
               {&d->report, "report.html"}};
  for (size_t i = 0; i < PU_COUNT(paths); i++)
    if (!(*paths[i].to = pu_path_join(d->a, d->o->out, paths[i].name)))
      return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  PU_TRY(check_options(d->o, e));
  PU_TRY(pu_cli_tool_json("calculator", d->a, &d->tool, e));
  return claim(d, held, e);
}

static pu_err run(const pu_cli *cli, const void *opt, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  pu_demo d = {.o = opt, .cli = cli, .a = cli->arena};
  pu_buf *const texts[] = {&d.samples, &d.talk, &d.curl, &d.use.transcript, &d.use.examples};
  double started = pu_now();
  pu_claim *held = NULL; /* as long as the demo runs */
  for (size_t i = 0; i < PU_COUNT(texts); i++) pu_buf_init(texts[i], PU_BUF_MAX);
  pu_signals_catch();
  pu_err err = prepare(&d, &held, e);
  for (size_t i = 0; i < PU_COUNT(stages) && !err; i++) {
    pu_log(PU_LOG_INFO, "[%zu/%zu] %s (%.0f s so far)", i + 1, PU_COUNT(stages), stages[i]->title, pu_now() - started);
    err = stages[i]->run(&d, e);
    if (!err && pu_signals_stop()) err = pu_fail(e, PU_ERR_STOPPED, "stopped by a signal");
  }
  if (!err) err = finish(&d, started, e);
  pu_claim_close(held);
  for (size_t i = 0; i < PU_COUNT(texts); i++) pu_buf_deinit(texts[i]);
  return err;
}

const pu_command pu_command_demo = {
    .name = "demo",
    .summary = "the whole chain: from text to a small chat model that is served and uses a tool",
    .usage = "[options]",
    .details = "Runs the whole chain in one go: a corpus made by rules (or your own text) and conversations,\n"
               "the data pipeline, a tokenizer, token shards, pretraining of a small InternLM2-type model,\n"
               "fine-tuning it into one that chats, the same in 4 bits, a server that curl asks, and a\n"
               "calculator that it calls. After each step it is asked the same held-out questions. Ends with\n"
               "a table and a self-contained page, OUT/report.html. Every stage is also a command of its own:\n"
               "data synth, data run, tokenizer train, data tokenize, train, eval, quantize, serve, agent.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
