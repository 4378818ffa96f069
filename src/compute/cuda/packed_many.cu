/* Products of weights in few bits with many tokens, on Hopper's warpgroup instructions (wgmma, PTX ISA 8.0 and later).
 *
 * A block of threads makes 128 rows of w by BN tokens of y. Two threads copy, several stages ahead: one x, 64 inputs at
 * a time, through the tensor copy engine in the swizzled form that wgmma reads; one the rows' pieces as they lie. Two
 * warpgroups have 64 rows each: bits become bf16 integers in registers, which are wgmma's left operand as packed.h lays
 * them out, while the tensor cores are at what came before. A group's products are summed by themselves and their sum
 * is added to the window's, times the scale; at the end of a window that goes into shared memory, where each thread
 * adds up its own. So the bits are those of packed_few.cu. What zeros take away is known beforehand: a kernel of its
 * own sums each group of x.
 *
 * Where there are too few blocks to fill the device, windows are shared out too: their sums go into work memory, and
 * another kernel adds them, in order. */
#include <cuda.h>

#include "src/compute/cuda/packed.h"

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WGMMA 1
#endif

enum {
  BM = 128,
  BK = 64,
  CONSUMERS = 256,
  MANY_THREADS = CONSUMERS + 128,
  MOST_STAGES = 8,
  MOST_WIDTH = 128,
  OUT_STEP = BM * 2 + 16
};
enum { ROOM = 222 << 10, WINDOW_PIECES = PACKED_WINDOW / PACKED_PIECE };

typedef struct many_job {
  const uint8_t *w;
  packed_layout l;
  int64_t rows, tokens;
  int token_tiles, row_tiles; /* token_tiles: at most, where there are several matrices */
  int windows, shares;        /* shares of the windows */
  float *sums;                /* [windows, tokens, rows], where there are several shares */
  float *x_sums;              /* [groups, tokens], where there are zeros */
  packed_y y;
  packed_parts of;
} many_job;

template <int BITS, int GROUP, bool ZEROS, int BN> struct many_shape {
  static constexpr int group_bytes = ZEROS ? 64 : 32, group_q = GROUP * PACKED_ROWS * BITS / 8;
  static constexpr int w_stage = PACKED_BLOCKS * (PACKED_PIECE / GROUP) * (group_q + group_bytes),
                       x_stage = BN * BK * 2, kept = BM * BN * 4; /* kept: of windows' sums */
  static constexpr int at_once = BN <= 64 ? 2 : 1;                /* blocks of threads to a multiprocessor */
  static constexpr int w_stages = BITS == 8 && BN <= 64 ? 3 : 4;
  static constexpr int x_most = (ROOM / at_once - kept - w_stages * w_stage) / x_stage,
                       x_stages = x_most < MOST_STAGES ? x_most : MOST_STAGES;
  /* x first: it must begin at a multiple of 1,024 bytes. Then barriers. */
  static constexpr int w_at = x_stages * x_stage, kept_at = w_at + w_stages * w_stage, barriers_at = kept_at + kept;
  static constexpr size_t bytes = 1024 + barriers_at + 4 * MOST_STAGES * 8;
  /* What the launch gives all (80 or 168, 384 threads), less the copying warps', among the consumers: asking for more
   * waits for ever. */
  static constexpr int copier_registers = at_once == 2 ? 32 : 40, consumer_registers = at_once == 2 ? 104 : 232;
  static constexpr int operands = BN == 64 ? 1 : 2; /* halves of a piece in registers, which are scarce at 64 */
  static_assert(x_stages >= 3, "stages of x");
};

#ifdef HAS_WGMMA
template <int N> struct wgmma_of;
template <> struct wgmma_of<16> {
  __device__ static inline void run(float *d, const uint32_t *a, uint64_t b, int more) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %13, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7"
                 "}, {%8, %9, %10, %11}, %12, p, 1, 1, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more));
  }
};
template <> struct wgmma_of<32> {
  __device__ static inline void run(float *d, const uint32_t *a, uint64_t b, int more) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
                 "}, {%16, %17, %18, %19}, %20, p, 1, 1, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more));
  }
};
template <> struct wgmma_of<64> {
  __device__ static inline void run(float *d, const uint32_t *a, uint64_t b, int more) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
                   "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more));
  }
};
template <> struct wgmma_of<128> {
  __device__ static inline void run(float *d, const uint32_t *a, uint64_t b, int more) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 0;\n}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
                   "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
                   "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
                   "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
                   "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
                   "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more));
  }
};

__device__ static inline void tensor_copy(uint32_t to, const CUtensorMap *map, int x, int y, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          to),
      "l"(map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}

