/* Products of weights in few bits with some tokens, up to PACKED_BATCH: as fast as memory gives the weights, on
 * Hopper's warpgroup instructions (wgmma).
 *
 * The left operand of a product are weights as whole numbers in bf16 (four bits: 128 + q, eight: q - 128), which two
 * warpgroups of 64 rows each make in registers; the right one is x as it is, from shared memory. A group's sum, of 64
 * inputs at most, is then less the zero times the sum of the group's x, scaled, and added in f32: no weight is rounded.
 * While products of one group run, those of the next are made ready, and the sums of the one before are added. A warp
 * sums up x.
 *
 * Weights are pieces of 128 rows by 128 inputs, which lie one after another. A piece and x of its inputs are a stage of
 * a ring, for which one thread asks (copy engine), for weights before the kernel before this one has ended. All blocks
 * of threads have as many pieces, from any row's first or middle inputs on. Sums of rows of which several blocks have
 * some inputs go into work memory, and the block that comes last adds them in the order of inputs. The division depends
 * on the matrix and the device alone, and so do a token's bits. */
#include <cuda.h>

#include "src/compute/cuda/barriers.h"
#include "src/compute/cuda/mma.h"
#include "src/compute/cuda/packed_batch.h"
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/wgmma.h"

enum { TILE = PACKED_BLOCKS * PACKED_ROWS, BOX = 64, CONSUMERS = 256, THREADS = CONSUMERS + 64, MOST_STAGES = 8 };

typedef struct batch_job {
  const uint8_t *w;
  packed_layout l;
  int64_t rows;
  int tokens;
  uint32_t each, more; /* units (pieces of 128 rows) of a block of threads; the first `more` have one more */
  int stages;
  float4 *sums;      /* [blocks of threads, 2, BN / 8, CONSUMERS] */
  uint32_t *arrived; /* of a tile, by the block of threads that has its first inputs: how many parts are there */
  packed_y y;
  packed_parts of;
  int token_tiles; /* at most, of all parts */
  int blocks;      /* of threads */
} batch_job;

/* Where a block of threads works: units [from, to) of a matrix, tokens [token, end). */
typedef struct batch_place {
  const uint8_t *w;
  int from, to, token, end;
} batch_place;

template <int BITS, int GROUP, bool ZEROS, int BN> struct batch_shape {
  static constexpr int step = GROUP < 64 ? GROUP : 64, steps = PACKED_PIECE / step; /* inputs whose sum is scaled */
  static constexpr int scales = ZEROS ? 64 : 32;                                    /* bytes of a group, of 16 rows */
  static constexpr int piece = PACKED_ROWS * PACKED_PIECE * BITS / 8 + PACKED_PIECE / GROUP * scales;
  static constexpr int w_stage = PACKED_BLOCKS * piece, x_stage = BN * PACKED_PIECE * 2;
  static constexpr int sums_stage = steps * BN * 4, stage = w_stage + x_stage + sums_stage;
  /* What is taken off: the weights of whole numbers stand for. */
  static constexpr float more = BITS == 4 ? 128 : -128, middle = 1 << (BITS - 1);
  static constexpr bool level = !ZEROS && more + middle == 0; /* nothing */
};

/* Where stages begin, in bytes: x (a multiple of 1,024), sums of x, weights. */
template <class S> struct batch_room {
  uint32_t at;
  int stages;
  __device__ uint32_t x(int slot) const {
    return at + slot * S::x_stage;
  }
  __device__ uint32_t sums(int slot) const {
    return at + stages * S::x_stage + slot * S::sums_stage;
  }
  __device__ uint32_t w(int slot) const {
    return at + stages * (S::x_stage + S::sums_stage) + slot * S::w_stage;
  }
};

struct batch_barriers {
  uint64_t full[MOST_STAGES], summed[MOST_STAGES], empty[MOST_STAGES];
};

#ifdef PU_WGMMA

/* Block b has units [first_unit(b), first_unit(b + 1)). */
__device__ static inline int first_unit(const batch_job &j, uint32_t block) {
  return (int)(block * j.each + min(block, j.more));
}

