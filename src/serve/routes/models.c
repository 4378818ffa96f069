/* GET /v1/models: the model, and its adapters. */
#include "src/serve/internal.h"

static void handle(pu_server *sv, pu_http_request *r) {
  pu_buf b;
  pu_buf_init(&b, 1 << 24);
  pu_buf_puts(&b, "{\"object\":\"list\",\"data\":[");
  pu_put_model(&b, sv, NULL);
  for (size_t i = 0; i < sv->adapters.n; i++) {
    pu_buf_putc(&b, ',');
    pu_put_model(&b, sv, sv->adapters.v[i]);
  }
  pu_buf_puts(&b, "]}");
  pu_reply_json(sv, r, 200, &b);
}

const pu_route pu_route_models = {.method = "GET", .path = "/v1/models", .handle = handle};
