/* A model with random weights, from a named shape. */
#include "puyu/model.h"
#include "src/cli/cli.h"

typedef struct options {
  const char *shape, *out;
  int dtype;
  int64_t seed, vocab, threads;
  bool force;
} options;

static const pu_option rows[] = {
    {.key = "shape",
     .type = PU_OPT_STR,
     .offset = offsetof(options, shape),
     .meta = "NAME",
     .help = "which sizes: one of the shapes above",
     .letter = 's',
     .required = true},
    {.key = "out",
     .type = PU_OPT_STR,
     .offset = offsetof(options, out),
     .meta = "DIR",
     .help = "where the model goes",
     .letter = 'o',
     .required = true},
    {.key = "seed",
     .type = PU_OPT_INT,
     .offset = offsetof(options, seed),
     .dflt = "1",
     .min = 0,
     .max = 9e18,
     .meta = "N",
     .help = "the same seed gives the same weights"},
    {.key = "dtype",
     .type = PU_OPT_ENUM,
     .offset = offsetof(options, dtype),
     .dflt = "f32",
     .choices = "f32|bf16|f16",
     .help = "type of the weights in the file"},
    {.key = "vocab",
     .type = PU_OPT_INT,
     .offset = offsetof(options, vocab),
     .dflt = "0",
     .min = 0,
     .max = 1 << 24,
     .meta = "N",
     .help = "vocabulary; 0: the shape's own"},
    {.key = "threads",
     .type = PU_OPT_INT,
     .offset = offsetof(options, threads),
     .dflt = "0",
     .min = 0,
     .max = 64,
     .meta = "N",
     .help = "0: one for each processor; the weights are the same"},
    {.key = "force", .type = PU_OPT_BOOL, .offset = offsetof(options, force), .help = "write over a model in DIR"},
    {0},
};

static pu_err unknown_shape(const char *name, pu_error *e) {
  char known[400] = "";
  for (size_t i = 0, at = 0; pu_shape_at(i) && at < sizeof known; i++)
    at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", pu_shape_at(i)->name);
  return pu_fail(e, PU_ERR_USAGE, "--shape %s: no such shape; there are %s", name, known);
}

static void show(void *arg, double done, double total) {
  (void)total;
  pu_progress_set(arg, done, NULL);
}

static pu_err make(const options *o, const pu_shape *shape, pu_backend *be, const pu_cli *cli, pu_error *e) {
  static const pu_dtype types[] = {PU_F32, PU_BF16, PU_F16};
  pu_hparams hp = shape->hp;
  if (o->vocab) hp.vocab = o->vocab;
  pu_progress *bar = pu_progress_open("init", "parameters", (double)pu_hparams_count(&hp, false));
  pu_dtype type = types[o->dtype];
  pu_model_options mo = {.dtype = type == PU_BF16 ? PU_BF16 : PU_F32, .progress = show, .progress_arg = bar};
  pu_model *m;
  pu_err err = pu_model_random(pu_arch_find(shape->arch), &hp, (uint64_t)o->seed, be, &mo, &m, e);
  pu_progress_close(bar);
  if (err != PU_OK) return err;
  err = pu_model_save(m, o->out, type, 0, e);
  if (err == PU_OK)
    fprintf(cli->out, "%s: %s, %lld parameters, %s\n", o->out, shape->name, (long long)pu_hparams_count(&hp, false),
            pu_dtype_name(type));
  pu_model_free(m);
  return err;
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  (void)n_args, (void)args;
  const pu_shape *shape = pu_shape_find(o->shape);
  if (!shape) return unknown_shape(o->shape, e);
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
    .summary = "Make a model with random weights",
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
