/* The demo: the chain in stages, each a file here, each through the same functions that the separate commands use. */
#ifndef PUYU_CLI_DEMO_H
#define PUYU_CLI_DEMO_H

#include "puyu/data.h"
#include "puyu/engine.h"
#include "puyu/eval.h"
#include "puyu/train.h"
#include "src/cli/cli.h"

typedef struct pu_demo_options {
  const char *text, *out, *shape, *device;
  int64_t vocab_size, megabytes, threads, seed, dialogues, questions;
  double minutes;
} pu_demo_options;

enum { PU_DEMO_SEQ_LEN = 256, PU_DEMO_BATCH = 8, PU_DEMO_CONTEXT = 512 };
#define PU_DEMO_TUNE_SHARE (1.0 / 3) /* of the minutes; pretraining has the rest */

typedef struct pu_demo_quantised {
  int64_t bytes_before, bytes_after; /* of all tensors */
  double perplexity_before, perplexity_after;
} pu_demo_quantised;

/* The model as it is asked: after each step that changes it, and through HTTP. */
typedef enum pu_demo_model {
  PU_DEMO_PRETRAINED,
  PU_DEMO_TUNED,
  PU_DEMO_QUANTISED,
  PU_DEMO_SERVED,
  PU_DEMO_MODELS
} pu_demo_model;
extern const char *const pu_demo_model_names[PU_DEMO_MODELS];

/* What it is asked: rows of `tasks` in evaluate.c. */
enum { PU_DEMO_TASKS = 8 };

/* The same sums, asked with the calculator and without. */
typedef struct pu_demo_tool {
  int asked, helped, alone; /* helped, alone: right with it, without */
  int64_t calls;
  pu_buf transcript, examples; /* HTML: turns; rows of a table */
} pu_demo_tool;

/* What stages hand on. Paths live in the command's arena. */
typedef struct pu_demo {
  const pu_demo_options *o;
  const pu_cli *cli;
  pu_arena *a;
  char *raw, *data, *corpus, *talks, *questions, *tokenizer, *shards, *run, *chat, *quantised, *report;
  const char *tool; /* the calculator as the model is offered it: JSON */
  pu_data_result cleaned;
  double cleaned_in; /* seconds */
  pu_tokenize_result tokens;
  int64_t vocab;
  pu_train_result trained, tuned;
  int64_t parameters;
  pu_demo_quantised quantising;
  pu_eval_result scores[PU_DEMO_TASKS][PU_DEMO_MODELS]; /* n 0: not asked */
  pu_demo_tool use;
  double served_rate;         /* tokens a second, through HTTP */
  pu_buf samples, talk, curl; /* HTML: texts of the pretrained model, answers of the tuned one, and through HTTP */
} pu_demo;

/* ---- the table at the end, on the terminal and in the report ---- */

typedef struct pu_demo_table {
  FILE *out;
  pu_buf html;
} pu_demo_table;
void pu_demo_row(pu_demo_table *t, const char *label, const char *fmt, ...) PU_PRINTF(3, 4);

typedef struct pu_demo_stage {
  const char *title; /* "training a tokenizer" */
  /* Of its part of the report, and what is done there, in HTML. NULL: it goes on with the part of the stage before. */
  const char *heading, *about;
  pu_err (*run)(pu_demo *d, pu_error *e);
  void (*rows)(const pu_demo *d, pu_demo_table *t);            /* its rows of the table; or NULL */
  pu_err (*part)(const pu_demo *d, pu_buf *html, pu_error *e); /* what follows them in the report; or NULL */
} pu_demo_stage;

extern const pu_demo_stage pu_demo_corpus, pu_demo_data, pu_demo_tokenizer, pu_demo_shards, pu_demo_pretrain,
    pu_demo_ask_pretrained, pu_demo_tune, pu_demo_ask_tuned, pu_demo_quantise, pu_demo_ask_quantised, pu_demo_serve,
    pu_demo_use_tool;

/* ---- what stages share ---- */

/* A text that a model wrote, told now and appended for the report. */
void pu_demo_sample(pu_buf *html, const char *prompt, pu_str text);

/* The last of the folders in d->data that the pipeline left: what the shards are of. NULL: no memory. */
const char *pu_demo_mixed(const pu_demo *d);
/* The pipeline's page, OUT/data/report.html, with the shards on it. */
pu_err pu_demo_data_report(const pu_demo *d, pu_error *e) PU_MUST_USE;

/* Trains with these keys; those that both trainings have alike are set here. */
typedef struct pu_demo_setting {
  const char *key, *value; /* NULL: no memory */
} pu_demo_setting;
pu_err pu_demo_train(pu_demo *d, const pu_demo_setting *v, size_t n, double minutes, pu_train_result *out,
                     pu_error *e) PU_MUST_USE;
/* s inside single quotes of YAML. NULL: no memory. */
const char *pu_demo_quoted(pu_arena *a, const char *s);

/* Files of questions and tasks in d->questions: opened, filled, closed by the stage that makes the corpus. */
typedef struct pu_demo_questions pu_demo_questions;
pu_err pu_demo_questions_open(const pu_demo *d, pu_demo_questions **out, pu_error *e) PU_MUST_USE;
pu_err pu_demo_questions_add(pu_demo_questions *q, const pu_synth_question *question, pu_error *e) PU_MUST_USE;
/* Text that nobody trains on. */
pu_err pu_demo_questions_text(pu_demo_questions *q, pu_str text, pu_error *e) PU_MUST_USE;
pu_err pu_demo_questions_close(pu_demo_questions *q, pu_err err, pu_error *e) PU_MUST_USE;

/* An engine over the model at `path`, as all stages ask it. */
pu_err pu_demo_engine(const pu_demo *d, const char *path, pu_engine **out, pu_error *e) PU_MUST_USE;
/* The scores of all tasks and models as a table. */
void pu_demo_scores(const pu_demo *d, pu_demo_table *t);
/* All tasks, of the engine or, where en is NULL, of the server at where. */
pu_err pu_demo_evaluate(pu_demo *d, pu_demo_model which, pu_engine *en, const char *where, pu_error *e) PU_MUST_USE;

#endif
