/* A connection: reads requests one after the other (those that a client sends ahead wait in the input buffer), hands
 * them to the handler, sends the answers.
 *
 * Nothing here frees a connection while somebody up the stack may hold it: closing takes it off the list and leaves the
 * rest to the reaper. */
#include <errno.h>
#include <event2/bufferevent_ssl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "src/net/internal.h"

enum {
  READ_AHEAD = 256 << 10,  /* bytes a client may send before they are wanted */
  WRITE_AHEAD = 256 << 10, /* bytes of answers unread before the next request of a pipeline is begun */
};
static const double LINGER_SECONDS = 2, HANGUP_SECONDS = 0.05;

static void process(connection *c);
static void drop_request(connection *c);

static struct evbuffer *input(const connection *c) {
  return bufferevent_get_input(c->bev);
}

static struct evbuffer *output(const connection *c) {
  return bufferevent_get_output(c->bev);
}

static void set_timer(connection *c, double seconds) {
  struct timeval t = {.tv_sec = (time_t)seconds, .tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
  event_add(c->timer, &t);
}

/* ---- closing ---- */

static void request_free(pu_http_request *r) {
  if (!r) return;
  pu_buf_deinit(&r->body);
  pu_buf_deinit(&r->headers);
  free(r->text);
  free(r);
}

/* Tells TLS that this end is meant, so that the other one knows nothing was cut off. */
static void close_bev(struct bufferevent *bev) {
  SSL *ssl = bufferevent_openssl_get_ssl(bev);
  if (ssl && SSL_is_init_finished(ssl)) {
    SSL_set_shutdown(ssl, SSL_RECEIVED_SHUTDOWN);
    SSL_shutdown(ssl);
  }
  bufferevent_free(bev);
}

void connection_close(connection *c) {
  if (c->state == CONN_CLOSED) return;
  pu_http_server *s = c->s;
  connection_state was = c->state;
  c->state = CONN_CLOSED;
  *c->self = c->next;
  if (c->next) c->next->self = c->self;
  s->n_connections--;
  c->next = s->dead;
  s->dead = c;
  event_del(c->timer);
  bufferevent_disable(c->bev, EV_READ | EV_WRITE);
  bufferevent_setcb(c->bev, NULL, NULL, NULL, NULL);
  if (was == CONN_HANDLING || was == CONN_STREAMING) drop_request(c);
  event_active(s->reaper, EV_TIMEOUT, 0);
}

static void drop_request(connection *c) {
  pu_http_request *r = c->req;
  if (r && r->on_gone) r->on_gone(r->gone_arg);
}

void connection_free(connection *c) {
  request_free(c->req);
  if (c->bev) close_bev(c->bev);
  if (c->timer) event_free(c->timer);
  free(c);
}

void server_reap(pu_http_server *s) {
  while (s->dead) {
    connection *c = s->dead;
    s->dead = c->next;
    connection_free(c);
  }
}

/* Everything is in the output buffer; when it is sent, the connection ends. */
static void flush_and_close(connection *c) {
  c->state = CONN_FLUSHING;
  event_del(c->timer);
  if (evbuffer_get_length(output(c)) > 0) return; /* on_write goes on */
  int fd = bufferevent_getfd(c->bev);
  if (c->s->tls || c->half_closed || fd < 0) {
    connection_close(c);
    return;
  }
  /* A close with unread input resets the connection, and a reset may overtake the answer. */
  c->state = CONN_LINGERING;
  shutdown(fd, SHUT_WR);
  evbuffer_drain(input(c), evbuffer_get_length(input(c)));
  set_timer(c, LINGER_SECONDS);
}

bool connection_drain(connection *c) {
  bool idle = c->state == CONN_HEAD || c->state == CONN_BODY;
  if (idle && evbuffer_get_length(output(c)) > 0)
    flush_and_close(c); /* the answer before is still on its way */
  else if (idle || c->state == CONN_LINGERING)
    connection_close(c);
  return c->state != CONN_CLOSED;
}

/* ---- answers ---- */

static void put_date(struct evbuffer *out) {
  char date[64];
  time_t now = time(NULL);
  struct tm tm;
  gmtime_r(&now, &tm);
  strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
  evbuffer_add_printf(out, "Date: %s\r\n", date);
}

static void put_head(pu_http_request *r, int status, const char *type) {
  struct evbuffer *out = output(r->c);
  evbuffer_add_printf(out, "HTTP/1.1 %d %s\r\n", status, http_reason(status));
  put_date(out);
  if (type) evbuffer_add_printf(out, "Content-Type: %s\r\n", type);
  if (!r->keep_alive) evbuffer_add_printf(out, "Connection: close\r\n");
  if (r->headers.len) evbuffer_add(out, r->headers.data, r->headers.len);
}

/* The request is answered: on to the next, or to the end. */
static void request_done(connection *c) {
  bool go_on = c->req->keep_alive && !c->s->draining;
  request_free(c->req);
  c->req = NULL;
  c->began = false;
  if (!go_on) {
    flush_and_close(c);
    if (c->s->draining) event_active(c->s->reaper, EV_TIMEOUT, 0);
    return;
  }
  c->state = CONN_HEAD;
  set_timer(c, c->s->o.idle_seconds);
  process(c);
}

void pu_http_add_header(pu_http_request *r, const char *name, const char *value) {
  if (strpbrk(value, "\r\n")) return;
  pu_buf_printf(&r->headers, "%s: %s\r\n", name, value);
}

void pu_http_reply(pu_http_request *r, int status, const char *content_type, pu_str body) {
  struct evbuffer *out = output(r->c);
  r->keep_alive &= !r->c->s->draining;
  put_head(r, status, content_type);
  bool bare = status == 204 || status == 304; /* no body, and its length would be another answer's */
  if (!bare) evbuffer_add_printf(out, "Content-Length: %zu\r\n", body.len);
  evbuffer_add(out, "\r\n", 2);
  if (strcmp(r->head.method, "HEAD") != 0 && body.len && !bare) evbuffer_add(out, body.ptr, body.len);
  request_done(r->c);
}

void pu_http_begin(pu_http_request *r, int status, const char *content_type) {
  connection *c = r->c;
  r->chunked = r->head.minor == 1;
  r->keep_alive &= r->chunked && !c->s->draining; /* without chunks the end of the body is the end of the connection */
  r->events = strcmp(content_type, "text/event-stream") == 0;
  put_head(r, status, content_type);
  if (r->events) evbuffer_add_printf(output(c), "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
  if (r->chunked) evbuffer_add_printf(output(c), "Transfer-Encoding: chunked\r\n");
  evbuffer_add(output(c), "\r\n", 2);
  c->state = CONN_STREAMING;
  set_timer(c, c->half_closed ? HANGUP_SECONDS : c->s->o.comment_seconds);
}

static void put_chunk(const pu_http_request *r, pu_str data) {
  struct evbuffer *out = output(r->c);
  if (r->chunked) evbuffer_add_printf(out, "%zx\r\n", data.len);
  evbuffer_add(out, data.ptr, data.len);
  if (r->chunked) evbuffer_add(out, "\r\n", 2);
}

bool pu_http_write(pu_http_request *r, pu_str data) {
  connection *c = r->c;
  if (data.len == 0) return true;
  put_chunk(r, data);
  if (!c->half_closed) set_timer(c, c->s->o.comment_seconds);
  if (evbuffer_get_length(output(c)) <= c->s->o.max_unread) return true;
  connection_close(c);
  return false;
}

void pu_http_end(pu_http_request *r) {
  if (r->chunked) evbuffer_add(output(r->c), "0\r\n\r\n", 5);
  request_done(r->c);
}

/* ---- requests ---- */

const char *pu_http_method(const pu_http_request *r) {
  return r->head.method;
}

const char *pu_http_path(const pu_http_request *r) {
  return r->head.path;
}

const char *pu_http_query(const pu_http_request *r) {
  return r->head.query;
}

const char *pu_http_header(const pu_http_request *r, const char *name) {
  return http_head_get(&r->head, name);
}

pu_str pu_http_body(const pu_http_request *r) {
  return pu_str_of(r->body.data ? r->body.data : "", r->body.len);
}

void pu_http_on_gone(pu_http_request *r, void (*fn)(void *arg), void *arg) {
  r->on_gone = fn;
  r->gone_arg = arg;
}

/* Refuses what cannot even be handed on; after it the bytes of the connection mean nothing. */
static void refuse(connection *c, int status, const char *why) {
  pu_buf body;
  pu_buf_init(&body, 1 << 12);
  pu_buf_puts(&body, "{\"error\":{\"message\":");
  pu_buf_json_str(&body, pu_str_c(why));
  pu_buf_puts(&body, ",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}\n");
  pu_http_request *r = c->req;
  if (!r->head.method) r->head.method = "";
  r->keep_alive = false;
  pu_http_reply(r, status, "application/json", pu_str_of(body.data, body.len));
  pu_buf_deinit(&body);
}

static bool new_request(connection *c) {
  pu_http_request *r = calloc(1, sizeof *r);
  if (!r) {
    connection_close(c);
    return false;
  }
  r->c = c;
  pu_buf_init(&r->body, c->s->o.max_body);
  pu_buf_init(&r->headers, 1 << 14);
  c->req = r;
  return true;
}

static void hand_over(connection *c) {
  pu_http_request *r = c->req;
  event_del(c->timer);
  c->state = CONN_HANDLING;
  c->s->o.handler(c->s->o.arg, r);
}

/* Bytes of the head that is complete in the input, with its empty line; 0: not yet; -1: no head, answered so. */
static ssize_t head_length(connection *c) {
  struct evbuffer *in = input(c);
  struct evbuffer_ptr end = evbuffer_search(in, "\r\n\r\n", 4, NULL);
  if (end.pos >= 0 && end.pos + 4 <= HTTP_MAX_HEAD) return end.pos + 4;
  if (evbuffer_get_length(in) >= HTTP_MAX_HEAD) {
    if (new_request(c)) refuse(c, 431, "the head of the request is larger than 32 KiB");
    return -1;
  }
  struct evbuffer_ptr lf = evbuffer_search(in, "\n", 1, NULL);
  unsigned char *before = lf.pos > 0 ? evbuffer_pullup(in, lf.pos) : NULL;
  if (lf.pos == 0 || (before && before[lf.pos - 1] != '\r')) { /* no empty line will ever come */
    if (new_request(c)) refuse(c, 400, "lines of a request end with CR LF");
    return -1;
  }
  return 0;
}

/* Empty lines before a request are passed over (RFC 9112, 2.2). */
static void skip_empty_lines(connection *c) {
  char two[2];
  while (evbuffer_copyout(input(c), two, 2) == 2 && two[0] == '\r' && two[1] == '\n') evbuffer_drain(input(c), 2);
}

/* True: go on at once. */
static bool read_head(connection *c) {
  skip_empty_lines(c);
  if (evbuffer_get_length(input(c)) == 0) return false;
  if (!c->began) set_timer(c, c->s->o.request_seconds);
  c->began = true;
  ssize_t len = head_length(c);
  if (len <= 0 || !new_request(c)) return false;
  pu_http_request *r = c->req;
  r->text = malloc((size_t)len + 1);
  if (!r->text) {
    connection_close(c);
    return false;
  }
  evbuffer_remove(input(c), r->text, (size_t)len);
  r->text[len] = 0;
  const char *why;
  int bad = http_head_parse(r->text, (size_t)len, &r->head, &why);
  if (!bad && r->head.length > c->s->o.max_body) {
    bad = 413;
    why = "the body is larger than this server takes";
  }
  if (bad) {
    refuse(c, bad, why);
    return false;
  }
  r->keep_alive = r->head.keep_alive;
  c->chunks = (http_chunks){0};
  c->state = CONN_BODY;
  if (r->head.expects_continue && r->head.minor == 1 && (r->head.chunked || r->head.length) &&
      evbuffer_get_length(input(c)) == 0)
    evbuffer_add_printf(output(c), "HTTP/1.1 100 Continue\r\n\r\n");
  return true;
}

/* Moves what the input holds of the body. 0: see *done; else the status to refuse with. */
static int take_body(connection *c, bool *done) {
  pu_http_request *r = c->req;
  struct evbuffer *in = input(c);
  *done = false;
  while (!*done && evbuffer_get_length(in) > 0 && (r->head.chunked || r->body.len < r->head.length)) {
    size_t n = evbuffer_get_contiguous_space(in), used = n;
    const char *p = (const char *)evbuffer_pullup(in, (ssize_t)n);
    if (r->head.chunked) {
      int bad = http_chunks_feed(&c->chunks, p, n, &used, &r->body);
      if (bad) return bad;
      *done = c->chunks.state == HTTP_CHUNK_DONE;
    } else {
      used = PU_MIN(n, (size_t)r->head.length - r->body.len);
      if (!pu_buf_append(&r->body, p, used)) return 413;
    }
    evbuffer_drain(in, used);
  }
  if (!r->head.chunked) *done = r->body.len == r->head.length;
  return 0;
}

static bool read_body(connection *c) {
  bool done;
  int bad = take_body(c, &done);
  if (bad) {
    refuse(c, bad, bad == 413 ? "the body is larger than this server takes" : "the chunks of the body cannot be read");
    return false;
  }
  if (!done) return false;
  hand_over(c);
  return true;
}

/* Goes as far as the input allows. Answers made inside come back here through request_done: the loop goes on then, it
 * is not entered again. */
static void process(connection *c) {
  if (c->processing) return;
  c->processing = true;
  bool more = true;
  while (more && evbuffer_get_length(output(c)) <= WRITE_AHEAD) {
    if (c->state == CONN_HEAD)
      more = !c->s->draining && read_head(c);
    else if (c->state == CONN_BODY)
      more = read_body(c);
    else
      more = false;
  }
  c->processing = false;
  bool wants = c->state == CONN_HEAD || c->state == CONN_BODY;
  if (wants && c->half_closed && !more) flush_and_close(c); /* what is missing will not come */
}

/* ---- events ---- */

static void on_read(struct bufferevent *bev, void *arg) {
  (void)bev;
  connection *c = arg;
  if (c->state == CONN_LINGERING || c->state == CONN_FLUSHING)
    evbuffer_drain(input(c), evbuffer_get_length(input(c)));
  else
    process(c);
}

/* The output is empty. */
static void on_write(struct bufferevent *bev, void *arg) {
  (void)bev;
  connection *c = arg;
  if (c->state == CONN_FLUSHING)
    flush_and_close(c);
  else
    process(c);
}

/* The client sends nothing more. If it is gone altogether, the next bytes sent to it bring a reset. */
static void probe(connection *c) {
  pu_http_request *r = c->req;
  c->half_closed = true;
  if (c->s->tls || r->head.minor == 0) {
    connection_close(c); /* no way to ask */
    return;
  }
  if (c->state == CONN_STREAMING && r->events)
    put_chunk(r, pu_str_c(":\n\n"));
  else if (c->state == CONN_HANDLING)
    evbuffer_add_printf(output(c), "HTTP/1.1 102 Processing\r\n\r\n");
  set_timer(c, HANGUP_SECONDS);
}

static void on_eof(connection *c) {
  switch (c->state) {
  case CONN_HANDLING:
  case CONN_STREAMING:
    probe(c);
    break;
  case CONN_HEAD:
  case CONN_BODY:
    c->half_closed = true;
    process(c);
    break;
  case CONN_FLUSHING:
    c->half_closed = true;
    break;
  default:
    connection_close(c);
  }
}

static void on_event(struct bufferevent *bev, short what, void *arg) {
  (void)bev;
  connection *c = arg;
  if (what & BEV_EVENT_CONNECTED) return; /* TLS's handshake is done */
  if ((what & BEV_EVENT_EOF) && !(what & BEV_EVENT_ERROR))
    on_eof(c);
  else
    connection_close(c);
}

static bool hung_up(const connection *c) {
  struct pollfd p = {.fd = bufferevent_getfd(c->bev)};
  return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR | POLLNVAL));
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
  (void)fd, (void)what;
  connection *c = arg;
  bool streaming = c->state == CONN_STREAMING;
  if (streaming || c->state == CONN_HANDLING) {
    if (c->half_closed && hung_up(c)) {
      connection_close(c);
    } else if (streaming && c->req->events && !c->half_closed) {
      (void)pu_http_write(c->req, pu_str_c(": still there\n\n"));
    } else {
      set_timer(c, c->half_closed ? 1 : c->s->o.comment_seconds);
    }
    return;
  }
  bool reading = c->state == CONN_BODY || (c->state == CONN_HEAD && c->began);
  if (!reading || (!c->req && !new_request(c)))
    connection_close(c);
  else
    refuse(c, 408, "the request did not arrive in time");
}

