/* puyu's own chat templates: one row each of `templates`. A turn is its role's opening, the content, its role's
 * closing; each is a few parts. Markers enter by id; everything between two markers is one text, encoded together, as
 * the reference tokenizers do, and under TEXT_ENCODE_GUARD, so that no content can write a marker. */
#include <string.h>

#include "src/text/chat.h"
#include "src/text/encoder.h"
#include "src/text/unicode.h"

typedef enum part_kind {
  PART_END,
  PART_TEXT,
  PART_MARK, /* a special token by its text */
  PART_ROLE, /* the role's name */
  PART_NAME  /* s and the message's name, where it has one; a marker's name (<|plugin|>) is that marker */
} part_kind;

typedef struct part {
  part_kind kind;
  const char *s;
} part;

#define TEXT(s)                                                                                                        \
  { PART_TEXT, s }
#define MARK(s)                                                                                                        \
  { PART_MARK, s }
#define ROLE                                                                                                           \
  { PART_ROLE, NULL }
#define NAME(s)                                                                                                        \
  { PART_NAME, s }

typedef struct turn {
  part open[6], close[4];
} turn;

typedef struct chat_role {
  const char *role;
  const char *shown; /* what PART_ROLE writes */
  const turn *turn;
} role_row;

static const turn v1_system = {{TEXT("<|System|>:")}, {TEXT("\n")}};
static const turn v1_user = {{TEXT("<|User|>:")}, {TEXT("\n")}};
static const turn v1_bot = {{TEXT("<|Bot|>:")}, {MARK("<eoa>"), TEXT("\n")}};
static const turn im_turn = {{MARK("<|im_start|>"), ROLE, NAME(" name="), TEXT("\n")},
                             {MARK("<|im_end|>"), TEXT("\n")}};
static const turn llama3_turn = {{MARK("<|start_header_id|>"), ROLE, MARK("<|end_header_id|>"), TEXT("\n\n")},
                                 {MARK("<|eot_id|>")}};

static const role_row v1_roles[] = {
    {"system", NULL, &v1_system}, {"user", NULL, &v1_user}, {"assistant", NULL, &v1_bot}, {0}};
static const role_row internlm2_roles[] = {
    {"system", "system", &im_turn},           {"user", "user", &im_turn},        {"assistant", "assistant", &im_turn},
    {"environment", "environment", &im_turn}, {"tool", "environment", &im_turn}, {0}};
static const role_row chatml_roles[] = {{"system", "system", &im_turn},
                                        {"user", "user", &im_turn},
                                        {"assistant", "assistant", &im_turn},
                                        {"tool", "tool", &im_turn},
                                        {0}};
static const role_row llama3_roles[] = {{"system", "system", &llama3_turn},       {"user", "user", &llama3_turn},
                                        {"assistant", "assistant", &llama3_turn}, {"ipython", "ipython", &llama3_turn},
                                        {"tool", "ipython", &llama3_turn},        {0}};

static const char *const v1_stops[] = {"<eoa>", "<eoh>", NULL};
static const char *const im_stops[] = {"<|im_end|>", NULL};
static const char *const llama3_stops[] = {"<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", NULL};

static const pu_chat_template templates[] = {
    {.name = "internlm", .begin = "<s>", .stops = v1_stops, .roles = v1_roles},
    {.name = "internlm2", .calls = CHAT_CALLS_INTERNLM2, .begin = "<s>", .stops = im_stops, .roles = internlm2_roles},
    {.name = "chatml", .calls = CHAT_CALLS_TAGS, .begins_if_trained = true, .stops = im_stops, .roles = chatml_roles},
    {.name = "llama3",
     .calls = CHAT_CALLS_LLAMA3,
     .begin = "<|begin_of_text|>",
     .trim = true,
     .stops = llama3_stops,
     .roles = llama3_roles},
};
static const char *const names[] = {"internlm", "internlm2", "chatml", "llama3", NULL};

/* Names that are markers where the tokenizer has them; any other name is text. */
static const char *const marker_names[] = {CHAT_PLUGIN, CHAT_INTERPRETER};

