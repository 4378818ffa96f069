#include "src/cli/safe.h"

#include <unistd.h>

#include "puyu/text.h"

void pu_cli_put_safe(FILE *out, pu_str s) {
  uint32_t cp;
  for (size_t i = 0, len; i < s.len; i += len) {
    len = pu_utf8_next(pu_str_of(s.ptr + i, s.len - i), &cp);
    if (len == 0) len = 1, cp = 0;
    bool control = (cp < ' ' && cp != '\n' && cp != '\t') || (cp >= 0x7F && cp < 0xA0);
    if (control)
      putc(' ', out);
    else
      fwrite(s.ptr + i, 1, len, out);
  }
}

void pu_cli_put_text(FILE *out, pu_str s) {
  if (isatty(fileno(out)))
    pu_cli_put_safe(out, s);
  else
    fwrite(s.ptr, 1, s.len, out);
}
