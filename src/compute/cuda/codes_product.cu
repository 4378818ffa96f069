/* Products of codes of 8 bits on Hopper's tensor cores, scaled where the sums are, of more rows than skinny.cu takes:
 * of int8 with a scale for each row of x and of w, of E4M3 with one for each row of x and each block of 128 x 128 of w.
 *
 * As there, one thread has the copy engine fetch stages ahead of their use. A block makes tile after tile of y: 128
 * rows of x, 64 for each of two warpgroups, and a strip of columns of y, which are lines of w; rows are operand A,
 * lines operand B. The next tile's first stages, and what its sums are scaled by, come while this one is stored. The
 * warpgroups wait for each other nowhere.
 *
 * Sums of int8 go on from stage to stage. Those of E4M3 are of one stage, which is one block's, and are then added up
 * with its scale.
 *
 * w rests: its first stages are asked for before the kernels before this one have ended. */
#include "src/compute/cuda/barriers.h"
#include "src/compute/cuda/block_scales.cuh"
#include "src/compute/cuda/mma.h"
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/wgmma.h"

enum { BOX = 128 /* values of a line, a byte each */, MOST_STAGES = 32, MOST_LINES = 256 };
enum { ROWS = 128 /* of a tile */, GROUP = 128 /* threads */, GROUPS = 2, CONSUMERS = GROUPS * GROUP };
enum { RING = 200 << 10 /* bytes of a multiprocessor's shared memory for stages */ };

/* Codes of type V, LINES of w. */
template <typename V, int LINES> struct shape {
  typedef V value;
  typedef typename wide_sum<V>::type sum;
  static constexpr bool in_blocks = ::in_blocks<V>;
  static constexpr int lines = LINES, stage = (ROWS + LINES) * BOX; /* bytes: rows of x, then lines of w */
  /* Sums of one stage take registers of their own: lines at a time. */
  static constexpr int part = in_blocks ? PU_MIN(LINES, PU_FP8_BLOCK) : LINES, parts = LINES / part;
  /* Of many lines, the fetching warpgroup's registers go to the others. */
  static constexpr bool takes = LINES == MOST_LINES;
  static constexpr int threads = CONSUMERS + (takes ? 128 : 32);
};

typedef struct product_args {
  void *y;
  const float *x_scale, *w_scale; /* of rows of x; of those of w, or of its blocks */
  const void *bias;
  int64_t y_step, cols;
  int inner, rows;
  int high, tiles; /* tiles above each other; all of them */
  int stage;       /* bytes that come for one */
  int stages;      /* in shared memory, behind the scales of blocks */
  int scales;      /* of blocks, of a tile */
  bool bias_f32, y_f32;
} product_args;

#ifdef PU_WGMMA

/* What a warpgroup's sums are scaled by. */
struct scales {
  float x[ROWS / GROUPS], w[MOST_LINES];
};

struct common {
  uint64_t full[MOST_STAGES], empty[MOST_STAGES]; /* a stage has arrived; it is used up */
  scales of[GROUPS][2];                           /* of this tile and the next */
};

/* Rows that are not there take the copy engine longer than others: the last tile has rows of the one above it again. */
struct tile {
  int64_t row, col;
};
template <typename S> __device__ static inline tile tile_at(const product_args &p, int index) {
  return {PU_MIN((int64_t)(index % p.high) * ROWS, PU_MAX((int64_t)p.rows - ROWS, (int64_t)0)),
          (int64_t)(index / p.high) * S::lines};
}

/* ---- fetching ---- */

