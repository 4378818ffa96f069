#include "puyu/base.h"

#include <string.h>

pu_err pu_fail(pu_error *e, pu_err code, const char *fmt, ...) {
  if (!e) return code;
  e->code = code;
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(e->msg, sizeof e->msg, fmt, ap);
  va_end(ap);
  return code;
}

pu_err pu_fail_in(pu_error *e, pu_err code, const char *prefix_fmt, ...) {
  if (!e) return code;
  char inner[sizeof e->msg];
  memcpy(inner, e->msg, sizeof inner);
  inner[sizeof inner - 1] = 0;
  e->code = code;
  va_list ap;
  va_start(ap, prefix_fmt);
  int n = vsnprintf(e->msg, sizeof e->msg, prefix_fmt, ap);
  va_end(ap);
  size_t used = n < 0 ? 0 : PU_MIN((size_t)n, sizeof e->msg - 1);
  snprintf(e->msg + used, sizeof e->msg - used, ": %s", inner);
  return code;
}
