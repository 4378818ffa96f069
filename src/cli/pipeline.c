/* What the commands of the data pipeline share. */
#include "src/cli/pipeline.h"

#include <stdlib.h>
#include <string.h>

/* The place of this process among those that mpirun or srun started: they say so in the environment. */
static void find_rank(int *rank, int *ranks) {
  static const char *const names[][2] = {
      {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}, {"PMI_RANK", "PMI_SIZE"}, {"SLURM_PROCID", "SLURM_NTASKS"}};
  *rank = 0;
  *ranks = 1;
  for (size_t i = 0; i < PU_COUNT(names); i++) {
    const char *r = getenv(names[i][0]), *n = getenv(names[i][1]);
    long size = n ? strtol(n, NULL, 10) : 0, at = r ? strtol(r, NULL, 10) : -1;
    if (size < 1 || size > 1 << 16 || at < 0 || at >= size) continue;
    *rank = (int)at;
    *ranks = (int)size;
    return;
  }
}

static void show(void *arg, const char *step, double done, double total) {
  pu_cli_running *r = arg;
  if (!r->step || strcmp(r->step, step) != 0) {
    pu_progress_close(r->bar);
    r->bar = pu_progress_open(step, "units", total);
    r->step = step;
  }
  pu_progress_set(r->bar, done, NULL);
}

pu_err pu_cli_step_begin(const pu_cli_step *in, pu_cli_running *r, pu_error *e) {
  *r = (pu_cli_running){.how = {.force = in->force, .progress = show, .progress_arg = r}};
  find_rank(&r->how.rank, &r->how.ranks);
  r->how.memory = (size_t)(in->memory * (double)((size_t)1 << 30));
  pu_signals_catch();
  return pu_pool_create((int)in->threads, &r->how.pool, e);
}

void pu_cli_step_end(pu_cli_running *r) {
  pu_progress_close(r->bar);
  pu_pool_free(r->how.pool);
}

void pu_cli_step_print(const pu_cli *cli, const pu_cli_running *r, const char *dir, const pu_data_result *result,
                       bool json) {
  unsigned long long in = result->documents, out = result->dropped, skipped = result->skipped, bytes = result->bytes;
  if (r->how.rank > 0) return;
  if (json) {
    fprintf(cli->out, "{\"documents\": %llu, \"dropped\": %llu, \"kept\": %llu, \"bytes\": %llu, \"skipped\": %llu}\n",
            in, out, in - out, bytes, skipped);
    return;
  }
  fprintf(cli->out, "%s: %llu documents, %llu dropped, %llu left", dir, in, out, in - out);
  if (skipped) fprintf(cli->out, "; %llu broken records skipped", skipped);
  if (skipped && pu_data_is_stage(dir)) fprintf(cli->out, " (puyu data stats %s says why)", dir);
  fputc('\n', cli->out);
}

pu_err pu_cli_clean(const pu_cli *cli, const char *dir, int n_args, const char **args, const pu_cli_input *input,
                    const pu_clean_options *o, const pu_cli_step *step, pu_error *e) {
  const pu_source source = {.name = input->name,
                            .paths = {args, (size_t)n_args},
                            .format = input->format,
                            .key = input->key,
                            .charset = input->charset,
                            .split = input->split,
                            .html = input->html};
  bool is_stage = false;
  pu_clean_options all = *o;
  pu_cli_running running;
  pu_data_result result;
  if (n_args == 1) PU_TRY(pu_data_find_stage(args[0], &is_stage, e));
  if (!is_stage) {
    all.sources = &source;
    all.n_sources = 1;
  }
  pu_err err = pu_cli_step_begin(step, &running, e);
  if (err == PU_OK) err = pu_clean_run(dir, is_stage ? args[0] : NULL, &all, &running.how, &result, e);
  pu_cli_step_end(&running);
  if (err == PU_OK) pu_cli_step_print(cli, &running, dir, &result, step->json);
  return err;
}

pu_tokenize_options pu_cli_tokenize_options(const pu_cli_shards *in, const pu_tokenizer *t, double valid_fraction) {
  return (pu_tokenize_options){.tokenizer = t,
                               .valid_fraction = valid_fraction,
                               .bos = in->bos,
                               .eos = in->eos,
                               .internevo = in->internevo,
                               .max_tokens = (uint64_t)in->tokens};
}

void pu_cli_print_shards(FILE *out, const pu_tokenize_result *r, bool json) {
  double each = r->tokens ? (double)r->bytes / (double)r->tokens : 0;
  fprintf(out,
          json ? "{\"documents\": %llu, \"tokens\": %llu, \"bytes\": %llu, \"bytes_per_token\": %.3f, "
                 "\"valid_documents\": %llu, \"valid_tokens\": %llu}\n"
               : "%llu documents, %llu tokens of %llu bytes, %.3f bytes a token; for validation %llu documents, "
                 "%llu tokens\n",
          (unsigned long long)r->documents, (unsigned long long)r->tokens, (unsigned long long)r->bytes, each,
          (unsigned long long)r->valid_documents, (unsigned long long)r->valid_tokens);
}
