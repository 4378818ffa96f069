/* Chat templates that models bring, as Jinja; and the calls that take those and puyu's own alike. */
#include <stdlib.h>
#include <string.h>

#include "src/text/chat.h"
#include "src/text/encoder.h"

#define CONFIG_MAX ((size_t)4 << 20)
#define ARENA_MAX  ((size_t)1 << 30) /* address space for joined contents and the like */

static pu_err no_memory(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "no memory to render a chat");
}

/* ---- making one ---- */

static bool mentions(pu_str source, const char *what) {
  return memmem(source.ptr, source.len, what, strlen(what)) != NULL;
}

/* In which form does a template teach its model to call tools? What it says is what the model writes. */
static unsigned calls_of(pu_str source) {
  static const struct {
    const char *sign;
    unsigned style;
  } signs[] = {{CHAT_ACTION_START, CHAT_CALLS_INTERNLM2},
               {"<tool_call>", CHAT_CALLS_TAGS},
               {"<|python_tag|>", CHAT_CALLS_LLAMA3},
               {"Environment: ipython", CHAT_CALLS_LLAMA3}};
  unsigned calls = 0;
  for (size_t i = 0; i < PU_COUNT(signs); i++)
    if (mentions(source, signs[i].sign)) calls |= signs[i].style;
  return calls;
}

pu_err pu_chat_parse(const char *name, pu_str source, const json_t *special, pu_chat_template **out, pu_error *e) {
  *out = NULL;
  pu_chat_template *c = calloc(1, sizeof *c);
  char *copy = strdup(name);
  if (!c || !copy) {
    free(c);
    free(copy);
    return pu_fail(e, PU_ERR_NOMEM, "%s: no memory for a chat template", name);
  }
  *c = (pu_chat_template){.name = copy, .calls = calls_of(source), .special = special ? json_deep_copy(special) : NULL};
  pu_err err = pu_jinja_parse(name, source, &c->jinja, e);
  if (err)
    pu_chat_free(c);
  else
    *out = c;
  return err;
}

void pu_chat_free(const pu_chat_template *c) {
  if (!c || c->roles) return; /* puyu's own are constants */
  pu_chat_template *own = (pu_chat_template *)(uintptr_t)c;
  pu_jinja_free(own->jinja);
  pu_jinja_free(own->with_tools);
  json_decref(own->special);
  free((char *)(uintptr_t)own->name);
  free(own);
}

const char *pu_chat_name(const pu_chat_template *c) {
  return c->name;
}

/* ---- reading a model's directory ---- */

typedef struct found {
  pu_arena *a;
  const char *where;  /* the file, for errors */
  pu_str text, tools; /* the template, and the one for conversations with tools; ptr NULL: none */
  json_t *special;    /* bos_token, … */
} found;

static pu_err read_json(found *f, const char *dir, const char *name, json_t **out, pu_error *e) {
  const char *path = pu_path_join(f->a, dir, name);
  pu_buf b;
  json_error_t why;
  *out = NULL;
  if (!path || !pu_path_exists(path)) return PU_OK;
  pu_buf_init(&b, CONFIG_MAX + 1);
  pu_err err = pu_file_read(path, CONFIG_MAX, &b, e);
  /* "model_max_length" is 10^30 in most of these files: integers as reals, none of them matters here. */
  if (!err) *out = json_loadb(b.data ? b.data : "", b.len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &why);
  if (!err && !*out) err = pu_fail(e, PU_ERR_FORMAT, "%s:%d:%d: %s", path, why.line, why.column, why.text);
  pu_buf_deinit(&b);
  return err;
}

static pu_str keep(found *f, const json_t *s) {
  const char *copy = json_is_string(s) ? pu_arena_strndup(f->a, json_string_value(s), json_string_length(s)) : NULL;
  return pu_str_of(copy, copy ? json_string_length(s) : 0);
}

/* A string, or several by name: [{"name": "default", "template": …}, {"name": "tool_use", …}]. */
static void take_template(found *f, const json_t *v, const char *where) {
  size_t i;
  const json_t *one;
  if (f->text.ptr) return;
  f->where = where;
  f->text = keep(f, v);
  json_array_foreach(v, i, one) {
    const char *name = json_string_value(json_object_get(one, "name"));
    const json_t *text = json_object_get(one, "template");
    if (name && strcmp(name, "default") == 0) f->text = keep(f, text);
    if (name && strcmp(name, "tool_use") == 0) f->tools = keep(f, text);
  }
  if (!f->text.ptr) f->text = f->tools;
}

