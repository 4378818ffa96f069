/* The loop: listening, TLS, other threads' posts, the end. */
#include <errno.h>
#include <event2/bufferevent_ssl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "src/net/internal.h"

/* ---- sockets ---- */

static bool somebody_listens(const struct sockaddr_un *at) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool yes = fd >= 0 && connect(fd, (const struct sockaddr *)at, sizeof *at) == 0;
  if (fd >= 0) close(fd);
  return yes;
}

/* A socket file left by a server that was killed is in the way; anything else there is not ours to remove. */
static pu_err clear_stale(const struct sockaddr_un *at, pu_error *e) {
  struct stat st;
  if (lstat(at->sun_path, &st) != 0) return PU_OK;
  if (!S_ISSOCK(st.st_mode)) return pu_fail(e, PU_ERR_USAGE, "%s: is there and no socket", at->sun_path);
  if (somebody_listens(at)) return pu_fail(e, PU_ERR_USAGE, "%s: another server listens there", at->sun_path);
  unlink(at->sun_path);
  return PU_OK;
}

static pu_err bind_unix(pu_http_server *s, const char *path, int *fd, pu_error *e) {
  struct sockaddr_un at = {.sun_family = AF_UNIX};
  if (!*path || strlen(path) >= PU_MIN(sizeof at.sun_path, sizeof s->unix_path))
    return pu_fail(e, PU_ERR_USAGE, "%s: a socket's path has 1 to %zu bytes", path, sizeof at.sun_path - 1);
  memcpy(at.sun_path, path, strlen(path));
  PU_TRY(clear_stale(&at, e));
  *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (*fd < 0) return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(errno));
  /* Nobody can connect before listen, so that the mode is right when it counts. */
  if (bind(*fd, (const struct sockaddr *)&at, sizeof at) != 0 || chmod(path, 0600) != 0) {
    int why = errno;
    close(*fd);
    return pu_fail(e, PU_ERR_IO, "%s: %s", path, strerror(why));
  }
  snprintf(s->unix_path, sizeof s->unix_path, "%s", path);
  snprintf(s->url, sizeof s->url, "unix:%s", path);
  return PU_OK;
}

static int bind_one(const struct addrinfo *a) {
  int on = 1, fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
  if (fd < 0) return -1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, a->ai_addr, a->ai_addrlen) == 0) return fd;
  int why = errno;
  close(fd);
  errno = why;
  return -1;
}

static int bound_port(int fd) {
  struct sockaddr_storage at;
  socklen_t len = sizeof at;
  if (getsockname(fd, (struct sockaddr *)&at, &len) != 0) return 0;
  if (at.ss_family == AF_INET) return ntohs(((struct sockaddr_in *)&at)->sin_port);
  return at.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&at)->sin6_port) : 0;
}

static pu_err bind_inet(pu_http_server *s, const char *host, int port, int *fd, pu_error *e) {
  struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
  char service[16];
  if (port < 0 || port > 65535) return pu_fail(e, PU_ERR_USAGE, "port %d: it must be from 0 to 65535", port);
  snprintf(service, sizeof service, "%d", port);
  int bad = getaddrinfo(host, service, &want, &found);
  if (bad) return pu_fail(e, PU_ERR_USAGE, "host '%s': %s", host, gai_strerror(bad));
  *fd = -1;
  for (const struct addrinfo *a = found; a && *fd < 0; a = a->ai_next) *fd = bind_one(a);
  int why = errno;
  freeaddrinfo(found);
  if (*fd < 0)
    return pu_fail(e, PU_ERR_IO, "%s:%d: %s%s", host, port, strerror(why),
                   why == EADDRINUSE ? "; choose another --port" : "");
  s->port = bound_port(*fd);
  bool v6 = strchr(host, ':') != NULL;
  snprintf(s->url, sizeof s->url, "%s://%s%s%s:%d", s->tls ? "https" : "http", v6 ? "[" : "", host, v6 ? "]" : "",
           s->port);
  return PU_OK;
}

/* ---- TLS ---- */

static pu_err tls_failed(pu_error *e, const char *file, const char *what) {
  const char *why = ERR_reason_error_string(ERR_get_error());
  ERR_clear_error();
  return pu_fail(e, PU_ERR_FORMAT, "%s: %s%s%s", file, what, why ? ": " : "", why ? why : "");
}

/* OpenSSL wraps the system's words into numbers. */
static pu_err check_readable(const char *file, pu_error *e) {
  return access(file, R_OK) == 0 ? PU_OK : pu_fail(e, PU_ERR_IO, "%s: cannot open: %s", file, strerror(errno));
}

