/* Programs that the demo starts, as a user would from a shell. */
#ifndef PUYU_CLI_DEMO_CHILD_H
#define PUYU_CLI_DEMO_CHILD_H

#include <sys/types.h>

#include "puyu/base.h"

#define PU_CHILD_PUYU "/proc/self/exe" /* this program itself */

typedef struct pu_child {
  pid_t pid;
  FILE *out; /* its standard output */
} pu_child;

/* argv ends with NULL; argv[0] is looked for in PATH. */
pu_err pu_child_start(const char *const *argv, pu_child *c, pu_error *e) PU_MUST_USE;
/* Waits for its end. An error where that is no success; `name` is what the error calls it. */
pu_err pu_child_finish(pu_child *c, const char *name, pu_error *e) PU_MUST_USE;
/* Runs it, and reads what it prints as JSON. *out is the caller's. */
pu_err pu_child_json(const char *const *argv, const char *name, json_t **out, pu_error *e) PU_MUST_USE;

#endif
