/* What a server's chunks say, "chat.completion.chunk" of OpenAI's API and the ways in which other servers differ: calls
 * without an index, arguments that are an object, an answer that comes whole. Any bytes may come. */
#include <stdlib.h>
#include <string.h>

#include "puyu/net.h"
#include "src/agent/internal.h"

void agent_stream_init(agent_stream *s, void (*on_text)(void *arg, pu_str text), void *arg) {
  *s = (agent_stream){.on_text = on_text, .arg = arg};
  agent_answer_init(&s->answer);
}

void agent_stream_deinit(agent_stream *s) {
  agent_answer_deinit(&s->answer);
}

/* The call that a piece belongs to: by its index; one that is new by another id. AGENT_MOST_CALLS: there is none yet.
 */
static size_t find_call(const agent_stream *s, const json_t *piece, const char *id) {
  const json_t *index = json_object_get(piece, "index");
  size_t n = json_array_size(s->answer.calls), at = n;
  if (json_is_integer(index)) {
    for (size_t i = 0; i < n; i++)
      if (s->index[i] == json_integer_value(index)) at = i; /* the last of them */
  } else if (n > 0 && !json_object_get(json_object_get(piece, "function"), "name")) {
    at = n - 1;
  }
  if (at == n) return AGENT_MOST_CALLS;
  const char *known = json_string_value(json_object_get(json_array_get(s->answer.calls, at), "id"));
  return id && *id && known && *known && strcmp(id, known) != 0 ? AGENT_MOST_CALLS : at;
}

static bool add_arguments(agent_stream *s, size_t call, const json_t *v) {
  if (json_is_string(v))
    return agent_answer_argue(&s->answer, call, pu_str_of(json_string_value(v), json_string_length(v)));
  if (!json_is_object(v)) return true;
  char *text = json_dumps(v, JSON_COMPACT);
  bool good = text && agent_answer_argue(&s->answer, call, pu_str_c(text));
  free(text);
  return good;
}

static bool add_call(agent_stream *s, const json_t *piece) {
  const json_t *function = json_object_get(piece, "function"), *code = json_object_get(piece, "code_interpreter");
  const char *id = json_string_value(json_object_get(piece, "id")),
             *name = json_string_value(json_object_get(function, "name"));
  size_t at = find_call(s, piece, id);
  if (at == AGENT_MOST_CALLS) {
    at = json_array_size(s->answer.calls);
    if (!agent_answer_call(&s->answer, id, name ? name : "", code != NULL)) return false;
    s->index[at] = json_is_integer(json_object_get(piece, "index"))
                       ? json_integer_value(json_object_get(piece, "index"))
                       : -1 - (int64_t)at;
  }
  return add_arguments(s, at, code ? json_object_get(code, "input") : json_object_get(function, "arguments"));
}

static bool add_choice(agent_stream *s, const json_t *choice) {
  const json_t *delta = json_object_get(choice, "delta"), *piece;
  if (!delta) delta = json_object_get(choice, "message");
  const json_t *text = json_object_get(delta, "content");
  const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
  size_t i;
  if (json_string_length(text) > 0) {
    pu_str said = pu_str_of(json_string_value(text), json_string_length(text));
    if (!agent_answer_say(&s->answer, said)) return false;
    s->on_text(s->arg, said);
  }
  json_array_foreach(json_object_get(delta, "tool_calls"), i, piece) {
    if (!add_call(s, piece)) return false;
  }
  if (finish) snprintf(s->finish, sizeof s->finish, "%s", finish);
  return true;
}

bool agent_stream_event(void *stream, pu_str data) {
  agent_stream *s = stream;
  if (pu_str_eq(data, pu_str_c("[DONE]"))) {
    s->over = true;
    return true;
  }
  json_t *v = json_loadb(data.ptr, data.len, JSON_ALLOW_NUL, NULL);
  bool good = json_is_object(v);
  if (!good) s->strange = true;
  const json_t *error = json_object_get(v, "error");
  if (good && error && !json_is_null(error)) {
    pu_api_error(0, data, s->why, sizeof s->why);
    good = false;
  }
  const json_t *choice = json_array_get(json_object_get(v, "choices"), 0); /* usage comes with none */
  if (good && choice) good = add_choice(s, choice);
  json_decref(v);
  return good;
}
