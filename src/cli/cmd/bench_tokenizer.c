/* How fast a tokenizer encodes. */
#include "puyu/text.h"
#include "src/cli/cli.h"

#include <stdlib.h>
#include <string.h>

typedef struct options {
  const char *model, *file;
  int64_t threads, runs;
  bool json;
} options;

static const pu_option rows[] = {
    {.key = "model",
     .type = PU_OPT_STR,
     .offset = offsetof(options, model),
     .meta = "PATH",
     .help = "tokenizer.model, tokenizer.json, or a directory with one of them (else one is trained on FILE)",
     .letter = 'm'},
    {.key = "file",
     .type = PU_OPT_STR,
     .offset = offsetof(options, file),
     .meta = "FILE",
     .help = "the text to encode",
     .letter = 'f',
     .required = true},
    {.key = "threads",
     .type = PU_OPT_INT,
     .offset = offsetof(options, threads),
     .dflt = "1",
     .min = 1,
     .max = 1024,
     .meta = "N",
     .help = "threads, each with an encoder of its own"},
    {.key = "runs",
     .type = PU_OPT_INT,
     .offset = offsetof(options, runs),
     .dflt = "3",
     .min = 1,
     .max = 100,
     .meta = "N",
     .help = "how often; the fastest counts"},
    {.key = "json", .type = PU_OPT_BOOL, .offset = offsetof(options, json), .help = "print one JSON object"},
    {0},
};

/* Documents of about this size, cut at line ends. */
enum { DOCUMENT = 16 << 10 };

typedef struct bench {
  const pu_tokenizer *t;
  pu_str *docs;
  size_t n_docs;
  pu_encoder **encoders; /* one a thread */
  pu_ids *ids;
  size_t *tokens;
  pu_err *errs;
} bench;

static void work(void *arg, int64_t begin, int64_t end, int worker) {
  bench *b = arg;
  pu_ids *ids = &b->ids[worker];
  for (int64_t i = begin; i < end && b->errs[worker] == PU_OK; i++) {
    ids->n = 0;
    b->errs[worker] = pu_encoder_encode(b->encoders[worker], b->docs[i], 0, ids, NULL);
    b->tokens[worker] += ids->n;
  }
}

static void cut(bench *b, pu_str text, pu_arena *a) {
  b->docs = pu_arena_alloc(a, (text.len / DOCUMENT + 1) * sizeof *b->docs);
  for (size_t i = 0; b->docs && i < text.len;) {
    size_t end = i + DOCUMENT;
    const char *line = end < text.len ? memchr(text.ptr + end, '\n', text.len - end) : NULL;
    end = line ? (size_t)(line - text.ptr) + 1 : text.len;
    b->docs[b->n_docs++] = pu_str_of(text.ptr + i, end - i);
    i = end;
  }
}

/* Each run begins with empty caches, as reading a corpus does. */
static pu_err one_run(bench *b, pu_pool *pool, double *seconds, size_t *tokens, pu_error *e) {
  int n = pu_pool_size(pool);
  pu_err err = PU_OK;
  for (int i = 0; i < n && err == PU_OK; i++) {
    b->tokens[i] = 0;
    err = pu_encoder_create(b->t, &b->encoders[i], e);
  }
  if (err == PU_OK) {
    double began = pu_now();
    pu_pool_run(pool, (int64_t)b->n_docs, 8, work, b);
    *seconds = pu_now() - began;
  }
  *tokens = 0;
  for (int i = 0; i < n; i++) {
    *tokens += b->tokens[i];
    if (err == PU_OK && b->errs[i] != PU_OK) err = pu_fail(e, b->errs[i], "a document could not be encoded");
    pu_encoder_free(b->encoders[i]);
    b->encoders[i] = NULL;
  }
  return err;
}

