/* A route: one file in src/serve/routes that defines `const pu_route pu_route_NAME`. */
#ifndef PUYU_SERVE_ROUTE_H
#define PUYU_SERVE_ROUTE_H

#include "puyu/serve.h"

typedef struct pu_route {
  const char *method;                                /* "GET" (answers HEAD too), "POST" */
  const char *path;                                  /* one that ends with a star matches all that begin so */
  bool open;                                         /* needs no key */
  void (*handle)(pu_server *sv, pu_http_request *r); /* on the loop's thread; answers now or later */
} pu_route;

extern const pu_route *const pu_route_all[]; /* generated from the folder; NULL at the end */

#endif
