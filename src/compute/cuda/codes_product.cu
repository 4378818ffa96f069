/* Products of codes of 8 bits on Hopper's tensor cores, scaled where the sums are, of more rows than skinny.cu takes:
 * of int8 with a scale for each row of x and of w, of E4M3 with one for each row of x and each block of 128 x 128 of w.
 *
 * As there, one thread has the copy engine fetch stages ahead of their use. A block has 128 rows of x, 64 for each of
 * two warpgroups, and a strip of columns of y, which are lines of w: rows are operand A, lines operand B.
 *
 * Sums of int8 go on from stage to stage. Those of E4M3 are of one stage, which is one block's, and are then added up
 * with its scale; the warpgroups take turns at multiplying, so that one adds up while the other's products run.
 *
 * w rests: its first stages are asked for before the kernels before this one have ended. */
#include "src/compute/cuda/barriers.h"
#include "src/compute/cuda/block_scales.cuh"
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/wgmma.h"

enum { BOX = 128 /* values of a line, a byte each */, MOST_STAGES = 32, MOST_LINES = 256 };
enum { ROWS = 128 /* of a block */, CONSUMERS = 256 };
enum { RING = 200 << 10 /* bytes of a multiprocessor's shared memory for stages */ };

/* Codes of type V, LINES of w. */
template <typename V, int LINES> struct shape {
  typedef V value;
  typedef typename wide_sum<V>::type sum;
  static constexpr bool in_blocks = ::in_blocks<V>;
  static constexpr int lines = LINES, stage = (ROWS + LINES) * BOX; /* bytes: rows of x, then lines of w */
  /* Multiprocessors have at least so many blocks. Sums of one stage take registers of their own: lines at a time. */
  static constexpr int blocks = LINES <= (in_blocks ? 64 : 128) ? 2 : 1;
  static constexpr int part = in_blocks ? PU_MIN(LINES, PU_FP8_BLOCK) : LINES, parts = LINES / part;
  /* With two parts, of registers the fetching warpgroup's go to the others. */
  static constexpr bool takes = parts > 1;
  static constexpr int threads = CONSUMERS + (takes ? 128 : 32);
};

typedef struct product_args {
  void *y;
  const float *x_scale, *w_scale; /* of rows of x; of those of w, or of its blocks */
  const void *bias;
  int64_t y_step, cols;
  int inner, rows;
  int stages; /* in shared memory, behind so many scales of blocks */
  int scales;
  bool bias_f32, y_f32;
} product_args;

#ifdef PU_WGMMA

struct common {
  uint64_t full[MOST_STAGES], empty[MOST_STAGES]; /* a stage has arrived; it is used up */
  float x_scale[ROWS], w_scale[MOST_LINES], bias[MOST_LINES];
};

/* One thread's work: stages of x and w on their way. */
template <typename S> struct fetcher {
  const CUtensorMap *x, *w;
  common *c;
  uint32_t room;
  int row, line;

  /* Maps count pairs of values. */
  __device__ void fetch_w(int slot, int t) const {
    barrier_expect(&c->full[slot], S::stage);
    box_copy(room + slot * S::stage + ROWS * BOX, w, t * BOX / 2, line, &c->full[slot]);
  }
  __device__ void fetch_x(int slot, int t) const {
    box_copy(room + slot * S::stage, x, t * BOX / 2, row, &c->full[slot]);
  }
};

/* Before the other warps go on, so as to lose no time. */
template <typename S> __device__ static void fetch_early(const fetcher<S> &f, const product_args &p, int early) {
  map_ahead(f.w);
  for (int s = 0; s < p.stages; s++) {
    barrier_init(&f.c->full[s], 1);
    barrier_init(&f.c->empty[s], CONSUMERS / 32);
  }
  before_bulk();
  for (int t = 0; t < early; t++) f.fetch_w(t, t);
  map_ahead(f.x);
}

template <typename S>
__device__ static void fetch_stages(const fetcher<S> &f, const product_args &p, int early, int n) {
  ring_place at = {};
  wait_for_before();
  for (int t = 0; t < early; t++) f.fetch_x(t, t);
  for (int t = early; t < n; t++) {
    barrier_wait(&f.c->empty[at.slot], at.turn);
    f.fetch_w(at.slot, t);
    f.fetch_x(at.slot, t);
    at.go_on(p.stages);
  }
}

