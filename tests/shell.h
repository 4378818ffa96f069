/* Lines of a shell, as a user would type them. */
#ifndef PUYU_TEST_SHELL_H
#define PUYU_TEST_SHELL_H

#include "tests/test.h"

#include <stdlib.h>
#include <sys/wait.h>

static const char *shell_folder = "."; /* where lines run: a test sets its own */
static char out[1 << 18];              /* what the last line wrote, of both kinds, unless it sent one elsewhere */

static inline int shell_words(const char *begin, const char *fmt, va_list ap) {
  char words[3000], line[3600];
  vsnprintf(words, sizeof words, fmt, ap);
  snprintf(line, sizeof line, "cd %s && puyu() { %s \"$@\"; } && { %s%s\n} 2>&1", shell_folder, PU_PROGRAM, begin,
           words);
  fflush(NULL);
  FILE *p = popen(line, "r");
  assert_non_null(p);
  out[fread(out, 1, sizeof out - 1, p)] = 0;
  int status = pclose(p);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

/* Runs a line, in which `puyu` is the program. Its exit status. */
static inline int shell(const char *fmt, ...) PU_PRINTF(1, 2);
static inline int shell(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int status = shell_words("", fmt, ap);
  va_end(ap);
  return status;
}

/* Runs the program with these words. */
static inline int puyu(const char *fmt, ...) PU_PRINTF(1, 2);
static inline int puyu(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int status = shell_words(PU_PROGRAM " ", fmt, ap);
  va_end(ap);
  return status;
}

/* The last line wrote this, among others. */
static inline void says(const char *text) {
  if (!strstr(out, text)) fail_msg("no \"%s\" in: %s", text, out);
}

#endif
