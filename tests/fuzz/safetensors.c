/* Any bytes as a safetensors file: what is accepted may be read to its last byte. */
#include <stdlib.h>
#include <string.h>

#include "puyu/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static volatile uint8_t sink;
  char *copy = malloc(size ? size : 1); /* so that reading past the end is seen */
  if (!copy) return 0;
  if (size) memcpy(copy, data, size);
  pu_safetensors *s;
  pu_error e;
  if (pu_safetensors_parse(pu_str_of(copy, size), &s, &e) == PU_OK) {
    for (size_t i = 0; i < pu_safetensors_count(s); i++) {
      const pu_st_tensor *t = pu_safetensors_at(s, i);
      if (pu_safetensors_find(s, t->name) != t) abort();
      if (t->bytes) sink = (uint8_t)(sink + ((const uint8_t *)t->data)[0] + ((const uint8_t *)t->data)[t->bytes - 1]);
    }
    (void)pu_safetensors_meta(s, "format");
    pu_safetensors_close(s);
  }
  free(copy);
  return 0;
}