/* The number-th tile of `width` tokens of the parts, each of which has its own, the last of them not full: a warp's
 * work. Where there are not so many, token is end. Returns the part. */
__device__ static inline int find_tile(const packed_parts &of, int width, int number, int *token, int *end) {
  const int lane = threadIdx.x % 32;
  *token = *end = 0;
  for (int first = 0; first < of.n; first += 32) {
    const int m = first + lane, from = m < of.n ? of.offsets[m] : 0, to = m < of.n ? of.offsets[m + 1] : 0;
    const int tiles = (to - from + width - 1) / width;
    int sum = tiles;
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      int below = __shfl_up_sync(0xffffffffu, sum, o);
      if (lane >= o) sum += below;
    }
    const uint32_t here = __ballot_sync(0xffffffffu, number < sum);
    if (here) {
      const int at = __ffs((int)here) - 1, before = __shfl_sync(0xffffffffu, sum - tiles, at);
      *token = __shfl_sync(0xffffffffu, from, at) + (number - before) * width;
      *end = __shfl_sync(0xffffffffu, to, at);
      return first + at;
    }
    number -= __shfl_sync(0xffffffffu, sum, 31);
  }
  return 0;
}

/* A block has one tile of a part, and all inputs. */
template <int BN> __device__ static inline batch_place place_among(const batch_job &j) {
  batch_place p = {};
  const int tile = (int)blockIdx.x % j.token_tiles;
  p.from = (int)blockIdx.x / j.token_tiles * (int)j.l.pieces;
  p.to = p.from + (int)j.l.pieces;
  p.w = j.w + find_tile(j.of, BN, tile, &p.token, &p.end) * j.of.step;
  return p;
}

__device__ static inline batch_place place_alone(const batch_job &j) {
  batch_place p = {j.w, first_unit(j, blockIdx.x), first_unit(j, blockIdx.x + 1), 0, j.tokens};
  return p;
}

/* ---- stages ---- */

/* One thread's work: weights of all units, which lie one after another, and x. */
template <class S> struct batch_fetcher {
  const batch_job &j;
  const CUtensorMap *map;
  batch_barriers *bars;
  batch_room<S> room;
  const uint8_t *w;
  int token, pieces, w_piece, x_piece, w_tile;

  __device__ batch_fetcher(const batch_job &job, const CUtensorMap *m, batch_barriers *b, const batch_room<S> &r,
                           const batch_place &p)
      : j(job), map(m), bars(b), room(r), token(p.token), pieces((int)job.l.pieces) {
    w_tile = p.from / pieces;
    x_piece = w_piece = p.from - w_tile * pieces;
    w = p.w + packed_at(j.l, (int64_t)w_tile * PACKED_BLOCKS, w_piece);
  }
  __device__ void fetch_w(int slot) {
    const bool last = ++w_piece == pieces;
    const int blocks = min((int)PACKED_BLOCKS, (int)j.l.blocks - w_tile * PACKED_BLOCKS),
              bytes = blocks * (int)(last ? j.l.tail_bytes : j.l.piece_bytes);
    barrier_expect(&bars->full[slot], bytes + S::x_stage);
    bulk_copy(room.w(slot), w, bytes, &bars->full[slot]);
    w += bytes;
    if (last) w_piece = 0, w_tile++;
  }
  __device__ void fetch_x(int slot) {
    for (int i = 0; i < 2; i++)
      box_copy(room.x(slot) + i * (S::x_stage / 2), map, x_piece * PACKED_PIECE + i * BOX, token, &bars->full[slot]);
    if (++x_piece == pieces) x_piece = 0;
  }
};

/* The first stages' weights are asked for. n: stages in all. */
template <class S> __device__ static inline void fetch_stages(batch_fetcher<S> &f, int early, int n) {
  ring_place p = {0, 0};
#pragma unroll 1
  for (int t = 0; t < early; t++) f.fetch_x(t);
#pragma unroll 1
  for (int t = early; t < n; t++, p.go_on(f.j.stages)) {
    barrier_wait(&f.bars->empty[p.slot], p.turn);
    f.fetch_w(p.slot);
    f.fetch_x(p.slot);
  }
}

