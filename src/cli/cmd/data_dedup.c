/* What occurs again. */
#include "src/cli/pipeline.h"

typedef struct options {
  const char *out;
  pu_dedup_options dedup;
  pu_cli_step step;
} options;

static const pu_option rows[] = {
    PU_ROW_OUT(options, "DIR", "where the stage goes"),
    PU_ROW(options, dedup.mode, "mode", ENUM, .dflt = "minhash", .choices = PU_DEDUP_MODES_TEXT,
           .help = "documents that are equal, or nearly; or repeated paragraphs, lines, passages inside of documents"),
    PU_ROW(options, dedup.threshold, "threshold", FLOAT, .dflt = "0.7", .min = 0.05, .max = 1, .meta = "SHARE",
           .help = "minhash: similarity (Jaccard) from which documents are the same"),
    PU_ROW(options, dedup.keep, "keep", ENUM, .dflt = "first", .choices = PU_DEDUP_KEEPS_TEXT,
           .help = "which of them stays"),
    PU_ROW(options, dedup.score, "score", STR, .meta = "NAME",
           .help = "--keep best: the measure whose largest value stays, FILTER.MEASURE"),
    PU_ROW(options, dedup.min_bytes, "min-bytes", INT, .dflt = "0", .max = 1e9, .meta = "N",
           .help = "paragraph, line, substring: shorter ones may occur again; 0: the mode's own"),
    PU_CLI_MEMORY_ROW(options, step),
    PU_CLI_STEP_ROWS(options, step),
    {0},
};

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *in = given;
  pu_cli_running running;
  pu_data_result result;
  pu_err err = pu_cli_step_begin(&in->step, &running, e);
  if (err == PU_OK) err = pu_dedup_run(in->out, args[0], &in->dedup, &running.how, &result, e);
  pu_cli_step_end(&running);
  if (err == PU_OK) pu_cli_step_print(cli, &running, in->out, &result, in->step.json);
  return err;
}

const pu_command pu_command_data_dedup = {
    .name = "data dedup",
    .summary = "find what occurs again, and drop or cut it",
    .usage = "--out DIR STAGE [options]",
    .details =
        "Works on disk, in DIR/work, for corpora larger than memory. Every drop names the document that stays and "
        "how similar they are.\n\n"
        "A run that was stopped goes on where it was when the same command is given again.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