static struct bufferevent *make_bev(pu_http_server *s, evutil_socket_t fd) {
  if (!s->tls) return bufferevent_socket_new(s->base, fd, BEV_OPT_CLOSE_ON_FREE);
  SSL *ssl = SSL_new(s->tls);
  if (!ssl) return NULL;
  struct bufferevent *bev =
      bufferevent_openssl_socket_new(s->base, fd, ssl, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
  if (!bev)
    SSL_free(ssl);
  else
    bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
  return bev;
}

void connection_open(pu_http_server *s, evutil_socket_t fd) {
  connection *c = calloc(1, sizeof *c);
  if (c) c->bev = make_bev(s, fd);
  if (c && c->bev) c->timer = event_new(s->base, -1, 0, on_timer, c);
  if (!c || !c->timer) {
    if (c && c->bev)
      bufferevent_free(c->bev);
    else
      close(fd);
    free(c);
    return;
  }
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* tokens are sent as they come; no TCP: no harm */
  c->s = s;
  c->self = &s->first;
  c->next = s->first;
  if (c->next) c->next->self = &c->next;
  s->first = c;
  if (++s->n_connections >= s->o.max_connections) evconnlistener_disable(s->listener);
  struct timeval stall = {.tv_sec = (time_t)s->o.stall_seconds,
                          .tv_usec = (suseconds_t)((s->o.stall_seconds - (double)(time_t)s->o.stall_seconds) * 1e6)};
  bufferevent_set_timeouts(c->bev, NULL, &stall);
  bufferevent_setwatermark(c->bev, EV_READ, 0, READ_AHEAD);
  bufferevent_setcb(c->bev, on_read, on_write, on_event, c);
  bufferevent_enable(c->bev, EV_READ | EV_WRITE);
  set_timer(c, s->o.idle_seconds);
}
