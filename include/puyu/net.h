/* net: an HTTP/1.1 server over libevent (RFC 9110, 9112), with optional TLS and Unix sockets; and, at the end, a client
 * over libcurl, and what is asked of servers that speak OpenAI's API.
 *
 * One thread runs the loop (pu_http_run) and everything about requests happens on it: the handler is called there, and
 * the pu_http_* functions of a request may be called only there. Other threads bring their results by pu_http_post.
 *
 * A request lives from the handler's call until it is answered (pu_http_reply, pu_http_end) or its client is gone
 * (on_gone is called); after that its pointer is dead. It may be answered in the handler or any time later.
 *
 * Bounds: sizes of head and body, time to send them, connections, bytes waiting for a client that does not read. A
 * client that closes its connection while it waits is noticed at once: reading stays on. One that only closed its
 * sending half still gets its answer; it is told from the other by sending something (a comment, or status 102). */
#ifndef PUYU_NET_H
#define PUYU_NET_H

#include "puyu/base.h"

typedef struct pu_http_server pu_http_server;
typedef struct pu_http_request pu_http_request;

typedef struct pu_http_options {
  const char *host;               /* name or address; NULL: 127.0.0.1 */
  int port;                       /* 0: any free one, see pu_http_url */
  const char *unix_path;          /* a Unix socket instead of host and port; a stale one is replaced; mode 0600 */
  const char *tls_cert, *tls_key; /* PEM files, both or none: TLS 1.2 and later */
  size_t max_body;                /* bytes; 0: 16 MiB */
  size_t max_unread;              /* bytes waiting for a client that does not read before it is dropped; 0: 4 MiB */
  int max_connections;            /* more wait to be accepted; 0: 1024 */
  double idle_seconds;            /* between requests; 0: 75 */
  double request_seconds;         /* from the first byte of a request to its last; 0: 60 */
  double stall_seconds;           /* without a byte taken by a client that has some to read; 0: 30 */
  double comment_seconds;         /* between keep-alive comments on a silent event stream; 0: 10 */
  void (*handler)(void *arg, pu_http_request *r);
  void (*tick)(void *arg); /* four times a second on the loop's thread; or NULL */
  void *arg;               /* of both */
} pu_http_options;

/* Listens; connections are accepted when the loop runs. Strings of the options are not kept. SIGPIPE is ignored from
 * here on in the whole process, unless it has a handler. */
pu_err pu_http_open(const pu_http_options *o, pu_http_server **out, pu_error *e) PU_MUST_USE;
/* Drops what is open, calls what was posted and not yet called. The loop must not run. */
void pu_http_free(pu_http_server *s);
const char *pu_http_url(const pu_http_server *s); /* "http://127.0.0.1:23333", "unix:/run/puyu.sock" */
int pu_http_port(const pu_http_server *s);        /* 0: a Unix socket */
/* The loop, until a drain is over. */
pu_err pu_http_run(pu_http_server *s, pu_error *e) PU_MUST_USE;
/* Accepts nothing more, closes idle connections, lets running requests end for at most so many seconds. */
void pu_http_drain(pu_http_server *s, double seconds);
bool pu_http_draining(const pu_http_server *s);
/* From any thread: fn(arg) soon, on the loop's thread, in the order of the calls. False: no memory. */
bool pu_http_post(pu_http_server *s, void (*fn)(void *arg), void *arg);

/* ---- a request -------------------------------------------------------------------------------------------------- */

const char *pu_http_method(const pu_http_request *r); /* "GET" */
const char *pu_http_path(const pu_http_request *r);   /* percent-decoded, without the query */
const char *pu_http_query(const pu_http_request *r);  /* as sent, "" where there is none */
/* The value of a header, any case; NULL: absent. Of several of one name the first. */
const char *pu_http_header(const pu_http_request *r, const char *name);
pu_str pu_http_body(const pu_http_request *r);
/* Called once if the client goes away before the request is answered; the pointer is dead when it returns. */
void pu_http_on_gone(pu_http_request *r, void (*fn)(void *arg), void *arg);

/* ---- its answer ------------------------------------------------------------------------------------------------- */

/* Before reply or begin: one more header. Values with line ends are left out. */
void pu_http_add_header(pu_http_request *r, const char *name, const char *value);
void pu_http_reply(pu_http_request *r, int status, const char *content_type, pu_str body);
/* A body of unknown length: begin, write …, end. "text/event-stream" gets keep-alive comments. */
void pu_http_begin(pu_http_request *r, int status, const char *content_type);
/* False: the client was dropped (it reads too slowly); on_gone was called and the request is dead. */
bool pu_http_write(pu_http_request *r, pu_str data);
void pu_http_end(pu_http_request *r);

/* ---- a client --------------------------------------------------------------------------------------------------- */

/* Many exchanges at once on one thread: start any number, then wait; what comes is told by the exchanges' own functions,
 * from inside of wait. Connections are kept and used again. */
typedef struct pu_http_client pu_http_client;
typedef struct pu_http_call pu_http_call;

