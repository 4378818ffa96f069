/* Texts as they are kept: made UTF-8, cut into passages. */
#include <string.h>
#include <utf8proc.h>

#include "src/store/internal.h"

enum {
  LEAST = 768,   /* bytes of a passage before a paragraph's end is taken for its own */
  LONGER = 1280, /* and before a line's, a sentence's or a word's is */
  MOST = 2048
};

/* ---- UTF-8 ---------------------------------------------------------------------------------------------------------
 */

static size_t valid_prefix(pu_str s) {
  utf8proc_int32_t c;
  size_t at = 0;
  while (at < s.len) {
    if ((uint8_t)s.ptr[at] < 0x80) {
      at++;
      continue;
    }
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)s.ptr + at, (utf8proc_ssize_t)(s.len - at), &c);
    if (n <= 0 || c < 0) break;
    at += (size_t)n;
  }
  return at;
}

pu_err store_clean(pu_str text, pu_buf *spare, pu_str *out, pu_error *e) {
  size_t good = valid_prefix(text);
  *out = pu_str_of(text.ptr ? text.ptr : "", text.len);
  if (good == text.len) return PU_OK;
  pu_buf_clear(spare);
  for (size_t at = 0; at < text.len; at += good + 1) {
    pu_str rest = pu_str_of(text.ptr + at, text.len - at);
    good = valid_prefix(rest);
    pu_buf_append(spare, rest.ptr, good);
    if (good < rest.len) pu_buf_puts(spare, "\xEF\xBF\xBD");
  }
  if (spare->failed) return pu_fail(e, PU_ERR_NOMEM, "store: no memory for a text of %zu bytes", text.len);
  *out = pu_str_of(spare->data, spare->len);
  return PU_OK;
}

size_t store_border(pu_str text, size_t at) {
  if (at >= text.len) return text.len;
  while (at > 0 && ((uint8_t)text.ptr[at] & 0xC0) == 0x80) at--;
  return at;
}

size_t store_next(pu_str text, size_t at) {
  do at++;
  while (at < text.len && ((uint8_t)text.ptr[at] & 0xC0) == 0x80);
  return at;
}

/* ---- passages ------------------------------------------------------------------------------------------------------
 */

/* A stop with white space behind it, or one of 。！？； */
bool store_sentence_ends(const char *p, size_t at) {
  char c = p[at - 1];
  if (c == ' ' || c == '\n') return at >= 2 && (p[at - 2] == '.' || p[at - 2] == '!' || p[at - 2] == '?');
  if (at < 3) return false;
  return memcmp(p + at - 3, "。", 3) == 0 || memcmp(p + at - 3, "！", 3) == 0 || memcmp(p + at - 3, "？", 3) == 0 ||
         memcmp(p + at - 3, "；", 3) == 0;
}

static bool paragraph_ends(const char *p, size_t at) {
  return at >= 2 && p[at - 1] == '\n' && p[at - 2] == '\n';
}
bool store_line_ends(const char *p, size_t at) {
  return p[at - 1] == '\n';
}
bool store_word_ends(const char *p, size_t at) {
  return p[at - 1] == ' ' || p[at - 1] == '\n' || p[at - 1] == '\t';
}

size_t store_passage(pu_str text) {
  static const struct {
    bool (*ends)(const char *p, size_t at);
    size_t least;
  } kinds[] = {
      {paragraph_ends, LEAST}, {store_line_ends, LONGER}, {store_sentence_ends, LONGER}, {store_word_ends, LONGER}};
  if (text.len <= MOST) return text.len;
  for (size_t i = 0; i < PU_COUNT(kinds); i++)
    for (size_t at = MOST; at > kinds[i].least; at--)
      if (kinds[i].ends(text.ptr, at)) return at;
  return store_border(text, MOST);
}
