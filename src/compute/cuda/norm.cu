/* rmsnorm_add and qk_norm. With r = 1 / sqrt(mean(h^2) + eps) and y = h r w:
 *   dh = r (dy w - h r^2 mean(dy w h)),   dw = sum over rows of dy h r.
 *
 * A block has a row of rmsnorm_add, whose values its threads keep in registers between the sum and what needs it, so
 * that memory is passed over once; KEEP says that eight values a thread are enough, else the second pass reads again.
 * Backward, a block has every so many-th row and sums its share of dw on the way; the shares are added in the end, in
 * the order of the blocks. A head of qk_norm belongs to a power of two of lanes of a warp. */
#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/use.h"

enum { MOST_THREADS = 1024, HEAD_THREADS = 256, MOST_ROWS = 65535, BLOCKS_OF_SM = 8, SUM_ROWS = 32 };

/* ---- sums over blocks ---- */

__global__ void __launch_bounds__(32 * SUM_ROWS)
    add_partials(const float *partial, int64_t rows, int64_t step, int64_t cols, float *sums, bool add) {
  __shared__ float room[SUM_ROWS][32];
  int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x;
  float sum = 0;
  if (c < cols) {
#pragma unroll 8
    for (int64_t r = threadIdx.y; r < rows; r += SUM_ROWS) sum += partial[r * step + c];
  }
  room[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y || c >= cols) return;
  for (int i = 1; i < SUM_ROWS; i++) sum += room[i][threadIdx.x];
  sums[c] = add ? sums[c] + sum : sum;
}

void pu_cuda_add_partials(pu_cuda *d, const float *partial, int64_t rows, int64_t step, pu_tensor *w) {
  int64_t cols = w->shape[0];
  bool add = pu_grad_beta(w) != 0;
  add_partials<<<(unsigned)ceil_div(cols, 32), dim3(32, SUM_ROWS), 0, d->stream>>>(partial, rows, step, cols,
                                                                                   (float *)w->grad->data, add);
}

/* ---- rmsnorm_add ---- */

template <typename X, typename Y> struct row_norm {
  const float *res;
  const X *x;
  float *h, *rstd;
  Y *y;
  pu_vector w;
  int64_t res_step, x_step, h_step, y_step;
  int width;
  float eps;
};

/* h of one place, and the sum of its squares. */
template <bool FAST, typename X, typename Y>
__device__ static inline float read_sum(const row_norm<X, Y> &g, int64_t n, int at, float h[PU_LANE]) {
  float squares = 0;
  read8<FAST>(g.res + n * g.res_step, at, g.width, h);
  if (g.x) {
    float x[PU_LANE];
    read8<FAST>(g.x + n * g.x_step, at, g.width, x);
#pragma unroll
    for (int i = 0; i < PU_LANE; i++) h[i] += x[i];
    write8<FAST>(g.h + n * g.h_step, at, g.width, h);
  }
#pragma unroll
  for (int i = 0; i < PU_LANE; i++) squares += h[i] * h[i];
  return squares;
}

template <bool FAST, bool KEEP, typename X, typename Y>
__global__ void __launch_bounds__(MOST_THREADS) norm_rows(row_norm<X, Y> g) {
  __shared__ float room[32];
  int64_t n = blockIdx.x;
  int first = (int)threadIdx.x * PU_LANE, stride = (int)blockDim.x * PU_LANE;
  float h[PU_LANE], w[PU_LANE], squares = 0;
  if (KEEP) {
    if (first < g.width) {
      squares = read_sum<FAST>(g, n, first, h);
      read_vector8<FAST>(g.w, first, g.width, w);
    }
  } else {
    for (int at = first; at < g.width; at += stride) squares += read_sum<FAST>(g, n, at, h);
  }
  float r = 1.0f / sqrtf(block_sum(squares, room) / (float)g.width + g.eps);
  if (threadIdx.x == 0) g.rstd[n] = r;
  for (int at = first; at < g.width; at += stride) {
    if (!KEEP) {
      read8<FAST>(g.h + n * g.h_step, at, g.width, h);
      read_vector8<FAST>(g.w, at, g.width, w);
    }
#pragma unroll
    for (int i = 0; i < PU_LANE; i++) h[i] *= r * w[i];
    write8<FAST>(g.y + n * g.y_step, at, g.width, h);
    if (KEEP) break;
  }
}

