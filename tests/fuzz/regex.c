/* Any bytes as regular expressions. */
#include "tests/fuzz/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  return fuzz_grammar(PU_GRAMMAR_REGEX, data, size);
}
