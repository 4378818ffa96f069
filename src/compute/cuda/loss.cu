/* linear_cross_entropy: chunks of rows, so that the logits of a whole batch never exist. In a chunk: logits = x w^T in
 * f32; each row becomes its own gradient in place, in the compute type; then dx = dlogits w and dw += dlogits^T x.
 *
 * A row without a target is computed like the others, with a gradient of zero: how many there are is known to the
 * device only, and nothing waits for it. A target outside the vocabulary makes its loss NaN. */
#include "src/compute/cuda/use.h"

/* ---- a row's loss and gradient ------------------------------------------------------------------------------------
 */

enum { ROW_THREADS = 1024, ROW_WIDTH = 8, ROW_TILE = ROW_THREADS * ROW_WIDTH };

typedef struct loss_args {
  float *logits; /* [rows, step]; step is a multiple of ROW_WIDTH */
  int64_t step, vocab;
  const int32_t *targets;
  float *loss;
  float scale;
  bool back;
} loss_args;

/* ROW_WIDTH logits from i on; what lies behind the vocabulary counts for nothing. */
__device__ static void read_logits(const float *row, int64_t i, int64_t vocab, float *v) {
  if (i >= vocab) {
#pragma unroll
    for (int j = 0; j < ROW_WIDTH; j++) v[j] = -INFINITY;
    return;
  }
#pragma unroll
  for (int j = 0; j < ROW_WIDTH; j += 4) {
    float4 q = *(const float4 *)(row + i + j);
    v[j] = q.x, v[j + 1] = q.y, v[j + 2] = q.z, v[j + 3] = q.w;
  }
#pragma unroll
  for (int j = 0; j < ROW_WIDTH; j++)
    if (i + j >= vocab) v[j] = -INFINITY;
}

/* A running maximum, and the sum of exponentials below it (Milakov & Gimelshein 2018). */
typedef struct soft {
  float max, sum;
} soft;

__device__ static soft soft_join(soft a, soft b) {
  float max = fmaxf(a.max, b.max);
  if (max == -INFINITY) return {max, 0};
  return {max, a.sum * expf(a.max - max) + b.sum * expf(b.max - max)};
}

__device__ static soft soft_row(const float *row, int64_t vocab) {
  soft s = {-INFINITY, 0};
  for (int64_t i = (int64_t)threadIdx.x * ROW_WIDTH; i < vocab; i += ROW_TILE) {
    float v[ROW_WIDTH], max = s.max, sum = 0;
    read_logits(row, i, vocab, v);
#pragma unroll
    for (int j = 0; j < ROW_WIDTH; j++) max = fmaxf(max, v[j]);
    if (max == -INFINITY) continue;
#pragma unroll
    for (int j = 0; j < ROW_WIDTH; j++) sum += expf(v[j] - max);
    s = {max, s.sum * expf(s.max - max) + sum};
  }
  return s;
}

__device__ static soft soft_block(soft s, soft *room) {
  for (int step = 16; step; step >>= 1) {
    soft other = {__shfl_xor_sync(0xffffffffu, s.max, step), __shfl_xor_sync(0xffffffffu, s.sum, step)};
    s = soft_join(s, other);
  }
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = s;
  __syncthreads();
  s = room[threadIdx.x % 32]; /* ROW_THREADS / 32 of them */
  for (int step = 16; step; step >>= 1) {
    soft other = {__shfl_xor_sync(0xffffffffu, s.max, step), __shfl_xor_sync(0xffffffffu, s.sum, step)};
    s = soft_join(s, other);
  }
  return s;
}

template <typename T> __device__ static void write_grads(T *to, const float *v) {
#pragma unroll
  for (int j = 0; j < ROW_WIDTH; j += pu_pack<T>::n) {
    pu_pack<T> out;
#pragma unroll
    for (int i = 0; i < pu_pack<T>::n; i++) out.v[i] = from_f32<T>(v[j + i]);
    *(pu_pack<T> *)(to + j) = out;
  }
}

/* The row of gradients begins where that of the logits did: what a tile writes lies below the logits that all threads
 * have read by then. factor is scale / sum, or 0 where there is no target. */
