#include "puyu/train.h"

#include "src/cli/cli.h"

typedef struct options {
  const char *out;
} options;

static const pu_option rows[] = {
    PU_ROW(options, out, "out", STR, .meta = "FILE", .help = "where to write the page; RUN/report.html unless given"),
    {0},
};

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  (void)n_args;
  const options *o = opts;
  PU_TRY(pu_report_write(args[0], o->out, NULL, e));
  fprintf(cli->out, "%s%s\n", o->out ? o->out : args[0], o->out ? "" : "/report.html");
  return PU_OK;
}

const pu_command pu_command_report = {
    .name = "report",
    .summary = "write the HTML report of a training run",
    .usage = "RUN [--out FILE]",
    .details = "One self-contained page: curves of loss, validation loss, learning rate, gradient norm and throughput, "
               "samples, configuration, machine. The run may still be going on.",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