/* Where a block of threads works: some rows of a matrix, tokens [token, end), a share of the pieces. */
typedef struct many_place {
  const uint8_t *w;
  int row_tile, from, to;
  int64_t token, end;
} many_place;

/* Blocks that run at the same time share rows, and eight tiles of tokens. */
template <int BN> __device__ static inline many_place place_of(const many_job &j) {
  int at = blockIdx.x, group = at / (8 * j.row_tiles), in = at % (8 * j.row_tiles);
  int width = min(8, j.token_tiles - group * 8);
  many_place p = {j.w, in / width, 0, 0, (int64_t)(group * 8 + in % width) * BN, j.tokens};
  p.from = (int)(blockIdx.y * j.windows / j.shares) * WINDOW_PIECES;
  p.to = (int)min(j.l.pieces, (int64_t)((blockIdx.y + 1) * j.windows / j.shares) * WINDOW_PIECES);
  return p;
}

/* Of several matrices; each has its own tiles, the last of them not full. Where there is nothing to do, token is end.
 */
template <int BN> __device__ static inline many_place place_among(const many_job &j) {
  int tile = blockIdx.x % j.token_tiles;
  many_place p = {j.w, (int)blockIdx.x / j.token_tiles, 0, (int)j.l.pieces, 0, 0};
  for (int m = 0; m < j.of.n; m++) {
    int from = j.of.offsets[m], to = j.of.offsets[m + 1], tiles = (to - from + BN - 1) / BN;
    if (tile < tiles) {
      p.w = j.w + m * j.of.step;
      p.token = from + tile * BN;
      p.end = to;
      return p;
    }
    tile -= tiles;
  }
  return p;
}

/* A ring of stages: full when what was asked for has come, empty when all who read it have. */
typedef struct many_ring {
  uint32_t full, empty;
  int slot, phase;
} many_ring;

template <class S> __device__ static inline many_ring ring_of(uint32_t room, int which) {
  uint32_t at = room + S::barriers_at + which * 2 * MOST_STAGES * 8;
  many_ring r = {at, at + MOST_STAGES * 8, 0, 0};
  return r;
}

template <int STAGES> __device__ static inline void next_stage(many_ring &r) {
  if (++r.slot == STAGES) r.slot = 0, r.phase ^= 1;
}

template <class S, int BN>
__device__ static inline void copy_x(const many_job &j, const CUtensorMap *map, const many_place &p, uint32_t room) {
  many_ring r = ring_of<S>(room, 0);
  int end = (int)min((int64_t)p.to * PACKED_PIECE, j.l.places);
  for (int k = p.from * PACKED_PIECE; k < end; k += BK) {
    barrier_wait(r.empty + r.slot * 8, r.phase ^ 1);
    barrier_expect(r.full + r.slot * 8, S::x_stage);
    tensor_copy(room + r.slot * S::x_stage, map, k, (int)p.token, r.full + r.slot * 8);
    next_stage<S::x_stages>(r);
  }
}

template <class S> __device__ static inline void copy_w(const many_job &j, const many_place &p, uint32_t room) {
  many_ring r = ring_of<S>(room, 1);
  int64_t block = (int64_t)p.row_tile * PACKED_BLOCKS, blocks = min((int64_t)PACKED_BLOCKS, j.l.blocks - block);
  for (int piece = p.from; piece < p.to; piece++) {
    int bytes = (int)(blocks * (piece + 1 == j.l.pieces ? j.l.tail_bytes : j.l.piece_bytes));
    barrier_wait(r.empty + r.slot * 8, r.phase ^ 1);
    barrier_expect(r.full + r.slot * 8, bytes);
    bulk_copy(room + S::w_at + r.slot * S::w_stage, p.w + packed_at(j.l, block, piece), bytes, r.full + r.slot * 8);
    next_stage<S::w_stages>(r);
  }
}

/* Half a piece's bits become the left operands of four products. inputs: of the whole piece. */
template <int BITS, int GROUP>
__device__ static inline void unpack_half(uint32_t a[4][4], const char *piece, int half, int inputs, int lane) {
  const char *q = piece + half * 64 * PACKED_ROWS * BITS / 8;
  uint4 v[BITS / 4];
#pragma unroll
  for (int i = 0; i < BITS / 4; i++) v[i] = *(const uint4 *)(q + i * PACKED_UNIT + lane * 16);
  if (BITS == 4 && GROUP == 32 && inputs == half * 64 + 32) { /* half a unit */
    uint2 w = *(const uint2 *)(q + lane * 8);
    v[0].x = w.x, v[0].y = w.y;
  }
#pragma unroll
  for (int k = 0; k < 4; k++) {
    if (BITS == 4) {
      unpack4(k == 0 ? v[0].x : k == 1 ? v[0].y : k == 2 ? v[0].z : v[0].w, a[k]);
    } else {
      const uint4 w = v[k / 2 % (BITS / 4)];
      unpack8(k % 2 ? w.z : w.x, a[k]), unpack8(k % 2 ? w.w : w.y, a[k] + 2);
    }
  }
}