template <typename T>
__device__ static void back_row(float *row, const loss_args &a, float max, float factor, int32_t target) {
  for (int64_t first = 0; first < a.vocab; first += ROW_TILE) {
    int64_t i = first + (int64_t)threadIdx.x * ROW_WIDTH;
    float v[ROW_WIDTH];
    if (factor != 0) read_logits(row, i, a.vocab, v);
    __syncthreads();
    if (i >= a.step) continue;
#pragma unroll
    for (int j = 0; j < ROW_WIDTH; j++)
      v[j] = factor != 0 ? factor * expf(v[j] - max) - (i + j == target ? a.scale : 0.0f) : 0.0f;
    write_grads((T *)row + i, v);
  }
}

template <typename T> __global__ void __launch_bounds__(ROW_THREADS) loss_kernel(const loss_args a) {
  __shared__ soft room[32];
  float *row = a.logits + (int64_t)blockIdx.x * a.step;
  int32_t target = a.targets[blockIdx.x];
  bool live = target >= 0 && target < a.vocab;
  soft s = {0, 1};
  float at_target = live ? row[target] : 0;
  if (live) s = soft_block(soft_row(row, a.vocab), room);
  if (threadIdx.x == 0) a.loss[blockIdx.x] = live ? logf(s.sum) + s.max - at_target : target < 0 ? 0.0f : NAN;
  if (a.back) back_row<T>(row, a, s.max, live ? a.scale / s.sum : 0.0f, target);
}

/* ---- chunks --------------------------------------------------------------------------------------------------------
 */

#define LOGITS_BYTES ((int64_t)3 << 29) /* of a chunk at most: the products want some thousand rows */

typedef struct loss_plan {
  int64_t step, rows; /* of logits from row to row; of a chunk */
  size_t bytes;
} loss_plan;

/* Chunks of about the same size, of whole tiles of the products. */
static loss_plan plan(int64_t n, int64_t vocab) {
  loss_plan p = {};
  p.step = ceil_div(vocab, 64) * 64;
  int64_t most = PU_MAX(LOGITS_BYTES / (p.step * 4) / 256 * 256, (int64_t)256);
  int64_t chunks = PU_MAX(ceil_div(n, most), (int64_t)1);
  p.rows = PU_MIN(n, ceil_div(ceil_div(n, chunks), 256) * 256);
  p.bytes = (size_t)(p.rows * p.step) * sizeof(float);
  return p;
}

size_t pu_cuda_loss_work_bytes(const pu_work_shape *s) {
  return plan(s->tokens, s->vocab).bytes;
}

typedef struct loss_chunk {
  const pu_linear_cross_entropy_args *a;
  float *logits;
  int64_t step, first, rows;
} loss_chunk;

static void *row_of(const pu_tensor *t, int64_t row) {
  return (char *)t->data + (size_t)(row * t->stride[0]) * pu_dtype_size(t->dtype);
}

static pu_err chunk_logits(pu_cuda *d, const loss_chunk *c, pu_error *e) {
  const pu_tensor *x = c->a->x, *w = c->a->w;
  pu_cuda_product p = {};
  p.a = row_of(x, c->first), p.a_step = x->stride[0];
  p.b = w->data, p.b_step = w->stride[0];
  p.y = c->logits, p.y_step = c->step, p.y_type = PU_F32;
  p.rows = c->rows, p.cols = w->shape[0], p.inner = w->shape[1];
  p.type = w->dtype;
  p.steady = !c->a->dx;
  return pu_cuda_multiply(d, &p, e);
}

static pu_err chunk_losses(pu_cuda *d, const loss_chunk *c, pu_error *e) {
  loss_args l = {c->logits, c->step, c->a->w->shape[0]};
  l.targets = (const int32_t *)c->a->targets->data + c->first;
  l.loss = (float *)c->a->loss->data + c->first;
  l.scale = c->a->grad_scale, l.back = c->a->dx != NULL;
  if (c->a->x->dtype == PU_F32)
    loss_kernel<float><<<(unsigned)c->rows, ROW_THREADS, 0, d->stream>>>(l);
  else
    loss_kernel<bf16><<<(unsigned)c->rows, ROW_THREADS, 0, d->stream>>>(l);
  return pu_cuda_launched("the loss", e);
}

