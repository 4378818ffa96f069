/* Mixture of experts: routing, and the experts' MLPs over rows gathered by expert.
 *
 * A slot is one (row, choice): n * k + j. `order` lists the slots by expert, `place` is its inverse: the row of gu, act
 * and out in which a slot lies. How many rows an expert has is known to the device only: the grouped products read it
 * there. */
#include "src/compute/cuda/grouped.h"
#include "src/compute/cuda/use.h"

/* ---- routing: the k largest logits, softmax over those: a warp for each row ---- */

enum { ROUTE_WARPS = 4 };

typedef struct route_args {
  const float *logits;
  int64_t step, rows;
  int32_t *idx;
  float *weight;
  int64_t weight_step;
  int experts, k;
} route_args;

__device__ static bool taken(const int32_t *idx, int j, int expert) {
  for (int i = 0; i < j; i++)
    if (idx[i] == expert) return true;
  return false;
}

/* The larger logit wins, of equals the lower index; NaN counts as the least. */
__device__ static int best_of(const float *logits, const int32_t *idx, int j, int experts) {
  float best = -INFINITY;
  int at = INT32_MAX;
  for (int x = (int)threadIdx.x; x < experts; x += 32) {
    float v = isnan(logits[x]) ? -INFINITY : logits[x];
    if ((v > best || at == INT32_MAX) && !taken(idx, j, x)) best = v, at = x;
  }
  for (int step = 16; step; step >>= 1) {
    float other = __shfl_xor_sync(0xffffffffu, best, step);
    int other_at = __shfl_xor_sync(0xffffffffu, at, step);
    if (other > best || (other == best && other_at < at)) best = other, at = other_at;
  }
  return at;
}

__global__ void route_kernel(const route_args a) {
  int64_t n = (int64_t)blockIdx.x * ROUTE_WARPS + threadIdx.y;
  if (n >= a.rows) return;
  const float *logits = a.logits + n * a.step;
  int32_t *idx = a.idx + n * a.k;
  float *weight = a.weight + n * a.weight_step, sum = 0, most = 0;
  for (int j = 0; j < a.k; j++) {
    int x = best_of(logits, idx, j, a.experts);
    if (j == 0) most = logits[x];
    sum += expf(logits[x] - most);
    if (threadIdx.x == 0) idx[j] = x;
    __syncwarp();
  }
  for (int j = (int)threadIdx.x; j < a.k; j += 32) weight[j] = expf(logits[idx[j]] - most) / sum;
}

static route_args route_of(const pu_moe_route_args *a) {
  route_args r = {(const float *)a->logits->data, a->logits->stride[0], a->logits->shape[0]};
  r.idx = (int32_t *)a->idx->data;
  r.weight = (float *)a->weight->data, r.weight_step = a->weight->stride[0];
  r.experts = (int)a->logits->shape[1], r.k = a->k;
  return r;
}

static pu_err moe_route(pu_backend *be, void *args, pu_error *e) {
  route_args r = route_of((const pu_moe_route_args *)args);
  if (r.rows == 0) return PU_OK;
  route_kernel<<<(unsigned)ceil_div(r.rows, ROUTE_WARPS), dim3(32, ROUTE_WARPS), 0, ((pu_cuda *)be)->stream>>>(r);
  return pu_cuda_launched("routing", e);
}

__global__ void route_back_kernel(const route_args a, const float *dw, int64_t dw_step, float *dl, int64_t dl_step,
                                  float beta) {
  int64_t n = (int64_t)blockIdx.x * ROUTE_WARPS + threadIdx.y;
  if (n >= a.rows) return;
  const int32_t *idx = a.idx + n * a.k;
  const float *weight = a.weight + n * a.weight_step;
  float mean = 0;
  for (int j = 0; j < a.k; j++) mean += weight[j] * dw[n * dw_step + j];
  for (int x = (int)threadIdx.x; x < a.experts; x += 32) {
    float d = beta != 0 ? dl[n * dl_step + x] : 0.0f;
    for (int j = 0; j < a.k; j++)
      if (idx[j] == x) d += weight[j] * (dw[n * dw_step + j] - mean);
    dl[n * dl_step + x] = d;
  }
}