/* Sums of a stage's x over each step: products with ones. Steps and eight tokens each are chains apart, lest each
 * product wait for the one before. */
template <class S, int BN> __device__ static inline void sum_stage(uint32_t x, uint32_t sums, int lane) {
  constexpr int in_step = S::step / 32, TILES = BN / 8;
  const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
  uint32_t b[TILES][4][4];
  float c[TILES][S::steps][4] = {};
#pragma unroll
  for (int n = 0; n < TILES; n++)
#pragma unroll
    for (int k = 0; k < 4; k++) load_matrices(b[n][k], x + wide_at<BN>(n * 8 + lane % 8, k * 4 + lane / 8));
#pragma unroll
  for (int i = 0; i < in_step * 2; i++)
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
      for (int s = 0; s < S::steps; s++)
        mma(c[n][s], ones, b[n][s * in_step + i / 2][i % 2 * 2], b[n][s * in_step + i / 2][i % 2 * 2 + 1]);
  if (lane >= 4) return;
#pragma unroll
  for (int n = 0; n < TILES; n++)
#pragma unroll
    for (int s = 0; s < S::steps; s++)
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(sums + (s * BN + n * 8 + lane * 2) * 4), "f"(c[n][s][0]),
                   "f"(c[n][s][1])
                   : "memory");
}

/* A warp's work: sums of x of all stages. */
template <class S, int BN>
__device__ static inline void sum_stages(const batch_room<S> &room, batch_barriers *bars, int n, int lane) {
  ring_place p = {0, 0};
#pragma unroll 1
  for (int t = 0; t < n; t++, p.go_on(room.stages)) {
    barrier_wait(&bars->full[p.slot], p.turn);
    sum_stage<S, BN>(room.x(p.slot), room.sums(p.slot), lane);
    __syncwarp();
    if (lane == 0) barrier_arrive(&bars->summed[p.slot]);
  }
}

/* ---- products ---- */

__device__ static inline uint2 shared8(uint32_t at) {
  uint2 v;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
  return v;
}
__device__ static inline uint4 shared16(uint32_t at) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at));
  return v;
}

/* What a step's sums are scaled by, and how often the sum of its x is added: rows g and g + 8. */
typedef struct batch_scale {
  float2 scale, zero;
} batch_scale;

template <class S, bool ZEROS> __device__ static inline batch_scale scale_of(uint32_t at) {
  batch_scale s = {{}, {-S::middle - S::more, -S::middle - S::more}};
  if (ZEROS) {
    uint2 v = shared8(at);
    float2 zero = __half22float2(*(const __half2 *)&v.y);
    s.scale = __half22float2(*(const __half2 *)&v.x), s.zero = make_float2(-S::more - zero.x, -S::more - zero.y);
  } else {
    uint32_t v;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(at));
    s.scale = __half22float2(*(const __half2 *)&v);
  }
  return s;
}

/* The left operands of one step. q: the bits of a warp's sixteen rows, as this lane has them. */
template <int BITS, int STEP>
__device__ static inline void unpack_step(uint32_t a[STEP / 16][4], uint32_t q, int s, int inputs, int lane) {
  __align__(16) uint32_t v[STEP / 16 * BITS / 4];
  if (BITS == 4 && STEP == 32) {
    const int unit = s / 2; /* the last unit may be half a one, of eight bytes a lane */
    *(uint2 *)v = shared8(q + unit * PACKED_UNIT - (inputs == unit * 64 + 32 ? lane * 8 : 0) + s % 2 * 8);
  } else {
#pragma unroll
    for (int i = 0; i < STEP * BITS / 256; i++)
      *(uint4 *)(v + i * 4) = shared16(q + (s * (STEP * BITS / 256) + i) * PACKED_UNIT);
  }
#pragma unroll
  for (int k = 0; k < STEP / 16; k++) {
    if (BITS == 4) {
#pragma unroll
      for (int i = 0; i < 4; i++) a[k][i] = pair4(v[k], i);
    } else {
      unpack8(v[k * 2], a[k]), unpack8(v[k * 2 + 1], a[k] + 2);
    }
  }
}

