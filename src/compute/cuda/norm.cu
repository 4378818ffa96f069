/* rmsnorm_add and qk_norm. With r = 1 / sqrt(mean(h^2) + eps) and y = h r w:
 *   dh = r (dy w - h r^2 mean(dy w h)),   dw = sum over rows of dy h r.
 *
 * A block has a row of rmsnorm_add, whose values its threads keep in registers between the sum and what needs it, so
 * that memory is passed over once. Backward, a block has every so many-th row and sums its share of dw on the way; the
 * shares are added in the end, in the order of the blocks. A head of qk_norm belongs to a power of two of lanes of a
 * warp. */
#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/use.h"

enum { MOST_THREADS = 1024, USUAL_THREADS = 512, PLAIN_THREADS = 256, HEAD_THREADS = 256, SUM_ROWS = 32 };
enum { LANE = 4 /* values at a time of rmsnorm_add's threads */, BLOCKS_OF_SM = 8, MOST_ROWS = 65535 };

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
  bool w_rests; /* no kernel before writes w: nobody trains it */
};

/* The first of the k-th four values of this thread. */
__device__ static inline int place_of(int k) {
  return (k * (int)blockDim.x + (int)threadIdx.x) * LANE;
}

template <int K, typename X, typename Y> __global__ void __launch_bounds__(MOST_THREADS) norm_rows(row_norm<X, Y> g) {
  __shared__ float room[32];
  int64_t n = blockIdx.x;
  float h[K][LANE], x[K][LANE], w[K][LANE], squares = 0;
  let_next_start();
  if (!g.w_rests) wait_for_before();
#pragma unroll
  for (int k = 0; k < K; k++)
    if (place_of(k) < g.width) read_vector<true>(g.w, place_of(k), g.width, w[k]);
  wait_for_before();
#pragma unroll
  for (int k = 0; k < K; k++) {
    int at = place_of(k);
#pragma unroll
    for (int i = 0; i < LANE; i++) h[k][i] = x[k][i] = 0;
    if (at >= g.width) continue;
    read_row<true>(g.res + n * g.res_step, at, g.width, h[k]);
    if (g.x) read_row<true>(g.x + n * g.x_step, at, g.width, x[k]);
  }
#pragma unroll
  for (int k = 0; k < K; k++) {
    int at = place_of(k);
#pragma unroll
    for (int i = 0; i < LANE; i++) {
      h[k][i] += x[k][i];
      squares += h[k][i] * h[k][i];
    }
    if (at >= g.width) continue;
    if (g.x) write_row<true>(g.h + n * g.h_step, at, g.width, h[k]);
  }
  float r = inverse_root(block_sum(squares, room) / (float)g.width + g.eps);
  if (threadIdx.x == 0) g.rstd[n] = r;
#pragma unroll
  for (int k = 0; k < K; k++) {
    int at = place_of(k);
#pragma unroll
    for (int i = 0; i < LANE; i++) h[k][i] *= r * w[k][i];
    if (at < g.width) write_row<true>(g.y + n * g.y_step, at, g.width, h[k]);
  }
}

__device__ static inline float weight_at(pu_vector w, int c) {
  return w.f32 ? ((const float *)w.p)[c] : to_f32(((const bf16 *)w.p)[c]);
}

/* Rows of any width and place, value by value, in two passes. */
template <typename X, typename Y> __global__ void __launch_bounds__(PLAIN_THREADS) norm_any_rows(row_norm<X, Y> g) {
  __shared__ float room[32];
  int64_t n = blockIdx.x;
  const float *res = g.res + n * g.res_step;
  let_next_start();
  wait_for_before();
  float *h = g.h + n * g.h_step, squares = 0;
  for (int c = (int)threadIdx.x; c < g.width; c += PLAIN_THREADS) {
    float v = res[c] + (g.x ? to_f32(g.x[n * g.x_step + c]) : 0.0f);
    if (g.x) h[c] = v;
    squares += v * v;
  }
  float r = inverse_root(block_sum(squares, room) / (float)g.width + g.eps);
  if (threadIdx.x == 0) g.rstd[n] = r;
  for (int c = (int)threadIdx.x; c < g.width; c += PLAIN_THREADS)
    g.y[n * g.y_step + c] = from_f32<Y>(h[c] * r * weight_at(g.w, c));
}

