/* Documents to token shards. */
#include <string.h>

#include "puyu/data.h"
#include "src/cli/pipeline.h"

typedef struct options {
  const char *tokenizer, *out, *key;
  int split;
  double valid_fraction;
  pu_cli_shards shards;
  pu_cli_step step;
} options;

static const pu_option rows[] = {
    PU_ROW_TOKENIZER(options, "tokenizer", 't', true, ""),
    PU_ROW_OUT(options, "DIR", "where the shards go"),
    PU_ROW_KEY(options),
    PU_ROW(options, split, "split", ENUM, .dflt = "file", .choices = "file|blank|line",
           .help = "what a document is in plain text: the whole file, the lines up to a blank one, or each line"),
    PU_ROW_VALID(options, "0", 0.9,
                 "share of the documents that goes to DIR/valid, the rest to DIR/train; 0: all to DIR"),
    PU_CLI_SHARDS_ROWS(options, shards),
    PU_CLI_STEP_ROWS(options, step),
    {0},
};

static void show(void *bar, double done, double total) {
  (void)total;
  pu_progress_set(bar, done / 1e6, NULL);
}

static bool is_shard(const char *name) {
  return pu_ends_with(name, ".pub") || pu_ends_with(name, ".bin");
}

/* Shards of an earlier run are hours of work, or would join the new ones. */
static pu_err refuse_shards(const pu_cli *cli, const char *path, pu_error *e) {
  char **names = NULL;
  size_t n = 0;
  bool is_dir = pu_path_is_dir(path), held = !is_dir && is_shard(path) && pu_path_exists(path);
  if (is_dir) PU_TRY(pu_dir_list(cli->arena, path, &names, &n, e));
  for (size_t i = 0; i < n; i++) held |= is_shard(names[i]);
  if (!held) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "%s: shards are there already; take another folder, or go on with --force", path);
}

static pu_err check_out(const pu_cli *cli, const options *in, pu_error *e) {
  static const char *const below[] = {"train", "valid"};
  if (in->step.force) return PU_OK;
  PU_TRY(refuse_shards(cli, in->out, e));
  for (size_t i = 0; i < PU_COUNT(below); i++) {
    char *path = pu_path_join(cli->arena, in->out, below[i]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "%s: no memory", in->out);
    PU_TRY(refuse_shards(cli, path, e));
  }
  return PU_OK;
}

static pu_err tokenize_files(const pu_cli *cli, const options *in, pu_tokenize_options *o, int n_args,
                             const char **args, pu_tokenize_result *result, pu_error *e) {
  pu_corpus *corpus = NULL;
  PU_TRY(check_out(cli, in, e));
  pu_signals_catch(); /* so that nothing half-made stays */
  PU_TRY(pu_pool_create((int)in->step.threads, &o->pool, e));
  pu_err err = pu_corpus_open(args, (size_t)n_args, (pu_split)in->split, in->key, &corpus, e);
  if (err == PU_OK) {
    pu_progress *bar = pu_progress_open("tokenize", "MB", pu_corpus_bytes(corpus) / 1e6);
    o->progress = show;
    o->progress_arg = bar;
    err = pu_tokenize_run(corpus, in->out, o, result, e);
    pu_progress_close(bar);
  }
  pu_corpus_close(corpus);
  pu_pool_free(o->pool);
  return err;
}

static pu_err tokenize_stage(const options *in, const pu_tokenize_options *o, const char *stage, int *rank,
                             pu_tokenize_result *result, pu_error *e) {
  pu_cli_running running;
  pu_err err = pu_cli_step_begin(&in->step, &running, e);
  if (err == PU_OK) err = pu_tokenize_stage(in->out, stage, o, &running.how, result, e);
  *rank = running.how.rank;
  pu_cli_step_end(&running);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *in = given;
  pu_tokenizer *tokenizer;
  pu_tokenize_result result;
  int rank = 0;
  bool is_stage = false;
  if (n_args == 1) PU_TRY(pu_data_find_stage(args[0], &is_stage, e));
  PU_TRY(pu_cli_tokenizer(in->tokenizer, &tokenizer, e));
  pu_tokenize_options o = pu_cli_tokenize_options(&in->shards, tokenizer, in->valid_fraction);
  pu_err err = is_stage ? tokenize_stage(in, &o, args[0], &rank, &result, e)
                        : tokenize_files(cli, in, &o, n_args, args, &result, e);
  pu_tokenizer_free(tokenizer);
  if (err == PU_OK && rank == 0) pu_cli_print_shards(cli->out, &result, in->step.json);
  return err;
}

const pu_command pu_command_data_tokenize = {
    .name = "data tokenize",
    .summary = "turn documents into token shards",
    .usage = "--tokenizer PATH --out DIR FILE...|STAGE [options]",
    .details =
        "A FILE is text, JSON Lines (.jsonl, .json) or what else docs/data.md lists,\n"
        "plain or with .gz or .zst, or a folder of such files. Special tokens written in the text stay plain text.\n"
        "The shards are the same whatever the number of threads.\n\n"
        "Of a STAGE, what is left of its documents becomes shards that hold which source each is of; DIR is "
        "a stage too, which says where each document's tokens are. A run that was stopped goes on where it "
        "was.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
