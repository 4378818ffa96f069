#include "src/data/web_answer.h"

#include <string.h>
#include <strings.h>
#include <zlib.h>

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static pu_str trim(pu_str s) {
  while (s.len > 0 && is_space(s.ptr[s.len - 1])) s.len--;
  while (s.len > 0 && is_space(s.ptr[0])) s = pu_str_of(s.ptr + 1, s.len - 1);
  return s;
}

static bool is_word(pu_str s, const char *word) {
  return s.len == strlen(word) && strncasecmp(s.ptr, word, s.len) == 0;
}

static pu_str rest_of(pu_str s, size_t n) {
  n = PU_MIN(n, s.len);
  return n > 0 ? pu_str_of(s.ptr + n, s.len - n) : s; /* of nothing, there may be no pointer to add to */
}

static pu_str line_take(pu_str *s) {
  const char *end = s->len > 0 ? memchr(s->ptr, '\n', s->len) : NULL;
  size_t n = end ? (size_t)(end - s->ptr) : s->len;
  pu_str line = pu_str_of(s->ptr, n);
  *s = rest_of(*s, n + 1);
  if (line.len > 0 && line.ptr[line.len - 1] == '\r') line.len--;
  return line;
}

pu_str pu_web_header(pu_str lines, const char *name) {
  size_t n = strlen(name);
  while (lines.len > 0) {
    pu_str line = line_take(&lines);
    if (line.len > n && line.ptr[n] == ':' && strncasecmp(line.ptr, name, n) == 0) return trim(rest_of(line, n + 1));
  }
  return (pu_str){0};
}

void pu_web_type(pu_str value, pu_str *type, pu_str *charset) {
  const char *end = value.len > 0 ? memchr(value.ptr, ';', value.len) : NULL;
  size_t n = end ? (size_t)(end - value.ptr) : value.len;
  *type = trim(pu_str_of(value.ptr, n));
  *charset = (pu_str){0};
  for (pu_str s = rest_of(value, n); s.len > 8; s = rest_of(s, 1)) {
    if (strncasecmp(s.ptr, "charset=", 8) != 0) continue;
    s = rest_of(s, 8);
    for (n = 0; n < s.len && s.ptr[n] != ';' && !is_space(s.ptr[n]);) n++;
    *charset = pu_str_of(s.ptr, n);
    return;
  }
}

bool pu_web_answer_read(pu_str s, pu_web_answer *out) {
  *out = (pu_web_answer){0};
  if (s.len < 12 || memcmp(s.ptr, "HTTP/", 5) != 0) return false;
  pu_str status = line_take(&s);
  const char *at = memchr(status.ptr, ' ', status.len);
  while (at && at < status.ptr + status.len && *at == ' ') at++;
  for (int i = 0; at && i < 3 && at < status.ptr + status.len && *at >= '0' && *at <= '9'; i++, at++)
    out->status = out->status * 10 + (*at - '0');
  pu_str headers = s;
  while (s.len > 0 && line_take(&s).len > 0) continue;
  headers.len -= s.len;
  pu_web_type(pu_web_header(headers, "Content-Type"), &out->type, &out->charset);
  out->coding = pu_web_header(headers, "Content-Encoding");
  pu_str transfer = pu_web_header(headers, "Transfer-Encoding");
  out->chunked = transfer.len >= 7 && is_word(rest_of(transfer, transfer.len - 7), "chunked"); /* the last of them */
  out->body = s;
  return true;
}

/* ---- the body ---------------------------------------------------------------------------------------------------- */

/* The number in front of a chunk, or SIZE_MAX. */
static size_t chunk_size(pu_str line) {
  size_t n = 0, i = 0;
  for (; i < line.len && i < 8; i++) {
    char c = line.ptr[i];
    int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (d < 0) break;
    n = n << 4 | (size_t)d;
  }
  return i == 0 || (i < line.len && line.ptr[i] != ';' && !is_space(line.ptr[i])) ? SIZE_MAX : n;
}

/* Many archives say chunked and hold a body whose chunks were joined already: that is taken as it is. So is what stands
 * where a later chunk's size should be. */
