/* GET /v1/models/NAME. */
#include <string.h>

#include "src/serve/internal.h"

static void handle(pu_server *sv, pu_http_request *r) {
  const char *adapter;
  if (!pu_find_model(sv, pu_http_path(r) + strlen("/v1/models/"), &adapter)) {
    pu_reply_error(sv, r, 404, "this server has no such model; GET /v1/models says which it has", "model",
                   "model_not_found");
    return;
  }
  pu_buf b;
  pu_buf_init(&b, 1 << 16);
  pu_put_model(&b, sv, adapter);
  pu_reply_json(sv, r, 200, &b);
}

const pu_route pu_route_model = {.method = "GET", .path = "/v1/models/*", .handle = handle};
