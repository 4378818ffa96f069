#include "src/cli/lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool pu_cli_warn_bytes(const char *path, size_t line, pu_str text) {
  uint32_t cp;
  if (pu_utf8_valid(text)) return false;
  for (size_t at = 0, n; at < text.len && (n = pu_utf8_next(pu_str_of(text.ptr + at, text.len - at), &cp)) > 0; at += n)
    line += cp == '\n';
  pu_log(PU_LOG_WARN, "%s:%zu: no UTF-8; its bytes are taken as they are", path, line);
  return true;
}

pu_err pu_cli_each_line(const pu_cli *cli, const char *path, bool is_text,
                        pu_err (*each)(void *arg, pu_str line, pu_error *e), void *arg, pu_error *e) {
  const char *name = path ? path : "standard input";
  FILE *in = path ? fopen(path, "rbe") : cli->in;
  if (!in) return pu_fail(e, PU_ERR_IO, "%s: cannot open: %s", name, strerror(errno));
  char *line = NULL;
  size_t cap = 0, number = 0;
  bool warned = !path || !is_text;
  pu_err err = PU_OK;
  for (ssize_t n; err == PU_OK && !ferror(cli->out) && (n = getline(&line, &cap, in)) >= 0;) {
    number++;
    if (n > 0 && line[n - 1] == '\n') line[--n] = 0;
    if (!warned) warned = pu_cli_warn_bytes(path, number, pu_str_of(line, (size_t)n));
    err = each(arg, pu_str_of(line, (size_t)n), e);
  }
  if (err != PU_OK)
    err = pu_fail_in(e, err, "%s: line %zu", name, number);
  else if (ferror(in))
    err = pu_fail(e, PU_ERR_IO, "%s: cannot read: %s", name, strerror(errno));
  free(line);
  if (path) fclose(in);
  return err;
}
