/* Text inside HTML. */
#include "puyu/base.h"

static const char *entity_of(unsigned char c) {
  static const struct {
    char c;
    const char *entity;
  } special[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}, {'\'', "&#39;"}};
  for (size_t k = 0; k < PU_COUNT(special); k++)
    if (c == (unsigned char)special[k].c) return special[k].entity;
  return c < 0x20 && c != '\n' && c != '\t' ? "\xEF\xBF\xBD" : NULL;
}

bool pu_buf_html(pu_buf *b, pu_str text) {
  /* JSON's escaping knows UTF-8 already: what it would replace is replaced here by the same function. */
  pu_buf clean;
  pu_buf_init(&clean, PU_BUF_MAX);
  pu_buf_json_str(&clean, text);
  json_t *s = clean.failed ? NULL : json_loadb(clean.data, clean.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
  const char *p = json_string_value(s);
  size_t n = json_string_length(s);
  bool ok = s != NULL;
  for (size_t i = 0; i < n && ok; i++) {
    const char *entity = entity_of((unsigned char)p[i]);
    ok = entity ? pu_buf_puts(b, entity) : pu_buf_putc(b, p[i]);
  }
  json_decref(s);
  pu_buf_deinit(&clean);
  return ok;
}
