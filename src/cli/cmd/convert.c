/* A model into another form: type of the weights, family's layout, a directory or a GGUF file. */
#include <string.h>

#include "src/cli/cli.h"
#include "src/cli/rows.h"
#include "src/cli/saving.h"

typedef struct options {
  const char *arch;
  int dtype;
  int64_t shard_mb;
  bool force;
} options;

static const pu_option rows[] = {
    {.key = "arch",
     .type = PU_OPT_STR,
     .offset = offsetof(options, arch),
     .meta = "NAME",
     .help = "write in this family's names and layout; without it, the model's own"},
    {.key = "dtype",
     .type = PU_OPT_ENUM,
     .offset = offsetof(options, dtype),
     .dflt = "same",
     .choices = "same|f32|bf16|f16|q8_0|q4_0",
     .help = "type of the weights in the file; q8_0 and q4_0 in GGUF files only"},
    {.key = "shard-mb",
     .type = PU_OPT_INT,
     .offset = offsetof(options, shard_mb),
     .dflt = "5000",
     .min = 1,
     .max = 1e9,
     .meta = "N",
     .help = "more than this many million bytes go into several files"},
    PU_ROW_FORCE(options, "replace a model in DST, its tokenizer too (never a training run)"),
    {0},
};

static void show(void *arg, double done, double total) {
  (void)total;
  pu_progress_set(arg, done, NULL);
}

/* What is to be done, once the options make sense. */
typedef struct job {
  const char *src, *dst, *type; /* "f16" */
  const pu_arch *arch;          /* NULL: the model's own */
  pu_dtype read;                /* what the weights are read as: bf16 at half the memory, where nothing is lost */
  bool to_gguf, force;
  size_t shard_bytes;
} job;

static pu_err write_gguf(const job *j, const pu_model *m, const pu_gguf_keys *keys, pu_arena *a, pu_error *e) {
  pu_cli_place place;
  PU_TRY(pu_cli_place_open(&place, j->dst, a, e)); /* two runs would write into one file */
  pu_progress *bar = pu_progress_open("write", "%", 100);
  pu_err err = pu_model_save_gguf(m, j->dst, pu_gguf_type_named(j->type), keys, bar, e);
  pu_progress_close(bar);
  pu_cli_place_close(&place);
  return err;
}

static pu_err save_gguf(const job *j, const pu_model *m, pu_arena *a, pu_error *e) {
  pu_tokenizer *t;
  pu_gguf_keys keys;
  PU_TRY(pu_engine_load_tokenizer(j->src, &t, e));
  pu_gguf_keys_init(&keys);
  pu_err err = pu_engine_put_tokenizer(&keys, t, m->hp.vocab, e);
  pu_signals_catch_writing();
  if (err == PU_OK) err = write_gguf(j, m, &keys, a, e);
  pu_gguf_keys_deinit(&keys);
  pu_tokenizer_free(t);
  return err;
}

static pu_err save_dir(const job *j, const pu_model *m, pu_arena *a, pu_error *e) {
  pu_dtype dtype = PU_F32;
  (void)pu_dtype_parse(j->type, &dtype);
  return pu_cli_save_dir(m, j->src, j->dst, j->force, dtype, j->shard_bytes, a, e);
}

static pu_err convert(const job *j, pu_arena *a, pu_error *e) {
  pu_backend *be;
  pu_model *m;
  PU_TRY(pu_backend_open("cpu", 0, &be, e));
  pu_progress *bar = pu_progress_open("read", "parameters", 0);
  pu_model_options mo = {.dtype = j->read, .progress = show, .progress_arg = bar};
  pu_err err = pu_model_load(j->src, be, &mo, &m, e);
  pu_progress_close(bar);
  if (err == PU_OK) {
    if (j->arch) m->arch = j->arch;
    err = j->to_gguf ? save_gguf(j, m, a, e) : save_dir(j, m, a, e);
    pu_model_free(m);
  }
  be->close(be);
  return err;
}

/* Types to read and to write. */
static pu_err choose_types(const options *o, job *j, pu_error *e) {
  static const char *const types[] = {NULL, "f32", "bf16", "f16", "q8_0", "q4_0"};
  pu_dtype in_file, unused;
  PU_TRY(pu_model_widest(j->src, false, &in_file, e));
  j->type = types[o->dtype];
  if (!j->type && in_file == PU_DTYPE_COUNT)
    return pu_fail(e, PU_ERR_USAGE, "%s: its weights are quantised: say with --dtype what they are to become", j->src);
  if (!j->type) j->type = pu_dtype_name(in_file);
  if (!j->to_gguf && !pu_dtype_parse(j->type, &unused))
    return pu_fail(e, PU_ERR_USAGE, "--dtype %s: only GGUF files hold such blocks: name DST with .gguf at its end",
                   j->type);
  j->read = in_file == PU_BF16 ? PU_BF16 : PU_F32;
  return PU_OK;
}

/* Before the weights are read, which may take minutes. */
static pu_err check_family(const job *j, pu_error *e) {
  const pu_arch *own;
  pu_hparams hp;
  PU_TRY(pu_model_describe(j->src, &own, &hp, e));
  hp.norm_head = false; /* reading the weights does it once and for all */
  return pu_config_check(j->src, j->arch ? j->arch : own, &hp, e);
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  job j = {.src = args[0],
           .dst = args[1],
           .to_gguf = pu_cli_is_gguf_name(args[1]),
           .force = o->force,
           .shard_bytes = (size_t)o->shard_mb * 1000000};
  (void)n_args;
  if (o->arch) PU_TRY(pu_cli_arch(o->arch, &j.arch, e));
  PU_TRY(pu_cli_check_place(j.src, j.dst, j.to_gguf, o->force, cli->arena, e));
  PU_TRY(check_family(&j, e));
  PU_TRY(choose_types(o, &j, e));
  return convert(&j, cli->arena, e);
}

const pu_command pu_command_convert = {
    .name = "convert",
    .summary = "write a model in another type or another family's layout",
    .usage = "SRC DST [options]",
    .details =
        "SRC and DST are Hugging Face directories, or GGUF files, as llama.cpp has them: FILE.gguf.\n\n"
        "InternLM2 becomes a Llama model with --arch llama: the same function of the same tokens, which any "
        "program that knows Llama can read. A family that lacks something the model has says so. Families: internlm, "
        "internlm2, internlm3, llama, mistral, mixtral, qwen2, qwen3.\n\nThe tokenizer's "
        "files are copied as they are; into a GGUF file goes what they say, and out of one come files that say it.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 2,
    .max_args = 2,
    .run = run,
};
