/* Inside agent. */
#ifndef PUYU_AGENT_INTERNAL_H
#define PUYU_AGENT_INTERNAL_H

#include "src/agent/tool.h"

enum { AGENT_MOST_ANSWER = 16 << 20, AGENT_MOST_CALLS = 64 };

/* ---- schemas (schema.c) ------------------------------------------------------------------------------------------ */

/* Whether a value fits a JSON Schema, by what schemas of tools use: type, enum, properties, required,
 * additionalProperties: false, items. Where it does not, `why` says what to change. */
bool agent_fits(const json_t *schema, const json_t *value, char *why, size_t room);

/* ---- answers (answer.c) ------------------------------------------------------------------------------------------ */

/* An assistant's message that is put together of pieces. */
typedef struct agent_answer {
  pu_buf content;
  json_t *calls; /* of OpenAI's form, without their arguments */
  pu_buf arguments[AGENT_MOST_CALLS];
  bool failed; /* no memory, or more than may be */
} agent_answer;
void agent_answer_init(agent_answer *a);
void agent_answer_deinit(agent_answer *a);
bool agent_answer_say(agent_answer *a, pu_str text);
/* Begins a call; id NULL: it gets one when the agent takes it. */
bool agent_answer_call(agent_answer *a, const char *id, const char *name, bool is_code);
bool agent_answer_argue(agent_answer *a, size_t call, pu_str piece);
/* {"role", "content", "tool_calls"}; the caller owns it. Arguments are texts, whatever stands in them. */
pu_err agent_answer_message(agent_answer *a, json_t **message, pu_error *e) PU_MUST_USE;
/* Appends bytes as UTF-8; NULL: no memory. The caller owns it. */
json_t *agent_text(pu_str bytes);

/* ---- models (local.c, remote.c) ---------------------------------------------------------------------------------- */

typedef enum agent_finish { AGENT_DONE, AGENT_LENGTH, AGENT_CANCEL } agent_finish;

typedef struct agent_ask {
  const json_t *messages, *tools;
  const pu_sampling *how;
  bool (*stop)(void); /* never NULL */
  void (*on_text)(void *arg, pu_str text);
  void *arg;
} agent_ask;

struct pu_agent_model {
  bool takes_code; /* knows {"type": "code_interpreter"} */
  /* PU_ERR_USAGE: the conversation is too long for it. */
  pu_err (*answer)(pu_agent_model *m, const agent_ask *ask, json_t **message, agent_finish *finish, pu_error *e);
  void (*close)(pu_agent_model *m); /* frees m, too */
};

/* The ids of the last prompt and of what was answered to it, as a session holds them: for tests. */
void agent_local_ids(const pu_agent_model *m, pu_ids_view *prompt, pu_ids_view *answer);

/* ---- streams of servers (delta.c) -------------------------------------------------------------------------------- */

/* What a server's chunks say, read one after the other. Any bytes may come. */
typedef struct agent_stream {
  agent_answer answer;
  int64_t index[AGENT_MOST_CALLS]; /* the server's number of each call */
  char finish[32];                 /* its word; "": it has not ended */
  bool over;                       /* [DONE] */
  bool strange;                    /* an event was no JSON object */
  char why[300];                   /* an error that the server told; "": none */
  void (*on_text)(void *arg, pu_str text);
  void *arg;
} agent_stream;
void agent_stream_init(agent_stream *s, void (*on_text)(void *arg, pu_str text), void *arg);
void agent_stream_deinit(agent_stream *s);
bool agent_stream_event(void *stream, pu_str data); /* for pu_events_feed */

/* ---- agents (agent.c) -------------------------------------------------------------------------------------------- */

/* One more tool, before the first question. */
pu_err agent_add_tool(pu_agent *a, const pu_tool *t, const pu_agent_setup *setup, pu_error *e) PU_MUST_USE;

#endif
