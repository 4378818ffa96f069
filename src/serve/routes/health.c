/* GET /health: does the engine's thread still move, and are new requests taken? */
#include "src/serve/internal.h"

static void handle(pu_server *sv, pu_http_request *r) {
  bool alive = pu_worker_alive(sv), draining = pu_http_draining(sv->http);
  pu_buf b;
  pu_buf_init(&b, 1 << 10);
  pu_buf_printf(&b, "{\"status\":\"%s\"}", !alive ? "stuck" : draining ? "stopping" : "ok");
  pu_reply_json(sv, r, alive && !draining ? 200 : 503, &b);
}

const pu_route pu_route_health = {.method = "GET", .path = "/health", .open = true, .handle = handle};
