/* LMDeploy's static table: so many sequences at once, all of one length, read and answered together. */
#include "src/cli/bench_engine.h"

static const pu_option rows[] = {
    PU_ROW_SHAPE(pu_bench_options, "internlm2-7b"),
    PU_ROW(pu_bench_options, batch, "batch", INT, .dflt = "64", .min = 1, .max = 4096, .meta = "N",
           .help = "sequences at once at most: the table has 1, 16, 32 and so on up to it"),
    PU_ROW(pu_bench_options, seq, "seq", INT, .dflt = "0", .max = 1 << 20, .meta = "N",
           .help = "tokens of each prompt; 0: the table's 128, 2048 and 128"),
    PU_ROW(pu_bench_options, tokens, "tokens", INT, .dflt = "0", .max = 1 << 20, .meta = "N",
           .help = "tokens of each answer; 0: the table's 128, 128 and 2048"),
    PU_ROW_DTYPE(pu_bench_options, "bf16|f32", "bf16", "type to compute in"),
    PU_ROW_KV_DTYPE(pu_bench_options, kv_dtype),
    PU_BENCH_MODEL_ROWS,
    PU_ROW_ROUNDS(pu_bench_options, "1"),
    PU_ROW_DEVICE(pu_bench_options, device),
    PU_ROW_THREADS(pu_bench_options, 64),
    PU_ROW_JSON(pu_bench_options),
    {0},
};

typedef struct pair {
  int64_t prompt, answer;
} pair;

enum { WARM_TOKENS = 16 };

/* A device chooses how to compute what it has not seen yet, and keeps steps that come again: a row is not to pay for
 * what a server does once. */
static pu_err warm_up(pu_bench_engine *b, pair p, pu_error *e) {
  if (!b->be->memory) return PU_OK;
  PU_TRY(pu_bench_engine_start(b, p.prompt, PU_MIN(p.answer, WARM_TOKENS), e));
  for (bool more = true; more;) PU_TRY(pu_engine_step(b->en, &more, e));
  return PU_OK;
}

/* The best of the rounds: seconds until all have all their tokens, and until the first has its first. */
static pu_err measure(pu_bench_engine *b, const pu_bench_options *o, pair p, double *seconds, double *first,
                      pu_error *e) {
  *seconds = *first = 0;
  for (int64_t round = 0; round < o->rounds; round++) {
    double begin = pu_now(), at = 0;
    bool more = true;
    PU_TRY(pu_bench_engine_start(b, p.prompt, p.answer, e));
    while (more) {
      size_t made;
      PU_TRY(pu_engine_step(b->en, &more, e));
      (void)pu_session_answer(b->sessions[0], &made);
      if (made && !at) at = pu_now() - begin;
    }
    double all = pu_now() - begin;
    if (round && all >= *seconds) continue;
    *seconds = all;
    *first = at;
  }
  return PU_OK;
}

static void print(FILE *out, const pu_bench_options *o, const pu_bench_engine *b, pair p, double seconds,
                  double first) {
  const int64_t n = b->batch;
  double rate = (double)(n * p.answer) / seconds;
  if (o->json) {
    pu_buf text;
    pu_buf_init(&text, 1 << 16);
    pu_buf_puts(&text, "{\"bench\": \"engine\", ");
    pu_bench_model_json(o, b, &text);
    pu_buf_printf(&text,
                  ", \"concurrency\": %lld, \"prompt\": %lld, \"answer\": %lld, \"seconds\": %.6g, "
                  "\"tok_per_s\": %.6g, \"all_tok_per_s\": %.6g, \"first_s\": %.6g}\n",
                  (long long)n, (long long)p.prompt, (long long)p.answer, seconds, rate,
                  (double)(n * (p.prompt + p.answer)) / seconds, first);
    if (!text.failed) fputs(text.data, out);
    pu_buf_deinit(&text);
  } else {
    fprintf(out, "%11lld %8lld %8lld %12.1f %12.1f %10.1f\n", (long long)n, (long long)p.prompt, (long long)p.answer,
            rate, (double)(n * (p.prompt + p.answer)) / seconds, 1e3 * first);
  }
  fflush(out);
}

static pu_err table(const pu_cli *cli, const pu_bench_options *o, pu_bench_engine *b, const pair *pairs, size_t n,
                    pu_error *e) {
  char where[200];
  if (!o->json)
    fprintf(cli->out, "%s, %s, weights %s, cache %s, %s\n%11s %8s %8s %12s %12s %10s\n", o->gguf ? o->gguf : o->shape,
            pu_dtype_name(b->dtype), pu_quant_name(b->quant), pu_bench_cache(b, o), pu_bench_where(b->be, where),
            "concurrency", "prompt", "answer", "tokens/s", "with prompts", "first, ms");
  for (int64_t at_once = 1; at_once <= o->batch; at_once += at_once == 1 ? 15 : 16)
    for (size_t i = 0; i < n; i++) {
      double seconds = 0, first = 0;
      if (at_once > 16 && at_once % 32) continue; /* 1, 16, 32, 64, 96, … */
      b->batch = at_once;
      PU_TRY(warm_up(b, pairs[i], e));
      PU_TRY(measure(b, o, pairs[i], &seconds, &first, e));
      print(cli->out, o, b, pairs[i], seconds, first);
    }
  return PU_OK;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  static const pair usual[] = {{128, 128}, {2048, 128}, {128, 2048}};
  (void)n_args, (void)args;
  const pu_bench_options *o = opts;
  pu_bench_engine b;
  pair own = {o->seq ? o->seq : 128, o->tokens ? o->tokens : 128};
  bool one = o->seq || o->tokens;
  int64_t length = one ? own.prompt + own.answer : 2048 + 128;
  PU_TRY(pu_bench_engine_open(o, length + 1, false, &b, e));
  pu_err err = table(cli, o, &b, one ? &own : usual, one ? 1 : PU_COUNT(usual), e);
  b.batch = o->batch;
  pu_bench_engine_close(&b);
  return err;
}

const pu_command pu_command_bench_engine = {
    .name = "bench engine",
    .summary = "measure how many tokens a second sequences get together",
    .usage = "[options]",
    .details =
        "The table of LMDeploy's static benchmark: 1, 16, 32 and 64 sequences at once, prompts and answers of 128 "
        "and 2048 tokens, all begun together. Tokens a second are those of answers, from the first prompt's "
        "beginning to the last answer's end; on a device each row is begun once before it is measured. Random weights "
        "of a named shape, or a file's.",
    .options = rows,
    .options_size = sizeof(pu_bench_options),
    .run = run,
};