/* Scales, and what zeros are below 2^(bits-1), of rows g and g + 8. */
typedef struct many_scale {
  float2 scale, zero;
} many_scale;

template <int BITS, bool ZEROS> __device__ static inline many_scale scale_at(const char *at) {
  constexpr float middle = 1 << (BITS - 1);
  many_scale s = {__half22float2(*(const __half2 *)at), {0, 0}};
  if (!ZEROS) return s;
  float2 z = __half22float2(*(const __half2 *)(at + 4));
  s.zero = make_float2(middle - z.x, middle - z.y);
  return s;
}

/* sum (+)= a x^T for sixteens [from, to) of the stage. x: rows of 128 bytes, swizzled: eight rows are 1,024 bytes (PTX
 * ISA, matrix descriptor). more: there is a sum already. */
template <int BN>
__device__ static inline void multiply_stage(float sum[BN / 2], const uint32_t a[4][4], uint32_t x, int from, int to,
                                             int more) {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int k = 0; k < 4; k++) {
    if (k < from || k >= to) continue;
    uint64_t b =
        (uint64_t)(((x + k * 32) & 0x3ffffu) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62;
    wgmma_of<BN>::run(sum, a[k], b, k > from || more);
  }
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* sum is complete when no products are left: nothing of it may be read before. */
template <int LEFT, int N> __device__ static inline void wait_products(float sum[N]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
#pragma unroll
  for (int i = 0; LEFT == 0 && i < N; i++) asm volatile("" : "+f"(sum[i])::"memory");
}

/* All lanes of a warp have read a stage. */
__device__ static inline void leave_stage(uint32_t empty, int lane) {
  __syncwarp();
  if (lane == 0) barrier_arrive(empty);
}

/* acc += a group's sum times the scale. x_sums: of the group, from this lane's first token on; what is behind the last
 * token is read, but not used. */
template <bool ZEROS, int BN>
__device__ static inline void add_group(float acc[BN / 2], const float sum[BN / 2], const many_scale &s,
                                        const float *x_sums) {
#pragma unroll
  for (int i = 0; i < BN / 2; i++) {
    float v = sum[i];
    if (ZEROS) v = fmaf(i / 2 % 2 ? s.zero.y : s.zero.x, x_sums[i / 4 * 8 + i % 2], v);
    acc[i] = fmaf(i / 2 % 2 ? s.scale.y : s.scale.x, v, acc[i]);
  }
}

/* f32 as it lies in registers: eight rows are a sector. */
template <int BN>
__device__ static inline void store_f32(const float acc[BN / 2], float *to, int64_t step, int64_t rows, int64_t tokens,
                                        int lane) {
#pragma unroll
  for (int i = 0; i < BN / 2; i++) {
    int row = lane / 4 + i / 2 % 2 * 8, token = i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (row < rows && token < tokens) to[token * step + row] = acc[i];
  }
}

/* A window is done: kept += acc, acc = 0. Or, where windows are shared out, it goes into work memory. */
template <int BN> __device__ static inline void keep_window(float acc[BN / 2], float *kept, bool first) {
#pragma unroll
  for (int i = 0; i < BN / 2; i++) {
    kept[i * CONSUMERS] = first ? acc[i] : kept[i * CONSUMERS] + acc[i];
    acc[i] = 0;
  }
}

template <int BN>
__device__ static inline void end_window(float acc[BN / 2], const many_job &j, const many_place &p, float *kept,
                                         int window, int thread) {
  if (j.shares == 1) {
    keep_window<BN>(acc, kept, window == 0);
    return;
  }
  int64_t row = (int64_t)p.row_tile * BM + thread / 32 * PACKED_ROWS;
  float *to = j.sums + ((int64_t)window * j.tokens + p.token) * j.rows + row;
  store_f32<BN>(acc, to, j.rows, j.rows - row, p.end - p.token, thread % 32);
#pragma unroll
  for (int i = 0; i < BN / 2; i++) acc[i] = 0;
}

/* What a consuming thread goes through. */
typedef struct many_walk {
  many_ring x, w;
  int piece, half, inputs; /* whose operands are ready: piece's half; inputs of the piece */
} many_walk;

/* The walk's half of a piece: operands and scales. */
template <int BITS, int GROUP, bool ZEROS, int BN>
__device__ static inline void ready_half(uint32_t a[4][4], many_scale s[64 / (GROUP < 64 ? GROUP : 64)],
                                         const many_job &j, many_walk &at, const char *room, int half, int thread) {
  using S = many_shape<BITS, GROUP, ZEROS, BN>;
  const int lane = thread % 32;
  const bool tail = at.piece + 1 == j.l.pieces;
  const char *from =
      room + S::w_at + at.w.slot * S::w_stage + thread / 32 * (int)(tail ? j.l.tail_bytes : j.l.piece_bytes);
  if (half == 0) {
    at.inputs = tail ? j.l.tail : (int)PACKED_PIECE;
    barrier_wait(at.w.full + at.w.slot * 8, at.w.phase);
  }
  const int inputs = GROUP == 128 ? (int)PACKED_PIECE : at.inputs;
  unpack_half<BITS, GROUP>(a, from, half, inputs, lane);
  const char *scales = from + inputs * PACKED_ROWS * BITS / 8 + lane / 4 * (S::group_bytes / 8);
#pragma unroll
  for (int i = 0; i < 64 / (GROUP < 64 ? GROUP : 64); i++)
    if (GROUP < 128 || half == 1)
      s[i] = scale_at<BITS, ZEROS>(scales + (GROUP < 128 ? half * 64 / GROUP + i : 0) * S::group_bytes);
  if (half == 1 || inputs <= 64) {
    leave_stage(at.w.empty + at.w.slot * 8, lane);
    next_stage<S::w_stages>(at.w);
  }
}

__device__ static inline void meet_consumers() {
  asm volatile("bar.sync 1, %0;" ::"r"((int)CONSUMERS) : "memory");
}

/* The two warpgroups take turns at the tensor cores, so that one adds and unpacks while the other multiplies. */
__device__ static inline void take_turn(int warpgroup) {
  asm volatile("bar.sync %0, %1;" ::"r"(2 + warpgroup), "n"((int)CONSUMERS) : "memory");
}
__device__ static inline void pass_turn(int warpgroup) {
  asm volatile("bar.arrive %0, %1;" ::"r"(3 - warpgroup), "n"((int)CONSUMERS) : "memory");
}

/* Wide tiles of groups of a whole piece. */
template <int BITS, bool ZEROS, int BN>
__device__ static inline void multiply_in_turns(float acc[BN / 2], const many_job &j, const many_place &p,
                                                const char *room, uint32_t room_at, float *kept, int thread) {
  using S = many_shape<BITS, PACKED_PIECE, ZEROS, BN>;
  const int lane = thread % 32, warpgroup = thread / 128;
  const float *x_sums = j.x_sums + p.token + lane % 4 * 2;
  many_walk at = {ring_of<S>(room_at, 0), ring_of<S>(room_at, 1), p.from, 0, 0};
  uint32_t a[2][4][4];
  float sum[BN / 2] = {};
  many_scale s[1];
  if (warpgroup == 1) pass_turn(1);
#pragma unroll 1
  for (int piece = p.from; piece < p.to; piece++, at.piece++) {
    uint32_t x[2], left[2];
    ready_half<BITS, PACKED_PIECE, ZEROS, BN>(a[0], s, j, at, room, 0, thread);
    ready_half<BITS, PACKED_PIECE, ZEROS, BN>(a[1], s, j, at, room, 1, thread);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      barrier_wait(at.x.full + at.x.slot * 8, at.x.phase);
      x[half] = room_at + at.x.slot * S::x_stage, left[half] = at.x.empty + at.x.slot * 8;
      next_stage<S::x_stages>(at.x);
    }
    take_turn(warpgroup);
    multiply_stage<BN>(sum, a[0], x[0], 0, 4, 0);
    multiply_stage<BN>(sum, a[1], x[1], 0, 4, 1);
    if (warpgroup == 0 || piece + 1 < p.to) pass_turn(warpgroup);
    wait_products<0, BN / 2>(sum);
    leave_stage(left[0], lane), leave_stage(left[1], lane);
    add_group<ZEROS, BN>(acc, sum, s[0], x_sums + (int64_t)piece * j.tokens);
    if ((piece + 1) % WINDOW_PIECES == 0 || piece + 1 == p.to)
      end_window<BN>(acc, j, p, kept, piece / WINDOW_PIECES, thread);
  }
}

