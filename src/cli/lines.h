/* Texts from files or standard input: line by line, for `tokenizer encode` and `tokenizer decode`; bytes that are no
 * text, for all that read some. */
#ifndef PUYU_CLI_LINES_H
#define PUYU_CLI_LINES_H

#include "puyu/text.h"
#include "src/cli/cli.h"

/* Calls `each` for every line of the file (NULL: of standard input), without its newline and with a NUL behind it,
 * until an error, which is told with file and line, or until standard output takes no more. is_text: a line of the file
 * that is no UTF-8 is warned of, as below. */
pu_err pu_cli_each_line(const pu_cli *cli, const char *path, bool is_text,
                        pu_err (*each)(void *arg, pu_str line, pu_error *e), void *arg, pu_error *e) PU_MUST_USE;

/* Where a text that was read from a file is no UTF-8: a warning with the first such line (`line`: the text's first),
 * and true. Byte-level tokenizers take any bytes, so it is no error; but it is seldom meant. Call it once a file. */
bool pu_cli_warn_bytes(const char *path, size_t line, pu_str text);

#endif
