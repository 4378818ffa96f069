/* Families: finding one, and what several of their config hooks share. */
#include "src/model/arch.h"

#include <string.h>

const pu_arch *pu_arch_find(const char *name) {
  for (size_t i = 0; name && pu_arch_all[i]; i++) {
    const pu_arch *arch = pu_arch_all[i];
    if (strcmp(arch->name, name) == 0) return arch;
    for (const char *const *type = arch->model_types; *type; type++)
      if (strcmp(*type, name) == 0) return arch;
  }
  return NULL;
}

pu_err pu_arch_set(json_t *config, const char *key, json_t *value, pu_error *e) {
  if (json_object_set_new(config, key, value) != 0)
    return pu_fail(e, PU_ERR_NOMEM, "config.json: no memory for '%s'", key);
  return PU_OK;
}

enum { MAX_WINDOW = 1 << 30 };

pu_err pu_arch_read_window(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  return pu_json_int_or(config, "sliding_window", 1, MAX_WINDOW, 0, &hp->window, where, e);
}

pu_err pu_arch_write_window(const pu_hparams *hp, json_t *config, pu_error *e) {
  return pu_arch_set(config, "sliding_window", hp->window ? json_integer(hp->window) : json_null(), e);
}

pu_err pu_arch_read_qwen_window(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  bool use;
  int64_t first;
  PU_TRY(pu_json_bool_or(config, "use_sliding_window", false, &use, where, e));
  if (!use) return PU_OK;
  PU_TRY(pu_json_int_or(config, "max_window_layers", 0, INT32_MAX, 28, &first, where, e)); /* 28: Qwen's own default */
  if (first >= hp->layers) return PU_OK;
  if (first > 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   "%s: a sliding window from layer %lld on only ('max_window_layers') is not supported", where,
                   (long long)first);
  return pu_arch_read_window(config, where, hp, e);
}

pu_err pu_arch_write_qwen_window(const pu_hparams *hp, json_t *config, pu_error *e) {
  PU_TRY(pu_arch_set(config, "use_sliding_window", json_boolean(hp->window > 0), e));
  if (!hp->window) return PU_OK;
  PU_TRY(pu_arch_set(config, "max_window_layers", json_integer(0), e));
  return pu_arch_write_window(hp, config, e);
}