static unsigned threads_of(int64_t width) {
  return (unsigned)PU_MIN(ceil_div(ceil_div(width, PU_LANE), 32) * 32, (int64_t)MOST_THREADS);
}

static bool keeps(int64_t width) {
  return width <= MOST_THREADS * PU_LANE;
}

template <typename X, typename Y> static void norm_launch(pu_cuda *d, const pu_rmsnorm_add_args *a) {
  int64_t rows = a->res->shape[0], width = a->res->shape[1];
  row_norm<X, Y> g = {.res = (const float *)a->res->data,
                      .x = a->x ? (const X *)a->x->data : NULL,
                      .h = (float *)a->h->data,
                      .rstd = (float *)a->rstd->data,
                      .y = (Y *)a->y->data,
                      .w = pu_vector_of(a->w),
                      .res_step = pu_step(a->res),
                      .x_step = pu_step(a->x),
                      .h_step = pu_step(a->h),
                      .y_step = pu_step(a->y),
                      .width = (int)width,
                      .eps = a->eps};
  bool fast = width % PU_LANE == 0 && pu_rows_aligned(a->res) && pu_rows_aligned(a->x) && pu_rows_aligned(a->h) &&
              pu_rows_aligned(a->y);
  unsigned threads = threads_of(width);
  if (fast && keeps(width))
    norm_rows<true, true><<<(unsigned)rows, threads, 0, d->stream>>>(g);
  else if (fast)
    norm_rows<true, false><<<(unsigned)rows, threads, 0, d->stream>>>(g);
  else
    norm_rows<false, false><<<(unsigned)rows, threads, 0, d->stream>>>(g);
}

/* x is of the compute type and y of the type that was asked for; without an x only the latter counts. */
template <typename F> static void with_types(const pu_rmsnorm_add_args *a, F f) {
  pu_with_type(a->y->dtype, [&](auto y) { pu_with_type(a->x ? a->x->dtype : a->y->dtype, [&](auto x) { f(x, y); }); });
}

static pu_err rmsnorm_add(pu_backend *be, void *args, pu_error *e) {
  const pu_rmsnorm_add_args *a = (const pu_rmsnorm_add_args *)args;
  if (a->res->shape[0] * a->res->shape[1] == 0) return PU_OK;
  with_types(a, [&](auto x, auto y) { norm_launch<decltype(x), decltype(y)>((pu_cuda *)be, a); });
  return pu_cuda_launched("rmsnorm_add", e);
}

/* ---- rmsnorm_add, backward ---- */

template <typename X, typename Y> struct row_norm_back {
  const Y *dy;
  const float *h, *rstd, *dh; /* dh: what reached h by other ways, or NULL */
  float *dres;                /* NULL: not wanted; dx and partial likewise */
  X *dx;
  float *partial; /* [blocks, width] */
  pu_vector w;
  int64_t dy_step, h_step, dh_step, dres_step, dx_step, rows;
  int width;
  bool add_res, add_x;
};

/* h and dy w of one place, what they give to dw, and their product's sum. */
template <bool FAST, typename X, typename Y>
__device__ static inline float read_back(const row_norm_back<X, Y> &g, int64_t n, int at, float r, float h[PU_LANE],
                                         float dyw[PU_LANE], float dw[PU_LANE]) {
  float w[PU_LANE], dot = 0;
  read8<FAST>(g.dy + n * g.dy_step, at, g.width, dyw);
  read8<FAST>(g.h + n * g.h_step, at, g.width, h);
  read_vector8<FAST>(g.w, at, g.width, w);
#pragma unroll
  for (int i = 0; i < PU_LANE; i++) {
    dw[i] = dyw[i] * h[i] * r;
    dyw[i] *= w[i];
    dot += dyw[i] * h[i];
  }
  return dot;
}

