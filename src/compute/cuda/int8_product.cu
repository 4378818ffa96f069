/* Products of int8 by int8 on Hopper's tensor cores, scaled where the sums are: any number of rows.
 *
 * As in skinny.cu, a block takes a strip of columns of y, which are lines of w, and walks along the whole sum in
 * stages, which one thread has the copy engine fetch ahead of their use; unlike there rows of x are operand A of
 * warpgroup products, lines of w operand B. With up to 64 rows one warpgroup multiplies, and what takes the time are
 * the weights. With more a block has 128 rows, 64 for each of two warpgroups.
 *
 * w rests: its first stages are asked for before the kernels before this one have ended. */
#include "src/compute/cuda/int8.h"
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/tensor.cuh"
#include "src/compute/cuda/wgmma_s8.h"

enum { BOX = 128 /* values of a line, a byte each */, MOST_STAGES = 32, MOST_LINES = 256, MOST_ROWS = 128 };
enum { RING = 200 << 10 /* bytes of a multiprocessor's shared memory for stages */ };

/* Up to ROWS of x, by GROUPS warpgroups; up to N * COUNT lines of w, in COUNT products. */
template <int ROWS, int GROUPS, int N, int COUNT> struct shape {
  static constexpr int rows = ROWS, groups = GROUPS, n = N, count = COUNT;
  static constexpr int consumers = GROUPS * 128, threads = consumers + 32;
  static constexpr int boxes = GROUPS * COUNT == 1 ? 2 : 1, depth = boxes * BOX, x_box = ROWS * BOX; /* of a stage */
  /* What a product reads of a box: 8 rows again and again, or all that follow. */
  static constexpr int x_reach = ROWS == 8 ? x_box : GROUPS * 64 * BOX, w_reach = N * COUNT * BOX;
  static constexpr int blocks = GROUPS * N * COUNT <= 256 ? 2 : 1; /* of a multiprocessor, at least */
};

typedef struct product_args {
  void *y;
  const float *x_scale, *w_scale;
  const void *bias;
  int64_t y_step, cols;
  int inner, rows;
  int lines;  /* of w, of a block */
  int stages; /* in shared memory */
  bool bias_f32, y_f32;
} product_args;

/* Rows of x, then lines of w. */
template <typename S> __host__ __device__ static inline int stage_bytes(int lines) {
  return S::boxes * (S::x_box + lines * BOX);
}

#ifdef PU_WGMMA

struct common {
  uint64_t full[MOST_STAGES], empty[MOST_STAGES]; /* a stage has arrived; it is used up */
  float x_scale[MOST_ROWS], w_scale[MOST_LINES], bias[MOST_LINES];
};

/* One thread's work: stages of x and w on their way. */
template <typename S> struct fetcher {
  const CUtensorMap *x, *w;
  common *c;
  uint32_t room;
  int row, line, lines;

  /* Maps count pairs of values. */
  __device__ void fetch_w(int slot, int t) const {
    uint32_t to = room + slot * stage_bytes<S>(lines) + S::boxes * S::x_box;
    barrier_expect(&c->full[slot], stage_bytes<S>(lines));
    for (int i = 0; i < S::boxes; i++)
      box_copy(to + i * lines * BOX, w, (t * S::boxes + i) * BOX / 2, line, &c->full[slot]);
  }
  __device__ void fetch_x(int slot, int t) const {
    uint32_t to = room + slot * stage_bytes<S>(lines);
    for (int i = 0; i < S::boxes; i++)
      box_copy(to + i * S::x_box, x, (t * S::boxes + i) * BOX / 2, row, &c->full[slot]);
  }
};

/* Before the other warps go on, so as to lose no time. */
template <typename S> __device__ static void fetch_early(const fetcher<S> &f, const product_args &p, int early) {
  map_ahead(f.w);
  for (int s = 0; s < p.stages; s++) {
    barrier_init(&f.c->full[s], 1);
    barrier_init(&f.c->empty[s], S::consumers / 32);
  }
  barriers_visible();
  for (int t = 0; t < early; t++) f.fetch_w(t, t);
  map_ahead(f.x);
}

