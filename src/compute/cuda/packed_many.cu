/* Products of weights in few bits with many tokens, on Hopper's warpgroup instructions (wgmma, PTX ISA 8.0 and later).
 *
 * A block of threads makes 128 rows of w by BN tokens of y. Two threads copy, several stages ahead: one x, 64 inputs at
 * a time, through the tensor copy engine in the swizzled form that wgmma reads; one the rows' pieces as they lie. Two
 * warpgroups have 64 rows each: bits become bf16 weights in registers, which are wgmma's left operand as packed.h lays
 * them out, while the tensor cores are at the stage before. A weight is rounded to bf16 once; sums are f32.
 *
 * Where there are too few blocks to fill the device, the inputs are shared out too: each share's f32 sums go into work
 * memory, and another kernel adds them, in order. */
#include <cuda.h>

#include "src/compute/cuda/barriers.h"
#include "src/compute/cuda/packed.h"
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/wgmma.h"

enum { BM = 128, BK = 64, CONSUMERS = 256, MANY_THREADS = CONSUMERS + 128, MOST_STAGES = 8, OUT_STEP = BM * 2 + 16 };
enum { ROOM = 220 << 10 };

typedef struct many_job {
  const uint8_t *w;
  packed_layout l;
  int64_t rows, tokens;
  int token_tiles, row_tiles; /* token_tiles: at most, where there are several matrices */
  int shares;                 /* of the pieces */
  float *sums;                /* [shares, tokens, rows], where there are several */
  packed_y y;
  packed_parts of;
} many_job;

template <int BITS, int GROUP, bool ZEROS, int BN> struct many_shape {
  static constexpr int group_bytes = ZEROS ? 64 : 32, group_q = GROUP * PACKED_ROWS * BITS / 8;
  static constexpr int w_stage = PACKED_BLOCKS * (PACKED_PIECE / GROUP) * (group_q + group_bytes),
                       x_stage = BN * BK * 2;
  static constexpr int at_once = BN <= 64 ? 2 : 1; /* blocks of threads to a multiprocessor */
  /* What the launch gives all (80 or 168, 384 threads), less the copying warps' 40, among the consumers: asking for
   * more waits for ever. */
  static constexpr int consumer_registers = at_once == 2 ? 96 : 232;
  static constexpr int w_stages = BN == 256 || BITS == 8 && BN <= 64 ? 3 : 4;
  static constexpr int x_most = (ROOM / at_once - w_stages * w_stage) / x_stage,
                       x_stages = x_most < MOST_STAGES ? x_most : MOST_STAGES;
  /* x first: it must begin at a multiple of 1,024 bytes. Then barriers. */
  static constexpr int w_at = x_stages * x_stage, barriers_at = w_at + w_stages * w_stage;
  static constexpr size_t bytes = 1024 + barriers_at + 4 * MOST_STAGES * 8;
};

#ifdef PU_WGMMA

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
  p.from = (int)(blockIdx.y * j.l.pieces / j.shares);
  p.to = (int)((blockIdx.y + 1) * j.l.pieces / j.shares);
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
  ring_place at;
} many_ring;

template <class S> __device__ static inline many_ring ring_of(uint32_t room, int which) {
  uint32_t at = room + S::barriers_at + which * 2 * MOST_STAGES * 8;
  many_ring r = {at, at + MOST_STAGES * 8, {0, 0}};
  return r;
}

template <class S, int BN>
__device__ static inline void copy_x(const many_job &j, const CUtensorMap *map, const many_place &p, uint32_t room) {
  many_ring r = ring_of<S>(room, 0);
  int end = (int)min((int64_t)p.to * PACKED_PIECE, j.l.places);
  for (int k = p.from * PACKED_PIECE; k < end; k += BK) {
    barrier_wait(r.empty + r.at.slot * 8, r.at.turn ^ 1);
    barrier_expect(r.full + r.at.slot * 8, S::x_stage);
    box_copy(room + r.at.slot * S::x_stage, map, k, (int)p.token, r.full + r.at.slot * 8);
    r.at.go_on(S::x_stages);
  }
}