/* Models fine-tuned before InternLM2's markers had names (InternLM-XComposer2 among them) use the places of the
 * vocabulary that these were given later. */
static int32_t find_marker(const pu_tokenizer *t, const char *marker) {
  static const char *const old[][2] = {{"<|im_start|>", "[UNUSED_TOKEN_146]"}, {"<|im_end|>", "[UNUSED_TOKEN_145]"}};
  int32_t id = pu_tokenizer_find(t, pu_str_c(marker));
  for (size_t i = 0; id < 0 && i < PU_COUNT(old); i++)
    if (strcmp(marker, old[i][0]) == 0) id = pu_tokenizer_find(t, pu_str_c(old[i][1]));
  return id;
}

const pu_chat_template *pu_chat_find(const char *name) {
  for (size_t i = 0; name && i < PU_COUNT(templates); i++) {
    if (strcmp(templates[i].name, name) == 0) return &templates[i];
  }
  return NULL;
}

const char *const *pu_chat_names(void) {
  return names;
}

const pu_chat_template *pu_chat_guess(const pu_tokenizer *t, const char *model_type) {
  static const struct {
    const char *marker, *type, *name; /* type: how model types that want this row begin; NULL: any */
  } rows[] = {{"<|start_header_id|>", NULL, "llama3"},
              {"<|im_start|>", "internlm", "internlm2"},
              {"<|plugin|>", NULL, "internlm2"},
              {"<|im_start|>", NULL, "chatml"},
              {"<eoa>", NULL, "internlm"}};
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    bool fits = !rows[i].type || (model_type && strncmp(model_type, rows[i].type, strlen(rows[i].type)) == 0);
    if (fits && find_marker(t, rows[i].marker) >= 0) return pu_chat_find(rows[i].name);
  }
  return NULL;
}

static void guard(pu_tokenizer *t, const char *marker) {
  int32_t id = find_marker(t, marker);
  if (id >= 0) t->pieces[id].guarded = true;
}

void text_guard_markers(pu_tokenizer *t) {
  for (int32_t id = 0; id < t->n; id++) t->pieces[id].guarded = t->pieces[id].special;
  for (size_t i = 0; i < PU_COUNT(templates); i++) {
    for (const char *const *s = templates[i].stops; *s; s++) guard(t, *s);
    for (const role_row *r = templates[i].roles; r->role; r++) {
      for (const part *p = r->turn->open; p->kind != PART_END; p++) {
        if (p->kind == PART_MARK) guard(t, p->s);
      }
    }
  }
}

/* ---- rendering: one walk, two sinks ------------------------------------------------------------------------------ */

typedef struct sink {
  const pu_tokenizer *t; /* NULL: text only */
  pu_buf *text;          /* all of it, or what was gathered since the last marker */
  pu_encoder *enc;
  pu_ids *ids;
  const pu_chat_template *c;
  pu_ids *answers; /* NULL: not wanted */
  int32_t answer;  /* place of the turn whose answer is written, -1: none is */
  size_t from;     /* of text: where its part of that begins */
} sink;

/* Of ids from `begin` on, the encoding of s->text: those that are all the answer's. What stands before it is encoded by
 * itself to see where it ends; a token that both have a part of is no answer's. */
static pu_err mark_answer(sink *s, size_t begin, unsigned flags, pu_error *e) {
  size_t at = begin;
  if (s->answer >= 0 && s->from > 0) {
    pu_ids before = {0};
    pu_err err = pu_encoder_encode(s->enc, pu_str_of(s->text->data, s->from), flags, &before, e);
    size_t same = 0;
    while (same < before.n && begin + same < s->ids->n && before.v[same] == s->ids->v[begin + same]) same++;
    at += same < before.n ? same + 1 : same;
    pu_ids_deinit(&before);
    if (err) return err;
  }
  for (size_t i = begin; i < s->ids->n; i++)
    if (!pu_ids_push(s->answers, i >= at ? s->answer : -1))
      return pu_fail(e, PU_ERR_NOMEM, "no memory to render a chat");
  return PU_OK;
}

