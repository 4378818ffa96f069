/* What a request asks for: the bodies of routes, read and checked, without sockets or an engine. */
#ifndef PUYU_SERVE_ASK_H
#define PUYU_SERVE_ASK_H

#include "puyu/engine.h"

enum {
  PU_ASK_MAX_CHOICES = 128, /* answers of one request, over all its prompts */
  PU_ASK_MAX_STOP = 64,
  PU_ASK_MAX_BIAS = 1024,
  PU_ASK_MAX_MESSAGES = 1 << 14,
  PU_ASK_MAX_TOOLS = 1 << 10,
  PU_ASK_MAX_VALUES = 1 << 20, /* of JSON in a body: in memory each is many times what it is as text */
};

typedef struct pu_ask_prompt {
  pu_str text; /* or, where ids.v is set, these */
  pu_ids ids;
} pu_ask_prompt;

typedef struct pu_ask {
  json_t *body;      /* owns the strings */
  pu_arena *arena;   /* and this whatever was made from them */
  const char *param; /* after a failure: the key that is wrong, or NULL */
  const char *model; /* or NULL */
  pu_sampling how;
  bool has_seed, stream, include_usage, echo, no_answer; /* no_answer: max_tokens 0, only the prompt is asked about */
  int64_t n;                                             /* answers a prompt */
  int64_t top_logprobs;
  int64_t logprobs_from; /* with echo: the character of the echoed prompt from which on they are wanted */
  pu_str *bad_words;     /* texts that are not to come; their tokens go into `how` where there is a tokenizer */
  size_t n_bad_words;
  /* Inside body; NULL: none. Checked as far as the templates rely on it. */
  const json_t *messages, *tools, *template_options;
  bool one_call;  /* at most one tool call in an answer */
  bool must_call; /* the answer is one call, as {"name", "arguments"}: form says so */
  bool has_form;  /* the answer has to fit this: */
  pu_grammar_kind form;
  pu_str form_source;
  const char *form_key; /* the key that asked for it */
  pu_ask_prompt *prompts;
  size_t n_prompts;
} pu_ask;

/* Each reads one kind of body. After a failure, too, the ask is freed by pu_ask_deinit. */
pu_err pu_ask_chat(pu_str body, pu_ask *out, pu_error *e) PU_MUST_USE;       /* /v1/chat/completions */
pu_err pu_ask_completion(pu_str body, pu_ask *out, pu_error *e) PU_MUST_USE; /* /v1/completions */
pu_err pu_ask_text(pu_str body, pu_ask *out, pu_error *e) PU_MUST_USE;       /* messages, or one prompt */
pu_err pu_ask_tokens(pu_str body, pu_ask *out, pu_error *e) PU_MUST_USE;     /* "tokens": ids, as prompts[0].ids */
void pu_ask_deinit(pu_ask *a);

#endif
