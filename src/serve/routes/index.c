/* GET /: the chat page. */
#include "src/serve/internal.h"
#include "src/serve/web.h"

static void handle(pu_server *sv, pu_http_request *r) {
  pu_web_reply(sv, r, "index.html");
}

const pu_route pu_route_index = {.method = "GET", .path = "/", .open = true, .handle = handle};
