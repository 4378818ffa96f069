#include "src/cli/bench_engine.h"

static const pu_option rows[] = {
    PU_BENCH_ROWS("128"),
    PU_ROW(pu_bench_options, tokens, "tokens", INT, .dflt = "24", .min = 1, .max = 1 << 20, .meta = "N",
           .help = "tokens generated for each sequence and round"),
    PU_ROW(pu_bench_options, repetition, "repetition-penalty", FLOAT, .dflt = "1", .min = 0.01, .max = 100, .meta = "R",
           .help = "of each sequence: above 1: tokens seen before are less likely"),
    {0},
};

enum { LIMIT_PASSES = 6 };

/* What a step reads: every matrix once, and the cache of each sequence, of this length on average. */
static double step_bytes(const pu_bench_engine *b, pu_kv_type type, double length) {
  const pu_hparams *hp = &b->m->hp;
  if (hp->window) length = PU_MIN(length, (double)hp->window);
  const pu_kv_format f = pu_kv_format_of(type, b->m->dtype, hp->head_dim);
  double token = (double)hp->layers * (double)pu_kv_token_bytes(f, hp->kv_heads, hp->head_dim);
  return (double)b->matrix_bytes + (double)b->batch * length * token;
}

static pu_err raise_limit(const pu_bench_engine *b, double *limit, pu_error *e) {
  pu_limits l = {0};
  PU_TRY(pu_bench_device_limits(b, &l, e));
  if (!b->be->memory) l.copy_bytes = pu_cpu_read_rate(b->be, b->m->weights_memory, b->matrix_bytes, LIMIT_PASSES);
  *limit = PU_MAX(*limit, l.copy_bytes);
  return PU_OK;
}

/* The limit is measured beside each round, over several passes as the steps are, so that a machine busy with other
 * things slows both alike. */
static pu_err measure(pu_bench_engine *b, const pu_bench_options *o, double *best, double *limit, pu_error *e) {
  *best = *limit = 0;
  for (int64_t round = 0; round < o->rounds; round++) {
    PU_TRY(pu_bench_engine_start(b, o->seq, o->tokens + 1, e));
    bool more = true;
    size_t made = 0;
    while (!made) { /* the last sequence's prompt is read: from here on all decode */
      PU_TRY(pu_engine_step(b->en, &more, e));
      (void)pu_session_answer(b->sessions[b->batch - 1], &made);
    }
    double begin = pu_now();
    int64_t steps = 0;
    for (; more; steps++) PU_TRY(pu_engine_step(b->en, &more, e));
    double seconds = (pu_now() - begin) / (double)steps;
    if (*best == 0 || seconds < *best) *best = seconds;
    PU_TRY(raise_limit(b, limit, e));
  }
  return PU_OK;
}

/* Of reading what a token takes: docs/benchmarks.md. On a device few bits have marks against bf16 instead. */
static double mark(const pu_bench_engine *b, const pu_bench_options *o) {
  const bool plain = b->quant == PU_QUANT_NONE;
  if (b->be->memory) return !plain ? 0 : o->batch == 1 ? 0.85 : o->batch >= 64 ? 0.7 : 0;
  return o->batch > 1 ? 0 : plain ? 0.85 : 0.95;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  const pu_bench_options *o = opts;
  pu_bench_engine b;
  PU_TRY(pu_bench_engine_open(o, o->seq + o->tokens + 1, false, &b, e));
  double seconds, limit;
  pu_err err = measure(&b, o, &seconds, &limit, e);
  if (!err) {
    pu_bench_result r = {
        .what = "decode",
        .tok_per_s = (double)o->batch / seconds,
        .rate = step_bytes(&b, (pu_kv_type)o->kv_dtype, (double)o->seq + (double)o->tokens / 2) / seconds,
        .limit = limit,
        .ratio_mark = mark(&b, o),
        .unit = "GB/s",
        .limit_is = b.be->memory ? "a copy, bytes read and written" : "reading the weights, nothing else",
        .scale = 1e9};
    pu_bench_engine_print(cli->out, o, &b, &r);
  }
  pu_bench_engine_close(&b);
  return err;
}

const pu_command pu_command_bench_decode = {
    .name = "bench decode",
    .summary = "measure how fast tokens are made",
    .usage = "[options]",
    .details = "Random weights of a named shape, or a file's. A token takes as long as the weights and the cache "
               "take to be read, so the figure is held against the rate at which the same threads read memory, or a "
               "device copies it, measured beside it.",
    .options = rows,
    .options_size = sizeof(pu_bench_options),
    .run = run,
};
