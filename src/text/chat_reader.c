/* Calls found in an answer while it is made.
 *
 * `held` is text that is not told yet. Outside of a call all of it is told but what may begin a marker. From a marker
 * on everything is held until it is certain what it is: a call, which is then told as it comes, or content after all.
 */
#include <stdlib.h>
#include <string.h>

#include "src/text/chat.h"
#include "src/text/chat_scan.h"

static const char CODE[] = "code_interpreter";

/* ---- forms of calls ---- */

typedef struct call_form {
  unsigned style;
  const char *open, *close; /* open "": the answer begins with it; close NULL: to the end of the answer */
  bool is_code;
} call_form;

static const call_form forms[] = {
    {CHAT_CALLS_INTERNLM2, CHAT_ACTION_START CHAT_PLUGIN, CHAT_ACTION_END, false},
    {CHAT_CALLS_INTERNLM2, CHAT_ACTION_START CHAT_INTERPRETER, CHAT_ACTION_END, true},
    {CHAT_CALLS_TAGS, "<tool_call>", "</tool_call>", false},
    {CHAT_CALLS_LLAMA3, "<|python_tag|>", NULL, false},
};
/* Llama 3 may leave its marker out. */
static const call_form bare = {CHAT_CALLS_LLAMA3, "", NULL, false};

struct pu_chat_reader {
  unsigned styles, flags;
  void (*on_piece)(void *arg, const pu_chat_piece *p);
  void *arg;
  pu_buf held;
  pu_buf space;  /* white space at the end of the content so far: told when more content comes */
  bool has_said; /* content was told */
  bool begun;    /* something that is no space was read, so that no bare call can begin */
  size_t calls;
  /* A call that held begins with; form NULL: none */
  const call_form *form;
  size_t inside;  /* where its text begins in held */
  size_t looked;  /* from there on its end is looked for */
  call_scan scan; /* of held + inside */
  bool announced; /* its name was told */
  size_t told;    /* of its arguments, or code, from inside on */
  char *name;
  size_t line; /* of code, from inside on: where the end of the fence's line is looked for */
  bool fenced; /* code began with a fence, which is none of it */
  bool failed; /* no memory */
};

pu_err pu_chat_reader_create(const pu_chat_template *c, unsigned flags,
                             void (*on_piece)(void *arg, const pu_chat_piece *p), void *arg, pu_chat_reader **out,
                             pu_error *e) {
  pu_chat_reader *r = *out = calloc(1, sizeof *r);
  if (!r) return pu_fail(e, PU_ERR_NOMEM, "no memory to read an answer");
  r->styles = c->calls;
  r->flags = flags;
  r->on_piece = on_piece;
  r->arg = arg;
  pu_buf_init(&r->held, PU_BUF_MAX);
  pu_buf_init(&r->space, PU_BUF_MAX);
  return PU_OK;
}

void pu_chat_reader_free(pu_chat_reader *r) {
  if (!r) return;
  pu_buf_deinit(&r->held);
  pu_buf_deinit(&r->space);
  free(r->name);
  free(r);
}

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void drop(pu_buf *b, size_t n) {
  if (n == 0) return;
  memmove(b->data, b->data + n, b->len - n + 1);
  b->len -= n;
}

/* ---- content ---- */

static void tell_content(pu_chat_reader *r, size_t begin, size_t end) {
  if (begin == end) return;
  r->has_said = true;
  r->on_piece(r->arg, &(pu_chat_piece){.content = pu_str_of(r->space.data + begin, end - begin)});
}

/* The first n bytes held are content. White space at its end waits: it may turn out to stand before a call. */
static void take_content(pu_chat_reader *r, size_t n) {
  if (n == 0) return;
  pu_buf *s = &r->space;
  size_t begin = 0;
  if (!pu_buf_append(s, r->held.data, n)) r->failed = true;
  drop(&r->held, n);
  size_t end = s->len;
  while (end > 0 && is_space(s->data[end - 1])) end--;
  if (end == 0) return;
  while (r->calls > 0 && !r->has_said && is_space(s->data[begin])) begin++;
  r->begun = true;
  tell_content(r, begin, end);
  drop(s, end);
}

/* ---- markers ---- */

static size_t find(const pu_buf *b, size_t from, const char *what) {
  const char *at = from < b->len ? memmem(b->data + from, b->len - from, what, strlen(what)) : NULL;
  return at ? (size_t)(at - b->data) : b->len;
}

