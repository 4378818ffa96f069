/* Any bytes as a SentencePiece model; one that loads must encode and decode, the same way with and without a cache. */
#include <stdlib.h>
#include <string.h>

#include "puyu/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good) {
  if (!good) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_error e;
  pu_tokenizer *t = NULL;
  pu_encoder *enc = NULL;
  if (pu_tokenizer_parse_spm(pu_str_of((const char *)data, size), &t, &e) != PU_OK) return 0;
  must(pu_encoder_create(t, &enc, &e) == PU_OK);
  /* The model's own bytes are the text likeliest to meet its pieces. */
  const pu_str texts[] = {pu_str_of((const char *)data, PU_MIN(size, 2000)),
                          pu_str_c("a  b\n\xE4\xB8\xAD\xFF<s>\xE2\x96\x81")};
  for (size_t i = 0; i < 4; i++) {
    unsigned flags = i < 2 ? 0 : PU_ENCODE_BOS | PU_ENCODE_SPECIAL;
    pu_ids one = {0}, two = {0};
    pu_buf b;
    pu_buf_init(&b, 1 << 24);
    must(pu_encode(t, texts[i % 2], flags, &one, &e) == PU_OK);
    must(pu_encoder_encode(enc, texts[i % 2], flags, &two, &e) == PU_OK);
    must(one.n == two.n && (one.n == 0 || memcmp(one.v, two.v, one.n * sizeof *one.v) == 0));
    must(pu_decode(t, one.v, one.n, 0, &b, &e) == PU_OK);
    pu_buf_deinit(&b);
    pu_ids_deinit(&one);
    pu_ids_deinit(&two);
  }
  pu_encoder_free(enc);
  pu_tokenizer_free(t);
  return 0;
}