template <int BITS, int GROUP, bool ZEROS, int BN>
__device__ static inline void multiply_pieces(float acc[BN / 2], const many_job &j, const many_place &p,
                                              const char *room, uint32_t room_at, float *kept, int thread) {
  using S = many_shape<BITS, GROUP, ZEROS, BN>;
  constexpr int each = GROUP < 64 ? GROUP : 64, groups = 64 / each; /* inputs and groups in one half */
  const int lane = thread % 32;
  const float *x_sums = j.x_sums + p.token + lane % 4 * 2;
  many_walk at = {ring_of<S>(room_at, 0), ring_of<S>(room_at, 1), p.from, 0, 0};
  uint32_t a[S::operands][4][4];
  float sum[BN / 2] = {};
  many_scale s[2][groups];
  ready_half<BITS, GROUP, ZEROS, BN>(a[0], s[0], j, at, room, 0, thread);
#pragma unroll 1
  for (int piece = p.from; piece < p.to; piece++) {
    const int inputs = GROUP == 128 ? (int)PACKED_PIECE : at.inputs;
    uint32_t last = 0; /* the stage of x before, in use */
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (half * BK >= inputs) break;
      const bool ends = half == 1 || inputs <= BK;
      barrier_wait(at.x.full + at.x.slot * 8, at.x.phase);
#pragma unroll
      for (int g = 0; g < groups; g++) {
        if (GROUP == 32 && half * BK + g * 32 >= inputs) break;
        multiply_stage<BN>(sum, a[half % S::operands], room_at + at.x.slot * S::x_stage, g * each / 16,
                           (g + 1) * each / 16, GROUP == 128 && half == 1);
        /* The next half's operands, while the tensor cores are at work, if there are registers for both. */
        if (g + 1 == groups || half * BK + (g + 1) * 32 >= inputs) {
          if (S::operands == 1)
            wait_products<0, BN / 2>(sum);
          else if (GROUP == 128 && half == 1)
            wait_products<1, BN / 2>(sum);
          if (!ends) {
            ready_half<BITS, GROUP, ZEROS, BN>(a[S::operands - 1], s[1], j, at, room, 1, thread);
          } else if (piece + 1 < p.to) {
            at.piece++;
            ready_half<BITS, GROUP, ZEROS, BN>(a[0], s[0], j, at, room, 0, thread);
          }
        }
        if (GROUP == 128 && half == 0) continue;
        wait_products<0, BN / 2>(sum);
        int64_t group = (int64_t)piece * (PACKED_PIECE / GROUP) + (GROUP == 128 ? 0 : half * groups + g);
        add_group<ZEROS, BN>(acc, sum, s[half][g], x_sums + group * j.tokens);
      }
      if (GROUP == 128 && half == 0) {
        last = at.x.empty + at.x.slot * 8;
      } else {
        if (last) leave_stage(last, lane);
        leave_stage(at.x.empty + at.x.slot * 8, lane);
      }
      next_stage<S::x_stages>(at.x);
    }
    if ((piece + 1) % WINDOW_PIECES == 0 || piece + 1 == p.to)
      end_window<BN>(acc, j, p, kept, piece / WINDOW_PIECES, thread);
  }
}

