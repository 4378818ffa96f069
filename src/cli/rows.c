#include "src/cli/rows.h"

pu_err pu_cli_shape(const char *name, const pu_shape **out, pu_error *e) {
  *out = pu_shape_find(name);
  if (*out) return PU_OK;
  char known[400] = "";
  for (size_t i = 0, at = 0; pu_shape_at(i) && at < sizeof known; i++)
    at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", pu_shape_at(i)->name);
  return pu_fail(e, PU_ERR_USAGE, "--shape %.60s: no such shape; there are %s", name, known);
}
