/* Products of weights in few bits with some tokens, up to PACKED_BATCH: as fast as memory gives the weights, on Hopper's
 * warpgroup instructions (wgmma).
 *
 * The left operand of a product are weights as whole numbers in bf16 (four bits: 128 + q, eight: q - 128), which two
 * warpgroups of 64 rows each make in registers; the right one is x as it is, from shared memory. A group's sum, of 64
 * inputs at most, is then less the zero times the sum of the group's x, scaled, and added in f32: no weight is rounded.
 * While products of one group run, those of the next are made ready, and the sums of the one before are added.
 *
 * Weights are pieces of 128 rows by 128 inputs, which lie one after another. They have a ring of stages, and x another
 * one, of fewer, since it comes from the L2 cache. One thread asks for weights (copy engine), for the first of them
 * before the kernel before this one has ended; a warp asks for x and sums it up. All blocks of threads have as many pieces, from any row's first or middle inputs on. Sums of
 * rows of which several blocks have some inputs go into work memory, and the block that comes last adds them in the
 * order of inputs. The division depends on the matrix and the device alone, and so do a token's bits. */
#include <cuda.h>
#include <stdlib.h>

#include "src/compute/cuda/packed_batch.h"
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/tensor.cuh"
#include "src/compute/cuda/wgmma.h"

enum { TILE = PACKED_BLOCKS * PACKED_ROWS, BOX = 64, CONSUMERS = 256, THREADS = CONSUMERS + 64, MOST_STAGES = 20 };

typedef struct batch_job {
  const uint8_t *w;
  packed_layout l;
  int64_t rows;
  int tokens, units; /* units: pieces of 128 rows */
  int w_stages, x_stages;
  bool at_once; 
  float4 *sums;      /* [blocks of threads, 2, BN / 8, CONSUMERS] */
  packed_y y;
} batch_job;

template <int BITS, int GROUP, bool ZEROS, int BN> struct batch_shape {
  static constexpr int step = GROUP < 64 ? GROUP : 64, steps = PACKED_PIECE / step; /* inputs whose sum is scaled */
  static constexpr int scales = ZEROS ? 64 : 32;                                    /* bytes of a group, of 16 rows */
  static constexpr int piece = PACKED_ROWS * PACKED_PIECE * BITS / 8 + PACKED_PIECE / GROUP * scales;
  static constexpr int w_stage = PACKED_BLOCKS * piece, x_stage = BN * PACKED_PIECE * 2;
  static constexpr int sums_stage = steps * BN * 4;
  /* What is taken off: the weights of whole numbers stand for. */
  static constexpr float more = BITS == 4 ? 128 : -128, middle = 1 << (BITS - 1);
  static constexpr bool level = !ZEROS && more + middle == 0; /* nothing */
};

/* Where stages begin: x (from a multiple of 1,024 bytes), sums of x, weights. */
template <class S> struct batch_room {
  char *at;
  uint32_t shared;
  int x_stages;
  __device__ uint32_t x(int slot) const {
    return shared + slot * S::x_stage;
  }
  __device__ float *sums(int slot) const {
    return (float *)(at + x_stages * S::x_stage + slot * S::sums_stage);
  }
  __device__ int w_at(int slot) const {
    return x_stages * (S::x_stage + S::sums_stage) + slot * S::w_stage;
  }
};

/* Of a tile, by the block of threads that has its first inputs: how many parts are there. Zeros between kernels. */
enum { MOST_BLOCKS = 1024 };
__device__ static uint32_t batch_arrived[MOST_BLOCKS];

struct batch_barriers {
  uint64_t w_full[MOST_STAGES], w_empty[MOST_STAGES], x_full[MOST_STAGES], x_empty[MOST_STAGES], summed[MOST_STAGES];
};

/* A place in a ring. */
typedef struct batch_place {
  int slot;
  uint32_t turn;
  __device__ void next(int stages) {
    if (++slot == stages) slot = 0, turn ^= 1;
  }
} batch_place;

__host__ __device__ static inline int first_unit(int units, int block, int blocks) {
  return (int)((int64_t)units * block / blocks);
}
__device__ static inline int block_of(int units, int unit, int blocks) {
  return (int)((((int64_t)unit + 1) * blocks - 1) / units);
}

#ifdef PU_WGMMA

