/* UTF-8 (Unicode 15, table 3-7) and the width of text on a terminal. */
#include "src/text/unicode.h"

#include <utf8proc.h>

#include "puyu/text.h"

size_t pu_utf8_next(pu_str s, uint32_t *cp) {
  if (s.len == 0) return 0;
  const uint8_t *p = (const uint8_t *)s.ptr;
  if (p[0] < 0x80) {
    *cp = p[0];
    return 1;
  }
  if (p[0] < 0xC2 || p[0] > 0xF4) return 0;
  size_t len = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
  if (s.len < len) return 0;
  uint32_t c = p[0] & (0x7Fu >> len);
  for (size_t i = 1; i < len; i++) {
    if ((p[i] & 0xC0) != 0x80) return 0;
    c = c << 6 | (p[i] & 0x3Fu);
  }
  static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
  if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return 0;
  *cp = c;
  return len;
}

bool pu_utf8_put(pu_buf *b, uint32_t cp) {
  char s[4];
  if (cp < 0x80) {
    s[0] = (char)cp;
    return pu_buf_append(b, s, 1);
  }
  size_t len = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
  for (size_t i = len; i-- > 1; cp >>= 6) s[i] = (char)(0x80 | (cp & 0x3F));
  s[0] = (char)(0xF00 >> len | cp);
  return pu_buf_append(b, s, len);
}

bool pu_utf8_valid(pu_str s) {
  uint32_t cp;
  for (size_t i = 0, len; i < s.len; i += len) {
    len = pu_utf8_next(pu_str_of(s.ptr + i, s.len - i), &cp);
    if (len == 0) return false;
  }
  return true;
}

size_t pu_utf8_width(pu_str s) {
  size_t width = 0;
  for (size_t i = 0, len; i < s.len; i += len) {
    uint32_t cp = 0xFFFD;
    len = pu_utf8_next(pu_str_of(s.ptr + i, s.len - i), &cp);
    if (len == 0) len = 1; /* shown as U+FFFD */
    int w = utf8proc_charwidth((utf8proc_int32_t)cp);
    width += w > 0 ? (size_t)w : 0;
  }
  return width;
}

bool text_is_space(uint32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool text_is_word(uint32_t c) {
  utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
  return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ND) || k == UTF8PROC_CATEGORY_PC;
}

size_t text_utf8_before(const uint8_t *p, size_t i, uint32_t *cp) {
  size_t from = i;
  while (from > 0 && i - from < 4) {
    from--;
    if ((p[from] & 0xC0) != 0x80) break;
  }
  return from < i && pu_utf8_next(pu_str_of((const char *)p + from, i - from), cp) == i - from ? i - from : 0;
}