/* Operands are made before the products that read them, wherever else the compiler would make them. */
template <int N> __device__ static inline void made(uint32_t (&a)[N][4]) {
#pragma unroll
  for (int k = 0; k < N; k++) asm volatile("" : "+r"(a[k][0]), "+r"(a[k][1]), "+r"(a[k][2]), "+r"(a[k][3])::"memory");
}

/* Sums of x of one step and this lane's tokens. */
template <int BN> struct batch_x_sums { uint2 of[BN / 8]; };

template <class S, int BN> __device__ static inline batch_x_sums<BN> load_sums(uint32_t at) {
  batch_x_sums<BN> x = {};
#pragma unroll
  for (int n = 0; n < BN / 8; n++)
    if (!S::level) x.of[n] = shared8(at + n * 32);
  return x;
}

template <class S, int BN>
__device__ static inline void add_step(float (&acc)[BN / 2], const float (&sum)[BN / 2], const batch_scale &s,
                                       const batch_x_sums<BN> &x) {
#pragma unroll
  for (int i = 0; i < BN / 2; i++) {
    const uint2 of = x.of[i / 4];
    float v = sum[i];
    if (!S::level) v = fmaf(i % 4 < 2 ? s.zero.x : s.zero.y, __uint_as_float(i % 2 ? of.y : of.x), v);
    acc[i] = fmaf(i % 4 < 2 ? s.scale.x : s.scale.y, v, acc[i]);
  }
}

/* Where in a piece this lane's bits and scales are, of a whole piece or the last one. */
typedef struct batch_lane {
  int q, scales, inputs;
} batch_lane;

template <class S, int BITS> __device__ static inline batch_lane lane_of(int inputs, int bytes, int thread) {
  batch_lane l;
  int q = thread / 32 * bytes, lane = thread % 32;
  l.inputs = inputs;
  l.q = q + lane * 16;
  l.scales = q + inputs * (PACKED_ROWS * BITS / 8) + lane / 4 * (S::scales / 8);
  return l;
}

/* The products of a step, which are on their way when this returns. x: the stage's. */
template <class S, int BN>
__device__ static inline void multiply_step(float (&sum)[BN / 2], uint32_t (&a)[S::step / 16][4], uint64_t x, int s) {
  made(a);
  wide_begin();
#pragma unroll
  for (int k = 0; k < S::step / 16; k++) {
    const int at = (s * S::step + k * 16) / 8; /* of eight inputs */
    wide_mma<0>(sum, a[k], wide_further(x, at / 8 * (S::x_stage / 2) + at % 8 * 16), k > 0);
  }
  wide_commit();
}