template <int N> struct batch_mma;
template <> struct batch_mma<8> {
  __device__ static inline void run(float (&d)[4], const uint32_t a[4], uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %9, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, %8, p, 1, 1, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
  }
};
template <> struct batch_mma<16> {
  __device__ static inline void run(float (&d)[8], const uint32_t a[4], uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %13, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7}, "
                 "{%8, %9, %10, %11}, %12, p, 1, 1, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
  }
};
template <> struct batch_mma<32> {
  __device__ static inline void run(float (&d)[16], const uint32_t a[4], uint64_t b, int add) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                 "{%16, %17, %18, %19}, %20, p, 1, 1, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
  }
};
template <> struct batch_mma<64> {
  __device__ static inline void run(float (&d)[32], const uint32_t a[4], uint64_t b, int add) {
    wide_mma<0>(d, a, b, add);
  }
};

/* ---- stages ---- */

template <class S> struct batch_fetcher {
  const batch_job &j;
  const CUtensorMap *map;
  batch_barriers *bars;
  batch_room<S> room;

  __device__ void fetch_w(int slot, int unit) const {
    int pieces = (int)j.l.pieces, tile = unit / pieces, piece = unit % pieces;
    int64_t block = (int64_t)tile * PACKED_BLOCKS, blocks = min((int64_t)PACKED_BLOCKS, j.l.blocks - block);
    int bytes = (int)(blocks * (piece + 1 == pieces ? j.l.tail_bytes : j.l.piece_bytes));
    barrier_expect(&bars->w_full[slot], bytes);
    bulk_copy(room.shared + room.w_at(slot), j.w + packed_at(j.l, block, piece), bytes, &bars->w_full[slot]);
  }
  __device__ void fetch_x(int slot, int unit) const {
    int k = unit % (int)j.l.pieces * PACKED_PIECE;
    barrier_expect(&bars->x_full[slot], S::x_stage);
    for (int i = 0; i < 2; i++)
      box_copy(room.x(slot) + i * (S::x_stage / 2), map, k + i * BOX, 0, &bars->x_full[slot]);
  }
};

/* One thread's work, behind the first stages. */
template <class S> __device__ static void fetch_weights(const batch_fetcher<S> &f, int from, int to) {
  batch_place p = {0, 0};
  for (int unit = from; unit < to; unit++, p.next(f.j.w_stages)) {
    barrier_wait(&f.bars->w_empty[p.slot], p.turn);
    f.fetch_w(p.slot, unit);
  }
}

/* Sums of x over each step of a stage: products with ones. */
template <class S, int BN>
__device__ static inline void sum_x(const batch_room<S> &room, int slot, int lane) {
  const uint32_t at = room.x(slot), ones = 0x3f803f80u;
  float *to = room.sums(slot);
#pragma unroll
  for (int n = 0; n < BN / 8; n++) {
    float c[4];
#pragma unroll
    for (int k = 0; k < 4; k++) { /* 32 inputs */
      uint32_t b[4], from = at + wide_at<BN>(n * 8 + lane % 8, k * 4 + lane / 8);
      if (k * 32 % S::step == 0) c[0] = c[1] = c[2] = c[3] = 0;
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                   : "r"(from));
#pragma unroll
      for (int i = 0; i < 2; i++)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%5,%6}, {%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(ones), "r"(b[i * 2]), "r"(b[i * 2 + 1]));
      if ((k + 1) * 32 % S::step == 0 && lane < 4)
        *(float2 *)(to + k * 32 / S::step * BN + n * 8 + lane * 2) = make_float2(c[0], c[1]);
    }
  }
}

/* A warp's work: x of all units, and its sums. A stage is asked for again when the consumers have left it, which they do
 * without the sums of the stage after it. */
template <class S, int BN>
__device__ static void bring_x(const batch_fetcher<S> &f, int from, int to, int lane) {
  batch_place p = {0, 0}, left = {0, 0};
  const int stages = f.j.x_stages;
  for (int unit = from; lane == 0 && unit < min(to, from + stages); unit++) f.fetch_x(unit - from, unit);
  for (int unit = from; unit < to; unit++, p.next(stages)) {
    if (!S::level) {
      barrier_wait(&f.bars->x_full[p.slot], p.turn);
      sum_x<S, BN>(f.room, p.slot, lane);
      __syncwarp();
      if (lane == 0) barrier_arrive(&f.bars->summed[p.slot]);
    }
    if (unit == from || unit - 1 + stages >= to) continue;
    barrier_wait(&f.bars->x_empty[left.slot], left.turn);
    if (lane == 0) f.fetch_x(left.slot, unit - 1 + stages);
    left.next(stages);
  }
}

