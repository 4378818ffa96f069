/* Raw files to documents, as they are. */
#include "src/cli/pipeline.h"

typedef struct options {
  const char *out;
  pu_cli_input input;
  pu_cli_step step;
} options;

static const pu_option rows[] = {
    PU_ROW_OUT(options, "DIR", "where the stage goes"),
    PU_CLI_INPUT_ROWS(options, input),
    PU_CLI_STEP_ROWS(options, step),
    {0},
};

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *in = given;
  const pu_clean_options o = {0};
  return pu_cli_clean(cli, in->out, n_args, args, &in->input, &o, &in->step, e);
}

const pu_command pu_command_data_extract = {
    .name = "data extract",
    .summary = "read documents out of raw files",
    .usage = "--out DIR FILE... [options]",
    .details =
        "Files are web pages, web archives (WARC), EPUB books, JSON Lines, CSV, Parquet, Markdown, LaTeX, source "
        "code and text in any common charset, plain or with .gz or .zst, zip and tar archives, or folders of "
        "them (docs/data.md). What is broken is counted, recorded with its place, and passed over.\n\n"
        "A run that was stopped goes on where it was when the same command is given again.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
