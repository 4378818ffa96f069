#include "src/net/http.h"

#include <string.h>
#include <strings.h>

enum { MAX_TARGET = 8 << 10, MAX_OVERHEAD = 16 << 10 };

/* RFC 9110, 5.6.2: what names of methods and headers are made of. */
static bool is_token(const char *s) {
  if (!*s) return false;
  for (; *s; s++) {
    bool letter = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9');
    if (!letter && !strchr("!#$%&'*+-.^_`|~", *s)) return false;
  }
  return true;
}

static int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

static bool percent_decode(char *s) {
  char *to = s;
  for (; *s; s++, to++) {
    *to = *s;
    if (*s != '%') continue;
    int high = hex(s[1]), low = high < 0 ? -1 : hex(s[2]);
    if (low < 0 || (high == 0 && low == 0)) return false; /* a NUL would end the path early */
    *to = (char)(high << 4 | low);
    s += 2;
  }
  *to = 0;
  return true;
}

/* "http://host/path?query": a proxy's form, which every server has to understand. */
static char *skip_authority(char *target) {
  if (strncasecmp(target, "http://", 7) != 0 && strncasecmp(target, "https://", 8) != 0) return target;
  char *host = strchr(target, ':') + 3;
  return host + strcspn(host, "/?");
}

static int parse_target(char *target, http_head *h, const char **why) {
  *why = "the request's target cannot be read";
  if (strlen(target) > MAX_TARGET) {
    *why = "the request's target is too long";
    return 414;
  }
  target = skip_authority(target);
  char *query = strchr(target, '?');
  h->query = "";
  if (query) {
    *query = 0;
    h->query = query + 1;
  }
  h->path = *target ? target : "/";
  if (*target && *target != '/' && strcmp(target, "*") != 0) return 400;
  return percent_decode(target) ? 0 : 400;
}

static int parse_request_line(char *line, http_head *h, const char **why) {
  char *target = strchr(line, ' '), *version = target ? strchr(target + 1, ' ') : NULL;
  *why = "the first line is no request line of HTTP/1.1";
  if (!version || strchr(version + 1, ' ')) return 400;
  *target++ = 0;
  *version++ = 0;
  if (!is_token(line) || !*target) return 400;
  h->method = line;
  if (strncmp(version, "HTTP/", 5) != 0) return 400;
  if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0) {
    *why = "only HTTP/1.0 and HTTP/1.1 are spoken here";
    return 505;
  }
  h->minor = version[7] - '0';
  h->keep_alive = h->minor == 1;
  return parse_target(target, h, why);
}

static int parse_header(char *line, http_head *h, const char **why) {
  *why = "a header cannot be read";
  char *colon = strchr(line, ':');
  if (!colon) return 400;
  *colon = 0;
  if (!is_token(line)) return 400; /* also a folded line, which begins with a blank */
  if (h->n == HTTP_MAX_HEADERS) {
    *why = "too many headers";
    return 431;
  }
  char *value = colon + 1 + strspn(colon + 1, " \t"), *end = value + strlen(value);
  while (end > value && (end[-1] == ' ' || end[-1] == '\t')) *--end = 0;
  h->headers[h->n].name = line;
  h->headers[h->n].value = value;
  h->n++;
  return 0;
}

/* Is the word in a list such as "keep-alive, Upgrade"? */
static bool lists(const char *list, const char *word) {
  size_t n = strlen(word);
  while (list && *list) {
    list += strspn(list, " \t,");
    if (strncasecmp(list, word, n) == 0 && strchr(" \t,", list[n])) return true;
    list += strcspn(list, ",");
  }
  return false;
}

static int parse_length(const char *text, http_head *h, bool again, const char **why) {
  uint64_t n = 0;
  *why = "Content-Length is no number";
  if (!*text) return 400;
  for (; *text; text++) {
    if (*text < '0' || *text > '9' || n > (UINT64_MAX >> 1) / 10) return 400;
    n = n * 10 + (uint64_t)(*text - '0');
  }
  *why = "two different Content-Lengths";
  if (again && n != h->length) return 400;
  h->length = n;
  return 0;
}

/* How the body is framed. What could be read in two ways is refused: that is how requests are smuggled past proxies. */
static int parse_framing(http_head *h, const char **why) {
  bool has_length = false, has_encoding = false;
  for (size_t i = 0; i < h->n; i++) {
    const char *name = h->headers[i].name, *value = h->headers[i].value;
    if (strcasecmp(name, "content-length") == 0) {
      int bad = parse_length(value, h, has_length, why);
      if (bad) return bad;
      has_length = true;
    } else if (strcasecmp(name, "transfer-encoding") == 0) {
      *why = "the only Transfer-Encoding known here is chunked";
      if (has_encoding || strcasecmp(value, "chunked") != 0) return 501;
      has_encoding = h->chunked = true;
    } else if (strcasecmp(name, "connection") == 0) {
      if (lists(value, "close")) h->keep_alive = false;
      if (lists(value, "keep-alive") && h->minor == 0) h->keep_alive = true;
    } else if (strcasecmp(name, "expect") == 0) {
      h->expects_continue = strcasecmp(value, "100-continue") == 0;
    }
  }
  *why = "both Content-Length and Transfer-Encoding";
  if (has_length && has_encoding) return 400;
  *why = "chunks in HTTP/1.0";
  if (h->chunked && h->minor == 0) return 400;
  *why = "a request of HTTP/1.1 needs a Host";
  return h->minor == 1 && !http_head_get(h, "host") ? 400 : 0;
}

