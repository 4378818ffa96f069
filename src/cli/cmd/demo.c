/* The main job, end to end, through the same functions the separate commands use: corpus, tokenizer, shards,
 * pretraining, answers, report. Training is given minutes, not steps, so that it ends in time on any machine. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "puyu/data.h"
#include "puyu/train.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"
#include "src/cli/sample.h"
#include "src/cli/sums.h"

typedef struct options {
  const char *text, *out, *shape;
  int64_t vocab_size, megabytes, threads, seed;
  double minutes;
} options;

static const pu_option rows[] = {
    PU_ROW(options, text, "text", STR, .meta = "PATH",
           .help = "your own text: a .txt or .jsonl file (also .gz, .zst) or a folder of them; without it, text made "
                   "by rules"),
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
    PU_ROW_THREADS(options, 64),
    {0},
};

enum { SEQ_LEN = 256, BATCH = 8, STORY_TOKENS = 90 };
static const char ends[] = "demo";

typedef struct demo {
  const options *o;
  const pu_cli *cli;
  pu_arena *a;
  char *corpus, *tokenizer, *shards, *run, *report;
  pu_sum_list sums;
  uint64_t documents, corpus_bytes;
  pu_tokenize_result tokens;
  pu_train_result trained;
  int64_t parameters, vocab;
  double started;
  int lock;       /* demo.lock, as long as the demo runs; -1: none */
  pu_buf samples; /* HTML */
} demo;

static void heading(demo *d, int step, const char *what) {
  pu_log(PU_LOG_INFO, "[%d/5] %s (%.0f s so far)", step, what, pu_now() - d->started);
}

/* ---- 1: corpus ---- */

typedef struct corpus_sink {
  demo *d;
  FILE *file;
  const char *path;
  pu_buf line;
  pu_progress *bar;
} corpus_sink;