static pu_err moe_route_back(pu_backend *be, void *args, pu_error *e) {
  const pu_moe_route_args *a = (const pu_moe_route_args *)args;
  route_args r = route_of(a);
  const pu_tensor *dw = a->weight->grad, *dl = a->logits->grad;
  float beta = pu_grad_beta(a->logits);
  if (r.rows == 0) return PU_OK;
  route_back_kernel<<<(unsigned)ceil_div(r.rows, ROUTE_WARPS), dim3(32, ROUTE_WARPS), 0, ((pu_cuda *)be)->stream>>>(
      r, (const float *)dw->data, dw->stride[0], (float *)dl->data, dl->stride[0], beta);
  return pu_cuda_launched("routing's gradient", e);
}

/* ---- work memory
 * ------------------------------------------------------------------------------------------------------ */

/* Matrices of one row a slot, in the order of the experts. */
typedef struct moe_work {
  int32_t *place;
  pu_cuda_group *groups; /* [E] */
  pu_tensor x;           /* [S, C] the rows of x */
  pu_tensor dout;        /* [S, C] gradient of out; later, that of x's rows */
  pu_tensor dact;        /* [S, F] */
  pu_tensor dgu;         /* [S, 2F] */
  void *packed;          /* what products with packed weights take */
} moe_work;

typedef struct moe_job {
  const pu_moe_mlp_args *a;
  moe_work w;
  int64_t slots, experts, k, width, inner;
} moe_job;

enum { PART = 256 }; /* bytes that each part of the work memory is rounded up to */

static size_t rounded(size_t bytes) {
  return (bytes + PART - 1) / PART * PART;
}

static void *take(char **memory, size_t bytes) {
  void *here = *memory;
  *memory += rounded(bytes);
  return here;
}

static pu_tensor matrix(pu_dtype type, int64_t rows, int64_t cols, char **memory) {
  pu_tensor t = {};
  t.dtype = type, t.ndim = 2;
  t.shape[0] = rows, t.shape[1] = cols;
  t.stride[0] = cols, t.stride[1] = 1;
  t.data = take(memory, pu_tensor_bytes(&t));
  return t;
}

enum { MOST_EXPERTS = 1024 };

static size_t work_bytes(int64_t slots, int64_t experts, int64_t width, int64_t inner, pu_dtype type, bool backward) {
  size_t size = pu_dtype_size(type), s = (size_t)slots;
  size_t bytes = rounded(s * sizeof(int32_t)) + rounded((size_t)experts * sizeof(pu_cuda_group));
  bytes += rounded(s * (size_t)width * size);
  if (!backward) return bytes;
  return bytes + rounded(s * (size_t)width * size) + rounded(s * (size_t)inner * size) +
         rounded(2 * s * (size_t)inner * size);
}

size_t pu_cuda_moe_work_bytes(const pu_work_shape *s) {
  if (!s->experts_used) return 0;
  return work_bytes(s->tokens * s->experts_used, MOST_EXPERTS, s->hidden, s->ffn, s->dtype, true);
}

static size_t packed_bytes(const pu_moe_mlp_args *a, const pu_tensor *x) {
  size_t up = a->gate_up->layout == PU_LAYOUT_PACKED ? pu_cuda_packed_experts_bytes(x, a->gate_up) : 0;
  return PU_MAX(up, a->down->layout == PU_LAYOUT_PACKED ? pu_cuda_packed_experts_bytes(a->act, a->down) : 0);
}

