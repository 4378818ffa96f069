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

/* The first id after what the whole has in common with the prompt. Where the whole text begins as the prompt's but its
 * ids do not, a token lies across the border, and is no answer's. A prompt that ends otherwise than the conversation
 * goes on (with an empty thought, say) gives way at its first difference. */
static size_t first_said(const finder *f, const pu_buf *text, const pu_ids *prompt) {
  size_t same = 0;
  while (same < prompt->n && same < f->ids->n && prompt->v[same] == f->ids->v[same]) same++;
  bool begins = text->len <= f->text->len && (text->len == 0 || memcmp(text->data, f->text->data, text->len) == 0);
  return same < prompt->n && begins ? same + 1 : same;
}

/* Message i is an assistant's: its ids, up to the one that ends it. */
static pu_err find(const finder *f, size_t i, pu_buf *text, pu_ids *prompt, pu_error *e) {
  json_t *before = json_array();
  for (size_t k = 0; before && k < i; k++) json_array_append(before, json_array_get(f->chat->messages, k));
  pu_chat chat = *f->chat;
  chat.messages = before;
  chat.generate = true;
  pu_buf_clear(text);
  prompt->n = 0;
  pu_err err =
      before ? f->render(f->c, f->t, &chat, text, prompt, e) : pu_fail(e, PU_ERR_NOMEM, "no memory to render a chat");
  json_decref(before);
  if (err) return err;
  for (size_t at = first_said(f, text, prompt); at < f->ids->n; at++) {
    f->answers->v[at] = (int32_t)i;
    if (is_stop(f, f->ids->v[at])) break;
  }
  return PU_OK;
}

static pu_err find_all(finder *f, pu_error *e) {
  size_t i;
  const json_t *m;
  pu_buf text;
  pu_ids prompt = {0};
  pu_err err = PU_OK;
  pu_buf_init(&text, PU_BUF_MAX);
  json_array_foreach(f->chat->messages, i, m) {
    const char *role = json_string_value(json_object_get(m, "role"));
    if (!err && role && strcmp(role, "assistant") == 0) err = find(f, i, &text, &prompt, e);
  }
  pu_buf_deinit(&text);
  pu_ids_deinit(&prompt);
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
