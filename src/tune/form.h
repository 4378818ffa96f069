/* A form that conversations have in files. One file of src/tune/forms each, which defines `const pu_chat_form
 * pu_chat_form_NAME`: how its objects are known, and how one becomes messages. */
#ifndef PUYU_TUNE_FORM_H
#define PUYU_TUNE_FORM_H

#include "puyu/tune.h"

typedef struct pu_chat_form {
  const char *name, *summary;
  bool (*fits)(const json_t *o, const pu_chat_columns *c);
  pu_err (*read)(const json_t *o, const pu_chat_columns *c, pu_dialogue *out, pu_error *e);
} pu_chat_form;

extern const pu_chat_form *const pu_chat_form_all[];

enum { PU_DIALOGUE_MESSAGES = 1 << 14 /* at most */ };

/* What the file calls a key: as it was configured, else as the form does. */
static inline const char *pu_column(const char *configured, const char *key) {
  return configured ? configured : key;
}

/* "FILE:LINE: 'FIELD' problem"; field is put together like printf's. */
pu_err pu_dialogue_fail(const pu_dialogue *d, pu_error *e, const char *problem, const char *fmt, ...) PU_PRINTF(4, 5);
/* Appends a message, which becomes the dialogue's, whether it fails or not. */
pu_err pu_dialogue_add(pu_dialogue *d, json_t *message, bool learn, pu_error *e) PU_MUST_USE;
/* Appends one of a role and a text, and nothing where there is no text. */
pu_err pu_dialogue_say(pu_dialogue *d, const char *role, const json_t *text, bool learn, pu_error *e) PU_MUST_USE;
/* A key's text; *out NULL where it is missing or null. */
pu_err pu_dialogue_text(const pu_dialogue *d, const json_t *o, const char *key, const json_t **out,
                        pu_error *e) PU_MUST_USE;
/* The object's tools: a list, or a text that is one; functions that stand bare get their frame. */
pu_err pu_dialogue_tools(pu_dialogue *d, const json_t *o, const char *key, pu_error *e) PU_MUST_USE;

#endif