/* bf16 by way of shared memory, [BN][OUT_STEP bytes], so that a token's 128 values go out side by side. */
template <int BN>
__device__ static inline void store_bf16(const float acc[BN / 2], char *room, bf16 *to, int64_t step, int64_t rows,
                                         int64_t tokens, int thread) {
  int lane = thread % 32, warp = thread / 32;
  uint32_t at =
      (uint32_t)__cvta_generic_to_shared(room) + (lane / 16 * 8 + lane % 8) * OUT_STEP + warp * 32 + lane / 8 % 2 * 16;
#pragma unroll
  for (int i = 0; i < BN / 2; i += 8) {
    uint32_t v[4];
#pragma unroll
    for (int n = 0; n < 4; n++)
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v[n]) : "f"(acc[i + n * 2 + 1]), "f"(acc[i + n * 2]));
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at + i * 2 * OUT_STEP),
                 "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
  }
  meet_consumers();
  bool wide = step % 8 == 0 && (uintptr_t)to % 16 == 0;
  for (int i = thread; i < BN * (BM / 8); i += CONSUMERS) {
    int token = i / (BM / 8), row = i % (BM / 8) * 8;
    if (token >= tokens || row >= rows) continue;
    const bf16 *from = (const bf16 *)(room + token * OUT_STEP) + row;
    if (wide && row + 8 <= rows)
      *(uint4 *)(to + token * step + row) = *(const uint4 *)from;
    else
      for (int n = 0; n < 8 && row + n < rows; n++) to[token * step + row + n] = from[n];
  }
}

