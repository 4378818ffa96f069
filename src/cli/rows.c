#include "src/cli/rows.h"

pu_err pu_cli_shape(const char *name, const pu_shape **out, pu_error *e) {
  *out = pu_shape_find(name);
  if (*out) return PU_OK;
  char known[400] = "";
  for (size_t i = 0, at = 0; pu_shape_at(i) && at < sizeof known; i++)
    at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", pu_shape_at(i)->name);
  return pu_fail(e, PU_ERR_USAGE, "--shape %.60s: no such shape; there are %s", name, known);
}

pu_err pu_cli_arch(const char *name, const pu_arch **out, pu_error *e) {
  *out = pu_arch_find(name);
  if (*out) return PU_OK;
  char known[400] = "";
  for (size_t i = 0, at = 0; pu_arch_all[i] && at < sizeof known; i++)
    at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", pu_arch_all[i]->name);
  return pu_fail(e, PU_ERR_USAGE, "--arch %.60s: no such family; there are %s", name, known);
}

pu_err pu_cli_tokenizer(const char *path, pu_tokenizer **out, pu_error *e) {
  if (!pu_gguf_is(path)) return pu_tokenizer_load(path, out, e);
  PU_TRY(pu_engine_load_tokenizer(path, out, e));
  return *out ? PU_OK : pu_fail(e, PU_ERR_UNSUPPORTED, "%s: holds no tokenizer", path);
}