static pu_err chunk_back(pu_cuda *d, const loss_chunk *c, pu_error *e) {
  const pu_linear_cross_entropy_args *a = c->a;
  pu_tensor *w = a->w;
  pu_cuda_product p = {};
  p.a = c->logits,
  p.a_step = c->step * (w->dtype == PU_F32 ? 1 : 2); /* a row of gradients starts where its logits did */
  p.b = w->data, p.b_step = w->stride[0], p.b_turned = true, p.type = w->dtype;
  p.y = row_of(a->dx, c->first), p.y_step = a->dx->stride[0], p.y_type = a->dx->dtype;
  p.rows = c->rows, p.cols = w->shape[1], p.inner = w->shape[0];
  PU_TRY(pu_cuda_multiply(d, &p, e));
  if (!w->grad) return PU_OK;
  p.a_turned = true;
  p.b = row_of(a->x, c->first), p.b_step = a->x->stride[0];
  p.y = w->grad->data, p.y_step = w->grad->stride[0], p.y_type = w->grad->dtype;
  p.rows = w->shape[0], p.cols = w->shape[1], p.inner = c->rows;
  p.beta = pu_grad_beta(w);
  return pu_cuda_multiply(d, &p, e);
}

static pu_err cross_entropy(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_cross_entropy_args *a = (const pu_linear_cross_entropy_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  int64_t n = a->x->shape[0];
  loss_plan p = plan(n, a->w->shape[0]);
  loss_chunk c = {a, NULL, p.step};
  void *work;
  if (a->w->layout != PU_LAYOUT_PLAIN)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: cross entropy: a weight in a layout that this device does not read");
  if (n == 0) return PU_OK;
  PU_TRY(pu_cuda_work(d, p.bytes, &work, e));
  c.logits = (float *)work;
  for (; c.first < n; c.first += p.rows) {
    c.rows = PU_MIN(p.rows, n - c.first);
    PU_TRY(chunk_logits(d, &c, e));
    PU_TRY(chunk_losses(d, &c, e));
    if (a->dx) PU_TRY(chunk_back(d, &c, e));
  }
  return PU_OK;
}

/* ---- backward: dx is there already ---------------------------------------------------------------------------------
 */

template <typename T>
__global__ void add_kernel(T *to, int64_t to_step, const T *from, int64_t from_step, int64_t cols, int64_t count) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  T *at = to + i / cols * to_step + i % cols;
  *at = from_f32<T>(to_f32(*at) + to_f32(from[i / cols * from_step + i % cols]));
}

static pu_err cross_entropy_back(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_cross_entropy_args *a = (const pu_linear_cross_entropy_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  pu_tensor *to = a->x->grad;
  if (!to->data) to->data = a->dx->data; /* nobody else wrote it: dx is it */
  float beta = pu_grad_beta(a->x);
  if (to->data == a->dx->data) return PU_OK;
  if (beta == 0) return be->copy(be, to->data, a->dx->data, pu_tensor_bytes(a->dx), e);
  int64_t cols = to->shape[1], count = to->shape[0] * cols;
  unsigned blocks = (unsigned)ceil_div(count, 256);
  if (count && to->dtype == PU_F32)
    add_kernel<<<blocks, 256, 0, d->stream>>>((float *)to->data, to->stride[0], (const float *)a->dx->data,
                                              a->dx->stride[0], cols, count);
  else if (count)
    add_kernel<<<blocks, 256, 0, d->stream>>>((bf16 *)to->data, to->stride[0], (const bf16 *)a->dx->data,
                                              a->dx->stride[0], cols, count);
  return pu_cuda_launched("adding a gradient", e);
}

void pu_cuda_use_loss(pu_cuda *d) {
  d->base.forward[PU_OP_linear_cross_entropy] = cross_entropy;
  d->base.backward[PU_OP_linear_cross_entropy] = cross_entropy_back;
}