template <bool FAST, typename X, typename Y>
__device__ static inline void write_back(const row_norm_back<X, Y> &g, int64_t n, int at, float dh[PU_LANE]) {
  float copy[PU_LANE];
#pragma unroll
  for (int i = 0; i < PU_LANE; i++) copy[i] = dh[i];
  if (g.dres) acc8<FAST>(g.dres + n * g.dres_step, at, g.width, copy, g.add_res);
  if (g.dx) acc8<FAST>(g.dx + n * g.dx_step, at, g.width, dh, g.add_x);
}

template <bool FAST, bool KEEP, typename X, typename Y>
__global__ void __launch_bounds__(MOST_THREADS) norm_rows_back(row_norm_back<X, Y> g) {
  __shared__ float room[32];
  int first = (int)threadIdx.x * PU_LANE, stride = (int)blockDim.x * PU_LANE;
  float *own = g.partial ? g.partial + (int64_t)blockIdx.x * g.width : NULL;
  float h[PU_LANE], dyw[PU_LANE], dw[PU_LANE], more[PU_LANE] = {0}, sums[PU_LANE] = {0};
  for (int64_t n = blockIdx.x; n < g.rows; n += gridDim.x) {
    float r = g.rstd[n], dot = 0;
    for (int at = first; at < g.width; at += stride) {
      dot += read_back<FAST>(g, n, at, r, h, dyw, dw);
      if (KEEP) {
        if (g.dh) read8<FAST>(g.dh + n * g.dh_step, at, g.width, more);
#pragma unroll
        for (int i = 0; i < PU_LANE; i++) sums[i] += dw[i];
        break;
      }
      if (own) acc8<FAST>(own, at, g.width, dw, n != blockIdx.x);
    }
    float pull = block_sum(dot, room) / (float)g.width * r * r;
    for (int at = first; at < g.width; at += stride) {
      if (!KEEP) {
        read_back<FAST>(g, n, at, r, h, dyw, dw);
        if (g.dh) read8<FAST>(g.dh + n * g.dh_step, at, g.width, more);
      }
#pragma unroll
      for (int i = 0; i < PU_LANE; i++) dyw[i] = r * (dyw[i] - h[i] * pull) + more[i];
      write_back<FAST>(g, n, at, dyw);
      if (KEEP) break;
    }
  }
  if (KEEP && own && first < g.width) write8<FAST>(own, first, g.width, sums);
}

/* As many blocks as run at once: 1,024 threads of a multiprocessor. */
static int64_t blocks_back(const pu_cuda *d, int64_t rows, unsigned threads) {
  return PU_MIN(rows, (int64_t)d->sms * PU_MIN((int64_t)(MOST_THREADS / threads), (int64_t)BLOCKS_OF_SM));
}

template <typename X, typename Y>
static void norm_back_launch(pu_cuda *d, const pu_rmsnorm_add_args *a, row_norm_back<X, Y> g, unsigned blocks) {
  bool fast = g.width % PU_LANE == 0 && pu_rows_aligned(a->y->grad) && pu_rows_aligned(a->h) &&
              (!g.dh || pu_rows_aligned(a->h->grad)) && pu_rows_aligned(a->res->grad) &&
              (!g.dx || pu_rows_aligned(a->x->grad));
  unsigned threads = threads_of(g.width);
  if (fast && keeps(g.width))
    norm_rows_back<true, true><<<blocks, threads, 0, d->stream>>>(g);
  else if (fast)
    norm_rows_back<true, false><<<blocks, threads, 0, d->stream>>>(g);
  else
    norm_rows_back<false, false><<<blocks, threads, 0, d->stream>>>(g);
}

