/* Inside of chat templates: chat.c has puyu's own and how they are rendered; chat_load.c those that models bring, and
 * the calls that take either; chat_calls.c tools: what a conversation says of them; chat_scan.c a call's JSON as it
 * comes, chat_reader.c calls found in an answer. */
#ifndef PUYU_TEXT_CHAT_H
#define PUYU_TEXT_CHAT_H

#include "puyu/text.h"

/* How a template writes an answer's calls; a Jinja template may teach several. */
enum { CHAT_CALLS_INTERNLM2 = 1, CHAT_CALLS_TAGS = 2, CHAT_CALLS_LLAMA3 = 4 };

#define CHAT_ACTION_START "<|action_start|>"
#define CHAT_ACTION_END   "<|action_end|>"
#define CHAT_PLUGIN       "<|plugin|>"
#define CHAT_INTERPRETER  "<|interpreter|>"

struct pu_chat_template {
  const char *name;
  unsigned calls; /* CHAT_CALLS_…; of puyu's own, those with INTERNLM2 render tools too */
  /* puyu's own (chat.c) */
  const char *begin;      /* a marker in front of everything, or NULL */
  bool begins_if_trained; /* else: bos in front where the tokenizer adds one */
  bool trim;              /* contents lose the white space at both ends */
  const char *const *stops;
  const struct chat_role *roles; /* NULL-ended */
  /* a model's (chat_load.c); then all of it is owned */
  pu_jinja *jinja;
  pu_jinja *with_tools; /* what is used where there are tools; NULL: the same */
  json_t *special;
};

/* A message of a conversation as an own template renders it. */
typedef struct chat_turn {
  pu_message m;
  const json_t *calls; /* its tool_calls, an array, or NULL */
  int32_t place;       /* in the list of messages; -1: it is of none */
} chat_turn;

/* chat.c. t NULL: text to `text`; else ids to `ids` and, where it is not NULL, a turn's place for each id of an answer
 * to `answers`, -1 for the others. A failed call may leave text, but no ids. */
pu_err chat_render_own(const pu_chat_template *c, const pu_tokenizer *t, const chat_turn *turns, size_t n,
                       bool generate, pu_buf *text, pu_ids *ids, pu_ids *answers, pu_error *e) PU_MUST_USE;

/* chat_answers.c */
typedef pu_err (*chat_ids_fn)(const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, pu_buf *text,
                              pu_ids *ids, pu_error *e);
/* Whose answer each id of a Jinja template is; render gives text and ids of a conversation. */
pu_err chat_answers_jinja(const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, chat_ids_fn render,
                          pu_ids *ids, pu_ids *answers, pu_error *e) PU_MUST_USE;

/* chat_calls.c. Turns of a conversation with its tools as turns of their own; strings live in a. */
pu_err chat_turns(const pu_chat_template *c, const pu_chat *chat, pu_arena *a, chat_turn **out, size_t *n,
                  pu_error *e) PU_MUST_USE;
/* Name and arguments of a call ({"name", "parameters"}, as text), or the code of InternLM2's interpreter. */
pu_err chat_call_text(const json_t *call, bool *is_code, pu_buf *out, pu_error *e) PU_MUST_USE;
/* A content as text: a string as it is, null as nothing, parts of text joined. *text NULL: it holds something else. */
pu_err chat_content(const json_t *content, pu_arena *a, pu_str *text, pu_error *e) PU_MUST_USE;
/* The call's arguments as an object, where they are one or are a text that is one; else NULL. The caller owns it. */
json_t *chat_arguments(const json_t *function);

/* chat_load.c */
pu_err chat_dump(const json_t *v, pu_buf *out, pu_error *e) PU_MUST_USE; /* JSON as Python writes it */
size_t chat_stops_of(const pu_chat_template *c, const pu_tokenizer *t, int32_t *out, size_t max);

#endif