__device__ static inline float bias_at(const packed_y &y, int64_t row, int64_t rows) {
  if (!y.bias || row >= rows) return 0;
  return y.bias_type == PU_F32 ? ((const float *)y.bias)[row] : to_f32(((const bf16 *)y.bias)[row]);
}

template <int BN>
__device__ static inline void store_tile(const float *kept, const many_job &j, const many_place &p, char *room,
                                         int thread) {
  int64_t first = (int64_t)p.row_tile * BM, row = first + thread / 32 * PACKED_ROWS, token = p.token;
  int64_t tokens = p.end - token;
  int lane = thread % 32;
  float acc[BN / 2];
#pragma unroll
  for (int i = 0; i < BN / 2; i++) acc[i] = kept[i * CONSUMERS];
  float bias[2] = {bias_at(j.y, row + lane / 4, j.rows), bias_at(j.y, row + lane / 4 + 8, j.rows)};
#pragma unroll
  for (int i = 0; i < BN / 2; i++) acc[i] += bias[i / 2 % 2];
  if (j.y.type == PU_F32) {
    store_f32<BN>(acc, (float *)j.y.y + token * j.y.step + row, j.y.step, j.rows - row, tokens, lane);
    return;
  }
  meet_consumers(); /* both warpgroups are done with the stages */
  store_bf16<BN>(acc, room, (bf16 *)j.y.y + token * j.y.step + first, j.y.step, j.rows - first, tokens, thread);
}
#endif

template <class S> __device__ static inline void make_barriers(uint32_t room) {
  for (int i = 0; i < 2 * MOST_STAGES; i++) {
    many_ring r = ring_of<S>(room, i / MOST_STAGES);
    barrier_init(r.full + i % MOST_STAGES * 8, 1);
    barrier_init(r.empty + i % MOST_STAGES * 8, CONSUMERS / 32);
  }
  barriers_visible();
}

template <int BITS, int GROUP, bool ZEROS, int BN>
__global__ void __launch_bounds__(MANY_THREADS, BN <= 64 ? 2 : 1)
    many_kernel(const __grid_constant__ many_job j, const __grid_constant__ CUtensorMap map) {
#ifdef HAS_WGMMA
  using S = many_shape<BITS, GROUP, ZEROS, BN>;
  extern __shared__ char raw[];
  char *room = raw + (1024 - (uint32_t)__cvta_generic_to_shared(raw) % 1024) % 1024;
  const uint32_t room_at = (uint32_t)__cvta_generic_to_shared(room);
  let_next_start();
  if (j.of.offsets) wait_for_before();
  const many_place p = j.of.offsets ? place_among<BN>(j) : place_of<BN>(j);
  if (p.token >= p.end) return;
  if (threadIdx.x == 0) make_barriers<S>(room_at);
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(S::copier_registers));
    if (threadIdx.x == 0) {
      wait_for_before();
      copy_x<S, BN>(j, &map, p, room_at);
    }
    if (threadIdx.x == 32) copy_w<S>(j, p, room_at);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(S::consumer_registers));
    wait_for_before();
    float acc[BN / 2];
    float *kept = (float *)(room + S::kept_at) + (threadIdx.x - 128);
#pragma unroll
    for (int i = 0; i < BN / 2; i++) acc[i] = 0;
    if (BN == 128 && GROUP == PACKED_PIECE)
      multiply_in_turns<BITS, ZEROS, BN>(acc, j, p, room, room_at, kept, threadIdx.x - 128);
    else
      multiply_pieces<BITS, GROUP, ZEROS, BN>(acc, j, p, room, room_at, kept, threadIdx.x - 128);
    if (j.shares == 1) store_tile<BN>(kept, j, p, room, threadIdx.x - 128);
  }
#endif
}

/* y = the windows' sums, in order, and the bias. */
__global__ static void add_windows(const __grid_constant__ many_job j) {
  int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x, row = i % j.rows, token = i / j.rows, n = j.tokens * j.rows;
  let_next_start();
  wait_for_before();
  if (i >= n) return;
  float v = 0;
  for (int s = 0; s < j.windows; s++) v += j.sums[s * n + i];
  if (j.y.bias) v += j.y.bias_type == PU_F32 ? ((const float *)j.y.bias)[row] : to_f32(((const bf16 *)j.y.bias)[row]);
  if (j.y.type == PU_F32)
    ((float *)j.y.y)[token * j.y.step + row] = v;
  else
    ((bf16 *)j.y.y)[token * j.y.step + row] = from_f32<bf16>(v);
}