template <typename X, typename Y>
static void norm_back_run(pu_cuda *d, const pu_rmsnorm_add_args *a, float *partial, unsigned blocks) {
  const pu_tensor *dy = a->y->grad, *dres = a->res->grad, *dx = a->x ? a->x->grad : NULL;
  const pu_tensor *dh = a->h != a->res && a->h->grad && a->h->grad_set ? a->h->grad : NULL;
  row_norm_back<X, Y> g = {.dy = (const Y *)dy->data,
                           .h = (const float *)a->h->data,
                           .rstd = (const float *)a->rstd->data,
                           .dh = dh ? (const float *)dh->data : NULL,
                           .dres = dres ? (float *)dres->data : NULL,
                           .dx = dx ? (X *)dx->data : NULL,
                           .partial = partial,
                           .w = pu_vector_of(a->w),
                           .dy_step = pu_step(dy),
                           .h_step = pu_step(a->h),
                           .dh_step = pu_step(dh),
                           .dres_step = pu_step(dres),
                           .dx_step = pu_step(dx),
                           .rows = a->res->shape[0],
                           .width = (int)a->res->shape[1]};
  if (dres) g.add_res = pu_grad_beta(a->res) != 0;
  if (dx) g.add_x = pu_grad_beta(a->x) != 0;
  norm_back_launch(d, a, g, blocks);
}

static pu_err rmsnorm_add_back(pu_backend *be, void *args, pu_error *e) {
  const pu_rmsnorm_add_args *a = (const pu_rmsnorm_add_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  int64_t rows = a->res->shape[0], width = a->res->shape[1], blocks = blocks_back(d, rows, threads_of(width));
  void *partial = NULL;
  if (rows * width == 0) return PU_OK;
  if (a->w->grad) PU_TRY(pu_cuda_work(d, (size_t)(blocks * width) * sizeof(float), &partial, e));
  with_types(
      a, [&](auto x, auto y) { norm_back_run<decltype(x), decltype(y)>(d, a, (float *)partial, (unsigned)blocks); });
  if (partial) pu_cuda_add_partials(d, (float *)partial, blocks, width, a->w);
  return pu_cuda_launched("rmsnorm_add, backward", e);
}

/* ---- qk_norm ---- */

/* K: groups of eight values of a lane; ROWS: rows of a block at a time, all of them on their way at once. */
enum { WIDE_HEAD = 4, FORWARD_ROWS = 4, BACK_ROWS = 2, HEAD_BLOCKS = 3 /* of a multiprocessor */ };

template <typename T> struct head_norms {
  const T *in, *dy;
  T *out, *din; /* din: NULL: not wanted; partial likewise */
  float *rstd, *partial;
  pu_vector wq, wk;
  int64_t in_step, dy_step, out_step, din_step, rows;
  int heads, normed, all, dim, lanes; /* query heads; these and key heads; and value heads; lanes of a head */
  float eps;
  bool add;
};

/* Of the lanes that share a head: a power of two, next to each other. */
__device__ static inline float lanes_sum(float v, int lanes) {
  for (int step = lanes / 2; step; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
  return v;
}

/* What a thread has of every row: a head, and of it eight values from `first` on, and from each `stride` behind. */
struct seat {
  int head, first, stride;
};

template <typename T> __device__ static inline seat take_seat(const head_norms<T> &g) {
  int slot = (int)threadIdx.x / g.lanes;
  return {(int)blockIdx.x * (HEAD_THREADS / g.lanes) + slot, (int)threadIdx.x % g.lanes * PU_LANE, g.lanes * PU_LANE};
}

/* Value heads have a weight of ones: with r = 1 and v = 0 they pass both ways unchanged. */
template <bool FAST, int K, typename T>
__device__ static inline void read_weight(const head_norms<T> &g, seat s, float w[K][PU_LANE]) {
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int i = 0; i < PU_LANE; i++) w[k][i] = 1.0f;
    int at = s.first + k * s.stride;
    if (s.head < g.normed && at < g.dim) read_vector8<FAST>(s.head < g.heads ? g.wq : g.wk, at, g.dim, w[k]);
  }
}

/* The thread's values of a row; zeros where it has none. */
template <bool FAST, int K, typename T>
__device__ static inline void read_head(const T *row, const head_norms<T> &g, seat s, bool there, float v[K][PU_LANE]) {
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int i = 0; i < PU_LANE; i++) v[k][i] = 0;
    int at = s.first + k * s.stride;
    if (there && at < g.dim) read8<FAST>(row + (int64_t)s.head * g.dim, at, g.dim, v[k]);
  }
}

