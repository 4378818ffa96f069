/* Any bytes as what a client sends: first as the head of a request, then as a chunked body, whole and byte by byte. */
#include <stdlib.h>
#include <string.h>

#include "src/net/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good) {
  if (!good) abort();
}

static void head(const uint8_t *data, size_t size) {
  char *text = malloc(size + 1);
  http_head h;
  const char *why = NULL;
  memcpy(text, data, size);
  text[size] = 0;
  int bad = http_head_parse(text, size, &h, &why);
  must(bad == 0 || (bad >= 400 && bad < 600 && why));
  if (!bad) {
    must(strlen(h.method) > 0 && strlen(h.path) > 0 && strlen(h.query) < size);
    must(!(h.chunked && h.length));
    for (size_t i = 0; i < h.n; i++) must(http_head_get(&h, h.headers[i].name) != NULL);
  }
  free(text);
}

/* The status, or 0; what it took is in *used. */
static int chunks(const char *p, size_t n, size_t piece, pu_buf *body, size_t *used) {
  http_chunks c = {0};
  for (*used = 0; *used < n && c.state != HTTP_CHUNK_DONE;) {
    size_t took, give = PU_MIN(piece, n - *used);
    int bad = http_chunks_feed(&c, p + *used, give, &took, body);
    must(took <= give);
    *used += took;
    if (bad) return bad;
  }
  return c.state == HTTP_CHUNK_DONE ? 200 : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_buf whole, single;
  size_t used, used_single;
  head(data, size);
  pu_buf_init(&whole, 1 << 16);
  pu_buf_init(&single, 1 << 16);
  int a = chunks((const char *)data, size, size, &whole, &used);
  int b = chunks((const char *)data, size, 1, &single, &used_single);
  must(a == b);
  if (a == 200) must(used == used_single && whole.len == single.len);
  if (a == 200 && whole.len) must(memcmp(whole.data, single.data, whole.len) == 0);
  pu_buf_deinit(&whole);
  pu_buf_deinit(&single);
  return 0;
}