/* Sums of a group of x, for eight tokens a warp: as packed_few.cu has them, products with ones. */
enum { SUM_THREADS = 128 };

__global__ static void sum_groups(float *to, const bf16 *x, int64_t step, int64_t tokens, int group) {
  int64_t first = ((int64_t)blockIdx.x * (SUM_THREADS / 32) + threadIdx.x / 32) * 8, g = blockIdx.y;
  int lane = threadIdx.x % 32;
  const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
  let_next_start();
  wait_for_before();
  if (first >= tokens) return;
  const bf16 *from = x + min(first + lane / 4, tokens - 1) * step + g * group + lane % 4 * 2;
  float sum[4] = {};
  for (int k = 0; k < group; k += 16) {
    uint32_t b[2] = {*(const uint32_t *)(from + k), *(const uint32_t *)(from + k + 8)};
    mma16(sum, ones, b);
  }
  for (int i = 0; i < 2; i++)
    if (lane < 4 && first + lane * 2 + i < tokens) to[g * tokens + first + lane * 2 + i] = sum[i];
}

/* ---- launching ---- */

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static pu_err describe_x(const packed_x *x, int64_t cols, int tokens, CUtensorMap *map, pu_error *e) {
  static encode_fn encode;
  if (!encode) {
    void *found = NULL;
    cudaDriverEntryPointQueryResult how;
    PU_CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &how),
                "asking for the driver's tensor maps", e);
    if (how != cudaDriverEntryPointSuccess)
      return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: the driver knows no tensor maps: update it");
    encode = (encode_fn)found;
  }
  cuuint64_t sizes[2] = {(cuuint64_t)cols, (cuuint64_t)x->tokens}, step = (cuuint64_t)x->step * sizeof(bf16);
  cuuint32_t box[2] = {BK, (cuuint32_t)tokens}, each[2] = {1, 1};
  CUresult r = encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)x->x, sizes, &step, box, each,
                      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (r != CUDA_SUCCESS) return pu_fail(e, PU_ERR_IO, "cuda: a tensor map is refused (error %d)", (int)r);
  return PU_OK;
}

/* Beginning while the kernel before ends. */
static cudaLaunchConfig_t early_launch(const pu_cuda *d, cudaLaunchAttribute *early, dim3 grid, int threads,
                                       size_t bytes) {
  cudaLaunchConfig_t c = {};
  early->id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early->val.programmaticStreamSerializationAllowed = 1;
  c.gridDim = grid;
  c.blockDim = dim3((unsigned)threads);
  c.dynamicSmemBytes = bytes;
  c.stream = d->stream;
  c.attrs = early;
  c.numAttrs = 1;
  return c;
}

template <int BITS, int GROUP, bool ZEROS, int BN>
static pu_err launch_many(pu_cuda *d, many_job *j, const packed_x *x, int64_t cols, pu_error *e) {
  using S = many_shape<BITS, GROUP, ZEROS, BN>;
  static bool allowed = false;
  CUtensorMap map;
  cudaLaunchAttribute early;
  if (!allowed)
    PU_CUDA_TRY(cudaFuncSetAttribute((const void *)many_kernel<BITS, GROUP, ZEROS, BN>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, (int)S::bytes),
                "its shared memory", e);
  allowed = true;
  PU_TRY(describe_x(x, cols, BN, &map, e));
  if (ZEROS) {
    dim3 grid((unsigned)ceil_div(x->tokens, 8 * (SUM_THREADS / 32)), (unsigned)j->l.groups);
    cudaLaunchConfig_t c = early_launch(d, &early, grid, SUM_THREADS, 0);
    PU_CUDA_TRY(cudaLaunchKernelEx(&c, sum_groups, j->x_sums, x->x, x->step, x->tokens, GROUP), "sums of x", e);
  }
  dim3 grid((unsigned)(j->row_tiles * j->token_tiles), (unsigned)j->shares);
  cudaLaunchConfig_t c = early_launch(d, &early, grid, MANY_THREADS, S::bytes);
  PU_CUDA_TRY(cudaLaunchKernelEx(&c, many_kernel<BITS, GROUP, ZEROS, BN>, *j, map), "a product with a packed weight",
              e);
  if (j->shares == 1) return PU_OK;
  c = early_launch(d, &early, dim3((unsigned)ceil_div(j->tokens * j->rows, 256)), 256, 0);
  PU_CUDA_TRY(cudaLaunchKernelEx(&c, add_windows, *j), "adding up a product's windows", e);
  return PU_OK;
}

