/* GET /v1/models: the one model there is. */
#include "src/serve/internal.h"

static void handle(pu_server *sv, pu_http_request *r) {
  pu_buf b;
  pu_buf_init(&b, 1 << 16);
  pu_buf_puts(&b, "{\"object\":\"list\",\"data\":[");
  pu_put_model(&b, sv);
  pu_buf_puts(&b, "]}");
  pu_reply_json(sv, r, 200, &b);
}

const pu_route pu_route_models = {.method = "GET", .path = "/v1/models", .handle = handle};
