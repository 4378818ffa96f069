/* Texts of others at a terminal: what a document, a tool or a model says must not move the cursor, or worse. */
#ifndef PUYU_CLI_SAFE_H
#define PUYU_CLI_SAFE_H

#include "src/cli/cli.h"

/* Writes s with a space for each control character (of ASCII and of Latin-1, where terminals also look for orders) and
 * for each byte that is no UTF-8. Ends of lines and tabs stay. */
void pu_cli_put_safe(FILE *out, pu_str s);
/* So at a terminal; as it is into a file or a pipe. */
void pu_cli_put_text(FILE *out, pu_str s);

#endif
