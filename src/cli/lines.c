#include "src/cli/lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

pu_err pu_cli_each_line(const pu_cli *cli, const char *path, pu_err (*each)(void *arg, pu_str line, pu_error *e),
                        void *arg, pu_error *e) {
  const char *name = path ? path : "standard input";
  FILE *in = path ? fopen(path, "rbe") : cli->in;
  if (!in) return pu_fail(e, PU_ERR_IO, "%s: cannot open: %s", name, strerror(errno));
  char *line = NULL;
  size_t cap = 0, number = 0;
  pu_err err = PU_OK;
  for (ssize_t n; err == PU_OK && !ferror(cli->out) && (n = getline(&line, &cap, in)) >= 0;) {
    number++;
    if (n > 0 && line[n - 1] == '\n') line[--n] = 0;
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
