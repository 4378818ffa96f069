/* Any bytes as a model's answer: it becomes a message whose calls can be rendered again, and read in pieces it says the
 * same. */
#include <stdlib.h>
#include <string.h>

#include "puyu/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good) {
  if (!good) abort();
}

static void hear(void *arg, const pu_chat_piece *p) {
  if (p->content.ptr)
    pu_buf_append(arg, p->content.ptr, p->content.len);
  else if (p->name)
    pu_buf_printf(arg, "[%zu %s]", p->call, p->name);
  if (p->arguments.len) pu_buf_append(arg, p->arguments.ptr, p->arguments.len);
}

/* In pieces of so many bytes; 0: at once. */
static void read_in(const pu_chat_template *c, unsigned flags, pu_str text, size_t step, pu_buf *out) {
  pu_chat_reader *r;
  pu_error e;
  pu_buf_init(out, 1 << 26);
  must(pu_chat_reader_create(c, flags, hear, out, &r, &e) == PU_OK);
  for (size_t i = 0, n; i < text.len; i += n) {
    n = step ? PU_MIN(step, text.len - i) : text.len;
    must(pu_chat_reader_feed(r, pu_str_of(text.ptr + i, n), &e) == PU_OK);
  }
  must(pu_chat_reader_finish(r, &e) == PU_OK);
  pu_chat_reader_free(r);
}

static void read_both(const pu_chat_template *c, unsigned flags, pu_str text) {
  pu_buf a, b;
  read_in(c, flags, text, 0, &a);
  read_in(c, flags, text, text.len ? (unsigned char)text.ptr[0] % 7 + 1 : 1, &b);
  must(a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0));
  pu_buf_deinit(&a);
  pu_buf_deinit(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_error e;
  for (const char *const *name = pu_chat_names(); *name; name++) {
    const pu_chat_template *c = pu_chat_find(*name);
    json_t *message, *list = json_array();
    pu_buf text;
    pu_buf_init(&text, 1 << 26);
    pu_str answer = pu_str_of((const char *)data, size);
    for (unsigned flags = 0; flags <= (PU_CHAT_READ_WHOLE | PU_CHAT_READ_ONE_CALL); flags++)
      read_both(c, flags, answer);
    must(pu_chat_answer(c, PU_CHAT_READ_WHOLE, answer, &message, &e) == PU_OK);
    must(json_array_append_new(list, message) == 0);
    const pu_chat chat = {.messages = list};
    pu_err err = pu_chat_render_text(c, &chat, &text, &e);
    must(err == PU_OK || err == PU_ERR_UNSUPPORTED || err == PU_ERR_NOMEM);
    pu_buf_deinit(&text);
    json_decref(list);
  }
  return 0;
}