/* One thread's work: stages of x and w on their way. */
template <typename S> struct fetcher {
  const CUtensorMap *x, *w;
  common *c;
  uint32_t room;

  /* Maps count pairs of values. */
  __device__ void fetch_w(const product_args &p, const tile &to, int slot, int t) const {
    barrier_expect(&c->full[slot], p.stage);
    box_copy(room + slot * S::stage + ROWS * BOX, w, t * BOX / 2, (int)to.col, &c->full[slot]);
  }
  __device__ void fetch_x(const tile &to, int slot, int t) const {
    box_copy(room + slot * S::stage, x, t * BOX / 2, (int)to.row, &c->full[slot]);
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
  for (int t = 0; t < early; t++) f.fetch_w(p, tile_at<S>(p, blockIdx.x), t, t);
  map_ahead(f.x);
}

template <typename S>
__device__ static void fetch_stages(const fetcher<S> &f, const product_args &p, int early, int n) {
  ring_place at = {0, 1}; /* what was never full need not be waited for */
  wait_for_before();
  for (int index = (int)blockIdx.x; index < p.tiles; index += (int)gridDim.x) {
    const tile to = tile_at<S>(p, index);
    for (int t = 0; t < n; t++) {
      if (t >= early) {
        barrier_wait(&f.c->empty[at.slot], at.turn);
        f.fetch_w(p, to, at.slot, t);
      }
      f.fetch_x(to, at.slot, t);
      at.go_on(p.stages);
    }
    early = 0;
  }
}

/* By a warpgroup's threads, for a tile: what its sums are scaled by, but for what is x's; that. They arrive later. */
template <typename S>
__device__ static void fetch_w_scales(const product_args &p, const tile &at, scales *to, float *blocks) {
  const int own = (int)threadIdx.x % GROUP;
  if constexpr (S::in_blocks) {
    fetch_block_scales<GROUP, S::parts>(blocks, p.w_scale, p.cols, p.inner, at.col);
  } else {
    for (int i = own; i < S::lines; i += GROUP)
      copy_async_word(shared_address(&to->w[i]), p.w_scale + PU_MIN(at.col + i, p.cols - 1),
                      at.col + i < p.cols ? 4 : 0);
  }
}
__device__ static inline void fetch_x_scales(const product_args &p, const tile &at, scales *to) {
  const int own = (int)threadIdx.x % GROUP;
  const int64_t row = at.row + (int)threadIdx.x / GROUP * (ROWS / GROUPS) + own;
  if (own < ROWS / GROUPS)
    copy_async_word(shared_address(&to->x[own]), p.x_scale + PU_MIN(row, (int64_t)p.rows - 1), row < p.rows ? 4 : 0);
}

/* ---- summing ---- */

/* The next stage's products are asked for while this one's run. */
template <typename S>
__device__ static inline void sum_stages(int (&sum)[S::lines / 2], uint32_t room, int n, const product_args &p,
                                         common *common, ring_place *ring) {
  const uint32_t own = threadIdx.x / GROUP * 64 * BOX;
  ring_place at = *ring;
  int last = 0;
  for (int i = 0; i < S::lines / 2; i++) sum[i] = 0;
  for (int t = 0; t < n; t++) {
    const uint32_t stage = room + at.slot * S::stage;
    barrier_wait(&common->full[at.slot], at.turn);
    wide_begin();
#pragma unroll
    for (int k = 0; k < BOX; k += 32)
      wide_mma(sum, wide_matrix(stage + own + k, 16), wide_matrix(stage + ROWS * BOX + k, 16), 1);
    wide_commit();
    wide_wait<1>(); /* the stage before is used up */
    if (t && threadIdx.x % 32 == 0) barrier_arrive(&common->empty[last]);
    last = at.slot;
    at.go_on(p.stages);
  }
  wide_wait<0>(sum);
  if (threadIdx.x % 32 == 0) barrier_arrive(&common->empty[last]);
  *ring = at;
}

/* Likewise, adding up stages with the scales of the blocks that they are. */
template <typename S>
__device__ static inline void sum_blocks(float (&sum)[S::lines / 2], uint32_t room, int n, const product_args &p,
                                         common *common, const float *scale, ring_place *ring) {
  const uint32_t own = threadIdx.x / GROUP * 64 * BOX;
  const int step = block_scales_step(p.inner);
  float part[S::part / 2];
  ring_place at = *ring;
  for (int i = 0; i < S::lines / 2; i++) sum[i] = 0;
  for (int t = 0; t < n; t++) {
    const uint32_t stage = room + at.slot * S::stage;
    barrier_wait(&common->full[at.slot], at.turn);
#pragma unroll
    for (int i = 0; i < S::parts; i++) {
      wide_begin();
#pragma unroll
      for (int k = 0; k < BOX; k += 32)
        wide_mma(typename S::value(), part, wide_matrix(stage + own + k, 16),
                 wide_matrix(stage + (ROWS + i * S::part) * BOX + k, 16), k);
      wide_commit();
      const float by = scale[i * step + t];
      wide_wait<0>(part);
      if (i + 1 == S::parts && threadIdx.x % 32 == 0) barrier_arrive(&common->empty[at.slot]);
#pragma unroll
      for (int k = 0; k < S::part / 2; k++) sum[i * (S::part / 2) + k] = fmaf(by, part[k], sum[i * (S::part / 2) + k]);
    }
    at.go_on(p.stages);
  }
  *ring = at;
}

/* ---- storing ---- */

template <typename S>
__device__ static inline float2 scaled_two(const product_args &p, const scales &s, typename S::sum first,
                                           typename S::sum second, float by, int64_t col, int line) {
  float2 v = make_float2(__fmul_rn((float)first, by), __fmul_rn((float)second, by));
  if (!S::in_blocks) v.x = __fmul_rn(v.x, s.w[line]), v.y = __fmul_rn(v.y, s.w[line + 1]);
  if (!p.bias || col + line >= p.cols) return v;
  const int64_t at = col + line;
  const float2 bias = p.bias_f32
                          ? make_float2(((const float *)p.bias)[at], ((const float *)p.bias)[at + 1])
                          : make_float2(to_f32(((const bf16 *)p.bias)[at]), to_f32(((const bf16 *)p.bias)[at + 1]));
  return make_float2(__fadd_rn(v.x, bias.x), __fadd_rn(v.y, bias.y));
}

/* The q-th of a quad's lanes gets the q-th word of each of them. */
__device__ static inline void exchange(uint32_t &a, uint32_t &b, bool upper, int far) {
  const uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? a : b, far);
  a = upper ? other : a;
  b = upper ? b : other;
}
__device__ static inline void exchange(uint32_t (&v)[4], int q) {
  exchange(v[0], v[1], q & 1, 1);
  exchange(v[2], v[3], q & 1, 1);
  exchange(v[0], v[2], q & 2, 2);
  exchange(v[1], v[3], q & 2, 2);
}

