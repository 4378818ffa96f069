/* Any bytes as an answer, for every rule; and as two answers that are compared. */
#include <stdlib.h>
#include <string.h>

#include "src/eval/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static eval_extractor *open_rule(const char *rule) {
  pu_error e;
  const char *rules[] = {rule};
  const pu_eval_task t = {.name = "t", .extract = {rules, 1}};
  eval_extractor *x;
  if (eval_extractor_open(&t, &x, &e)) abort();
  return x;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const rules[] = {"letter", "number", "boxed", "text", "#### *(-?[0-9.,]+)"};
  static eval_extractor *x[PU_COUNT(rules)];
  if (size > 1 << 16) return 0;
  for (size_t i = 0; i < PU_COUNT(rules); i++)
    if (!x[i]) x[i] = open_rule(rules[i]);
  pu_str s = pu_str_of((const char *)data, size);
  for (size_t i = 0; i < PU_COUNT(rules); i++) {
    pu_buf b;
    pu_error e;
    bool found;
    pu_buf_init(&b, 1 << 20);
    if (eval_extract(x[i], s, &b, &found, &e) || found != (b.len > 0)) {
      if (!found || i != 2) abort(); /* a box may be empty */
    }
    pu_buf_deinit(&b);
  }
  const uint8_t *cut = size ? memchr(data, '\n', size) : NULL;
  pu_str first = pu_str_of((const char *)data, cut ? (size_t)(cut - data) : size),
         second = cut ? pu_str_of((const char *)cut + 1, size - first.len - 1) : first;
  for (int how = PU_EVAL_EXACT; how <= PU_EVAL_MATH; how++) {
    if (!eval_same((pu_eval_compare)how, first, first)) abort();
    if (eval_same((pu_eval_compare)how, first, second) != eval_same((pu_eval_compare)how, second, first)) abort();
  }
  return 0;
}
