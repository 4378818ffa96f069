/* Any bytes as the tokenizer_config.json beside a small SentencePiece model: whatever it renames, text is encoded
 * within its bounds, and the ids decode. */
#include <stdlib.h>

#include "src/text/tokenizer.h"
#include "tests/text/build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good) {
  if (!good) abort();
}

static pu_tokenizer *small_model(void) {
  static const char *const pieces[] = {"a", "b", "ab", "\xE2\x96\x81", "\xE2\x96\x81\x61", "bc", "abab"};
  pu_buf b;
  pu_error e;
  pu_tokenizer *t = NULL;
  pu_buf_init(&b, 1 << 16);
  spm_begin(&b, true);
  spm_piece(&b, pu_str_c("[U0]"), 0, USER);
  spm_piece(&b, pu_str_c("[U1]"), 0, USER);
  for (size_t i = 0; i < PU_COUNT(pieces); i++) spm_piece(&b, pu_str_c(pieces[i]), -(float)i, NORMAL);
  spm_end(&b, (spm_settings){.byte_fallback = true, .dummy_prefix = true});
  must(pu_tokenizer_parse_spm(pu_str_of(b.data, b.len), &t, &e) == PU_OK);
  pu_buf_deinit(&b);
  return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_error e;
  json_t *config;
  if (pu_json_parse("config", pu_str_of((const char *)data, size), &config, &e) != PU_OK) return 0;
  pu_tokenizer *t = small_model();
  if (text_apply_config(t, config, &e) == PU_OK) {
    const pu_str texts[] = {pu_str_of((const char *)data, PU_MIN(size, 500)), pu_str_c("abc ab[U0]bc\xE4\xB8\xAD <s>")};
    for (size_t i = 0; i < 2 * PU_COUNT(texts); i++) {
      pu_ids ids = {0};
      pu_buf b;
      pu_buf_init(&b, 1 << 24);
      must(pu_encode(t, texts[i / 2], i % 2 ? PU_ENCODE_BOS | PU_ENCODE_SPECIAL : 0, &ids, &e) == PU_OK);
      must(pu_decode(t, ids.v, ids.n, 0, &b, &e) == PU_OK);
      pu_buf_deinit(&b);
      pu_ids_deinit(&ids);
    }
  }
  json_decref(config);
  pu_tokenizer_free(t);
  return 0;
}
