#include "src/cli/tools.h"

#include <string.h>

static pu_err put(const pu_agent_tool *t, pu_arena *a, const char **out, pu_error *e) {
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  pu_buf_puts(&b, "{\"type\": \"function\", \"function\": {\"name\": ");
  pu_buf_json_str(&b, pu_str_c(t->name));
  pu_buf_puts(&b, ", \"description\": ");
  pu_buf_json_str(&b, pu_str_c(t->about));
  pu_buf_printf(&b, ", \"parameters\": %s}}", t->parameters);
  *out = b.failed ? NULL : pu_arena_strndup(a, b.data, b.len);
  pu_buf_deinit(&b);
  return *out ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for the tool '%s'", t->name);
}

pu_err pu_cli_tool_json(const char *name, pu_arena *a, const char **out, pu_error *e) {
  pu_agent_tool t;
  for (size_t i = 0; pu_agent_tool_at(i, &t); i++)
    if (strcmp(t.name, name) == 0) return put(&t, a, out, e);
  return pu_fail(e, PU_ERR_INTERNAL, "there is no tool '%s'", name);
}
