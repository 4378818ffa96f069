/* An adapter's changes written into a model's own weights. */
#include "src/cli/cli.h"
#include "src/cli/rows.h"
#include "src/cli/sample.h"
#include "src/cli/saving.h"

typedef struct options {
  int dtype;
  int64_t shard_mb;
  bool force;
} options;

static const pu_option rows[] = {
    PU_ROW_DTYPE(options, "same|f32|bf16", "same", "type of the weights in the files"),
    PU_ROW(options, shard_mb, "shard-mb", INT, .dflt = "5000", .min = 1, .max = 1e9, .meta = "N",
           .help = "more than this many million bytes go into several files"),
    PU_ROW_FORCE(options, "replace a model in DST, its tokenizer too (never a training run)"),
    {0},
};

typedef struct job {
  const char *base, *adapter, *out;
  pu_dtype dtype; /* of the files that are written */
  pu_dtype read;  /* bf16, at half the memory, where that is what is read and written: a sum is rounded once anyway */
  size_t shard_bytes;
  bool force;
} job;

static pu_err choose_type(const options *o, job *j, pu_error *e) {
  static const pu_dtype types[] = {PU_DTYPE_COUNT, PU_F32, PU_BF16};
  pu_dtype in_file;
  PU_TRY(pu_model_widest(j->base, false, &in_file, e));
  j->dtype = o->dtype ? types[o->dtype] : in_file;
  j->read = in_file == PU_BF16 && j->dtype == PU_BF16 ? PU_BF16 : PU_F32;
  if (j->dtype == PU_DTYPE_COUNT)
    return pu_fail(e, PU_ERR_USAGE, "%s: its weights are quantised: say with --dtype what they are to become", j->base);
  return PU_OK;
}

/* Before minutes of reading weights. */
static pu_err check(const job *j, const options *o, pu_arena *a, pu_error *e) {
  const pu_arch *arch;
  pu_hparams hp;
  size_t bytes;
  PU_TRY(pu_cli_check_place(j->base, j->out, false, o->force, a, e));
  PU_TRY(pu_model_describe(j->base, &arch, &hp, e));
  PU_TRY(pu_adapter_measure(j->adapter, arch, &hp, PU_F32, &bytes, e));
  hp.norm_head = false; /* reading the weights does it once and for all */
  return pu_config_check(j->base, arch, &hp, e);
}

static pu_err merge(const job *j, pu_arena *a, pu_error *e) {
  pu_backend *be;
  pu_model *m;
  PU_TRY(pu_backend_open("cpu", 0, &be, e));
  pu_progress *bar = pu_progress_open("read", "%", 100);
  pu_model_options mo = {.dtype = j->read, .progress = pu_cli_show_share, .progress_arg = bar};
  pu_err err = pu_model_load(j->base, be, &mo, &m, e);
  pu_progress_close(bar);
  if (err == PU_OK) {
    err = pu_model_merge(m, j->adapter, e);
    if (err == PU_OK) err = pu_cli_save_dir(m, j->base, j->out, j->force, j->dtype, j->shard_bytes, a, e);
    pu_model_free(m);
  }
  be->close(be);
  return err;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  job j = {.base = args[0],
           .adapter = args[1],
           .out = args[2],
           .shard_bytes = (size_t)o->shard_mb * 1000000,
           .force = o->force};
  (void)n_args;
  PU_TRY(check(&j, o, cli->arena, e));
  PU_TRY(choose_type(o, &j, e));
  return merge(&j, cli->arena, e);
}

const pu_command pu_command_merge = {
    .name = "merge",
    .summary = "write an adapter's changes into a model's weights",
    .usage = "SRC ADAPTER DST [options]",
    .details = "SRC is a Hugging Face directory or a GGUF file, ADAPTER a PEFT directory with a LoRA adapter of it "
               "(adapter_config.json, adapter_model.safetensors). DST becomes a model of its own, with SRC's "
               "tokenizer. Sums are made in f32 and rounded once. Several adapters can also be used beside one base, "
               "without merging: see --adapter of serve, chat, generate, ppl and logits.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 3,
    .max_args = 3,
    .run = run,
};