static pu_err flush(sink *s, pu_error *e) {
  if (s->text->failed) return pu_fail(e, PU_ERR_NOMEM, "no memory to render a chat");
  if (!s->t || s->text->len == 0) return PU_OK;
  /* Only a text that begins the whole sequence gets the dummy prefix. */
  unsigned flags = TEXT_ENCODE_GUARD | (s->ids->n > 0 ? PU_ENCODE_NO_PREFIX : 0);
  size_t begin = s->ids->n;
  PU_TRY(pu_encoder_encode(s->enc, pu_str_of(s->text->data, s->text->len), flags, s->ids, e));
  if (s->answers) PU_TRY(mark_answer(s, begin, flags, e));
  pu_buf_clear(s->text);
  s->from = 0;
  return PU_OK;
}

static pu_err put_id(sink *s, int32_t id, pu_error *e) {
  PU_TRY(flush(s, e));
  bool good = pu_ids_push(s->ids, id) && (!s->answers || pu_ids_push(s->answers, s->answer));
  return good ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory to render a chat");
}

static void begin_answer(sink *s, const chat_turn *said) {
  s->answer = strcmp(said->m.role, "assistant") == 0 ? said->place : -1;
  s->from = s->text->len;
}

static pu_err put_mark(sink *s, const char *mark, pu_error *e) {
  if (!s->t) {
    pu_buf_puts(s->text, mark);
    return PU_OK;
  }
  int32_t id = find_marker(s->t, mark);
  if (id < 0) {
    return pu_fail(e, PU_ERR_UNSUPPORTED, "the tokenizer has no %s, which chat template \"%s\" needs; choose another",
                   mark, s->c->name);
  }
  return put_id(s, id, e);
}

static pu_err put_name(sink *s, const char *before, const char *name, pu_error *e) {
  if (!name || !*name) return PU_OK;
  pu_buf_puts(s->text, before);
  for (size_t i = 0; i < PU_COUNT(marker_names); i++) {
    bool known = !s->t || pu_tokenizer_find(s->t, pu_str_c(marker_names[i])) >= 0;
    if (known && strcmp(name, marker_names[i]) == 0) return put_mark(s, name, e);
  }
  pu_buf_puts(s->text, name);
  return PU_OK;
}

static pu_err put_parts(sink *s, const part *p, const role_row *row, const pu_message *m, bool closes, pu_error *e) {
  for (; p->kind != PART_END; p++) {
    if (p->kind == PART_MARK) {
      PU_TRY(put_mark(s, p->s, e));
      if (closes) s->answer = -1; /* what ends a turn ends with its marker */
    }
    if (p->kind == PART_NAME) PU_TRY(put_name(s, p->s, m ? m->name : NULL, e));
    if (p->kind == PART_TEXT) pu_buf_puts(s->text, p->s);
    if (p->kind == PART_ROLE) pu_buf_puts(s->text, row->shown);
  }
  return PU_OK;
}

static const role_row *find_role(const pu_chat_template *c, const char *role) {
  for (const role_row *r = c->roles; role && r->role; r++) {
    if (strcmp(r->role, role) == 0) return r;
  }
  return NULL;
}

static pu_str trimmed(pu_str s) {
  uint32_t cp;
  for (size_t len; (len = pu_utf8_next(s, &cp)) > 0 && text_is_space(cp);) s = pu_str_of(s.ptr + len, s.len - len);
  for (size_t len; (len = text_utf8_before((const uint8_t *)s.ptr, s.len, &cp)) > 0 && text_is_space(cp);) s.len -= len;
  return s;
}

/* The marker in front; a tokenizer that calls it otherwise (or has none) gives its own bos (or nothing). */
static pu_err put_begin(sink *s, pu_error *e) {
  if (!s->t) {
    if (s->c->begin) pu_buf_puts(s->text, s->c->begin);
    return PU_OK;
  }
  int32_t id = s->c->begin ? pu_tokenizer_find(s->t, pu_str_c(s->c->begin)) : -1;
  bool wants = s->c->begins_if_trained ? pu_tokenizer_adds_bos(s->t) : true;
  if (id < 0 && wants) id = pu_tokenizer_bos(s->t);
  return id >= 0 ? put_id(s, id, e) : PU_OK;
}

