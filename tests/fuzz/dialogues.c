/* Any bytes as a file of conversations: what is accepted has messages, each told whether it is learned; and it can be
 * rendered, or says why not. */
#include <stdlib.h>

#include "puyu/tune.h"
#include "src/tune/form.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const pu_dialogue *d) {
  const pu_chat chat = {.messages = d->messages, .tools = d->tools};
  size_t n = json_array_size(d->messages);
  pu_error e;
  pu_buf text;
  if (n == 0 || n > PU_DIALOGUE_MESSAGES || json_array_size(d->learn) != n) abort();
  for (size_t i = 0; i < n; i++)
    if (!json_is_string(json_object_get(json_array_get(d->messages, i), "role"))) abort();
  pu_buf_init(&text, 1 << 24);
  if (pu_chat_render_text(pu_chat_find("internlm2"), &chat, &text, &e) != PU_OK && !e.msg[0]) abort();
  pu_buf_deinit(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const pu_train_source how;
  pu_dialogues *d;
  pu_dialogue one;
  pu_error e;
  bool found = true;
  pu_err err = pu_dialogues_parse("it", pu_str_of((const char *)data, size), &how, &d, &e);
  if (err) abort();
  while (!err && found) {
    err = pu_dialogues_next(d, &one, &found, &e);
    if (!err && found) check(&one);
    pu_dialogue_deinit(&one);
  }
  pu_dialogues_close(d);
  return 0;
}
