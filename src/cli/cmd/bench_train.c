#include "puyu/train.h"

#include "src/cli/cli.h"
#include "src/cli/rows.h"

typedef struct options {
  const char *shape, *device;
  int64_t layers, seq, batch, threads, rounds;
  int dtype, recompute, weights, grads, state;
  bool deterministic, fp8, profile, json;
} options;

static const pu_option rows[] = {
    PU_ROW_SHAPE(options, "puyu-25m"),
    PU_ROW(options, layers, "layers", INT, .dflt = "0", .max = 1 << 10, .meta = "N",
           .help = "layers of the model; 0: as many as the shape has"),
    PU_ROW_BATCH(options, "8"),
    PU_ROW_SEQ(options, 2, "1024", "tokens of a sequence"),
    PU_ROW_DTYPE(options, "bf16|f32", "bf16", "type to compute in"),
    PU_ROW(options, recompute, "recompute", ENUM, .dflt = "none", .choices = PU_RECOMPUTE_CHOICES,
           .help = "what a block computes again in the backward pass"),
    PU_ROW(options, fp8, "fp8", BOOL, .help = "matrices of attention and MLPs multiply in FP8 (train.linear)"),
    PU_ROW(options, weights, "weights", ENUM, .dflt = "f32", .choices = "f32|bf16",
           .help = "what is trained: f32 values, or the bf16 ones that are computed with"),
    PU_ROW(options, grads, "grads", ENUM, .dflt = "f32", .choices = "f32|bf16",
           .help = "type of the gradients of matrices"),
    PU_ROW(options, state, "state", ENUM, .dflt = "f32", .choices = "f32|bf16", .help = "type of AdamW's moments"),
    PU_ROW(options, deterministic, "deterministic", BOOL, .dflt = "true",
           .help = "the same bits each time; --no-deterministic: sums in any order, where that is faster"),
    PU_ROW(options, profile, "profile", BOOL, .help = "print the time of each kind of operation too"),
    PU_ROW_ROUNDS(options, "4"),
    PU_ROW_DEVICE(options, device),
    PU_ROW_THREADS(options, 64),
    PU_ROW_JSON(options),
    {0},
};

static const char *const op_names[PU_OP_COUNT] = {
#define PU_OP(name, has_backward) #name,
#include "puyu/ops.def"
#undef PU_OP
};

static const char *const type_names[] = {"f32", "bf16"}, *const recompute_names[] = {"none", "gates", "some", "all"};

static void print_json(FILE *out, const options *o, const pu_train_bench_result *r) {
  fprintf(out,
          "{\"bench\": \"train\", \"device\": \"%s\", \"shape\": \"%s\", \"layers\": %lld, \"seq\": %lld, \"batch\": "
          "%lld, \"dtype\": \"%s\", \"fp8\": %s, \"weights\": \"%s\", \"grads\": \"%s\", \"state\": \"%s\", "
          "\"recompute\": \"%s\", \"deterministic\": %s, "
          "\"step_seconds\": %.6g, \"row_seconds\": %.6g, \"tok_per_s\": %.6g, \"flops\": %.6g, \"gemm_flops\": %.6g, "
          "\"ratio\": %.4g, "
          "\"peak_flops\": %.6g, \"mfu\": %.4g, \"optim_seconds\": %.6g, \"planned_bytes\": %zu, \"peak_bytes\": %zu",
          r->where, o->shape, (long long)r->layers, (long long)o->seq, (long long)o->batch, o->dtype ? "f32" : "bf16",
          o->fp8 ? "true" : "false", type_names[o->weights], type_names[o->grads], type_names[o->state],
          recompute_names[o->recompute], o->deterministic ? "true" : "false", r->step_seconds, r->row_seconds,
          r->tok_per_s, r->flops, r->gemm_flops, r->ratio, r->peak_flops, r->mfu, r->optim_seconds, r->planned_bytes,
          r->peak_bytes);
  for (int op = 0, n = 0; o->profile && op < PU_OP_COUNT; op++)
    if (r->op_seconds[op][0] > 0)
      fprintf(out, "%s\"%s\": [%.6g, %.6g]", n++ ? ", " : ", \"ops\": {", op_names[op], r->op_seconds[op][0],
              r->op_seconds[op][1]);
  fprintf(out, o->profile ? "}}\n" : "}\n");
}

