/* A model's weights in few bits, and what that costs in perplexity. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/cli/cli.h"
#include "src/cli/pieces.h"
#include "src/cli/sample.h"
#include "src/cli/saving.h"

typedef struct options {
  int method;
  int64_t bits, group, calib_tokens, seed, threads;
  const char *calib, *key;
  bool sym, force, json;
} options;

enum { PIECE = 512, MOST_TEXT = 1 << 24, MOST_HELD_OUT = 1 << 14, REPORT_BYTES = 1 << 16 };
static const pu_option rows[] = {
    PU_ROW(options, method, "method", ENUM, .dflt = "awq", .choices = PU_QUANTIZERS,
           .help = "how weights are rounded: see above"),
    PU_ROW(options, bits, "bits", INT, .dflt = "0", .max = 8, .meta = "4|8",
           .help = "bits of a weight; 0: 4, or those that the method has"),
    PU_ROW(options, group, "group", INT, .dflt = "128", .min = 1, .max = 128, .meta = "32|64|128",
           .help = "weights of a row that share a scale, where not the whole row does"),
    PU_ROW(options, sym, "sym", BOOL, .help = "without zero points: as far below 0 as above"),
    PU_ROW(options, calib, "calib", STR, .meta = "FILE",
           .help = "text or JSON Lines to calibrate on; its last tenth is kept to measure perplexity by"),
    PU_ROW(options, calib_tokens, "calib-tokens", INT, .dflt = "65536", .min = 512, .max = 1 << 23, .meta = "N",
           .help = "calibrate on so many tokens, at most"),
    PU_ROW_KEY(options),
    PU_ROW_SEED(options, "which pieces of the text are taken"),
    PU_ROW_THREADS(options, 64),
    PU_ROW_FORCE(options, "replace a model in DST, its tokenizer too (never a training run)"),
    PU_ROW_JSON(options),
    {0},
};

typedef struct job {
  const options *o;
  const pu_quantize_method *method;
  const char *src, *dst;
  pu_cli_stage stage;
  pu_quantize_options how;
  pu_pieces text;
  const pu_ids_view *held_out;
  size_t n_held_out;
  pu_quantize_report report;
  double before, after; /* perplexity; 0: not measured */
  int64_t measured;     /* tokens */
  double seconds;
} job;

/* ---- the text ---- */

/* The last tenth is held out, from its end at most MOST_HELD_OUT tokens; of the rest pieces are taken in an order that
 * the seed shuffles. */
static pu_err divide(job *j, pu_error *e) {
  pu_pieces *t = &j->text;
  size_t held = PU_MAX(t->n / 10, 1), rest = t->n - held, take = 0;
  int64_t tokens = 0;
  pu_rng rng;
  if (t->n < 2)
    return pu_fail(e, PU_ERR_FORMAT, "%s: too short a text, of %zu tokens: it takes %d at least", j->o->calib, t->ids.n,
                   2 * PIECE);
  for (size_t n = 0; j->n_held_out < held && n < MOST_HELD_OUT; j->n_held_out++) n += t->v[t->n - 1 - j->n_held_out].n;
  j->held_out = t->v + t->n - j->n_held_out;
  if (!j->method->needs_texts) return PU_OK;
  pu_rng_seed(&rng, (uint64_t)j->o->seed);
  for (; take < rest && tokens < j->o->calib_tokens; take++) {
    size_t other = take + (size_t)pu_rng_below(&rng, rest - take);
    pu_ids_view keep = t->v[take];
    t->v[take] = t->v[other];
    t->v[other] = keep;
    tokens += (int64_t)t->v[take].n;
  }
  if (tokens > j->o->calib_tokens) tokens -= (int64_t)t->v[--take].n;
  j->how.calib = t->v;
  j->how.n_calib = take;
  if (tokens + PIECE < j->o->calib_tokens)
    pu_log(PU_LOG_WARN, "%s: only %lld tokens to calibrate on, where %lld were asked for", j->o->calib,
           (long long)tokens, (long long)j->o->calib_tokens);
  return PU_OK;
}

static pu_err read_text(job *j, pu_error *e) {
  pu_tokenizer *t;
  if (!j->o->calib) return PU_OK;
  PU_TRY(pu_engine_tokenizer_of(j->src, &t, e));
  if (!t) return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: no tokenizer to read %s with", j->src, j->o->calib);
  pu_err err = pu_pieces_read(j->o->calib, j->o->key, t, PIECE, MOST_TEXT, &j->text, e);
  pu_tokenizer_free(t);
  return err ? err : divide(j, e);
}