static pu_err join(pu_str s, pu_buf *out, pu_str *body, const char **why, pu_error *e) {
  pu_buf_clear(out);
  for (bool first = true; s.len > 0; first = false) {
    pu_str rest = s;
    size_t n = chunk_size(line_take(&rest));
    if (n == 0) break;
    if (n == SIZE_MAX || n > rest.len) {
      if (first && n == SIZE_MAX) {
        *body = s;
        return PU_OK;
      }
      *why = "a chunk of the body whose size is wrong";
      n = n == SIZE_MAX ? s.len : rest.len;
      if (n == s.len) rest = s;
    }
    if (!pu_buf_append(out, rest.ptr, n)) return pu_fail(e, PU_ERR_NOMEM, "warc: no memory");
    s = rest_of(rest, n);
    while (s.len > 0 && (*s.ptr == '\r' || *s.ptr == '\n')) s = rest_of(s, 1);
  }
  *body = pu_str_of(out->data ? out->data : "", out->len);
  return PU_OK;
}

/* windowBits of zlib: 47 gzip or zlib by their headers, -15 neither. */
static pu_err inflate_all(pu_input *in, pu_str s, int bits, pu_buf *out, bool *fine, pu_error *e) {
  z_stream z = {0};
  int code = inflateInit2(&z, bits);
  if (code != Z_OK) return pu_fail(e, PU_ERR_NOMEM, "warc: no memory");
  pu_buf_clear(out);
  z.next_in = (uint8_t *)(uintptr_t)s.ptr;
  z.avail_in = (unsigned)s.len;
  pu_err err = PU_OK;
  while (code == Z_OK && out->len < PU_DOC_MAX) {
    size_t room = PU_MIN(PU_DOC_MAX - out->len, PU_MAX(out->len, (size_t)64 << 10));
    if (!pu_buf_reserve(out, room)) {
      err = pu_fail(e, PU_ERR_NOMEM, "warc: no memory");
      break;
    }
    z.next_out = (uint8_t *)out->data + out->len;
    z.avail_out = (unsigned)room;
    code = inflate(&z, Z_NO_FLUSH);
    size_t made = room - z.avail_out, may = pu_input_unpacked(in, made);
    out->len += may;
    if (may < made) code = Z_MEM_ERROR;
  }
  inflateEnd(&z);
  if (out->data) out->data[out->len] = '\0';
  *fine = code == Z_STREAM_END;
  return err;
}

/* What is in none of these was not packed: servers also say "utf-8", "none" and the like. */
static bool is_unread(pu_str coding) {
  static const char *const names[] = {"br", "compress", "x-compress", "zstd", "dcb", "dcz"};
  for (size_t i = 0; i < PU_COUNT(names); i++)
    if (is_word(coding, names[i])) return true;
  return coding.len > 0 && memchr(coding.ptr, ',', coding.len);
}

pu_err pu_web_answer_body(pu_input *in, const pu_web_answer *a, pu_buf *joined, pu_buf *unpacked, pu_str *out,
                          const char **why, pu_error *e) {
  *out = a->body;
  *why = NULL;
  if (a->chunked) PU_TRY(join(a->body, joined, out, why, e));
  bool gzip = is_word(a->coding, "gzip") || is_word(a->coding, "x-gzip"), deflate = is_word(a->coding, "deflate");
  if (is_unread(a->coding)) {
    *why = "a body in an encoding that is not read";
    out->len = 0;
  }
  const uint8_t *p = (const uint8_t *)out->ptr;
  if (gzip && (out->len < 2 || p[0] != 0x1F || p[1] != 0x8B)) return PU_OK; /* unpacked already */
  if (out->len < 2 || (!gzip && !deflate)) return PU_OK;
  /* "deflate" is zlib's format by the standard, and bare in the hands of some. */
  bool zlib = (p[0] & 15) == 8 && ((unsigned)p[0] << 8 | p[1]) % 31 == 0, fine = false;
  PU_TRY(inflate_all(in, *out, gzip || zlib ? 47 : -15, unpacked, &fine, e));
  if (!fine && unpacked->len == 0 && deflate) return PU_OK;
  if (!fine) *why = "a compressed body that is broken, cut short or too large";
  *out = pu_str_of(unpacked->data ? unpacked->data : "", unpacked->len);
  return PU_OK;
}
