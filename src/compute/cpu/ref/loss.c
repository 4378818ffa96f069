/* linear_cross_entropy: chunks of rows, so that the logits of a whole batch never exist. In a chunk: logits = x w^T;
 * each row becomes its own gradient in place; then dx = dlogits w and dw += dlogits^T x. */
#include <math.h>
#include <string.h>

#include "src/compute/cpu/gemm.h"
#include "src/compute/cpu/loss.h"
#include "src/compute/cpu/packed.h"
#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

/* The logits of a chunk in f32. Fewer rows would stay in a cache, but each chunk packs w twice and reads and writes all
 * of dw: with some thousand rows the products are what takes the time. */
enum { MAX_ROWS = 2048, MIN_ROWS = 64 };
#define CHUNK_BYTES ((int64_t)192 << 20)

typedef struct loss_job {
  const pu_linear_cross_entropy_args *a;
  pu_loss_row_fn row;
  float *logits;       /* [rows, V] */
  const int32_t *live; /* the rows of x that have a target */
  int64_t first;       /* of them: the first of the chunk */
  bool gathered;       /* some rows have none */
  pu_tensor x, dx;     /* the chunk's rows: of a->x and a->dx themselves, or gathered */
  void *packed;        /* what products with a packed w take */
} loss_job;

/* What a row without a target (a prompt's, a padding's) gives: nothing. */
static void dead_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_linear_cross_entropy_args *a = arg;
  (void)worker;
  for (int64_t n = begin; n < end; n++) {
    if (((const int32_t *)a->targets->data)[n] >= 0) continue;
    ((float *)a->loss->data)[n] = 0;
    if (a->dx) memset(pu_row(a->dx, n), 0, (size_t)a->dx->shape[1] * pu_dtype_size(a->dx->dtype));
  }
}

static void gather_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const loss_job *job = arg;
  (void)worker;
  for (int64_t i = begin; i < end; i++)
    memcpy(pu_row(&job->x, i), pu_row(job->a->x, job->live[job->first + i]),
           (size_t)job->x.shape[1] * pu_dtype_size(job->x.dtype));
}

static void scatter_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const loss_job *job = arg;
  (void)worker;
  for (int64_t i = begin; i < end; i++)
    memcpy(pu_row(job->a->dx, job->live[job->first + i]), pu_row(&job->dx, i),
           (size_t)job->dx.shape[1] * pu_dtype_size(job->dx.dtype));
}

static void loss_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const loss_job *job = arg;
  const pu_linear_cross_entropy_args *a = job->a;
  int64_t vocab = a->w->shape[0];
  (void)worker;
  for (int64_t i = begin; i < end; i++) {
    int32_t n = job->live[job->first + i], target = ((const int32_t *)a->targets->data)[n];
    ((float *)a->loss->data)[n] =
        job->row(job->logits + i * vocab, vocab, target, a->dx ? a->grad_scale : 0, a->x->dtype);
  }
}

static void chunk_logits(pu_cpu *cpu, const loss_job *job, int64_t rows) {
  const pu_tensor *w = job->a->w;
  if (w->layout != PU_LAYOUT_PLAIN) {
    pu_tensor x = job->x, y = {.dtype = PU_F32, .ndim = 2, .shape = {rows, w->shape[0]}, .stride = {w->shape[0], 1}};
    x.shape[0] = rows;
    y.data = job->logits;
    if (w->layout == PU_LAYOUT_PACKED)
      pu_cpu_linear_packed(cpu, &x, w, NULL, &y, job->packed);
    else
      pu_cpu_linear_tiled(cpu, &x, w, NULL, &y);
    return;
  }
  pu_gemm g = {.m = rows,
               .n = w->shape[0],
               .k = w->shape[1],
               .a = job->x.data,
               .b = w->data,
               .c = job->logits,
               .a_row = job->x.stride[0],
               .a_col = 1,
               .b_row = 1,
               .b_col = w->stride[0],
               .c_row = w->shape[0],
               .ab_type = w->dtype,
               .c_type = PU_F32,
               .alpha = 1};
  pu_cpu_gemm(cpu, &g);
}

/* The rows of dlogits begin where those of the logits did. */
static void chunk_back(pu_cpu *cpu, const loss_job *job, int64_t rows) {
  pu_tensor *w = job->a->w;
  int64_t vocab = w->shape[0], width = w->shape[1], row = w->dtype == PU_F32 ? vocab : 2 * vocab;
  pu_gemm dx = {.m = rows,
                .n = width,
                .k = vocab,
                .a = job->logits,
                .b = w->data,
                .c = job->dx.data,
                .a_row = row,
                .a_col = 1,
                .b_row = w->stride[0],
                .b_col = 1,
                .c_row = job->dx.stride[0],
                .ab_type = w->dtype,
                .c_type = job->dx.dtype,
                .alpha = 1};
  pu_cpu_gemm(cpu, &dx);
  if (!w->grad) return;
  pu_gemm dw = {.m = vocab,
                .n = width,
                .k = rows,
                .a = job->logits,
                .b = job->x.data,
                .c = w->grad->data,
                .a_row = 1,
                .a_col = row,
                .b_row = job->x.stride[0],
                .b_col = 1,
                .c_row = w->grad->stride[0],
                .ab_type = w->dtype,
                .c_type = w->grad->dtype,
                .alpha = 1,
                .beta = pu_grad_beta(w)};
  pu_cpu_gemm(cpu, &dw);
}

