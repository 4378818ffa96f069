/* POST /v1/chat/completions: an answer to a conversation. */
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

static const pu_answer_style style = {.id_prefix = "chatcmpl",
                                      .object = "chat.completion",
                                      .chunk_object = "chat.completion.chunk",
                                      .opening = opening,
                                      .piece = piece,
                                      .whole = whole,
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
