/* Inside the server: its loop (server.c) and its connections (connection.c). */
#ifndef PUYU_NET_INTERNAL_H
#define PUYU_NET_INTERNAL_H

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <openssl/ssl.h>
#include <pthread.h>

#include "puyu/net.h"
#include "src/net/http.h"

typedef struct connection connection;

typedef struct posted {
  void (*fn)(void *arg);
  void *arg;
  struct posted *next;
} posted;

struct pu_http_server {
  pu_http_options o; /* with the defaults filled in; host, paths and TLS files are not kept */
  struct event_base *base;
  struct evconnlistener *listener;
  struct event *ticker, *reaper, *bell, *drain_timer;
  SSL_CTX *tls;
  char url[256], unix_path[128];
  int port, bell_fd;

  connection *first; /* all that are open */
  connection *dead;  /* closed; freed when nobody down the stack can hold them */
  int n_connections;
  bool draining, running;

  pthread_mutex_t lock; /* of the posted */
  posted *head, **tail;
};

typedef enum connection_state {
  CONN_HEAD,     /* waits for a request, or the rest of its head */
  CONN_BODY,     /* reads a body */
  CONN_HANDLING, /* somebody makes the answer */
  CONN_STREAMING,
  CONN_FLUSHING,  /* the last answer is on its way; then it is closed */
  CONN_LINGERING, /* all is sent: reads what the client still sends, so that no reset eats the answer */
  CONN_CLOSED
} connection_state;

struct connection {
  pu_http_server *s;
  connection *next, **self; /* in s->first, or next in s->dead */
  struct bufferevent *bev;
  struct event *timer;
  connection_state state;
  pu_http_request *req; /* the one being read or answered */
  http_chunks chunks;
  bool half_closed; /* the client will send nothing more */
  bool processing;  /* up the stack: do not recurse */
  bool began;       /* the first bytes of a head are there: its clock runs */
};

struct pu_http_request {
  connection *c;
  char *text; /* what head points into */
  http_head head;
  pu_buf body;
  pu_buf headers; /* more, for the answer */
  void (*on_gone)(void *arg);
  void *gone_arg;
  bool keep_alive, chunked, events;
};

/* Takes a new socket. It is closed if there is no memory. */
void connection_open(pu_http_server *s, evutil_socket_t fd);
/* Closes; a request that waits is told. Freed later, by the reaper. */
void connection_close(connection *c);
/* During a drain: closes what is idle. True where a request still runs. */
bool connection_drain(connection *c);
void connection_free(connection *c);
void server_reap(pu_http_server *s);

#endif
