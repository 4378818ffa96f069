/* Sources by weight, in random order. */
#include "src/cli/pipeline.h"

typedef struct options {
  const char *out;
  pu_mix_options mix;
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
           .help = "join: that of `data tokenize`, so that no document is joined with one of the other side"),
    PU_ROW(options, mix.seed, "seed", INT, .dflt = "0", .help = "another seed, another order"),
    PU_CLI_STEP_ROWS(options, step),
    {0},
};

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *in = given;
  pu_cli_running running;
  pu_data_result result;
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
    .details = "How often each source comes stands in DIR/stage.json. A document comes in whole passes and, of a share "
               "of one, or not.\n\n"
               "A run that was stopped goes on where it was when the same command is given again.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
