/* The names of elements, found by binary search over keys of two machine words. */
#include "src/data/html/tags.h"

#include <endian.h>
#include <string.h>

const uint8_t html_tag_flags[HTML_TAG_COUNT] = {
#define HTML_FLAGS(name, text, flags) [HTML_##name##_] = (flags),
    HTML_TAGS(HTML_FLAGS)
#undef HTML_FLAGS
};

static const html_word names[] = {
#define HTML_NAME(name, text, flags) {text, HTML_##name##_, false},
    HTML_TAGS(HTML_NAME)
#undef HTML_NAME
};

static html_key key_of_bytes(const char bytes[16]) {
  html_key k;
  memcpy(&k.hi, bytes, 8);
  memcpy(&k.lo, bytes + 8, 8);
  k.hi = be64toh(k.hi);
  k.lo = be64toh(k.lo);
  return k;
}

html_key html_key_of(pu_str word) {
  char bytes[16] = {0};
  size_t n = PU_MIN(word.len, (size_t)16);
  for (size_t i = 0; i < n; i++) {
    char c = word.ptr[i];
    bytes[i] = c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
  }
  return key_of_bytes(bytes);
}

int html_word_find(const html_word *table, size_t n, html_key key) {
  size_t lo = 0, hi = n;
  while (lo < hi) {
    size_t mid = (lo + hi) / 2;
    html_key k = key_of_bytes(table[mid].text);
    if (k.hi < key.hi || (k.hi == key.hi && k.lo <= key.lo))
      lo = mid + 1;
    else
      hi = mid;
  }
  return (int)lo - 1;
}

html_tag html_tag_find(pu_str name) {
  const char *colon = memchr(name.ptr, ':', name.len);
  if (colon) name = pu_str_of(colon + 1, name.len - (size_t)(colon + 1 - name.ptr));
  html_key key = html_key_of(name);
  int i = html_word_find(names, PU_COUNT(names), key);
  if (i < 0) return HTML_OTHER;
  html_key found = key_of_bytes(names[i].text);
  return found.hi == key.hi && found.lo == key.lo ? (html_tag)names[i].kind : HTML_OTHER;
}
