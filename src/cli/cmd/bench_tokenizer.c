/* How fast a tokenizer encodes. */
#include "puyu/data.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"

#include <stdlib.h>
#include <string.h>

typedef struct options {
  const char *tokenizer, *file;
  int64_t threads, rounds;
  bool json;
} options;

static const pu_option rows[] = {
    PU_ROW_TOKENIZER(options, "model", 'm', false, "; without it, one is trained on the text"),
    PU_ROW(options, file, "file", STR, .meta = "FILE", .letter = 'f',
           .help = "the text to encode; without it, some is made by rules"),
    PU_ROW_ROUNDS(options, "3"),
    PU_ROW(options, threads, "threads", INT, .dflt = "1", .min = 1, .max = 1024, .meta = "N",
           .help = "threads, each with an encoder of its own"),
    PU_ROW_JSON(options),
    {0},
};

enum {
  DOCUMENT = 16 << 10,  /* documents of about this size, cut at line ends */
  MADE = 16 << 20,      /* bytes of text, where none is given */
  TRAINED_ON = 2 << 20, /* bytes of it, where no tokenizer is given */
};
static const double MARK = 30; /* MiB/s that are wanted of InternLM2's tokenizer on one core */

typedef struct bench {
  const pu_tokenizer *t;
  pu_str *docs;
  size_t n_docs;
  pu_encoder **encoders; /* one a thread */
  pu_ids *ids;
  size_t *tokens;
  size_t *characters;
  pu_err *errs;
} bench;

typedef struct result {
  double seconds, look_seconds; /* the fastest run; of one look at every character */
  size_t bytes, tokens;
} result;

static void work(void *arg, int64_t begin, int64_t end, int worker) {
  bench *b = arg;
  pu_ids *ids = &b->ids[worker];
  for (int64_t i = begin; i < end && b->errs[worker] == PU_OK; i++) {
    ids->n = 0;
    b->errs[worker] = pu_encoder_encode(b->encoders[worker], b->docs[i], 0, ids, NULL);
    b->tokens[worker] += ids->n;
  }
}

/* The limit that encoding is held against: nothing but finding where each character ends. */
static void look(void *arg, int64_t begin, int64_t end, int worker) {
  bench *b = arg;
  for (int64_t i = begin; i < end; i++) {
    pu_str s = b->docs[i];
    size_t found = 0;
    for (size_t len; s.len > 0; s = pu_str_of(s.ptr + len, s.len - len), found++) {
      uint32_t cp;
      len = pu_utf8_next(s, &cp);
      if (len == 0) len = 1; /* a byte that is no UTF-8 */
    }
    b->characters[worker] += found;
  }
}