template <bool FAST, int K, int ROWS, typename T>
__global__ void __launch_bounds__(HEAD_THREADS) heads_norm(head_norms<T> g) {
  seat s = take_seat(g);
  float w[K][PU_LANE];
  read_weight<FAST, K>(g, s, w);
  for (int64_t n = (int64_t)blockIdx.y * ROWS; n < g.rows; n += (int64_t)gridDim.y * ROWS) {
    float v[ROWS][K][PU_LANE];
#pragma unroll
    for (int j = 0; j < ROWS; j++)
      read_head<FAST, K>(g.in + (n + j) * g.in_step, g, s, s.head < g.all && n + j < g.rows, v[j]);
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
      float squares = 0;
#pragma unroll
      for (int k = 0; k < K; k++)
#pragma unroll
        for (int i = 0; i < PU_LANE; i++) squares += v[j][k][i] * v[j][k][i];
      float r = 1.0f / sqrtf(lanes_sum(squares, g.lanes) / (float)g.dim + g.eps);
      if (s.head >= g.all || n + j >= g.rows) continue;
      if (s.head >= g.normed)
        r = 1.0f;
      else if (s.first == 0)
        g.rstd[(n + j) * g.normed + s.head] = r;
#pragma unroll
      for (int k = 0; k < K; k++) {
        int at = s.first + k * s.stride;
#pragma unroll
        for (int i = 0; i < PU_LANE; i++) v[j][k][i] *= r * w[k][i];
        if (at < g.dim) write8<FAST>(g.out + (n + j) * g.out_step + (int64_t)s.head * g.dim, at, g.dim, v[j][k]);
      }
    }
  }
}

/* The least power of two of lanes, at most a warp, that has eight values each of a head. */
static int lanes_of(int64_t dim) {
  int lanes = 1;
  while (lanes < 32 && lanes * PU_LANE < dim) lanes *= 2;
  return lanes;
}

static int64_t chunks_of(int64_t heads, int lanes) {
  return ceil_div(heads, HEAD_THREADS / lanes);
}

static bool is_wide(int64_t dim) {
  return dim > 32 * PU_LANE;
}

static pu_err check_dim(const pu_qk_norm_args *a, pu_error *e) {
  if (a->head_dim <= 32 * PU_LANE * WIDE_HEAD) return PU_OK;
  return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: qk_norm: heads of %d values, %d are the most", a->head_dim,
                 32 * PU_LANE * WIDE_HEAD);
}

template <typename T> static head_norms<T> heads_of(const pu_qk_norm_args *a) {
  int normed = a->heads + a->kv_heads;
  return {.in = (const T *)a->qkv->data,
          .out = (T *)a->out->data,
          .rstd = (float *)a->rstd->data,
          .wq = pu_vector_of(a->wq),
          .wk = pu_vector_of(a->wk),
          .in_step = pu_step(a->qkv),
          .out_step = pu_step(a->out),
          .rows = a->qkv->shape[0],
          .heads = a->heads,
          .normed = normed,
          .all = normed + a->kv_heads,
          .dim = a->head_dim,
          .lanes = lanes_of(a->head_dim),
          .eps = a->eps};
}

