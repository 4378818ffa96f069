/* The whole pipeline by a YAML file. */
#include "src/cli/pipeline.h"

typedef struct options {
  pu_cli_step step;
} options;

static const pu_option rows[] = {
    PU_CLI_MEMORY_ROW(options, step),
    PU_CLI_STEP_ROWS(options, step),
    {0},
};

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *in = given;
  pu_data_config cfg = {0};
  pu_cli_running running;
  pu_data_result result;
  PU_TRY(pu_cli_read_config(pu_data_options, &cfg, args[0], n_args - 1, args + 1, cli->arena, e));
  pu_err err = pu_cli_step_begin(&in->step, &running, e);
  if (err == PU_OK) err = pu_data_run(&cfg, &running.how, &result, e);
  pu_cli_step_end(&running);
  if (err != PU_OK) return err;
  pu_cli_step_print(cli, &running, cfg.out, &result, in->step.json);
  if (running.how.rank > 0 || in->step.json) return PU_OK;
  if (cfg.tokenizer) fprintf(cli->out, "shards: %s/shards, %llu tokens\n", cfg.out, (unsigned long long)result.tokens);
  fprintf(cli->out, "report: %s/report.html\n", cfg.out);
  return PU_OK;
}

const pu_command pu_command_data_run = {
    .name = "data run",
    .summary = "raw files to token shards and a report, by a YAML file",
    .usage = "CONFIG.yaml [key=value …] [options]",
    .details =
        "Every step is a stage, a folder below OUT, with what it dropped and why. A run that was stopped goes on "
        "where it was when the same command is given again.\n\n"
        "Under mpirun or srun the work is shared; the files are the same whatever the number of processes and "
        "threads.\n\n"
        "Keys of the file can be given on the command line: out=/data/corpus.",
    .options = rows,
    .options_size = sizeof(options),
    .config = pu_data_options,
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