/* acc = the sums of pieces [from, to) of a tile. */
template <int BITS, int GROUP, bool ZEROS, int BN>
__device__ static inline void multiply_pieces(float (&acc)[BN / 2], const batch_job &j, int from, int to,
                                              const batch_room<batch_shape<BITS, GROUP, ZEROS, BN>> &room,
                                              batch_barriers *bars, ring_place &p, int thread) {
  using S = batch_shape<BITS, GROUP, ZEROS, BN>;
  const int lane = thread % 32, pieces = (int)j.l.pieces;
  const batch_lane whole = lane_of<S, BITS>(PACKED_PIECE, S::piece, thread),
                   tail = lane_of<S, BITS>(j.l.tail, (int)j.l.tail_bytes, thread);
  float sum[2][BN / 2];
  uint32_t a[2][S::step / 16][4];
#pragma unroll
  for (int i = 0; i < BN / 2; i++) acc[i] = sum[0][i] = sum[1][i] = 0;
  batch_lane here = from + 1 == pieces ? tail : whole;
  uint32_t w = room.w(p.slot);
  barrier_wait(&bars->full[p.slot], p.turn);
  unpack_step<BITS, S::step>(a[0], w + here.q, 0, here.inputs, lane);
#pragma unroll 1
  for (int piece = from; piece < to; piece++) {
    const uint64_t x = wide_matrix(room.x(p.slot), 16);
    const uint32_t sums = room.sums(p.slot) + lane % 4 * 8;
    batch_scale before;
    auto finish = [&](int s) {
      if (s == 0 && !S::level) barrier_wait(&bars->summed[p.slot], p.turn);
      const batch_x_sums<BN> xs = load_sums<S, BN>(sums + s * BN * 4);
      wide_wait<1>(sum[s % 2]);
      add_step<S, BN>(acc, sum[s % 2], before, xs);
    };
#pragma unroll
    for (int s = 0; s < S::steps; s++) {
      batch_scale of = scale_of<S, ZEROS>(w + here.scales + s * S::step / GROUP * S::scales);
      /* Of a short piece the steps that it does not have count nothing: x is zeros, bits are numbers whichever they
       * are, but a scale may be none. */
      if (s > 0 && s * S::step >= here.inputs) of.scale = of.zero = make_float2(0, 0);
      if (s > 0) unpack_step<BITS, S::step>(a[s % 2], w + here.q, s, here.inputs, lane);
      multiply_step<S, BN>(sum[s % 2], a[s % 2], x, s);
      if (s > 0) finish(s - 1);
      before = of;
    }
    uint64_t *left = &bars->empty[p.slot];
    p.go_on(room.stages);
    if (piece + 1 < to) {
      here = piece + 2 == pieces ? tail : whole;
      w = room.w(p.slot);
      barrier_wait(&bars->full[p.slot], p.turn);
      unpack_step<BITS, S::step>(a[0], w + here.q, 0, here.inputs, lane);
    }
    wide_wait<0>(sum[1]);
    add_step<S, BN>(acc, sum[1], before, load_sums<S, BN>(sums + (S::steps - 1) * BN * 4));
    __syncwarp();
    if (lane == 0) barrier_arrive(left);
  }
}

/* ---- sums out ---- */

template <int BN, typename Y>
__device__ static inline void store_tile(const float (&acc)[BN / 2], const batch_job &j, const batch_place &p, int tile,
                                         int thread) {
  int64_t row = (int64_t)tile * TILE + thread / 32 * PACKED_ROWS + thread % 32 / 4;
  float bias[2] = {bias_at(j.y, row, j.rows), bias_at(j.y, row + 8, j.rows)};
#pragma unroll
  for (int i = 0; i < BN / 2; i++) {
    int token = p.token + i / 4 * 8 + thread % 4 * 2 + i % 2;
    int64_t at = row + i / 2 % 2 * 8;
    if (token < p.end && at < j.rows) ((Y *)j.y.y)[token * j.y.step + at] = from_f32<Y>(acc[i] + bias[i / 2 % 2]);
  }
}

/* Whether all `n` who have a part of a tile have been here: the last one is told so. */
__device__ static inline bool comes_last(uint32_t *arrived, uint32_t n, uint32_t *told, int thread) {
  meet_threads<CONSUMERS>();
  if (thread == 0) {
    uint32_t before;
    __threadfence();
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(arrived) : "memory");
    *told = before + 1 == n;
    if (before + 1 == n) *arrived = 0;
  }
  meet_threads<CONSUMERS>();
  return *told;
}

/* False: another block of threads goes on with the tile. */
template <int BN>
__device__ static inline bool gather(float (&acc)[BN / 2], const batch_job &j, int tile, uint32_t *told, int thread) {
  const int begin = tile * (int)j.l.pieces, end = begin + (int)j.l.pieces;
  uint32_t first = blockIdx.x, last = first;
  while (first_unit(j, first) > begin) first--;
  while (first_unit(j, last + 1) < end) last++;
  if (first == last) return true;
  auto part = [&](uint32_t block) {
    uint32_t second = first_unit(j, block) < begin; /* it has the end of another tile too */
    return j.sums + (block * 2 + second) * (BN / 8) * CONSUMERS + thread;
  };
  float4 *to = part(blockIdx.x);
#pragma unroll
  for (int i = 0; i < BN / 8; i++)
    to[i * CONSUMERS] = make_float4(acc[i * 4], acc[i * 4 + 1], acc[i * 4 + 2], acc[i * 4 + 3]);
  if (!comes_last(j.arrived + first, last - first + 1, told, thread)) return false;
#pragma unroll
  for (int i = 0; i < BN / 2; i++) acc[i] = 0;
#pragma unroll 2
  for (uint32_t block = first; block <= last; block++) {
    const float4 *from = part(block);
#pragma unroll
    for (int i = 0; i < BN / 8; i++) {
      float4 v = __ldcg(from + i * CONSUMERS);
      acc[i * 4] += v.x, acc[i * 4 + 1] += v.y, acc[i * 4 + 2] += v.z, acc[i * 4 + 3] += v.w;
    }
  }
  return true;
}