/* The next stage's products are asked for while this one's run. */
template <typename S>
__device__ static inline void sum_stages(int (&sum)[S::lines / 2], uint32_t room, int n, const product_args &p,
                                         common *common) {
  const uint32_t own = threadIdx.x / 128 * 64 * BOX;
  ring_place at = {};
  int last = 0;
  for (int t = 0; t < n; t++) {
    const uint32_t stage = room + at.slot * S::stage;
    barrier_wait(&common->full[at.slot], at.turn);
    wide_begin();
#pragma unroll
    for (int k = 0; k < BOX; k += 32)
      wide_mma(sum, wide_matrix(stage + own + k, 16), wide_matrix(stage + ROWS * BOX + k, 16), t || k);
    wide_commit();
    wide_wait<1>(); /* the stage before is used up */
    if (t && threadIdx.x % 32 == 0) barrier_arrive(&common->empty[last]);
    last = at.slot;
    at.go_on(p.stages);
  }
  wide_wait<0>();
  wide_settled(sum);
}

/* The warpgroups' turns: each waits for its own, which the other one gives it. */
__device__ static inline void wait_for_turn(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(2 + group), "r"(CONSUMERS) : "memory");
}
__device__ static inline void give_turn(int group) {
  asm volatile("bar.arrive %0, %1;" ::"r"(2 + group), "r"(CONSUMERS) : "memory");
}

/* Likewise, adding up stages with the scales of the blocks that they are. */
template <typename S>
__device__ static inline void sum_blocks(float (&sum)[S::lines / 2], uint32_t room, int n, const product_args &p,
                                         common *common, const float *scale) {
  const int group = (int)threadIdx.x / 128;
  float part[S::part / 2];
  const int step = block_scales_step(p.inner);
  ring_place at = {};
  for (int i = 0; i < S::lines / 2; i++) sum[i] = 0;
  if (group == 1) give_turn(0);
  for (int t = 0; t < n; t++) {
    const uint32_t stage = room + at.slot * S::stage;
    barrier_wait(&common->full[at.slot], at.turn);
#pragma unroll
    for (int i = 0; i < S::parts; i++) {
      wait_for_turn(group);
      wide_begin();
#pragma unroll
      for (int k = 0; k < BOX; k += 32)
        wide_mma(typename S::value(), part, wide_matrix(stage + group * 64 * BOX + k, 16),
                 wide_matrix(stage + (ROWS + i * S::part) * BOX + k, 16), k);
      wide_commit();
      if (group == 0 || t + 1 < n || i + 1 < S::parts) give_turn(1 - group);
      const float by = scale[i * step + t];
      wide_wait<0>();
      if (i + 1 == S::parts && threadIdx.x % 32 == 0) barrier_arrive(&common->empty[at.slot]);
      wide_settled(part);
#pragma unroll
      for (int k = 0; k < S::part / 2; k++) sum[i * (S::part / 2) + k] = fmaf(by, part[k], sum[i * (S::part / 2) + k]);
    }
    at.go_on(p.stages);
  }
}

/* ---- scaling ---- */

/* By all consumers: what sums are scaled by, into shared memory while the first stages are on their way. */
template <typename S>
__device__ static void fetch_scales(const product_args &p, common *c, float *block_scale, int64_t row, int64_t col) {
  if constexpr (S::in_blocks) fetch_block_scales<CONSUMERS, S::parts>(block_scale, p.w_scale, p.cols, p.inner, col);
  for (int i = (int)threadIdx.x; i < S::lines && col + i < p.cols; i += CONSUMERS) {
    if (!S::in_blocks) c->w_scale[i] = p.w_scale[col + i];
    if (p.bias) c->bias[i] = p.bias_f32 ? ((const float *)p.bias)[col + i] : to_f32(((const bf16 *)p.bias)[col + i]);
  }
  wait_for_before();
  for (int i = (int)threadIdx.x; i < ROWS && row + i < p.rows; i += CONSUMERS) c->x_scale[i] = p.x_scale[row + i];
  meet_threads<CONSUMERS>();
}

template <typename S>
__device__ static inline float scaled(const product_args &p, const common *c, typename S::sum sum, float x_scale,
                                      int line) {
  float v = __fmul_rn((float)sum, x_scale);
  if (!S::in_blocks) v = __fmul_rn(v, c->w_scale[line]);
  return p.bias ? __fadd_rn(v, c->bias[line]) : v;
}

__device__ static inline void store_two(const product_args &p, int64_t row, int64_t col, float first, float second) {
  int64_t at = row * p.y_step + col;
  if (p.y_f32)
    *(float2 *)((float *)p.y + at) = make_float2(first, second);
  else
    *(uint32_t *)((bf16 *)p.y + at) = pair_bf16(first, second);
}