static void print_profile(FILE *out, const pu_train_bench_result *r) {
  double rest = r->step_seconds;
  fprintf(out, "\n%-22s %11s %11s %7s\n", "operation", "forward ms", "backward ms", "share");
  for (int op = 0; op < PU_OP_COUNT; op++) {
    const double *t = r->op_seconds[op];
    if (t[0] <= 0) continue;
    fprintf(out, "%-22s %11.2f %11.2f %6.1f%%\n", op_names[op], 1e3 * t[0], 1e3 * t[1],
            100 * (t[0] + t[1]) / r->step_seconds);
    rest -= t[0] + t[1];
  }
  fprintf(out, "%-22s %11.2f %11s %6.1f%%\n", "everything else", 1e3 * rest, "", 100 * rest / r->step_seconds);
}

static void print_text(FILE *out, const options *o, const pu_train_bench_result *r) {
  const double mib = 1024 * 1024;
  fprintf(out, "training step, %s, %lld layers, %lld x %lld tokens, %s%s%s\n%s\n", o->shape, (long long)r->layers,
          (long long)o->batch, (long long)o->seq, o->dtype ? "f32" : "bf16",
          o->fp8 ? ", linear layers in FP8 (own products in bf16)" : "", o->deterministic ? "" : ", sums in any order",
          r->where);
  fprintf(out, "  kept           weights %s, gradients %s, moments %s; recompute %s\n", type_names[o->weights],
          type_names[o->grads], type_names[o->state], recompute_names[o->recompute]);
  fprintf(out, "  step           %10.1f ms   (of which norm and update %.1f ms)\n", 1e3 * r->step_seconds,
          1e3 * r->optim_seconds);
  fprintf(out, "  tokens/s       %10.0f\n", r->tok_per_s);
  if (r->row_seconds > 0)
    fprintf(out, "  in a row       %10.1f ms   (the mean of steps without a rest: %.0f tokens/s)\n",
            1e3 * r->row_seconds, r->tok_per_s * r->step_seconds / r->row_seconds);
  fprintf(out, "  model FLOP/s   %10.1f G\n", r->flops / 1e9);
  fprintf(out, "  own products   %10.1f G     (the step's linear layers, forward and backward, same run)\n",
          r->gemm_flops / 1e9);
  fprintf(out, "  ratio          %10.1f %%     (mark: 50 %%)\n", 100 * r->ratio);
  fprintf(out, "  at most        %10.1f G     (a large product, or the bare unit, same run): MFU %.1f %%\n",
          r->peak_flops / 1e9, 100 * r->mfu);
  fprintf(out, "  memory         %10.0f MiB, %.0f MiB planned (%.2f of the plan; mark: 1.1)\n",
          (double)r->peak_bytes / mib, (double)r->planned_bytes / mib,
          (double)r->peak_bytes / (double)r->planned_bytes);
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args, (void)args;
  const options *o = opts;
  pu_train_bench_options b = {.shape = o->shape,
                              .device = o->device,
                              .layers = o->layers,
                              .seq_len = o->seq,
                              .batch = o->batch,
                              .rounds = o->rounds,
                              .dtype = o->dtype ? PU_F32 : PU_BF16,
                              .threads = (int)o->threads,
                              .recompute = (pu_recompute)o->recompute,
                              .weights = o->weights,
                              .grads = o->grads,
                              .state = o->state,
                              .any_order = !o->deterministic,
                              .fp8 = o->fp8,
                              .profile = o->profile};
  const pu_shape *shape;
  if (o->dtype && (o->fp8 || o->grads))
    return pu_fail(e, PU_ERR_USAGE, "--fp8 and --grads bf16 go with --dtype bf16: leave them out");
  PU_TRY(pu_cli_shape(o->shape, &shape, e));
  pu_train_bench_result r;
  PU_TRY(pu_train_bench(&b, &r, e));
  if (o->json) {
    print_json(cli->out, o, &r);
    return PU_OK;
  }
  print_text(cli->out, o, &r);
  if (o->profile) print_profile(cli->out, &r);
  return PU_OK;
}

const pu_command pu_command_bench_train = {
    .name = "bench train",
    .summary = "measure a training step against the machine's matrix products",
    .usage = "[--shape NAME] [--seq N] [--batch N] [options]",
    .details =
        "Random weights and tokens. The step is forward, backward, gradient norm and AdamW update; its FLOPs are "
        "the model's (recomputation is not counted), and they are held against the rate of our own matrix "
        "products at the shapes of the step, measured in turn with it.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
