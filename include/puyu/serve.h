/* serve: an engine behind HTTP, in OpenAI's words.
 *
 * Two threads: the one that calls pu_server_run reads requests and writes answers; the engine's own computes. A request
 * is read, checked and turned into token ids by the first, waits in a queue, becomes sessions of the engine, and its
 * text comes back through a buffer of its own. The engine never waits for a client; a client that does not read is
 * dropped (puyu/net.h), and the sessions of one that goes away are closed before the next step.
 *
 * Adapters that the engine has when the server is opened are models of their own to requests, called by their names.
 *
 * Routes are one file each in src/serve/routes. */
#ifndef PUYU_SERVE_H
#define PUYU_SERVE_H

#include "puyu/engine.h"
#include "puyu/net.h"

typedef struct pu_server pu_server;

typedef struct pu_server_options {
  const char *host;      /* NULL: 127.0.0.1; another address than loopback needs a key or `insecure` */
  int port;              /* 0: any free one */
  const char *unix_path; /* instead of host and port */
  const char *tls_cert, *tls_key;
  const char *model_name;      /* what requests and answers call the model; NULL: "puyu" */
  const char *const *api_keys; /* any of them opens; none: open to all */
  size_t n_api_keys;
  const char *cors_origin; /* a page of this origin may ask ("*": any); NULL: none but the server's own */
  bool insecure;
  int max_sessions;     /* sessions the engine can have open; 0: 1 */
  int max_queue;        /* requests that wait; more get status 429; 0: 256 */
  double stuck_seconds; /* a step of the engine that takes longer makes /health say so; 0: 120 */
  double drain_seconds; /* that running answers get after SIGTERM, before they end with an error; 0: 30 */
  size_t max_body;      /* bytes of a request; 0: 16 MiB */
} pu_server_options;

/* Listens at once, answers when run. The engine is lent: nobody else may use it until pu_server_free. NULL: it comes with
 * pu_server_lend, so that an address that is taken shows before minutes of reading weights. Strings of the options are
 * copied. */
pu_err pu_server_open(pu_engine *en, const pu_server_options *o, pu_server **out, pu_error *e) PU_MUST_USE;
/* What pu_server_open would refuse of who may ask. */
pu_err pu_server_check(const pu_server_options *o, pu_error *e) PU_MUST_USE;
pu_err pu_server_lend(pu_server *sv, pu_engine *en, pu_error *e) PU_MUST_USE;
void pu_server_free(pu_server *sv);
const char *pu_server_url(const pu_server *sv);
int pu_server_port(const pu_server *sv);
/* Serves until pu_server_stop or, where pu_signals_catch was called, SIGINT or SIGTERM; then lets running answers end.
 */
pu_err pu_server_run(pu_server *sv, pu_error *e) PU_MUST_USE;
void pu_server_stop(pu_server *sv); /* any thread */

/* One key a line from a file; empty lines and lines that begin with # do not count. Appends to keys, in the arena. */
pu_err pu_server_read_keys(const char *path, pu_arena *a, pu_strs *keys, pu_error *e) PU_MUST_USE;

#endif