/* Of the texts held out, a few at a time, so that there is something to see and to stop. */
static pu_err score(pu_engine *en, job *j, double *out, pu_error *e) {
  enum { AT_ONCE = 8 };
  pu_progress *bar = pu_progress_open("perplexity", "pieces", (double)j->n_held_out);
  pu_err err = PU_OK;
  double nats = 0;
  j->measured = 0;
  for (size_t at = 0; at < j->n_held_out && !err; at += AT_ONCE) {
    pu_engine_score some = {0};
    size_t n = PU_MIN((size_t)AT_ONCE, j->n_held_out - at);
    err = pu_signals_stop() ? pu_fail(e, PU_ERR_STOPPED, "stopped; nothing was written")
                            : pu_engine_score_texts(en, j->held_out + at, n, &some, e);
    nats += some.nats * (double)some.tokens;
    j->measured += some.tokens;
    pu_progress_set(bar, (double)(at + n), NULL);
  }
  pu_progress_close(bar);
  *out = exp(nats / (double)PU_MAX(j->measured, 1));
  return err;
}

static pu_err perplexity(job *j, const char *model, double *out, pu_error *e) {
  pu_cli_engine_options eo = {.threads = j->o->threads, .batch = 4, .model.context = PIECE, .no_prefix_cache = true};
  pu_engine *en;
  bool f32;
  if (!j->n_held_out) return PU_OK;
  PU_TRY(pu_model_mostly_f32(j->src, &f32, e)); /* one type for both */
  eo.model.dtype = f32 ? PU_CLI_F32 : PU_CLI_BF16;
  PU_TRY(pu_cli_open_engine(model, &eo, &en, e));
  pu_err err = score(en, j, out, e);
  pu_engine_free(en);
  return err;
}

/* ---- the result ---- */

static pu_err report_json(const job *j, pu_buf *b, pu_error *e) {
  const pu_quantize_options *h = &j->how;
  int64_t tokens = 0;
  char seconds[32], bits[32], error[32], before[32], after[32];
  for (size_t i = 0; i < h->n_calib; i++) tokens += (int64_t)h->calib[i].n;
  pu_format_double(seconds, j->seconds);
  pu_format_double(bits, j->report.bits);
  pu_format_double(error, h->n_calib ? j->report.error : NAN);
  pu_format_double(before, j->n_held_out ? j->before : NAN);
  pu_format_double(after, j->n_held_out ? j->after : NAN);
  pu_buf_printf(b,
                "{\"method\": \"%s\", \"bits\": %d, \"group\": %lld, \"symmetric\": %s, \"seed\": %lld, "
                "\"calib_tokens\": %lld, \"bytes_before\": %zu, \"bytes_after\": %zu, \"weights\": %lld, "
                "\"bits_a_weight\": %s, \"output_error\": %s, \"held_out_tokens\": %lld, \"perplexity_before\": %s, "
                "\"perplexity_after\": %s, \"seconds\": %s}\n",
                h->method, h->bits, (long long)(j->method->a_row ? 0 : h->group),
                h->symmetric || j->method->a_row ? "true" : "false", (long long)j->o->seed, (long long)tokens,
                j->report.bytes_before, j->report.bytes_after, (long long)j->report.weights, bits, error,
                (long long)j->measured, before, after, seconds);
  return b->failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for the report") : PU_OK;
}

static void print(FILE *out, const job *j) {
  char before[24], after[24], weights[16], time[16];
  double was = (double)j->report.bytes_before, is = (double)j->report.bytes_after;
  fprintf(out, "%-12s %12s %12s\n", "", "before", "after");
  fprintf(out, "%-12s %12s %12s   x %.2f\n", "size", pu_bytes_text(j->report.bytes_before, before),
          pu_bytes_text(j->report.bytes_after, after), is / PU_MAX(was, 1));
  if (j->n_held_out)
    fprintf(out, "%-12s %12.4f %12.4f   %+.2f %%, over %lld tokens\n", "perplexity", j->before, j->after,
            100 * (j->after / j->before - 1), (long long)j->measured);
  fprintf(out, "%-12s %12s %12.2f   of %s weights\n", "bits each", "", j->report.bits,
          pu_short_number(weights, (double)j->report.weights));
  if (j->how.n_calib)
    fprintf(out, "%-12s %12s %12.2e   of the size of the matrices' results, squared\n", "error", "", j->report.error);
  fprintf(out, "%-12s %12s %12s\n", "time", "", pu_short_time(time, j->seconds));
}

