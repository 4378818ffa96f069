/* embedding: y[n] = w[ids[n]]; dw[v] = sum of dy[n] over ids[n] = v. */
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

/* The tokens of each id, in their order: the first of them and for each the next. */
typedef struct scatter_job {
  const pu_embedding_args *a;
  int32_t *first, *next; /* [V], [N]; -1: none */
  float beta;
} scatter_job;

static void list_tokens(const scatter_job *job) {
  const int32_t *ids = job->a->ids->data;
  for (int64_t v = 0; v < job->a->w->shape[0]; v++) job->first[v] = -1;
  for (int64_t n = job->a->ids->shape[0]; n-- > 0;) {
    job->next[n] = job->first[ids[n]];
    job->first[ids[n]] = (int32_t)n;
  }
}

/* Summed in f32, whatever the gradient's type. */
static void scatter_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const scatter_job *job = arg;
  const pu_tensor *dw = job->a->w->grad, *dy = job->a->y->grad;
  (void)worker;
  for (int64_t v = begin; v < end; v++)
    for (int64_t c = 0; c < dw->shape[1]; c++) {
      float sum = job->beta != 0 ? pu_get(dw, v, c) : 0;
      for (int32_t n = job->first[v]; n >= 0; n = job->next[n]) sum += pu_get(dy, n, c);
      pu_set(dw, v, c, sum);
    }
}

pu_err pu_ref_embedding_back(pu_backend *be, void *args, pu_error *e) {
  const pu_embedding_args *a = args;
  int64_t vocab = a->w->shape[0];
  void *work;
  if (!a->w->grad) return PU_OK;
  PU_TRY(pu_cpu_work((pu_cpu *)be, (size_t)(vocab + a->ids->shape[0]) * sizeof(int32_t), &work, e));
  scatter_job job = {a, work, (int32_t *)work + vocab, pu_grad_beta(a->w)};
  list_tokens(&job);
  pu_pool_run(((pu_cpu *)be)->pool, vocab, 64, scatter_rows, &job);
  return PU_OK;
}
