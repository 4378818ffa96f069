/* Any bytes as the body of a request; the first chooses the route. What is accepted is within the bounds that are told.
 */
#include <stdlib.h>
#include <string.h>

#include "src/serve/ask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool good) {
  if (!good) abort();
}

static void check(const pu_ask *a) {
  const pu_sampling *s = &a->how;
  size_t total = 0;
  must(a->n >= 1 && a->n <= PU_ASK_MAX_CHOICES && s->max_tokens >= 0 && s->top_k >= 0);
  must(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1 && s->min_p >= 0 && s->min_p <= 1);
  must(s->n_stop <= PU_ASK_MAX_STOP && s->n_stop_ids <= PU_ASK_MAX_STOP);
  must(a->n_bad_words <= PU_ASK_MAX_STOP);
  for (size_t i = 0; i < a->n_bad_words; i++) must(a->bad_words[i].len > 0);
  for (size_t i = 0; i < s->n_stop; i++) total += strlen(s->stop[i]);
  for (size_t i = 0; i < s->n_stop_ids; i++) must(s->stop_ids[i] >= 0);
  for (size_t i = 0; i < json_array_size(a->messages); i++) {
    const json_t *m = json_array_get(a->messages, i);
    must(json_is_string(json_object_get(m, "role")));
    must(strcmp(json_string_value(json_object_get(m, "role")), "developer") != 0);
  }
  must(!a->tools || json_array_size(a->tools) > 0);
  for (size_t i = 0; i < a->n_prompts; i++) {
    const pu_ask_prompt *p = &a->prompts[i];
    must(p->ids.v || p->text.ptr);
    for (size_t k = 0; k < p->ids.n; k++) must(p->ids.v[k] >= 0);
    for (size_t k = 0; !p->ids.v && k < p->text.len; k++) total += p->text.ptr[k] == 'x';
  }
  must(total < SIZE_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static pu_err (*const readers[])(pu_str, pu_ask *, pu_error *) = {pu_ask_chat, pu_ask_completion, pu_ask_text,
                                                                    pu_ask_tokens};
  pu_error e = {0};
  pu_ask a;
  if (size == 0) return 0;
  if (readers[data[0] % PU_COUNT(readers)](pu_str_of((const char *)data + 1, size - 1), &a, &e) == PU_OK)
    check(&a);
  else
    must(e.msg[0] != 0);
  pu_ask_deinit(&a);
  return 0;
}