template <typename S>
__device__ static void fetch_stages(const fetcher<S> &f, const product_args &p, int early, int n) {
  int slot = 0;
  uint32_t turn = 0;
  wait_for_before();
  for (int t = 0; t < early; t++) f.fetch_x(t, t);
  for (int t = early; t < n; t++) {
    barrier_wait(&f.c->empty[slot], turn);
    f.fetch_w(slot, t);
    f.fetch_x(slot, t);
    if (++slot == p.stages) slot = 0, turn ^= 1;
  }
}

/* One stage of the sums. */
template <typename S>
__device__ static inline void use_stage(int (&sum)[S::count][S::n / 2], uint32_t at, int w_box, bool first) {
  /* As wide_matrix, but of 8 rows the next 8 are the same. */
  const uint64_t rows = (uint64_t)(S::rows == 8 ? 0 : 1024 >> 4) << 32 | (uint64_t)1 << 62 | (uint64_t)1 << 16;
  const uint32_t own = threadIdx.x / 128 * 64 * BOX;
#pragma unroll
  for (int k = 0; k < S::boxes * 4; k++) {
    uint32_t x = at + own + k / 4 * S::x_box + k % 4 * 32, w = at + S::boxes * S::x_box + k / 4 * w_box + k % 4 * 32;
#pragma unroll
    for (int c = 0; c < S::count; c++)
      wide_mma_s8(sum[c], rows | (x & 0x3ffff) >> 4, wide_matrix(w + c * S::n * BOX, 16), !(first && k == 0));
  }
}

template <typename S>
__device__ static inline void sum_stages(int (&sum)[S::count][S::n / 2], uint32_t room, int n, const product_args &p,
                                         common *common) {
  const int stage = stage_bytes<S>(p.lines);
  int slot = 0, last = 0;
  uint32_t turn = 0;
  for (int t = 0; t < n; t++) {
    barrier_wait(&common->full[slot], turn);
    wide_begin();
    use_stage<S>(sum, room + slot * stage, p.lines * BOX, t == 0);
    wide_commit();
    wide_wait<1>(); /* the stage before is used up */
    if (t && threadIdx.x % 32 == 0) barrier_arrive(&common->empty[last]);
    last = slot;
    if (++slot == p.stages) slot = 0, turn ^= 1;
  }
  wide_wait<0>();
  /* No conversion of a sum goes before this. */
#pragma unroll
  for (int c = 0; c < S::count; c++)
#pragma unroll
    for (int i = 0; i < S::n / 2; i++) asm volatile("" : "+r"(sum[c][i])::"memory");
}

/* ---- scaling ---- */

/* By all consumers: what sums are scaled by, into shared memory while the first stages are on their way. */
template <typename S> __device__ static void fetch_scales(const product_args &p, common *c, int64_t row, int64_t col) {
  for (int i = (int)threadIdx.x; i < p.lines && col + i < p.cols; i += S::consumers) {
    c->w_scale[i] = p.w_scale[col + i];
    if (p.bias) c->bias[i] = p.bias_f32 ? ((const float *)p.bias)[col + i] : to_f32(((const bf16 *)p.bias)[col + i]);
  }
  wait_for_before();
  for (int i = (int)threadIdx.x; i < S::rows && row + i < p.rows; i += S::consumers) c->x_scale[i] = p.x_scale[row + i];
  asm volatile("bar.sync 1, %0;" ::"n"(S::consumers) : "memory");
}

__device__ static inline float scaled(const product_args &p, const common *c, int sum, float x_scale, int line) {
  float v = __fmul_rn(__fmul_rn((float)sum, x_scale), c->w_scale[line]);
  return p.bias ? __fadd_rn(v, c->bias[line]) : v;
}

__device__ static inline void store_two(const product_args &p, int64_t row, int64_t col, float first, float second) {
  int64_t at = row * p.y_step + col;
  if (p.y_f32)
    *(float2 *)((float *)p.y + at) = make_float2(first, second);
  else
    *(__nv_bfloat162 *)((bf16 *)p.y + at) = __floats2bfloat162_rn(first, second);
}