/* ---- products ---- */

/* What a step's sums are scaled by, and what the sum of its x is taken off by: rows g and g + 8. */
typedef struct batch_scale {
  float2 scale, zero;
  const float *x; /* sums of x of this lane's tokens */
} batch_scale;

template <class S, bool ZEROS> __device__ static inline batch_scale scale_of(const char *at, const float *x) {
  batch_scale s = {{}, {S::middle + S::more, S::middle + S::more}, x};
  if (ZEROS) {
    uint2 v = *(const uint2 *)at;
    s.scale = __half22float2(*(const __half2 *)&v.x), s.zero = __half22float2(*(const __half2 *)&v.y);
    s.zero.x += S::more, s.zero.y += S::more;
  } else {
    s.scale = __half22float2(*(const __half2 *)at);
  }
  return s;
}

/* The left operands of one step. q: the bits of a warp's sixteen rows. */
template <int BITS, int STEP>
__device__ static inline void unpack_step(uint32_t a[STEP / 16][4], const char *q, int s, int inputs, int lane) {
  __align__(16) uint32_t v[STEP / 16 * BITS / 4];
  if (BITS == 4 && STEP == 32) {
    const int unit = s / 2, words = inputs == unit * 64 + 32 ? 2 : 4; /* the last unit may be half a one */
    *(uint2 *)v = *(const uint2 *)(q + unit * PACKED_UNIT + lane * words * 4 + s % 2 * 8);
  } else {
#pragma unroll
    for (int i = 0; i < STEP * BITS / 256; i++)
      *(uint4 *)(v + i * 4) = *(const uint4 *)(q + (s * (STEP * BITS / 256) + i) * PACKED_UNIT + lane * 16);
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
  for (int k = 0; k < N; k++)
    asm volatile("" : "+r"(a[k][0]), "+r"(a[k][1]), "+r"(a[k][2]), "+r"(a[k][3])::"memory");
}

template <class S, int BN>
__device__ static inline void add_step(float (&acc)[BN / 2], const float (&sum)[BN / 2], const batch_scale &s) {
#pragma unroll
  for (int n = 0; n < BN / 8; n++) {
    float2 x = S::level ? make_float2(0, 0) : *(const float2 *)(s.x + n * 8);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float v = sum[n * 4 + i];
      if (!S::level) v = fmaf(i < 2 ? -s.zero.x : -s.zero.y, i % 2 ? x.y : x.x, v);
      acc[n * 4 + i] = fmaf(i < 2 ? s.scale.x : s.scale.y, v, acc[n * 4 + i]);
    }
  }
}

/* A consumer's places. */
typedef struct batch_rings {
  batch_place w, x;
} batch_rings;

__device__ static inline void leave(uint64_t *empty, int lane) {
  __syncwarp();
  if (lane == 0) barrier_arrive(empty);
}

/* A warp's rows of a piece. Of a short one the steps that it does not have count nothing: their bits stand for numbers,
 * whichever they are, x is zeros and so is the scale. */
template <int BITS, int GROUP, bool ZEROS, int BN> struct batch_piece {
  using S = batch_shape<BITS, GROUP, ZEROS, BN>;
  const char *q, *scales;
  const float *x;
  int inputs;

  __device__ batch_piece(const batch_job &j, const batch_room<S> &room, int piece, int slot, int x_slot, int thread) {
    const bool tail = piece + 1 == (int)j.l.pieces;
    inputs = tail ? j.l.tail : (int)PACKED_PIECE;
    q = room.at + room.w_at(slot) + thread / 32 * (tail ? (int)j.l.tail_bytes : (int)S::piece);
    scales = q + inputs * (PACKED_ROWS * BITS / 8) + thread % 32 / 4 * (S::scales / 8);
    x = room.sums(x_slot) + thread % 4 * 2;
  }
  __device__ void unpack(uint32_t (&a)[S::step / 16][4], int s, int thread) const {
    unpack_step<BITS, S::step>(a, q, s, inputs, thread % 32);
  }
  __device__ batch_scale scale(int s) const {
    batch_scale of = scale_of<S, ZEROS>(scales + s * S::step / GROUP * S::scales, x + s * BN);
    if (s * S::step >= inputs) of.scale = of.zero = make_float2(0, 0);
    return of;
  }
};

