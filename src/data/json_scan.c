#include "src/data/json_scan.h"

#include <string.h>

#include "puyu/text.h"

const char *pu_scan_space(const char *at, const char *end) {
  while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
  return at;
}

/* Has one of the eight bytes a value below n (at most 128)? Right where no byte has its high bit set. */
static uint64_t below(uint64_t v, uint8_t n) {
  return (v - 0x0101010101010101u * n) & ~v & 0x8080808080808080u;
}

/* Over an escape, from its backslash. */
static pu_scan_result scan_escape(const char **at, const char *end) {
  const char *p = *at;
  if (end - p < 2) return PU_SCAN_CUT;
  if (!memchr("\"\\/bfnrtu", p[1], 9)) return PU_SCAN_WRONG;
  bool hex = p[1] == 'u';
  p += 2;
  for (int i = 0; hex && i < 4; i++, p++) {
    if (p == end) return PU_SCAN_CUT;
    if (!((*p >= '0' && *p <= '9') || ((*p | 32) >= 'a' && (*p | 32) <= 'f'))) return PU_SCAN_WRONG;
  }
  *at = p;
  return PU_SCAN_WHOLE;
}

/* From behind the opening quote to behind the closing one. */
static pu_scan_result scan_string(const char **at, const char *end, pu_scan_value *out) {
  const char *p = *at;
  *out = (pu_scan_value){.ptr = p, .kind = '"'};
  for (;;) {
    for (uint64_t v; end - p >= 8; p += 8) {
      memcpy(&v, p, 8);
      const uint64_t quotes = v ^ 0x2222222222222222u, backs = v ^ 0x5C5C5C5C5C5C5C5Cu;
      if (below(v, 0x20) | below(quotes, 1) | below(backs, 1)) break;
    }
    while (p < end && *p != '"' && *p != '\\' && (uint8_t)*p >= 0x20) {
      p++;
      if (end - p >= 8 && ((uintptr_t)p & 7) == 0) break;
    }
    if (p == end) return PU_SCAN_CUT;
    if (*p == '"') {
      out->len = (size_t)(p - out->ptr);
      *at = p + 1;
      return PU_SCAN_WHOLE;
    }
    if ((uint8_t)*p < 0x20) return PU_SCAN_WRONG;
    if (*p != '\\') continue;
    out->escapes = true;
    pu_scan_result escape = scan_escape(&p, end);
    if (escape != PU_SCAN_WHOLE) return escape;
  }
}

static const char *digits(const char *p, const char *end) {
  while (p < end && *p >= '0' && *p <= '9') p++;
  return p;
}

/* A number may go on where the text ends, but a line that ends with one is whole. */
static pu_scan_result scan_number(const char **at, const char *end) {
  const char *p = *at + (**at == '-'), *from = p;
  p = digits(p, end);
  if (p == from) return p == end ? PU_SCAN_CUT : PU_SCAN_WRONG;
  if (*from == '0' && p - from > 1) return PU_SCAN_WRONG;
  if (p < end && *p == '.') {
    from = ++p;
    p = digits(p, end);
    if (p == from) return p == end ? PU_SCAN_CUT : PU_SCAN_WRONG;
  }
  if (p < end && (*p | 32) == 'e') {
    p++;
    if (p < end && (*p == '+' || *p == '-')) p++;
    from = p;
    p = digits(p, end);
    if (p == from) return p == end ? PU_SCAN_CUT : PU_SCAN_WRONG;
  }
  *at = p;
  return PU_SCAN_WHOLE;
}

static pu_scan_result scan_word(const char **at, const char *end) {
  const char *word = **at == 't' ? "true" : **at == 'f' ? "false" : "null";
  size_t n = strlen(word), there = PU_MIN(n, (size_t)(end - *at));
  if (memcmp(*at, word, there) != 0) return PU_SCAN_WRONG;
  if (there < n) return PU_SCAN_CUT;
  *at += n;
  return PU_SCAN_WHOLE;
}

static pu_scan_result scan_plain(const char **at, const char *end, pu_scan_value *out) {
  const char *p = *at;
  pu_scan_result r = PU_SCAN_WRONG;
  if (*p == '"') {
    ++*at;
    return scan_string(at, end, out);
  }
  bool number = *p == '-' || (*p >= '0' && *p <= '9');
  *out = (pu_scan_value){.ptr = p, .kind = number ? '0' : *p};
  if (number) r = scan_number(at, end);
  if (*p == 't' || *p == 'f' || *p == 'n') r = scan_word(at, end);
  if (r == PU_SCAN_WHOLE) out->len = (size_t)(*at - p);
  return r;
}

/* What stands before a value in a list or object: the name and the colon. */
static pu_scan_result scan_name(const char **at, const char *end, pu_scan_value *name) {
  *at = pu_scan_space(*at, end);
  if (*at == end) return PU_SCAN_CUT;
  if (**at != '"') return PU_SCAN_WRONG;
  ++*at;
  pu_scan_result r = scan_string(at, end, name);
  if (r != PU_SCAN_WHOLE) return r;
  *at = pu_scan_space(*at, end);
  if (*at == end) return PU_SCAN_CUT;
  if (**at != ':') return PU_SCAN_WRONG;
  ++*at;
  return PU_SCAN_WHOLE;
}

