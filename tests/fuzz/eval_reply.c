/* Any bytes as a server's answer: to a question with options, a window, an answer. */
#include <math.h>
#include <stdlib.h>

#include "src/eval/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const pu_str options[] = {pu_str_c(" A"), pu_str_c(" \xE4\xBD\xA0")};
  eval_told told[2] = {0};
  pu_str body = pu_str_of((const char *)data, size);
  pu_error e;
  for (int i = 0; i < 4; i++) {
    eval_ask ask = {.options = options, .n_options = i < 2 ? 2 : 0, .told = told};
    if (eval_reply_told("http://x", body, i % 2, &ask, &e)) continue;
    if (told[0].tokens < 0 || told[0].tokens > told[0].whole_tokens) abort();
  }
  for (int chat = 0; chat < 2; chat++) {
    eval_ask ask = {0};
    pu_buf_init(&ask.text, 1 << 20);
    if (eval_reply_answer("http://x", body, chat, &ask, &e) == PU_OK && ask.text.len > size) abort();
    pu_buf_deinit(&ask.text);
  }
  return 0;
}
