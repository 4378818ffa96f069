/* A run as its files tell it: metrics.jsonl, samples.jsonl, run.json. */
#ifndef PUYU_TRAIN_HISTORY_H
#define PUYU_TRAIN_HISTORY_H

#include "src/train/chart.h"

enum { PU_TRAIN_SOURCES = 8 }; /* sources that get a curve of their own */

typedef struct pu_train_history {
  pu_train_series loss, valid, lr, norm, rate, mfu; /* mfu: per cent */
  pu_train_series source[PU_TRAIN_SOURCES];
  char *source_name[PU_TRAIN_SOURCES];
  size_t n_sources;
  int64_t steps, tokens, skipped;
  double seconds;
  json_t *samples; /* array of {step, prompt, text} */
  json_t *facts;   /* run.json; NULL: none */
  pu_buf config;   /* config.yaml */
} pu_train_history;

/* A run that is still being written may have an unfinished last line: it is left out. Close also after an error. */
pu_err pu_train_history_read(const char *run, pu_train_history *out, pu_error *e) PU_MUST_USE;
void pu_train_history_close(pu_train_history *h);

#endif
