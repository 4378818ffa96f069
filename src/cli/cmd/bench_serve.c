#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "puyu/serve.h"
#include "src/cli/cli.h"
#include "src/cli/load.h"
#include "src/cli/sample.h"

typedef struct options {
  const char *url, *unix_path, *ca_cert, *model, *name, *tokenizer, *trace, *rate, *input_len, *output_len;
  int64_t requests, concurrency, seed, timeout, threads, max_batch;
  pu_cli_model how;
  double memory;
  bool chat, ignore_eos, json;
} options;

static const pu_option rows[] = {
    {.key = "server", .type = PU_OPT_GROUP, .help = "who is asked"},
    PU_ROW(options, url, "url", STR, .meta = "URL",
           .help = "a server that speaks OpenAI's API, with or without /v1 at the end"),
    PU_ROW(options, unix_path, "unix", STR, .meta = "PATH", .help = "by this Unix socket; --url is http://localhost"),
    PU_ROW(options, ca_cert, "ca-cert", STR, .meta = "FILE",
           .help = "trust these certificates (PEM) with https, not the system's"),
    PU_ROW(options, model, "model", STR, .meta = "MODEL",
           .help = "instead: a model of one's own, served from inside this command"),
    PU_ROW(options, name, "name", STR, .meta = "NAME",
           .help = "what requests call the model; without it, the first that the server names"),
    PU_ROW(options, chat, "chat", BOOL, .help = "ask /v1/chat/completions, not /v1/completions"),
    {.key = "load", .type = PU_OPT_GROUP, .help = "what is asked, and how much of it at a time"},
    PU_ROW(options, requests, "requests", INT, .dflt = "128", .letter = 'n', .min = 1, .max = 1e6, .meta = "N",
           .help = "requests in all; a trace that holds fewer ends it earlier"),
    PU_ROW(options, concurrency, "concurrency", INT, .dflt = "16", .letter = 'c', .max = 1e5, .meta = "N",
           .help = "requests under way at most; 0: any number"),
    PU_ROW(options, rate, "rate", STR, .dflt = "inf", .meta = "R",
           .help = "requests a second, the times between them exponential (a Poisson process); inf: none waits"),
    PU_ROW(options, input_len, "input-len", STR, .meta = "N|A:B",
           .help = "tokens of each prompt, as many or uniform between two; without it, as in ShareGPT"),
    PU_ROW(options, output_len, "output-len", STR, .meta = "N|A:B", .help = "tokens of each answer, likewise"),
    PU_ROW(options, trace, "trace", STR, .meta = "FILE",
           .help = "ShareGPT's JSON, or JSON Lines of {\"prompt\", \"output_len\"}"),
    PU_ROW_TOKENIZER(options, "tokenizer", 0, false, ", to count and cut prompts; --model brings its own"),
    PU_ROW(options, ignore_eos, "ignore-eos", BOOL, .dflt = "true", .help = "answers have the length asked for"),
    PU_ROW(options, timeout, "timeout", INT, .dflt = "0", .max = 1e6, .meta = "SECONDS",
           .help = "a request that takes longer has failed; 0: any time"),
    PU_ROW_SEED(options, "the same seed asks the same at the same times"),
    {.key = "own", .type = PU_OPT_GROUP, .help = "with --model, as for serve"},
    PU_CLI_MODEL_ROWS(options, how),
    PU_ROW(options, max_batch, "max-batch", INT, .dflt = "16", .min = 1, .max = 4096, .meta = "N",
           .help = "answers that are computed together"),
    PU_ROW(options, memory, "memory", FLOAT, .dflt = "0", .max = 1e6, .meta = "GIB",
           .help = "GiB for weights, work and cache together; 0: nine tenths of what is free"),
    PU_ROW_THREADS(options, 64),
    PU_ROW_JSON(options),
    {0},
};

/* ---- options in words ---- */

