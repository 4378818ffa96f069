#include "puyu/train.h"

#include "puyu/tune.h"

#include "src/cli/cli.h"
#include "src/cli/sample.h"

#include <math.h>

typedef struct options {
  const char *report;
} options;

static const pu_option rows[] = {
    PU_ROW(options, report, "report", STR, .meta = "FILE",
           .help = "write the report of the run there when it ends (see puyu report)"),
    {0},
};

static void print_result(FILE *out, const pu_train_config *cfg, const pu_train_result *r) {
  const double mib = 1024 * 1024;
  fprintf(out, "run         %s\nsteps       %lld\ntokens      %lld\n", cfg->run, (long long)r->steps,
          (long long)r->tokens);
  if (isfinite(r->loss)) fprintf(out, "loss        %.4f\n", r->loss);
  if (isfinite(r->valid_loss)) fprintf(out, "valid loss  %.4f\n", r->valid_loss);
  if (r->seconds > 0) fprintf(out, "time        %.1f s in steps, %.0f tokens/s at the end\n", r->seconds, r->tok_per_s);
  if (r->peak_bytes > 0)
    fprintf(out, "memory      %.0f MiB at most, %.0f MiB planned\n", (double)r->peak_bytes / mib,
            (double)r->planned_bytes / mib);
  fprintf(out, "checkpoint  %s\n", r->checkpoint);
}

static pu_err run(const pu_cli *cli, const void *opts, int n_args, const char **args, pu_error *e) {
  const options *o = opts;
  pu_train_config cfg = {0};
  pu_train_result result;
  PU_TRY(pu_cli_read_config(pu_train_options, &cfg, args[0], n_args - 1, args + 1, cli->arena, e));
  pu_signals_catch();
  pu_train_hooks hooks = {.feed = pu_tune_feed, .sample = pu_cli_sample_hook};
  pu_err err = pu_train_run(&cfg, &hooks, &result, e);
  if (err == PU_OK) print_result(cli->out, &cfg, &result);
  if (err == PU_OK && o->report) err = pu_report_write(cfg.run, o->report, NULL, e);
  return err;
}

const pu_command pu_command_train = {
    .name = "train",
    .summary = "train a model, or fine-tune one",
    .usage = "CONFIG.yaml [key=value …] [options]",
    .details =
        "Writes RUN/metrics.jsonl and a checkpoint RUN/step-NNNNNN/ at intervals, at the end, and when the "
        "process is told to stop (Ctrl-C, SIGTERM; the exit status is then 1). The same command goes on from the "
        "newest checkpoint, with the losses an unbroken run would have had, to the bit.\n\n"
        "Keys of the file can be given on the command line: optim.lr=3e-4.",
    .options = rows,
    .options_size = sizeof(options),
    .config = pu_train_options,
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