/* What is asked, and who hears of it. Strings and the body are copied. */
typedef struct pu_http_ask {
  const char *url;            /* http or https */
  const char *unix_path;      /* a Unix socket instead of the host's address; NULL: none */
  const char *const *headers; /* "Name: value", NULL-ended; NULL: none */
  const char *ca_file;        /* certificates (PEM) to trust with https; NULL: the system's */
  pu_str body;                /* sent by POST; ptr NULL: nothing is sent, by GET */
  double seconds;             /* in all; 0: any time */
  /* A piece of the answer's body, as it comes. False ends the exchange (PU_ERR_STOPPED). */
  bool (*on_data)(void *arg, int status, pu_str piece);
  /* Once, whatever happened: err PU_OK where a whole answer came, of any status; else why says what went wrong. */
  void (*on_end)(void *arg, int status, pu_err err, const char *why);
  void *arg;
} pu_http_ask;

pu_err pu_http_client_open(pu_http_client **out, pu_error *e) PU_MUST_USE;
void pu_http_client_free(pu_http_client *c); /* drops what runs; NULL is fine */
/* out: to drop it by; dead when on_end is called. NULL: not wanted. Also from inside of on_end, not of on_data. */
pu_err pu_http_client_start(pu_http_client *c, const pu_http_ask *ask, pu_http_call **out, pu_error *e) PU_MUST_USE;
/* Until something came or can be sent, at most so many seconds. */
pu_err pu_http_client_wait(pu_http_client *c, double seconds, pu_error *e) PU_MUST_USE;
/* Closes its connection; on_end is told PU_ERR_STOPPED. Not from inside of on_data. */
void pu_http_client_drop(pu_http_call *call);
size_t pu_http_client_running(const pu_http_client *c);

/* An event stream (the HTML standard, 9.2) in pieces: on_event is told the data of each event; names, ids and comments
 * are passed over. Make with pu_events_init; max: bytes of one event. False: on_event said so, or an event is larger. */
typedef struct pu_events {
  pu_buf line, data;
  bool after_cr;
} pu_events;
void pu_events_init(pu_events *ev, size_t max);
void pu_events_deinit(pu_events *ev);
bool pu_events_feed(pu_events *ev, pu_str piece, bool (*on_event)(void *arg, pu_str data), void *arg);

/* ---- a client of OpenAI's API ----------------------------------------------------------------------------------- */

typedef struct pu_api_options {
  const char *url;       /* "http://127.0.0.1:23333", with or without /v1 */
  const char *unix_path; /* NULL: by the address */
  const char *ca_file;   /* NULL: the system's */
  const char *key;       /* NULL: none */
  bool any_scheme;       /* else an address without http:// or https:// is refused (PU_ERR_USAGE) */
} pu_api_options;

/* A server: base is its address without /v1, for errors to name it by. Not changed by asking, so that threads may share
 * it. Made by init, which copies the options; after a failure there is nothing to deinit, and it does no harm. */
typedef struct pu_api {
  char *base, *unix_path, *ca_file, *header;
} pu_api;
pu_err pu_api_init(const pu_api_options *o, pu_api *out, pu_error *e) PU_MUST_USE;
void pu_api_deinit(pu_api *api);
/* pu_http_client_start for a path such as "/v1/models": of the ask, body, seconds and functions count. */
pu_err pu_api_start(const pu_api *api, pu_http_client *c, const char *path, pu_http_ask ask, pu_error *e) PU_MUST_USE;

enum { PU_API_WHY = 300 };
/* How an exchange ended, as on_end is told it. The caller initialises the body, whose maximum bounds the answer. */
typedef struct pu_api_reply {
  pu_buf body;
  int status;
  pu_err err;
  char why[PU_API_WHY];
} pu_api_reply;
/* One exchange, waited for until stop says so (PU_ERR_STOPPED; NULL: pu_signals_stop). The ask's on_data, where it has
 * one, hears an answer of status 200; all else goes into the body. PU_OK: r says how it ended, well or not. */
pu_err pu_api_call(const pu_api *api, const char *path, const pu_http_ask *ask, bool (*stop)(void), pu_api_reply *r,
                   pu_error *e) PU_MUST_USE;
/* Did a whole answer of status 200 come? PU_ERR_FORMAT: it is larger than it may be; PU_ERR_USAGE: the request is too
 * long for the model. */
pu_err pu_api_check(const pu_api *api, const char *path, const pu_api_reply *r, pu_error *e) PU_MUST_USE;
/* The same, and its JSON; the caller owns it. */
pu_err pu_api_json(const pu_api *api, const char *path, const pu_api_reply *r, json_t **out, pu_error *e) PU_MUST_USE;
/* What went wrong, as a part of one line, "status 500: out of memory" (status 0: without it): error.message of most
 * servers, error, message or detail of some; else the body's first 200 bytes. */
void pu_api_error(int status, pu_str body, char *why, size_t room);
/* Whether that says that a request is too long for the model; servers have no code for it in common. */
bool pu_api_is_too_long(int status, const char *why);

typedef struct pu_api_model {
  char *name;      /* the caller frees it; NULL: none was wanted, and the server names none */
  int64_t context; /* tokens; 0: it does not say */
  bool is_puyu;    /* it knows keys of puyu's own */
} pu_api_model;
/* The wanted one of /v1/models, else (or wanted NULL) the first. What is wanted keeps its name also where the list has
 * it not; a server without a list (404, 405) is taken at its word. seconds: in all; 0: any time. */
pu_err pu_api_find_model(const pu_api *api, const char *wanted, double seconds, pu_api_model *out, pu_error *e)
    PU_MUST_USE;

#endif
