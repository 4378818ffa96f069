/* eval: how well models do on sets of questions, in process or behind any server that speaks OpenAI's API.
 *
 * A task is a YAML file and no code: where its questions are, how they are put, and how answers become scores. Three
 * kinds: choice by likelihood (the option that the model finds most likely), generation with extraction, and perplexity
 * of a text. Names that are built in, and the keys of a task: docs/evaluate.md.
 *
 * Everything that was asked and answered goes into a log, a file a model and task in the run's folder, JSON Lines that
 * are only ever appended to. A sample's key there is a hash of all that could change its answer: the model's weights (or
 * server and name), how it is computed, the task, the prompt and the options. What has its key in the log is not asked
 * again, so a run that was ended goes on, and a report needs nothing but the folder.
 *
 * Scores of a model do not depend on the batch, nor on whether it is asked in process or through puyu serve.
 *
 * Threads: one. Sources: Brown et al. 2020 (few-shot, choice by likelihood and its normalisations), Gao et al. 2021
 * (lm-evaluation-harness: acc, acc_norm, rolling windows), OpenCompass 2023 (whole-sequence perplexity). */
#ifndef PUYU_EVAL_H
#define PUYU_EVAL_H

#include "puyu/engine.h"

/* ---- tasks ------------------------------------------------------------------------------------------------------- */

typedef enum pu_eval_kind { PU_EVAL_CHOICE, PU_EVAL_GENERATE, PU_EVAL_PERPLEXITY } pu_eval_kind;

/* What the options of a question are compared by: log-probability of an option's tokens after the context, or mean of
 * the whole sequence. Bytes and characters are those of the option without the space before it. */
typedef enum pu_eval_rule {
  PU_EVAL_SUM,      /* the sum: lm-eval's acc */
  PU_EVAL_CHAR,     /* a character: lm-eval's acc_norm */
  PU_EVAL_BYTE,     /* a byte */
  PU_EVAL_TOKEN,    /* a token */
  PU_EVAL_SEQUENCE, /* a token of prompt and option together: OpenCompass's ppl */
  PU_EVAL_RULES
} pu_eval_rule;
extern const char *const pu_eval_rule_names[PU_EVAL_RULES]; /* "sum", … */

typedef enum pu_eval_compare {
  PU_EVAL_EXACT,  /* the same text but for case and spaces around it */
  PU_EVAL_NUMBER, /* the same number, however it is written */
  PU_EVAL_MATH    /* the same expression, as far as spelling goes: see src/eval/math.c */
} pu_eval_compare;

/* Texts are Jinja templates over a record's fields and `subject`, `title`; those of options also over `choice`, `label`
 * and `index`. */
typedef struct pu_eval_task {
  const char *name, *about;
  int kind;           /* pu_eval_kind */
  const char *test;   /* of records, below the data folder; a * in the file's name is the subject */
  const char *dev;    /* of examples, its * the same subject; NULL: none */
  pu_strs columns;    /* of files without names of columns: see pu_records_each */
  pu_strs titles;     /* "subject=what it is called" */
  int64_t shots;      /* examples before a question: the first so many of dev */
  const char *head;   /* before the examples, once */
  const char *prompt; /* the question */
  const char *target; /* of an example: what follows it */
  const char *between;
  pu_strs choices;          /* options, as they follow the prompt; or one template and: */
  const char *choices_from; /* a field that is a list, "question.choices": an option an entry */
  const char *answer;       /* the right option's label or number from 0; the right text */
  int rule;                 /* pu_eval_rule */
  pu_strs extract;          /* tried in this order on an answer: "letter", "number", "boxed", "text", or a regex */
  int compare;              /* pu_eval_compare */
  pu_strs stop;
  int64_t max_tokens;
  int64_t window; /* perplexity: tokens told at a time, at most */
  uint64_t hash;  /* of everything above */
} pu_eval_task;
extern const pu_option pu_eval_task_options[]; /* the keys of a task's YAML */

/* what: a built-in name; FILE.yaml; or a file of OpenCompass's custom form, mcq or qa, with or without .meta.json beside
 * it. data: the folder of the sets (may be NULL for what names its files absolutely). Lives in the arena. */