/* "N" or "A:B". */
static pu_err read_range(const char *flag, const char *text, int64_t *min, int64_t *max, pu_error *e) {
  if (!text) return PU_OK;
  char *end;
  long long a = strtoll(text, &end, 10), b = a;
  bool good = end != text;
  if (good && *end == ':') {
    const char *second = end + 1;
    b = strtoll(second, &end, 10);
    good = end != second;
  }
  if (!good || *end || a < 1 || b < a || b > 1 << 24)
    return pu_fail(e, PU_ERR_USAGE, "%s: '%.40s' is neither a number nor a range A:B of numbers from 1", flag, text);
  *min = a;
  *max = b;
  return PU_OK;
}

static pu_err read_rate(const char *text, double *rate, pu_error *e) {
  char *end;
  *rate = strtod(text, &end);
  if (end == text || *end || !(*rate > 0))
    return pu_fail(e, PU_ERR_USAGE, "--rate: '%.40s' is neither inf nor a number of requests a second", text);
  return PU_OK;
}

/* ---- a server of one's own ---- */

typedef struct own_server {
  pu_engine *en;
  pu_server *sv;
  pthread_t thread;
  bool runs;
  pu_err err;
  pu_error why;
} own_server;

static void *serve(void *arg) {
  own_server *own = arg;
  own->err = pu_server_run(own->sv, &own->why);
  return NULL;
}

static pu_err own_open(const options *o, own_server *own, pu_error *e) {
  pu_cli_engine_options eo = {.model = o->how,
                              .threads = o->threads,
                              .batch = o->max_batch,
                              .memory = (size_t)(o->memory * 1024 * 1024 * 1024),
                              .says_plan = true};
  PU_TRY(pu_cli_open_engine(o->model, &eo, &own->en, e));
  pu_server_options so = {.model_name = o->name,
                          .max_sessions = (int)o->max_batch,
                          .max_queue = (int)PU_MAX(o->concurrency ? o->concurrency : o->requests, 1),
                          .drain_seconds = 0.1};
  PU_TRY(pu_server_open(own->en, &so, &own->sv, e));
  int bad = pthread_create(&own->thread, NULL, serve, own);
  if (bad) return pu_fail(e, PU_ERR_IO, "no thread for the server: %s", strerror(bad));
  own->runs = true;
  return PU_OK;
}

static pu_err own_close(own_server *own, pu_err err, pu_error *e) {
  if (own->runs) {
    pu_server_stop(own->sv);
    pthread_join(own->thread, NULL);
    if (!err && own->err) err = pu_fail(e, own->err, "%s", own->why.msg);
  }
  pu_server_free(own->sv);
  pu_engine_free(own->en);
  return err;
}

/* ---- the report ---- */

static const struct {
  const char *name, *key;
  size_t offset;
} tables[] = {{"TTFT", "ttft", offsetof(pu_load_result, first)},
              {"TPOT", "tpot", offsetof(pu_load_result, each)},
              {"ITL", "itl", offsetof(pu_load_result, gap)},
              {"whole", "latency", offsetof(pu_load_result, whole)}};
static const double percents[] = {0.5, 0.9, 0.99};

static double per_second(double n, const pu_load_result *r) {
  return r->seconds > 0 ? n / r->seconds : 0;
}

static void print_times(FILE *out, const char *name, const pu_load_times *t) {
  fprintf(out, "%-9s  %10.1f", name, 1e3 * pu_load_mean(t));
  for (size_t i = 0; i < PU_COUNT(percents); i++) fprintf(out, " %10.1f", 1e3 * pu_load_percentile(t, percents[i]));
  fputc('\n', out);
}

