/* A model with random weights, from a named shape. */
#include "src/cli/cli.h"
#include "src/cli/sample.h"
#include "src/cli/saving.h"

typedef struct options {
  const char *shape, *out;
  int dtype;
  int64_t seed, vocab_size, threads;
  bool force;
} options;

static const pu_option rows[] = {
    PU_ROW(options, shape, "shape", STR, .meta = "NAME", .letter = 's', .required = true,
           .help = "sizes of the model: puyu-2m or another of the shapes that --help lists"),
    PU_ROW_OUT(options, "DIR", "where the model goes"),
    PU_ROW_SEED(options, "the same seed gives the same weights"),
    PU_ROW_DTYPE(options, "f32|bf16|f16", "f32", "type of the weights in the file"),
    PU_ROW(options, vocab_size, "vocab-size", INT, .dflt = "0", .max = 1 << 24, .meta = "N",
           .help = "pieces of the vocabulary; 0: the shape's own"),
    PU_ROW_FORCE(options, "write over a model in DIR (never over a training run)"),
    PU_ROW_THREADS(options, 64),
    {0},
};

static pu_err make(const options *o, const pu_shape *shape, pu_backend *be, const pu_cli *cli, pu_error *e) {
  static const pu_dtype types[] = {PU_F32, PU_BF16, PU_F16};
  pu_hparams hp = shape->hp;
  if (o->vocab_size) hp.vocab = o->vocab_size;
  pu_progress *bar = pu_progress_open("random weights", "%", 100);
  pu_dtype type = types[o->dtype];
  pu_model_options mo = {
      .dtype = type == PU_BF16 ? PU_BF16 : PU_F32, .progress = pu_cli_show_share, .progress_arg = bar};
  pu_model *m;
  pu_err err = pu_model_random(pu_arch_find(shape->arch), &hp, (uint64_t)o->seed, be, &mo, &m, e);
  pu_progress_close(bar);
  if (err != PU_OK) return err;
  pu_cli_stage s;
  err = pu_cli_stage_begin(&s, o->out, false, cli->arena, e);
  if (err == PU_OK) err = pu_cli_stage_end(&s, pu_model_save(m, s.made, type, 0, e), e);
  if (err == PU_OK)
    fprintf(cli->out, "%s: %s, %lld parameters, %s\n", o->out, shape->name, (long long)pu_hparams_count(&hp, false),
            pu_dtype_name(type));
  pu_model_free(m);
  return err;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  (void)n_args, (void)args;
  const pu_shape *shape;
  PU_TRY(pu_cli_shape(o->shape, &shape, e));
  PU_TRY(pu_cli_check_no_run(o->out, cli->arena, e));
  const char *config = pu_path_join(cli->arena, o->out, "config.json");
  if (config && !o->force && pu_path_exists(config))
    return pu_fail(e, PU_ERR_USAGE, "%s: there is a model already: take another folder, or --force", o->out);
  pu_backend *be;
  PU_TRY(pu_backend_open("cpu", (int)o->threads, &be, e));
  pu_err err = make(o, shape, be, cli, e);
  be->close(be);
  return err;
}

const pu_command pu_command_init = {
    .name = "init",
    .summary = "make a model with random weights",
    .usage = "--shape NAME --out DIR [options]",
    .details = "Shapes: puyu-2m, puyu-25m, puyu-120m (InternLM2's architecture), internlm2-1.8b, internlm2-7b, "
               "internlm2-20b, internlm-7b, internlm3-8b.\n"
               "\n"
               "Each weight depends on the seed, its parameter's name and its place only: normal with deviation 0.02, "
               "less for what is added to the residual stream.",
    .options = rows,
    .options_size = sizeof(options),
    .run = run,
};
