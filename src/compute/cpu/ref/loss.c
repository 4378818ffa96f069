/* linear_cross_entropy: chunks of rows, so that the logits of a whole batch never exist. In a chunk: logits = x w^T;
 * each row becomes its own gradient in place; then dx = dlogits w and dw += dlogits^T x. */
#include <math.h>
#include <string.h>

#include "src/compute/cpu/gemm.h"
#include "src/compute/cpu/loss.h"
#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

/* The logits of a chunk in f32. Fewer rows would stay in a cache, but each chunk packs w twice and reads and writes all
 * of dw: with some thousand rows the products are what takes the time. */
enum { MAX_ROWS = 2048, MIN_ROWS = 64 };
#define CHUNK_BYTES ((int64_t)192 << 20)

typedef struct loss_job {
  const pu_linear_cross_entropy_args *a;
  pu_loss_row_fn row;
  float *logits; /* [rows, V] */
  int64_t first; /* row of x */
} loss_job;

static void loss_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const loss_job *job = arg;
  const pu_linear_cross_entropy_args *a = job->a;
  int64_t vocab = a->w->shape[0];
  float *losses = a->loss->data, scale = a->dx ? a->grad_scale : 0;
  (void)worker;
  for (int64_t i = begin; i < end; i++) {
    int32_t target = ((const int32_t *)a->targets->data)[job->first + i];
    float *logits = job->logits + i * vocab;
    losses[job->first + i] = target < 0 ? 0 : job->row(logits, vocab, target, scale, a->x->dtype);
    if (target < 0) memset(logits, 0, (size_t)vocab * sizeof *logits);
  }
}

static void chunk_logits(pu_cpu *cpu, const loss_job *job, int64_t rows) {
  const pu_linear_cross_entropy_args *a = job->a;
  pu_gemm g = {.m = rows,
               .n = a->w->shape[0],
               .k = a->x->shape[1],
               .a = pu_row(a->x, job->first),
               .b = a->w->data,
               .c = job->logits,
               .a_row = a->x->stride[0],
               .a_col = 1,
               .b_row = 1,
               .b_col = a->w->stride[0],
               .c_row = a->w->shape[0],
               .ab_type = a->x->dtype,
               .c_type = PU_F32,
               .alpha = 1};
  pu_cpu_gemm(cpu, &g);
}

/* The rows of dlogits begin where those of the logits did. */
static void chunk_back(pu_cpu *cpu, const loss_job *job, int64_t rows) {
  const pu_linear_cross_entropy_args *a = job->a;
  int64_t vocab = a->w->shape[0], width = a->x->shape[1], row = a->x->dtype == PU_F32 ? vocab : 2 * vocab;
  pu_gemm dx = {.m = rows,
                .n = width,
                .k = vocab,
                .a = job->logits,
                .b = a->w->data,
                .c = pu_row(a->dx, job->first),
                .a_row = row,
                .a_col = 1,
                .b_row = a->w->stride[0],
                .b_col = 1,
                .c_row = a->dx->stride[0],
                .ab_type = a->x->dtype,
                .c_type = a->dx->dtype,
                .alpha = 1};
  pu_cpu_gemm(cpu, &dx);
  if (!a->w->grad) return;
  pu_gemm dw = {.m = vocab,
                .n = width,
                .k = rows,
                .a = job->logits,
                .b = pu_row(a->x, job->first),
                .c = a->w->grad->data,
                .a_row = 1,
                .a_col = row,
                .b_row = a->x->stride[0],
                .b_col = 1,
                .c_row = a->w->grad->stride[0],
                .ab_type = a->x->dtype,
                .c_type = PU_F32,
                .alpha = 1,
                .beta = pu_grad_beta(a->w)};
  pu_cpu_gemm(cpu, &dw);
}

static pu_err check_targets(const pu_linear_cross_entropy_args *a, pu_error *e) {
  const int32_t *targets = a->targets->data;
  for (int64_t n = 0; n < a->x->shape[0]; n++)
    if (targets[n] >= a->w->shape[0])
      return pu_fail(e, PU_ERR_SHAPE, "cross entropy: target %d at place %lld is outside the vocabulary of %lld",
                     (int)targets[n], (long long)n, (long long)a->w->shape[0]);
  return PU_OK;
}

pu_err pu_cpu_linear_cross_entropy(pu_cpu *cpu, const pu_linear_cross_entropy_args *a, pu_loss_row_fn row,
                                   pu_error *e) {
  int64_t vocab = a->w->shape[0], n = a->x->shape[0];
  int64_t rows = PU_MIN(PU_MAX(CHUNK_BYTES / (vocab * 4), MIN_ROWS), MAX_ROWS);
  void *work;
  PU_TRY(check_targets(a, e));
  PU_TRY(pu_cpu_work(cpu, (size_t)(PU_MIN(rows, n) * vocab) * sizeof(float), &work, e));
  loss_job job = {a, row, work, 0};
  for (; job.first < n; job.first += rows) {
    int64_t m = PU_MIN(rows, n - job.first);
    chunk_logits(cpu, &job, m);
    pu_pool_run(cpu->pool, m, 8, loss_rows, &job);
    if (a->dx) chunk_back(cpu, &job, m);
  }
  return PU_OK;
}

static float loss_row(float *logits, int64_t n, int32_t target, float scale, pu_dtype type) {
  float max = -INFINITY, at_target = logits[target];
  double sum = 0;
  for (int64_t i = 0; i < n; i++) max = fmaxf(max, logits[i]);
  for (int64_t i = 0; i < n; i++) sum += exp((double)logits[i] - (double)max);
  for (int64_t i = 0; i < n && scale != 0; i++) {
    float d = scale * ((float)(exp((double)logits[i] - (double)max) / sum) - (i == target ? 1.0f : 0.0f));
    if (type == PU_F32) logits[i] = d;
    if (type == PU_BF16) ((uint16_t *)logits)[i] = pu_f32_to_bf16(d);
  }
  return (float)(log(sum) + (double)max - (double)at_target);
}

pu_err pu_ref_linear_cross_entropy(pu_backend *be, void *args, pu_error *e) {
  return pu_cpu_linear_cross_entropy((pu_cpu *)be, args, loss_row, e);
}

static void add_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_linear_cross_entropy_args *a = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++)
    for (int64_t c = 0; c < a->x->shape[1]; c++) pu_acc(a->x->grad, n, c, pu_get(a->dx, n, c), 1);
}

pu_err pu_ref_linear_cross_entropy_back(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_cross_entropy_args *a = args;
  if (!a->x->grad->data) a->x->grad->data = a->dx->data; /* nobody else wrote it: dx is it */
  float beta = pu_grad_beta(a->x);
  if (a->x->grad->data == a->dx->data) return PU_OK;
  if (beta == 0) return be->copy(be, a->x->grad->data, a->dx->data, pu_tensor_bytes(a->dx), e);
  pu_pool_run(((pu_cpu *)be)->pool, a->x->shape[0], 16, add_rows, args);
  return PU_OK;
}