static double time_look(bench *b, pu_pool *pool) {
  double began = pu_now();
  pu_pool_run(pool, (int64_t)b->n_docs, 8, look, b);
  return pu_now() - began;
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

static void report(const pu_cli *cli, const options *o, const result *r) {
  double mib = (double)r->bytes / (1 << 20), rate = mib / r->seconds, limit = mib / r->look_seconds;
  if (o->json) {
    fprintf(cli->out,
            "{\"bytes\": %zu, \"tokens\": %zu, \"threads\": %d, \"seconds\": %.6g, \"mib_per_s\": %.6g, "
            "\"limit\": %.6g, \"ratio\": %.4g}\n",
            r->bytes, r->tokens, (int)o->threads, r->seconds, rate, limit, rate / limit);
    return;
  }
  fprintf(cli->out, "rate   %.1f MiB/s, %.2f M tokens/s, %.2f bytes a token, %d thread%s\n", rate,
          (double)r->tokens / r->seconds / 1e6, (double)r->bytes / (double)PU_MAX(r->tokens, 1), (int)o->threads,
          o->threads == 1 ? "" : "s");
  fprintf(cli->out, "limit  %.1f MiB/s (one look at every character, same run)\nratio  %.1f %%\n", limit,
          100 * rate / limit);
  if (o->tokenizer && o->threads == 1) fprintf(cli->out, "mark   %.0f MiB/s, for InternLM2's tokenizer\n", MARK);
}

static pu_err measure(const options *o, bench *b, pu_pool *pool, result *r, pu_error *e) {
  for (int64_t i = 0; i < o->rounds; i++) {
    double seconds = 0, look_seconds = time_look(b, pool);
    PU_TRY(one_run(b, pool, &seconds, &r->tokens, e));
    if (i == 0 || seconds < r->seconds) r->seconds = seconds;
    if (i == 0 || look_seconds < r->look_seconds) r->look_seconds = look_seconds;
  }
  return PU_OK;
}

/* Without a tokenizer: one learnt from the beginning of the text. */
static pu_err train(pu_str text, pu_tokenizer **t, pu_error *e) {
  const pu_bpe_options o = {.vocab_size = 8192, .min_count = 2};
  pu_bpe_trainer *trainer = NULL;
  pu_buf json;
  pu_buf_init(&json, 64 << 20);
  pu_err err = pu_bpe_trainer_create(&o, &trainer, e);
  if (err == PU_OK) err = pu_bpe_trainer_add(trainer, pu_str_of(text.ptr, PU_MIN(text.len, (size_t)TRAINED_ON)), e);
  if (err == PU_OK) err = pu_bpe_trainer_finish(trainer, &json, e);
  if (err == PU_OK) err = pu_tokenizer_parse_json(pu_str_of(json.data, json.len), t, e);
  pu_bpe_trainer_free(trainer);
  pu_buf_deinit(&json);
  return err;
}

static pu_err add_made(void *text, const pu_synth_document *d, pu_error *e) {
  bool ok = pu_buf_append(text, d->content.ptr, d->content.len) && pu_buf_putc(text, '\n');
  return ok ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for the text");
}

/* Without a file: text made by rules. */
static pu_err make_text(pu_buf *text, pu_error *e) {
  pu_synth_options o = pu_synth_defaults();
  o.bytes = MADE;
  return pu_synth_run(&o, &(pu_synth_sink){.document = add_made, .arg = text}, e);
}

static pu_err bench_text(const pu_cli *cli, const options *o, pu_str text, const pu_tokenizer *t, pu_pool *pool,
                         pu_error *e) {
  size_t n = (size_t)o->threads;
  bench b = {.t = t};
  result r = {.bytes = text.len};
  b.encoders = pu_arena_zalloc(cli->arena, n * sizeof *b.encoders);
  b.ids = pu_arena_zalloc(cli->arena, n * sizeof *b.ids);
  b.tokens = pu_arena_zalloc(cli->arena, n * sizeof *b.tokens);
  b.characters = pu_arena_zalloc(cli->arena, n * sizeof *b.characters);
  b.errs = pu_arena_zalloc(cli->arena, n * sizeof *b.errs);
  cut(&b, text, cli->arena);
  bool room = b.encoders && b.ids && b.tokens && b.characters && b.errs && b.docs;
  pu_err err = room ? measure(o, &b, pool, &r, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for %zu threads", n);
  for (size_t i = 0; i < n && b.ids; i++) pu_ids_deinit(&b.ids[i]);
  if (err == PU_OK) report(cli, o, &r);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  const options *o = given;
  pu_tokenizer *t = NULL;
  pu_pool *pool = NULL;
  pu_map file = {0};
  pu_buf made;
  pu_buf_init(&made, 2 * (size_t)MADE);
  pu_err err = o->file ? pu_map_open(o->file, &file, e) : make_text(&made, e);
  const pu_str text = o->file ? pu_str_of((const char *)file.data, file.len) : pu_str_of(made.data, made.len);
  if (err == PU_OK && text.len == 0) err = pu_fail(e, PU_ERR_USAGE, "%s: there is no text in it", o->file);
  if (err == PU_OK) err = o->tokenizer ? pu_cli_tokenizer(o->tokenizer, &t, e) : train(text, &t, e);
  if (err == PU_OK) err = pu_pool_create((int)o->threads, &pool, e);
  if (err == PU_OK) err = bench_text(cli, o, text, t, pool, e);
  pu_pool_free(pool);
  pu_map_close(&file);
  pu_buf_deinit(&made);
  pu_tokenizer_free(t);
  return err;
}

const pu_command pu_command_bench_tokenizer = {
    .name = "bench tokenizer",
    .summary = "measure how fast a tokenizer encodes",
    .usage = "[--file FILE] [--model PATH] [options]",
    .details =
        "Encodes a text in documents of 16 KiB, each run from empty caches, and prints mebibytes of it a second, "
        "beside "
        "the rate at which the same threads look at every character once. Text made by rules repeats itself more than "
        "people do, so a FILE tells more. Loading the tokenizer and reading the file are not counted.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