static pu_err qk_norm(pu_backend *be, void *args, pu_error *e) {
  const pu_qk_norm_args *a = (const pu_qk_norm_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  bool fast = a->head_dim % PU_LANE == 0 && pu_rows_aligned(a->qkv) && pu_rows_aligned(a->out);
  PU_TRY(check_dim(a, e));
  if (a->qkv->shape[0] == 0) return PU_OK;
  pu_with_type(a->qkv->dtype, [&](auto type) {
    head_norms<decltype(type)> g = heads_of<decltype(type)>(a);
    int64_t batches = ceil_div(g.rows, is_wide(g.dim) ? 1 : FORWARD_ROWS);
    dim3 grid((unsigned)chunks_of(g.all, g.lanes), (unsigned)PU_MIN(batches, (int64_t)MOST_ROWS));
    if (is_wide(g.dim))
      heads_norm<false, WIDE_HEAD, 1><<<grid, HEAD_THREADS, 0, d->stream>>>(g);
    else if (fast)
      heads_norm<true, 1, FORWARD_ROWS><<<grid, HEAD_THREADS, 0, d->stream>>>(g);
    else
      heads_norm<false, 1, FORWARD_ROWS><<<grid, HEAD_THREADS, 0, d->stream>>>(g);
  });
  return pu_cuda_launched("qk_norm", e);
}

/* ---- qk_norm, backward ---- */

/* The gradient of one head of a row from its values v and t = dy, in t; adds to dw what it gives to its weight. */
template <int K, typename T>
__device__ static inline void head_back(const head_norms<T> &g, float r, const float w[K][PU_LANE],
                                        const float v[K][PU_LANE], float t[K][PU_LANE], float dw[K][PU_LANE]) {
  float dot = 0;
#pragma unroll
  for (int k = 0; k < K; k++)
#pragma unroll
    for (int i = 0; i < PU_LANE; i++) {
      dw[k][i] += t[k][i] * v[k][i] * r;
      t[k][i] *= w[k][i];
      dot += t[k][i] * v[k][i];
    }
  float pull = lanes_sum(dot, g.lanes) / (float)g.dim * r * r;
#pragma unroll
  for (int k = 0; k < K; k++)
#pragma unroll
    for (int i = 0; i < PU_LANE; i++) t[k][i] = r * (t[k][i] - v[k][i] * pull);
}

/* The sums of a block's groups of lanes for both weights, added in the order of the groups. */
template <int K, typename T>
__device__ static void write_sums(const head_norms<T> &g, seat s, const float dw[K][PU_LANE]) {
  extern __shared__ float room[]; /* [groups, dim] */
  int groups = HEAD_THREADS / g.lanes, begin = (int)blockIdx.x * groups, group = s.head - begin;
  float *partial = g.partial + ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * 2 * g.dim;
  for (int k = 0; k < K; k++)
    for (int i = 0; i < PU_LANE; i++) {
      int at = s.first + k * s.stride + i;
      if (at < g.dim) room[group * g.dim + at] = dw[k][i];
    }
  __syncthreads();
  int keys = min(max(g.heads - begin, 0), groups), end = min(max(g.normed - begin, 0), groups);
  for (int c = (int)threadIdx.x; c < 2 * g.dim; c += HEAD_THREADS) {
    float sum = 0;
    bool key = c >= g.dim;
    for (int i = key ? keys : 0; i < (key ? end : keys); i++) sum += room[i * g.dim + (key ? c - g.dim : c)];
    partial[c] = sum;
  }
}

template <bool FAST, int K, int ROWS, typename T>
__global__ void __launch_bounds__(HEAD_THREADS, HEAD_BLOCKS) heads_norm_back(head_norms<T> g) {
  seat s = take_seat(g);
  bool normed = s.head < g.normed;
  float w[K][PU_LANE], dw[K][PU_LANE] = {{0}};
  read_weight<FAST, K>(g, s, w);
  for (int64_t n = (int64_t)blockIdx.y * ROWS; n < g.rows; n += (int64_t)gridDim.y * ROWS) {
    float v[ROWS][K][PU_LANE], t[ROWS][K][PU_LANE], r[ROWS];
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
      bool there = s.head < g.all && n + j < g.rows;
      read_head<FAST, K>(g.dy + (n + j) * g.dy_step, g, s, there, t[j]);
      read_head<FAST, K>(g.in + (n + j) * g.in_step, g, s, there && normed, v[j]);
      r[j] = there && normed ? g.rstd[(n + j) * g.normed + s.head] : 1.0f;
    }
#pragma unroll
    for (int j = 0; j < ROWS; j++) {
      head_back<K>(g, r[j], w, v[j], t[j], dw);
      if (!g.din || s.head >= g.all || n + j >= g.rows) continue;
#pragma unroll
      for (int k = 0; k < K; k++) {
        int at = s.first + k * s.stride;
        T *din = g.din + (n + j) * g.din_step + (int64_t)s.head * g.dim;
        if (at < g.dim) acc8<FAST>(din, at, g.dim, t[j][k], g.add);
      }
    }
  }
  if (g.partial) write_sums<K>(g, s, dw);
}

