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

/* A call begins with its id and name, and goes on by its index. */
static void call(pu_buf *b, const pu_chat_piece *p, const char *id) {
  pu_buf_printf(b, "\"delta\":{\"tool_calls\":[{\"index\":%zu,", p->call);
  if (p->name) pu_buf_printf(b, "\"id\":\"%s\",\"type\":\"%s\",", id, p->is_code ? "code_interpreter" : "function");
  if (p->is_code) {
    pu_buf_puts(b, "\"code_interpreter\":{\"input\":");
  } else {
    pu_buf_puts(b, "\"function\":{");
    if (p->name) pu_buf_puts(b, "\"name\":");
    if (p->name) pu_buf_json_str(b, pu_str_c(p->name));
    pu_buf_puts(b, p->name ? ",\"arguments\":" : "\"arguments\":");
  }
  pu_buf_json_str(b, p->arguments);
  pu_buf_puts(b, "}}]}");
}

static void message(pu_buf *b, const json_t *m) {
  const json_t *content = json_object_get(m, "content"), *calls = json_object_get(m, "tool_calls");
  pu_buf_puts(b, "\"message\":{\"role\":\"assistant\",\"content\":");
  if (json_string_length(content))
    put_value(b, content);
  else
    pu_buf_puts(b, "null");
  pu_buf_puts(b, ",\"refusal\":null,\"tool_calls\":");
  put_value(b, calls);
  pu_buf_putc(b, '}');
}

static const pu_answer_style style = {.id_prefix = "chatcmpl",
                                      .object = "chat.completion",
                                      .chunk_object = "chat.completion.chunk",
                                      .opening = opening,
                                      .piece = piece,
                                      .whole = whole,
                                      .call = call,
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
