/* Any bytes as config.json: what is accepted has sizes that can be counted with. */
#include <stdlib.h>

#include "puyu/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const pu_arch *arch;
  pu_hparams hp;
  pu_error e;
  if (pu_config_parse(pu_str_of((const char *)data, size), "config.json", &arch, &hp, &e) != PU_OK) return 0;
  if (pu_hparams_count(&hp, false) <= 0 || !(pu_hparams_train_flops(&hp, 1024) > 0)) abort();
  if (!pu_model_weight_bytes(arch, &hp, &(pu_model_options){.dtype = PU_BF16, .train = true})) abort();
  return 0;
}
