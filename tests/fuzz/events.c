/* Any bytes as an event stream: whole, byte by byte and in odd pieces it tells the same events, which are those that a
 * plain reading of its lines gives. */
#include <stdlib.h>
#include <string.h>

#include "puyu/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST = 1 << 12 }; /* bytes of an event: small, so that inputs reach it */

static void must(bool good) {
  if (!good) abort();
}

typedef struct hearer {
  pu_buf told; /* each event's data, and a line of its length */
  size_t left; /* events until it wants no more */
} hearer;

static bool hear(void *arg, pu_str event) {
  hearer *h = arg;
  must(event.len < MOST);
  pu_buf_append(&h->told, event.ptr, event.len);
  pu_buf_printf(&h->told, "\n[%zu]\n", event.len);
  return h->left-- > 1;
}

/* In pieces of so many bytes, each in memory of its own; 0: at once. */
static bool feed(const uint8_t *data, size_t size, size_t step, hearer *h) {
  pu_events ev;
  bool go_on = true;
  pu_events_init(&ev, MOST);
  for (size_t i = 0, n; i < size && go_on; i += n) {
    n = step ? PU_MIN(step, size - i) : size;
    char *piece = malloc(n);
    must(piece != NULL);
    memcpy(piece, data + i, n);
    go_on = pu_events_feed(&ev, pu_str_of(piece, n), hear, h);
    free(piece);
  }
  pu_events_deinit(&ev);
  return go_on;
}

/* The line that begins at *at, which moves behind its end (LF, CR, or both); false: it has none. */
static bool next_line(const uint8_t *data, size_t size, size_t *at, pu_str *line) {
  size_t end = *at;
  while (end < size && data[end] != '\n' && data[end] != '\r') end++;
  *line = pu_str_of((const char *)data + *at, end - *at);
  if (end == size) return false;
  *at = end + 1 + (data[end] == '\r' && end + 1 < size && data[end + 1] == '\n');
  return true;
}

/* A name, then perhaps a colon and a value, which a space before it is no part of. */
static bool is_data(pu_str line, pu_str *value) {
  const char *colon = memchr(line.ptr, ':', line.len), *end = line.ptr + line.len;
  *value = colon ? pu_str_of(colon + 1, (size_t)(end - colon - 1)) : pu_str_of(end, 0);
  if (value->len && value->ptr[0] == ' ') *value = pu_str_of(value->ptr + 1, value->len - 1);
  return pu_str_eq(pu_str_of(line.ptr, colon ? (size_t)(colon - line.ptr) : line.len), pu_str_c("data"));
}

/* As the standard has it, over all bytes at once; false: something is too long. */
static bool read_plainly(const uint8_t *data, size_t size, hearer *h) {
  pu_buf event;
  pu_str line, value;
  size_t at = 0;
  bool go_on = true;
  pu_buf_init(&event, MOST);
  while (go_on && next_line(data, size, &at, &line)) {
    if (line.len > MOST) go_on = false;
    if (line.len == 0) {
      if (event.len) go_on = hear(h, pu_str_of(event.data, event.len - 1));
      pu_buf_clear(&event);
    } else if (go_on && is_data(line, &value)) {
      go_on = pu_buf_append(&event, value.ptr, value.len) && pu_buf_putc(&event, '\n');
    }
  }
  if (go_on && line.len > MOST) go_on = false;
  pu_buf_deinit(&event);
  return go_on;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  hearer want = {.left = size ? 1 + data[0] % 8u * 8u : 1};
  size_t left = want.left;
  pu_buf_init(&want.told, 1 << 26);
  bool good = read_plainly(data, size, &want);
  for (size_t step = 0; step < 12; step += step < 2 ? 1 : 5) { /* 0, 1, 2, 7 */
    hearer h = {.left = left};
    pu_buf_init(&h.told, 1 << 26);
    must(feed(data, size, step, &h) == good);
    must(h.told.len == want.told.len && (!h.told.len || memcmp(h.told.data, want.told.data, h.told.len) == 0));
    pu_buf_deinit(&h.told);
  }
  pu_buf_deinit(&want.told);
  return 0;
}