/* The report's place is beside the weights. */
static pu_err put_report(const job *j, const pu_cli *cli, pu_error *e) {
  pu_buf b;
  const char *path = pu_path_join(cli->arena, j->stage.made, "quantize_report.json");
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", j->dst);
  pu_buf_init(&b, REPORT_BYTES);
  pu_err err = report_json(j, &b, e);
  if (!err) err = pu_file_write(path, b.data, b.len, e);
  if (!err && j->o->json) fwrite(b.data, 1, b.len, cli->out);
  if (!err && !j->o->json) print(cli->out, j);
  pu_buf_deinit(&b);
  return err;
}

/* ---- the whole ---- */

static pu_err make(job *j, const pu_cli *cli, pu_error *e) {
  double begin = pu_now();
  pu_progress *bar = pu_progress_open("quantising", "%", 100);
  j->how.progress = pu_cli_show_share;
  j->how.progress_arg = bar;
  pu_err err = pu_quantize(j->src, j->stage.made, &j->how, &j->report, e);
  pu_progress_close(bar);
  PU_TRY(err);
  j->seconds = pu_now() - begin;
  PU_TRY(pu_cli_copy_companions(j->src, j->stage.made, cli->arena, e));
  PU_TRY(perplexity(j, j->stage.made, &j->after, e));
  return put_report(j, cli, e);
}

/* Options and shapes before the text, the text before anything that takes long. */
static pu_err prepare(job *j, const pu_cli *cli, pu_error *e) {
  const options *o = j->o;
  pu_ids_view some = {0};
  if (pu_cli_is_gguf_name(j->dst))
    return pu_fail(e, PU_ERR_USAGE,
                   "%s: this writes Hugging Face directories; `puyu convert --dtype q4_0` (or q8_0) writes GGUF files",
                   j->dst);
  PU_TRY(pu_cli_check_place(j->src, j->dst, false, o->force, cli->arena, e));
  if (j->method->needs_texts && !o->calib)
    return pu_fail(e, PU_ERR_USAGE, "--method %s needs a text to calibrate on: --calib FILE", j->method->name);
  pu_quantize_options how = j->how;
  how.calib = &some;
  how.n_calib = 1;
  PU_TRY(pu_quantize_check(j->src, &how, e));
  return read_text(j, e);
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  job j = {.o = o, .method = pu_quantize_method_at((size_t)o->method), .src = args[0], .dst = args[1]};
  (void)n_args;
  j.how = (pu_quantize_options){.method = j.method->name,
                                .bits = o->bits          ? (int)o->bits
                                        : j.method->bits ? j.method->bits
                                                         : 4,
                                .group = o->group,
                                .symmetric = o->sym,
                                .threads = (int)o->threads};
  pu_err err = prepare(&j, cli, e);
  if (!err) err = perplexity(&j, j.src, &j.before, e);
  if (!err) err = pu_cli_stage_begin(&j.stage, j.dst, o->force, cli->arena, e);
  if (!err) err = pu_cli_stage_end(&j.stage, make(&j, cli, e), e);
  pu_pieces_deinit(&j.text);
  return err;
}

static void more(pu_buf *b) {
  const pu_quantize_method *m;
  pu_buf_puts(b, "Methods:\n\n");
  for (size_t i = 0; (m = pu_quantize_method_at(i)); i++) {
    pu_buf_printf(b, "    %-6s%s", m->name, m->summary);
    if (m->bits) pu_buf_printf(b, "; %d bits", m->bits);
    pu_buf_puts(b, m->needs_texts ? "\n" : "; no text needed\n");
  }
}

const pu_command pu_command_quantize = {
    .name = "quantize",
    .summary = "write a model with weights of 4 or 8 bits",
    .usage = "SRC DST [options]",
    .details = "SRC is a Hugging Face directory, plain or in FP8, DST a new one in a layout that Hugging Face, vLLM "
               "and puyu itself "
               "read: AWQ's, "
               "GPTQ's, or compressed-tensors' int8. The matrices of attention and MLPs are quantised; embedding, "
               "output, norms, "
               "biases and routers stay as they are.\n\n"
               "Layer by layer, each calibrated on what the quantised layers before it make of the text; memory is "
               "that of one "
               "layer and of the calibration's states. The last tenth of the text is not calibrated on: perplexity on "
               "it, before "
               "and after, is printed, and written with the rest of the report to DST/quantize_report.json.",
    .more = more,
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 2,
    .max_args = 2,
    .run = run,
};