template <class S> __device__ static inline void copy_w(const many_job &j, const many_place &p, uint32_t room) {
  many_ring r = ring_of<S>(room, 1);
  int64_t block = (int64_t)p.row_tile * PACKED_BLOCKS, blocks = min((int64_t)PACKED_BLOCKS, j.l.blocks - block);
  for (int piece = p.from; piece < p.to; piece++) {
    int bytes = (int)(blocks * (piece + 1 == j.l.pieces ? j.l.tail_bytes : j.l.piece_bytes));
    barrier_wait(r.empty + r.at.slot * 8, r.at.turn ^ 1);
    barrier_expect(r.full + r.at.slot * 8, bytes);
    bulk_copy(room + S::w_at + r.at.slot * S::w_stage, p.w + packed_at(j.l, block, piece), bytes,
              r.full + r.at.slot * 8);
    r.at.go_on(S::w_stages);
  }
}

/* w = value * scale + low for rows g and g + 8. */
typedef struct many_scale {
  float scale[2], low[2];
} many_scale;

/* `value` is 128 + q of four bits, q - 128 of eight. */
template <int BITS, bool ZEROS> __device__ static inline many_scale scale_of(const char *at) {
  constexpr float more = BITS == 4 ? 128 : -128;
  many_scale s;
  float2 scale = __half22float2(*(const __half2 *)at);
  float2 zero = ZEROS ? __half22float2(*(const __half2 *)(at + 4)) : make_float2(1 << (BITS - 1), 1 << (BITS - 1));
  s.scale[0] = scale.x, s.scale[1] = scale.y;
  s.low[0] = -(zero.x + more) * scale.x, s.low[1] = -(zero.y + more) * scale.y;
  return s;
}

__device__ static inline uint32_t weights_of(uint32_t pair, float scale, float low) {
  float first = fmaf(__uint_as_float(pair << 16), scale, low),
        second = fmaf(__uint_as_float(pair & 0xffff0000u), scale, low);
  return pair_bf16(first, second);
}

/* Half a piece's bits become the left operands of four products. inputs: of the whole piece. */
template <int BITS, int GROUP, bool ZEROS, int BN>
__device__ static inline void unpack_half(uint32_t a[4][4], const char *piece, int half, int inputs, int lane) {
  using S = many_shape<BITS, GROUP, ZEROS, BN>;
  const char *q = piece + half * 64 * PACKED_ROWS * BITS / 8;
  const char *scales =
      piece + inputs * PACKED_ROWS * BITS / 8 + half * 64 / GROUP * S::group_bytes + lane / 4 * (S::group_bytes / 8);
  uint4 v[BITS / 4];
#pragma unroll
  for (int i = 0; i < BITS / 4; i++) v[i] = *(const uint4 *)(q + i * PACKED_UNIT + lane * 16);
  if (BITS == 4 && GROUP == 32 && inputs == half * 64 + 32) { /* half a unit */
    uint2 w = *(const uint2 *)(q + lane * 8);
    v[0].x = w.x, v[0].y = w.y;
  }
  many_scale s = scale_of<BITS, ZEROS>(scales);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    if (GROUP == 32 && k == 2) s = scale_of<BITS, ZEROS>(scales + S::group_bytes);
    if (BITS == 4) {
      uint32_t word = k == 0 ? v[0].x : k == 1 ? v[0].y : k == 2 ? v[0].z : v[0].w;
#pragma unroll
      for (int i = 0; i < 4; i++) a[k][i] = weights_of(pair4(word, i), s.scale[i % 2], s.low[i % 2]);
    } else {
      const uint4 w = v[k / 2 % (BITS / 4)];
      uint32_t pairs[4];
      unpack8(k % 2 ? w.z : w.x, pairs), unpack8(k % 2 ? w.w : w.y, pairs + 2);
#pragma unroll
      for (int i = 0; i < 4; i++) a[k][i] = weights_of(pairs[i], s.scale[i % 2], s.low[i % 2]);
    }
  }
}

