/* A tool that models may call. One file of src/agent/tools each, which defines `const pu_tool pu_tool_NAME`. */
#ifndef PUYU_AGENT_TOOL_H
#define PUYU_AGENT_TOOL_H

#include "puyu/agent.h"

typedef struct pu_tool {
  pu_agent_tool is;
  /* NULL: it has no state. An error says what is missing. */
  pu_err (*open)(const pu_agent_setup *o, void **state, pu_error *e);
  /* Appends to out what the model is to read. The arguments fit the schema. An error is told to the model as one more
   * line; PU_ERR_NOMEM and PU_ERR_STOPPED end the question. stop says that nobody waits any more. */
  pu_err (*call)(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e);
  void (*reset)(void *state); /* another conversation begins; NULL: it remembers nothing */
  void (*close)(void *state); /* where open is */
} pu_tool;

extern const pu_tool *const pu_tool_all[]; /* generated from the folder; NULL at the end, sorted by file name */

#endif
