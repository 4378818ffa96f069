/* UTF-8, as far as base needs it to write JSON and YAML and to measure a terminal line. All else is in text. */
#ifndef PUYU_BASE_UTF8_H
#define PUYU_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Length of the well-formed sequence at s (Unicode 15, table 3-7) with its code point in *cp, or minus the length of
 * the longest beginning of one, which stands for a single U+FFFD. len > 0. */
static inline int pu_utf8_step(const uint8_t *s, size_t len, uint32_t *cp) {
  *cp = s[0];
  if (s[0] < 0x80) return 1;
  if (s[0] < 0xC2 || s[0] > 0xF4) return -1;
  int want = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
  *cp = s[0] & (0x7Fu >> want);
  /* The second byte alone keeps out overlong forms, surrogates and what is above U+10FFFF. */
  uint8_t low = s[0] == 0xE0 ? 0xA0 : s[0] == 0xF0 ? 0x90 : 0x80;
  uint8_t high = s[0] == 0xED ? 0x9F : s[0] == 0xF4 ? 0x8F : 0xBF;
  for (int i = 1; i < want; i++, low = 0x80, high = 0xBF) {
    if ((size_t)i >= len || s[i] < low || s[i] > high) return -i;
    *cp = *cp << 6 | (s[i] & 0x3F);
  }
  return want;
}

#endif
