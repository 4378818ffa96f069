/* ShareGPT's: {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", …}], "system", "tools"}. Speakers
 * that call tools (function_call, whose value is JSON) and tools that answer (observation) are LLaMA-Factory's. */
#include <string.h>

#include "src/tune/form.h"

static const struct {
  const char *from, *role;
} speakers[] = {{"human", "user"},          {"user", "user"},         {"gpt", "assistant"},
                {"assistant", "assistant"}, {"chatgpt", "assistant"}, {"model", "assistant"},
                {"system", "system"},       {"observation", "tool"},  {"tool", "tool"}};

static const json_t *list_of(const json_t *o, const pu_chat_columns *c) {
  return json_object_get(o, pu_column(c->messages, "conversations"));
}

static bool fits(const json_t *o, const pu_chat_columns *c) {
  return json_is_string(json_object_get(json_array_get(list_of(o, c), 0), pu_column(c->role, "from")));
}

/* {"name", "arguments"} as a call of OpenAI's form. */
static pu_err add_call(pu_dialogue *d, const json_t *value, const char *key, size_t i, pu_error *e) {
  json_t *call = json_loadb(json_string_value(value), json_string_length(value), JSON_ALLOW_NUL, NULL);
  if (!json_is_string(json_object_get(call, "name"))) {
    json_decref(call);
    return pu_dialogue_fail(d, e, "is no call: {\"name\": …, \"arguments\": {…}}", "%s[%zu]", key, i);
  }
  json_t *m = json_pack("{s:s, s:n, s:[{s:s, s:O}]}", "role", "assistant", "content", "tool_calls", "type", "function",
                        "function", call);
  json_decref(call);
  return pu_dialogue_add(d, m, true, e);
}

static pu_err add(pu_dialogue *d, const json_t *turn, const pu_chat_columns *c, size_t i, pu_error *e) {
  const char *key = pu_column(c->messages, "conversations"), *from_key = pu_column(c->role, "from"),
             *value_key = pu_column(c->content, "value");
  const char *from = json_string_value(json_object_get(turn, from_key));
  const json_t *value = json_object_get(turn, value_key), *loss = json_object_get(turn, "loss");
  if (!from) return pu_dialogue_fail(d, e, "is no text", "%s[%zu].%s", key, i, from_key);
  if (!json_is_string(value)) return pu_dialogue_fail(d, e, "is no text", "%s[%zu].%s", key, i, value_key);
  if (strcmp(from, "function_call") == 0) return add_call(d, value, key, i, e);
  for (size_t k = 0; k < PU_COUNT(speakers); k++)
    if (strcmp(from, speakers[k].from) == 0)
      return pu_dialogue_say(d, speakers[k].role, value, !json_is_false(loss), e);
  return pu_dialogue_fail(d, e, "is no speaker that is known (human, gpt, system, function_call, observation)",
                          "%s[%zu].%s", key, i, from_key);
}

static pu_err read(const json_t *o, const pu_chat_columns *c, pu_dialogue *out, pu_error *e) {
  const json_t *list = list_of(o, c), *turn, *system;
  size_t i;
  if (!json_is_array(list))
    return pu_dialogue_fail(out, e, "is no list", "%s", pu_column(c->messages, "conversations"));
  PU_TRY(pu_dialogue_text(out, o, pu_column(c->system, "system"), &system, e));
  PU_TRY(pu_dialogue_say(out, "system", system, false, e));
  json_array_foreach(list, i, turn) PU_TRY(add(out, turn, c, i, e));
  return pu_dialogue_tools(out, o, pu_column(c->tools, "tools"), e);
}

const pu_chat_form pu_chat_form_sharegpt = {"sharegpt", "ShareGPT's: conversations of from and value", fits, read};
