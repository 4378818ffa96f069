/* Any bytes as adapter_config.json: what is accepted says a rank and a factor of each matrix that it targets. */
#include <math.h>
#include <stdlib.h>

#include "src/model/adapter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const modules[] = {"model.layers.0.self_attn.q_proj", "model.layers.2.mlp.down_proj",
                                        "model.layers.11.attention.wqkv"};
  pu_adapter_config config;
  json_t *json;
  pu_error e;
  if (size > PU_ADAPTER_MAX_CONFIG || pu_json_parse("it", pu_str_of((const char *)data, size), &json, &e) != PU_OK)
    return 0;
  if (pu_adapter_config_read(json, "it", &config, &e) != PU_OK) return 0;
  for (size_t i = 0; i < PU_COUNT(modules); i++) {
    pu_adapter_match m;
    if (pu_adapter_config_match(&config, modules[i], (int)i, &m, &e) != PU_OK || !m.targeted) continue;
    if (m.rank < 1 || m.rank > PU_LORA_MAX_RANK || !(m.scale > 0) || !isfinite(m.scale)) abort();
  }
  pu_adapter_config_deinit(&config);
  return 0;
}