static pu_err set_up_tls(pu_http_server *s, const pu_http_options *o, pu_error *e) {
  if (!o->tls_cert && !o->tls_key) return PU_OK;
  if (!o->tls_cert || !o->tls_key) return pu_fail(e, PU_ERR_USAGE, "TLS needs both a certificate and a key");
  PU_TRY(check_readable(o->tls_cert, e));
  PU_TRY(check_readable(o->tls_key, e));
  s->tls = SSL_CTX_new(TLS_server_method());
  if (!s->tls) return pu_fail(e, PU_ERR_NOMEM, "no memory for TLS");
  SSL_CTX_set_min_proto_version(s->tls, TLS1_2_VERSION);
  SSL_CTX_set_options(s->tls, SSL_OP_NO_RENEGOTIATION);
  if (SSL_CTX_use_certificate_chain_file(s->tls, o->tls_cert) != 1)
    return tls_failed(e, o->tls_cert, "no certificate chain in PEM");
  if (SSL_CTX_use_PrivateKey_file(s->tls, o->tls_key, SSL_FILETYPE_PEM) != 1)
    return tls_failed(e, o->tls_key, "no private key in PEM");
  if (SSL_CTX_check_private_key(s->tls) != 1) return tls_failed(e, o->tls_key, "is not the certificate's key");
  return PU_OK;
}

/* ---- what other threads post ---- */

bool pu_http_post(pu_http_server *s, void (*fn)(void *arg), void *arg) {
  posted *p = malloc(sizeof *p);
  if (!p) return false;
  *p = (posted){.fn = fn, .arg = arg};
  pthread_mutex_lock(&s->lock);
  bool first = !s->head;
  *s->tail = p;
  s->tail = &p->next;
  pthread_mutex_unlock(&s->lock);
  uint64_t one = 1;
  if (first && write(s->bell_fd, &one, sizeof one) < 0) {
    /* EAGAIN: it rings already */
  }
  return true;
}

static void run_posted(pu_http_server *s) {
  pthread_mutex_lock(&s->lock);
  posted *p = s->head;
  s->head = NULL;
  s->tail = &s->head;
  pthread_mutex_unlock(&s->lock);
  while (p) {
    posted *next = p->next;
    p->fn(p->arg);
    free(p);
    p = next;
  }
}

static void on_bell(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  uint64_t rings;
  if (read(fd, &rings, sizeof rings) < 0) {
    /* EAGAIN: answered already */
  }
  run_posted(arg);
}

/* ---- the loop ---- */

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *from, int len, void *arg) {
  (void)l, (void)from, (void)len;
  connection_open(arg, fd);
}

