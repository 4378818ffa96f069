#include "puyu/base.h"

#include <stdlib.h>
#include <string.h>

pu_str pu_str_c(const char *s) {
  return (pu_str){s, s ? strlen(s) : 0};
}

bool pu_str_eq(pu_str a, pu_str b) {
  return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

bool pu_str_ends(pu_str s, const char *end) {
  pu_str e = pu_str_c(end);
  return s.len >= e.len && pu_str_eq(pu_str_of(s.len ? s.ptr + s.len - e.len : "", e.len), e);
}

size_t pu_str_mark(pu_str s) {
  return s.len >= 3 && memcmp(s.ptr, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
}

bool pu_ends_with(const char *s, const char *end) {
  return pu_str_ends(pu_str_c(s), end);
}

void pu_buf_init(pu_buf *b, size_t max) {
  *b = (pu_buf){.max = max};
}

void pu_buf_deinit(pu_buf *b) {
  free(b->data);
  *b = (pu_buf){.max = b->max};
}

void pu_buf_clear(pu_buf *b) {
  b->len = 0;
  b->failed = false;
  if (b->data) b->data[0] = 0;
}

bool pu_buf_reserve(pu_buf *b, size_t more) {
  if (b->failed) return false;
  if (more > b->max - b->len || b->max == SIZE_MAX) {
    b->failed = true;
    return false;
  }
  size_t need = b->len + more + 1; /* the NUL */
  if (need <= b->cap) return true;
  size_t cap = PU_MAX(need, b->cap + b->cap / 2);
  cap = PU_MIN(PU_MAX(cap, 64), b->max + 1);
  char *data = realloc(b->data, cap);
  if (!data) {
    b->failed = true;
    return false;
  }
  if (!b->data) data[0] = 0;
  b->data = data;
  b->cap = cap;
  return true;
}

bool pu_buf_append(pu_buf *b, const void *data, size_t len) {
  if (!pu_buf_reserve(b, len)) return false;
  if (len) memcpy(b->data + b->len, data, len);
  b->len += len;
  b->data[b->len] = 0;
  return true;
}

bool pu_buf_puts(pu_buf *b, const char *s) {
  return pu_buf_append(b, s, strlen(s));
}

bool pu_buf_putc(pu_buf *b, char c) {
  return pu_buf_append(b, &c, 1);
}

bool pu_buf_printf(pu_buf *b, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  if (n < 0) b->failed = true;
  if (n < 0 || !pu_buf_reserve(b, (size_t)n)) return false;
  va_start(ap, fmt);
  vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
  va_end(ap);
  b->len += (size_t)n;
  return true;
}
