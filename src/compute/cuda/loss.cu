/* linear_cross_entropy: chunks of rows, so that the logits of a whole batch never exist. In a chunk: logits = x w^T in
 * f32; each row becomes its own gradient in place, in the compute type; then dx = dlogits w and dw += dlogits^T x.
 *
 * A row without a target is computed like the others, with a gradient of zero: how many there are is known to the
 * device only, and nothing waits for it. A target outside the vocabulary is reported (pu_cuda_report), and the next
 * wait for the device tells it. */
#include "src/compute/cuda/loss.h"
#include "src/compute/cuda/use.h"

/* ---- chunks ---- */

/* Of a chunk at most: the products want some thousand rows; and it should be no more than what a step's backward needs
 * at its beginning, whose memory it is. */
#define LOGITS_BYTES ((int64_t)1 << 30)

/* Plain rows of a weight in few bits are made so many bytes at a time: sixteen rows at least. */
enum { PLAIN_BYTES = 64 << 20 };

static int64_t plain_rows(const pu_tensor *w) {
  return PU_MAX(PLAIN_BYTES / (w->shape[1] * (int64_t)pu_dtype_size(w->dtype)) / 16 * 16, (int64_t)16);
}

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

static size_t loss_bytes(int64_t tokens, int64_t vocab) {
  return plan(tokens, vocab).bytes;
}

typedef struct loss_chunk {
  const pu_linear_cross_entropy_args *a;
  float *logits;
  void *plain; /* PLAIN_BYTES, where w is PACKED */
  int64_t step, first, rows;
} loss_chunk;

static void *row_of(const pu_tensor *t, int64_t row) {
  return (char *)t->data + (size_t)(row * t->stride[0]) * pu_dtype_size(t->dtype);
}

static pu_err chunk_logits(pu_cuda *d, const loss_chunk *c, pu_error *e) {
  const pu_tensor *x = c->a->x, *w = c->a->w;
  int64_t vocab = w->shape[0], width = w->shape[1];
  pu_cuda_product p = {};
  p.a = row_of(x, c->first), p.a_step = x->stride[0];
  p.b = w->data, p.b_step = w->stride[0];
  p.y = c->logits, p.y_step = c->step, p.y_type = PU_F32;
  p.rows = c->rows, p.cols = vocab, p.inner = width;
  p.type = w->dtype;
  p.steady = !c->a->dx, p.b_rests = true;
  if (w->layout != PU_LAYOUT_PACKED) return pu_cuda_multiply(d, &p, e);
  int64_t most = plain_rows(w);
  p.b = c->plain, p.b_step = width, p.b_rests = false;
  for (int64_t at = 0; at < vocab; at += most) {
    p.cols = PU_MIN(most, vocab - at);
    p.y = c->logits + at;
    PU_TRY(pu_cuda_packed_plain(d, w, 0, at, p.cols, c->plain, e));
    PU_TRY(pu_cuda_multiply(d, &p, e));
  }
  return PU_OK;
}

static pu_err chunk_losses(pu_cuda *d, const loss_chunk *c, pu_error *e) {
  const pu_linear_cross_entropy_args *a = c->a;
  pu_loss_rows l = {c->logits, c->step, a->w->shape[0], c->rows, c->first};
  l.targets = (const int32_t *)a->targets->data + c->first;
  l.loss = (float *)a->loss->data + c->first;
  l.scale = a->grad_scale, l.back = a->dx != NULL, l.type = a->x->dtype, l.faults = d->faults;
  return pu_cuda_loss_rows(d, &l, e);
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
  loss_chunk c = {a, NULL, NULL, p.step};
  void *work;
  size_t plain =
      a->w->layout == PU_LAYOUT_PACKED ? (size_t)(plain_rows(a->w) * a->w->shape[1]) * pu_dtype_size(a->w->dtype) : 0;
  if (n == 0) return PU_OK;
  PU_TRY(pu_cuda_work(d, (a->room ? 0 : p.bytes) + plain, &work, e));
  c.logits = (float *)(a->room ? a->room : work);
  c.plain = (char *)work + (a->room ? 0 : p.bytes);
  for (; c.first < n; c.first += p.rows) {
    c.rows = PU_MIN(p.rows, n - c.first);
    PU_TRY(chunk_logits(d, &c, e));
    PU_TRY(chunk_losses(d, &c, e));
    if (a->dx) PU_TRY(chunk_back(d, &c, e));
  }
  return PU_OK;
}

/* ---- backward: dx is there already ---- */

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
  d->base.loss_bytes = loss_bytes;
}
