/* JSON: an object a line, or an array of objects, or objects one after the other, however they are laid out. */
#include <string.h>

#include "src/data/json_scan.h"
#include "src/data/reader.h"

enum { LOOK = 64 << 10, STEP = 1 << 20 };

typedef enum layout { LINES, ARRAY, VALUES } layout;

typedef struct jsonl {
  layout layout;
  bool ended, first;
} jsonl;

/* What is known of an object. */
typedef struct fields {
  pu_scan_value text, content, id, title, url, author, lang, time, messages;
} fields;

/* ---- an object's members ----------------------------------------------------------------------------------------- */

static bool is_key(const pu_scan_value *key, const char *name) {
  return key->len == strlen(name) && memcmp(key->ptr, name, key->len) == 0;
}

static void field_set(fields *f, const char *text_key, const pu_scan_value *key, const pu_scan_value *value) {
  const struct {
    const char *name;
    pu_scan_value *to;
  } known[] = {{"id", &f->id},           {"title", &f->title},       {"url", &f->url},
               {"author", &f->author},   {"lang", &f->lang},         {"language", &f->lang},
               {"time", &f->time},       {"date", &f->time},         {"timestamp", &f->time},
               {"created", &f->time},    {"messages", &f->messages}, {"conversations", &f->messages},
               {"content", &f->content}, {"text", &f->text}};
  if (text_key && is_key(key, text_key)) f->text = *value;
  for (size_t i = 0; i < PU_COUNT(known); i++) {
    if (!is_key(key, known[i].name)) continue;
    if (text_key && (known[i].to == &f->content || known[i].to == &f->text)) return;
    *known[i].to = *value;
  }
}

static pu_scan_result fields_scan(pu_str object, const char *text_key, fields *f) {
  const char *end = object.ptr + object.len, *at = pu_scan_space(object.ptr, end);
  *f = (fields){0};
  if (at == end) return PU_SCAN_CUT;
  if (*at++ != '{') return PU_SCAN_WRONG;
  for (bool first = true, found = true; found; first = false) {
    pu_scan_value key, value;
    pu_scan_result r = pu_scan_member(&at, end, first, &key, &value, &found);
    if (r != PU_SCAN_WHOLE) return r;
    if (found) field_set(f, text_key, &key, &value);
  }
  return pu_scan_space(at, end) == end ? PU_SCAN_WHOLE : PU_SCAN_WRONG;
}

/* A short string, or a number as it stands. */
static pu_str field_keep(pu_doc *out, const pu_scan_value *v) {
  if (v->kind == '0') return pu_doc_keep(out, pu_str_of(v->ptr, v->len));
  if (v->kind != '"') return (pu_str){0};
  if (!v->escapes) return pu_doc_keep(out, pu_str_of(v->ptr, v->len));
  pu_buf_clear(&out->spare);
  pu_scan_unescape(v, &out->spare);
  return pu_doc_keep(out, pu_str_of(out->spare.data ? out->spare.data : "", out->spare.len));
}

static pu_err text_add(pu_doc *out, const pu_scan_value *v, pu_error *e) {
  if (!v->escapes) return pu_text_append(pu_str_of(v->ptr, v->len), &out->text, e);
  pu_buf_clear(&out->spare);
  if (!pu_scan_unescape(v, &out->spare)) return pu_fail(e, PU_ERR_NOMEM, "reading: no memory");
  return pu_text_append(pu_str_of(out->spare.data, out->spare.len), &out->text, e);
}

/* ---- chats ------------------------------------------------------------------------------------------------------- */

/* A message's content is a string or a list of parts, of which those with a text count. */
static void content_add(const json_t *content, pu_buf *out) {
  if (json_is_string(content)) pu_buf_append(out, json_string_value(content), json_string_length(content));
  size_t i;
  const json_t *part;
  json_array_foreach((json_t *)(uintptr_t)content, i, part) {
    const json_t *text = json_object_get(part, "text");
    if (!json_is_string(text)) continue;
    if (out->len > 0 && out->data[out->len - 1] != '\n') pu_buf_putc(out, '\n');
    pu_buf_append(out, json_string_value(text), json_string_length(text));
  }
}

/* "user: …", a blank line, "assistant: …". OpenAI's role and content, or ShareGPT's from and value. */
static void message_add(const json_t *m, pu_buf *out, pu_buf *content) {
  const json_t *role = json_object_get(m, "role"), *said = json_object_get(m, "content");
  if (!role) role = json_object_get(m, "from");
  if (!said) said = json_object_get(m, "value");
  pu_buf_clear(content);
  content_add(said, content);
  if (content->len == 0) return;
  if (out->len > 0) pu_buf_puts(out, "\n\n");
  if (json_is_string(role)) pu_buf_printf(out, "%s: ", json_string_value(role));
  pu_buf_append(out, content->data, content->len);
}

