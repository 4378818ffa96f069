/* Any bytes as a web page, in each way of reading it: the text is UTF-8 where the page is. */
#include <stdlib.h>
#include <string.h>

#include "src/data/html/html.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good) {
  if (!good) abort();
}

static void read_as(pu_str page, pu_html_mode mode, pu_arena *a, pu_buf *out) {
  pu_html_page said;
  pu_error e;
  pu_buf_clear(out);
  must(pu_html_extract(page, mode, a, out, &said, &e) == PU_OK);
  bool valid = pu_utf8_valid(page);
  if (valid) must(pu_utf8_valid(pu_str_of(out->data ? out->data : "", out->len)));
  const pu_str *strings[] = {&said.title, &said.author, &said.time, &said.lang, &said.url};
  for (size_t i = 0; i < PU_COUNT(strings); i++) must(pu_utf8_valid(*strings[i]));
  must(mode == PU_HTML_AUTO || said.forum == (mode == PU_HTML_FORUM));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_arena *a;
  pu_error e;
  pu_buf out;
  if (size > 1 << 16) return 0;
  char *page = malloc(size + 1); /* exactly as long: one byte too far is seen */
  memcpy(page, data, size);
  page = realloc(page, size ? size : 1);
  must(page && pu_arena_create((size_t)64 << 20, &a, &e) == PU_OK);
  pu_buf_init(&out, PU_DOC_MAX);
  for (int mode = PU_HTML_AUTO; mode <= PU_HTML_ALL; mode++)
    read_as(pu_str_of(page, size), (pu_html_mode)mode, a, &out);
  const char *charset = pu_html_charset(pu_str_of(page, size), a);
  must(!charset || strlen(charset) < 40);
  pu_buf_deinit(&out);
  pu_arena_free(a);
  free(page);
  return 0;
}