/* How many fours a thread keeps of a row so wide: 0: it is too wide for that. */
static int fours_of(int64_t width) {
  int64_t threads = ceil_div(width, LANE);
  return threads <= USUAL_THREADS ? 1 : threads <= 2 * USUAL_THREADS ? 2 : threads <= 4 * USUAL_THREADS ? 4 : 0;
}

static unsigned threads_of(int64_t width, int fours) {
  return fours ? (unsigned)(ceil_div(ceil_div(width, (int64_t)LANE * fours), 32) * 32) : (unsigned)PLAIN_THREADS;
}

template <typename X, typename Y> static void norm_launch(pu_cuda *d, const pu_rmsnorm_add_args *a) {
  unsigned rows = (unsigned)a->res->shape[0];
  int64_t width = a->res->shape[1];
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
                      .eps = a->eps,
                      .w_rests = !a->w->grad};
  bool fast = pu_width_whole(width) && pu_rows_aligned(a->res) && pu_rows_aligned(a->x) && pu_rows_aligned(a->h) &&
              pu_rows_aligned(a->y);
  int fours = fast ? fours_of(width) : 0;
  void (*kernel)(row_norm<X, Y>) = fours == 1   ? norm_rows<1, X, Y>
                                   : fours == 2 ? norm_rows<2, X, Y>
                                   : fours == 4 ? norm_rows<4, X, Y>
                                                : norm_any_rows<X, Y>;
  pu_cuda_start(d, rows <= PU_CUDA_SHORT_ROWS, kernel, rows, threads_of(width, fours), 0, g);
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

/* A thread's values of a row, and what is made of them. */
template <int K> struct back_row { float dy[K][LANE], h[K][LANE], dh[K][LANE], r; };

/* A row on its way lies in shared memory: each thread copies, and waits for, only what it reads itself. A place has
 * `threads` pieces of a thread's four values of each kind, one behind the other. */
template <typename Y> constexpr int PLACE_BYTES = (int)(LANE *(sizeof(Y) + 2 * sizeof(float)));

/* Four values from memory to shared memory. */
template <typename T> __device__ static inline void copy_four(T *to, const T *from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(to)), "l"(from),
               "n"(LANE * (int)sizeof(T))
               : "memory");
}

/* This thread's four of each kind in the k-th place. */
template <typename Y> struct row_place {
  float *h, *dh;
  Y *dy;
};

template <typename Y> __device__ static inline row_place<Y> place_at(char *room, int k) {
  int threads = (int)blockDim.x;
  float *h = (float *)(room + (size_t)k * (size_t)(threads * PLACE_BYTES<Y>)), *dh = h + threads * LANE;
  return {h + threadIdx.x * LANE, dh + threadIdx.x * LANE, (Y *)(dh + threads * LANE) + threadIdx.x * LANE};
}

template <int K, typename X, typename Y>
__device__ static inline void ask_back(const row_norm_back<X, Y> &g, int64_t n, char *room) {
#pragma unroll
  for (int k = 0; k < K; k++) {
    int at = place_of(k);
    row_place<Y> p = place_at<Y>(room, k);
    if (at >= g.width) continue;
    copy_four(p.dy, g.dy + n * g.dy_step + at);
    copy_four(p.h, g.h + n * g.h_step + at);
    if (g.dh) copy_four(p.dh, g.dh + n * g.dh_step + at);
  }
}