template <int BITS, int GROUP, bool ZEROS, int BN>
__device__ static inline void run_units(const batch_job &j, const batch_place &at,
                                        const batch_room<batch_shape<BITS, GROUP, ZEROS, BN>> &room,
                                        batch_barriers *bars, uint32_t *told, int thread) {
  const int pieces = (int)j.l.pieces;
  ring_place p = {0, 0};
  for (int unit = at.from; unit < at.to;) {
    int tile = unit / pieces, begin = unit - tile * pieces, end = min(pieces, begin + at.to - unit);
    float acc[BN / 2];
    multiply_pieces<BITS, GROUP, ZEROS, BN>(acc, j, begin, end, room, bars, p, thread);
    if (j.of.offsets || gather<BN>(acc, j, tile, told, thread)) {
      if (j.y.type == PU_F32)
        store_tile<BN, float>(acc, j, at, tile, thread);
      else
        store_tile<BN, bf16>(acc, j, at, tile, thread);
    }
    unit += end - begin;
  }
}

#endif

template <int BITS, int GROUP, bool ZEROS, int BN>
__global__ void __launch_bounds__(THREADS, 2)
    batch_kernel(const __grid_constant__ batch_job j, const __grid_constant__ CUtensorMap map) {
#ifdef PU_WGMMA
  using S = batch_shape<BITS, GROUP, ZEROS, BN>;
  extern __shared__ __align__(1024) char raw[];
  __shared__ batch_barriers bars;
  __shared__ uint32_t told;
  const batch_room<S> room = {(shared_address(raw) + 1023) / 1024 * 1024, j.stages};
  if (j.of.offsets) wait_for_before();
  const batch_place p = j.of.offsets ? place_among<BN>(j) : place_alone(j);
  if (p.token >= p.end) return;
  const int n = p.to - p.from, early = min(n, j.stages);
  batch_fetcher<S> f(j, &map, &bars, room, p);
  if (threadIdx.x == CONSUMERS) {
#pragma unroll 1
    for (int s = 0; s < j.stages; s++) {
      barrier_init(&bars.full[s], 1);
      barrier_init(&bars.summed[s], 1);
      barrier_init(&bars.empty[s], CONSUMERS / 32);
    }
    before_bulk();
#pragma unroll 1
    for (int t = 0; t < early; t++) f.fetch_w(t);
    map_ahead(&map);
  }
  __syncthreads();
  wait_for_before();
  let_next_start();
  if (threadIdx.x < CONSUMERS)
    run_units<BITS, GROUP, ZEROS, BN>(j, p, room, &bars, &told, threadIdx.x);
  else if (threadIdx.x == CONSUMERS)
    fetch_stages<S>(f, early, n);
  else if (threadIdx.x >= CONSUMERS + 32 && !S::level)
    sum_stages<S, BN>(room, &bars, n, threadIdx.x % 32);
#endif
}

/* ---- launching ---- */

/* Bytes of shared memory for a block of threads' stages; blocks of threads to a multiprocessor. */
enum { RING = 72 << 10, AT_ONCE = 2 };

static uint32_t units_of(const packed_matrix *w) {
  return (uint32_t)(ceil_div(w->l.blocks, PACKED_BLOCKS) * w->l.pieces);
}

static int blocks_of(const pu_cuda *d, uint32_t units) {
  return (int)PU_MIN(units, (uint32_t)PU_MIN(d->sms * AT_ONCE, (int)PU_CUDA_MOST_BLOCKS));
}

static int width_of(int64_t tokens) {
  return tokens <= 8 ? 8 : 16;
}