/* acc += a x^T for `n` of the stage's four sixteens of inputs. x: rows of 128 bytes, swizzled: eight rows are 1,024
 * bytes (PTX ISA, matrix descriptor). */
template <int BN>
__device__ static inline void multiply_stage(float acc[BN / 2], const uint32_t a[4][4], uint32_t x, int n) {
  constexpr int wide = BN < 128 ? BN : 128;
  wide_begin();
#pragma unroll
  for (int k = 0; k < 4; k++) {
    if (k == 2 && n == 2) break;
#pragma unroll
    for (int i = 0; i < BN / wide; i++) {
      auto sums = (float(*)[wide / 2])(acc + i * (wide / 2));
      wide_mma<0>(*sums, a[k], wide_matrix(x + i * wide * BK * 2 + k * 32, 16), 1);
    }
  }
  wide_commit();
}

/* All lanes of a warp have read a stage. */
__device__ static inline void leave_stage(uint32_t empty, int lane) {
  __syncwarp();
  if (lane == 0) barrier_arrive(empty);
}

template <int BITS, int GROUP, bool ZEROS, int BN>
__device__ static inline void multiply_pieces(float acc[BN / 2], const many_job &j, const many_place &p,
                                              const char *room, uint32_t room_at, int thread) {
  using S = many_shape<BITS, GROUP, ZEROS, BN>;
  const int block = thread / 32, lane = thread % 32;
  many_ring x = ring_of<S>(room_at, 0), w = ring_of<S>(room_at, 1);
  uint32_t a[2][4][4], last = 0; /* last: the stage of x before */
#pragma unroll 1
  for (int piece = p.from; piece < p.to; piece++) {
    const bool tail = piece + 1 == j.l.pieces;
    const int inputs = tail ? j.l.tail : (int)PACKED_PIECE;
    const char *from = room + S::w_at + w.at.slot * S::w_stage + block * (int)(tail ? j.l.tail_bytes : j.l.piece_bytes);
    barrier_wait(w.full + w.at.slot * 8, w.at.turn);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (half * BK >= inputs) break;
      unpack_half<BITS, GROUP, ZEROS, BN>(a[half], from, half, inputs, lane);
      if (half * BK + BK >= inputs) leave_stage(w.empty + w.at.slot * 8, lane);
      barrier_wait(x.full + x.at.slot * 8, x.at.turn);
      multiply_stage<BN>(acc, a[half], room_at + x.at.slot * S::x_stage, inputs == half * BK + 32 ? 2 : 4);
      wide_wait<1>(); /* of the stage before */
      if (last) leave_stage(last, lane);
      last = x.empty + x.at.slot * 8;
      x.at.go_on(S::x_stages);
    }
    w.at.go_on(S::w_stages);
  }
  wide_wait<0>(*(float(*)[BN / 2]) acc);
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

/* bf16 by way of shared memory, [BN][OUT_STEP bytes], so that a token's 128 values go out side by side. */
template <int BN>
__device__ static inline void store_bf16(const float acc[BN / 2], char *room, bf16 *to, int64_t step, int64_t rows,
                                         int64_t tokens, int thread) {
  int lane = thread % 32, warp = thread / 32;
  uint32_t at = shared_address(room) + (lane / 16 * 8 + lane % 8) * OUT_STEP + warp * 32 + lane / 8 % 2 * 16;
#pragma unroll
  for (int i = 0; i < BN / 2; i += 8) {
    uint32_t v[4];
#pragma unroll
    for (int n = 0; n < 4; n++) v[n] = pair_bf16(acc[i + n * 2], acc[i + n * 2 + 1]);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at + i * 2 * OUT_STEP),
                 "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
  }
  meet_threads<CONSUMERS>();
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

