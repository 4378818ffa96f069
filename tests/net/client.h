/* A small blocking HTTP client for tests: bytes out, answers in. Reads fail after 20 seconds rather than hang. */
#ifndef PUYU_TEST_CLIENT_H
#define PUYU_TEST_CLIENT_H

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/test.h"

typedef struct client {
  int fd;
  pu_buf in; /* received and not yet read */
} client;

typedef struct answer {
  int status; /* 0: the connection ended instead */
  pu_buf head, body;
  bool whole; /* the body came to its end */
} answer;

static inline void client_set_up(client *c) {
  struct timeval t = {.tv_sec = 20};
  setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
  pu_buf_init(&c->in, (size_t)1 << 28);
}

/* rcvbuf: bytes of the receive buffer; 0: as it is. */
static inline client client_open_with(int port, int rcvbuf) {
  client c = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (rcvbuf) setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof rcvbuf);
  assert_int_equal(connect(c.fd, (struct sockaddr *)&at, sizeof at), 0);
  client_set_up(&c);
  return c;
}

static inline client client_open(int port) {
  return client_open_with(port, 0);
}

static inline client client_open_unix(const char *path) {
  client c = {.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  struct sockaddr_un at = {.sun_family = AF_UNIX};
  snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
  assert_int_equal(connect(c.fd, (struct sockaddr *)&at, sizeof at), 0);
  client_set_up(&c);
  return c;
}

static inline void client_close(client *c) {
  if (c->fd >= 0) close(c->fd);
  c->fd = -1;
  pu_buf_deinit(&c->in);
}

/* False: the other side closed. */
static inline bool client_send(client *c, const void *data, size_t len) {
  for (const char *p = data; len > 0;) {
    ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);
    if (n <= 0) return false;
    p += n;
    len -= (size_t)n;
  }
  return true;
}

static inline bool client_puts(client *c, const char *text) {
  return client_send(c, text, strlen(text));
}

/* A request with a body (NULL: none); more: headers, each with its line end. */
static inline bool client_ask(client *c, const char *method, const char *path, const char *more, const char *body) {
  pu_buf b;
  pu_buf_init(&b, (size_t)1 << 28);
  pu_buf_printf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\n%s", method, path, more);
  if (body) pu_buf_printf(&b, "Content-Length: %zu\r\n", strlen(body));
  pu_buf_puts(&b, "\r\n");
  if (body) pu_buf_puts(&b, body);
  bool sent = client_send(c, b.data, b.len);
  pu_buf_deinit(&b);
  return sent;
}

/* More bytes into c->in. False: the end, or nothing for too long. */
static inline bool client_fill(client *c) {
  char piece[1 << 14];
  ssize_t n = recv(c->fd, piece, sizeof piece, 0);
  return n > 0 && pu_buf_append(&c->in, piece, (size_t)n);
}

static inline void client_drop(client *c, size_t n) {
  memmove(c->in.data, c->in.data + n, c->in.len - n + 1);
  c->in.len -= n;
}

/* A line with its end from c->in into out. */
static inline bool client_line(client *c, pu_buf *out) {
  char *end;
  while (!c->in.data || !(end = memchr(c->in.data, '\n', c->in.len)))
    if (!client_fill(c)) return false;
  size_t n = (size_t)(end - c->in.data) + 1;
  pu_buf_append(out, c->in.data, n);
  client_drop(c, n);
  return true;
}

static inline bool client_bytes(client *c, size_t n, pu_buf *out) {
  while (c->in.len < n)
    if (!client_fill(c)) return false;
  if (n) pu_buf_append(out, c->in.data, n);
  if (n) client_drop(c, n);
  return true;
}

static inline bool client_chunks(client *c, pu_buf *out) {
  for (;;) {
    pu_buf line;
    pu_buf_init(&line, 1 << 12);
    bool good = client_line(c, &line);
    size_t n = good ? strtoul(line.data, NULL, 16) : 0;
    pu_buf_clear(&line);
    good = good && client_bytes(c, n, out) && client_line(c, &line);
    pu_buf_deinit(&line);
    if (!good) return false;
    if (n == 0) return true;
  }
}

static inline void answer_free(answer *a) {
  pu_buf_deinit(&a->head);
  pu_buf_deinit(&a->body);
}

static inline bool client_head(client *c, answer *a) {
  pu_buf_init(&a->head, 1 << 16);
  pu_buf_init(&a->body, (size_t)1 << 28);
  a->status = 0;
  for (size_t before = 0;; before = a->head.len) {
    if (!client_line(c, &a->head)) return false;
    if (strcmp(a->head.data + before, "\r\n") == 0) break;
  }
  a->status = atoi(a->head.data + strlen("HTTP/1.1 "));
  return true;
}

/* The next answer; interim ones (1xx) are passed over. */
static inline answer client_answer(client *c) {
  answer a = {0};
  for (;;) {
    if (!client_head(c, &a)) return a;
    if (a.status >= 200) break;
    answer_free(&a);
  }
  const char *length = strcasestr(a.head.data, "\r\ncontent-length:");
  if (strcasestr(a.head.data, "\r\ntransfer-encoding: chunked"))
    a.whole = client_chunks(c, &a.body);
  else if (length)
    a.whole = client_bytes(c, strtoul(length + 17, NULL, 10), &a.body);
  else if (a.status == 204)
    a.whole = true;
  else {
    while (client_fill(c)) {}
    a.whole = client_bytes(c, c->in.len, &a.body);
  }
  return a;
}

/* A whole exchange on a connection of its own. */
static inline answer ask_once(int port, const char *method, const char *path, const char *more, const char *body) {
  client c = client_open(port);
  client_ask(&c, method, path, more, body);
  answer a = client_answer(&c);
  client_close(&c);
  return a;
}

#endif
