/* What the fuzz targets of grammars share: bytes as a source; what compiles is walked along with random tokens, and
 * must keep its promises. */
#ifndef PUYU_FUZZ_GRAMMAR_H
#define PUYU_FUZZ_GRAMMAR_H

#include <stdlib.h>
#include <string.h>

#include "puyu/engine.h"
#include "tests/text/build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void must(bool good) {
  if (!good) abort();
}

static const char *const fuzz_pieces[] = {"{\"", "\":",  "\": \"", "\",", "\"}", "]}", "a",
                                          "ab",  "aaaa", "0.",     "12",  "\n ", "é",  "书生"};

enum { FUZZ_IDS = 3 + 256 + PU_COUNT(fuzz_pieces), FUZZ_WORDS = (FUZZ_IDS + 63) / 64, FUZZ_STEPS = 12 };

/* All bytes, and pieces that lie across the boundaries of JSON. */
static inline const pu_grammar_vocab *fuzz_vocab(void) {
  static pu_grammar_vocab *v;
  if (v) return v;
  pu_buf b;
  pu_tokenizer *t;
  pu_error e;
  pu_buf_init(&b, 1 << 20);
  spm_begin(&b, true);
  for (size_t i = 0; i < PU_COUNT(fuzz_pieces); i++) spm_piece(&b, pu_str_c(fuzz_pieces[i]), -(float)i, NORMAL);
  spm_end(&b, (spm_settings){.byte_fallback = true});
  must(pu_tokenizer_parse_spm(pu_str_of(b.data, b.len), &t, &e) == PU_OK);
  must(pu_grammar_vocab_create(t, &v, &e) == PU_OK);
  pu_tokenizer_free(t);
  pu_buf_deinit(&b);
  return v;
}

static inline void fuzz_walk(const pu_grammar *g, uint64_t seed) {
  pu_grammar_state *s;
  pu_error e = {0};
  pu_rng r;
  pu_rng_seed(&r, seed);
  if (pu_grammar_start(g, &s, &e) != PU_OK) return;
  for (int step = 0; step < FUZZ_STEPS && !pu_grammar_must_end(s); step++) {
    uint64_t bits[FUZZ_WORDS];
    int32_t allowed = 0, chosen = -1;
    if (pu_grammar_mask(s, bits, &e) != PU_OK) break;
    for (int32_t id = 0; id < FUZZ_IDS; id++)
      if ((bits[id / 64] >> (id % 64) & 1) && pu_rng_below(&r, (uint64_t)++allowed) == 0) chosen = id;
    if (chosen < 0) break; /* only where too many ways are open at once */
    if (!pu_grammar_accept(s, chosen)) {
      must(pu_grammar_gave_up(s));
      break;
    }
  }
  pu_grammar_state_free(s);
}

static inline int fuzz_grammar(pu_grammar_kind kind, const uint8_t *data, size_t size) {
  pu_grammar *g;
  pu_error e = {0};
  pu_err err = pu_grammar_compile(kind, pu_str_of((const char *)data, size), fuzz_vocab(), &g, &e);
  must(err == PU_OK ? g != NULL : g == NULL && e.msg[0]);
  if (g) fuzz_walk(g, pu_hash64(data, size, 0));
  pu_grammar_free(g);
  return 0;
}

#endif