/* bos_token and its like: a string, or an object with its content. */
static bool take_special(found *f, const json_t *config) {
  static const char *const keys[] = {"bos_token", "eos_token", "unk_token",  "pad_token",
                                     "sep_token", "cls_token", "mask_token", "additional_special_tokens"};
  bool good = true;
  for (size_t i = 0; i < PU_COUNT(keys); i++) {
    json_t *v = json_object_get(config, keys[i]);
    if (json_is_object(v)) v = json_object_get(v, "content");
    if ((json_is_string(v) || json_is_array(v)) && !json_object_get(f->special, keys[i]))
      good = json_object_set(f->special, keys[i], v) == 0 && good;
  }
  return good;
}

static pu_err read_jinja_file(found *f, const char *dir, pu_error *e) {
  const char *path = pu_path_join(f->a, dir, "chat_template.jinja");
  pu_buf b;
  if (!path || !pu_path_exists(path)) return PU_OK;
  pu_buf_init(&b, CONFIG_MAX + 1);
  pu_err err = pu_file_read(path, CONFIG_MAX, &b, e);
  const char *copy = err ? NULL : pu_arena_strndup(f->a, b.data ? b.data : "", b.len);
  f->text = pu_str_of(copy, copy ? b.len : 0);
  f->where = "chat_template.jinja";
  pu_buf_deinit(&b);
  return err;
}

static pu_err read_dir(found *f, const char *dir, pu_error *e) {
  static const char *const files[] = {"chat_template.json", "tokenizer_config.json", "special_tokens_map.json"};
  f->special = json_object();
  if (!f->special) return no_memory(e);
  PU_TRY(read_jinja_file(f, dir, e));
  for (size_t i = 0; i < PU_COUNT(files); i++) {
    json_t *v;
    PU_TRY(read_json(f, dir, files[i], &v, e));
    take_template(f, json_object_get(v, "chat_template"), files[i]);
    bool good = take_special(f, v);
    json_decref(v);
    if (!good) return no_memory(e);
  }
  return PU_OK;
}

static pu_err make(const found *f, const char *dir, pu_chat_template **out, pu_error *e) {
  const char *name = pu_path_join(f->a, dir, f->where);
  if (!name) return no_memory(e);
  PU_TRY(pu_chat_parse(name, f->text, f->special, out, e));
  if (!f->tools.ptr) return PU_OK;
  (*out)->calls |= calls_of(f->tools);
  pu_err err = pu_jinja_parse(name, f->tools, &(*out)->with_tools, e);
  if (err) {
    pu_chat_free(*out);
    *out = NULL;
  }
  return err;
}

/* Where the model is one file, its tokenizer keeps what the directory would hold. */
static pu_err read_tokenizer(found *f, const pu_tokenizer *t, pu_error *e) {
  static const char *const name = "tokenizer_config.json";
  pu_str text = pu_tokenizer_file(t, name);
  f->special = json_object();
  if (!f->special) return no_memory(e);
  if (!text.ptr) return PU_OK;
  json_error_t why;
  json_t *v = json_loadb(text.ptr, text.len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &why);
  if (!v) return pu_fail(e, PU_ERR_FORMAT, "%s:%d:%d: %s", name, why.line, why.column, why.text);
  take_template(f, json_object_get(v, "chat_template"), name);
  bool good = take_special(f, v);
  json_decref(v);
  return good ? PU_OK : no_memory(e);
}

static pu_err load(const char *path, const pu_tokenizer *t, pu_chat_template **out, pu_error *e) {
  found f = {0};
  *out = NULL;
  PU_TRY(pu_arena_create(8 * CONFIG_MAX, &f.a, e));
  pu_err err = t ? read_tokenizer(&f, t, e) : read_dir(&f, path, e);
  if (!err && f.text.ptr) err = make(&f, path, out, e);
  json_decref(f.special);
  pu_arena_free(f.a);
  return err;
}

pu_err pu_chat_load(const char *dir, pu_chat_template **out, pu_error *e) {
  return load(dir, NULL, out, e);
}

pu_err pu_chat_open(const char *path, const pu_tokenizer *t, const char *model_type, const pu_chat_template **out,
                    pu_error *e) {
  pu_chat_template *own = NULL;
  *out = pu_chat_guess(t, model_type);
  if (!path || (*out && strncmp((*out)->name, "internlm", strlen("internlm")) == 0)) return PU_OK;
  PU_TRY(load(path, pu_path_is_dir(path) ? NULL : t, &own, e));
  if (own) *out = own;
  return PU_OK;
}

/* ---- what a Jinja template is given ---- */

/* OpenAI's arguments are a text; templates want the object it stands for. */
static json_t *calls_with_objects(const json_t *calls) {
  size_t i;
  json_t *call, *copy = json_deep_copy(calls);
  json_array_foreach(copy, i, call) {
    json_t *function = json_object_get(call, "function");
    json_t *arguments = json_is_string(json_object_get(function, "arguments")) ? chat_arguments(function) : NULL;
    if (arguments) json_object_set(function, "arguments", arguments);
    json_decref(arguments);
  }
  return copy;
}

