/* Which ids of a conversation its assistant says, where a model's own Jinja template rendered it. The template says it
 * itself: the prompt that it makes to ask for an answer is what stands before that answer. */
#include <string.h>

#include "src/text/chat.h"

enum { MOST_STOPS = 8 };

typedef struct finder {
  const pu_chat_template *c;
  const pu_tokenizer *t;
  const pu_chat *chat;
  chat_ids_fn render;
  const pu_ids *ids; /* of the whole conversation, and its text */
  const pu_buf *text;
  pu_ids *answers;
  int32_t stops[MOST_STOPS];
  size_t n_stops;
} finder;

static bool is_stop(const finder *f, int32_t id) {
  for (size_t i = 0; i < f->n_stops; i++)
    if (f->stops[i] == id) return true;
  return false;
}

/* A beginning of the conversation, rendered. */
typedef struct part {
  pu_buf text;
  pu_ids ids;
  size_t same; /* ids that it has in common with the whole */
  bool begins; /* the whole text begins with its text */
} part;

/* The first n messages, and the prompt for an answer to them. */
static pu_err render_part(const finder *f, size_t n, bool prompt, part *p, pu_error *e) {
  json_t *some = json_array();
  for (size_t k = 0; some && k < n; k++) json_array_append(some, json_array_get(f->chat->messages, k));
  pu_chat chat = *f->chat;
  chat.messages = some;
  chat.generate = prompt;
  pu_buf_clear(&p->text);
  p->ids.n = 0;
  pu_err err = some ? f->render(f->c, f->t, &chat, &p->text, &p->ids, e)
                    : pu_fail(e, PU_ERR_NOMEM, "no memory to render a chat");
  json_decref(some);
  if (err) return err;
  for (p->same = 0; p->same < PU_MIN(p->ids.n, f->ids->n) && p->ids.v[p->same] == f->ids->v[p->same];) p->same++;
  p->begins =
      p->text.len <= f->text->len && (p->text.len == 0 || memcmp(p->text.data, f->text->data, p->text.len) == 0);
  return PU_OK;
}

static bool is_special(const finder *f, size_t i) {
  return i < f->ids->n && pu_tokenizer_is_special(f->t, f->ids->v[i]);
}

/* Spaces and line ends, and nothing else. */
static bool is_space(const finder *f, size_t i, pu_buf *text) {
  pu_buf_clear(text);
  if (is_special(f, i) || pu_tokenizer_bytes(f->t, f->ids->v[i], text, NULL) != PU_OK || text->len == 0) return false;
  return strspn(text->data, " \r\n\t") == text->len;
}

/* Ids [from, to) hold an answer: up to the one that ends it. Where none of those is known to, up to a special token
 * that only spaces follow; and where there is none, the one behind it is the end, which some templates write only when
 * somebody else goes on. */
static void mark(const finder *f, size_t from, size_t to, int32_t message, pu_buf *text) {
  size_t end = from;
  while (end < to && !is_stop(f, f->ids->v[end])) end++;
  if (end < to) {
    to = end + 1;
  } else {
    while (end > from && is_space(f, end - 1, text)) end--;
    if (end > from && is_special(f, end - 1))
      to = end;
    else if (is_special(f, to))
      to++;
  }
  for (size_t i = from; i < to; i++) f->answers->v[i] = message;
}

/* Message i is an assistant's. It begins behind its prompt; where the whole begins with the prompt's text but not with
 * its ids, a token lies across the border, and is no answer's. A prompt that ends otherwise than the conversation goes
 * on (with an empty thought, say) gives way at its first difference. It ends, at the latest, where the conversation up
 * to it does; unless the template renders it otherwise when something follows. */
static pu_err find(const finder *f, size_t i, part *p, pu_error *e) {
  PU_TRY(render_part(f, i, true, p, e));
  size_t from = p->same < p->ids.n && p->begins ? p->same + 1 : p->same, to = f->ids->n;
  if (i + 1 < json_array_size(f->chat->messages)) {
    PU_TRY(render_part(f, i + 1, false, p, e));
    if (p->begins && p->same > from) to = p->same;
  }
  mark(f, from, to, (int32_t)i, &p->text);
  return PU_OK;
}

static pu_err find_all(finder *f, pu_error *e) {
  size_t i;
  const json_t *m;
  part p = {0};
  pu_err err = PU_OK;
  pu_buf_init(&p.text, PU_BUF_MAX);
  json_array_foreach(f->chat->messages, i, m) {
    const char *role = json_string_value(json_object_get(m, "role"));
    if (!err && role && strcmp(role, "assistant") == 0) err = find(f, i, &p, e);
  }
  pu_buf_deinit(&p.text);
  pu_ids_deinit(&p.ids);
  return err;
}

pu_err chat_answers_jinja(const pu_chat_template *c, const pu_tokenizer *t, const pu_chat *chat, chat_ids_fn render,
                          pu_ids *ids, pu_ids *answers, pu_error *e) {
  size_t before = ids->n;
  pu_ids whole = {0}, found = {0};
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  finder f = {.c = c, .t = t, .chat = chat, .render = render, .ids = &whole, .text = &text, .answers = &found};
  f.n_stops = pu_chat_stop_ids(c, t, f.stops, MOST_STOPS);
  pu_err err = render(c, t, chat, &text, &whole, e);
  bool good = true;
  for (size_t i = 0; !err && i < whole.n; i++) good = good && pu_ids_push(&found, -1);
  if (!err && good) err = find_all(&f, e);
  for (size_t i = 0; !err && good && i < whole.n; i++)
    good = pu_ids_push(ids, whole.v[i]) && pu_ids_push(answers, found.v[i]);
  if (!err && !good) err = pu_fail(e, PU_ERR_NOMEM, "no memory to render a chat");
  if (err) ids->n = PU_MIN(ids->n, before);
  pu_buf_deinit(&text);
  pu_ids_deinit(&whole);
  pu_ids_deinit(&found);
  return err;
}
