/* POST /detokenize: the text of token ids. */
#include "src/serve/internal.h"

static pu_err answer(pu_server *sv, const pu_ids *ids, pu_buf *b, pu_error *e) {
  if (!sv->t) return pu_fail(e, PU_ERR_USAGE, "the model has no tokenizer");
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_err err = pu_decode(sv->t, ids->v, ids->n, 0, &text, e);
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
  pu_err err = pu_ask_tokens(pu_http_body(r), &ask, &e);
  if (!err) err = answer(sv, &ask.prompts[0].ids, &b, &e);
  if (err)
    pu_reply_failure(sv, r, &e, ask.param ? ask.param : "tokens");
  else
    pu_reply_json(sv, r, 200, &b);
  pu_buf_deinit(&b);
  pu_ask_deinit(&ask);
}

const pu_route pu_route_detokenize = {.method = "POST", .path = "/detokenize", .handle = handle};