/* Out of file descriptors, most likely: wait for one (the ticker tries again) rather than spin. */
static void on_accept_error(struct evconnlistener *l, void *arg) {
  (void)arg;
  pu_log(PU_LOG_WARN, "cannot accept a connection: %s", evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
  evconnlistener_disable(l);
}

static void end_if_drained(pu_http_server *s) {
  if (!s->draining) return;
  bool busy = false;
  for (connection *c = s->first, *next; c; c = next) {
    next = c->next;
    busy |= connection_drain(c);
  }
  if (!busy) event_base_loopbreak(s->base);
}

static void on_tick(evutil_socket_t fd, short what, void *arg) {
  (void)fd, (void)what;
  pu_http_server *s = arg;
  if (s->listener && s->n_connections < s->o.max_connections) evconnlistener_enable(s->listener);
  if (s->o.tick) s->o.tick(s->o.arg);
  end_if_drained(s);
}

static void on_reap(evutil_socket_t fd, short what, void *arg) {
  (void)fd, (void)what;
  pu_http_server *s = arg;
  server_reap(s);
  end_if_drained(s);
}

static void on_drain_over(evutil_socket_t fd, short what, void *arg) {
  (void)fd, (void)what;
  pu_http_server *s = arg;
  event_base_loopbreak(s->base);
}

static void fill_defaults(pu_http_options *o) {
  if (!o->max_body) o->max_body = (size_t)16 << 20;
  if (!o->max_unread) o->max_unread = (size_t)4 << 20;
  if (!o->max_connections) o->max_connections = 1024;
  if (!(o->idle_seconds > 0)) o->idle_seconds = 75;
  if (!(o->request_seconds > 0)) o->request_seconds = 60;
  if (!(o->stall_seconds > 0)) o->stall_seconds = 30;
  if (!(o->comment_seconds > 0)) o->comment_seconds = 10;
  o->host = o->unix_path = o->tls_cert = o->tls_key = NULL;
}

static pu_err make_events(pu_http_server *s, pu_error *e) {
  s->base = event_base_new();
  s->bell_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (!s->base || s->bell_fd < 0) return pu_fail(e, PU_ERR_NOMEM, "no event loop: %s", strerror(errno));
  s->ticker = event_new(s->base, -1, EV_PERSIST, on_tick, s);
  s->reaper = event_new(s->base, -1, 0, on_reap, s);
  s->drain_timer = event_new(s->base, -1, 0, on_drain_over, s);
  s->bell = event_new(s->base, s->bell_fd, EV_READ | EV_PERSIST, on_bell, s);
  struct timeval quarter = {.tv_usec = 250000};
  if (!s->ticker || !s->reaper || !s->drain_timer || !s->bell || event_add(s->ticker, &quarter) != 0 ||
      event_add(s->bell, NULL) != 0)
    return pu_fail(e, PU_ERR_NOMEM, "no memory for the event loop");
  return PU_OK;
}

static pu_err set_up(pu_http_server *s, const pu_http_options *o, pu_error *e) {
  PU_TRY(make_events(s, e));
  PU_TRY(set_up_tls(s, o, e));
  int fd = -1;
  PU_TRY(o->unix_path ? bind_unix(s, o->unix_path, &fd, e)
                      : bind_inet(s, o->host ? o->host : "127.0.0.1", o->port, &fd, e));
  s->listener = evconnlistener_new(s->base, on_accept, s, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 512, fd);
  if (!s->listener) {
    close(fd);
    return pu_fail(e, PU_ERR_IO, "%s: cannot listen: %s", s->url, strerror(errno));
  }
  evconnlistener_set_error_cb(s->listener, on_accept_error);
  return PU_OK;
}

/* libevent writes to sockets in a way that raises the signal; the error alone says enough. */
static void ignore_broken_pipes(void) {
  struct sigaction now;
  if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL) signal(SIGPIPE, SIG_IGN);
}

pu_err pu_http_open(const pu_http_options *o, pu_http_server **out, pu_error *e) {
  *out = NULL;
  pu_http_server *s = calloc(1, sizeof *s);
  if (!s) return pu_fail(e, PU_ERR_NOMEM, "no memory for a server");
  ignore_broken_pipes();
  s->o = *o;
  fill_defaults(&s->o);
  s->bell_fd = -1;
  s->tail = &s->head;
  pthread_mutex_init(&s->lock, NULL);
  pu_err err = set_up(s, o, e);
  if (err)
    pu_http_free(s);
  else
    *out = s;
  return err;
}

static void close_listener(pu_http_server *s) {
  if (!s->listener) return;
  evconnlistener_free(s->listener);
  s->listener = NULL;
  if (s->unix_path[0]) unlink(s->unix_path);
  s->unix_path[0] = 0;
}

void pu_http_free(pu_http_server *s) {
  if (!s) return;
  while (s->first) connection_close(s->first);
  while (s->head) run_posted(s);
  server_reap(s);
  close_listener(s);
  struct event *events[] = {s->ticker, s->reaper, s->bell, s->drain_timer};
  for (size_t i = 0; i < PU_COUNT(events); i++)
    if (events[i]) event_free(events[i]);
  if (s->base) event_base_free(s->base);
  if (s->bell_fd >= 0) close(s->bell_fd);
  SSL_CTX_free(s->tls);
  pthread_mutex_destroy(&s->lock);
  free(s);
}

const char *pu_http_url(const pu_http_server *s) {
  return s->url;
}

int pu_http_port(const pu_http_server *s) {
  return s->port;
}

pu_err pu_http_run(pu_http_server *s, pu_error *e) {
  if (event_base_dispatch(s->base) < 0) return pu_fail(e, PU_ERR_IO, "%s: the event loop failed", s->url);
  return PU_OK;
}

void pu_http_drain(pu_http_server *s, double seconds) {
  if (s->draining) return;
  s->draining = true;
  close_listener(s);
  seconds = PU_MAX(seconds, 0);
  struct timeval t = {.tv_sec = (time_t)seconds, .tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
  event_add(s->drain_timer, &t);
  event_active(s->reaper, EV_TIMEOUT, 0);
}

bool pu_http_draining(const pu_http_server *s) {
  return s->draining;
}