/* Blocks in the direction of the rows: so many that all run at once. */
static int64_t row_blocks(const pu_cuda *d, int64_t rows, int64_t heads, int64_t dim) {
  int64_t batches = ceil_div(rows, is_wide(dim) ? 1 : BACK_ROWS);
  return PU_MIN(batches, ceil_div((int64_t)d->sms * HEAD_BLOCKS, chunks_of(heads, lanes_of(dim))));
}

template <typename T>
static void qk_back_launch(pu_cuda *d, const pu_qk_norm_args *a, float *partial, unsigned blocks, bool add) {
  const pu_tensor *dy = a->out->grad, *din = a->qkv->grad;
  head_norms<T> g = heads_of<T>(a);
  bool fast = g.dim % PU_LANE == 0 && pu_rows_aligned(a->qkv) && pu_rows_aligned(dy) && pu_rows_aligned(din);
  dim3 grid((unsigned)chunks_of(g.all, g.lanes), blocks);
  size_t room = (size_t)(HEAD_THREADS / g.lanes * g.dim) * sizeof(float);
  g.dy = (const T *)dy->data;
  g.dy_step = pu_step(dy);
  g.din = din ? (T *)din->data : NULL;
  g.din_step = pu_step(din);
  g.partial = partial;
  g.add = add;
  if (is_wide(g.dim))
    heads_norm_back<false, WIDE_HEAD, 1><<<grid, HEAD_THREADS, room, d->stream>>>(g);
  else if (fast)
    heads_norm_back<true, 1, BACK_ROWS><<<grid, HEAD_THREADS, room, d->stream>>>(g);
  else
    heads_norm_back<false, 1, BACK_ROWS><<<grid, HEAD_THREADS, room, d->stream>>>(g);
}

static pu_err qk_norm_back(pu_backend *be, void *args, pu_error *e) {
  const pu_qk_norm_args *a = (const pu_qk_norm_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  int64_t dim = a->head_dim, heads = a->heads + 2 * (int64_t)a->kv_heads;
  int64_t blocks = row_blocks(d, a->qkv->shape[0], heads, dim), shares = blocks * chunks_of(heads, lanes_of(dim));
  void *partial = NULL;
  PU_TRY(check_dim(a, e));
  if (blocks == 0) return PU_OK;
  if (a->wq->grad || a->wk->grad) PU_TRY(pu_cuda_work(d, (size_t)(shares * 2 * dim) * sizeof(float), &partial, e));
  bool add = a->qkv->grad && pu_grad_beta(a->qkv) != 0;
  pu_with_type(a->qkv->dtype,
               [&](auto type) { qk_back_launch<decltype(type)>(d, a, (float *)partial, (unsigned)blocks, add); });
  if (a->wq->grad) pu_cuda_add_partials(d, (float *)partial, shares, 2 * dim, a->wq);
  if (a->wk->grad) pu_cuda_add_partials(d, (float *)partial + dim, shares, 2 * dim, a->wk);
  return pu_cuda_launched("qk_norm, backward", e);
}

size_t pu_cuda_norm_work_bytes(const pu_cuda *d, const pu_work_shape *s) {
  int64_t heads = s->heads + 2 * (int64_t)s->kv_heads, dim = s->head_dim;
  int64_t rows = blocks_back(d, s->tokens, threads_of(s->hidden)) * s->hidden;
  int64_t shares = row_blocks(d, s->tokens, heads, dim) * chunks_of(heads, lanes_of(dim)) * 2 * dim;
  return (size_t)PU_MAX(rows, shares) * sizeof(float);
}

void pu_cuda_use_norm(pu_cuda *d) {
  d->base.forward[PU_OP_rmsnorm_add] = rmsnorm_add;
  d->base.forward[PU_OP_qk_norm] = qk_norm;
  d->base.backward[PU_OP_rmsnorm_add] = rmsnorm_add_back;
  d->base.backward[PU_OP_qk_norm] = qk_norm_back;
}
