/* Hands out the files of the chat page. They need no key: the page asks for one itself. */
#include "src/serve/web.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>

#include "src/serve/internal.h"

/* What the page may do. It shows text of models, which nobody has checked: should a script or a picture get past the
 * page's own care, the browser does not run or fetch it. KaTeX's styles are set one by one by the page's script, which
 * this allows; no style or script of a text's own counts. */
static const char policy[] = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
                             "connect-src 'self'; font-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
                             "form-action 'none'";

static const pu_web_file *find(const char *name) {
  for (const pu_web_file *f = pu_web_files; f->name; f++)
    if (strcmp(f->name, name) == 0) return f;
  return NULL;
}

/* Is the value in the header's list, and not with ;q=0? */
static bool lists(const char *header, const char *value) {
  size_t n = strlen(value);
  for (const char *p = header; p && *p; p += strcspn(p, ",")) {
    p += strspn(p, ", \t");
    if (strncasecmp(p, "W/", 2) == 0) p += 2; /* RFC 9110, 13.1.2: weak comparison */
    if (strncasecmp(p, value, n) != 0 || (p[n] && !strchr(",; \t", p[n]))) continue;
    const char *q = strstr(p, "q="), *end = p + strcspn(p, ",");
    return !q || q > end || strtod(q + 2, NULL) > 0;
  }
  return false;
}

static bool inflate_into(const pu_web_file *f, pu_buf *out) {
  if (!pu_buf_reserve(out, f->raw_len + 1)) return false;
  z_stream z = {.next_in = (unsigned char *)f->data,
                .avail_in = (uInt)f->len,
                .next_out = (unsigned char *)out->data,
                .avail_out = (uInt)f->raw_len};
  if (inflateInit2(&z, 15 + 16) != Z_OK) return false;
  bool good = inflate(&z, Z_FINISH) == Z_STREAM_END;
  inflateEnd(&z);
  out->len = f->raw_len;
  return good;
}

static void add_headers(pu_http_request *r, const pu_web_file *f) {
  char etag[64]; /* a weak one: the same for the packed bytes and the plain ones */
  snprintf(etag, sizeof etag, "W/%s", f->etag);
  pu_http_add_header(r, "Content-Security-Policy", policy);
  pu_http_add_header(r, "X-Content-Type-Options", "nosniff");
  pu_http_add_header(r, "Referrer-Policy", "no-referrer");
  pu_http_add_header(r, "Cache-Control", "no-cache"); /* kept, but asked about: another puyu has other files */
  pu_http_add_header(r, "ETag", etag);
  pu_http_add_header(r, "Vary", "Accept-Encoding");
}

/* For the few that do not read gzip. */
static void reply_plain(pu_server *sv, pu_http_request *r, const pu_web_file *f) {
  pu_buf b;
  pu_buf_init(&b, f->raw_len + 64);
  if (inflate_into(f, &b))
    pu_reply(sv, r, 200, f->type, pu_str_of(b.data, b.len));
  else
    pu_reply_error(sv, r, 500, "no memory for this file", NULL, NULL);
  pu_buf_deinit(&b);
}

void pu_web_reply(pu_server *sv, pu_http_request *r, const char *name) {
  const pu_web_file *f = find(name);
  if (!f) {
    pu_reply_error(sv, r, 404, "there is nothing at this path", NULL, NULL);
    return;
  }
  const char *had = pu_http_header(r, "if-none-match");
  add_headers(r, f);
  if (had && (lists(had, f->etag) || strcmp(had, "*") == 0)) {
    pu_reply(sv, r, 304, f->type, pu_str_c(""));
    return;
  }
  if (f->gzip && !lists(pu_http_header(r, "accept-encoding"), "gzip")) {
    reply_plain(sv, r, f);
    return;
  }
  if (f->gzip) pu_http_add_header(r, "Content-Encoding", "gzip");
  pu_reply(sv, r, 200, f->type, pu_str_of(f->data, f->len));
}
