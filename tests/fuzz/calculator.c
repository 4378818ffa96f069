/* Any bytes as an expression: a value, or an error that names the place; never both. */
#include <stdlib.h>
#include <string.h>

#include "puyu/text.h"
#include "src/agent/calc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_buf b;
  pu_error e;
  pu_buf_init(&b, 1 << 16);
  pu_err err = agent_calculate(pu_str_of((const char *)data, size), &b, &e);
  if ((err == PU_OK) != (b.len > 0)) abort();
  if (err && (err != PU_ERR_USAGE || strchr(e.msg, '\n') || !pu_utf8_valid(pu_str_c(e.msg)))) abort();
  if (!err && strncmp(b.data, "about ", 6) != 0 && !strchr(b.data, 'e') && b.len < 1000) { /* it reads back */
    pu_buf again;
    pu_buf_init(&again, 1 << 16);
    if (agent_calculate(pu_str_of(b.data, b.len), &again, &e) ||
        !pu_str_eq(pu_str_of(b.data, b.len), pu_str_of(again.data, again.len)))
      abort();
    pu_buf_deinit(&again);
  }
  pu_buf_deinit(&b);
  return 0;
}