/* Columns come in pairs: their number is a multiple of 16, and that of lines one of 8. */
template <typename S>
__device__ static void store_sums(const product_args &p, const common *common, const int (&sum)[S::count][S::n / 2],
                                  int64_t first, int64_t col) {
  int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16 + lane / 4,
      end = (int)PU_MIN((int64_t)p.lines, p.cols - col);
#pragma unroll
  for (int half = 0; half < (S::rows > 8 ? 2 : 1); half++) {
    int row = own + half * 8;
    if (row >= S::rows || first + row >= p.rows) continue;
    float by = common->x_scale[row];
#pragma unroll
    for (int c = 0; c < S::count; c++)
#pragma unroll
      for (int i = 0; i < S::n / 8; i++) {
        int line = c * S::n + i * 8 + lane % 4 * 2;
        if (line < end)
          store_two(p, first + row, col + line, scaled(p, common, sum[c][4 * i + 2 * half], by, line),
                    scaled(p, common, sum[c][4 * i + 2 * half + 1], by, line + 1));
      }
  }
}

template <typename S>
__device__ static void product_block(const product_args &p, const CUtensorMap *x, const CUtensorMap *w, uint32_t room) {
  __shared__ common common;
  int64_t row = (int64_t)blockIdx.x * S::rows, col = (int64_t)blockIdx.y * p.lines;
  int n = (p.inner + S::depth - 1) / S::depth, early = PU_MIN(n, p.stages);
  bool fetches = threadIdx.x == S::consumers;
  fetcher<S> f = {x, w, &common, room, (int)row, (int)col, p.lines};
  let_next_start();
  if (fetches) fetch_early<S>(f, p, early);
  __syncthreads();
  if (fetches) fetch_stages<S>(f, p, early, n);
  if (threadIdx.x >= S::consumers) return;
  int sum[S::count][S::n / 2];
  fetch_scales<S>(p, &common, row, col);
  sum_stages<S>(sum, room, n, p, &common);
  store_sums<S>(p, &common, sum, row, col);
}

#endif

template <typename S>
__global__ void __launch_bounds__(S::threads, S::blocks)
    product_kernel(const product_args p, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w) {
#ifdef PU_WGMMA
  extern __shared__ __align__(1024) unsigned char raw[];
  product_block<S>(p, &x, &w, (shared_at(raw) + 1023) / 1024 * 1024);
#endif
}

/* ---- launch --------------------------------------------------------------------------------------------------------
 */

typedef struct product_plan {
  int rows, lines; /* of a block */
  int n, count;
  int ring; /* bytes of shared memory for stages */
} product_plan;

