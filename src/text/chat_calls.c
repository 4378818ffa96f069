/* Tools in conversations: messages and tools of OpenAI's form as turns of puyu's own templates. */
#include <string.h>

#include "src/text/chat.h"

static const char CODE[] = "code_interpreter";

static bool is_str(const json_t *v, const char *s) {
  return json_is_string(v) && strcmp(json_string_value(v), s) == 0;
}

static pu_err no_memory(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "no memory to render a chat");
}

/* ---- contents ---- */

pu_err chat_content(const json_t *content, pu_arena *a, pu_str *text, pu_error *e) {
  size_t i, n = 0;
  const json_t *part;
  *text = pu_str_of("", 0);
  if (!content || json_is_null(content)) return PU_OK;
  if (json_is_string(content)) {
    *text = pu_str_of(json_string_value(content), json_string_length(content));
    return PU_OK;
  }
  json_array_foreach(content, i, part) {
    const json_t *s = json_object_get(part, "text");
    if (!is_str(json_object_get(part, "type"), "text") || !json_is_string(s)) break;
    n += json_string_length(s);
  }
  *text = (pu_str){0};
  if (!json_is_array(content) || i < json_array_size(content)) return PU_OK;
  char *to = pu_arena_alloc(a, n + 1);
  if (!to) return no_memory(e);
  *text = pu_str_of(to, n);
  json_array_foreach(content, i, part) {
    const json_t *s = json_object_get(part, "text");
    to = mempcpy(to, json_string_value(s), json_string_length(s));
  }
  return PU_OK;
}

/* ---- calls as text ---- */

json_t *chat_arguments(const json_t *function) {
  json_t *v = json_object_get(function, "arguments");
  if (!v) v = json_object_get(function, "parameters");
  if (json_is_object(v)) return json_incref(v);
  if (json_is_string(v) && !json_string_length(v)) return json_object(); /* of a function that takes none */
  json_t *parsed = json_is_string(v) ? json_loadb(json_string_value(v), json_string_length(v), 0, NULL) : NULL;
  if (json_is_object(parsed)) return parsed;
  json_decref(parsed);
  return NULL;
}

static pu_err code_text(const json_t *call, pu_buf *out, pu_error *e) {
  const json_t *input = json_object_get(json_object_get(call, CODE), "input");
  if (!json_is_string(input)) return pu_fail(e, PU_ERR_USAGE, "a call of the code interpreter has no input");
  pu_buf_puts(out, "\n```python\n");
  pu_buf_append(out, json_string_value(input), json_string_length(input));
  return pu_buf_puts(out, "\n```") ? PU_OK : no_memory(e);
}

pu_err chat_call_text(const json_t *call, bool *is_code, pu_buf *out, pu_error *e) {
  *is_code = is_str(json_object_get(call, "type"), CODE);
  if (*is_code) return code_text(call, out, e);
  const json_t *function = json_object_get(call, "function");
  json_t *name = json_object_get(function, "name"), *arguments = chat_arguments(function);
  pu_err err = PU_OK;
  if (!json_is_string(name) || !arguments)
    err = pu_fail(e, PU_ERR_USAGE, "a tool call needs a function with a name, and arguments that are a JSON object");
  json_t *o = err ? NULL : json_pack("{s:O, s:O}", "name", name, "parameters", arguments);
  if (!err && !o) err = no_memory(e);
  if (!err) pu_buf_putc(out, '\n');
  if (!err) err = chat_dump(o, out, e);
  json_decref(o);
  json_decref(arguments);
  return err;
}

/* ---- a conversation as turns ---- */

typedef struct builder {
  const pu_chat_template *c;
  const pu_chat *chat;
  pu_arena *a;
  chat_turn *turns;
  size_t n;
  pu_error *e;
} builder;

static void add_turn(builder *b, const char *role, const char *name, pu_str content, const json_t *calls) {
  b->turns[b->n++] = (chat_turn){.m = {role, name, content}, .calls = calls, .place = -1};
}

