/* A conversation over an engine: messages, rendered through the model's template for each answer. Of what the session
 * holds already, the part that is the same is kept, so an answer costs its new turn only. */
#ifndef PUYU_CONVERSATION_H
#define PUYU_CONVERSATION_H

#include "puyu/engine.h"

typedef struct pu_conversation {
  pu_engine *en;
  pu_session *session;
  pu_ids held;   /* what the session holds */
  pu_message *m; /* role: a constant; content: owned */
  size_t n, cap;
  int64_t answers; /* made so far: each draws from a seed of its own */
} pu_conversation;

pu_err pu_conversation_open(pu_engine *en, pu_conversation *out, pu_error *e) PU_MUST_USE;
void pu_conversation_close(pu_conversation *c);
/* NULL or empty: no system message. What was said before stays. */
pu_err pu_conversation_system(pu_conversation *c, const char *text, pu_error *e) PU_MUST_USE;
void pu_conversation_reset(pu_conversation *c); /* forgets all turns; the system message stays */
bool pu_conversation_undo(pu_conversation *c);  /* takes back the last question and its answer; false: there is none */

/* Adds a user's turn and its answer, whose text goes to on_text. `stop` is asked after each token: true ends the answer
 * where it is. *dropped: how many old turns no longer fitted the context and were taken out. On an error the
 * conversation is what it was before. */
pu_err pu_conversation_ask(pu_conversation *c, pu_str question, const pu_sampling *how, pu_on_text on_text, void *arg,
                           bool (*stop)(void), size_t *dropped, pu_error *e) PU_MUST_USE;

/* Appends {"messages": [{"role", "content"}, …]}, as OpenAI's. */
bool pu_conversation_json(const pu_conversation *c, pu_buf *out);

#endif
