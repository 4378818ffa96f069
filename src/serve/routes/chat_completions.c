/* POST /v1/chat/completions: an answer to a conversation. */
#include <stdlib.h>

#include "src/serve/internal.h"

static void opening(pu_buf *b) {
  pu_buf_puts(b, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
}

static void piece(pu_buf *b, pu_str text) {
  pu_buf_puts(b, "\"delta\":{");
  if (text.len) {
    pu_buf_puts(b, "\"content\":");
    pu_buf_json_str(b, text);
  }
  pu_buf_putc(b, '}');
}

static void whole(pu_buf *b, pu_str text) {
  pu_buf_puts(b, "\"message\":{\"role\":\"assistant\",\"content\":");
  pu_buf_json_str(b, text);
  pu_buf_puts(b, ",\"refusal\":null}");
}

static void put_value(pu_buf *b, const json_t *v) {
  char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
  pu_buf_puts(b, text ? text : "null");
  free(text);
}

/* In a stream each call says its index, so that its pieces (here: one) can be put together. */
static void message(pu_buf *b, const json_t *m, bool stream) {
  const json_t *content = json_object_get(m, "content"), *calls = json_object_get(m, "tool_calls");
  pu_buf_puts(b, stream ? "\"delta\":{\"content\":" : "\"message\":{\"role\":\"assistant\",\"content\":");
  if (json_string_length(content))
    put_value(b, content);
  else
    pu_buf_puts(b, "null");
  pu_buf_puts(b, stream ? ",\"tool_calls\":[" : ",\"refusal\":null,\"tool_calls\":[");
  for (size_t i = 0; i < json_array_size(calls); i++) {
    json_t *call = json_copy(json_array_get(calls, i));
    if (stream) json_object_set_new(call, "index", json_integer((json_int_t)i));
    if (i) pu_buf_putc(b, ',');
    put_value(b, call);
    json_decref(call);
  }
  pu_buf_puts(b, "]}");
}

static const pu_answer_style style = {.id_prefix = "chatcmpl",
                                      .object = "chat.completion",
                                      .chunk_object = "chat.completion.chunk",
                                      .opening = opening,
                                      .piece = piece,
                                      .whole = whole,
                                      .message = message,
                                      .logprobs = pu_put_chat_logprobs};

static void handle(pu_server *sv, pu_http_request *r) {
  pu_ask ask;
  pu_error e = {0};
  if (pu_ask_chat(pu_http_body(r), &ask, &e) == PU_OK) {
    pu_job_submit(sv, r, &ask, &style);
    return;
  }
  pu_reply_failure(sv, r, &e, ask.param);
  pu_ask_deinit(&ask);
}

const pu_route pu_route_chat_completions = {.method = "POST", .path = "/v1/chat/completions", .handle = handle};
