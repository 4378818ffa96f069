/* Any bytes as a .pub file: refused, or readable to the end. */
#include <stdlib.h>

#include "puyu/shards.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  /* Half of the inputs get the checksum they need to come past the header. */
  char *bytes = malloc(size + 1);
  if (!bytes) return 0;
  for (size_t i = 0; i < size; i++) bytes[i] = (char)data[i];
  if (size >= 64 && data[size - 1] & 1) {
    uint64_t h = pu_hash64(bytes, 56, 0);
    __builtin_memcpy(bytes + 56, &h, 8);
  }
  pu_shards *s;
  pu_error e;
  if (pu_shards_parse(pu_str_of(bytes, size), &s, &e) == PU_OK) {
    int32_t ids[64];
    uint8_t mask[64];
    for (uint64_t at = 0; at < pu_shards_tokens(s); at += 64) {
      pu_shards_read(s, at, 64, ids, mask);
      if (pu_shards_document_start(s, pu_shards_find(s, at)) > at) abort();
    }
    pu_shards_max_id(s);
    pu_shards_close(s);
  }
  free(bytes);
  return 0;
}
