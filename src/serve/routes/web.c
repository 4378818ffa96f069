/* GET /web/NAME: what the chat page is made of. */
#include <string.h>

#include "src/serve/internal.h"
#include "src/serve/web.h"

static void handle(pu_server *sv, pu_http_request *r) {
  pu_web_reply(sv, r, pu_http_path(r) + strlen("/web/"));
}

const pu_route pu_route_web = {.method = "GET", .path = "/web/*", .open = true, .handle = handle};
