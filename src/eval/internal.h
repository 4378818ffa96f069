/* Inside eval. */
#ifndef PUYU_EVAL_INTERNAL_H
#define PUYU_EVAL_INTERNAL_H

#include "puyu/eval.h"

/* ---- what a model is asked (local.c, remote.c) ------------------------------------------------------------------- */

/* What a model said of an option or a window. */
typedef struct eval_told {
  double nats; /* of the tokens that count, negative log-probabilities */
  int64_t tokens;
  double whole_nats; /* of all tokens but the first, where ask.whole */
  int64_t whole_tokens;
} eval_told;

typedef struct eval_ask {
  /* The prompt: head, examples, question. Where it does not fit, the last examples are left out. */
  pu_str head, question;
  const pu_str *shots;
  int64_t n_shots; /* afterwards: how many were used */
  /* A choice: */
  const pu_str *options;
  size_t n_options;
  bool whole;      /* whole_nats are wanted */
  eval_told *told; /* [n_options], or one for a window */
  /* A window of a text: all but the first id are told. */
  const int32_t *ids;
  size_t n_ids;
  /* An answer: */
  const pu_strs *stop;
  int64_t max_tokens;
  pu_buf text; /* initialised by the caller */
  bool cut;    /* it reached max_tokens */

  bool too_long; /* the prompt does not fit, even without examples */
} eval_ask;

/* Called when an ask is answered, in any order. An error ends the run. */
typedef pu_err (*eval_done)(void *arg, eval_ask *ask, pu_error *e);
/* The next ask; NULL: there is none left. It lives until it is done. */
typedef eval_ask *(*eval_next)(void *arg);

struct pu_eval_model {
  char *name, *identity;
  bool chat;
  /* Asks all that next gives, several at a time. */
  pu_err (*run)(pu_eval_model *m, eval_next next, eval_done done, void *arg, pu_error *e);
  pu_err (*encode)(pu_eval_model *m, pu_str text, pu_ids *out, pu_error *e);
  int64_t (*context)(const pu_eval_model *m); /* tokens of prompt and answer; 0: not known */
  void (*close)(pu_eval_model *m);
};
/* Copies name and identity into m; m is freed on failure. */
pu_err eval_model_name(pu_eval_model *m, const char *name, const char *identity, pu_error *e) PU_MUST_USE;
/* Appends the prompt with so many examples. */
bool eval_put_prompt(const eval_ask *ask, int64_t shots, pu_buf *b);

/* ---- what servers answer (reply.c) ---- */

/* Of /v1/completions with echo and logprobs, a choice an option or one window, into ask->told. with_one: a token was
 * made behind each prompt. */
pu_err eval_reply_told(const char *who, pu_str body, bool with_one, eval_ask *ask, pu_error *e) PU_MUST_USE;
/* The first choice's text, and whether it was cut. */
pu_err eval_reply_answer(const char *who, pu_str body, bool chat, eval_ask *ask, pu_error *e) PU_MUST_USE;

/* ---- questions (items.c) ----------------------------------------------------------------------------------------- */

typedef struct eval_subject {
  const char *name; /* "": the task has none */
  pu_str head;
  pu_str *shots;
  int64_t n_shots;
  uint64_t before; /* a hash of head and examples */
} eval_subject;

typedef struct eval_item {
  const eval_subject *subject;
  int64_t index;   /* in its subject */
  uint64_t number; /* of its record in the file */
  pu_str question, answer;
  pu_str *options;
  size_t n_options;
  int64_t right; /* the option; -1: no choice */
} eval_item;

typedef struct eval_items {
  pu_arena *arena;
  eval_item *v;
  size_t n, cap;
} eval_items;
/* All questions of a task, `limit` a subject (0: all). */
pu_err eval_items_read(const pu_eval_task *t, const pu_eval_options *o, eval_items *out, pu_error *e) PU_MUST_USE;
void eval_items_free(eval_items *items);

/* ---- answers (extract.c, math.c) --------------------------------------------------------------------------------- */

typedef struct eval_extractor eval_extractor;
pu_err eval_extractor_open(const pu_eval_task *t, eval_extractor **out, pu_error *e) PU_MUST_USE;
void eval_extractor_close(eval_extractor *x);
/* What the answer's text says, by the task's rules, appended to out; *found false: none of them finds anything. */
pu_err eval_extract(const eval_extractor *x, pu_str text, pu_buf *out, bool *found, pu_error *e) PU_MUST_USE;
bool eval_same(pu_eval_compare how, pu_str got, pu_str wanted);
/* The number a text begins with, with or without commas between thousands: its bytes, 0: none. Appends it in plain
 * form:
 * "-1200.5". */
size_t eval_number(pu_str text, pu_buf *out);
/* Appends the text with characters of full width as those of ASCII. */
void eval_narrow(pu_str text, pu_buf *out);
pu_str eval_trimmed(pu_str s);
/* One spelling of an expression of many. */
void eval_math_plain(pu_str text, pu_buf *out);

/* ---- scores (score.c) -------------------------------------------------------------------------------------------- */

/* The option with the best score by the rule; ties: the first. */
int64_t eval_pick(pu_eval_rule rule, const eval_told *told, const pu_str *options, size_t n);

/* One sample as the log has it. */
typedef struct eval_sample {
  double score;                /* 1 right, 0 wrong; perplexity: 0 */
  double picks[PU_EVAL_RULES]; /* the score by each rule, of choices; -1: not known */
  double nats;
  int64_t tokens, words, bytes;
  bool unread, cut, too_long;
} eval_sample;

typedef struct eval_tally eval_tally;
eval_tally *eval_tally_new(void); /* NULL: no memory */
void eval_tally_free(eval_tally *t);
bool eval_tally_add(eval_tally *t, const char *subject, const eval_sample *s);
/* measure and strings are the caller's. rule -1: the samples' own score. */
void eval_tally_result(const eval_tally *t, pu_eval_kind kind, int rule, pu_eval_result *out);
/* The i-th subject's own result; NULL past the last. */
const char *eval_tally_subject(const eval_tally *t, size_t i, pu_eval_kind kind, int rule, pu_eval_result *out);
/* "acc (sum)". Lives forever. */
const char *eval_measure(pu_eval_kind kind, int rule);

/* ---- the log (log.c) --------------------------------------------------------------------------------------------- */

typedef struct eval_log eval_log;
/* OUT/MODEL/TASK.jsonl, held by this process. out NULL: nothing is kept. head: the run, which this takes over. */
pu_err eval_log_open(const char *out, const char *model, const char *task, json_t *head, eval_log **log,
                     pu_error *e) PU_MUST_USE;
void eval_log_close(eval_log *log);
/* The sample of that key from an earlier run; NULL: it is to be asked. */
const json_t *eval_log_find(const eval_log *log, const char *key);
/* Appends a line; takes over the record. */
pu_err eval_log_put(eval_log *log, json_t *record, pu_error *e) PU_MUST_USE;
/* Once a text before questions: head and examples of the ask. */
pu_err eval_log_before(eval_log *log, const char *hash, const eval_ask *ask, int64_t shots, pu_error *e) PU_MUST_USE;
/* Calls `each` for every whole line of a log. */
pu_err eval_log_each(const char *path, pu_err (*each)(void *arg, json_t *record, pu_error *e), void *arg,
                     pu_error *e) PU_MUST_USE;
void eval_sample_read(const json_t *record, eval_sample *out);

#endif
