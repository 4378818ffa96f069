/* linear: y = x w^T + b. dx = dy w; dw = dy^T x; db = column sums of dy. linear_swiglu: one kernel where rows are few,
 * else linear and swiglu. */
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/use.h"
#include "src/compute/cuda/w8a8.h"

static bool learns(const pu_linear_args *a) {
  return a->y->grad != NULL;
}

/* What the plain values of a weight in NF4 take of work memory; others are read where they lie. */
static size_t plain_bytes(const pu_tensor *w) {
  return w->layout == PU_LAYOUT_NF4 ? (size_t)ceil_div((int64_t)pu_tensor_bytes(w), 256) * 256 : 0;
}

/* The weight's values: its own, or those in room. */
static pu_err plain_of(pu_cuda *d, const pu_tensor *w, void *room, const void **out, pu_error *e) {
  *out = w->layout == PU_LAYOUT_NF4 ? room : w->data;
  return w->layout == PU_LAYOUT_NF4 ? pu_cuda_nf4_plain(d, w, room, e) : PU_OK;
}

static pu_cuda_product product_of(const pu_linear_args *a) {
  pu_cuda_product p = {};
  p.a = a->x->data, p.b = a->w->data, p.y = a->y->data;
  p.rows = a->x->shape[0], p.cols = a->w->shape[0], p.inner = a->x->shape[1];
  p.a_step = a->x->stride[0], p.b_step = a->w->stride[0], p.y_step = a->y->stride[0];
  p.type = a->x->dtype, p.y_type = a->y->dtype;
  if (a->b) p.bias = a->b->data, p.bias_type = a->b->dtype;
  p.steady = !learns(a), p.b_rests = true;
  return p;
}

static pu_err linear(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_args *a = (const pu_linear_args *)args;
  ((pu_cuda *)be)->waited_for = NULL;
  if (pu_cuda_is_w8a8(a->w)) return pu_cuda_w8a8_linear((pu_cuda *)be, a, e);
  if (a->w->layout == PU_LAYOUT_PACKED) return pu_cuda_packed_linear((pu_cuda *)be, a, e);
  pu_cuda_product p = product_of(a);
  void *room = NULL;
  if (plain_bytes(a->w)) PU_TRY(pu_cuda_work((pu_cuda *)be, plain_bytes(a->w), &room, e));
  PU_TRY(plain_of((pu_cuda *)be, a->w, room, &p.b, e));
  p.b_rests = !room;
  return pu_cuda_multiply((pu_cuda *)be, &p, e);
}

/* ---- with swiglu ---- */

/* Few rows in one kernel: what it makes is what the two would. */
static bool gates_inside(const pu_cuda *d, const pu_linear_args *up) {
  const pu_cuda_product p = product_of(up);
  if (pu_cuda_is_w8a8(up->w)) return pu_cuda_w8a8_has_gated(d, up);
  if (up->w->layout == PU_LAYOUT_PACKED) return pu_cuda_packed_has_gated(up);
  return up->w->layout == PU_LAYOUT_PLAIN && p.rows > 0 && p.cols > 0 && pu_cuda_few_rows(d, &p);
}

static pu_err linear_swiglu(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_swiglu_args *a = (const pu_linear_swiglu_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  pu_linear_args up = {};
  pu_swiglu_args gates = {a->gu, a->y, false};
  up.x = a->x, up.w = a->w, up.y = a->gu;
  d->waited_for = NULL;
  if (!gates_inside(d, &up)) {
    PU_TRY(linear(be, &up, e));
    return be->forward[PU_OP_swiglu](be, &gates, e);
  }
  if (pu_cuda_is_w8a8(a->w)) return pu_cuda_w8a8_gated(d, &up, a->y, e);
  if (a->w->layout == PU_LAYOUT_PACKED) return pu_cuda_packed_gated(d, &up, a->y, e);
  pu_cuda_product p = product_of(&up);
  p.y = a->y->data, p.y_step = a->y->stride[0], p.cols = a->y->shape[1];
  return pu_cuda_skinny_gated(d, &p, e);
}

/* ---- backward ---- */

/* db in two steps, so that it is summed in one order: each block sums SUM_ROWS rows of SUM_COLS columns, 8 rows at a
 * time; then the blocks' sums are added. */
enum { SUM_ROWS = 512, SUM_COLS = 32, SUM_LINES = 8 };

template <typename T>
__global__ void sum_rows_kernel(const T *dy, int64_t step, int64_t rows, int64_t cols, float *parts) {
  __shared__ float room[SUM_LINES][SUM_COLS];
  int64_t col = (int64_t)blockIdx.x * SUM_COLS + threadIdx.x, first = (int64_t)blockIdx.y * SUM_ROWS;
  int64_t end = PU_MIN(first + SUM_ROWS, rows);
  float sum = 0;
  if (col < cols)
    for (int64_t n = first + threadIdx.y; n < end; n += SUM_LINES) sum += to_f32(dy[n * step + col]);
  room[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || col >= cols) return;
  for (int i = 1; i < SUM_LINES; i++) sum += room[i][threadIdx.x];
  parts[(int64_t)blockIdx.y * cols + col] = sum;
}

template <typename G> __global__ void sum_parts_kernel(const float *parts, int64_t n, int64_t cols, G *db, float beta) {
  int64_t col = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (col >= cols) return;
  float sum = 0;
  for (int64_t i = 0; i < n; i++) sum += parts[i * cols + col];
  db[col] = from_f32<G>(beta != 0 ? to_f32(db[col]) + sum : sum);
}

size_t pu_cuda_bias_back_bytes(const pu_tensor *dy) {
  return (size_t)ceil_div(ceil_div(dy->shape[0], SUM_ROWS) * dy->shape[1], 64) * 64 * sizeof(float);
}

pu_err pu_cuda_bias_back(pu_cuda *d, const pu_tensor *dy, pu_tensor *b, float *parts, pu_error *e) {
  int64_t rows = dy->shape[0], cols = dy->shape[1], n = ceil_div(rows, SUM_ROWS);
  float beta = pu_grad_beta(b);
  dim3 grid((unsigned)ceil_div(cols, SUM_COLS), (unsigned)n), block(SUM_COLS, SUM_LINES);
  if (n && dy->dtype == PU_F32)
    sum_rows_kernel<<<grid, block, 0, d->stream>>>((const float *)dy->data, dy->stride[0], rows, cols, parts);
  else if (n)
    sum_rows_kernel<<<grid, block, 0, d->stream>>>((const bf16 *)dy->data, dy->stride[0], rows, cols, parts);
  unsigned blocks = (unsigned)ceil_div(cols, 256);
  if (b->grad->dtype == PU_F32)
    sum_parts_kernel<<<blocks, 256, 0, d->stream>>>(parts, n, cols, (float *)b->grad->data, beta);
  else
    sum_parts_kernel<<<blocks, 256, 0, d->stream>>>(parts, n, cols, (bf16 *)b->grad->data, beta);
  return pu_cuda_launched("a bias's gradient", e);
}

__global__ void narrow_kernel(const float *from, int64_t step, int64_t cols, int64_t count, bf16 *to) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) to[i] = __float2bfloat16_rn(from[i / cols * step + i % cols]);
}