/* The products of a step, which are on their way when this returns. x: the stage's. */
template <class S, int BN>
__device__ static inline void multiply_step(float (&sum)[BN / 2], uint32_t (&a)[S::step / 16][4], uint64_t x, int s) {
  made(a);
  wide_begin();
#pragma unroll
  for (int k = 0; k < S::step / 16; k++) {
    const int at = (s * S::step + k * 16) / 8; /* of eight inputs */
    batch_mma<BN>::run(sum, a[k], x + ((at / 8 * (S::x_stage / 2) + at % 8 * 16) >> 4), k > 0);
  }
  wide_commit();
}

/* acc = the sums of pieces [from, to) of a tile. */
template <int BITS, int GROUP, bool ZEROS, int BN>
__device__ static inline void multiply_pieces(float (&acc)[BN / 2], const batch_job &j, int from, int to,
                                              const batch_room<batch_shape<BITS, GROUP, ZEROS, BN>> &room,
                                              batch_barriers *bars, batch_rings &r, int thread) {
  using S = batch_shape<BITS, GROUP, ZEROS, BN>;
  using P = batch_piece<BITS, GROUP, ZEROS, BN>;
  float sum[2][BN / 2];
  uint32_t a[2][S::step / 16][4];
#pragma unroll
  for (int i = 0; i < BN / 2; i++) acc[i] = sum[0][i] = sum[1][i] = 0;
  barrier_wait(&bars->w_full[r.w.slot], r.w.turn);
  P here(j, room, from, r.w.slot, r.x.slot, thread);
  here.unpack(a[0], 0, thread);
#pragma unroll 1
  for (int piece = from; piece < to; piece++) {
    const batch_place now = r.x;
    const uint64_t x = wide_matrix(room.x(now.slot), 16);
    batch_scale before;
    barrier_wait(&bars->x_full[now.slot], now.turn);
#pragma unroll
    for (int s = 0; s < S::steps; s++) {
      if (s > 0) here.unpack(a[s % 2], s, thread);
      const batch_scale of = here.scale(s);
      multiply_step<S, BN>(sum[s % 2], a[s % 2], x, s);
      if (s > 0) {
        wide_wait<1>();
        if (s == 1 && !S::level) barrier_wait(&bars->summed[now.slot], now.turn);
        add_step<S, BN>(acc, sum[(s + 1) % 2], before);
      }
      before = of;
    }
    leave(&bars->w_empty[r.w.slot], thread % 32);
    r.w.next(j.w_stages), r.x.next(j.x_stages);
    if (piece + 1 < to) {
      barrier_wait(&bars->w_full[r.w.slot], r.w.turn);
      here = P(j, room, piece + 1, r.w.slot, r.x.slot, thread);
      here.unpack(a[0], 0, thread);
    }
    wide_wait<0>();
    add_step<S, BN>(acc, sum[1], before);
    leave(&bars->x_empty[now.slot], thread % 32);
  }
}

/* ---- sums out ---- */

__device__ static inline void meet_consumers() {
  asm volatile("bar.sync 1, %0;" ::"r"((int)CONSUMERS) : "memory");
}

__device__ static inline float bias_at(const packed_y &y, int64_t row, int64_t rows) {
  if (!y.bias || row >= rows) return 0;
  return y.bias_type == PU_F32 ? ((const float *)y.bias)[row] : to_f32(((const bf16 *)y.bias)[row]);
}

template <int BN, typename Y>
__device__ static inline void store_tile(const float (&acc)[BN / 2], const batch_job &j, int tile, int thread) {
  int64_t row = (int64_t)tile * TILE + thread / 32 * PACKED_ROWS + thread % 32 / 4;
  float bias[2] = {bias_at(j.y, row, j.rows), bias_at(j.y, row + 8, j.rows)};
#pragma unroll
  for (int i = 0; i < BN / 2; i++) {
    int token = i / 4 * 8 + thread % 4 * 2 + i % 2;
    int64_t at = row + i / 2 % 2 * 8;
    if (token < j.tokens && at < j.rows) ((Y *)j.y.y)[token * j.y.step + at] = from_f32<Y>(acc[i] + bias[i / 2 % 2]);
  }
}

/* Whether all `n` who have a part of a tile have been here: the last one is told so. */
__device__ static inline bool comes_last(uint32_t *arrived, uint32_t n, uint32_t *told, int thread) {
  __threadfence();
  meet_consumers();
  if (thread == 0) {
    uint32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(arrived) : "memory");
    *told = before + 1 == n;
    if (before + 1 == n) *arrived = 0;
  }
  meet_consumers();
  bool last = *told;
  if (last) __threadfence();
  return last;
}