static pu_err begin(pu_cuda *d, const pu_moe_mlp_args *a, bool backward, moe_job *job, pu_error *e) {
  void *work;
  *job = {};
  job->a = a;
  job->slots = a->order->shape[0], job->experts = a->gate_up->shape[0], job->k = a->idx->shape[1];
  job->width = a->x->shape[1], job->inner = a->down->shape[2];
  if (job->experts > MOST_EXPERTS)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: moe_mlp: %lld experts, %d at most", (long long)job->experts,
                   MOST_EXPERTS);
  size_t bytes = work_bytes(job->slots, job->experts, job->width, job->inner, a->x->dtype, backward);
  pu_tensor rows = *a->x; /* as they will be gathered */
  rows.shape[0] = job->slots, rows.stride[0] = job->width;
  PU_TRY(pu_cuda_work(d, bytes + packed_bytes(a, &rows), &work, e));
  char *at = (char *)work;
  job->w.place = (int32_t *)take(&at, (size_t)job->slots * sizeof(int32_t));
  job->w.groups = (pu_cuda_group *)take(&at, (size_t)job->experts * sizeof(pu_cuda_group));
  job->w.x = matrix(a->x->dtype, job->slots, job->width, &at);
  job->w.packed = at;
  if (!backward) return PU_OK;
  job->w.dout = matrix(a->x->dtype, job->slots, job->width, &at);
  job->w.dact = matrix(a->x->dtype, job->slots, job->inner, &at);
  job->w.dgu = matrix(a->x->dtype, job->slots, 2 * job->inner, &at);
  return PU_OK;
}

/* ---- slots by expert
 * ---------------------------------------------------------------------------------------------------- */

enum { SORT_THREADS = 1024 };

__device__ static int block_count(int v, int *room) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  v = __reduce_add_sync(0xffffffffu, v);
  __syncthreads(); /* room may still be read from before */
  if (lane == 0) room[warp] = v;
  __syncthreads();
  return __reduce_add_sync(0xffffffffu, room[lane]);
}

/* The router gives nothing outside the experts; a slot that says otherwise must not lead outside memory. */
__device__ static int expert_at(const int32_t *idx, int64_t slot, int experts) {
  int x = idx[slot];
  return x < 0 ? 0 : x >= experts ? experts - 1 : x;
}

/* One block an expert: counts the slots of the experts before it, then lists its own in their order. */
__global__ void __launch_bounds__(SORT_THREADS)
    sort_kernel(const int32_t *idx, int64_t slots, int experts, int32_t *order, int32_t *offsets) {
  __shared__ int room[32];
  int expert = (int)blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, before = 0;
  for (int64_t s = threadIdx.x; s < slots; s += SORT_THREADS) before += expert_at(idx, s, experts) < expert;
  int start = block_count(before, room);
  if (threadIdx.x == 0) offsets[expert] = start;
  for (int64_t first = 0; first < slots; first += SORT_THREADS) {
    int64_t s = first + threadIdx.x;
    bool mine = s < slots && expert_at(idx, s, experts) == expert;
    unsigned warp_mine = __ballot_sync(0xffffffffu, mine);
    __syncthreads();
    if (lane == 0) room[warp] = __popc(warp_mine);
    __syncthreads();
    int count = room[lane];
    int below = __reduce_add_sync(0xffffffffu, lane < warp ? count : 0);
    if (mine) order[start + below + __popc(warp_mine & ((1u << lane) - 1))] = (int32_t)s;
    start += __reduce_add_sync(0xffffffffu, count);
  }
  if (threadIdx.x == 0 && expert == experts - 1) offsets[experts] = start;
}

static pu_err sort_slots(pu_cuda *d, const moe_job *job, pu_error *e) {
  sort_kernel<<<(unsigned)job->experts, SORT_THREADS, 0, d->stream>>>((const int32_t *)job->a->idx->data, job->slots,
                                                                      (int)job->experts, (int32_t *)job->a->order->data,
                                                                      (int32_t *)job->a->offsets->data);
  return pu_cuda_launched("sorting rows by expert", e);
}

/* ---- rows there and back
 * ------------------------------------------------------------------------------------------------ */

enum { ROW_THREADS = 256 };

template <typename T>
__global__ void gather_kernel(const T *x, int64_t x_step, const int32_t *order, int k, int64_t width, T *to,
                              int32_t *place) {
  int32_t slot = order[blockIdx.x];
  const T *from = x + slot / k * x_step;
  to += (int64_t)blockIdx.x * width;
  if (threadIdx.x == 0) place[slot] = (int32_t)blockIdx.x;
  if (((uintptr_t)from | (uintptr_t)to | (size_t)width * sizeof(T)) % 16 == 0) {
    for (int64_t c = threadIdx.x; c < width / pu_pack<T>::n; c += ROW_THREADS)
      ((pu_pack<T> *)to)[c] = ((const pu_pack<T> *)from)[c];
    return;
  }
  for (int64_t c = threadIdx.x; c < width; c += ROW_THREADS) to[c] = from[c];
}