/* dy in the type of the weights, as the products want it (it differs where y was asked for in f32: a router's logits).
 */
static pu_err like_weights(pu_cuda *d, const pu_tensor *dy, void *room, pu_tensor *out, pu_error *e) {
  int64_t count = dy->shape[0] * dy->shape[1];
  out->dtype = PU_BF16;
  out->stride[0] = dy->shape[1];
  out->data = room;
  if (count)
    narrow_kernel<<<(unsigned)ceil_div(count, 256), 256, 0, d->stream>>>((const float *)dy->data, dy->stride[0],
                                                                         dy->shape[1], count, (bf16 *)room);
  return pu_cuda_launched("rounding a gradient", e);
}

static pu_err weight_back(pu_cuda *d, const pu_linear_args *a, const pu_tensor *dy, pu_error *e) {
  pu_cuda_product p = {};
  pu_tensor *dw = a->w->grad;
  p.a = dy->data, p.a_step = dy->stride[0], p.type = dy->dtype;
  p.a_turned = p.b_turned = true;
  p.b = a->x->data, p.b_step = a->x->stride[0];
  p.y = dw->data, p.y_step = dw->stride[0], p.y_type = dw->dtype;
  p.rows = a->w->shape[0], p.cols = a->x->shape[1], p.inner = a->x->shape[0];
  p.beta = pu_grad_beta(a->w);
  return pu_cuda_multiply(d, &p, e);
}

/* room: for w's plain values. */
static pu_err input_back(pu_cuda *d, const pu_linear_args *a, const pu_tensor *dy, void *room, pu_error *e) {
  pu_cuda_product p = {};
  pu_tensor *dx = a->x->grad;
  p.a = dy->data, p.a_step = dy->stride[0], p.type = dy->dtype;
  p.b_turned = true;
  PU_TRY(plain_of(d, a->w, room, &p.b, e));
  p.b_step = a->w->stride[0];
  p.y = dx->data, p.y_step = dx->stride[0], p.y_type = dx->dtype;
  p.rows = a->x->shape[0], p.cols = a->x->shape[1], p.inner = a->w->shape[0];
  p.beta = pu_grad_beta(a->x);
  return pu_cuda_multiply(d, &p, e);
}

static pu_err linear_back(pu_backend *be, void *args, pu_error *e) {
  const pu_linear_args *a = (const pu_linear_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  pu_tensor dy = *a->y->grad;
  bool narrow = dy.dtype != a->w->dtype, bias = a->b && a->b->grad && !a->no_dw;
  size_t narrowed = narrow ? (size_t)ceil_div(dy.shape[0] * dy.shape[1], 128) * 256 : 0;
  size_t parts = bias ? pu_cuda_bias_back_bytes(&dy) : 0;
  size_t plain = plain_bytes(a->w), bytes = plain + narrowed + parts;
  void *work = NULL;
  if (bytes) PU_TRY(pu_cuda_work(d, bytes, &work, e));
  if (bias) PU_TRY(pu_cuda_bias_back(d, &dy, a->b, (float *)((char *)work + plain + narrowed), e));
  if (narrow) PU_TRY(like_weights(d, a->y->grad, (char *)work + plain, &dy, e));
  if (a->w->grad && !a->no_dw) PU_TRY(weight_back(d, a, &dy, e));
  return a->x->grad && !a->no_dx ? input_back(d, a, &dy, work, e) : PU_OK;
}

void pu_cuda_use_linear(pu_cuda *d) {
  d->base.forward[PU_OP_linear] = linear;
  d->base.forward[PU_OP_linear_swiglu] = linear_swiglu;
  d->base.backward[PU_OP_linear] = linear_back;
}
