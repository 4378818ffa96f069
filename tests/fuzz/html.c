/* A web page in any mode: the text is valid UTF-8 where the page is. */
#include <stdlib.h>

#include "puyu/text.h"
#include "src/data/html/html.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static pu_arena *a;
  pu_error e;
  pu_buf text;
  pu_html_page page;
  if (size == 0 || (!a && pu_arena_create((size_t)1 << 32, &a, &e) != PU_OK)) return 0;
  pu_arena_reset(a);
  pu_str html = pu_str_of((const char *)data + 1, size - 1);
  pu_buf_init(&text, (size_t)1 << 28);
  pu_err err = pu_html_extract(html, (pu_html_mode)(data[0] % 4), a, &text, &page, &e);
  if (err == PU_OK && pu_utf8_valid(html) && !pu_utf8_valid(pu_str_of(text.data ? text.data : "", text.len))) abort();
  pu_html_charset(html, a);
  pu_buf_deinit(&text);
  return 0;
}