/* Bytes at the end of b, from `from` on, that may be the beginning of `what`. */
static size_t could_begin(const pu_buf *b, size_t from, const char *what) {
  for (size_t n = PU_MIN(strlen(what) - 1, b->len - from); n > 0; n--)
    if (memcmp(b->data + b->len - n, what, n) == 0) return n;
  return 0;
}

static void enter(pu_chat_reader *r, const call_form *form) {
  r->form = form;
  r->inside = r->looked = strlen(form->open);
  r->scan = (call_scan){0};
  r->announced = r->fenced = false;
  r->told = r->line = 0;
  r->begun = true;
}

/* True: a call may begin where held now begins; else all content is told that there is. */
static bool look_for_call(pu_chat_reader *r, bool last) {
  pu_buf *b = &r->held;
  size_t space = 0, first = b->len, may_begin = 0;
  const call_form *form = NULL;
  while (space < b->len && is_space(b->data[space])) space++;
  if (!r->begun && space == b->len && !last) return false;
  bool is_bare = (r->flags & PU_CHAT_READ_ONE_CALL) || ((r->styles & CHAT_CALLS_LLAMA3) && b->data[space] == '{');
  if (!r->begun && space < b->len && is_bare) {
    take_content(r, space);
    enter(r, &bare);
    return true;
  }
  for (size_t i = 0; i < PU_COUNT(forms); i++) {
    if (!(r->styles & forms[i].style) || (r->flags & PU_CHAT_READ_ONE_CALL)) continue;
    size_t place = find(b, 0, forms[i].open);
    if (place < first) first = place, form = &forms[i];
    may_begin = PU_MAX(may_begin, could_begin(b, 0, forms[i].open));
  }
  take_content(r, form ? first : last ? b->len : b->len - may_begin);
  if (form) enter(r, form);
  return form != NULL;
}

/* ---- calls ---- */

/* Not a call: its marker is content, and other calls may stand in what follows. */
static void refuse(pu_chat_reader *r) {
  size_t marker = r->inside;
  r->form = NULL;
  take_content(r, marker);
}

static void leave(pu_chat_reader *r, size_t end) {
  r->form = NULL;
  r->calls++;
  free(r->name);
  r->name = NULL;
  drop(&r->held, end);
}

/* The string that a piece of JSON is; NULL: it is none. The caller frees it. */
static char *string_of(const char *json, size_t n) {
  json_t *v = json_loadb(json, n, JSON_DECODE_ANY, NULL);
  char *s = json_is_string(v) ? strdup(json_string_value(v)) : NULL;
  json_decref(v);
  return s;
}

static bool is_object(const char *json, size_t n) {
  json_t *v = json_loadb(json, n, 0, NULL);
  bool good = json_is_object(v);
  json_decref(v);
  return good;
}

static void tell_arguments(pu_chat_reader *r, const char *name, pu_str arguments) {
  r->on_piece(r->arg, &(pu_chat_piece){.call = r->calls, .name = name, .arguments = arguments});
}

/* What is there of arguments that are an object. */
static void tell_more(pu_chat_reader *r, const char *name) {
  const call_scan *s = &r->scan;
  size_t end = s->arguments_end ? s->arguments_end : s->at;
  if (end > r->told || name) tell_arguments(r, name, pu_str_of(r->held.data + r->inside + r->told, end - r->told));
  r->told = end;
}

/* Name and arguments were seen. False: they are not what they have to be. */
static bool announce(pu_chat_reader *r) {
  const call_scan *s = &r->scan;
  const char *text = r->held.data + r->inside;
  char *arguments = NULL;
  r->name = string_of(text + s->name_begin, s->name_end - s->name_begin);
  if (s->is_text) arguments = string_of(text + s->arguments_begin, s->arguments_end - s->arguments_begin);
  bool good = r->name && (!s->is_text || (arguments && is_object(arguments, strlen(arguments))));
  r->announced = good;
  r->told = s->is_text ? s->arguments_end : s->arguments_begin;
  if (good && s->is_text) tell_arguments(r, r->name, pu_str_c(arguments));
  if (good && !s->is_text) tell_more(r, r->name);
  if (!good) {
    free(r->name);
    r->name = NULL;
  }
  free(arguments);
  return good;
}

