/* Tools that are built in, for what makes conversations about them. */
#ifndef PUYU_CLI_TOOLS_H
#define PUYU_CLI_TOOLS_H

#include "puyu/agent.h"

/* As OpenAI's API has it, and as an agent offers it: {"type": "function", "function": {"name", …}}. In the arena. */
pu_err pu_cli_tool_json(const char *name, pu_arena *a, const char **out, pu_error *e) PU_MUST_USE;

#endif