int http_head_parse(char *text, size_t len, http_head *out, const char **why) {
  memset(out, 0, sizeof *out);
  *why = "the head holds control characters, or lines that do not end with CR LF";
  for (size_t i = 0; i < len; i++) {
    unsigned char c = (unsigned char)text[i];
    bool line_end = (c == '\r' && text[i + 1] == '\n') || (c == '\n' && i > 0 && text[i - 1] == '\r');
    if ((c < ' ' && c != '\t' && !line_end) || c == 0x7F) return 400;
  }
  char *line = text;
  for (bool first = true;; first = false) {
    char *end = strchr(line, '\r');
    if (!end || end == line) break;
    *end = 0;
    int bad = first ? parse_request_line(line, out, why) : parse_header(line, out, why);
    if (bad) return bad;
    line = end + 2;
  }
  *why = "an empty request";
  return out->method ? parse_framing(out, why) : 400;
}

const char *http_head_get(const http_head *h, const char *name) {
  for (size_t i = 0; i < h->n; i++)
    if (strcasecmp(h->headers[i].name, name) == 0) return h->headers[i].value;
  return NULL;
}

/* ---- chunks ---- */

static int size_byte(http_chunks *c, char b) {
  int digit = hex(b);
  if (digit >= 0) {
    if (++c->digits > 15) return 400; /* 60 bits: no overflow, and no such body is taken */
    c->left = c->left << 4 | (uint64_t)digit;
    return 0;
  }
  if (c->digits == 0 || (b != '\r' && b != ';' && b != ' ' && b != '\t')) return 400;
  c->state = HTTP_CHUNK_EXTENSION;
  c->cr = b == '\r';
  return 0;
}

/* A line that is read over. True when it ends. */
static int skip_byte(http_chunks *c, char b, bool *ends) {
  *ends = b == '\n' && c->cr;
  if ((b == '\n') != c->cr) return 400;
  c->cr = b == '\r';
  return ++c->overhead > MAX_OVERHEAD ? 400 : 0;
}

static int line_byte(http_chunks *c, char b) {
  bool ends, empty = c->state == HTTP_CHUNK_TRAILER && b == '\r';
  switch (c->state) {
  case HTTP_CHUNK_SIZE:
    return size_byte(c, b);
  case HTTP_CHUNK_EXTENSION:
    if (skip_byte(c, b, &ends)) return 400;
    if (ends) c->state = c->left ? HTTP_CHUNK_DATA : HTTP_CHUNK_TRAILER;
    return 0;
  case HTTP_CHUNK_DATA_CR:
    c->state = HTTP_CHUNK_DATA_LF;
    return b == '\r' ? 0 : 400;
  case HTTP_CHUNK_DATA_LF:
    c->state = HTTP_CHUNK_SIZE;
    c->digits = 0;
    return b == '\n' ? 0 : 400;
  case HTTP_CHUNK_TRAILER:
    c->left = empty; /* the empty line ends it all */
    c->state = HTTP_CHUNK_TRAILER_LINE;
    return skip_byte(c, b, &ends);
  default:
    if (skip_byte(c, b, &ends)) return 400;
    if (ends) c->state = c->left ? HTTP_CHUNK_DONE : HTTP_CHUNK_TRAILER;
    return 0;
  }
}

int http_chunks_feed(http_chunks *c, const char *p, size_t n, size_t *used, pu_buf *body) {
  size_t i = 0;
  int bad = 0;
  while (i < n && !bad && c->state != HTTP_CHUNK_DONE) {
    if (c->state != HTTP_CHUNK_DATA) {
      bad = line_byte(c, p[i++]);
      continue;
    }
    size_t take = (size_t)PU_MIN((uint64_t)(n - i), c->left);
    if (!pu_buf_append(body, p + i, take)) bad = 413;
    i += take;
    c->left -= take;
    if (c->left == 0) c->state = HTTP_CHUNK_DATA_CR;
  }
  *used = i;
  return bad;
}

const char *http_reason(int status) {
  static const struct {
    int status;
    const char *reason;
  } rows[] = {{200, "OK"},
              {204, "No Content"},
              {304, "Not Modified"},
              {400, "Bad Request"},
              {401, "Unauthorized"},
              {403, "Forbidden"},
              {404, "Not Found"},
              {405, "Method Not Allowed"},
              {408, "Request Timeout"},
              {413, "Content Too Large"},
              {414, "URI Too Long"},
              {429, "Too Many Requests"},
              {431, "Request Header Fields Too Large"},
              {500, "Internal Server Error"},
              {501, "Not Implemented"},
              {503, "Service Unavailable"},
              {505, "HTTP Version Not Supported"}};
  for (size_t i = 0; i < PU_COUNT(rows); i++)
    if (rows[i].status == status) return rows[i].reason;
  return "Other";
}