/* A call of a function, of which text to `end` is there; over: no more will come. False: it is none. */
static bool read_function(pu_chat_reader *r, size_t end, bool over) {
  call_scan *s = &r->scan;
  const char *text = r->held.data + r->inside;
  bool strict = r->flags & PU_CHAT_READ_WHOLE;
  call_scan_feed(s, text, end - r->inside);
  if (r->announced) {
    if (!s->is_text) tell_more(r, NULL);
    return true;
  }
  bool certain = s->has_name && s->has_arguments;
  if (s->state == CALL_BAD && (strict || !certain)) return false;
  if (strict && !over) return true;
  if (strict && !is_object(text, end - r->inside)) return false;
  if (certain) return announce(r);
  return !over && s->state != CALL_CLOSED;
}

/* Does code begin in the n bytes of text, and where? A fence's line is none of it; until that line has ended there is
 * no telling. */
static bool code_begins(pu_chat_reader *r, const char *text, size_t n, bool over) {
  static const char fence[] = "```";
  size_t at = r->told;
  while (at < n && is_space(text[at])) at++;
  r->told = at;
  size_t same = PU_MIN(n - at, strlen(fence));
  if (memcmp(text + at, fence, same) != 0) return true;
  r->line = PU_MAX(r->line, at);
  const char *line = same < strlen(fence) ? NULL : memchr(text + r->line, '\n', n - r->line);
  r->line = n;
  r->fenced = line != NULL;
  if (line) r->told = (size_t)(line + 1 - text);
  return line || over;
}

/* Where code ends for certain: white space at its end is none of it, nor, where it began with a fence, are another one
 * and the line's end before it. */
static size_t code_ends(const pu_chat_reader *r, const char *text, size_t n, bool over) {
  size_t end = n, fence = 0;
  while (end > r->told && is_space(text[end - 1])) end--;
  while (r->fenced && fence < 3 && fence < end - r->told && text[end - fence - 1] == '`') fence++;
  if (fence == 0 || (fence < 3 && (over || end < n))) return end;
  end -= fence;
  return end > r->told && text[end - 1] == '\n' ? end - 1 : end;
}

/* A call of the interpreter, of which text to `end` is there. */
static void read_code(pu_chat_reader *r, size_t end, bool over) {
  const char *text = r->held.data + r->inside;
  size_t n = end - r->inside;
  if (!over && (r->flags & PU_CHAT_READ_WHOLE)) return;
  bool begins = !r->announced;
  if (begins && !code_begins(r, text, n, over)) return;
  r->announced = true;
  size_t certain = code_ends(r, text, n, over);
  pu_str more = pu_str_of(text + r->told, certain - r->told);
  r->told = certain;
  if (begins || more.len)
    r->on_piece(r->arg,
                &(pu_chat_piece){.call = r->calls, .name = begins ? CODE : NULL, .arguments = more, .is_code = true});
}

/* True: go on with what follows; false: more text is needed. */
static bool read_call(pu_chat_reader *r, bool last) {
  const char *close = r->form->close;
  pu_buf *b = &r->held;
  size_t end = close ? find(b, r->looked, close) : b->len, after = end;
  bool closed = close && end < b->len, over = closed || last;
  if (closed)
    after += strlen(close);
  else if (close && !last)
    end -= could_begin(b, r->inside, close);
  r->looked = end;
  if (r->form->is_code) {
    read_code(r, end, over);
  } else if (!read_function(r, end, over)) {
    refuse(r);
    return true;
  }
  if (!over) return false;
  leave(r, after);
  return b->len > 0;
}

static pu_err go_on(pu_chat_reader *r, bool last, pu_error *e) {
  bool more = true;
  while (more && !r->failed && r->held.len > 0) more = r->form ? read_call(r, last) : look_for_call(r, last);
  return r->failed ? pu_fail(e, PU_ERR_NOMEM, "no memory to read an answer") : PU_OK;
}

pu_err pu_chat_reader_feed(pu_chat_reader *r, pu_str text, pu_error *e) {
  if (text.len == 0) return PU_OK;
  if (!pu_buf_append(&r->held, text.ptr, text.len)) r->failed = true;
  return go_on(r, false, e);
}

pu_err pu_chat_reader_finish(pu_chat_reader *r, pu_error *e) {
  PU_TRY(go_on(r, true, e));
  if (r->calls == 0) tell_content(r, 0, r->space.len);
  return PU_OK;
}

/* ---- whole answers ---- */

typedef struct collector {
  pu_buf content, arguments; /* of the last call */
  json_t *calls;
  bool good;
} collector;