static pu_err chat_add(pu_doc *out, const pu_scan_value *v, pu_error *e) {
  json_t *list;
  PU_TRY(pu_json_parse("", pu_str_of(v->ptr, v->len), &list, e));
  pu_buf content;
  pu_buf_init(&content, PU_DOC_MAX);
  pu_buf_clear(&out->spare);
  size_t i;
  const json_t *m;
  json_array_foreach(list, i, m) message_add(m, &out->spare, &content);
  pu_buf_deinit(&content);
  json_decref(list);
  out->type = pu_str_c("chat");
  return pu_text_append(pu_str_of(out->spare.data ? out->spare.data : "", out->spare.len), &out->text, e);
}

/* ---- one object -------------------------------------------------------------------------------------------------- */

static void skip_object(pu_input *in, uint64_t at, const char *why, const char *key) {
  char line[256];
  snprintf(line, sizeof line, why, key);
  pu_input_skip(in, at, line);
}

/* What is wrong, in jansson's words. */
static void skip_broken(pu_input *in, uint64_t at, pu_str object) {
  pu_error e = {0};
  json_t *json = NULL;
  if (pu_json_parse("", object, &json, &e) == PU_OK) {
    pu_input_skip(in, at, json_is_object(json) ? "nested too deep" : "no object");
    json_decref(json);
    return;
  }
  unsigned line, column;
  int n = 0;
  if (sscanf(e.msg, ":%u:%u: %n", &line, &column, &n) == 2 && n > 0)
    skip_object(in, at, "column %s", e.msg + strcspn(e.msg + 1, ":") + 2);
  else
    pu_input_skip(in, at, e.msg);
}

/* *found false: it was skipped. */
static pu_err object_read(pu_input *in, uint64_t at, pu_str object, pu_doc *out, bool *found, pu_error *e) {
  const char *key = pu_input_options(in)->key;
  fields f;
  *found = false;
  if (fields_scan(object, key, &f) != PU_SCAN_WHOLE) {
    skip_broken(in, at, object);
    return PU_OK;
  }
  const pu_scan_value *text = !key && f.content.kind ? &f.content : &f.text;
  bool chat = text->kind != '"' && !key && f.messages.kind == '[';
  if (text->kind != '"' && !chat) {
    skip_object(in, at, "no string under \"%s\"; name the key with --key", key ? key : "content\" or \"text");
    return PU_OK;
  }
  out->id = field_keep(out, &f.id);
  out->title = field_keep(out, &f.title);
  out->url = field_keep(out, &f.url);
  out->author = field_keep(out, &f.author);
  out->lang = field_keep(out, &f.lang);
  out->time = field_keep(out, &f.time);
  PU_TRY(pu_doc_place(in, out, e));
  if (chat) {
    pu_error why;
    pu_err err = chat_add(out, &f.messages, &why);
    if (err == PU_ERR_NOMEM) return pu_fail(e, err, "%s", why.msg);
    if (err != PU_OK) skip_broken(in, at, object);
    *found = out->text.len > 0;
    return PU_OK;
  }
  PU_TRY(text_add(out, text, e));
  *found = true;
  return PU_OK;
}

/* ---- layouts ----------------------------------------------------------------------------------------------------- */

/* Does the object that the head begins with go on in the next line? */
static bool is_spread(pu_str head) {
  const char *at = head.ptr, *end = head.ptr + head.len, *line_end = memchr(head.ptr, '\n', head.len);
  pu_scan_value v;
  if (!line_end || pu_scan(&at, line_end, &v) != PU_SCAN_CUT) return false;
  at = head.ptr;
  return pu_scan(&at, end, &v) != PU_SCAN_WRONG;
}

static pu_err jsonl_open(void *state, pu_input *in, pu_error *e) {
  jsonl *j = state;
  pu_str head;
  PU_TRY(pu_input_as_text(in, e));
  PU_TRY(pu_input_peek(in, LOOK, &head, e));
  const char *at = pu_scan_space(head.ptr, head.ptr + head.len);
  size_t spaces = (size_t)(at - head.ptr);
  j->first = true;
  if (spaces == head.len) return PU_OK;
  if (*at == '[') {
    j->layout = ARRAY;
    pu_input_take(in, spaces + 1);
  } else if (is_spread(pu_str_of(at, head.len - spaces))) {
    j->layout = VALUES;
  }
  return PU_OK;
}