/* Of 32 columns a lane of a quad has four pairs, 8 apart; it stores them, or, in bf16, eight columns side by side.
 * Their number is a multiple of 16. */
template <typename S>
__device__ static void store_sums(const product_args &p, const scales &s, const typename S::sum (&sum)[S::lines / 2],
                                  const tile &to) {
  const int lane = threadIdx.x % 32, quad = lane % 4, own = (int)threadIdx.x % GROUP / 32 * 16 + lane / 4;
  const int64_t first = to.row + (int)threadIdx.x / GROUP * (ROWS / GROUPS) + own;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const bool there = first + half * 8 < p.rows;
    const int64_t at = (first + half * 8) * p.y_step + to.col;
    const float by = s.x[own + half * 8];
#pragma unroll
    for (int g = 0; g < S::lines / 32; g++) {
      typename S::sum own_sum[8];
      uint32_t word[4];
#pragma unroll
      for (int i = 0; i < 8; i++) own_sum[i] = sum[4 * (4 * g + i / 2) + 2 * half + i % 2];
      wide_settled(own_sum); /* no group's values are there before their turn: registers are few */
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int line = (4 * g + i) * 8 + quad * 2;
        const float2 v = scaled_two<S>(p, s, own_sum[2 * i], own_sum[2 * i + 1], by, to.col, line);
        word[i] = pair_bf16(v.x, v.y);
        if (p.y_f32 && there && to.col + line < p.cols) *(float2 *)((float *)p.y + at + line) = v;
      }
      if (p.y_f32) continue;
      exchange(word, quad);
      const int line = g * 32 + quad * 8;
      if (there && to.col + line < p.cols)
        *(uint4 *)((bf16 *)p.y + at + line) = make_uint4(word[0], word[1], word[2], word[3]);
    }
  }
}

/* ---- the kernel ---- */

/* A warpgroup's threads wait for each other. */
__device__ static inline void meet_group() {
  if (threadIdx.x < GROUP)
    asm volatile("bar.sync 1, %0;" ::"n"((int)GROUP) : "memory");
  else
    asm volatile("bar.sync 2, %0;" ::"n"((int)GROUP) : "memory");
}

template <typename S>
__device__ static void use_stages(const product_args &p, common *common, float *blocks, uint32_t room, int n) {
  const int group = (int)threadIdx.x / GROUP;
  scales *of = common->of[group];
  ring_place ring = {};
  int turn = 0;
  blocks += group * 2 * p.scales;
  fetch_w_scales<S>(p, tile_at<S>(p, blockIdx.x), of, blocks);
  wait_for_before();
  fetch_x_scales(p, tile_at<S>(p, blockIdx.x), of);
  copies_commit();
  for (int index = (int)blockIdx.x; index < p.tiles; index += (int)gridDim.x, turn ^= 1) {
    const int next = index + (int)gridDim.x;
    typename S::sum sum[S::lines / 2];
    copies_wait<0>();
    meet_group();
    if (next < p.tiles) {
      fetch_w_scales<S>(p, tile_at<S>(p, next), &of[turn ^ 1], blocks + (turn ^ 1) * p.scales);
      fetch_x_scales(p, tile_at<S>(p, next), &of[turn ^ 1]);
    }
    copies_commit();
    if constexpr (S::in_blocks)
      sum_blocks<S>(sum, room, n, p, common, blocks + turn * p.scales, &ring);
    else
      sum_stages<S>(sum, room, n, p, common, &ring);
    store_sums<S>(p, of[turn], sum, tile_at<S>(p, index));
  }
}