static pu_err write_document(void *arg, const pu_synth_document *doc, pu_error *e) {
  corpus_sink *s = arg;
  pu_buf_clear(&s->line);
  pu_buf_puts(&s->line, "{\"id\":");
  pu_buf_json_str(&s->line, pu_str_c(doc->id));
  pu_buf_puts(&s->line, ",\"content\":");
  pu_buf_json_str(&s->line, doc->content);
  pu_buf_puts(&s->line, "}\n");
  if (s->line.failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for a document of %zu bytes", doc->content.len);
  if (fwrite(s->line.data, 1, s->line.len, s->file) != s->line.len)
    return pu_fail(e, PU_ERR_IO, "%s: cannot write: is the disk full?", s->path);
  s->d->documents++;
  s->d->corpus_bytes += doc->content.len;
  pu_progress_set(s->bar, (double)s->d->corpus_bytes, NULL);
  return pu_signals_stop() ? pu_fail(e, PU_ERR_STOPPED, "stopped by a signal") : PU_OK;
}

static pu_err keep_question(void *arg, const pu_synth_question *q, pu_error *e) {
  return pu_sum_list_add(&((corpus_sink *)arg)->d->sums, q, e);
}

static pu_err make_corpus(demo *d, pu_error *e) {
  if (d->o->text) {
    d->corpus = (char *)(uintptr_t)d->o->text;
    return PU_OK;
  }
  heading(d, 1, "making a bilingual corpus by rules");
  corpus_sink s = {.d = d, .path = d->corpus, .file = fopen(d->corpus, "w")};
  if (!s.file) return pu_fail(e, PU_ERR_IO, "%s: cannot be written", d->corpus);
  pu_buf_init(&s.line, PU_BUF_MAX);
  pu_synth_options o = pu_synth_defaults();
  o.seed = (uint64_t)d->o->seed;
  o.documents = 0;
  o.bytes = d->o->megabytes << 20;
  o.weights[PU_SYNTH_ARITHMETIC] = 6;
  o.weights[PU_SYNTH_STORIES] = o.weights[PU_SYNTH_FACTS] = 1;
  s.bar = pu_progress_open("corpus", "bytes", (double)o.bytes);
  pu_err err = pu_synth_run(&o, &(pu_synth_sink){write_document, keep_question, &s}, e);
  pu_progress_close(s.bar);
  pu_buf_deinit(&s.line);
  if (fclose(s.file) && !err) err = pu_fail(e, PU_ERR_IO, "%s: cannot write: is the disk full?", d->corpus);
  return err;
}

/* ---- 2, 3: tokenizer, shards ---- */

static void show(void *bar, double done, double total) {
  (void)total;
  pu_progress_set(bar, done, NULL);
}

static void show_phase(void *bar, double done, double total, const char *phase) {
  pu_progress_set(bar, total > 0 ? 100 * done / total : 0, phase);
}

static pu_err count_words(demo *d, pu_bpe_trainer *t, pu_error *e) {
  pu_corpus *c;
  PU_TRY(pu_corpus_open((const char *const[]){d->corpus}, 1, PU_SPLIT_BLANK, NULL, &c, e));
  pu_progress *bar = pu_progress_open("counting words", "bytes", pu_corpus_bytes(c));
  pu_document doc;
  bool found;
  pu_err err;
  while (!(err = pu_corpus_next(c, &doc, &found, e)) && found && !(err = pu_bpe_trainer_add(t, doc.text, e)))
    pu_progress_set(bar, pu_corpus_done(c), NULL);
  pu_progress_close(bar);
  pu_corpus_close(c);
  return err;
}

static pu_err train_tokenizer(demo *d, pu_error *e) {
  heading(d, 2, "training a tokenizer");
  pu_progress *bar = pu_progress_open("merges", "%", 100);
  pu_bpe_options o = {.vocab_size = (int32_t)d->o->vocab_size,
                      .min_count = 2,
                      .split_cjk = true,
                      .progress = show_phase,
                      .progress_arg = bar};
  pu_bpe_trainer *t;
  pu_err err = pu_bpe_trainer_create(&o, &t, e);
  if (!err) {
    err = count_words(d, t, e);
    if (!err) err = pu_bpe_trainer_save(t, d->tokenizer, e);
    pu_bpe_trainer_free(t);
  }
  pu_progress_close(bar);
  return err;
}

static pu_err make_shards(demo *d, pu_error *e) {
  heading(d, 3, "turning text into token shards");
  pu_tokenizer *t;
  PU_TRY(pu_tokenizer_load(d->tokenizer, &t, e));
  d->vocab = pu_tokenizer_size(t);
  pu_corpus *c = NULL;
  pu_pool *pool = NULL;
  pu_err err = pu_pool_create((int)d->o->threads, &pool, e);
  if (!err) err = pu_corpus_open((const char *const[]){d->corpus}, 1, PU_SPLIT_BLANK, NULL, &c, e);
  if (!err) {
    pu_progress *bar = pu_progress_open("tokenizing", "bytes", pu_corpus_bytes(c));
    pu_tokenize_options o = {.tokenizer = t,
                             .pool = pool,
                             .valid_fraction = 0.02,
                             .bos = true,
                             .eos = true,
                             .progress = show,
                             .progress_arg = bar};
    err = pu_tokenize_run(c, d->shards, &o, &d->tokens, e);
    pu_progress_close(bar);
  }
  pu_corpus_close(c);
  pu_pool_free(pool);
  pu_tokenizer_free(t);
  return err;
}

/* ---- 4: pretraining ---- */

/* Text inside single quotes of YAML. */
static const char *quoted(pu_arena *a, const char *s) {
  size_t len = strlen(s);
  char *out = pu_arena_alloc(a, 2 * len + 1), *p = out;
  for (size_t i = 0; out && i < len; i++) {
    if (s[i] == '\'') *p++ = '\'';
    *p++ = s[i];
  }
  if (out) *p = 0;
  return out ? out : "";
}

static pu_err configure(demo *d, pu_train_config *cfg, pu_error *e) {
  PU_TRY(pu_options_default(pu_train_options, cfg, d->a, e));
  const struct {
    const char *key, *value;
  } settings[] = {
      {"run", d->run},
      {"model.shape", d->o->shape},
      {"model.tokenizer", d->tokenizer},
      {"model.seed", pu_arena_printf(d->a, "%lld", (long long)d->o->seed)},
      {"data.seq_len", pu_arena_printf(d->a, "%d", SEQ_LEN)},
      {"data.sources", pu_arena_printf(d->a, "[{type: shards, path: '%s/train'}]", quoted(d->a, d->shards))},
      {"train.steps", "10000"}, /* until the clock knows better */
      {"train.minutes", pu_arena_printf(d->a, "%.6g", d->o->minutes)},
      {"train.global_batch", pu_arena_printf(d->a, "%d", BATCH)},
      {"train.micro_batch", pu_arena_printf(d->a, "%d", BATCH)},
      {"train.threads", pu_arena_printf(d->a, "%lld", (long long)d->o->threads)},
      {"train.seed", pu_arena_printf(d->a, "%lld", (long long)d->o->seed)},
      /* Small steps, many of them: chosen on another held-out tenth than the one that is scored. */
      {"optim.lr", "2e-3"},
      {"optim.betas", "[0.9, 0.99]"},
      {"schedule.type", "cosine"},
      {"schedule.warmup", "100"},
      {"schedule.min_lr", "1e-4"},
      {"checkpoint.every", "2000"},
      {"checkpoint.keep", "1"},
      {"validate.every", "500"},
      {"validate.batches", "4"},
      {"validate.path", pu_arena_printf(d->a, "%s/valid", d->shards)},
  };
  /* A short text of one's own may have no paragraph to spare for validation. */
  size_t n = PU_COUNT(settings) - (d->tokens.valid_tokens < 2);
  for (size_t i = 0; i < n; i++) {
    if (!settings[i].value) return pu_fail(e, PU_ERR_NOMEM, "no memory for the configuration");
    PU_TRY(pu_options_set(pu_train_options, cfg, settings[i].key, settings[i].value, ends, d->a, e));
  }
  return PU_OK;
}

static pu_err pretrain(demo *d, pu_error *e) {
  heading(d, 4, "pretraining");
  pu_train_config cfg;
  PU_TRY(configure(d, &cfg, e));
  pu_err err = pu_train_run(&cfg, NULL, &d->trained, e);
  if (err == PU_ERR_STOPPED && d->trained.checkpoint[0])
    return pu_fail(e, err, "stopped; the model so far is %s, and another demo begins anew", d->trained.checkpoint);
  return err;
}

/* ---- 5: answers ---- */

static const char *const rule_prompts[] = {"从前有一个", "Once there", "问：37加45等于多少？答：",
                                           "Q: What is 58 - 23? A:", NULL};
static const char *const text_prompts[] = {"", "The ", "他", NULL};

static void add_sample(demo *d, const char *prompt, pu_str text) {
  pu_log(PU_LOG_INFO, "  %s|%.*s", prompt, (int)text.len, text.ptr);
  pu_buf_puts(&d->samples, "<p class=\"sample\"><b>");
  pu_buf_html(&d->samples, pu_str_c(prompt));
  pu_buf_puts(&d->samples, "</b>");
  pu_buf_html(&d->samples, text);
  pu_buf_puts(&d->samples, "</p>\n");
}

static pu_err write_samples(demo *d, pu_engine *en, pu_error *e) {
  pu_sampling how = pu_sampling_default();
  how.temperature = 0.7;
  how.top_p = 0.9;
  how.seed = (uint64_t)d->o->seed;
  how.max_tokens = STORY_TOKENS;
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_err err = PU_OK;
  for (const char *const *p = d->o->text ? text_prompts : rule_prompts; *p && !err; p++) {
    pu_buf_clear(&text);
    err = pu_cli_continue(en, *p, &how, &text, e);
    if (!err) add_sample(d, *p, pu_str_of(text.data, text.len));
  }
  pu_buf_deinit(&text);
  return err;
}

static pu_err answer(demo *d, pu_error *e) {
  heading(d, 5, "letting it answer");
  pu_engine *en;
  pu_engine_options o = {.dtype = PU_BF16, .threads = (int)d->o->threads, .context = SEQ_LEN, .max_batch = 64};
  PU_TRY(pu_engine_open(d->trained.checkpoint, &o, &en, e));
  d->parameters = pu_hparams_count(&pu_engine_model(en)->hp, false);
  pu_err err = pu_sums_ask(en, &d->sums, e);
  if (!err) err = write_samples(d, en, e);
  pu_engine_free(en);
  return err;
}

/* ---- the table and the report ---- */

typedef struct table {
  FILE *out;
  pu_buf html;
} table;

static void row(table *t, const char *label, const char *fmt, ...) PU_PRINTF(3, 4);
static void row(table *t, const char *label, const char *fmt, ...) {
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

static void sum_row(table *t, const demo *d, int within) {
  pu_sum_score s = pu_sums_score(&d->sums, within);
  if (!s.asked) return;
  char label[48];
  snprintf(label, sizeof label, "held-out sums within %d", within);
  row(t, label, "%.1f %% right (%zu of %zu)", 100.0 * (double)s.right / (double)s.asked, s.right, s.asked);
}

static pu_err finish(demo *d, pu_error *e) {
  table t = {.out = d->cli->out};
  pu_buf_init(&t.html, PU_BUF_MAX);
  pu_buf_puts(&t.html, "<h2>The demo</h2>\n<table>\n");
  fprintf(t.out, "\n");
  row(&t, "corpus", "%.1f MB, %llu documents", (double)d->tokens.bytes / 1e6, (unsigned long long)d->tokens.documents);
  row(&t, "tokenizer", "%lld tokens, %.2f bytes a token", (long long)d->vocab,
      (double)d->tokens.bytes / (double)PU_MAX(d->tokens.tokens, 1));
  row(&t, "model", "%s, %.2f M parameters", d->o->shape, (double)d->parameters / 1e6);
  row(&t, "pretraining", "%lld steps, %.1f M tokens, %.0f tokens/s", (long long)d->trained.steps,
      (double)d->trained.tokens / 1e6, d->trained.tok_per_s);
  row(&t, "training loss", "%.3f", d->trained.loss);
  if (isfinite(d->trained.valid_loss)) row(&t, "validation loss", "%.3f", d->trained.valid_loss);
  sum_row(&t, d, 100);
  sum_row(&t, d, 1000);
  row(&t, "time", "%.0f s", pu_now() - d->started);
  pu_buf_puts(&t.html, "</table>\n<h3>What it writes</h3>\n");
  pu_buf_append(&t.html, d->samples.data, d->samples.len);
  fprintf(t.out, "  %-28s %s\n  %-28s puyu chat %s\n", "report", d->report, "talk to it", d->trained.checkpoint);
  pu_err err = t.html.failed || d->samples.failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for the report") : PU_OK;
  if (!err) err = pu_report_write(d->run, d->report, t.html.data, e);
  pu_buf_deinit(&t.html);
  return err;
}

/* ---- before anything is touched ---- */

/* An earlier demo is replaced, anything else is left alone: the lock file tells which it is, and keeps a second demo
 * away while this one runs. */
static pu_err claim(demo *d, pu_error *e) {
  const char *out = d->o->out;
  char *lock = pu_path_join(d->a, out, "demo.lock"), **names;
  size_t n = 0;
  if (!lock) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  if (pu_path_is_dir(out)) PU_TRY(pu_dir_list(d->a, out, &names, &n, e));
  if (n && !pu_path_exists(lock))
    return pu_fail(e, PU_ERR_USAGE, "--out %s: what is there was not made by a demo; name an empty or a new folder",
                   out);
  PU_TRY(pu_mkdirs(out, e));
  pu_err err = pu_lock_open(lock, &d->lock, e);
  return err ? pu_fail_in(e, err, "--out %s", out) : PU_OK;
}

/* The text must survive the removal of an earlier demo. */
static pu_err check_text(const options *o, pu_error *e) {
  char text[PATH_MAX], out[PATH_MAX];
  if (!o->text) return PU_OK;
  if (!realpath(o->text, text)) return pu_fail(e, PU_ERR_USAGE, "--text %s: no such file or folder", o->text);
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

static pu_err prepare(demo *d, pu_error *e) {
  const char *out = d->o->out;
  d->corpus = pu_path_join(d->a, out, "corpus.jsonl");
  d->tokenizer = pu_path_join(d->a, out, "tokenizer");
  d->shards = pu_path_join(d->a, out, "shards");
  d->run = pu_path_join(d->a, out, "run");
  d->report = pu_path_join(d->a, out, "report.html");
  if (!d->corpus || !d->tokenizer || !d->shards || !d->run || !d->report)
    return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  PU_TRY(check_options(d->o, e));
  PU_TRY(claim(d, e));
  PU_TRY(pu_remove_tree(d->shards, e));
  PU_TRY(pu_remove_tree(d->run, e));
  return pu_mkdirs(d->tokenizer, e);
}

static pu_err run(const pu_cli *cli, const void *opt, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  demo d = {.o = opt, .cli = cli, .a = cli->arena, .sums = {.arena = cli->arena}, .lock = -1, .started = pu_now()};
  pu_buf_init(&d.samples, PU_BUF_MAX);
  pu_signals_catch();
  pu_err (*const steps[])(demo *, pu_error *) = {prepare,  make_corpus, train_tokenizer, make_shards,
                                                 pretrain, answer,      finish};
  pu_err err = PU_OK;
  for (size_t i = 0; i < PU_COUNT(steps) && !err; i++) err = steps[i](&d, e);
  pu_lock_close(d.lock);
  pu_sum_list_deinit(&d.sums);
  pu_buf_deinit(&d.samples);
  return err;
}

const pu_command pu_command_demo = {
    .name = "demo",
    .summary = "make a corpus, train a tokenizer and a small model on it, and let it answer",
    .usage = "[options]",
    .details = "Runs the whole chain in one go: a corpus made by rules (or your own text), a tokenizer,\n"
               "token shards, pretraining of a small InternLM2-type model, and answers. Ends with a\n"
               "table and a self-contained page, OUT/report.html. Every stage is also a command of its\n"
               "own: data synth, tokenizer train, data tokenize, train, generate, report.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