/* The arguments of the last call are whole. */
static void close_call(collector *k) {
  size_t n = json_array_size(k->calls);
  if (n == 0) return;
  json_t *last = json_array_get(k->calls, n - 1), *code = json_object_get(last, CODE);
  pu_buf clean; /* bytes that are no UTF-8 have no place in JSON */
  pu_buf_init(&clean, PU_BUF_MAX);
  pu_buf_json_str(&clean, pu_str_of(k->arguments.data ? k->arguments.data : "", k->arguments.len));
  json_t *text = json_loadb(clean.data ? clean.data : "", clean.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
  if (json_object_set_new(code ? code : json_object_get(last, "function"), code ? "input" : "arguments", text) != 0)
    k->good = false;
  pu_buf_clear(&k->arguments);
  pu_buf_deinit(&clean);
}

static void open_call(collector *k, const pu_chat_piece *p) {
  char id[32];
  close_call(k);
  snprintf(id, sizeof id, "call_%zu", p->call);
  json_t *call = p->is_code ? json_pack("{ss ss s{ss}}", "id", id, "type", CODE, CODE, "input", "")
                            : json_pack("{ss ss s{ss ss}}", "id", id, "type", "function", "function", "name", p->name,
                                        "arguments", "");
  if (json_array_append_new(k->calls, call) != 0) k->good = false;
}

static void collect(void *arg, const pu_chat_piece *p) {
  collector *k = arg;
  if (p->content.ptr) {
    pu_buf_append(&k->content, p->content.ptr, p->content.len);
    return;
  }
  if (p->name) open_call(k, p);
  if (p->arguments.len) pu_buf_append(&k->arguments, p->arguments.ptr, p->arguments.len);
}

static json_t *message_of(collector *k) {
  pu_buf clean;
  pu_buf_init(&clean, PU_BUF_MAX);
  close_call(k);
  pu_buf_json_str(&clean, pu_str_of(k->content.data ? k->content.data : "", k->content.len));
  json_t *said = json_loadb(clean.data ? clean.data : "", clean.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
  json_t *m = said ? json_pack("{s:s, s:O}", "role", "assistant", "content", said) : NULL;
  bool good = k->good && !k->content.failed && !k->arguments.failed;
  if (m && json_array_size(k->calls) > 0) good = good && json_object_set(m, "tool_calls", k->calls) == 0;
  if (!good && m) {
    json_decref(m);
    m = NULL;
  }
  json_decref(said);
  pu_buf_deinit(&clean);
  return m;
}

pu_err pu_chat_answer(const pu_chat_template *c, unsigned flags, pu_str text, json_t **message, pu_error *e) {
  collector k = {.calls = json_array(), .good = true};
  pu_chat_reader *r;
  *message = NULL;
  pu_buf_init(&k.content, PU_BUF_MAX);
  pu_buf_init(&k.arguments, PU_BUF_MAX);
  pu_err err = pu_chat_reader_create(c, flags, collect, &k, &r, e);
  if (!err) err = pu_chat_reader_feed(r, text, e);
  if (!err) err = pu_chat_reader_finish(r, e);
  if (!err) *message = message_of(&k);
  if (!err && !*message) err = pu_fail(e, PU_ERR_NOMEM, "no memory for an answer of %zu bytes", text.len);
  pu_chat_reader_free(r);
  json_decref(k.calls);
  pu_buf_deinit(&k.content);
  pu_buf_deinit(&k.arguments);
  return err;
}

size_t pu_chat_call_ids(const pu_chat_template *c, const pu_tokenizer *t, int32_t *out, size_t max) {
  static const struct {
    unsigned style;
    const char *text;
  } marks[] = {{CHAT_CALLS_INTERNLM2, CHAT_ACTION_START}, {CHAT_CALLS_INTERNLM2, CHAT_ACTION_END},
               {CHAT_CALLS_INTERNLM2, CHAT_PLUGIN},       {CHAT_CALLS_INTERNLM2, CHAT_INTERPRETER},
               {CHAT_CALLS_TAGS, "<tool_call>"},          {CHAT_CALLS_TAGS, "</tool_call>"},
               {CHAT_CALLS_LLAMA3, "<|python_tag|>"}};
  size_t n = 0;
  for (size_t i = 0; i < PU_COUNT(marks) && n < max; i++) {
    int32_t id = c->calls & marks[i].style ? pu_tokenizer_find(t, pu_str_c(marks[i].text)) : -1;
    if (id >= 0 && pu_tokenizer_is_special(t, id)) out[n++] = id;
  }
  return n;
}
