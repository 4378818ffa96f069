/* What the forms share. */
#include <string.h>

#include "src/tune/form.h"

bool pu_dialogue_form_at(size_t i, pu_dialogue_form *out) {
  for (size_t k = 0; k <= i; k++)
    if (!pu_chat_form_all[k]) return false;
  *out = (pu_dialogue_form){pu_chat_form_all[i]->name, pu_chat_form_all[i]->summary};
  return true;
}

void pu_dialogue_deinit(pu_dialogue *d) {
  json_decref(d->messages);
  json_decref(d->tools);
  json_decref(d->learn);
  d->messages = d->tools = d->learn = NULL;
}

pu_err pu_dialogue_fail(const pu_dialogue *d, pu_error *e, const char *problem, const char *fmt, ...) {
  char field[200];
  va_list args;
  va_start(args, fmt);
  vsnprintf(field, sizeof field, fmt, args);
  va_end(args);
  return pu_fail(e, PU_ERR_FORMAT, "%s: '%s' %s", d->where, field, problem);
}

pu_err pu_dialogue_add(pu_dialogue *d, json_t *message, bool learn, pu_error *e) {
  if (json_array_size(d->messages) == PU_DIALOGUE_MESSAGES) {
    json_decref(message);
    return pu_fail(e, PU_ERR_FORMAT, "%s: more than %d messages", d->where, PU_DIALOGUE_MESSAGES);
  }
  bool good = json_array_append_new(d->messages, message) == 0;
  good = good && json_array_append_new(d->learn, json_boolean(learn)) == 0;
  return good ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its messages", d->where);
}

pu_err pu_dialogue_say(pu_dialogue *d, const char *role, const json_t *text, bool learn, pu_error *e) {
  if (!text || json_string_length(text) == 0) return PU_OK;
  return pu_dialogue_add(d, json_pack("{s:s, s:O}", "role", role, "content", text), learn, e);
}

pu_err pu_dialogue_text(const pu_dialogue *d, const json_t *o, const char *key, const json_t **out, pu_error *e) {
  const json_t *v = json_object_get(o, key);
  *out = json_is_string(v) ? v : NULL;
  if (!v || json_is_null(v) || json_is_string(v)) return PU_OK;
  return pu_dialogue_fail(d, e, "is no text", "%s", key);
}

/* {"name", "description", "parameters"} alone becomes {"type": "function", "function": …}. */
static json_t *framed(json_t *tool) {
  if (json_object_get(tool, "function") || json_object_get(tool, "type")) return json_incref(tool);
  return json_pack("{s:s, s:O}", "type", "function", "function", tool);
}

static pu_err add_tools(pu_dialogue *d, const json_t *list, const char *key, pu_error *e) {
  size_t i;
  json_t *tool;
  d->tools = json_array();
  json_array_foreach(list, i, tool) {
    if (!json_is_object(tool)) return pu_dialogue_fail(d, e, "is no object", "%s[%zu]", key, i);
    if (json_array_append_new(d->tools, framed(tool)) != 0)
      return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for its tools", d->where);
  }
  return PU_OK;
}

pu_err pu_dialogue_tools(pu_dialogue *d, const json_t *o, const char *key, pu_error *e) {
  json_t *v = json_object_get(o, key), *parsed = NULL;
  if (!v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0)) return PU_OK;
  if (json_is_string(v)) v = parsed = json_loadb(json_string_value(v), json_string_length(v), JSON_ALLOW_NUL, NULL);
  pu_err err = json_is_array(v) ? add_tools(d, v, key, e)
                                : pu_dialogue_fail(d, e, "is no list of tools, nor a text that is one", "%s", key);
  json_decref(parsed);
  if (!err && json_array_size(d->tools) == 0) {
    json_decref(d->tools);
    d->tools = NULL;
  }
  return err;
}