/* Lists and objects, by a stack of bits: is this level an object? */
typedef struct nest {
  uint64_t objects[PU_SCAN_DEPTH / 64];
  int depth;
} nest;

static bool in_object(const nest *n) {
  int d = n->depth - 1;
  return n->objects[d / 64] >> (d % 64) & 1;
}

static bool nest_open(nest *n, bool object) {
  if (n->depth == PU_SCAN_DEPTH) return false;
  uint64_t bit = (uint64_t)1 << (n->depth % 64);
  n->objects[n->depth / 64] = object ? n->objects[n->depth / 64] | bit : n->objects[n->depth / 64] & ~bit;
  n->depth++;
  return true;
}

/* Behind a value: closes what ends here; then either all is closed or a comma was read. */
static pu_scan_result nest_close(nest *n, const char **at, const char *end) {
  while (n->depth > 0) {
    *at = pu_scan_space(*at, end);
    if (*at == end) return PU_SCAN_CUT;
    char c = *(*at)++;
    if (c == ',') return PU_SCAN_WHOLE;
    if (c != (in_object(n) ? '}' : ']')) return PU_SCAN_WRONG;
    n->depth--;
  }
  return PU_SCAN_WHOLE;
}

static pu_scan_result scan_nested(const char **at, const char *end) {
  nest n = {.depth = 0};
  pu_scan_value ignored;
  do {
    pu_scan_result r = PU_SCAN_WHOLE;
    if (n.depth > 0 && in_object(&n)) r = scan_name(at, end, &ignored);
    if (r != PU_SCAN_WHOLE) return r;
    *at = pu_scan_space(*at, end);
    if (*at == end) return PU_SCAN_CUT;
    if (**at == '{' || **at == '[') {
      bool object = *(*at)++ == '{';
      if (!nest_open(&n, object)) return PU_SCAN_WRONG;
      *at = pu_scan_space(*at, end);
      if (*at == end) return PU_SCAN_CUT;
      if (**at != (object ? '}' : ']')) continue; /* not empty */
    } else {
      r = scan_plain(at, end, &ignored);
      if (r != PU_SCAN_WHOLE) return r;
    }
    r = nest_close(&n, at, end);
    if (r != PU_SCAN_WHOLE) return r;
  } while (n.depth > 0);
  return PU_SCAN_WHOLE;
}

pu_scan_result pu_scan(const char **at, const char *end, pu_scan_value *out) {
  const char *p = *at = pu_scan_space(*at, end);
  *out = (pu_scan_value){0};
  if (p == end) return PU_SCAN_CUT;
  if (*p != '{' && *p != '[') return scan_plain(at, end, out);
  pu_scan_result r = scan_nested(at, end);
  if (r == PU_SCAN_WHOLE) *out = (pu_scan_value){p, (size_t)(*at - p), *p, false};
  return r;
}

pu_scan_result pu_scan_member(const char **at, const char *end, bool first, pu_scan_value *key, pu_scan_value *value,
                              bool *found) {
  *at = pu_scan_space(*at, end);
  *found = false;
  if (*at == end) return PU_SCAN_CUT;
  if (**at == '}') {
    ++*at;
    return PU_SCAN_WHOLE;
  }
  if (!first && *(*at)++ != ',') return PU_SCAN_WRONG;
  pu_scan_result r = scan_name(at, end, key);
  if (r == PU_SCAN_WHOLE) r = pu_scan(at, end, value);
  *found = r == PU_SCAN_WHOLE;
  return r;
}

/* ---- strings ----------------------------------------------------------------------------------------------------- */

static uint32_t hex4(const char *p) {
  uint32_t v = 0;
  for (int i = 0; i < 4; i++) v = v << 4 | (uint32_t)(p[i] <= '9' ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
  return v;
}

/* p is behind \u; returns how many bytes it takes. */
static size_t unescape_unicode(const char *p, const char *end, pu_buf *out) {
  uint32_t cp = hex4(p);
  size_t took = 4;
  if (cp >= 0xD800 && cp < 0xDC00 && end - p >= 10 && p[4] == '\\' && p[5] == 'u') {
    uint32_t low = hex4(p + 6);
    if (low >= 0xDC00 && low < 0xE000) {
      cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
      took = 10;
    }
  }
  if (cp >= 0xD800 && cp < 0xE000) cp = 0xFFFD;
  pu_utf8_put(out, cp);
  return took;
}

bool pu_scan_unescape(const pu_scan_value *string, pu_buf *out) {
  const char *p = string->ptr, *end = p + string->len;
  if (!pu_buf_reserve(out, string->len)) return false;
  while (p < end) {
    const char *back = string->escapes ? memchr(p, '\\', (size_t)(end - p)) : NULL;
    pu_buf_append(out, p, (size_t)((back ? back : end) - p));
    if (!back) break;
    p = back + 2;
    switch (back[1]) {
    case 'u':
      p += unescape_unicode(p, end, out);
      break;
    case 'n':
      pu_buf_putc(out, '\n');
      break;
    case 't':
      pu_buf_putc(out, '\t');
      break;
    case 'r':
      pu_buf_putc(out, '\r');
      break;
    case 'b':
      pu_buf_putc(out, '\b');
      break;
    case 'f':
      pu_buf_putc(out, '\f');
      break;
    default: /* itself */
      pu_buf_putc(out, back[1]);
    }
  }
  return !out->failed;
}
