/* Web archives: WARC 0.18 to 1.1 (ISO 28500) and ARC 1. A document is the page or text of one record: of responses
 * with status 2xx, of resources and of conversions. Each of these that gives none is recorded with the reason; other
 * records (requests, metadata, …) are about documents and are passed over.
 *
 * Where a record's length leads to no next record, one is looked for: within the record, if the length is too large,
 * else behind it. What stands before that is read as far as it goes, and recorded as broken. */
#include <string.h>
#include <strings.h>

#include "src/data/web_answer.h"

enum { HEADER_MAX = 64 << 10, BEHIND = 64 };

typedef struct warc {
  pu_buf joined, unpacked;
  bool lost; /* looking for a record, which was told */
} warc;

/* A record's header and where its body lies. */
typedef struct record {
  bool arc;
  uint64_t at; /* in the input */
  pu_str type; /* "response", …; of ARC "response" */
  pu_str url, time, id, content;
  uint64_t len; /* of the body */
  size_t header_len;
} record;

static pu_str rest_of(pu_str s, size_t n) {
  n = PU_MIN(n, s.len);
  return n > 0 ? pu_str_of(s.ptr + n, s.len - n) : s; /* of nothing, there may be no pointer to add to */
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static bool is_word(pu_str s, const char *word) {
  return s.len == strlen(word) && strncasecmp(s.ptr, word, s.len) == 0;
}

static bool number_read(pu_str s, uint64_t *out) {
  *out = 0;
  if (s.len == 0 || s.len > 18) return false;
  for (size_t i = 0; i < s.len; i++) {
    if (!is_digit(s.ptr[i])) return false;
    *out = *out * 10 + (uint64_t)(s.ptr[i] - '0');
  }
  return true;
}

/* ---- headers ----------------------------------------------------------------------------------------------------- */

static bool warc_begins(pu_str s) {
  return s.len >= 8 && memcmp(s.ptr, "WARC/", 5) == 0 && is_digit(s.ptr[5]) && s.ptr[6] == '.' && is_digit(s.ptr[7]);
}

/* The fields of an ARC line from behind, since a URL may hold spaces: "URL IP TIME TYPE LENGTH". Version 2 has five
 * more before the length. */
static bool arc_line(pu_str line, record *r) {
  pu_str fields[10]; /* the last one first */
  size_t n = 0;
  while (line.len > 0 && n < PU_COUNT(fields)) {
    const char *space = memrchr(line.ptr, ' ', line.len);
    size_t from = space ? (size_t)(space - line.ptr) + 1 : 0;
    fields[n++] = rest_of(line, from);
    line.len = space ? from - 1 : 0;
    if ((n != 4 && n != 9) || line.len == 0) continue;
    size_t time = n - 2; /* which of them the time is */
    uint64_t ignored;
    if (fields[time].len < 12 || fields[time].len > 14 || !number_read(fields[time], &ignored)) continue;
    if (!number_read(fields[0], &r->len)) return false;
    r->url = line;
    r->time = fields[time];
    r->content = fields[time - 1];
    r->type = pu_str_c("response");
    return true;
  }
  return false;
}

static bool arc_begins(pu_str s) {
  static const char *const schemes[] = {"http://", "https://", "filedesc:", "dns:", "ftp://"};
  for (size_t i = 0; i < PU_COUNT(schemes); i++) {
    size_t n = strlen(schemes[i]);
    if (s.len > n && strncasecmp(s.ptr, schemes[i], n) == 0) return true;
  }
  return false;
}

static bool arc_read(pu_str head, record *r) {
  const char *end = arc_begins(head) ? memchr(head.ptr, '\n', PU_MIN(head.len, (size_t)HEADER_MAX / 8)) : NULL;
  if (!end) return false;
  r->arc = true;
  r->header_len = (size_t)(end - head.ptr) + 1;
  pu_str line = pu_str_of(head.ptr, r->header_len - 1);
  if (line.len > 0 && line.ptr[line.len - 1] == '\r') line.len--;
  return arc_line(line, r);
}

static bool record_begins(pu_str s) {
  record r;
  return warc_begins(s) || (arc_begins(s) && arc_read(s, &r));
}

/* A first line in the midst of another one: what is left of a compressed record may end anywhere. s.len: none. */
static size_t first_line_within(pu_str s) {
  for (size_t at = 1; at + 9 < s.len; at++) {
    const char *p = memmem(s.ptr + at, s.len - at, "WARC/", 5);
    if (!p) break;
    at = (size_t)(p - s.ptr);
    pu_str rest = rest_of(s, at);
    if (warc_begins(rest) && rest.len > 9 && (p[8] == '\n' || (p[8] == '\r' && p[9] == '\n'))) return at;
  }
  return s.len;
}

/* The first place behind `from` where a record begins; s.len: none. */
static size_t record_search(pu_str s, size_t from) {
  while (from < s.len) {
    const char *end = memchr(s.ptr + from, '\n', s.len - from);
    size_t next = end ? (size_t)(end - s.ptr) + 1 : s.len;
    size_t within = first_line_within(pu_str_of(s.ptr + from, next - from));
    if (within < next - from) return from + within;
    from = next;
    if (from < s.len && record_begins(rest_of(s, from))) return from;
  }
  return s.len;
}

/* How long is the header, with the blank line behind it? 0: it does not end here, or breaks off before another one. */
static size_t header_end(pu_str s) {
  for (size_t at = 0; at < s.len;) {
    const char *end = memchr(s.ptr + at, '\n', s.len - at);
    if (!end) return 0;
    size_t next = (size_t)(end - s.ptr) + 1;
    if (next - at == 1 || (next - at == 2 && s.ptr[at] == '\r')) return next;
    pu_str line = pu_str_of(s.ptr + at, next - at);
    if ((at > 0 && warc_begins(line)) || first_line_within(line) < line.len) return 0;
    at = next;
  }
  return 0;
}

static bool warc_read(pu_str head, record *r) {
  if (!warc_begins(head)) return false;
  head.len = PU_MIN(head.len, (size_t)HEADER_MAX);
  r->header_len = header_end(head);
  if (r->header_len == 0) return false;
  pu_str lines = pu_str_of(head.ptr, r->header_len);
  r->type = pu_web_header(lines, "WARC-Type");
  r->url = pu_web_header(lines, "WARC-Target-URI");
  r->time = pu_web_header(lines, "WARC-Date");
  r->id = pu_web_header(lines, "WARC-Record-ID");
  r->content = pu_web_header(lines, "Content-Type");
  return number_read(pu_web_header(lines, "Content-Length"), &r->len);
}

/* ---- from record to record --------------------------------------------------------------------------------------- */

/* Nothing begins here: on to what does. */
static void resync(warc *w, pu_input *in, pu_str head, const char *why) {
  if (!w->lost) pu_input_skip(in, pu_input_at(in), why);
  w->lost = true;
  size_t at = record_search(head, 0);
  if (at == head.len && head.len >= HEADER_MAX) at = head.len - HEADER_MAX / 2; /* a beginning may be cut here */
  pu_input_take(in, at);
}

/* The next record's header, past blank lines and what is broken. */
static pu_err record_next(warc *w, pu_input *in, record *r, bool *found, pu_error *e) {
  for (;;) {
    pu_str s;
    *r = (record){0};
    *found = false;
    PU_TRY(pu_input_peek(in, HEADER_MAX, &s, e));
    size_t blank = 0;
    while (blank < s.len && (s.ptr[blank] == '\r' || s.ptr[blank] == '\n')) blank++;
    pu_input_take(in, blank);
    if (s.len == 0) return PU_OK;
    if (blank > 0) continue;
    r->at = pu_input_at(in);
    *found = warc_read(s, r) || arc_read(s, r);
    if (*found) {
      w->lost = false;
      pu_input_set_number(in, pu_input_number(in) + 1);
      return PU_OK;
    }
    w->lost = w->lost && !record_begins(s);
    resync(w, in, s, record_begins(s) ? "a record whose header is broken" : "no record begins here");
  }
}

/* Does a record, or nothing more, follow? */
static bool follows_well(pu_str behind, bool is_end) {
  size_t i = 0;
  while (i < behind.len && (behind.ptr[i] == '\r' || behind.ptr[i] == '\n')) i++;
  return i == behind.len ? is_end || i > 0 : record_begins(rest_of(behind, i));
}

/* The body, of which *take bytes are to be taken. A length that leads nowhere is recorded, and what the next record
 * leaves is the body. */
static pu_err body_read(warc *w, pu_input *in, const record *r, pu_str *body, size_t *take, pu_error *e) {
  pu_str s;
  size_t want = r->header_len + (size_t)r->len;
  PU_TRY(pu_input_peek(in, want + HEADER_MAX / 8, &s, e));
  *take = PU_MIN(want, s.len);
  *body = pu_str_of(s.ptr + r->header_len, *take - r->header_len);
  bool is_end = s.len < want + HEADER_MAX / 8;
  if (s.len >= want && follows_well(rest_of(s, want), is_end)) return PU_OK;
  pu_input_skip(in, r->at, s.len < want ? "a record that is cut short" : "a record whose length is wrong");
  w->lost = true; /* and told */
  size_t next = record_search(s, r->header_len - 1);
  if (next == s.len) return PU_OK; /* what stands behind it is passed over by the search for the next one */
  *take = next;
  *body = pu_str_of(s.ptr + r->header_len, PU_MIN(next - r->header_len, (size_t)r->len));
  while (body->len > 0 && (body->ptr[body->len - 1] == '\r' || body->ptr[body->len - 1] == '\n')) body->len--;
  return PU_OK;
}

/* ---- a record's document ----------------------------------------------------------------------------------------- */

static bool is_html(pu_str type) {
  return is_word(type, "text/html") || is_word(type, "application/xhtml+xml");
}

static pu_str within(pu_str s, char open, char close) {
  return s.len >= 2 && s.ptr[0] == open && s.ptr[s.len - 1] == close ? pu_str_of(s.ptr + 1, s.len - 2) : s;
}

static void record_fields(const record *r, pu_doc *out) {
  if (r->id.len > 0) out->id = pu_doc_keep(out, within(r->id, '<', '>'));
  out->url = pu_doc_keep(out, within(r->url, '<', '>'));
  if (!r->arc) {
    out->time = pu_doc_keep(out, r->time);
    return;
  }
  char time[32]; /* 20190403174512 */
  const char *t = r->time.ptr;
  int n = snprintf(time, sizeof time, "%.4s-%.2s-%.2sT%.2s:%.2s:%.2sZ", t, t + 4, t + 6, t + 8, t + 10,
                   r->time.len == 14 ? t + 12 : "00");
  out->time = pu_doc_keep(out, pu_str_of(time, (size_t)n));
}

static void pass_record(pu_input *in, const record *r, const char *what, pu_str value) {
  char line[200];
  snprintf(line, sizeof line, "%s%.*s", what, (int)PU_MIN(value.len, (size_t)100), value.len > 0 ? value.ptr : "");
  pu_input_pass(in, r->at, line);
}

static pu_err content_read(pu_input *in, const record *r, pu_str body, pu_str type, pu_str charset, pu_doc *out,
                           pu_error *e) {
  bool plain = is_word(type, "text/plain") || is_word(type, "text/markdown");
  if (!is_html(type) && !plain) {
    pass_record(in, r, type.len > 0 ? "a record of a type that is not read: " : "a record without a type", type);
    return PU_OK;
  }
  record_fields(r, out);
  char *label = charset.len > 0 ? pu_arena_strndup(out->arena, charset.ptr, charset.len) : NULL;
  PU_TRY(is_html(type) ? pu_read_html(in, out, body, label, e) : pu_read_text(in, out, body, label, e));
  if (out->text.len == 0) pass_record(in, r, "a record without text", (pu_str){0});
  return PU_OK;
}

/* About the crawl, or the name of a server: nothing that a page is made of. */
static bool is_about(const record *r) {
  static const char *const schemes[] = {"filedesc:", "dns:", "metadata:", "whois:"};
  pu_str url = within(r->url, '<', '>');
  for (size_t i = 0; i < PU_COUNT(schemes); i++) {
    size_t n = strlen(schemes[i]);
    if (url.len >= n && strncasecmp(url.ptr, schemes[i], n) == 0) return true;
  }
  return false;
}

/* Fills the document where the record has one; its text stays empty elsewhere. */
static pu_err document_read(warc *w, pu_input *in, const record *r, pu_str body, pu_doc *out, pu_error *e) {
  pu_web_answer a;
  pu_str type, charset;
  bool response = is_word(r->type, "response");
  if ((!response && !is_word(r->type, "resource") && !is_word(r->type, "conversion")) || is_about(r)) return PU_OK;
  if (!response || !pu_web_answer_read(body, &a)) {
    pu_web_type(r->content, &type, &charset);
    return content_read(in, r, body, type, charset, out, e);
  }
  if (a.status < 200 || a.status > 299) {
    char status[16];
    snprintf(status, sizeof status, "%d", a.status);
    pass_record(in, r, "an answer of status ", pu_str_c(status));
    return PU_OK;
  }
  const char *why;
  PU_TRY(pu_web_answer_body(in, &a, &w->joined, &w->unpacked, &body, &why, e));
  if (why) pu_input_skip(in, r->at, why);
  if (why && body.len == 0) return PU_OK;
  if (a.type.len == 0 && r->arc) a.type = r->content;
  return content_read(in, r, body, a.type, a.charset, out, e);
}

static pu_err warc_next(void *state, pu_input *in, pu_doc *out, bool *found, pu_error *e) {
  warc *w = state;
  for (;;) {
    record r;
    PU_TRY(record_next(w, in, &r, found, e));
    if (!*found) return PU_OK;
    if (r.len > PU_DOC_MAX) {
      /* It may be no longer than others, with a wrong length: records are looked for within. */
      pu_input_skip(in, r.at, "a record of more than 64 MiB");
      w->lost = true;
      pu_input_take(in, r.header_len);
      continue;
    }
    pu_str body;
    size_t take;
    /* What the header's fields point to may move with the buffer when more is read: they are read again. */
    PU_TRY(body_read(w, in, &r, &body, &take, e));
    pu_str head = pu_str_of(body.ptr - r.header_len, body.len + r.header_len);
    uint64_t at = r.at;
    if (!warc_read(head, &r)) arc_read(head, &r);
    r.at = at;
    PU_TRY(document_read(w, in, &r, body, out, e));
    pu_input_take(in, take);
    if (out->text.len > 0) return PU_OK;
    pu_doc_clear(out);
  }
}

static pu_err warc_open(void *state, pu_input *in, pu_error *e) {
  (void)in, (void)e;
  warc *w = state;
  pu_buf_init(&w->joined, PU_DOC_MAX + HEADER_MAX);
  pu_buf_init(&w->unpacked, PU_BUF_MAX);
  return PU_OK;
}

static void warc_close(void *state) {
  warc *w = state;
  pu_buf_deinit(&w->joined);
  pu_buf_deinit(&w->unpacked);
}

static bool warc_looks(pu_str head) {
  return warc_begins(head) || (head.len > 11 && memcmp(head.ptr, "filedesc://", 11) == 0);
}

const pu_reader pu_reader_warc = {.name = "warc",
                                  .endings = ".warc .arc .wet",
                                  .binary = true,
                                  .looks = warc_looks,
                                  .state_size = sizeof(warc),
                                  .open = warc_open,
                                  .next = warc_next,
                                  .close = warc_close};
