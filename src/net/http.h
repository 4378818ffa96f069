/* The grammar of HTTP/1.1, without sockets: the head of a request, a chunked body. */
#ifndef PUYU_NET_HTTP_H
#define PUYU_NET_HTTP_H

#include "puyu/base.h"

enum {
  HTTP_MAX_HEAD = 32 << 10, /* bytes of request line and headers */
  HTTP_MAX_HEADERS = 100,
};

typedef struct http_head {
  const char *method, *path, *query; /* path is decoded; query is as sent */
  struct {
    const char *name, *value;
  } headers[HTTP_MAX_HEADERS];
  size_t n;
  int minor; /* HTTP/1.minor */
  bool keep_alive, chunked, expects_continue;
  uint64_t length; /* of the body; 0 when chunked */
} http_head;

/* Parses text[0, len): everything up to and with the empty line; text[len] is 0. Changes text; the result's strings
 * point into it. Returns 0, or the status to refuse with and why. */
int http_head_parse(char *text, size_t len, http_head *out, const char **why);
const char *http_head_get(const http_head *h, const char *name);

typedef enum http_chunk_state {
  HTTP_CHUNK_SIZE,
  HTTP_CHUNK_EXTENSION, /* the rest of a size line */
  HTTP_CHUNK_DATA,
  HTTP_CHUNK_DATA_CR,
  HTTP_CHUNK_DATA_LF,
  HTTP_CHUNK_TRAILER, /* at the beginning of a line */
  HTTP_CHUNK_TRAILER_LINE,
  HTTP_CHUNK_DONE
} http_chunk_state;

/* Plain data, zero at the beginning. */
typedef struct http_chunks {
  http_chunk_state state;
  uint64_t left;   /* of the chunk's data */
  int digits;      /* of its size so far */
  size_t overhead; /* bytes of extensions and trailers: bounded */
  bool cr;         /* the last byte of a line so far */
} http_chunks;

/* Takes bytes; *used says how many, data goes to body. 0: go on (or done, see state); else the status to refuse with.
 */
int http_chunks_feed(http_chunks *c, const char *p, size_t n, size_t *used, pu_buf *body);

const char *http_reason(int status);

#endif