template <typename S>
__device__ static void product_block(const product_args &p, const CUtensorMap *x, const CUtensorMap *w, float *blocks,
                                     uint32_t room) {
  __shared__ common common;
  const int n = (p.inner + BOX - 1) / BOX, early = PU_MIN(n, p.stages);
  const bool fetches = threadIdx.x == CONSUMERS;
  const fetcher<S> f = {x, w, &common, room};
  let_next_start();
  if (fetches) fetch_early<S>(f, p, early);
  __syncthreads();
  if (threadIdx.x >= CONSUMERS) {
    if constexpr (S::takes) registers_less<24>();
    if (fetches) fetch_stages<S>(f, p, early, n);
    return;
  }
  if constexpr (S::takes) registers_more<240>();
  use_stages<S>(p, &common, blocks, room, n);
}

#endif

template <typename S>
__global__ void __launch_bounds__(S::threads, 1)
    product_kernel(const product_args p, const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap w) {
#ifdef PU_WGMMA
  extern __shared__ __align__(1024) unsigned char raw[];
  const uint32_t room = shared_address(raw + GROUPS * 2 * p.scales * sizeof(float));
  product_block<S>(p, &x, &w, (float *)raw, (room + 1023) / 1024 * 1024);
#endif
}

/* ---- launch ---- */

template <typename S> static pu_err launch(pu_cuda *d, const pu_cuda_product *q, pu_error *e) {
  product_args p = {q->y, q->a_scale, q->b_scale, q->bias, q->y_step, q->cols};
  const int box = (int)PU_MIN(ceil_div(q->rows, 8) * 8, (int64_t)ROWS); /* rows that are not there take time, too */
  p.inner = (int)q->inner, p.rows = (int)q->rows;
  p.high = (int)ceil_div(p.rows, ROWS), p.tiles = p.high * (int)ceil_div(p.cols, S::lines);
  p.bias_f32 = q->bias_type == PU_F32, p.y_f32 = q->y_type == PU_F32;
  p.scales = S::in_blocks ? S::parts * block_scales_step(q->inner) : 0;
  const int scales = GROUPS * 2 * p.scales * (int)sizeof(float);
  p.stage = (box + S::lines) * BOX;
  p.stages = PU_MIN((RING - scales) / S::stage, (int)MOST_STAGES);
  const int bytes = scales + S::stage * p.stages + 1024;
  CUtensorMap x, w; /* of pairs of values */
  PU_TRY(pu_cuda_map_of(d, q->a, q->rows, q->inner / 2, q->a_step / 2, box, &x, e));
  PU_TRY(pu_cuda_map_of(d, q->b, q->cols, q->inner / 2, q->b_step / 2, S::lines, &w, e));
  PU_CUDA_TRY(cudaFuncSetAttribute(product_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "shared memory for a product", e);
  const dim3 grid((unsigned)PU_MIN(p.tiles, d->sms));
  pu_cuda_start(d, true, product_kernel<S>, grid, dim3(S::threads), (size_t)bytes, p, x, w);
  return pu_cuda_launched("a product of codes", e);
}

bool pu_cuda_has_codes_product(const pu_cuda *d) {
  return d->capability == 90;
}

/* What one multiprocessor has to do at most: of its tiles, the lines, and what each takes however many it has. */
static int64_t longest(const pu_cuda *d, const pu_cuda_product *p, int lines) {
  enum { MORE = 64 };
  return ceil_div(ceil_div(p->rows, ROWS) * ceil_div(p->cols, lines), d->sms) * (lines + MORE);
}

template <typename V> static pu_err launch_lines(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  int best = MOST_LINES;
  for (int lines = MOST_LINES / 2; lines >= 32; lines /= 2)
    if (longest(d, p, lines) < longest(d, p, best)) best = lines;
  switch (best) {
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