static void chunk(pu_cpu *cpu, loss_job *job, int64_t rows) {
  const pu_linear_cross_entropy_args *a = job->a;
  if (job->gathered)
    pu_pool_run(cpu->pool, rows, 64, gather_rows, job);
  else
    job->x.data = pu_row(a->x, job->first);
  chunk_logits(cpu, job, rows);
  pu_pool_run(cpu->pool, rows, 8, loss_rows, job);
  if (!a->dx) return;
  if (!job->gathered) job->dx.data = pu_row(a->dx, job->first);
  chunk_back(cpu, job, rows);
  if (job->gathered) pu_pool_run(cpu->pool, rows, 64, scatter_rows, job);
}

/* Lists the rows that have a target; -1 (and the error) where a target is no token. */
static int64_t list_live(const pu_linear_cross_entropy_args *a, int32_t *live, pu_error *e) {
  const int32_t *targets = a->targets->data;
  int64_t count = 0;
  for (int64_t n = 0; n < a->x->shape[0]; n++) {
    if (targets[n] >= a->w->shape[0]) {
      (void)pu_fail(e, PU_ERR_SHAPE, "cross entropy: target %d at place %lld is outside the vocabulary of %lld",
                    (int)targets[n], (long long)n, (long long)a->w->shape[0]);
      return -1;
    }
    if (targets[n] >= 0) live[count++] = (int32_t)n;
  }
  return count;
}

/* Work memory: the list of live rows, a chunk's logits, and a chunk's rows of x and dx. */
typedef struct loss_work {
  int64_t rows; /* of a chunk */
  size_t list, logits, matrix, bytes;
} loss_work;

static size_t lines(int64_t n, size_t size) {
  return ((size_t)n * size + 63) / 64 * 64;
}

static loss_work plan_work(int64_t n, int64_t width, int64_t vocab, pu_dtype dtype) {
  loss_work w = {.rows = PU_MIN(n, PU_MIN(PU_MAX(CHUNK_BYTES / (vocab * 4), MIN_ROWS), MAX_ROWS))};
  w.list = lines(n, sizeof(int32_t));
  w.logits = lines(w.rows * vocab, sizeof(float));
  w.matrix = lines(w.rows * width, pu_dtype_size(dtype));
  w.bytes = w.list + w.logits + 2 * w.matrix;
  return w;
}

size_t pu_loss_work_bytes(const pu_work_shape *s) {
  return plan_work(s->tokens, s->hidden, s->vocab, s->dtype).bytes;
}

static pu_err take_work(pu_cpu *cpu, loss_job *job, const loss_work *w, int32_t **live, pu_error *e) {
  const pu_linear_cross_entropy_args *a = job->a;
  void *work;
  size_t packed = a->w->layout == PU_LAYOUT_PACKED ? pu_packed_work_bytes(w->rows, a->w->shape[1], a->x->dtype) : 0;
  PU_TRY(pu_cpu_work(cpu, w->bytes + packed, &work, e));
  char *at = work;
  job->packed = at + w->bytes;
  *live = work;
  job->live = work;
  job->logits = (float *)(at + w->list);
  job->x = job->dx = (pu_tensor){.dtype = a->x->dtype, .ndim = 2, .shape = {w->rows, a->x->shape[1]}};
  job->x.shape[1] = job->dx.shape[1] = a->x->shape[1];
  job->x.stride[0] = job->dx.stride[0] = a->x->shape[1];
  job->x.stride[1] = job->dx.stride[1] = 1;
  job->x.data = at + w->list + w->logits;
  job->dx.data = at + w->list + w->logits + w->matrix;
  return PU_OK;
}

pu_err pu_cpu_linear_cross_entropy(pu_cpu *cpu, const pu_linear_cross_entropy_args *a, pu_loss_row_fn row,
                                   pu_error *e) {
  int64_t n = a->x->shape[0];
  loss_job job = {.a = a, .row = row};
  loss_work w = plan_work(n, a->x->shape[1], a->w->shape[0], a->x->dtype);
  int32_t *live;
  PU_TRY(take_work(cpu, &job, &w, &live, e));
  int64_t count = list_live(a, live, e);
  if (count < 0) return PU_ERR_SHAPE;
  job.gathered = count < n;
  if (!job.gathered) {
    job.x.stride[0] = a->x->stride[0];
    if (a->dx) job.dx.stride[0] = a->dx->stride[0];
  }
  if (job.gathered) pu_pool_run(cpu->pool, n, 64, dead_rows, (void *)(uintptr_t)a);
  for (; job.first < count; job.first += w.rows) chunk(cpu, &job, PU_MIN(w.rows, count - job.first));
  if (count == 0 && a->dx && a->w->grad && pu_grad_beta(a->w) == 0)
    return cpu->base.clear(&cpu->base, a->w->grad->data, pu_tensor_bytes(a->w->grad), e);
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
