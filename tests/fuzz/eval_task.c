/* Any bytes as a task's YAML. What is accepted has what its kind needs. */
#include <stdlib.h>

#include "puyu/eval.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_arena *a;
  pu_error e = {0};
  pu_eval_task *t;
  if (pu_arena_create((size_t)64 << 20, &a, &e)) return 0;
  pu_err err = pu_eval_task_parse("fuzz.yaml", pu_str_of((const char *)data, size), a, &t, &e);
  if (err ? !e.msg[0] : !t->name || !t->test || (t->kind != PU_EVAL_PERPLEXITY && !t->answer)) abort();
  if (!err && t->kind == PU_EVAL_GENERATE && t->extract.n == 0) abort();
  pu_arena_free(a);
  return 0;
}
