/* Any bytes as a model's answer: it becomes a message whose calls can be rendered again. */
#include <stdlib.h>

#include "puyu/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good) {
  if (!good) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_error e;
  for (const char *const *name = pu_chat_names(); *name; name++) {
    const pu_chat_template *c = pu_chat_find(*name);
    json_t *message, *list = json_array();
    pu_buf text;
    pu_buf_init(&text, 1 << 26);
    must(pu_chat_answer(c, pu_str_of((const char *)data, size), &message, &e) == PU_OK);
    must(json_array_append_new(list, message) == 0);
    const pu_chat chat = {.messages = list};
    pu_err err = pu_chat_render_text(c, &chat, &text, &e);
    must(err == PU_OK || err == PU_ERR_UNSUPPORTED || err == PU_ERR_NOMEM);
    pu_buf_deinit(&text);
    json_decref(list);
  }
  return 0;
}
