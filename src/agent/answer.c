/* An assistant's message, put together of the pieces it comes in. */
#include <stdlib.h>

#include "src/agent/internal.h"

static const char CODE[] = "code_interpreter";

json_t *agent_text(pu_str bytes) {
  pu_buf clean; /* bytes that are no UTF-8 have no place in JSON */
  pu_buf_init(&clean, PU_BUF_MAX);
  pu_buf_json_str(&clean, bytes.ptr ? bytes : pu_str_c(""));
  json_t *text = clean.failed ? NULL : json_loadb(clean.data, clean.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
  pu_buf_deinit(&clean);
  return text;
}

void agent_answer_init(agent_answer *a) {
  *a = (agent_answer){.calls = json_array()};
  pu_buf_init(&a->content, AGENT_MOST_ANSWER);
}

void agent_answer_deinit(agent_answer *a) {
  for (size_t i = 0; i < json_array_size(a->calls); i++) pu_buf_deinit(&a->arguments[i]);
  json_decref(a->calls);
  pu_buf_deinit(&a->content);
}

static bool noted(agent_answer *a, bool good) {
  if (!good) a->failed = true;
  return good;
}

bool agent_answer_say(agent_answer *a, pu_str text) {
  return noted(a, pu_buf_append(&a->content, text.ptr, text.len));
}

bool agent_answer_call(agent_answer *a, const char *id, const char *name, bool is_code) {
  size_t n = json_array_size(a->calls);
  if (!id) id = "";
  json_t *call = n == AGENT_MOST_CALLS ? NULL
                 : is_code             ? json_pack("{ss ss s{}}", "id", id, "type", CODE, CODE)
                           : json_pack("{ss ss s{ss}}", "id", id, "type", "function", "function", "name", name);
  if (call) pu_buf_init(&a->arguments[n], AGENT_MOST_ANSWER);
  return noted(a, call && json_array_append_new(a->calls, call) == 0);
}

bool agent_answer_argue(agent_answer *a, size_t call, pu_str piece) {
  if (piece.len == 0) return true;
  return noted(a, call < json_array_size(a->calls) && pu_buf_append(&a->arguments[call], piece.ptr, piece.len));
}

static bool put_arguments(agent_answer *a) {
  for (size_t i = 0; i < json_array_size(a->calls); i++) {
    json_t *call = json_array_get(a->calls, i), *code = json_object_get(call, CODE);
    json_t *text = agent_text(pu_str_of(a->arguments[i].data, a->arguments[i].len));
    if (json_object_set_new(code ? code : json_object_get(call, "function"), code ? "input" : "arguments", text) != 0)
      return false;
  }
  return true;
}

pu_err agent_answer_message(agent_answer *a, json_t **message, pu_error *e) {
  json_t *said = a->failed ? NULL : agent_text(pu_str_of(a->content.data, a->content.len));
  json_t *m = said ? json_pack("{s:s, s:O}", "role", "assistant", "content", said) : NULL;
  bool good = m && put_arguments(a);
  if (good && json_array_size(a->calls) > 0) good = json_object_set(m, "tool_calls", a->calls) == 0;
  json_decref(said);
  *message = good ? m : NULL;
  if (good) return PU_OK;
  json_decref(m);
  return pu_fail(e, PU_ERR_NOMEM, "an answer of more than %d MiB or %d calls, or no memory for it",
                 AGENT_MOST_ANSWER >> 20, AGENT_MOST_CALLS);
}