/* What was asked for, once it is there. */
template <int K, typename X, typename Y>
__device__ static inline void read_back(const row_norm_back<X, Y> &g, char *room, back_row<K> *b) {
  asm volatile("cp.async.wait_all;" ::: "memory");
#pragma unroll
  for (int k = 0; k < K; k++) {
    row_place<Y> p = place_at<Y>(room, k);
#pragma unroll
    for (int i = 0; i < LANE; i++) b->dy[k][i] = b->h[k][i] = b->dh[k][i] = 0;
    if (place_of(k) >= g.width) continue;
    read_fast(p.dy, b->dy[k]);
    read_fast(p.h, b->h[k]);
    if (g.dh) read_fast(p.dh, b->dh[k]);
  }
}

/* Adds to the sums for dw; dy becomes dy w. */
template <int K> __device__ static inline float weigh(back_row<K> *b, const float w[K][LANE], float sums[K][LANE]) {
  float dot = 0;
#pragma unroll
  for (int k = 0; k < K; k++)
#pragma unroll
    for (int i = 0; i < LANE; i++) {
      sums[k][i] += b->dy[k][i] * b->h[k][i] * b->r;
      b->dy[k][i] *= w[k][i];
      dot += b->dy[k][i] * b->h[k][i];
    }
  return dot;
}

template <int K, typename X, typename Y>
__device__ static inline void write_back(const row_norm_back<X, Y> &g, int64_t n, const back_row<K> &b, float pull) {
#pragma unroll
  for (int k = 0; k < K; k++) {
    int at = place_of(k);
    float dh[LANE];
#pragma unroll
    for (int i = 0; i < LANE; i++) dh[i] = b.r * (b.dy[k][i] - b.h[k][i] * pull) + b.dh[k][i];
    if (at >= g.width) continue;
    if (g.dres) acc_row<true>(g.dres + n * g.dres_step, at, g.width, dh, g.add_res);
    if (g.dx) acc_row<true>(g.dx + n * g.dx_step, at, g.width, dh, g.add_x);
  }
}

/* Blocks of a multiprocessor, which wait for their sums at different times: what their registers are bounded for. */
template <int K> constexpr int BACK_BLOCKS = K == 1 ? 3 : K == 2 ? 2 : 1;

/* The next row is on its way while this one is summed. */
template <int K, typename X, typename Y>
__global__ void __launch_bounds__(USUAL_THREADS, BACK_BLOCKS<K>) norm_rows_back(row_norm_back<X, Y> g) {
  extern __shared__ __align__(16) char places[];
  __shared__ float room[32];
  float w[K][LANE], sums[K][LANE] = {{0}};
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int i = 0; i < LANE; i++) w[k][i] = 0;
    if (place_of(k) < g.width) read_vector<true>(g.w, place_of(k), g.width, w[k]);
  }
  ask_back<K>(g, blockIdx.x, places); /* there is one: no more blocks than rows */
  float next_r = g.rstd[blockIdx.x];
  for (int64_t n = blockIdx.x; n < g.rows; n += gridDim.x) {
    back_row<K> now;
    now.r = next_r;
    read_back<K>(g, places, &now);
    if (n + gridDim.x < g.rows) {
      ask_back<K>(g, n + gridDim.x, places);
      next_r = g.rstd[n + gridDim.x];
    }
    float dot = weigh<K>(&now, w, sums);
    write_back<K>(g, n, now, block_sum(dot, room) / (float)g.width * now.r * now.r);
  }
#pragma unroll
  for (int k = 0; k < K && g.partial; k++)
    if (place_of(k) < g.width)
      write_row<true>(g.partial + (int64_t)blockIdx.x * g.width, place_of(k), g.width, sums[k]);
}

