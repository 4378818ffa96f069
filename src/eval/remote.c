#include "src/eval/internal.h"
pu_err pu_eval_remote_open(const pu_eval_remote *o, pu_eval_model **out, pu_error *e) {
  (void)o, (void)out;
  return pu_fail(e, PU_ERR_UNSUPPORTED, "later");
}
