#include "src/cli/pipeline.h"

typedef struct options {
  const char *out, *title;
} options;

static const pu_option rows[] = {
    PU_ROW_OUT(options, "FILE", "where to write the page"),
    PU_ROW(options, title, "title", STR, .dflt = "corpus", .meta = "TEXT", .help = "its heading"),
    {0},
};

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *in = given;
  PU_TRY(pu_data_report(in->title, args, (size_t)n_args, in->out, e));
  fprintf(cli->out, "%s\n", in->out);
  return PU_OK;
}

const pu_command pu_command_data_report = {
    .name = "data report",
    .summary = "write the HTML report of stages",
    .usage = "--out FILE STAGE... [options]",
    .details = "The stages in their order, the earliest first. One self-contained page: the funnel, what each rule "
               "dropped with samples, histograms of every measure, shares of sources and languages.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
