/* PU_QWEN2_PATTERN by hand. The alternatives are tried in the pattern's order; each function is one of them. */
#include <utf8proc.h>

#include "src/text/split_qwen2.h"

typedef enum kind { END, LETTER, NUMBER, SPACE, NEWLINE, OTHER } kind;

static kind kind_of_code(uint32_t cp) {
  switch (cp) {
  case '\r':
  case '\n':
    return NEWLINE;
  case '\t':
  case '\v':
  case '\f':
  case 0x85:
    return SPACE;
  default:
    break;
  }
  switch (utf8proc_category((utf8proc_int32_t)cp)) {
  case UTF8PROC_CATEGORY_LU:
  case UTF8PROC_CATEGORY_LL:
  case UTF8PROC_CATEGORY_LT:
  case UTF8PROC_CATEGORY_LM:
  case UTF8PROC_CATEGORY_LO:
    return LETTER;
  case UTF8PROC_CATEGORY_ND:
  case UTF8PROC_CATEGORY_NL:
  case UTF8PROC_CATEGORY_NO:
    return NUMBER;
  case UTF8PROC_CATEGORY_ZS:
  case UTF8PROC_CATEGORY_ZL:
  case UTF8PROC_CATEGORY_ZP:
    return SPACE;
  default:
    return OTHER;
  }
}

/* The kind of the character at `at`, and its bytes. */
static kind next(pu_str s, size_t at, size_t *bytes) {
  *bytes = 0;
  if (at >= s.len) return END;
  unsigned char c = (unsigned char)s.ptr[at];
  *bytes = 1;
  if (c < 128) {
    unsigned char lower = c | 32;
    if (lower >= 'a' && lower <= 'z') return LETTER;
    if (c >= '0' && c <= '9') return NUMBER;
    if (c == ' ') return SPACE;
    return c > ' ' ? OTHER : kind_of_code(c);
  }
  uint32_t cp;
  size_t n = pu_utf8_next(pu_str_of(s.ptr + at, s.len - at), &cp);
  if (n == 0) return OTHER;
  *bytes = n;
  return kind_of_code(cp);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d); U+017F, the long s, is an s without case. */
static size_t contraction(pu_str s) {
  if (s.len < 2 || s.ptr[0] != '\'') return 0;
  char a = (char)(s.ptr[1] | 32), b = s.len > 2 ? (char)(s.ptr[2] | 32) : '\0';
  if (s.len > 2 && (unsigned char)s.ptr[1] == 0xC5 && (unsigned char)s.ptr[2] == 0xBF) return 3;
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
  return 0;
}

static size_t run(pu_str s, size_t at, kind k) {
  size_t n;
  while (next(s, at, &n) == k) at += n;
  return at;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ : to the last line end of the run of spaces; else all of it at the end of the text; else all
 * but the last, which belongs to the next word. */
static size_t spaces(pu_str s) {
  size_t at = 0, n, last = 0, newline = 0;
  for (kind k; (k = next(s, at, &n)) == SPACE || k == NEWLINE;) {
    last = at;
    at += n;
    if (k == NEWLINE) newline = at;
  }
  if (newline > 0) return newline;
  return at == s.len || last == 0 ? at : last;
}

size_t pu_split_qwen2(pu_str s) {
  size_t n, m, word = contraction(s);
  if (word > 0) return word;
  kind first = next(s, 0, &n);
  if (first == END) return 0;
  if (first == LETTER) return run(s, n, LETTER);
  if (first == NUMBER) return n;
  if (first != NEWLINE && next(s, n, &m) == LETTER) return run(s, n + m, LETTER);
  bool blank = s.ptr[0] == ' ' && next(s, n, &m) == OTHER;
  if (first == OTHER || blank) return run(s, run(s, blank ? n : 0, OTHER), NEWLINE);
  return spaces(s);
}
