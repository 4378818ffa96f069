/* embedding: y[n] = w[ids[n]]; dw[v] = sum of dy[n] over ids[n] = v. */
#include <string.h>

#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

static void gather(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_embedding_args *a = arg;
  const int32_t *ids = a->ids->data;
  (void)worker;
  for (int64_t n = begin; n < end; n++)
    pu_convert(pu_row(a->y, n), a->y->dtype, pu_row(a->w, ids[n]), a->w->dtype, a->w->shape[1]);
}

pu_err pu_ref_embedding(pu_backend *be, void *args, pu_error *e) {
  const pu_embedding_args *a = args;
  const int32_t *ids = a->ids->data;
  for (int64_t n = 0; n < a->ids->shape[0]; n++)
    if (ids[n] < 0 || ids[n] >= a->w->shape[0])
      return pu_fail(e, PU_ERR_SHAPE, "embedding: token %d at place %lld is outside the vocabulary of %lld",
                     (int)ids[n], (long long)n, (long long)a->w->shape[0]);
  pu_pool_run(((pu_cpu *)be)->pool, a->ids->shape[0], 64, gather, args);
  return PU_OK;
}

/* Adds rows in the order of the tokens; a thread owns some of the columns, so that no two meet. */
static void scatter_columns(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_embedding_args *a = arg;
  const int32_t *ids = a->ids->data;
  (void)worker;
  for (int64_t n = 0; n < a->ids->shape[0]; n++)
    for (int64_t c = begin; c < end; c++) pu_acc(a->w->grad, ids[n], c, pu_get(a->y->grad, n, c), 1);
}

pu_err pu_ref_embedding_back(pu_backend *be, void *args, pu_error *e) {
  const pu_embedding_args *a = args;
  if (!a->w->grad) return PU_OK;
  if (pu_grad_beta(a->w) == 0) PU_TRY(be->clear(be, a->w->grad->data, pu_tensor_bytes(a->w->grad), e));
  pu_pool_run(((pu_cpu *)be)->pool, a->w->shape[1], 64, scatter_columns, args);
  return PU_OK;
}