/* Columns come in pairs: their number is a multiple of 16. */
template <typename S>
__device__ static void store_sums(const product_args &p, const common *common,
                                  const typename S::sum (&sum)[S::lines / 2], int64_t first, int64_t col) {
  const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = own + half * 8;
    if (first + row >= p.rows) continue;
    float by = common->x_scale[row];
#pragma unroll
    for (int i = 0; i < S::lines / 8; i++) {
      int line = i * 8 + lane % 4 * 2;
      if (col + line < p.cols)
        store_two(p, first + row, col + line, scaled<S>(p, common, sum[4 * i + 2 * half], by, line),
                  scaled<S>(p, common, sum[4 * i + 2 * half + 1], by, line + 1));
    }
  }
}

template <typename S>
__device__ static void product_block(const product_args &p, const CUtensorMap *x, const CUtensorMap *w,
                                     float *block_scale, uint32_t room) {
  __shared__ common common;
  int64_t row = (int64_t)blockIdx.x * ROWS, col = (int64_t)blockIdx.y * S::lines;
  int n = (p.inner + BOX - 1) / BOX, early = PU_MIN(n, p.stages);
  bool fetches = threadIdx.x == CONSUMERS;
  fetcher<S> f = {x, w, &common, room, (int)row, (int)col};
  let_next_start();
  if (fetches) fetch_early<S>(f, p, early);
  __syncthreads();
  if (threadIdx.x >= CONSUMERS) {
    if constexpr (S::takes) registers_less<24>();
    if (fetches) fetch_stages<S>(f, p, early, n);
    return;
  }
  if constexpr (S::takes) registers_more<240>();
  typename S::sum sum[S::lines / 2];
  fetch_scales<S>(p, &common, block_scale, row, col);
  if constexpr (S::in_blocks)
    sum_blocks<S>(sum, room, n, p, &common, block_scale);
  else
    sum_stages<S>(sum, room, n, p, &common);
  store_sums<S>(p, &common, sum, row, col);
}

#endif

template <typename S>
__global__ void __launch_bounds__(S::threads, S::blocks)
    product_kernel(const product_args p, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w) {
#ifdef PU_WGMMA
  extern __shared__ __align__(1024) unsigned char raw[];
  product_block<S>(p, &x, &w, (float *)raw, (shared_address(raw + p.scales * sizeof(float)) + 1023) / 1024 * 1024);
#endif
}

/* ---- launch ---- */

template <typename S> static pu_err launch(pu_cuda *d, const pu_cuda_product *q, pu_error *e) {
  product_args p = {q->y, q->a_scale, q->b_scale, q->bias, q->y_step, q->cols};
  p.inner = (int)q->inner, p.rows = (int)q->rows;
  p.bias_f32 = q->bias_type == PU_F32, p.y_f32 = q->y_type == PU_F32;
  p.scales = S::in_blocks ? S::parts * block_scales_step(q->inner) : 0;
  const int scales = p.scales * (int)sizeof(float);
  p.stages = PU_MIN((RING / S::blocks - scales) / S::stage, (int)MOST_STAGES);
  const int bytes = scales + S::stage * p.stages + 1024;
  CUtensorMap x, w; /* of pairs of values */
  PU_TRY(pu_cuda_map_of(d, q->a, q->rows, q->inner / 2, q->a_step / 2, ROWS, &x, e));
  PU_TRY(pu_cuda_map_of(d, q->b, q->cols, q->inner / 2, q->b_step / 2, S::lines, &w, e));
  PU_CUDA_TRY(cudaFuncSetAttribute(product_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "shared memory for a product", e);
  const dim3 grid((unsigned)ceil_div(p.rows, ROWS), (unsigned)ceil_div(p.cols, S::lines));
  pu_cuda_start(d, true, product_kernel<S>, grid, dim3(S::threads), (size_t)bytes, p, x, w);
  return pu_cuda_launched("a product of codes", e);
}

bool pu_cuda_has_codes_product(const pu_cuda *d) {
  return d->capability == 90;
}

/* As wide a strip as leaves no multiprocessor without one. */
template <typename V> static pu_err launch_lines(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  int lines = MOST_LINES;
  while (lines > 32 && ceil_div(p->rows, ROWS) * ceil_div(p->cols, lines) < d->sms) lines /= 2;
  switch (lines) {
  case 32:
    return launch<shape<V, 32>>(d, p, e);
  case 64:
    return launch<shape<V, 64>>(d, p, e);
  case 128:
    return launch<shape<V, 128>>(d, p, e);
  default:
    return launch<shape<V, 256>>(d, p, e);
  }
}

pu_err pu_cuda_codes_product(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  if (p->rows <= PU_SKINNY_ROWS) return pu_cuda_skinny(d, p, e);
  return p->int8 ? launch_lines<int8_t>(d, p, e) : launch_lines<e4m3_blocks>(d, p, e);
}
