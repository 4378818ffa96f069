/* agent: a model that may call tools: asked, it answers or calls, reads what its calls gave, and goes on.
 *
 * Tools are one file each in src/agent/tools. A model is an engine in this process or any server that speaks OpenAI's
 * API. An agent is a conversation with one of them: messages in OpenAI's form, rendered (or sent) anew for each step, so
 * that what it keeps is exactly what `task: sft` trains on (puyu/tune.h, the form `messages`).
 *
 * Steps. A step is one answer of the model. An answer without calls ends the question. Otherwise all its calls are run, in
 *           their order, and what they gave goes back as messages of the role "tool". A call that cannot be run (no such
 *           tool, arguments that are no JSON or do not fit its schema) and one that fails give the model a line that
 *           begins with "Error: ".
 * Forms.  For InternLM2's own template, functions are its plugins and the interpreter is offered as {"type":
 *           "code_interpreter"}; everywhere else all tools are functions, in the way that the template or server has.
 *
 * Threads: one; a server of OpenAI's API may be asked while other threads do other things. */
#ifndef PUYU_AGENT_H
#define PUYU_AGENT_H

#include "puyu/engine.h"

/* ---- tools ------------------------------------------------------------------------------------------------------- */

typedef struct pu_agent_tool {
  const char *name, *about;
  const char *parameters; /* a JSON Schema of its arguments, which are an object */
  bool is_code;           /* the code interpreter: its one argument is "code" */
} pu_agent_tool;
/* The i-th by name; false past the last. */
bool pu_agent_tool_at(size_t i, pu_agent_tool *out);

/* What tools are opened with. Strings live as long as the agent. */
typedef struct pu_agent_setup {
  const char *docs; /* the folder of documents: `search` looks in it, `python` reads it as /data; NULL: none */
  void (*progress)(void *arg, double done, double total); /* bytes of it that are indexed; NULL: not wanted */
  void *progress_arg;
} pu_agent_setup;

/* ---- models ------------------------------------------------------------------------------------------------------ */

typedef struct pu_agent_model pu_agent_model;

/* Over an engine with a tokenizer and a chat template, which outlives it; it goes by its first adapter, if it has one. */
pu_err pu_agent_engine(pu_engine *en, pu_agent_model **out, pu_error *e) PU_MUST_USE;

typedef struct pu_agent_server {
  const char *url;     /* "http://127.0.0.1:23333", with or without /v1 */
  const char *model;   /* NULL: the first that the server names */
  const char *key;     /* NULL: none */
  const char *ca_file; /* NULL: the system's */
  double seconds;      /* of one answer; 0: any time */
} pu_agent_server;
/* Asks the server for its models, so that one that is not there is said at once. */
pu_err pu_agent_remote(const pu_agent_server *o, pu_agent_model **out, pu_error *e) PU_MUST_USE;
void pu_agent_model_close(pu_agent_model *m); /* NULL is fine */

/* ---- agents ------------------------------------------------------------------------------------------------------ */

typedef enum pu_agent_end {
  PU_AGENT_ANSWERED,
  PU_AGENT_STEPS,    /* max_steps are spent, and the last answer had calls */
  PU_AGENT_REPEATED, /* one call was made for the third time */
  PU_AGENT_CUT,      /* the answer reached max_tokens, or the end of the context */
  PU_AGENT_FULL,     /* the conversation no longer fits the model's context */
  PU_AGENT_STOPPED,  /* stop said so */
  PU_AGENT_ENDS
} pu_agent_end;
extern const char *const pu_agent_end_names[PU_AGENT_ENDS]; /* "answered", … */

typedef enum pu_agent_event_kind {
  PU_AGENT_STEP,   /* the model is asked: `step` */
  PU_AGENT_TEXT,   /* `text`, a piece of its answer */
  PU_AGENT_CALL,   /* `name` is called with `text`: its arguments as JSON, or the code */
  PU_AGENT_RESULT, /* and gave `text`; `failed` */
  PU_AGENT_END     /* `end` */
} pu_agent_event_kind;
typedef struct pu_agent_event {
  pu_agent_event_kind kind;
  int step; /* from 1 */
  pu_str text;
  const char *name;
  bool failed;
  pu_agent_end end;
} pu_agent_event;

typedef struct pu_agent_options {
  pu_agent_model *model; /* outlives the agent. NULL: it comes with pu_agent_use, so that a tool that cannot be opened
                            shows before minutes of reading weights */
  const char *const *tools;
  size_t n_tools;
  pu_agent_setup setup;
  const char *system; /* NULL or empty: none */
  int max_steps;      /* of one question; 0: 8 */
  /* Seeds differ by step. A server gets what OpenAI's API has, and the rest where it is not the default. Strings live as
   * long as the agent. */
  pu_sampling how;
  void (*on_event)(void *arg, const pu_agent_event *ev); /* what it is given lives as long as the call; NULL: none */
  void *arg;
  bool (*stop)(void); /* asked after each token and between calls; NULL: never */
} pu_agent_options;

typedef struct pu_agent_count {
  int64_t steps, calls;
  int64_t unknown;    /* calls of tools that are not there */
  int64_t unreadable; /* calls whose arguments are no JSON object or do not fit the schema */
  int64_t failed;     /* calls that were run and failed */
} pu_agent_count;

typedef struct pu_agent pu_agent;
/* Opens its tools. Errors name the tool that is not there, or what it lacks. */
pu_err pu_agent_open(const pu_agent_options *o, pu_agent **out, pu_error *e) PU_MUST_USE;
void pu_agent_close(pu_agent *a); /* NULL is fine */
pu_err pu_agent_use(pu_agent *a, pu_agent_model *m, pu_error *e) PU_MUST_USE;
/* A user's turn and all steps of its answer. On an error (the server went away, no memory) the conversation is what it
 * was before. After any end it can be gone on with. */
pu_err pu_agent_ask(pu_agent *a, pu_str question, pu_agent_end *end, pu_error *e) PU_MUST_USE;
/* Forgets all turns; system text and tools stay. */
pu_err pu_agent_reset(pu_agent *a, pu_error *e) PU_MUST_USE;
const json_t *pu_agent_messages(const pu_agent *a);
const json_t *pu_agent_tools(const pu_agent *a); /* as the model is offered them */
pu_agent_count pu_agent_counted(const pu_agent *a); /* of all questions */
/* What the last answer said; "" where there is none. Lives until the next call. */
pu_str pu_agent_said(const pu_agent *a);
/* Appends {"messages", "tools"} and a line's end: a line of a file that `task: sft` trains on. An answer whose calls could
 * not be read, or named no tool, has "loss": false, so that nobody learns it. Nothing where no question was answered. */
pu_err pu_agent_transcript(const pu_agent *a, pu_buf *out, pu_error *e) PU_MUST_USE;

#endif
