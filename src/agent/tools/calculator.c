/* Arithmetic, for models that are bad at it. */
#include "src/agent/calc.h"
#include "src/agent/tool.h"

static pu_err call(void *state, const json_t *arguments, bool (*stop)(void), pu_buf *out, pu_error *e) {
  const json_t *text = json_object_get(arguments, "expression");
  (void)state, (void)stop;
  return agent_calculate(pu_str_of(json_string_value(text), json_string_length(text)), out, e);
}

const pu_tool pu_tool_calculator = {
    .is = {.name = "calculator",
           .about =
               "Computes an arithmetic expression exactly: + - * / // % ^, parentheses, percent, and functions such as "
               "sqrt, round, log, sin, min, max, factorial, gcd; constants pi and e.",
           .parameters =
               "{\"type\": \"object\", \"properties\": {\"expression\": {\"type\": \"string\", \"description\": "
               "\"such as (17.5 + 3) * 12^2\"}}, \"required\": [\"expression\"]}"},
    .call = call,
};