static void report(const pu_cli *cli, const options *o, size_t bytes, double seconds, size_t tokens) {
  double mib = (double)bytes / (1 << 20) / seconds, per_token = (double)bytes / (double)PU_MAX(tokens, 1);
  if (o->json) {
    fprintf(cli->out, "{\"bytes\": %zu, \"tokens\": %zu, \"threads\": %d, \"seconds\": %.6f, \"mib_per_s\": %.2f}\n",
            bytes, tokens, (int)o->threads, seconds, mib);
  } else {
    fprintf(cli->out, "%.1f MiB/s, %.2f M tokens/s, %.2f bytes a token, %d thread%s\n", mib,
            (double)tokens / seconds / 1e6, per_token, (int)o->threads, o->threads == 1 ? "" : "s");
  }
}

static pu_err measure(const pu_cli *cli, const options *o, bench *b, pu_pool *pool, size_t bytes, pu_error *e) {
  double best = 0;
  size_t tokens = 0;
  for (int64_t i = 0; i < o->runs; i++) {
    double seconds = 0;
    PU_TRY(one_run(b, pool, &seconds, &tokens, e));
    if (i == 0 || seconds < best) best = seconds;
  }
  report(cli, o, bytes, best, tokens);
  return PU_OK;
}

/* Without a tokenizer: one learnt from the beginning of the text. */
static pu_err train(pu_str text, pu_tokenizer **t, pu_error *e) {
  const pu_bpe_options o = {.vocab_size = 8192, .min_count = 2};
  pu_bpe_trainer *trainer = NULL;
  pu_buf json;
  pu_buf_init(&json, 64 << 20);
  pu_err err = pu_bpe_trainer_create(&o, &trainer, e);
  if (err == PU_OK) err = pu_bpe_trainer_add(trainer, pu_str_of(text.ptr, PU_MIN(text.len, (size_t)2 << 20)), e);
  if (err == PU_OK) err = pu_bpe_trainer_finish(trainer, &json, e);
  if (err == PU_OK) err = pu_tokenizer_parse_json(pu_str_of(json.data, json.len), t, e);
  pu_bpe_trainer_free(trainer);
  pu_buf_deinit(&json);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  const options *o = given;
  pu_tokenizer *t = NULL;
  pu_pool *pool = NULL;
  pu_map text = {0};
  pu_err err = pu_map_open(o->file, &text, e);
  if (err == PU_OK && text.len == 0) err = pu_fail(e, PU_ERR_USAGE, "%s: there is no text in it", o->file);
  const pu_str all = pu_str_of((const char *)text.data, text.len);
  if (err == PU_OK) err = o->model ? pu_tokenizer_load(o->model, &t, e) : train(all, &t, e);
  if (err == PU_OK) err = pu_pool_create((int)o->threads, &pool, e);
  if (err == PU_OK) {
    size_t n = (size_t)o->threads;
    bench b = {.t = t};
    b.encoders = pu_arena_zalloc(cli->arena, n * sizeof *b.encoders);
    b.ids = pu_arena_zalloc(cli->arena, n * sizeof *b.ids);
    b.tokens = pu_arena_zalloc(cli->arena, n * sizeof *b.tokens);
    b.errs = pu_arena_zalloc(cli->arena, n * sizeof *b.errs);
    cut(&b, all, cli->arena);
    bool room = b.encoders && b.ids && b.tokens && b.errs && b.docs;
    err = room ? measure(cli, o, &b, pool, text.len, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for %zu threads", n);
    for (size_t i = 0; i < n && b.ids; i++) pu_ids_deinit(&b.ids[i]);
  }
  pu_pool_free(pool);
  if (text.data) pu_map_close(&text);
  pu_tokenizer_free(t);
  return err;
}

const pu_command pu_command_bench_tokenizer = {
    .name = "bench tokenizer",
    .summary = "measure how fast a tokenizer encodes",
    .usage = "--file FILE [--model PATH] [options]",
    .details =
        "Encodes FILE in documents of 16 KiB, each run from empty caches, and prints mebibytes of text a second. "
        "Loading the tokenizer and reading the file are not counted.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
