/* Any bytes as GBNF grammars. */
#include "tests/fuzz/grammar.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  return fuzz_grammar(PU_GRAMMAR_GBNF, data, size);
}