/* Rows of any width and place: in two passes, the sums for dw in memory. */
template <typename X, typename Y>
__global__ void __launch_bounds__(PLAIN_THREADS) norm_any_rows_back(row_norm_back<X, Y> g) {
  __shared__ float room[32];
  float *own = g.partial ? g.partial + (int64_t)blockIdx.x * g.width : NULL;
  for (int64_t n = blockIdx.x; n < g.rows; n += gridDim.x) {
    const Y *dy = g.dy + n * g.dy_step;
    const float *h = g.h + n * g.h_step;
    float r = g.rstd[n], dot = 0;
    for (int c = (int)threadIdx.x; c < g.width; c += PLAIN_THREADS) {
      float d = to_f32(dy[c]);
      dot += d * weight_at(g.w, c) * h[c];
      if (own) own[c] = (n == blockIdx.x ? 0.0f : own[c]) + d * h[c] * r;
    }
    float pull = block_sum(dot, room) / (float)g.width * r * r;
    for (int c = (int)threadIdx.x; c < g.width; c += PLAIN_THREADS) {
      float dh[1] = {r * (to_f32(dy[c]) * weight_at(g.w, c) - h[c] * pull)};
      if (g.dh) dh[0] += g.dh[n * g.dh_step + c];
      if (g.dres) acc_row<false>(g.dres + n * g.dres_step, c, g.width, dh, g.add_res);
      if (g.dx) acc_row<false>(g.dx + n * g.dx_step, c, g.width, dh, g.add_x);
    }
  }
}

template <typename X, typename Y> static void (*back_kernel(int fours))(row_norm_back<X, Y>) {
  return fours == 1   ? norm_rows_back<1, X, Y>
         : fours == 2 ? norm_rows_back<2, X, Y>
         : fours == 4 ? norm_rows_back<4, X, Y>
                      : norm_any_rows_back<X, Y>;
}

template <typename X, typename Y>
static row_norm_back<X, Y> norm_back_of(const pu_rmsnorm_add_args *a, const pu_tensor *dh) {
  const pu_tensor *dy = a->y->grad, *dres = a->res->grad, *dx = a->x ? a->x->grad : NULL;
  row_norm_back<X, Y> g = {.dy = (const Y *)dy->data,
                           .h = (const float *)a->h->data,
                           .rstd = (const float *)a->rstd->data,
                           .dh = dh ? (const float *)dh->data : NULL,
                           .dres = dres ? (float *)dres->data : NULL,
                           .dx = dx ? (X *)dx->data : NULL,
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
  return g;
}

template <typename X, typename Y> static pu_err norm_back_run(pu_cuda *d, const pu_rmsnorm_add_args *a, pu_error *e) {
  const pu_tensor *dh = a->h != a->res && a->h->grad && a->h->grad_set ? a->h->grad : NULL;
  bool fast = pu_width_whole(a->res->shape[1]) && pu_rows_aligned(a->y->grad) && pu_rows_aligned(a->h) &&
              pu_rows_aligned(dh) && pu_rows_aligned(a->res->grad) && (!a->x || pu_rows_aligned(a->x->grad));
  row_norm_back<X, Y> g = norm_back_of<X, Y>(a, dh);
  int fours = fast ? fours_of(g.width) : 0, at_once = 1;
  unsigned threads = threads_of(g.width, fours);
  size_t room = (size_t)threads * (size_t)(fours * PLACE_BYTES<Y>);
  void (*kernel)(row_norm_back<X, Y>) = back_kernel<X, Y>(fours);
  PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room), "a row's room", e);
  PU_CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&at_once, kernel, (int)threads, room), "asking for room",
              e);
  int64_t blocks = PU_MIN(g.rows, (int64_t)d->sms * PU_MIN(at_once, (int)BLOCKS_OF_SM));
  if (a->w->grad) PU_TRY(pu_cuda_work(d, (size_t)(blocks * g.width) * sizeof(float), (void **)&g.partial, e));
  kernel<<<(unsigned)blocks, threads, room, d->stream>>>(g);
  if (g.partial) pu_cuda_add_partials(d, g.partial, blocks, g.width, a->w);
  return pu_cuda_launched("rmsnorm_add, backward", e);
}

