/* Documents with their text mended, and nothing else: what should stay is `data filter`'s business. */
#include "src/cli/pipeline.h"

typedef struct options {
  const char *out;
  pu_filter_options filter;
  pu_cli_input input;
  pu_cli_step step;
} options;

static const pu_option rows[] = {
    PU_ROW_OUT(options, "DIR", "where the stage goes"),
    PU_CLI_NORMALISE_ROWS(options, filter),
    PU_ROW(options, filter.mask, "mask", BOOL, .help = "replace personal data and keys"),
    PU_CLI_INPUT_ROWS(options, input),
    PU_CLI_STEP_ROWS(options, step),
    {0},
};

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *in = given;
  const char *filters[] = {"normalise", "mask"};
  const pu_clean_options o = {.filters = {filters, in->filter.mask ? 2 : 1}, .filter = in->filter};
  return pu_cli_clean(cli, in->out, n_args, args, &in->input, &o, &in->step, e);
}

const pu_command pu_command_data_clean = {
    .name = "data clean",
    .summary = "mend and unify characters, spaces and line ends",
    .usage = "--out DIR (STAGE | FILE...) [options]",
    .details = "The filter normalise alone, with --mask also mask: only documents without any text are dropped. The "
               "presets of `puyu data filter` begin with it.\n\n"
               "A run that was stopped goes on where it was when the same command is given again.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
