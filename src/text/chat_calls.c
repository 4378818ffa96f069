/* Tools in conversations: messages and tools of OpenAI's form as turns of puyu's own templates, and the calls that an
 * answer makes as messages of that form. */
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
  b->turns[b->n++] = (chat_turn){{role, name, content}, calls};
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

/* ---- calls in an answer ---- */

typedef struct call_form {
  unsigned style;
  const char *open, *close; /* close NULL: to the end of the answer */
  json_t *(*read)(pu_str inside);
} call_form;

static pu_str trimmed(pu_str s) {
  while (s.len && strchr(" \t\r\n", *s.ptr)) s = pu_str_of(s.ptr + 1, s.len - 1);
  while (s.len && strchr(" \t\r\n", s.ptr[s.len - 1])) s.len--;
  return s;
}

/* {"name": …, "arguments" or "parameters": {…}}; NULL: it is something else. */
static json_t *read_function(pu_str inside) {
  json_t *o = json_loadb(inside.ptr, inside.len, 0, NULL), *name = json_object_get(o, "name");
  json_t *arguments = chat_arguments(o), *call = NULL;
  pu_buf text;
  pu_buf_init(&text, INT32_MAX);
  if (json_is_string(name) && arguments && chat_dump(arguments, &text, NULL) == PU_OK)
    call = json_pack("{s:s, s:{s:O, s:s#}}", "type", "function", "function", "name", name, "arguments", text.data,
                     (int)text.len);
  pu_buf_deinit(&text);
  json_decref(arguments);
  json_decref(o);
  return call;
}

/* A fenced block, or code as it is. */
static json_t *read_code(pu_str inside) {
  pu_str s = trimmed(inside);
  if (s.len >= 6 && memcmp(s.ptr, "```", 3) == 0 && memcmp(s.ptr + s.len - 3, "```", 3) == 0) {
    const char *line = memchr(s.ptr, '\n', s.len);
    if (line) s = pu_str_of(line + 1, (size_t)PU_MAX(s.ptr + s.len - 3 - (line + 1), (ptrdiff_t)0));
    if (s.len && s.ptr[s.len - 1] == '\n') s.len--;
  }
  return json_pack("{s:s, s:{s:s#}}", "type", CODE, CODE, "input", s.ptr, (int)PU_MIN(s.len, (size_t)INT32_MAX));
}

static const call_form forms[] = {
    {CHAT_CALLS_INTERNLM2, CHAT_ACTION_START CHAT_PLUGIN, CHAT_ACTION_END, read_function},
    {CHAT_CALLS_INTERNLM2, CHAT_ACTION_START CHAT_INTERPRETER, CHAT_ACTION_END, read_code},
    {CHAT_CALLS_TAGS, "<tool_call>", "</tool_call>", read_function},
    {CHAT_CALLS_LLAMA3, "<|python_tag|>", NULL, read_function},
};

static size_t find(pu_str s, size_t from, const char *what) {
  const char *at = memmem(s.ptr + from, s.len - from, what, strlen(what));
  return at ? (size_t)(at - s.ptr) : s.len;
}

/* The next well-formed call from *at on: where it begins, and in *at where it ends; NULL: there is none. */
static json_t *next_call(const pu_chat_template *c, pu_str text, size_t *at, size_t *begin) {
  for (size_t from = *at; from < text.len;) {
    const call_form *form = NULL;
    *begin = text.len;
    for (size_t i = 0; i < PU_COUNT(forms); i++) {
      size_t place = c->calls & forms[i].style ? find(text, from, forms[i].open) : text.len;
      if (place < *begin) *begin = place, form = &forms[i];
    }
    if (!form) return NULL;
    size_t inside = *begin + strlen(form->open), end = form->close ? find(text, inside, form->close) : text.len;
    json_t *call = form->read(pu_str_of(text.ptr + inside, end - inside));
    *at = PU_MIN(end + (form->close ? strlen(form->close) : 0), text.len);
    if (call) return call;
    from = inside;
  }
  return NULL;
}