static pu_err rmsnorm_add_back(pu_backend *be, void *args, pu_error *e) {
  const pu_rmsnorm_add_args *a = (const pu_rmsnorm_add_args *)args;
  pu_err err = PU_OK;
  if (a->res->shape[0] * a->res->shape[1] == 0) return PU_OK;
  with_types(a, [&](auto x, auto y) { err = norm_back_run<decltype(x), decltype(y)>((pu_cuda *)be, a, e); });
  return err;
}

/* ---- qk_norm ---- */

/* K: groups of eight values of a lane; ROWS: rows of a block at a time, all of them on their way at once. */
enum { HEAD_LANE = 8, WIDE_HEAD = 4, FORWARD_ROWS = 4, BACK_ROWS = 2, HEAD_BLOCKS = 3 /* of a multiprocessor */ };

template <typename T> struct head_norms {
  const T *in, *dy;
  T *out, *din; /* din: NULL: not wanted; partial likewise */
  float *rstd, *partial;
  pu_vector wq, wk;
  int64_t in_step, dy_step, out_step, din_step, rows;
  int heads, normed, all, dim, lanes; /* query heads; these and key heads; and value heads; lanes of a head */
  float eps;
  bool add;
  bool w_rests; /* as above */
};

/* What a thread has of every row: a head, and of it eight values from `first` on, and from each `stride` behind. */
struct seat {
  int head, first, stride;
};

template <typename T> __device__ static inline seat take_seat(const head_norms<T> &g) {
  int slot = (int)threadIdx.x / g.lanes;
  return {(int)blockIdx.x * (HEAD_THREADS / g.lanes) + slot, (int)threadIdx.x % g.lanes * HEAD_LANE,
          g.lanes * HEAD_LANE};
}

/* Value heads have a weight of ones: with r = 1 and v = 0 they pass both ways unchanged. */
template <bool FAST, int K, typename T>
__device__ static inline void read_weight(const head_norms<T> &g, seat s, float w[K][HEAD_LANE]) {
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int i = 0; i < HEAD_LANE; i++) w[k][i] = 1.0f;
    int at = s.first + k * s.stride;
    if (s.head < g.normed && at < g.dim) read_vector<FAST>(s.head < g.heads ? g.wq : g.wk, at, g.dim, w[k]);
  }
}

/* The thread's values of a row; zeros where it has none. row: of the thread's head. */
template <bool FAST, int K, typename T>
__device__ static inline void read_head(const T *row, int dim, seat s, bool there, float v[K][HEAD_LANE]) {
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int i = 0; i < HEAD_LANE; i++) v[k][i] = 0;
    int at = s.first + k * s.stride;
    if (there && at < dim) read_row<FAST>(row, at, dim, v[k]);
  }
}

/* ROWS rows from the n-th on, all there. Lanes without a head take part in the sums only. */
template <bool FAST, int K, int ROWS, typename T>
__device__ static inline void norm_heads(const head_norms<T> &g, seat s, int64_t n, const float w[K][HEAD_LANE]) {
  const T *in = g.in + n * g.in_step + (int64_t)s.head * g.dim;
  T *out = g.out + n * g.out_step + (int64_t)s.head * g.dim;
  bool mine = s.head < g.all, normed = s.head < g.normed;
  float v[ROWS][K][HEAD_LANE];
#pragma unroll
  for (int j = 0; j < ROWS; j++) read_head<FAST, K>(in + j * g.in_step, g.dim, s, mine, v[j]);
#pragma unroll
  for (int j = 0; j < ROWS; j++) {
    float squares = 0;
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
      for (int i = 0; i < HEAD_LANE; i++) squares += v[j][k][i] * v[j][k][i];
    float r = inverse_root(lanes_sum(squares, g.lanes) / (float)g.dim + g.eps);
    if (s.first == 0 && normed && g.rstd) g.rstd[(n + j) * g.normed + s.head] = r;
    if (!normed) r = 1.0f;
#pragma unroll
    for (int k = 0; k < K; k++) {
      int at = s.first + k * s.stride;
#pragma unroll
      for (int i = 0; i < HEAD_LANE; i++) v[j][k][i] *= r * w[k][i];
      if (mine && at < g.dim) write_row<FAST>(out + j * g.out_step, at, g.dim, v[j][k]);
    }
  }
}

