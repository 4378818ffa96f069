/* Bytes of a file that nothing is known of: gzip or zstd members, whole and broken, and whatever is in them. */
#include "tests/fuzz/reading.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  return fuzz_read(NULL, data, size);
}