pu_err pu_eval_task_open(const char *what, pu_arena *a, pu_eval_task **out, pu_error *e) PU_MUST_USE;
/* From the text of a YAML file. */
pu_err pu_eval_task_parse(const char *name, pu_str text, pu_arena *a, pu_eval_task **out, pu_error *e) PU_MUST_USE;
/* The i-th built-in task's name; NULL past the last. */
const char *pu_eval_task_at(size_t i);

/* ---- models ------------------------------------------------------------------------------------------------------ */

typedef struct pu_eval_model pu_eval_model;

/* Over an engine, which outlives it. identity: what its answers depend on besides prompts, see pu_eval_identity.
 * chat: what is to be answered is asked as a user's turn. naive: every option is computed whole, for itself, to measure what
 * sharing saves; the engine should have no prefix cache then. */
typedef struct pu_eval_local {
  pu_engine *engine;
  const char *adapter; /* of the engine; NULL: none */
  const char *name, *identity;
  int batch; /* questions at a time */
  bool chat, naive;
} pu_eval_local;
pu_err pu_eval_local_open(const pu_eval_local *o, pu_eval_model **out, pu_error *e) PU_MUST_USE;
/* Names, sizes and samples (4 KiB of each MiB) of a model's files, and the words given: the model's identity. */
pu_err pu_eval_identity(const char *model, const char *adapter, const char *words, pu_arena *a, const char **out,
                        pu_error *e) PU_MUST_USE;

typedef struct pu_eval_remote {
  const char *url;     /* "http://127.0.0.1:23333", with or without /v1 */
  const char *model;   /* NULL: the first that the server names */
  const char *name;    /* in the report; NULL: the model's */
  const char *key;     /* NULL: none */
  const char *ca_file; /* NULL: the system's */
  int concurrency, retries;
  double seconds; /* of one request */
  bool chat;
} pu_eval_remote;
/* Asks the server for its models; the error of one that is not there says so. */
pu_err pu_eval_remote_open(const pu_eval_remote *o, pu_eval_model **out, pu_error *e) PU_MUST_USE;
void pu_eval_model_close(pu_eval_model *m); /* NULL is fine */
const char *pu_eval_model_name(const pu_eval_model *m);

/* ---- running ----------------------------------------------------------------------------------------------------- */

typedef struct pu_eval_options {
  const char *data; /* the folder of the sets */
  const char *out;  /* of the logs; NULL: none are kept */
  int64_t limit;    /* questions of each subject; 0: all */
  int64_t shots;    /* -1: as the task says */
  int rule;         /* pu_eval_rule; -1: as the task says */
  int64_t max_tokens;
} pu_eval_options;

typedef struct pu_eval_score {
  double value, error; /* share of right answers, or perplexity; standard error */
} pu_eval_score;
typedef struct pu_eval_result {
  const char *model, *task, *measure; /* measure: "acc (sum)", "right", "word perplexity" */
  int kind;                           /* pu_eval_kind */
  pu_eval_score micro, macro;         /* over questions; over subjects, each counting the same */
  double token_perplexity, byte_perplexity, bits_per_byte; /* of perplexity */
  int64_t n, subjects;
  int64_t unread, cut, too_long; /* answers without a result in them; cut at the limit; prompts that do not fit */
  int64_t reused;                /* taken from the log */
  double seconds;                /* of asking */
} pu_eval_result;

/* One task on one model. The result's strings live as long as task and model. */
pu_err pu_eval_run(const pu_eval_task *task, pu_eval_model *m, const pu_eval_options *o, pu_eval_result *out,
                   pu_error *e) PU_MUST_USE;

/* ---- reports ----------------------------------------------------------------------------------------------------- */

typedef enum pu_eval_form { PU_EVAL_TABLE, PU_EVAL_MARKDOWN, PU_EVAL_JSON, PU_EVAL_HTML } pu_eval_form;
/* Results as rows, appended to out; not as HTML. */
pu_err pu_eval_table(const pu_eval_result *v, size_t n, pu_eval_form form, pu_buf *out, pu_error *e) PU_MUST_USE;
/* What the logs in the folders say, appended to out. HTML: one self-contained page with samples to look at. */
pu_err pu_eval_report(const char *const *dirs, size_t n, pu_eval_form form, pu_buf *out, pu_error *e) PU_MUST_USE;

#endif