static bool add_call(json_t *calls, json_t *call) {
  char id[32];
  snprintf(id, sizeof id, "call_%zu", json_array_size(calls));
  return call && json_object_set_new(call, "id", json_string(id)) == 0 && json_array_append_new(calls, call) == 0;
}

/* Takes the calls out of text; what is left goes to content. */
static bool take_calls(const pu_chat_template *c, pu_str text, pu_buf *content, json_t *calls) {
  size_t at = 0, begin, kept = 0;
  bool good = true;
  pu_str all = trimmed(text);
  if ((c->calls & CHAT_CALLS_LLAMA3) && all.len && *all.ptr == '{') { /* Llama 3 may leave the marker out */
    json_t *call = read_function(all);
    if (call) return add_call(calls, call);
  }
  for (json_t *call; good && (call = next_call(c, text, &at, &begin)) != NULL; kept = at) {
    pu_buf_append(content, text.ptr + kept, begin - kept);
    good = add_call(calls, call);
  }
  return good && pu_buf_append(content, text.ptr + kept, text.len - kept);
}

/* White space around the calls is no content. */
static json_t *content_of(const pu_buf *b, bool has_calls) {
  pu_str s = pu_str_of(b->data ? b->data : "", b->len);
  if (has_calls) s = trimmed(s);
  pu_buf clean;
  pu_buf_init(&clean, PU_BUF_MAX);
  json_t *v = NULL;
  if (pu_buf_json_str(&clean, s)) v = json_loadb(clean.data, clean.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
  pu_buf_deinit(&clean);
  return v;
}

pu_err pu_chat_answer(const pu_chat_template *c, pu_str text, json_t **message, pu_error *e) {
  pu_buf content;
  pu_buf_init(&content, PU_BUF_MAX);
  json_t *calls = json_array(), *said = NULL;
  *message = NULL;
  bool good = calls && take_calls(c, text.ptr ? text : pu_str_of("", 0), &content, calls);
  if (good) said = content_of(&content, json_array_size(calls) > 0);
  if (said) *message = json_pack("{s:s, s:O}", "role", "assistant", "content", said);
  if (*message && json_array_size(calls) > 0 && json_object_set(*message, "tool_calls", calls) != 0) good = false;
  if (!good && *message) {
    json_decref(*message);
    *message = NULL;
  }
  json_decref(said);
  json_decref(calls);
  pu_buf_deinit(&content);
  return *message ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory for an answer of %zu bytes", text.len);
}

/* Special tokens that are no part of a call give no text. */
static bool is_call_marker(pu_str piece) {
  static const char *const markers[] = {CHAT_ACTION_START, CHAT_ACTION_END, CHAT_PLUGIN,     CHAT_INTERPRETER,
                                        "<tool_call>",     "</tool_call>",  "<|python_tag|>"};
  for (size_t i = 0; i < PU_COUNT(markers); i++)
    if (pu_str_eq(piece, pu_str_c(markers[i]))) return true;
  return false;
}

pu_err pu_chat_answer_ids(const pu_chat_template *c, const pu_tokenizer *t, const int32_t *ids, size_t n,
                          json_t **message, pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_err err = PU_OK;
  *message = NULL;
  for (size_t i = 0, begin = 0; i <= n && !err; i++) {
    bool last = i == n, marker = !last && is_call_marker(pu_tokenizer_piece(t, ids[i]));
    if (!last && !marker) continue;
    if (i > begin) err = pu_decode(t, ids + begin, i - begin, PU_DECODE_SKIP_SPECIAL, &text, e);
    if (!err && marker) {
      pu_str piece = pu_tokenizer_piece(t, ids[i]);
      if (!pu_buf_append(&text, piece.ptr, piece.len)) err = pu_fail(e, PU_ERR_NOMEM, "no memory for an answer");
    }
    begin = i + 1;
  }
  if (!err) err = pu_chat_answer(c, pu_str_of(text.data, text.len), message, e);
  pu_buf_deinit(&text);
  return err;
}