/* The calls of an answer, after its content. */
static pu_err put_calls(sink *s, const json_t *calls, pu_error *e) {
  size_t i;
  const json_t *call;
  if (!(s->c->calls & CHAT_CALLS_INTERNLM2) && json_array_size(calls) > 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "chat template \"%s\" has no form for tool calls", s->c->name);
  json_array_foreach(calls, i, call) {
    bool is_code;
    pu_buf text;
    pu_buf_init(&text, PU_BUF_MAX);
    pu_err err = chat_call_text(call, &is_code, &text, e);
    if (!err) err = put_mark(s, CHAT_ACTION_START, e);
    if (!err) err = put_mark(s, is_code ? CHAT_INTERPRETER : CHAT_PLUGIN, e);
    if (!err) pu_buf_append(s->text, text.data ? text.data : "", text.len);
    if (!err) err = put_mark(s, CHAT_ACTION_END, e);
    pu_buf_deinit(&text);
    if (err) return err;
  }
  return PU_OK;
}

static pu_err render(sink *s, const chat_turn *turns, size_t n, bool generate, pu_error *e) {
  PU_TRY(put_begin(s, e));
  for (size_t i = 0; i < n; i++) {
    const pu_message *m = &turns[i].m;
    const role_row *row = find_role(s->c, m->role);
    if (!row) {
      return pu_fail(e, PU_ERR_USAGE, "message %zu: chat template \"%s\" has no role \"%.40s\"", i + 1, s->c->name,
                     m->role ? m->role : "");
    }
    pu_str content = s->c->trim ? trimmed(m->content) : m->content;
    PU_TRY(put_parts(s, row->turn->open, row, m, false, e));
    if (s->answers) begin_answer(s, &turns[i]);
    if (content.len > 0) pu_buf_append(s->text, content.ptr, content.len);
    PU_TRY(put_calls(s, turns[i].calls, e));
    PU_TRY(put_parts(s, row->turn->close, row, m, true, e));
    s->answer = -1;
  }
  const role_row *assistant = find_role(s->c, "assistant");
  if (generate) PU_TRY(put_parts(s, assistant->turn->open, assistant, NULL, false, e));
  return flush(s, e);
}

static pu_err render_ids(const pu_chat_template *c, const pu_tokenizer *t, const chat_turn *turns, size_t n,
                         bool generate, pu_ids *out, pu_ids *answers, pu_error *e) {
  pu_ids ids = {0};
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  sink s = {.t = t, .text = &text, .ids = &ids, .c = c, .answers = answers, .answer = -1};
  pu_err err = text_encoder_bare(t, &s.enc, e);
  if (err == PU_OK) err = render(&s, turns, n, generate, e);
  if (err == PU_OK && !text_reserve_ids(out, ids.n)) err = pu_fail(e, PU_ERR_NOMEM, "no memory to render a chat");
  if (err == PU_OK && ids.n > 0) {
    memcpy(out->v + out->n, ids.v, ids.n * sizeof *ids.v);
    out->n += ids.n;
  }
  pu_encoder_free(s.enc);
  pu_buf_deinit(&text);
  pu_ids_deinit(&ids);
  return err;
}

pu_err chat_render_own(const pu_chat_template *c, const pu_tokenizer *t, const chat_turn *turns, size_t n,
                       bool generate, pu_buf *text, pu_ids *ids, pu_ids *answers, pu_error *e) {
  if (t) return render_ids(c, t, turns, n, generate, ids, answers, e);
  sink s = {.text = text, .c = c, .answer = -1};
  return render(&s, turns, n, generate, e);
}

size_t pu_chat_stop_ids(const pu_chat_template *c, const pu_tokenizer *t, int32_t *out, size_t max) {
  size_t n = c->jinja ? chat_stops_of(c, t, out, max) : 0;
  for (const char *const *s = c->stops; s && *s && n < max; s++) {
    int32_t id = find_marker(t, *s);
    if (id >= 0) out[n++] = id;
  }
  int32_t eos = pu_tokenizer_eos(t);
  bool there = eos < 0;
  for (size_t i = 0; i < n; i++) there |= out[i] == eos;
  if (!there && n < max) out[n++] = eos;
  return n;
}
