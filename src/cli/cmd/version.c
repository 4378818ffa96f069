#include "src/cli/cli.h"

static pu_err run(const pu_cli *cli, const void *options, int n_args, const char **args, pu_error *e) {
  (void)options, (void)n_args, (void)args, (void)e;
  fprintf(cli->out, "puyu %s\n", PU_VERSION);
  return PU_OK;
}

const pu_command pu_command_version = {
    .name = "version",
    .summary = "print the version",
    .usage = "",
    .run = run,
};
