/* GET /metrics: figures for Prometheus. */
#include "src/serve/internal.h"

static void handle(pu_server *sv, pu_http_request *r) {
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  if (pu_metrics_write(&sv->metrics, &b)) {
    pu_reply_text(sv, r, "text/plain; version=0.0.4; charset=utf-8", &b);
    return;
  }
  pu_buf_deinit(&b);
  pu_reply_error(sv, r, 500, "no memory for the figures", NULL, NULL);
}

const pu_route pu_route_metrics = {.method = "GET", .path = "/metrics", .handle = handle};
