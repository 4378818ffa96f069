/* A model directory into another: type of the weights, family's layout. */
#include <sys/stat.h>

#include "puyu/model.h"
#include "src/cli/cli.h"

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
     .choices = "same|f32|bf16|f16",
     .help = "type of the weights in the file"},
    {.key = "shard-mb",
     .type = PU_OPT_INT,
     .offset = offsetof(options, shard_mb),
     .dflt = "5000",
     .min = 1,
     .max = 1e9,
     .meta = "N",
     .help = "more than this many million bytes go into several files"},
    {.key = "force",
     .type = PU_OPT_BOOL,
     .offset = offsetof(options, force),
     .help = "write over a model in DST (never over a training run)"},
    {0},
};

/* What belongs to a model besides config.json and weights. */
static const char *const companions[] = {
    "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",      "merges.txt",     "chat_template.jinja",   "chat_template.json",      "generation_config.json",
};

static pu_err copy_companion(const char *from_dir, const char *to_dir, const char *name, pu_arena *a, pu_error *e) {
  enum { MAX_COMPANION = 256 << 20 };
  const char *from = pu_path_join(a, from_dir, name), *to = pu_path_join(a, to_dir, name);
  pu_buf b;
  if (!from || !to) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", name);
  if (!pu_path_exists(from)) return PU_OK;
  pu_buf_init(&b, MAX_COMPANION + 1);
  pu_err err = pu_file_read(from, MAX_COMPANION, &b, e);
  if (err == PU_OK) err = pu_file_write(to, b.data, b.len, e);
  pu_buf_deinit(&b);
  return err;
}

/* The widest type among the file's weights: writing it loses nothing. */
static pu_err type_in_file(const char *dir, pu_dtype *out, pu_error *e) {
  pu_safetensors *s;
  PU_TRY(pu_safetensors_open(dir, &s, e));
  bool bf16 = false, f16 = false, f32 = false;
  for (size_t i = 0; i < pu_safetensors_count(s); i++) {
    pu_dtype t = pu_safetensors_at(s, i)->dtype;
    bf16 |= t == PU_BF16;
    f16 |= t == PU_F16;
    f32 |= t == PU_F32;
  }
  pu_safetensors_close(s);
  *out = f32 || (bf16 && f16) ? PU_F32 : f16 ? PU_F16 : PU_BF16;
  return PU_OK;
}

static void show(void *arg, double done, double total) {
  (void)total;
  pu_progress_set(arg, done, NULL);
}

static pu_err convert(const options *o, const pu_arch *arch, const char *src, const char *dst, pu_error *e) {
  static const pu_dtype types[] = {PU_F32, PU_F32, PU_BF16, PU_F16};
  pu_backend *be;
  pu_model *m;
  pu_dtype in_file;
  PU_TRY(type_in_file(src, &in_file, e));
  PU_TRY(pu_backend_open("cpu", 0, &be, e));
  pu_progress *bar = pu_progress_open("read", "parameters", 0);
  /* bf16 stays what it is, at half the memory; all else fits in f32. */
  pu_model_options mo = {.dtype = in_file == PU_BF16 ? PU_BF16 : PU_F32, .progress = show, .progress_arg = bar};
  pu_err err = pu_model_load(src, be, &mo, &m, e);
  pu_progress_close(bar);
  if (err == PU_OK) {
    if (arch) m->arch = arch;
    err = pu_model_save(m, dst, o->dtype ? types[o->dtype] : in_file, (size_t)o->shard_mb * 1000000, e);
    pu_model_free(m);
  }
  be->close(be);
  return err;
}

static bool same_folder(const char *a, const char *b) {
  struct stat x, y;
  return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* What only a run or its checkpoint holds. Other weights beneath an optimiser's state would bend the run silently. */
static pu_err check_no_run(const pu_cli *cli, const char *dst, pu_error *e) {
  static const char *const of_a_run[] = {"optimizer.safetensors", "metrics.jsonl"};
  for (size_t i = 0; i < PU_COUNT(of_a_run); i++) {
    const char *path = pu_path_join(cli->arena, dst, of_a_run[i]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", dst);
    if (pu_path_exists(path))
      return pu_fail(e, PU_ERR_USAGE,
                     "%s: belongs to a training run, which a conversion would spoil (it holds %s): "
                     "take another folder",
                     dst, of_a_run[i]);
  }
  return PU_OK;
}

/* Before the weights are read, which may take minutes. */
static pu_err check_family(const pu_cli *cli, const char *src, const pu_arch *arch, pu_error *e) {
  const pu_arch *own;
  pu_hparams hp;
  const char *config = pu_path_join(cli->arena, src, "config.json");
  if (!config) return pu_fail(e, PU_ERR_NOMEM, "%s: the name is too long", src);
  if (!pu_path_is_dir(src)) return pu_fail(e, PU_ERR_IO, "%s: not a model directory", src);
  PU_TRY(pu_config_read(config, &own, &hp, e));
  hp.norm_head = false; /* reading the weights does it once and for all */
  return pu_config_check(src, arch ? arch : own, &hp, e);
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  const char *src = args[0], *dst = args[1], *config = pu_path_join(cli->arena, dst, "config.json");
  const pu_arch *arch = o->arch ? pu_arch_find(o->arch) : NULL;
  (void)n_args;
  if (o->arch && !arch) return pu_fail(e, PU_ERR_USAGE, "--arch %s: no such family", o->arch);
  /* The original would be lost; and where it is a checkpoint, its optimiser's state would no longer fit. */
  if (same_folder(src, dst))
    return pu_fail(e, PU_ERR_USAGE, "%s: SRC and DST are the same folder: take another for DST", dst);
  PU_TRY(check_no_run(cli, dst, e));
  if (config && !o->force && pu_path_exists(config))
    return pu_fail(e, PU_ERR_USAGE, "%s: there is a model already: take another folder, or --force", dst);
  PU_TRY(check_family(cli, src, arch, e));
  PU_TRY(convert(o, arch, src, dst, e));
  for (size_t i = 0; i < PU_COUNT(companions); i++) PU_TRY(copy_companion(src, dst, companions[i], cli->arena, e));
  return PU_OK;
}

const pu_command pu_command_convert = {
    .name = "convert",
    .summary = "write a model in another type or another family's layout",
    .usage = "SRC DST [options]",
    .details =
        "InternLM2 becomes a Llama model with --arch llama: the same function of the same tokens, which any "
        "program that knows Llama can read. A family that lacks something the model has says so. The tokenizer's "
        "files are copied as they are.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 2,
    .max_args = 2,
    .run = run,
};
