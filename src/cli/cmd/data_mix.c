/* Sources by weight, in random order. */
#include "src/cli/pipeline.h"
#include "src/cli/rows.h"

typedef struct options {
  const char *out, *tokenizer;
  pu_mix_options mix;
  pu_cli_shards shards;
  pu_cli_step step;
} options;

static const pu_option rows[] = {
    PU_ROW_OUT(options, "DIR", "where the stage goes"),
    PU_ROW(options, mix.weights, "weight", STRS, .meta = "SOURCE=W",
           .help = "share of a source in the text that comes out; sources without one do not come; none at all: by "
                   "their size"),
    PU_ROW(options, mix.temperature, "temperature", FLOAT, .dflt = "1", .min = 0.01, .max = 1000, .meta = "T",
           .help = "without weights: size to the power of 1/T; above 1 small sources count more"),
    PU_ROW(options, mix.cap, "cap", FLOAT, .dflt = "0", .max = 1e6, .meta = "N",
           .help = "a source comes at most N times; what that takes from it goes to the others; 0: no bound"),
    PU_ROW(options, mix.bytes, "bytes", INT, .dflt = "0", .max = 9e18, .meta = "N",
           .help = "how much text comes out, about; 0: as much as there is of the sources that come"),
    PU_ROW(options, mix.min_bytes, "min-bytes", INT, .dflt = "0", .max = 1e9, .meta = "N",
           .help = "shorter documents do not come"),
    PU_ROW(options, mix.join, "join", ENUM, .dflt = "none", .choices = PU_JOINS_TEXT,
           .help = "longer documents out of several: the files of a repository, each after those that it imports; or "
                   "each after the one it is most like"),
    PU_ROW(options, mix.join_bytes, "join-bytes", INT, .dflt = "131072", .min = 1, .max = 3e7, .meta = "N",
           .help = "how long a joined document becomes, about"),
    PU_ROW(options, mix.valid_fraction, "valid-fraction", FLOAT, .dflt = "0", .max = 0.9, .meta = "SHARE",
           .help =
               "tokenizer: share of the documents that goes to DIR/valid, the rest to DIR/train; else for join: that "
               "of `data tokenize`, so that no document is joined with one of the other side"),
    PU_ROW(options, mix.seed, "seed", INT, .dflt = "0", .help = "another seed, another order"),
    PU_ROW_TOKENIZER(options, "tokenizer", 't', false, "; makes token shards at once, without the mixed text"),
    PU_CLI_SHARDS_ROWS(options, shards),
    PU_CLI_STEP_ROWS(options, step),
    {0},
};

static pu_err mix_shards(const pu_cli *cli, const options *in, const char *stage, pu_error *e) {
  pu_cli_running running;
  pu_tokenizer *t;
  pu_tokenize_result result;
  PU_TRY(pu_cli_tokenizer(in->tokenizer, &t, e));
  const pu_tokenize_options o = pu_cli_tokenize_options(&in->shards, t, in->mix.valid_fraction);
  pu_err err = pu_cli_step_begin(&in->step, &running, e);
  if (err == PU_OK) err = pu_mix_shards(in->out, stage, &in->mix, &o, &running.how, &result, e);
  pu_cli_step_end(&running);
  pu_tokenizer_free(t);
  if (err == PU_OK && running.how.rank == 0) pu_cli_print_shards(cli->out, &result, in->step.json);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *in = given;
  pu_cli_running running;
  pu_data_result result;
  if (in->tokenizer) return mix_shards(cli, in, args[0], e);
  pu_err err = pu_cli_step_begin(&in->step, &running, e);
  if (err == PU_OK) err = pu_mix_documents(in->out, args[0], &in->mix, &running.how, &result, e);
  pu_cli_step_end(&running);
  if (err == PU_OK) pu_cli_step_print(cli, &running, in->out, &result, in->step.json);
  return err;
}

const pu_command pu_command_data_mix = {
    .name = "data mix",
    .summary = "sources by weight, in random order, joined for long contexts",
    .usage = "--out DIR STAGE [options]",
    .details =
        "How often each source comes stands in DIR/stage.json. A document comes in whole passes and, of a share "
        "of one, or not. With --tokenizer the mixture becomes token shards, the same as `data tokenize` makes of it, "
        "but its text is not written.\n\n"
        "A run that was stopped goes on where it was when the same command is given again.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
