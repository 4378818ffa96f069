/* An HTTP server of a test's own, on a thread of its own. */
#ifndef PUYU_TEST_SERVED_H
#define PUYU_TEST_SERVED_H

#include <pthread.h>

#include "puyu/net.h"
#include "tests/test.h"

typedef struct served {
  pu_http_server *s;
  pthread_t thread;
} served;

static inline void *served_run(void *server) {
  pu_error e;
  return pu_http_run(server, &e) ? server : NULL;
}

static inline void served_drain(void *server) {
  pu_http_drain(server, 0.1);
}

static inline served served_open(pu_http_options o) {
  served v;
  pu_error e;
  assert_ok(pu_http_open(&o, &v.s, &e), &e);
  assert_int_equal(pthread_create(&v.thread, NULL, served_run, v.s), 0);
  return v;
}

static inline void served_close(served v) {
  assert_true(pu_http_post(v.s, served_drain, v.s));
  pthread_join(v.thread, NULL);
  pu_http_free(v.s);
}

#endif
