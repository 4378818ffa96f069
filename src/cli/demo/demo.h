/* The demo: the chain in stages, each a file here, each through the same functions that the separate commands use. */
#ifndef PUYU_CLI_DEMO_H
#define PUYU_CLI_DEMO_H

#include "puyu/data.h"
#include "puyu/engine.h"
#include "puyu/train.h"
#include "src/cli/cli.h"
#include "src/cli/sums.h"

typedef struct pu_demo_options {
  const char *text, *out, *shape, *device;
  int64_t vocab_size, megabytes, threads, seed;
  double minutes;
} pu_demo_options;

enum { PU_DEMO_SEQ_LEN = 256, PU_DEMO_BATCH = 8 };

typedef struct pu_demo_quantised {
  int64_t bytes_before, bytes_after; /* of all tensors */
  double perplexity_before, perplexity_after;
} pu_demo_quantised;

/* What stages hand on. Paths live in the command's arena. */
typedef struct pu_demo {
  const pu_demo_options *o;
  const pu_cli *cli;
  pu_arena *a;
  char *raw, *data, *corpus, *tokenizer, *shards, *run, *quantised, *report;
  pu_sum_list sums; /* held out of the corpus */
  pu_data_result cleaned;
  double cleaned_in; /* seconds */
  pu_tokenize_result tokens;
  int64_t vocab;
  pu_train_result trained;
  int64_t parameters;
  pu_demo_quantised quantising;
  const char *served; /* the model that is served */
  double served_rate; /* tokens a second, through HTTP */
  pu_buf samples;     /* HTML */
} pu_demo;

/* The table at the end, on the terminal and in the report. */
typedef struct pu_demo_table {
  FILE *out;
  pu_buf html;
} pu_demo_table;
void pu_demo_row(pu_demo_table *t, const char *label, const char *fmt, ...) PU_PRINTF(3, 4);
/* A text that the model wrote, told now and shown in the report. */
void pu_demo_sample(pu_demo *d, const char *prompt, pu_str text);

typedef struct pu_demo_stage {
  const char *title; /* "training a tokenizer" */
  pu_err (*run)(pu_demo *d, pu_error *e);
  void (*rows)(const pu_demo *d, pu_demo_table *t); /* its rows of the table */
} pu_demo_stage;

/* The last of the folders in d->data that the pipeline left: what the shards are of. NULL: no memory. */
const char *pu_demo_mixed(const pu_demo *d);
/* The pipeline's page, OUT/data/report.html, with the shards on it. */
pu_err pu_demo_data_report(const pu_demo *d, pu_error *e) PU_MUST_USE;

extern const pu_demo_stage pu_demo_corpus, pu_demo_data, pu_demo_tokenizer, pu_demo_shards, pu_demo_pretrain,
    pu_demo_answer, pu_demo_quantise, pu_demo_serve;

#endif