static pu_err one_message(const json_t *m, pu_arena *a, json_t *to, pu_error *e) {
  if (!json_is_object(m)) return pu_fail(e, PU_ERR_USAGE, "message %zu is not an object", json_array_size(to) + 1);
  json_t *copy = json_copy((json_t *)(uintptr_t)m), *content = json_object_get(m, "content");
  pu_str text;
  bool good = copy;
  pu_err err = json_is_array(content) ? chat_content(content, a, &text, e) : PU_OK;
  if (!err && json_is_array(content) && text.ptr)
    good = good && json_object_set_new(copy, "content", json_stringn(text.ptr, text.len)) == 0;
  if (json_object_get(m, "tool_calls"))
    good = good && json_object_set_new(copy, "tool_calls", calls_with_objects(json_object_get(m, "tool_calls"))) == 0;
  if (err || !good) {
    json_decref(copy);
    return err ? err : no_memory(e);
  }
  return json_array_append_new(to, copy) == 0 ? PU_OK : no_memory(e);
}

static pu_err messages_for(const pu_chat *chat, json_t *to, pu_error *e) {
  size_t i;
  const json_t *m;
  pu_arena *a;
  PU_TRY(pu_arena_create(ARENA_MAX, &a, e));
  pu_err err = PU_OK;
  json_array_foreach(chat->messages, i, m) {
    if (!err) err = one_message(m, a, to, e);
  }
  pu_arena_free(a);
  return err;
}

static json_t *or_null(const json_t *v) {
  return v ? json_incref((json_t *)(uintptr_t)v) : json_null();
}

static pu_err variables(const pu_chat *chat, json_t **out, pu_error *e) {
  json_t *messages = json_array(), *vars = *out = json_object();
  pu_err err = messages && vars ? messages_for(chat, messages, e) : no_memory(e);
  const json_t *tools = json_array_size(chat->tools) > 0 ? chat->tools : NULL;
  bool good = !err && (!chat->options || json_object_update(vars, (json_t *)(uintptr_t)chat->options) == 0);
  good = good && json_object_set(vars, "messages", messages) == 0;
  good = good && json_object_set_new(vars, "tools", or_null(tools)) == 0;
  good = good && json_object_set_new(vars, "documents", or_null(chat->documents)) == 0;
  good = good && json_object_set_new(vars, "add_generation_prompt", json_boolean(chat->generate)) == 0;
  json_decref(messages);
  return err ? err : good ? PU_OK : no_memory(e);
}

static pu_err render_jinja(const pu_chat_template *c, const pu_chat *chat, pu_buf *text, pu_buf *origin, pu_error *e) {
  json_t *vars = NULL;
  pu_err err = variables(chat, &vars, e);
  const pu_jinja *t = c->with_tools && json_array_size(chat->tools) > 0 ? c->with_tools : c->jinja;
  pu_jinja_input in = {.input = vars, .trusted = c->special};
  if (!err) err = pu_jinja_render(t, &in, text, origin, e);
  json_decref(vars);
  return err;
}

static pu_err jinja_ids(const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, pu_ids *out,
                        pu_error *e) {
  pu_buf text, origin;
  pu_encoder *enc = NULL;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_buf_init(&origin, PU_BUF_MAX);
  pu_err err = render_jinja(c, chat, &text, &origin, e);
  if (!err) err = text_encoder_bare(t, &enc, e);
  if (!err && text.len > 0)
    err = text_encode_marked(enc, pu_str_of(text.data, text.len), (const uint8_t *)origin.data, 0, out, e);
  pu_encoder_free(enc);
  pu_buf_deinit(&text);
  pu_buf_deinit(&origin);
  return err;
}

/* Text and ids both. */
static pu_err jinja_both(const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, pu_buf *text,
                         pu_ids *ids, pu_error *e) {
  PU_TRY(render_jinja(c, chat, text, NULL, e));
  return jinja_ids(c, t, chat, ids, e);
}

/* ---- either kind ---- */

static pu_err render(const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, pu_buf *text, pu_ids *ids,
                     pu_ids *answers, pu_error *e) {
  pu_arena *a;
  chat_turn *turns;
  size_t n;
  if (!json_is_array(chat->messages)) return pu_fail(e, PU_ERR_USAGE, "a conversation needs a list of messages");
  if (c->jinja && answers) return chat_answers_jinja(c, t, chat, jinja_both, ids, answers, e);
  if (c->jinja) return t ? jinja_ids(c, t, chat, ids, e) : render_jinja(c, chat, text, NULL, e);
  PU_TRY(pu_arena_create(ARENA_MAX, &a, e));
  pu_err err = chat_turns(c, chat, a, &turns, &n, e);
  if (!err) err = chat_render_own(c, t, turns, n, chat->generate, text, ids, answers, e);
  pu_arena_free(a);
  return err;
}