template <bool FAST, int K, int ROWS, typename T>
__global__ void __launch_bounds__(HEAD_THREADS) heads_norm(head_norms<T> g) {
  seat s = take_seat(g);
  float w[K][HEAD_LANE];
  let_next_start();
  if (!g.w_rests) wait_for_before();
  read_weight<FAST, K>(g, s, w);
  wait_for_before();
  for (int64_t n = (int64_t)blockIdx.y * ROWS; n < g.rows; n += (int64_t)gridDim.y * ROWS) {
    if (n + ROWS <= g.rows) {
      norm_heads<FAST, K, ROWS>(g, s, n, w);
      continue;
    }
    for (int64_t i = n; i < g.rows; i++) norm_heads<FAST, K, 1>(g, s, i, w);
  }
}

/* The least power of two of lanes, at most a warp, that has eight values each of a head. */
static int lanes_of(int64_t dim) {
  int lanes = 1;
  while (lanes < 32 && lanes * HEAD_LANE < dim) lanes *= 2;
  return lanes;
}

static int64_t chunks_of(int64_t heads, int lanes) {
  return ceil_div(heads, HEAD_THREADS / lanes);
}

static bool is_wide(int64_t dim) {
  return dim > 32 * HEAD_LANE;
}

static pu_err check_dim(const pu_qk_norm_args *a, pu_error *e) {
  if (a->head_dim <= 32 * HEAD_LANE * WIDE_HEAD) return PU_OK;
  return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: qk_norm: heads of %d values, %d are the most", a->head_dim,
                 32 * HEAD_LANE * WIDE_HEAD);
}

template <typename T> static head_norms<T> heads_of(const pu_qk_norm_args *a) {
  int normed = a->heads + a->kv_heads;
  return {.in = (const T *)a->qkv->data,
          .out = (T *)a->out->data,
          .rstd = a->rstd ? (float *)a->rstd->data : NULL,
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
          .eps = a->eps,
          .w_rests = !a->wq->grad && !a->wk->grad};
}

pu_err pu_cuda_qk_norm(pu_cuda *d, const pu_qk_norm_args *a, pu_error *e) {
  bool fast = pu_width_whole(a->head_dim) && pu_rows_aligned(a->qkv) && pu_rows_aligned(a->out);
  PU_TRY(check_dim(a, e));
  if (a->qkv->shape[0] == 0) return PU_OK;
  pu_with_type(a->qkv->dtype, [&](auto type) {
    head_norms<decltype(type)> g = heads_of<decltype(type)>(a);
    int64_t batches = ceil_div(g.rows, is_wide(g.dim) ? 1 : FORWARD_ROWS);
    dim3 grid((unsigned)chunks_of(g.all, g.lanes), (unsigned)PU_MIN(batches, (int64_t)MOST_ROWS));
    typedef decltype(type) T;
    void (*kernel)(head_norms<T>) = is_wide(g.dim) ? heads_norm<false, WIDE_HEAD, 1, T>
                                    : fast         ? heads_norm<true, 1, FORWARD_ROWS, T>
                                                   : heads_norm<false, 1, FORWARD_ROWS, T>;
    pu_cuda_start(d, g.rows <= PU_CUDA_SHORT_ROWS, kernel, grid, HEAD_THREADS, 0, g);
  });
  return pu_cuda_launched("qk_norm", e);
}

static pu_err qk_norm(pu_backend *be, void *args, pu_error *e) {
  return pu_cuda_qk_norm((pu_cuda *)be, (const pu_qk_norm_args *)args, e);
}

/* ---- qk_norm, backward ---- */

