#include "src/cli/conversation.h"

#include <stdlib.h>
#include <string.h>

#include "src/cli/sample.h"

static const char SYSTEM[] = "system", USER[] = "user", ASSISTANT[] = "assistant";

pu_err pu_conversation_open(pu_engine *en, pu_conversation *out, pu_error *e) {
  *out = (pu_conversation){.en = en};
  if (!pu_engine_chat(en))
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   "the model brings no chat template, and its tokenizer has the markers of none that puyu knows; puyu "
                   "generate continues plain text");
  return pu_cli_open_session(en, &out->session, e);
}

static void take_out(pu_conversation *c, size_t at, size_t n) {
  if (!n) return; /* and perhaps no memory */
  for (size_t i = at; i < at + n; i++) free((char *)(uintptr_t)c->m[i].content.ptr);
  memmove(c->m + at, c->m + at + n, (c->n - at - n) * sizeof *c->m);
  c->n -= n;
}

void pu_conversation_close(pu_conversation *c) {
  take_out(c, 0, c->n);
  free(c->m);
  pu_ids_deinit(&c->held);
  pu_session_close(c->session);
  *c = (pu_conversation){0};
}

static pu_err put_in(pu_conversation *c, size_t at, const char *role, pu_str text, pu_error *e) {
  if (c->n == c->cap) {
    size_t cap = c->cap ? 2 * c->cap : 16;
    pu_message *m = realloc(c->m, cap * sizeof *m);
    if (!m) return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu messages", cap);
    c->m = m;
    c->cap = cap;
  }
  char *copy = malloc(text.len + 1);
  if (!copy) return pu_fail(e, PU_ERR_NOMEM, "no memory for a message of %zu bytes", text.len);
  memcpy(copy, text.ptr, text.len);
  copy[text.len] = 0;
  memmove(c->m + at + 1, c->m + at, (c->n - at) * sizeof *c->m);
  c->m[at] = (pu_message){.role = role, .content = pu_str_of(copy, text.len)};
  c->n++;
  return PU_OK;
}

/* Where the turns begin. */
static size_t first_turn(const pu_conversation *c) {
  return c->n > 0 && c->m[0].role == SYSTEM;
}

pu_err pu_conversation_system(pu_conversation *c, const char *text, pu_error *e) {
  take_out(c, 0, first_turn(c));
  return text && *text ? put_in(c, 0, SYSTEM, pu_str_c(text), e) : PU_OK;
}

void pu_conversation_reset(pu_conversation *c) {
  size_t first = first_turn(c);
  take_out(c, first, c->n - first);
}

bool pu_conversation_undo(pu_conversation *c) {
  if (c->n < first_turn(c) + 2) return false;
  take_out(c, c->n - 2, 2);
  return true;
}

/* The ids of the conversation, without the first `skip` turns, up to the opening of an answer. */
static pu_err render(const pu_conversation *c, size_t skip, pu_ids *out, pu_error *e) {
  size_t first = first_turn(c), n = c->n - 2 * skip;
  pu_message *m = malloc(n * sizeof *m);
  if (!m) return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu messages", n);
  memcpy(m, c->m, first * sizeof *m);
  memcpy(m + first, c->m + first + 2 * skip, (n - first) * sizeof *m);
  out->n = 0;
  pu_err err = pu_chat_ids(pu_engine_chat(c->en), pu_engine_tokenizer(c->en), m, n, true, out, e);
  free(m);
  return err;
}

/* Renders what fits: the oldest turns are left out until there is room for an answer, a quarter of the context or what
 * was asked for. */
static pu_err fit(const pu_conversation *c, const pu_sampling *how, pu_ids *ids, size_t *skip, pu_error *e) {
  int64_t context = pu_engine_context(c->en), quarter = context / 4;
  int64_t room = how->max_tokens > 0 ? PU_MIN(how->max_tokens, quarter) : quarter;
  size_t turns = (c->n - first_turn(c) - 1) / 2;
  for (*skip = 0;; (*skip)++) {
    PU_TRY(render(c, *skip, ids, e));
    if ((int64_t)ids->n + room <= context) return PU_OK;
    if (*skip < turns) continue;
    if ((int64_t)ids->n < context) return PU_OK; /* less room than wanted, but some */
    return pu_fail(e, PU_ERR_USAGE, "the message has %zu tokens with its surroundings; the context holds %lld", ids->n,
                   (long long)context);
  }
}

/* Brings the session to these ids, keeping the beginning it has in common with them. */
static pu_err bring_to(pu_conversation *c, const pu_ids *ids, pu_error *e) {
  size_t same = 0;
  while (same < ids->n && same < c->held.n && ids->v[same] == c->held.v[same]) same++;
  c->held.n = 0;
  PU_TRY(pu_session_rewind(c->session, (int64_t)same, e));
  PU_TRY(pu_session_append(c->session, ids->v + same, ids->n - same, e));
  for (size_t i = 0; i < ids->n; i++)
    if (!pu_ids_push(&c->held, ids->v[i])) return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu tokens", ids->n);
  return PU_OK;
}

static pu_err answer(pu_conversation *c, const pu_ids *ids, const pu_sampling *how, pu_on_text on_text, void *arg,
                     bool (*stop)(void), pu_error *e) {
  int32_t stop_ids[8];
  pu_sampling o = *how;
  o.stop_ids = stop_ids;
  o.n_stop_ids = pu_chat_stop_ids(pu_engine_chat(c->en), pu_engine_tokenizer(c->en), stop_ids, PU_COUNT(stop_ids));
  o.seed += (uint64_t)c->answers++;
  PU_TRY(bring_to(c, ids, e));
  PU_TRY(pu_session_start(c->session, &o, on_text, arg, e));
  for (bool more = true; more && !stop();) PU_TRY(pu_engine_step(c->en, &more, e));
  size_t n;
  const int32_t *made = pu_session_answer(c->session, &n);
  for (size_t i = 0; i < n; i++)
    if (!pu_ids_push(&c->held, made[i])) return pu_fail(e, PU_ERR_NOMEM, "no memory for %zu tokens", n);
  return put_in(c, c->n, ASSISTANT, pu_session_text(c->session), e);
}

pu_err pu_conversation_ask(pu_conversation *c, pu_str question, const pu_sampling *how, pu_on_text on_text, void *arg,
                           bool (*stop)(void), size_t *dropped, pu_error *e) {
  pu_ids ids = {0};
  size_t skip = 0;
  PU_TRY(put_in(c, c->n, USER, question, e));
  pu_err err = fit(c, how, &ids, &skip, e);
  if (!err) err = answer(c, &ids, how, on_text, arg, stop, e);
  if (err)
    take_out(c, c->n - 1, 1);
  else
    take_out(c, first_turn(c), 2 * skip);
  pu_ids_deinit(&ids);
  *dropped = err ? 0 : skip;
  return err;
}

bool pu_conversation_json(const pu_conversation *c, pu_buf *out) {
  pu_buf_puts(out, "{\"messages\": [");
  for (size_t i = 0; i < c->n; i++) {
    pu_buf_printf(out, "%s\n  {\"role\": \"%s\", \"content\": ", i ? "," : "", c->m[i].role);
    pu_buf_json_str(out, c->m[i].content);
    pu_buf_putc(out, '}');
  }
  return pu_buf_puts(out, "\n]}\n") && !out->failed;
}