/* y[n] (+)= sum over the row's slots of weight * rows[place]; weight NULL: 1. */
template <typename T>
__global__ void combine_kernel(const T *rows, int64_t width, const int32_t *place, int k, const float *weight,
                               int64_t weight_step, T *y, int64_t y_step, float beta) {
  int64_t n = blockIdx.x;
  for (int64_t c = threadIdx.x; c < width; c += ROW_THREADS) {
    float sum = beta != 0 ? to_f32(y[n * y_step + c]) : 0.0f;
    for (int j = 0; j < k; j++)
      sum += (weight ? weight[n * weight_step + j] : 1.0f) * to_f32(rows[place[n * k + j] * width + c]);
    y[n * y_step + c] = from_f32<T>(sum);
  }
}

/* Of one slot: dout = weight dy, dweight = out . dy. */
template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    combine_back_kernel(const T *dy, int64_t dy_step, const T *out, int64_t width, const int32_t *place, int k,
                        const float *weight, int64_t weight_step, T *dout, float *dweight, int64_t dweight_step,
                        float beta) {
  __shared__ float room[32];
  int64_t n = blockIdx.x / k, j = blockIdx.x % k, at = place[blockIdx.x];
  float w = weight[n * weight_step + j], dot = 0;
  for (int64_t c = threadIdx.x; c < width; c += ROW_THREADS) {
    float v = to_f32(dy[n * dy_step + c]);
    dot += v * to_f32(out[at * width + c]);
    dout[at * width + c] = from_f32<T>(w * v);
  }
  if (!dweight) return;
  dot = block_sum(dot, room);
  float *to = dweight + n * dweight_step + j;
  if (threadIdx.x == 0) *to = beta != 0 ? *to + dot : dot;
}

template <typename T> static pu_err gather(pu_cuda *d, const moe_job *job, pu_error *e) {
  const pu_tensor *x = job->a->x;
  gather_kernel<<<(unsigned)job->slots, ROW_THREADS, 0, d->stream>>>((const T *)x->data, x->stride[0],
                                                                     (const int32_t *)job->a->order->data, (int)job->k,
                                                                     job->width, (T *)job->w.x.data, job->w.place);
  return pu_cuda_launched("gathering rows by expert", e);
}

template <typename T>
static pu_err combine(pu_cuda *d, const moe_job *job, const pu_tensor *rows, const pu_tensor *weight,
                      const pu_tensor *y, float beta, pu_error *e) {
  combine_kernel<<<(unsigned)y->shape[0], ROW_THREADS, 0, d->stream>>>(
      (const T *)rows->data, job->width, job->w.place, (int)job->k, weight ? (const float *)weight->data : NULL,
      weight ? weight->stride[0] : 0, (T *)y->data, y->stride[0], beta);
  return pu_cuda_launched("adding experts' rows", e);
}

template <typename T> static pu_err combine_back(pu_cuda *d, const moe_job *job, pu_error *e) {
  const pu_moe_mlp_args *a = job->a;
  const pu_tensor *dy = a->y->grad, *dw = a->weight->grad;
  float beta = dw ? pu_grad_beta(a->weight) : 0;
  combine_back_kernel<<<(unsigned)job->slots, ROW_THREADS, 0, d->stream>>>(
      (const T *)dy->data, dy->stride[0], (const T *)a->out->data, job->width, job->w.place, (int)job->k,
      (const float *)a->weight->data, a->weight->stride[0], (T *)job->w.dout.data, dw ? (float *)dw->data : NULL,
      dw ? dw->stride[0] : 0, beta);
  return pu_cuda_launched("experts' rows' gradients", e);
}

/* ---- the experts' products
 * ---------------------------------------------------------------------------------------------- */