template <int BITS, int GROUP, bool ZEROS>
static pu_err launch_width(pu_cuda *d, many_job *j, const packed_x *x, int64_t cols, int width, pu_error *e) {
  if (width == 16) return launch_many<BITS, GROUP, ZEROS, 16>(d, j, x, cols, e);
  if (width == 32) return launch_many<BITS, GROUP, ZEROS, 32>(d, j, x, cols, e);
  if (width == 64) return launch_many<BITS, GROUP, ZEROS, 64>(d, j, x, cols, e);
  return launch_many<BITS, GROUP, ZEROS, 128>(d, j, x, cols, e);
}

/* How wide a tile is, and into how many shares the inputs are cut. */
typedef struct many_plan {
  int width, shares;
} many_plan;

static int width_for(int64_t tokens) {
  return tokens <= 16 ? 16 : tokens <= 32 ? 32 : tokens <= 64 ? 64 : 128;
}

static many_plan plan_of(const pu_cuda *d, const packed_matrix *w, int64_t tokens) {
  many_plan p = {width_for(tokens), 1};
  int64_t windows = ceil_div(w->l.pieces, WINDOW_PIECES);
  int64_t tiles = ceil_div(w->rows, BM) * ceil_div(tokens, p.width), places = d->sms * (p.width <= 64 ? 2 : 1);
  p.shares = (int)PU_MAX((int64_t)1, PU_MIN(places / tiles, windows));
  return p;
}

bool packed_many_can(const pu_cuda *d) {
  return d->capability == 90;
}

static size_t x_sums_bytes(const packed_matrix *w, int64_t tokens) {
  return w->p.zeros ? (size_t)(ceil_div(w->l.groups * tokens, 64) * 64 + MOST_WIDTH) * sizeof(float) : 0;
}

size_t packed_many_bytes(const pu_cuda *d, const packed_matrix *w, int64_t tokens) {
  bool shared = plan_of(d, w, tokens).shares > 1;
  size_t sums = (size_t)(ceil_div(w->l.pieces, WINDOW_PIECES) * tokens * w->rows) * sizeof(float);
  return x_sums_bytes(w, tokens) + (shared ? sums : 0);
}

size_t packed_many_parts_bytes(const packed_matrix *w, int64_t tokens) {
  return x_sums_bytes(w, tokens);
}

static pu_err launch_packing(pu_cuda *d, const packed_matrix *w, many_job *j, const packed_x *x, int64_t cols,
                             int width, pu_error *e) {
#define SHAPE(B, G, Z)                                                                                                 \
  if (w->p.bits == B && w->p.group == G && w->p.zeros == Z) return launch_width<B, G, Z>(d, j, x, cols, width, e)
  SHAPE(4, 32, false);
  SHAPE(4, 32, true);
  SHAPE(4, 64, false);
  SHAPE(4, 64, true);
  SHAPE(4, 128, false);
  SHAPE(4, 128, true);
  SHAPE(8, 32, false);
  SHAPE(8, 32, true);
  SHAPE(8, 64, false);
  SHAPE(8, 64, true);
  SHAPE(8, 128, false);
  SHAPE(8, 128, true);
#undef SHAPE
  return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: linear: no kernel for such a packing");
}

static many_job job_of(const packed_matrix *w, const packed_x *x, const packed_y *y, void *room) {
  many_job j = {};
  j.w = w->data;
  j.l = w->l;
  j.rows = w->rows;
  j.tokens = x->tokens;
  j.row_tiles = (int)ceil_div(w->rows, BM);
  j.windows = (int)ceil_div(w->l.pieces, WINDOW_PIECES);
  j.shares = 1;
  j.x_sums = (float *)room;
  j.y = *y;
  return j;
}

pu_err packed_many(pu_cuda *d, const packed_matrix *w, const packed_x *x, int64_t cols, const packed_y *y, void *room,
                   pu_error *e) {
  many_plan p = plan_of(d, w, x->tokens);
  many_job j = job_of(w, x, y, room);
  j.token_tiles = (int)ceil_div(x->tokens, p.width);
  j.shares = p.shares;
  j.sums = (float *)((char *)room + x_sums_bytes(w, x->tokens));
  return launch_packing(d, w, &j, x, cols, p.width, e);
}

pu_err packed_many_parts(pu_cuda *d, const packed_matrix *w, const packed_x *x, int64_t cols, const packed_y *y,
                         const packed_parts *parts, void *room, pu_error *e) {
  int width = width_for(x->tokens / parts->n);
  many_job j = job_of(w, x, y, room);
  j.token_tiles = (int)(x->tokens / width) + parts->n; /* rounded up for each */
  j.of = *parts;
  return launch_packing(d, w, &j, x, cols, width, e);
}
