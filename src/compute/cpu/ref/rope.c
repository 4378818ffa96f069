/* rope: turns the first and second half of each query and key head by the token's angles, in place. */
#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

typedef struct rotation {
  const pu_tensor *t, *cs;
  int64_t heads, half;
  float sign; /* -1: back */
} rotation;

static void rotate_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const rotation *r = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++)
    for (int64_t head = 0; head < r->heads; head++)
      for (int64_t d = 0; d < r->half; d++) {
        int64_t i = head * 2 * r->half + d;
        float cos = pu_get(r->cs, n, d), sin = r->sign * pu_get(r->cs, n, r->half + d);
        float x1 = pu_get(r->t, n, i), x2 = pu_get(r->t, n, i + r->half);
        pu_set(r->t, n, i, x1 * cos - x2 * sin);
        pu_set(r->t, n, i + r->half, x2 * cos + x1 * sin);
      }
}

static pu_err rotate(pu_backend *be, const pu_rope_args *a, const pu_tensor *t, float sign) {
  rotation r = {t, a->cs, a->heads + a->kv_heads, a->head_dim / 2, sign};
  pu_pool_run(((pu_cpu *)be)->pool, t->shape[0], 16, rotate_rows, &r);
  return PU_OK;
}

pu_err pu_ref_rope(pu_backend *be, void *args, pu_error *e) {
  const pu_rope_args *a = args;
  (void)e;
  return rotate(be, a, a->qkv, 1);
}

pu_err pu_ref_rope_back(pu_backend *be, void *args, pu_error *e) {
  const pu_rope_args *a = args;
  (void)e;
  return rotate(be, a, a->qkv->grad, -1);
}
