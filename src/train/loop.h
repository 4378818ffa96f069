/* A run in progress: everything it owns. setup.c makes it, step.c advances it, loop.c decides what comes when. */
#ifndef PUYU_TRAIN_LOOP_H
#define PUYU_TRAIN_LOOP_H

#include "src/train/checkpoint.h"
#include "src/train/data.h"
#include "src/train/live.h"
#include "src/train/memory.h"
#include "src/train/metrics.h"
#include "src/train/news.h"

#include <time.h>

typedef struct pu_train_loop {
  pu_train_config cfg; /* resolved */
  const pu_train_hooks *hooks;
  pu_arena *host;     /* as long as the run */
  pu_claim *claim;    /* of its directory */
  const char *resume; /* the checkpoint resumed from; NULL: none */
  const char *from; /* the model's directory: model.path, or the checkpoint where it holds one; NULL: random weights */
  const char *config; /* the resolved configuration as YAML */

  pu_backend *be;
  pu_tokenizer *tokenizer; /* NULL: none */
  pu_model *model;
  pu_adapter *adapter;       /* what is trained, where the model stays as it is; else NULL */
  pu_train_data data, valid; /* valid empty: no validation */
  pu_train_optim optim;
  pu_train_saver *saver;
  pu_train_plan plan;

  /* A step's work space. */
  pu_arena *step_host;     /* headers and records of one micro-batch */
  void *activation_memory; /* of the backend */
  pu_ctx ctx;
  pu_tape *tape; /* lives in host: steps reset it */
  pu_train_rows rows, valid_rows;
  pu_train_pack pack;
  pu_train_news news;  /* with room for the losses of the whole batch */
  double *source_loss; /* [most_sources] sums of a step */
  int64_t *source_tokens;
  size_t most_sources; /* of training and validation */
  double squares;      /* of a step: sum of its documents' squared lengths */

  pu_train_state state;
  pu_train_log metrics, samples;
  pu_train_live live;
  double peak_flops; /* MFU's denominator: the most that the machine was seen to do */
  double told_flops; /* what run.json says of it */
  double next_peak;  /* at so many seconds of steps it is measured again */
  time_t started;
  size_t base_bytes, peak_bytes;
  double loss, tok_per_s, mfu; /* of the last step */
  double seconds;              /* of this process in steps */
  int64_t saved_step;          /* of the last checkpoint submitted or found; -1: none */
} pu_train_loop;

/* Opens the run: directory, data, model (resumed where there is a checkpoint), memory. Of a run that has all its steps
 * only the directory and the state: it needs neither text nor weights. Close also after an error. */
pu_err pu_train_loop_open(pu_train_loop *l, const pu_train_config *cfg, const pu_train_hooks *hooks,
                          pu_error *e) PU_MUST_USE;
void pu_train_loop_close(pu_train_loop *l);

/* A run that has all its steps: removes the tokenised text that it was made from. */
void pu_train_loop_forget_text(const pu_train_loop *l);

/* A run that is given minutes: estimates anew how many steps fit (train.steps). */
void pu_train_loop_follow_clock(pu_train_loop *l);
/* The run has all its steps already. */
static inline bool pu_train_loop_done(const pu_train_loop *l) {
  return l->state.step >= l->cfg.train.steps;
}

/* One optimiser step: gradients of the whole batch, guards, update, a line of metrics. *stopped: a signal to stop was
 * heard between two of its micro-batches; the step was not made and leaves no trace. */
pu_err pu_train_loop_step(pu_train_loop *l, bool *stopped, pu_error *e) PU_MUST_USE;
/* Mean loss over the validation batches. */
pu_err pu_train_loop_validate(pu_train_loop *l, pu_error *e) PU_MUST_USE;
/* RUN/run.json: model, data and machine, for the report. */
pu_err pu_train_write_facts(pu_train_loop *l, pu_error *e) PU_MUST_USE;

#endif
