#include "src/cli/bench_engine.h"

#include <string.h>

static const pu_option rows[] = {
    PU_BENCH_ROWS("512"),
    {0},
};

/* Products of all blocks, attention's own 2 T^2 H D a layer (causal: half of the square), one row of logits. */
static double flops(const pu_hparams *hp, double batch, double T) {
  double head = (double)hp->vocab * (double)hp->hidden;
  double blocks = (double)pu_hparams_count(hp, false) - head * (hp->tied ? 1 : 2);
  double attention = 2 * T * T * (double)(hp->heads * hp->head_dim * hp->layers);
  return batch * (2 * blocks * T + attention + 2 * head);
}

/* The unit multiplies int8 at twice the rate of bf16, which counts where weights are in few bits. */
static pu_err raise_limit(const pu_bench_engine *b, double *limit, pu_error *e) {
  pu_limits l = {0};
  PU_TRY(pu_bench_device_limits(b, &l, e));
  if (!b->be->memory) l.bf16_flops = pu_cpu_unit_flops(b->be, PU_BF16);
  double unit = b->dtype == PU_BF16 ? l.bf16_flops : l.f32_flops;
  *limit = PU_MAX(*limit, b->quant == PU_QUANT_NONE || b->be->memory ? unit : 2 * unit);
  return PU_OK;
}

/* The limit is measured before and after each round, so that a machine busy with other things slows both; and often, as
 * a matrix unit may run at half its rate for seconds when its processor is short of power. */
static pu_err measure(pu_bench_engine *b, const pu_bench_options *o, double *best, double *limit, pu_error *e) {
  *best = *limit = 0;
  for (int64_t round = 0; round <= o->rounds; round++) { /* the first one warms up */
    PU_TRY(pu_bench_engine_start(b, o->seq, 1, e));
    PU_TRY(raise_limit(b, limit, e));
    double begin = pu_now();
    for (bool more = true; more;) PU_TRY(pu_engine_step(b->en, &more, e));
    double seconds = pu_now() - begin;
    if (round && (*best == 0 || seconds < *best)) *best = seconds;
    PU_TRY(raise_limit(b, limit, e));
  }
  return PU_OK;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  const pu_bench_options *o = opts;
  pu_bench_engine b;
  PU_TRY(pu_bench_engine_open(o, o->seq + 1, false, &b, e));
  double seconds, limit;
  pu_err err = measure(&b, o, &seconds, &limit, e);
  if (!err) {
    static const double marks[] = {
        [PU_QUANT_NONE] = 400, [PU_QUANT_Q8] = 640, [PU_QUANT_Q4] = 500, [PU_QUANT_FP8] = 0, [PU_QUANT_I8] = 0};
    bool marked = !o->gguf && !o->layers && strcmp(o->shape, "internlm2-1.8b") == 0 && o->batch == 1 && o->seq == 512 &&
                  b.dtype == PU_BF16 && !b.be->memory;
    double tokens = (double)(o->batch * o->seq);
    pu_bench_result r = {.what = "prefill",
                         .tok_per_s = tokens / seconds,
                         .mark = marked ? marks[b.quant] : 0,
                         .ratio_mark = b.be->memory && b.quant == PU_QUANT_NONE && tokens >= 8192 ? 0.65 : 0,
                         .rate = flops(&b.m->hp, (double)o->batch, (double)o->seq) / seconds,
                         .limit = limit,
                         .unit = "GFLOP/s",
                         .limit_is = b.be->memory ? "a product of large square matrices"
                                     : b.quant == PU_QUANT_NONE
                                         ? "a loop of bf16 products on registers"
                                         : "twice a loop of bf16 products on registers, for int8",
                         .scale = 1e9};
    pu_bench_engine_print(cli->out, o, &b, &r);
  }
  pu_bench_engine_close(&b);
  return err;
}

const pu_command pu_command_bench_prefill = {
    .name = "bench prefill",
    .summary = "measure how fast prompts are read",
    .usage = "[options]",
    .details = "Random weights of a named shape, or a file's. The time is that from a prompt to its first "
               "token. It is held against what the matrix unit does in a bare loop, or a device in a large product, "
               "measured in "
               "the same run.",
    .options = rows,
    .options_size = sizeof(pu_bench_options),
    .run = run,
};