template <int BN>
__device__ static inline void store_tile(float acc[BN / 2], const many_job &j, const many_place &p, char *room,
                                         int thread) {
  int64_t first = (int64_t)p.row_tile * BM, row = first + thread / 32 * PACKED_ROWS, token = p.token;
  int64_t tokens = p.end - token;
  int lane = thread % 32;
  if (j.shares > 1) {
    float *to = j.sums + ((int64_t)blockIdx.y * j.tokens + token) * j.rows + row;
    store_f32<BN>(acc, to, j.rows, j.rows - row, tokens, lane);
    return;
  }
  float bias[2] = {bias_at(j.y, row + lane / 4, j.rows), bias_at(j.y, row + lane / 4 + 8, j.rows)};
#pragma unroll
  for (int i = 0; i < BN / 2; i++) acc[i] += bias[i / 2 % 2];
  if (j.y.type == PU_F32) {
    store_f32<BN>(acc, (float *)j.y.y + token * j.y.step + row, j.y.step, j.rows - row, tokens, lane);
    return;
  }
  meet_threads<CONSUMERS>(); /* both warpgroups are done with the stages */
  store_bf16<BN>(acc, room, (bf16 *)j.y.y + token * j.y.step + first, j.y.step, j.rows - first, tokens, thread);
}