/* ROWS rows from the n-th on, all there. With u = v r: dx = r (dy w - u mean(dy w u)), and dw is the sum of dy u. */
template <bool FAST, int K, int ROWS, typename T>
__device__ static inline void heads_back(const head_norms<T> &g, seat s, int64_t n, const float w[K][HEAD_LANE],
                                         float dw[K][HEAD_LANE]) {
  int64_t begin = (int64_t)s.head * g.dim;
  const T *in = g.in + n * g.in_step + begin, *dy = g.dy + n * g.dy_step + begin;
  T *din = g.din + n * g.din_step + begin;
  bool mine = s.head < g.all, normed = s.head < g.normed;
  float u[ROWS][K][HEAD_LANE], t[ROWS][K][HEAD_LANE], r[ROWS];
#pragma unroll
  for (int j = 0; j < ROWS; j++) {
    read_head<FAST, K>(dy + j * g.dy_step, g.dim, s, mine, t[j]);
    read_head<FAST, K>(in + j * g.in_step, g.dim, s, normed, u[j]);
    r[j] = normed ? g.rstd[(n + j) * g.normed + s.head] : 1.0f;
  }
#pragma unroll
  for (int j = 0; j < ROWS; j++) {
    float dot = 0;
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
      for (int i = 0; i < HEAD_LANE; i++) {
        u[j][k][i] *= r[j];
        dw[k][i] += t[j][k][i] * u[j][k][i];
        t[j][k][i] *= w[k][i];
        dot += t[j][k][i] * u[j][k][i];
      }
    float pull = lanes_sum(dot, g.lanes) / (float)g.dim;
#pragma unroll
    for (int k = 0; k < K; k++) {
      int at = s.first + k * s.stride;
#pragma unroll
      for (int i = 0; i < HEAD_LANE; i++) t[j][k][i] = r[j] * (t[j][k][i] - u[j][k][i] * pull);
      if (g.din && mine && at < g.dim) acc_row<FAST>(din + j * g.din_step, at, g.dim, t[j][k], g.add);
    }
  }
}

/* The sums of a block's groups of lanes for both weights, added in the order of the groups. */
template <int K, typename T>
__device__ static void write_sums(const head_norms<T> &g, seat s, const float dw[K][HEAD_LANE]) {
  extern __shared__ float room[]; /* [groups, dim] */
  int groups = HEAD_THREADS / g.lanes, begin = (int)blockIdx.x * groups, group = s.head - begin;
  float *partial = g.partial + ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * 2 * g.dim;
  for (int k = 0; k < K; k++)
    for (int i = 0; i < HEAD_LANE; i++) {
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
  float w[K][HEAD_LANE], dw[K][HEAD_LANE] = {{0}};
  read_weight<FAST, K>(g, s, w);
  for (int64_t n = (int64_t)blockIdx.y * ROWS; n < g.rows; n += (int64_t)gridDim.y * ROWS) {
    if (n + ROWS <= g.rows) {
      heads_back<FAST, K, ROWS>(g, s, n, w, dw);
      continue;
    }
    for (int64_t i = n; i < g.rows; i++) heads_back<FAST, K, 1>(g, s, i, w, dw);
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
  bool fast = pu_width_whole(g.dim) && pu_rows_aligned(a->qkv) && pu_rows_aligned(dy) && pu_rows_aligned(din);
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
  int64_t rows = PU_MIN(s->tokens, (int64_t)d->sms * BLOCKS_OF_SM) * s->hidden;
  int64_t shares = row_blocks(d, s->tokens, heads, dim) * chunks_of(heads, lanes_of(dim)) * 2 * dim;
  return (size_t)PU_MAX(rows, shares) * sizeof(float);
}

void pu_cuda_use_norm(pu_cuda *d) {
  d->base.forward[PU_OP_rmsnorm_add] = rmsnorm_add;
  d->base.forward[PU_OP_qk_norm] = qk_norm;
  d->base.backward[PU_OP_rmsnorm_add] = rmsnorm_add_back;
  d->base.backward[PU_OP_qk_norm] = qk_norm_back;
}
