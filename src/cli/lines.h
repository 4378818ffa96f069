/* A file or standard input, line by line: what `tokenizer encode` and `tokenizer decode` share. */
#ifndef PUYU_CLI_LINES_H
#define PUYU_CLI_LINES_H

#include "src/cli/cli.h"

/* Calls `each` for every line of the file (NULL: of standard input), without its newline and with a NUL behind it,
 * until an error, which is told with file and line, or until standard output takes no more. */
pu_err pu_cli_each_line(const pu_cli *cli, const char *path, pu_err (*each)(void *arg, pu_str line, pu_error *e),
                        void *arg, pu_error *e) PU_MUST_USE;

#endif