template <class S> __device__ static inline void make_barriers(uint32_t room) {
  for (int i = 0; i < 2 * MOST_STAGES; i++) {
    many_ring r = ring_of<S>(room, i / MOST_STAGES);
    barrier_init(r.full + i % MOST_STAGES * 8, 1);
    barrier_init(r.empty + i % MOST_STAGES * 8, CONSUMERS / 32);
  }
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

#endif

template <int BITS, int GROUP, bool ZEROS, int BN>
__global__ void __launch_bounds__(MANY_THREADS, BN <= 64 ? 2 : 1)
    many_kernel(const many_job j, const __grid_constant__ CUtensorMap map) {
#ifdef PU_WGMMA
  using S = many_shape<BITS, GROUP, ZEROS, BN>;
  extern __shared__ char raw[];
  char *room = raw + (1024 - shared_address(raw) % 1024) % 1024;
  const uint32_t room_at = shared_address(room);
  if (j.of.offsets) after_last_kernel();
  const many_place p = j.of.offsets ? place_among<BN>(j) : place_of<BN>(j);
  if (p.token >= p.end) return;
  if (threadIdx.x == 0) make_barriers<S>(room_at);
  __syncthreads();
  if (threadIdx.x / 32 != 1) after_last_kernel(); /* the warp that asks for weights need not wait */
  if (threadIdx.x < 128) {
    registers_less<40>();
    if (threadIdx.x == 0) copy_x<S, BN>(j, &map, p, room_at);
    if (threadIdx.x == 32) copy_w<S>(j, p, room_at);
  } else {
    registers_more<S::consumer_registers>();
    float acc[BN / 2];
#pragma unroll
    for (int i = 0; i < BN / 2; i++) acc[i] = 0;
    multiply_pieces<BITS, GROUP, ZEROS, BN>(acc, j, p, room, room_at, threadIdx.x - 128);
    store_tile<BN>(acc, j, p, room, threadIdx.x - 128);
  }
#endif
}

/* y = the shares' sums, in order, and the bias. */
__global__ static void add_shares(const many_job j) {
  int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x, row = i % j.rows, token = i / j.rows, n = j.tokens * j.rows;
  after_last_kernel();
  if (i >= n) return;
  float v = 0;
  for (int s = 0; s < j.shares; s++) v += j.sums[s * n + i];
  if (j.y.bias) v += j.y.bias_type == PU_F32 ? ((const float *)j.y.bias)[row] : to_f32(((const bf16 *)j.y.bias)[row]);
  if (j.y.type == PU_F32)
    ((float *)j.y.y)[token * j.y.step + row] = v;
  else
    ((bf16 *)j.y.y)[token * j.y.step + row] = from_f32<bf16>(v);
}

/* ---- launching ---- */

template <int BITS, int GROUP, bool ZEROS, int BN>
static pu_err launch_many(pu_cuda *d, many_job *j, const packed_x *x, int64_t cols, pu_error *e) {
  using S = many_shape<BITS, GROUP, ZEROS, BN>;
  static bool allowed = false;
  CUtensorMap map;
  if (!allowed)
    PU_CUDA_TRY(cudaFuncSetAttribute((const void *)many_kernel<BITS, GROUP, ZEROS, BN>,
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, (int)S::bytes),
                "its shared memory", e);
  allowed = true;
  PU_TRY(pu_cuda_map_of(d, x->x, x->tokens, cols, x->step, BN, &map, e));
  dim3 grid((unsigned)(j->row_tiles * j->token_tiles), (unsigned)j->shares);
  pu_cuda_start(d, true, many_kernel<BITS, GROUP, ZEROS, BN>, grid, MANY_THREADS, S::bytes, *j, map);
  if (j->shares > 1) pu_cuda_start(d, true, add_shares, dim3((unsigned)ceil_div(j->tokens * j->rows, 256)), 256, 0, *j);
  return pu_cuda_launched("a product with a packed weight", e);
}

template <int BITS, int GROUP, bool ZEROS>
static pu_err launch_width(pu_cuda *d, many_job *j, const packed_x *x, int64_t cols, int width, pu_error *e) {
  if (width == 32) return launch_many<BITS, GROUP, ZEROS, 32>(d, j, x, cols, e);
  if (width == 64) return launch_many<BITS, GROUP, ZEROS, 64>(d, j, x, cols, e);
  if (width == 128) return launch_many<BITS, GROUP, ZEROS, 128>(d, j, x, cols, e);
  return launch_many<BITS, GROUP, ZEROS, 256>(d, j, x, cols, e);
}

/* How wide a tile is, and into how many shares the inputs are cut. */
typedef struct many_plan {
  int width, shares;
} many_plan;

static int width_for(int64_t tokens) {
  return tokens <= 32 ? 32 : tokens <= 64 ? 64 : tokens <= 128 ? 128 : 256;
}

static many_plan plan_of(const pu_cuda *d, const packed_matrix *w, int64_t tokens) {
  many_plan p = {width_for(tokens), 1};
  int64_t rows = ceil_div(w->rows, BM), pieces = w->l.pieces;
  if (p.width == 256 && rows * ceil_div(tokens, 256) < d->sms) p.width = 128;
  int64_t tiles = rows * ceil_div(tokens, p.width);
  while (tiles * p.shares * 2 <= d->sms * (p.width <= 64 ? 2 : 1) && pieces / (p.shares * 2) >= 4) p.shares *= 2;
  return p;
}

bool packed_many_can(const pu_cuda *d) {
  return d->capability == 90;
}

size_t packed_many_bytes(const pu_cuda *d, const packed_matrix *w, int64_t tokens) {
  many_plan p = plan_of(d, w, tokens);
  return p.shares > 1 ? (size_t)(p.shares * tokens * w->rows) * sizeof(float) : 0;
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

static many_job job_of(const packed_matrix *w, const packed_x *x, const packed_y *y) {
  many_job j = {};
  j.w = w->data;
  j.l = w->l;
  j.rows = w->rows;
  j.tokens = x->tokens;
  j.row_tiles = (int)ceil_div(w->rows, BM);
  j.shares = 1;
  j.y = *y;
  return j;
}

pu_err packed_many(pu_cuda *d, const packed_matrix *w, const packed_x *x, int64_t cols, const packed_y *y, void *room,
                   pu_error *e) {
  many_plan p = plan_of(d, w, x->tokens);
  many_job j = job_of(w, x, y);
  j.token_tiles = (int)ceil_div(x->tokens, p.width);
  j.shares = p.shares;
  j.sums = (float *)room;
  return launch_packing(d, w, &j, x, cols, p.width, e);
}

pu_err packed_many_parts(pu_cuda *d, const packed_matrix *w, const packed_x *x, int64_t cols, const packed_y *y,
                         const packed_parts *parts, pu_error *e) {
  int width = width_for(x->tokens / parts->n);
  many_job j = job_of(w, x, y);
  j.token_tiles = (int)(x->tokens / width) + parts->n; /* rounded up for each */
  j.of = *parts;
  return launch_packing(d, w, &j, x, cols, width, e);
}