static pu_err next_line(pu_input *in, pu_str *object, uint64_t *at, bool *found, pu_error *e) {
  for (;;) {
    *at = pu_input_at(in);
    PU_TRY(pu_input_line(in, object, found, e));
    if (!*found) return PU_OK;
    const char *end = object->ptr + object->len, *first = pu_scan_space(object->ptr, end);
    if (first < end) return PU_OK;
  }
}

/* The next byte that is no space, left where it is; '\0' at the end. */
static pu_err next_byte(pu_input *in, char *out, pu_error *e) {
  for (;;) {
    pu_str s;
    PU_TRY(pu_input_peek(in, 1, &s, e));
    const char *at = pu_scan_space(s.ptr, s.ptr + s.len);
    pu_input_take(in, (size_t)(at - s.ptr));
    *out = '\0';
    if (s.len == 0 || at < s.ptr + s.len) {
      if (s.len > 0) *out = *at;
      return PU_OK;
    }
  }
}

/* Up to the next value, past a comma; *ended: there is none. */
static pu_err value_begin(jsonl *j, pu_input *in, bool *ended, pu_error *e) {
  char c;
  PU_TRY(next_byte(in, &c, e));
  if (c == ',' && !j->first) {
    pu_input_take(in, 1);
    PU_TRY(next_byte(in, &c, e));
  }
  j->first = false;
  *ended = c == '\0' || (j->layout == ARRAY && c == ']');
  if (c == '\0' && j->layout == ARRAY) pu_input_skip(in, pu_input_at(in), "the array is cut short");
  return PU_OK;
}

/* The next value of an array, or of those one after the other. Looks at twice as much each time it is cut. */
static pu_err next_value(jsonl *j, pu_input *in, pu_str *object, uint64_t *at, bool *found, pu_error *e) {
  *found = false;
  if (j->ended) return PU_OK;
  PU_TRY(value_begin(j, in, &j->ended, e));
  if (j->ended) return PU_OK;
  *at = pu_input_at(in);
  pu_input_set_number(in, pu_input_number(in) + 1);
  for (size_t want = 1;; want = PU_MAX(2 * want, (size_t)STEP)) {
    pu_str s;
    pu_scan_value v;
    PU_TRY(pu_input_peek(in, want, &s, e));
    const char *p = s.ptr;
    pu_scan_result r = pu_scan(&p, s.ptr + s.len, &v);
    bool more = r == PU_SCAN_CUT && s.len >= want && s.len < PU_INPUT_PEEK;
    want = PU_MAX(want, s.len);
    if (more) continue;
    *found = r == PU_SCAN_WHOLE;
    *object = pu_str_of(s.ptr, (size_t)(p - s.ptr));
    if (*found) {
      pu_input_take(in, object->len);
      return PU_OK;
    }
    j->ended = true;
    pu_input_skip(in, *at, r == PU_SCAN_WRONG ? "broken JSON, and what follows it" : "JSON that is cut short");
    return PU_OK;
  }
}

static pu_err jsonl_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  jsonl *j = state;
  for (;;) {
    pu_str object;
    uint64_t at = 0;
    bool there;
    *found = false;
    if (j->layout == LINES)
      PU_TRY(next_line(in, &object, &at, &there, e));
    else
      PU_TRY(next_value(j, in, &object, &at, &there, e));
    if (!there) return PU_OK;
    PU_TRY(object_read(in, at, object, out, found, e));
    if (*found) return PU_OK;
    pu_doc_clear(out);
  }
}

static const char *value_in(pu_str head) {
  return pu_scan_space(head.ptr + pu_str_mark(head), head.ptr + head.len);
}

static bool jsonl_lines(const pu_read_options *o, pu_str head) {
  (void)o;
  const char *at = value_in(head), *end = head.ptr + head.len;
  return at < end && *at != '[' && !is_spread(pu_str_of(at, (size_t)(end - at)));
}

static bool jsonl_looks(pu_str head) {
  const char *at = value_in(head), *end = head.ptr + head.len;
  if (at == end || *at != '{') return false;
  pu_scan_value v;
  return pu_scan(&at, end, &v) != PU_SCAN_WRONG;
}

const pu_reader pu_reader_jsonl = {.name = "jsonl",
                                   .endings = ".jsonl .json .ndjson",
                                   .lines = jsonl_lines,
                                   .looks = jsonl_looks,
                                   .state_size = sizeof(jsonl),
                                   .open = jsonl_open,
                                   .next = jsonl_next};