pu_err pu_chat_render_answers(const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, pu_ids *ids,
                              pu_ids *answers, pu_error *e) {
  pu_chat whole = *chat;
  whole.generate = false;
  return render(c, t, &whole, NULL, ids, answers, e);
}

pu_err pu_chat_render_text(const pu_chat_template *c, const pu_chat *chat, pu_buf *out, pu_error *e) {
  return render(c, NULL, chat, out, NULL, NULL, e);
}

pu_err pu_chat_render_ids(const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, pu_ids *out,
                          pu_error *e) {
  return render(c, t, chat, NULL, out, NULL, e);
}

/* JSON strings are UTF-8; what is not comes as U+FFFD. */
static json_t *text_of(pu_str s) {
  pu_buf b;
  pu_buf_init(&b, PU_BUF_MAX);
  json_t *v = pu_buf_json_str(&b, s) ? json_loadb(b.data, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
  pu_buf_deinit(&b);
  return v;
}

static json_t *as_json(const pu_message *m, size_t n) {
  json_t *list = json_array();
  bool good = list;
  for (size_t i = 0; i < n && good; i++) {
    json_t *o = json_object();
    good = o && json_object_set_new(o, "role", text_of(pu_str_c(m[i].role ? m[i].role : ""))) == 0 &&
           json_object_set_new(o, "content", text_of(m[i].content)) == 0 &&
           (!m[i].name || json_object_set_new(o, "name", text_of(pu_str_c(m[i].name))) == 0);
    good = json_array_append_new(list, o) == 0 && good;
  }
  if (good) return list;
  json_decref(list);
  return NULL;
}

/* Messages of a program: puyu's own templates take them as they are, whatever bytes they hold. */
static pu_err render_messages(const pu_chat_template *c, const pu_tokenizer *t, const pu_message *m, size_t n,
                              bool generate, pu_buf *text, pu_ids *ids, pu_error *e) {
  if (c->jinja) {
    json_t *list = as_json(m, n);
    const pu_chat chat = {.messages = list, .generate = generate};
    pu_err err = list ? render(c, t, &chat, text, ids, NULL, e) : no_memory(e);
    json_decref(list);
    return err;
  }
  chat_turn *turns = calloc(n + 1, sizeof *turns);
  if (!turns) return no_memory(e);
  for (size_t i = 0; i < n; i++) turns[i] = (chat_turn){.m = m[i], .place = -1};
  pu_err err = chat_render_own(c, t, turns, n, generate, text, ids, NULL, e);
  free(turns);
  return err;
}

pu_err pu_chat_text(const pu_chat_template *c, const pu_message *m, size_t n, bool generate, pu_buf *out, pu_error *e) {
  return render_messages(c, NULL, m, n, generate, out, NULL, e);
}

pu_err pu_chat_ids(const pu_chat_template *c, const pu_tokenizer *t, const pu_message *m, size_t n, bool generate,
                   pu_ids *out, pu_error *e) {
  return render_messages(c, t, m, n, generate, NULL, out, e);
}

/* ---- odds and ends ---- */

pu_err chat_dump(const json_t *v, pu_buf *out, pu_error *e) {
  pu_jinja *t = NULL;
  json_t *vars = json_pack("{s:O}", "v", v);
  pu_jinja_input in = {.input = vars};
  if (!vars) return no_memory(e);
  pu_err err = pu_jinja_parse("tojson", pu_str_c("{{ v|tojson }}"), &t, e);
  if (!err) err = pu_jinja_render(t, &in, out, NULL, e);
  pu_jinja_free(t);
  json_decref(vars);
  return err;
}

/* The special token that a template writes after an answer ends it: found by rendering one and looking. */
size_t chat_stops_of(const pu_chat_template *c, const pu_tokenizer *t, int32_t *out, size_t max) {
  static const char said[] = "puyu answers";
  const pu_message m[] = {{"user", NULL, {"?", 1}}, {"assistant", NULL, {said, sizeof said - 1}}};
  pu_buf text;
  pu_error e;
  size_t n = 0;
  pu_buf_init(&text, PU_BUF_MAX);
  if (pu_chat_text(c, m, PU_COUNT(m), false, &text, &e) == PU_OK && text.len > 0) {
    const char *at = memmem(text.data, text.len, said, sizeof said - 1), *end = text.data + text.len;
    at = at ? at + sizeof said - 1 : end;
    while (at < end && strchr(" \r\n", *at)) at++;
    int32_t k = -1;
    size_t len = text_trie_longest(&t->added_raw, (const uint8_t *)at, (size_t)(end - at), &k);
    if (len > 0 && t->added[k].special && max > 0) out[n++] = t->added[k].id;
  }
  pu_buf_deinit(&text);
  return n;
}
