/* Many prompts answered together: what `generate --prompts` runs on. */
#ifndef PUYU_CLI_BATCH_H
#define PUYU_CLI_BATCH_H

#include "puyu/engine.h"

typedef struct pu_cli_batch {
  const char *name; /* of the prompts' file, for errors */
  pu_str text;      /* a prompt a line; empty lines are passed over */
  int64_t samples;  /* answers to each */
  int window;       /* prompts that are open at a time */
  pu_sampling how;  /* answer k of all (from 0) gets seed + k */
  pu_err (*encode)(void *arg, pu_str prompt, pu_ids *out, pu_error *e);
  void *arg;
} pu_cli_batch;

/* Prints an object a line, in the order of the prompts: line, sample, text, ids, finish. */
pu_err pu_cli_batch_run(const pu_cli_batch *b, pu_engine *en, FILE *out, pu_error *e) PU_MUST_USE;

const char *pu_cli_finish_name(pu_finish f); /* "stop" */

#endif