template <typename S>
static pu_err launch(pu_cuda *d, product_args p, const product_plan *plan, const CUtensorMap *x, const CUtensorMap *w,
                     pu_error *e) {
  const int stage = stage_bytes<S>(p.lines);
  p.stages = PU_MIN(PU_MAX(plan->ring / stage, 2), (int)MOST_STAGES);
  /* The last boxes of the last stage are read beyond its end. */
  const int behind = PU_MAX((S::boxes - 1) * S::x_box + S::x_reach - stage, S::w_reach - p.lines * BOX);
  const int bytes = stage * p.stages + PU_MAX(behind, 0) + 1024;
  PU_CUDA_TRY(cudaFuncSetAttribute(product_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "shared memory for a product", e);
  const dim3 grid((unsigned)ceil_div(p.rows, S::rows), (unsigned)ceil_div(p.cols, p.lines));
  pu_cuda_start(d, true, product_kernel<S>, grid, dim3(S::threads), (size_t)bytes, p, *x, *w);
  return pu_cuda_launched("a product in int8", e);
}

template <int ROWS>
static pu_err launch_few(pu_cuda *d, const product_args &p, const product_plan *plan, const CUtensorMap *x,
                         const CUtensorMap *w, pu_error *e) {
  switch (plan->n * plan->count) {
  case 16:
    return launch<shape<ROWS, 1, 16, 1>>(d, p, plan, x, w, e);
  case 32:
    return launch<shape<ROWS, 1, 32, 1>>(d, p, plan, x, w, e);
  case 64:
    return launch<shape<ROWS, 1, 64, 1>>(d, p, plan, x, w, e);
  case 128:
    return launch<shape<ROWS, 1, 64, 2>>(d, p, plan, x, w, e);
  case 192:
    return launch<shape<ROWS, 1, 64, 3>>(d, p, plan, x, w, e);
  default:
    return launch<shape<ROWS, 1, 64, 4>>(d, p, plan, x, w, e);
  }
}

static pu_err launch_many(pu_cuda *d, const product_args &p, const product_plan *plan, const CUtensorMap *x,
                          const CUtensorMap *w, pu_error *e) {
  switch (plan->lines) {
  case 32:
    return launch<shape<128, 2, 32, 1>>(d, p, plan, x, w, e);
  case 64:
    return launch<shape<128, 2, 64, 1>>(d, p, plan, x, w, e);
  case 128:
    return launch<shape<128, 2, 128, 1>>(d, p, plan, x, w, e);
  default:
    return launch<shape<128, 2, 256, 1>>(d, p, plan, x, w, e);
  }
}

static pu_err launch_rows(pu_cuda *d, const product_args &p, const product_plan *plan, const CUtensorMap *x,
                          const CUtensorMap *w, pu_error *e) {
  switch (plan->rows) {
  case 8:
    return launch_few<8>(d, p, plan, x, w, e);
  case 16:
    return launch_few<16>(d, p, plan, x, w, e);
  case 32:
    return launch_few<32>(d, p, plan, x, w, e);
  case 64:
    return launch_few<64>(d, p, plan, x, w, e);
  default:
    return launch_many(d, p, plan, x, w, e);
  }
}

/* As skinny.cu's: equal shares to all multiprocessors, in two blocks where there are many lines. */
static void plan_few(const pu_cuda *d, int64_t cols, product_plan *plan) {
  int64_t turns = ceil_div(cols, (int64_t)d->sms * MOST_LINES);
  plan->lines = (int)ceil_div(cols, turns * d->sms * 8) * 8;
  if (turns == 1 && plan->lines > 128) plan->lines = (int)ceil_div(plan->lines, 16) * 8, plan->ring = RING / 2;
  plan->n = plan->lines <= 16 ? 16 : plan->lines <= 32 ? 32 : 64;
  plan->count = (int)ceil_div(plan->lines, plan->n);
}

/* As wide a strip as leaves no multiprocessor without one. */
static product_plan plan_of(const pu_cuda *d, int64_t rows, int64_t cols) {
  product_plan plan = {};
  plan.rows = rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : rows <= 64 ? 64 : MOST_ROWS, plan.ring = RING;
  if (rows <= 64) {
    plan_few(d, cols, &plan);
    return plan;
  }
  for (plan.lines = MOST_LINES; plan.lines > 32; plan.lines /= 2)
    if (ceil_div(rows, MOST_ROWS) * ceil_div(cols, plan.lines) >= d->sms) break;
  if (plan.lines <= 128) plan.ring = RING / 2;
  return plan;
}

bool pu_cuda_has_int8_product(const pu_cuda *d) {
  return d->capability == 90;
}

pu_err pu_cuda_int8_product(pu_cuda *d, const pu_cuda_coded *x, const pu_cuda_coded *w, const pu_tensor *b,
                            const pu_tensor *y, pu_error *e) {
  product_plan plan = plan_of(d, x->rows, w->rows);
  product_args p = {y->data, x->scale, w->scale};
  p.y_step = y->stride[0], p.cols = w->rows, p.inner = (int)x->cols, p.rows = (int)x->rows, p.lines = plan.lines;
  p.y_f32 = y->dtype == PU_F32;
  if (b) p.bias = b->data, p.bias_f32 = b->dtype == PU_F32;
  CUtensorMap of_x, of_w; /* of pairs of values */
  PU_TRY(pu_cuda_map_of(d, x->codes, x->rows, x->cols / 2, x->cols / 2, plan.rows, &of_x, e));
  PU_TRY(pu_cuda_map_of(d, w->codes, w->rows, w->cols / 2, w->cols / 2, plan.lines, &of_w, e));
  return launch_rows(d, p, &plan, &of_x, &of_w, e);
}