/* False: another block of threads goes on with the tile. */
template <int BN>
__device__ static inline bool gather(float (&acc)[BN / 2], const batch_job &j, int tile, uint32_t *told, int thread) {
  const int pieces = (int)j.l.pieces, begin = tile * pieces, blocks = (int)gridDim.x, here = (int)blockIdx.x;
  const int first = block_of(j.units, begin, blocks), last = block_of(j.units, begin + pieces - 1, blocks);
  if (first == last) return true;
  auto part = [&](int block) {
    int second = first_unit(j.units, block, blocks) < begin; /* it has the end of another tile too */
    return j.sums + (int64_t)(block * 2 + second) * (BN / 8) * CONSUMERS + thread;
  };
  float4 *to = part(here);
#pragma unroll
  for (int i = 0; i < BN / 8; i++)
    to[i * CONSUMERS] = make_float4(acc[i * 4], acc[i * 4 + 1], acc[i * 4 + 2], acc[i * 4 + 3]);
  if (!comes_last(batch_arrived + first, last - first + 1, told, thread)) return false;
#pragma unroll
  for (int i = 0; i < BN / 2; i++) acc[i] = 0;
#pragma unroll 4
  for (int block = first; block <= last; block++) {
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
__device__ static inline void run_units(const batch_job &j, int from, int to,
                                        const batch_room<batch_shape<BITS, GROUP, ZEROS, BN>> &room,
                                        batch_barriers *bars, uint32_t *told, int thread) {
  const int pieces = (int)j.l.pieces;
  batch_rings r = {};
  for (int unit = from; unit < to;) {
    int tile = unit / pieces, begin = unit - tile * pieces, end = min(pieces, begin + to - unit);
    float acc[BN / 2];
    multiply_pieces<BITS, GROUP, ZEROS, BN>(acc, j, begin, end, room, bars, r, thread);
    if (gather<BN>(acc, j, tile, told, thread)) {
      if (j.y.type == PU_F32)
        store_tile<BN, float>(acc, j, tile, thread);
      else
        store_tile<BN, bf16>(acc, j, tile, thread);
    }
    unit += end - begin;
  }
}

#endif

template <int BITS, int GROUP, bool ZEROS, int BN>
__global__ void __launch_bounds__(THREADS, BN <= 16 ? 2 : 1)
    batch_kernel(const __grid_constant__ batch_job j, const __grid_constant__ CUtensorMap map) {
#ifdef PU_WGMMA
  using S = batch_shape<BITS, GROUP, ZEROS, BN>;
  extern __shared__ __align__(1024) char raw[];
  __shared__ batch_barriers bars;
  __shared__ uint32_t told;
  const uint32_t at = (shared_at(raw) + 1023) / 1024 * 1024;
  const batch_room<S> room = {raw + (at - shared_at(raw)), at, j.x_stages};
  const batch_fetcher<S> f = {j, &map, &bars, room};
  const int from = first_unit(j.units, (int)blockIdx.x, (int)gridDim.x),
            to = first_unit(j.units, (int)blockIdx.x + 1, (int)gridDim.x), early = min(to - from, j.w_stages);
  if (j.at_once) let_next_start();
  if (threadIdx.x == CONSUMERS) {
    for (int s = 0; s < j.w_stages; s++) barrier_init(&bars.w_full[s], 1), barrier_init(&bars.w_empty[s], CONSUMERS / 32);
    for (int s = 0; s < j.x_stages; s++) {
      barrier_init(&bars.x_full[s], 1), barrier_init(&bars.x_empty[s], CONSUMERS / 32);
      barrier_init(&bars.summed[s], 1);
    }
    barriers_visible();
    for (int t = 0; t < early; t++) f.fetch_w(t, from + t);
    map_ahead(&map);
  }
  __syncthreads();
  wait_for_before();
  if (!j.at_once) let_next_start();
  if (threadIdx.x < CONSUMERS)
    run_units<BITS, GROUP, ZEROS, BN>(j, from, to, room, &bars, &told, threadIdx.x);
  else if (threadIdx.x == CONSUMERS)
    fetch_weights<S>(f, from + early, to);
  else if (threadIdx.x >= CONSUMERS + 32)
    bring_x<S, BN>(f, from, to, threadIdx.x % 32);
#endif
}

/* ---- launching ---- */

/* Bytes of a multiprocessor's shared memory for stages: a block of the kernel before or after finds room beside it. */
enum { RING = 104 << 10, WIDE_RING = 200 << 10, X_STAGES = 4 };

static int units_of(const packed_matrix *w) {
  return (int)(ceil_div(w->l.blocks, PACKED_BLOCKS) * w->l.pieces);
}

static int blocks_of(const pu_cuda *d, int units) {
  const char *g = getenv("PU_T_G");
  return PU_MIN(units, g ? atoi(g) : d->sms);
}

static int width_of(int64_t tokens) {
  return tokens <= 8 ? 8 : tokens <= 16 ? 16 : tokens <= 32 ? 32 : 64;
}

template <int BITS, int GROUP, bool ZEROS, int BN>
static pu_err launch(pu_cuda *d, batch_job *j, const packed_x *x, pu_error *e) {
  using S = batch_shape<BITS, GROUP, ZEROS, BN>;
  const int blocks = blocks_of(d, j->units), most = (int)ceil_div(j->units, blocks);
  const char *g = getenv("PU_T_RING"), *xs = getenv("PU_T_X");
  j->at_once = getenv("PU_T_ONCE") != NULL;
  j->x_stages = PU_MIN(xs ? atoi(xs) : X_STAGES, most);
  const int x_bytes = j->x_stages * (S::x_stage + S::sums_stage), left = (g ? atoi(g) << 10 : BN <= 16 ? RING : WIDE_RING) - x_bytes;
  j->w_stages = PU_MIN(PU_MIN(PU_MAX(left / S::w_stage, 2), (int)MOST_STAGES), most);
  const int bytes = x_bytes + j->w_stages * S::w_stage + 1024;
  CUtensorMap map;
  PU_TRY(pu_cuda_map_of(d, x->x, x->tokens, j->l.places, x->step, BN, &map, e));
  PU_CUDA_TRY(cudaFuncSetAttribute(batch_kernel<BITS, GROUP, ZEROS, BN>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   bytes),
              "shared memory for a product", e);
  pu_cuda_start(d, true, batch_kernel<BITS, GROUP, ZEROS, BN>, dim3((unsigned)blocks), THREADS, (size_t)bytes, *j, map);
  return pu_cuda_launched("a product with a packed weight", e);
}

template <int BITS, int GROUP, bool ZEROS>
static pu_err launch_width(pu_cuda *d, batch_job *j, const packed_x *x, pu_error *e) {
  switch (width_of(x->tokens)) {
  case 8:
    return launch<BITS, GROUP, ZEROS, 8>(d, j, x, e);
  case 16:
    return launch<BITS, GROUP, ZEROS, 16>(d, j, x, e);
  case 32:
    return launch<BITS, GROUP, ZEROS, 32>(d, j, x, e);
  default:
    return launch<BITS, GROUP, ZEROS, 64>(d, j, x, e);
  }
}

template <int BITS, int GROUP>
static pu_err launch_zeros(pu_cuda *d, batch_job *j, const packed_x *x, bool zeros, pu_error *e) {
  return zeros ? launch_width<BITS, GROUP, true>(d, j, x, e) : launch_width<BITS, GROUP, false>(d, j, x, e);
}

template <int BITS>
static pu_err launch_group(pu_cuda *d, batch_job *j, const packed_x *x, const pu_packing *p, pu_error *e) {
  if (p->group == 32) return launch_zeros<BITS, 32>(d, j, x, p->zeros, e);
  if (p->group == 64) return launch_zeros<BITS, 64>(d, j, x, p->zeros, e);
  return launch_zeros<BITS, 128>(d, j, x, p->zeros, e);
}

size_t packed_batch_bytes(const pu_cuda *d, const packed_matrix *w, int64_t tokens) {
  return (size_t)(2 * blocks_of(d, units_of(w)) * width_of(tokens) / 8 * CONSUMERS) * sizeof(float4);
}

pu_err packed_batch(pu_cuda *d, const packed_matrix *w, const packed_x *x, const packed_y *y, void *room,
                    pu_error *e) {
  batch_job j = {};
  j.w = w->data;
  j.l = w->l;
  j.rows = w->rows;
  j.tokens = (int)x->tokens;
  j.units = units_of(w);
  j.sums = (float4 *)room;
  j.y = *y;
  return w->p.bits == 4 ? launch_group<4>(d, &j, x, &w->p, e) : launch_group<8>(d, &j, x, &w->p, e);
}