/* How the group of expert x is made: `one` is that of expert 0, if all rows were its own. */
typedef struct expert_rule {
  pu_cuda_group one;
  size_t a_row, y_row;       /* bytes from a slot's row to the next, of a and of y; y_row 0: y is a weight's gradient */
  size_t b_row;              /* of b, there */
  size_t b_expert, y_expert; /* bytes from an expert's matrix to the next */
} expert_rule;

/* Rows of an expert times its matrix; or, of a weight's gradient, the sum over its rows. One thread: experts are few.
 */
__global__ void groups_kernel(const expert_rule r, const int32_t *offsets, int experts, int strip,
                              pu_cuda_group *groups) {
  int first = 0;
  for (int x = 0; x < experts; x++) {
    pu_cuda_group g = r.one;
    int64_t start = offsets[x];
    int32_t count = offsets[x + 1] - offsets[x];
    g.a = (const char *)g.a + start * r.a_row;
    g.b = (const char *)g.b + start * r.b_row + x * r.b_expert;
    g.y = (char *)g.y + start * r.y_row + x * r.y_expert;
    if (r.y_row)
      g.rows = count;
    else
      g.inner = count;
    g.first = first;
    first += (g.rows + strip - 1) / strip;
    groups[x] = g;
  }
}

/* rows: of all groups together, at most. */
static pu_err run_rule(pu_cuda *d, const moe_job *job, const expert_rule *r, pu_cuda_groups common, int64_t rows,
                       pu_error *e) {
  common.cols = r->one.cols;
  common.a_turned = r->one.a_inner != 1, common.b_turned = r->one.b_inner != 1;
  common.strip = pu_cuda_strip(&common, &r->one, rows / job->experts);
  groups_kernel<<<1, 1, 0, d->stream>>>(*r, (const int32_t *)job->a->offsets->data, (int)job->experts, common.strip,
                                        job->w.groups);
  PU_TRY(pu_cuda_launched("experts' products", e));
  int64_t strips = ceil_div(rows, common.strip) + job->experts; /* each expert may have one that is not full */
  return pu_cuda_grouped_on_device(d, &common, job->w.groups, (int)job->experts, strips, e);
}

/* out = in W_x^T, or in W_x where the matrices lie turned: for the rows of each expert. */
static pu_err experts_product(pu_cuda *d, const moe_job *job, const pu_tensor *in, const pu_tensor *w, bool turned,
                              pu_tensor *out, pu_error *e) {
  if (w->layout == PU_LAYOUT_PACKED)
    return pu_cuda_packed_experts(d, in, w, (const int32_t *)job->a->offsets->data, out, job->w.packed, e);
  size_t size = pu_dtype_size(in->dtype);
  expert_rule r = {};
  r.one.a = in->data, r.one.b = w->data, r.one.y = out->data;
  r.one.a_row = in->stride[0], r.one.a_inner = 1;
  r.one.b_col = turned ? 1 : w->stride[1], r.one.b_inner = turned ? w->stride[1] : 1;
  r.one.y_step = out->stride[0];
  r.one.cols = (int32_t)out->shape[1], r.one.inner = (int32_t)in->shape[1];
  r.one.alpha = 1;
  r.a_row = (size_t)in->stride[0] * size, r.y_row = (size_t)out->stride[0] * size;
  r.b_expert = (size_t)w->stride[0] * size;
  return run_rule(d, job, &r, {in->dtype, out->dtype}, job->slots, e);
}

/* dW_x (+)= dy^T in over the rows of each expert. */
static pu_err experts_weights_back(pu_cuda *d, const moe_job *job, const pu_tensor *dy, const pu_tensor *in,
                                   pu_tensor *w, pu_error *e) {
  if (!w->grad) return PU_OK;
  size_t size = pu_dtype_size(in->dtype);
  expert_rule r = {};
  r.one.a = dy->data, r.one.b = in->data, r.one.y = w->grad->data;
  r.one.a_row = 1, r.one.a_inner = dy->stride[0];
  r.one.b_col = 1, r.one.b_inner = in->stride[0];
  r.one.y_step = w->grad->stride[1];
  r.one.rows = (int32_t)w->shape[1], r.one.cols = (int32_t)w->shape[2];
  r.one.alpha = 1, r.one.beta = pu_grad_beta(w);
  r.a_row = (size_t)dy->stride[0] * size, r.b_row = (size_t)in->stride[0] * size;
  r.y_expert = (size_t)w->grad->stride[0] * pu_dtype_size(w->grad->dtype);
  return run_rule(d, job, &r, {in->dtype, w->grad->dtype}, job->experts * w->shape[1], e);
}

