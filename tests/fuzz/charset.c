/* Bytes in whatever charset: found and converted, the result is valid UTF-8. */
#include <stdlib.h>

#include "src/data/lang/lang.h"
#include "src/data/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_str bytes = pu_str_of((const char *)data, size);
  pu_lang_guess guesses[4];
  pu_buf text;
  pu_error e;
  pu_buf_init(&text, (size_t)1 << 28);
  pu_err err = pu_charset_convert(bytes, pu_charset_find(bytes, NULL), &text, NULL, &e);
  pu_str out = pu_str_of(text.data ? text.data : "", text.len);
  if (err == PU_OK && !pu_utf8_valid(out)) abort();
  if (err == PU_OK) pu_lang_find(out, guesses, PU_COUNT(guesses));
  pu_buf_deinit(&text);
  return 0;
}
