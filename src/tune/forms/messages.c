/* OpenAI's: {"messages": [{"role", "content", "tool_calls", "tool_call_id", "name", "loss": false}], "tools": […]}. */
#include "src/tune/form.h"

static const json_t *list_of(const json_t *o, const pu_chat_columns *c) {
  return json_object_get(o, pu_column(c->messages, "messages"));
}

static bool fits(const json_t *o, const pu_chat_columns *c) {
  const json_t *first = json_array_get(list_of(o, c), 0);
  return json_string_value(json_object_get(first, pu_column(c->role, "role"))) != NULL;
}

/* Under the names that templates know. */
static bool rename_key(json_t *m, const char *from, const char *to) {
  json_t *v = json_object_get(m, from);
  if (!from || !v || from == to) return true;
  return json_object_set(m, to, v) == 0 && json_object_del(m, from) == 0;
}

static pu_err check(const pu_dialogue *d, const json_t *m, const char *key, size_t i, pu_error *e) {
  const json_t *content = json_object_get(m, "content"), *calls = json_object_get(m, "tool_calls"),
               *loss = json_object_get(m, "loss");
  if (!json_is_string(json_object_get(m, "role"))) return pu_dialogue_fail(d, e, "is no text", "%s[%zu].role", key, i);
  if (content && !json_is_string(content) && !json_is_null(content) && !json_is_array(content))
    return pu_dialogue_fail(d, e, "is neither a text nor a list of parts", "%s[%zu].content", key, i);
  if (!content && !calls) return pu_dialogue_fail(d, e, "is missing", "%s[%zu].content", key, i);
  if (calls && !json_is_array(calls) && !json_is_null(calls))
    return pu_dialogue_fail(d, e, "is no list", "%s[%zu].tool_calls", key, i);
  if (loss && !json_is_boolean(loss))
    return pu_dialogue_fail(d, e, "is neither true nor false", "%s[%zu].loss", key, i);
  return PU_OK;
}

static pu_err add(pu_dialogue *d, const json_t *from, const pu_chat_columns *c, size_t i, pu_error *e) {
  const char *key = pu_column(c->messages, "messages");
  if (!json_is_object(from)) return pu_dialogue_fail(d, e, "is no object", "%s[%zu]", key, i);
  json_t *m = json_copy((json_t *)(uintptr_t)from);
  bool good = m && rename_key(m, c->role, "role") && rename_key(m, c->content, "content");
  pu_err err = good ? check(d, m, key, i, e) : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its messages", d->where);
  if (err) {
    json_decref(m);
    return err;
  }
  bool learn = !json_is_false(json_object_get(m, "loss"));
  json_object_del(m, "loss"); /* no template is to see it */
  if (json_is_null(json_object_get(m, "tool_calls"))) json_object_del(m, "tool_calls");
  return pu_dialogue_add(d, m, learn, e);
}

static pu_err read(const json_t *o, const pu_chat_columns *c, pu_dialogue *out, pu_error *e) {
  const json_t *list = list_of(o, c), *m;
  size_t i;
  if (!json_is_array(list)) return pu_dialogue_fail(out, e, "is no list", "%s", pu_column(c->messages, "messages"));
  json_array_foreach(list, i, m) PU_TRY(add(out, m, c, i, e));
  return pu_dialogue_tools(out, o, pu_column(c->tools, "tools"), e);
}

const pu_chat_form pu_chat_form_messages = {"messages", "OpenAI's: messages of role and content, tools and their calls",
                                            fits, read};
