/* POST /tokenize: the ids of a text, or of a conversation as the model would see it. */
#include "src/serve/internal.h"

static pu_err answer(pu_server *sv, pu_ask *ask, pu_buf *b, pu_error *e) {
  pu_ids *ids;
  size_t n;
  ask->param = ask->messages ? "messages" : "prompt";
  pu_err err = pu_ask_encode(sv->en, ask, &ids, &n, e);
  if (!err) {
    pu_buf_puts(b, "{\"tokens\":[");
    for (size_t i = 0; i < ids->n; i++) pu_buf_printf(b, "%s%d", i ? "," : "", (int)ids->v[i]);
    pu_buf_printf(b, "],\"count\":%zu,\"max_model_len\":%lld}", ids->n, (long long)sv->context);
  }
  pu_ask_free_prompts(ids, n);
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

const pu_route pu_route_tokenize = {.method = "POST", .path = "/tokenize", .handle = handle};