static pu_err add_functions(builder *b) {
  size_t i;
  json_t *tool, *list = json_array();
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  json_array_foreach(b->chat->tools, i, tool) {
    json_t *function = json_object_get(tool, "function");
    if (!is_str(json_object_get(tool, "type"), CODE)) json_array_append(list, function ? function : tool);
  }
  pu_err err = list ? PU_OK : no_memory(b->e);
  if (!err && json_array_size(list) > 0) {
    err = chat_dump(list, &text, b->e);
    char *copy = err ? NULL : pu_arena_strndup(b->a, text.data, text.len);
    if (!err && !copy) err = no_memory(b->e);
    if (!err) add_turn(b, "system", CHAT_PLUGIN, pu_str_of(copy, text.len), NULL);
  }
  json_decref(list);
  pu_buf_deinit(&text);
  return err;
}

static void add_interpreter(builder *b) {
  static const char task[] =
      "Python code can be run for you. Write a block of code where it helps, and read its output.";
  size_t i;
  const json_t *tool;
  json_array_foreach(b->chat->tools, i, tool) {
    if (!is_str(json_object_get(tool, "type"), CODE)) continue;
    const json_t *own = json_object_get(tool, "description");
    const char *text = json_is_string(own) ? json_string_value(own) : task;
    add_turn(b, "system", CHAT_INTERPRETER, pu_str_c(text), NULL);
    return;
  }
}

static pu_err add_tools(builder *b) {
  if (json_array_size(b->chat->tools) == 0) return PU_OK;
  if (!(b->c->calls & CHAT_CALLS_INTERNLM2))
    return pu_fail(b->e, PU_ERR_UNSUPPORTED,
                   "chat template \"%s\" has no form for tools; a model that knows them brings a chat_template",
                   b->c->name);
  PU_TRY(add_functions(b));
  add_interpreter(b);
  return PU_OK;
}

/* Was the call with this id one of code? */
static bool called_code(const json_t *messages, const json_t *id) {
  size_t i, k;
  const json_t *m, *call;
  json_array_foreach(messages, i, m) {
    json_array_foreach(json_object_get(m, "tool_calls"), k, call) {
      if (json_is_string(id) && is_str(json_object_get(call, "id"), json_string_value(id)))
        return is_str(json_object_get(call, "type"), CODE);
    }
  }
  return false;
}

/* InternLM2 hears which of its two tools answers, not the function's name. */
static const char *shown_name(const builder *b, const json_t *m) {
  const char *name = json_string_value(json_object_get(m, "name"));
  if (!(b->c->calls & CHAT_CALLS_INTERNLM2) || !is_str(json_object_get(m, "role"), "tool")) return name;
  return called_code(b->chat->messages, json_object_get(m, "tool_call_id")) ? CHAT_INTERPRETER : CHAT_PLUGIN;
}

static pu_err add_message(builder *b, size_t i, const json_t *m) {
  const char *role = json_string_value(json_object_get(m, "role"));
  pu_str content;
  if (!role) return pu_fail(b->e, PU_ERR_USAGE, "message %zu has no role", i + 1);
  PU_TRY(chat_content(json_object_get(m, "content"), b->a, &content, b->e));
  if (!content.ptr)
    return pu_fail(b->e, PU_ERR_UNSUPPORTED, "message %zu: chat template \"%s\" renders text only", i + 1, b->c->name);
  add_turn(b, role, shown_name(b, m), content, json_object_get(m, "tool_calls"));
  b->turns[b->n - 1].place = (int32_t)i;
  return PU_OK;
}

pu_err chat_turns(const pu_chat_template *c, const pu_chat *chat, pu_arena *a, chat_turn **out, size_t *n,
                  pu_error *e) {
  builder b = {.c = c, .chat = chat, .a = a, .e = e};
  size_t i, most = json_array_size(chat->messages) + 2, bytes;
  const json_t *m;
  if (pu_mul_overflows(most, sizeof *b.turns, &bytes)) return no_memory(e);
  b.turns = pu_arena_alloc(a, bytes);
  if (!b.turns) return no_memory(e);
  bool system = is_str(json_object_get(json_array_get(chat->messages, 0), "role"), "system");
  if (!system) PU_TRY(add_tools(&b));
  json_array_foreach(chat->messages, i, m) {
    PU_TRY(add_message(&b, i, m));
    if (i == 0 && system) PU_TRY(add_tools(&b));
  }
  *out = b.turns;
  *n = b.n;
  return PU_OK;
}
