/* POST /apply_template: a conversation as the text the model would see. */
#include "src/serve/internal.h"

static pu_err answer(pu_server *sv, pu_ask *ask, pu_buf *b, pu_error *e) {
  ask->param = "messages";
  if (!ask->messages) return pu_fail(e, PU_ERR_USAGE, "'messages' must be an array of at least one message");
  if (!sv->chat) return pu_fail(e, PU_ERR_USAGE, "the model has no chat template");
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_chat chat = pu_ask_chat_of(ask);
  pu_err err = pu_chat_render_text(sv->chat, &chat, &text, e);
  if (!err) {
    pu_buf_puts(b, "{\"prompt\":");
    pu_buf_json_str(b, pu_str_of(text.data ? text.data : "", text.len));
    pu_buf_putc(b, '}');
  }
  pu_buf_deinit(&text);
  return err;
}

static void handle(pu_server *sv, pu_http_request *r) {
  pu_ask ask;
  pu_buf b;
  pu_error e = {0};
  pu_buf_init(&b, PU_BUF_MAX);
  pu_err err = pu_ask_text(pu_http_body(r), &ask, &e);
  if (!err) err = answer(sv, &ask, &b, &e);
  if (err)
    pu_reply_failure(sv, r, &e, ask.param);
  else
    pu_reply_json(sv, r, 200, &b);
  pu_buf_deinit(&b);
  pu_ask_deinit(&ask);
}

const pu_route pu_route_apply_template = {.method = "POST", .path = "/apply_template", .handle = handle};