template <int BITS, int GROUP, bool ZEROS, int BN>
static pu_err launch(pu_cuda *d, batch_job *j, const packed_x *x, pu_error *e) {
  using S = batch_shape<BITS, GROUP, ZEROS, BN>;
  const int most = (int)(j->each + (j->more > 0));
  j->stages = PU_MIN(PU_MIN(PU_MAX(RING / S::stage, 2), (int)MOST_STAGES), most);
  const int bytes = j->stages * S::stage + 1024;
  CUtensorMap map;
  PU_TRY(pu_cuda_map_of(d, x->x, x->tokens, j->l.places, x->step, BN, &map, e));
  PU_CUDA_TRY(
      cudaFuncSetAttribute(batch_kernel<BITS, GROUP, ZEROS, BN>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
      "shared memory for a product", e);
  pu_cuda_start(d, true, batch_kernel<BITS, GROUP, ZEROS, BN>, dim3((unsigned)j->blocks), THREADS, (size_t)bytes, *j,
                map);
  return pu_cuda_launched("a product with a packed weight", e);
}

template <int BITS, int GROUP, bool ZEROS>
static pu_err launch_width(pu_cuda *d, batch_job *j, const packed_x *x, int width, pu_error *e) {
  return width == 8 ? launch<BITS, GROUP, ZEROS, 8>(d, j, x, e) : launch<BITS, GROUP, ZEROS, 16>(d, j, x, e);
}

template <int BITS, int GROUP>
static pu_err launch_zeros(pu_cuda *d, batch_job *j, const packed_x *x, int width, bool zeros, pu_error *e) {
  return zeros ? launch_width<BITS, GROUP, true>(d, j, x, width, e)
               : launch_width<BITS, GROUP, false>(d, j, x, width, e);
}

template <int BITS>
static pu_err launch_group(pu_cuda *d, batch_job *j, const packed_x *x, int width, const pu_packing *p, pu_error *e) {
  if (p->group == 32) return launch_zeros<BITS, 32>(d, j, x, width, p->zeros, e);
  if (p->group == 64) return launch_zeros<BITS, 64>(d, j, x, width, p->zeros, e);
  return launch_zeros<BITS, 128>(d, j, x, width, p->zeros, e);
}

static pu_err multiply(pu_cuda *d, const packed_matrix *w, const packed_x *x, const packed_y *y, batch_job *j,
                       int width, pu_error *e) {
  if (w->rows == 0) return PU_OK;
  j->w = w->data;
  j->l = w->l;
  j->rows = w->rows;
  j->tokens = (int)x->tokens;
  j->y = *y;
  j->arrived = d->arrived;
  return w->p.bits == 4 ? launch_group<4>(d, j, x, width, &w->p, e) : launch_group<8>(d, j, x, width, &w->p, e);
}

size_t packed_batch_bytes(const pu_cuda *d, const packed_matrix *w, int64_t tokens) {
  return (size_t)(2 * blocks_of(d, units_of(w)) * width_of(tokens) / 8 * CONSUMERS) * sizeof(float4);
}

pu_err packed_batch(pu_cuda *d, const packed_matrix *w, const packed_x *x, const packed_y *y, void *room, pu_error *e) {
  batch_job j = {};
  const uint32_t units = units_of(w);
  j.blocks = blocks_of(d, units);
  j.each = units / j.blocks, j.more = units % j.blocks;
  j.sums = (float4 *)room;
  return multiply(d, w, x, y, &j, width_of(x->tokens), e);
}

/* Each part's last tile is not full. */
static int part_tiles(int width, int64_t tokens, int parts) {
  return (int)(tokens / width + PU_MIN(tokens, (int64_t)parts));
}

pu_err packed_batch_parts(pu_cuda *d, const packed_matrix *w, const packed_x *x, const packed_y *y,
                          const packed_parts *parts, pu_error *e) {
  const int width = width_of(x->tokens / parts->n);
  batch_job j = {};
  j.token_tiles = part_tiles(width, x->tokens, parts->n);
  j.blocks = (int)ceil_div(w->l.blocks, PACKED_BLOCKS) * j.token_tiles;
  j.each = (uint32_t)w->l.pieces;
  j.of = *parts;
  return multiply(d, w, x, y, &j, width, e);
}