static void print_text(FILE *out, const options *o, const pu_load_result *r) {
  char at_a_time[32] = "any number";
  double done = PU_MAX((double)r->completed, 1);
  if (o->concurrency) snprintf(at_a_time, sizeof at_a_time, "%lld", (long long)o->concurrency);
  fprintf(out, "requests   %zu completed, %zu failed", r->completed, r->failed);
  if (r->unfinished) fprintf(out, ", %zu unfinished: it was stopped", r->unfinished);
  fprintf(out, "; %s at a time, rate %s, %.1f s\n", at_a_time, o->rate, r->seconds);
  fprintf(out, "rate       %.3f requests/s\n", per_second((double)r->completed, r));
  fprintf(out, "input      %.1f tokens/s, %.1f a request\n", per_second((double)r->input_tokens, r),
          (double)r->input_tokens / done);
  fprintf(out, "output     %.1f tokens/s, %.1f a request%s\n", per_second((double)r->output_tokens, r),
          (double)r->output_tokens / done, r->counted ? "" : " (chunks: the server does not count tokens)");
  if (r->completed) {
    fprintf(out, "ms         %10s %10s %10s %10s\n", "mean", "p50", "p90", "p99");
    for (size_t i = 0; i < PU_COUNT(tables); i++)
      print_times(out, tables[i].name, (const pu_load_times *)(const void *)((const char *)r + tables[i].offset));
  }
  if (r->short_answers) fprintf(out, "short      %zu answers ended before the length asked for\n", r->short_answers);
  for (size_t i = 0; i < r->n_reasons; i++) fprintf(out, "failed     %zu  %s\n", r->reasons[i].n, r->reasons[i].text);
}

static void put_number(pu_buf *b, const char *key, double v) {
  char text[32];
  pu_format_double(text, v);
  pu_buf_printf(b, "\"%s\": %s, ", key, text);
}

static void put_times(pu_buf *b, const char *key, const pu_load_times *t) {
  pu_buf_printf(b, "\"%s_ms\": {", key);
  put_number(b, "mean", 1e3 * pu_load_mean(t));
  put_number(b, "p50", 1e3 * pu_load_percentile(t, 0.5));
  put_number(b, "p90", 1e3 * pu_load_percentile(t, 0.9));
  put_number(b, "p99", 1e3 * pu_load_percentile(t, 0.99));
  pu_buf_printf(b, "\"n\": %zu}, ", t->n);
}

static pu_err print_json(FILE *out, const options *o, const pu_load_result *r, pu_error *e) {
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  pu_buf_printf(&b, "{\"bench\": \"serve\", \"concurrency\": %lld, \"rate\": ", (long long)o->concurrency);
  pu_buf_json_str(&b, pu_str_c(o->rate));
  pu_buf_printf(&b, ", \"completed\": %zu, \"failed\": %zu, \"unfinished\": %zu, \"short\": %zu, ", r->completed,
                r->failed, r->unfinished, r->short_answers);
  put_number(&b, "seconds", r->seconds);
  put_number(&b, "requests_per_s", per_second((double)r->completed, r));
  put_number(&b, "input_tokens", (double)r->input_tokens);
  put_number(&b, "output_tokens", (double)r->output_tokens);
  put_number(&b, "input_tok_per_s", per_second((double)r->input_tokens, r));
  put_number(&b, "output_tok_per_s", per_second((double)r->output_tokens, r));
  for (size_t i = 0; i < PU_COUNT(tables); i++)
    put_times(&b, tables[i].key, (const pu_load_times *)(const void *)((const char *)r + tables[i].offset));
  pu_buf_printf(&b, "\"counted\": %s, \"failures\": {", r->counted ? "true" : "false");
  for (size_t i = 0; i < r->n_reasons; i++) {
    pu_buf_puts(&b, i ? ", " : "");
    pu_buf_json_str(&b, pu_str_c(r->reasons[i].text));
    pu_buf_printf(&b, ": %zu", r->reasons[i].n);
  }
  pu_buf_puts(&b, "}}");
  pu_err err = b.failed ? pu_fail(e, PU_ERR_NOMEM, "no memory for the report") : PU_OK;
  if (!err) fprintf(out, "%s\n", b.data);
  pu_buf_deinit(&b);
  return err;
}

/* ---- the run ---- */

static void show(void *bar, size_t done, size_t failed) {
  char note[40];
  snprintf(note, sizeof note, "%zu failed", failed);
  pu_progress_set(bar, (double)done, failed ? note : NULL);
}

static pu_err make_plan(const options *o, const pu_load_lengths *lengths, const pu_tokenizer *t, pu_arena *a,
                        pu_load_plan *plan, pu_error *e) {
  if (o->trace) return pu_load_trace(o->trace, (size_t)o->requests, (uint64_t)o->seed, t, a, plan, e);
  return pu_load_random((size_t)o->requests, lengths, (uint64_t)o->seed, t, a, plan, e);
}