/* ---- the operation
 * ------------------------------------------------------------------------------------------------------ */

static pu_err moe_mlp(pu_backend *be, void *args, pu_error *e) {
  const pu_moe_mlp_args *a = (const pu_moe_mlp_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  moe_job job;
  PU_TRY(begin(d, a, false, &job, e));
  PU_TRY(sort_slots(d, &job, e));
  if (job.slots == 0) return PU_OK;
  bool f32 = a->x->dtype == PU_F32;
  pu_swiglu_args middle = {a->gu, a->act, false};
  PU_TRY(f32 ? gather<float>(d, &job, e) : gather<bf16>(d, &job, e));
  PU_TRY(experts_product(d, &job, &job.w.x, a->gate_up, false, a->gu, e));
  PU_TRY(be->forward[PU_OP_swiglu](be, &middle, e));
  PU_TRY(experts_product(d, &job, a->act, a->down, false, a->out, e));
  return f32 ? combine<float>(d, &job, a->out, a->weight, a->y, 0, e)
             : combine<bf16>(d, &job, a->out, a->weight, a->y, 0, e);
}

static pu_err clear_grad(pu_cuda *d, pu_tensor *w, pu_error *e) {
  if (!w->grad || pu_grad_beta(w) != 0) return PU_OK;
  return d->base.clear(&d->base, w->grad->data, pu_tensor_bytes(w->grad), e);
}

static pu_err swiglu_back(pu_cuda *d, const moe_job *job, pu_error *e) {
  pu_tensor gu = *job->a->gu, act = *job->a->act, dgu = job->w.dgu, dact = job->w.dact;
  gu.grad = &dgu;
  act.grad = &dact;
  gu.grad_set = false;
  pu_swiglu_args middle = {&gu, &act, false};
  return d->base.backward[PU_OP_swiglu](&d->base, &middle, e);
}

static pu_err moe_mlp_back(pu_backend *be, void *args, pu_error *e) {
  const pu_moe_mlp_args *a = (const pu_moe_mlp_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  moe_job job;
  bool f32 = a->x->dtype == PU_F32;
  if (a->x->shape[0] == 0) {
    PU_TRY(clear_grad(d, a->gate_up, e));
    return clear_grad(d, a->down, e);
  }
  PU_TRY(begin(d, a, true, &job, e));
  PU_TRY(f32 ? gather<float>(d, &job, e) : gather<bf16>(d, &job, e));
  PU_TRY(f32 ? combine_back<float>(d, &job, e) : combine_back<bf16>(d, &job, e));
  PU_TRY(experts_product(d, &job, &job.w.dout, a->down, true, &job.w.dact, e));
  PU_TRY(experts_weights_back(d, &job, &job.w.dout, a->act, a->down, e));
  PU_TRY(swiglu_back(d, &job, e));
  PU_TRY(experts_weights_back(d, &job, &job.w.dgu, &job.w.x, a->gate_up, e));
  if (!a->x->grad) return PU_OK;
  float beta = pu_grad_beta(a->x);
  PU_TRY(experts_product(d, &job, &job.w.dgu, a->gate_up, true, &job.w.dout, e));
  return f32 ? combine<float>(d, &job, &job.w.dout, NULL, a->x->grad, beta, e)
             : combine<bf16>(d, &job, &job.w.dout, NULL, a->x->grad, beta, e);
}

void pu_cuda_use_moe(pu_cuda *d) {
  d->base.forward[PU_OP_moe_route] = moe_route;
  d->base.backward[PU_OP_moe_route] = moe_route_back;
  d->base.forward[PU_OP_moe_mlp] = moe_mlp;
  d->base.backward[PU_OP_moe_mlp] = moe_mlp_back;
}