static pu_err measure(const pu_cli *cli, const options *o, pu_load_options *lo, pu_load_lengths *lengths,
                      const pu_tokenizer *t, pu_error *e) {
  const char *first;
  pu_load_plan plan;
  pu_load_result r;
  if (!o->name || o->model) {
    PU_TRY(pu_load_model(lo, cli->arena, &first, &lengths->most, e));
    lo->model = first;
  }
  PU_TRY(make_plan(o, lengths, t, cli->arena, &plan, e));
  pu_progress *bar = pu_progress_open("bench serve", "requests", (double)plan.n);
  lo->progress = show;
  lo->progress_arg = bar;
  pu_err err = pu_load_run(lo, &plan, &r, e);
  pu_progress_close(bar);
  if (!err && o->json) err = print_json(cli->out, o, &r, e);
  if (!err && !o->json) print_text(cli->out, o, &r);
  if (!err && r.completed == 0 && !r.unfinished)
    err = pu_fail(e, PU_ERR_IO, "no request was answered%s%s", r.n_reasons ? ": " : "",
                  r.n_reasons ? r.reasons[0].text : "");
  pu_load_result_deinit(&r);
  return err;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  const options *o = opts;
  own_server own = {0};
  pu_tokenizer *t = NULL;
  pu_load_lengths lengths = {0};
  pu_load_options lo = {.url = o->url,
                        .unix_path = o->unix_path,
                        .ca_file = o->ca_cert,
                        .api_key = o->model ? NULL : getenv("PUYU_API_KEY"),
                        .model = o->name,
                        .chat = o->chat,
                        .ignore_eos = o->ignore_eos,
                        .concurrency = o->concurrency,
                        .seconds = (double)o->timeout,
                        .seed = (uint64_t)o->seed};
  if (o->unix_path && !o->url) lo.url = "http://localhost";
  if (!lo.url == !o->model) return pu_fail(e, PU_ERR_USAGE, "give either --url or --model");
  PU_TRY(read_rate(o->rate, &lo.rate, e));
  PU_TRY(read_range("--input-len", o->input_len, &lengths.input_min, &lengths.input_max, e));
  PU_TRY(read_range("--output-len", o->output_len, &lengths.output_min, &lengths.output_max, e));
  if (o->tokenizer) PU_TRY(pu_cli_tokenizer(o->tokenizer, &t, e));
  pu_signals_catch();
  pu_err err = o->model ? own_open(o, &own, e) : PU_OK;
  if (!err && own.en && !pu_engine_tokenizer(own.en))
    err = pu_fail(e, PU_ERR_USAGE, "%s: has no tokenizer to read prompts with", o->model);
  if (own.sv) lo.url = pu_server_url(own.sv);
  if (!err) err = measure(cli, o, &lo, &lengths, own.en && !t ? pu_engine_tokenizer(own.en) : t, e);
  err = own_close(&own, err, e);
  pu_tokenizer_free(t);
  return err;
}

const pu_command pu_command_bench_serve = {
    .name = "bench serve",
    .summary = "measure a server under load",
    .usage = "--url URL | --model MODEL [options]",
    .details =
        "Asks a server many requests and takes the times as LMDeploy's and vLLM's clients do, so that its figures "
        "stand "
        "beside theirs. Any server that speaks OpenAI's API will do. A key, where one is needed, comes from the "
        "variable "
        "PUYU_API_KEY. Ctrl-C ends it early and prints what there is.\n"
        "\n"
        "TTFT: from sending a request to its first text. ITL: between two pieces of text. TPOT: from the first text to "
        "the last, by the tokens after the first. whole: to the end of the answer. Tokens are counted by the server.\n"
        "\n"
        "Without --input-len, --output-len and --trace, lengths are as in ShareGPT: log-normal, the means 161 and 338 "
        "tokens (Kwon et al. 2023, figure 11), the deviations of their logarithms 1.2 and 0.9; a prompt is cut to 1024 "
        "tokens, prompt and answer to 2048, or to the model's context where the server says it. Of ShareGPT's own "
        "file, "
        "what is longer than that or shorter than 4 tokens is passed over.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
