/* Products of weights in few bits with few tokens: as fast as memory gives the weights.
 *
 * A block of threads has some rows, and takes R blocks of sixteen of them at a time (a unit) through all inputs, a
 * window of eight pieces after the other. Eight warps have a piece of a window each: a warp makes bf16 integers of its
 * bits in registers (q less 2^(bits-1): exact), multiplies by x on the tensor cores and leaves each group's sum and
 * scale, which the last warps add up. One warp copies weights into a ring in shared memory as far ahead as there is
 * room: they begin to come before the kernel before this one ends. One copies x.
 *
 * A result's bits, whatever the number of tokens (packed_many.cu does the same): the products of a group of inputs are
 * summed in one sequence of steps of sixteen, from 0, and where there are zeros 2^(bits-1) less the zero, times the sum
 * of the group's x, is added by one fma. Groups of a window of PACKED_WINDOW inputs are added in order, scale times sum
 * by one fma, from 0; windows are added in order, from 0; the bias comes last. */
#include "src/compute/cuda/packed.h"

enum { WARPS = 8, COPIER = WARPS, STAGER, FOLDER, FOLDERS = 2, THREADS = (FOLDER + FOLDERS) * 32 };
enum { PIECE = PACKED_PIECE, COLS = 8, SUM_STEP = 20, X_STEP = PACKED_WINDOW + 8 };
enum { MOST_DEPTH = 8, MOST_X = 32, SUM_SLOTS = 2 }; /* slots of weights, of x, of sums */
static_assert(WARPS * (int)PIECE == (int)PACKED_WINDOW, "a piece for each warp");

typedef struct few_job {
  const uint8_t *w;
  packed_layout l;
  int64_t rows;
  int windows;
  const bf16 *x;
  int64_t x_step;
  int cols, tokens, parts; /* cols: of a pass, tokens times parts */
  int depth, x_slots;      /* of weights; of x, which stays for all units if they are as many as windows */
  packed_y y;
  packed_parts of;
} few_job;

template <int BITS, int GROUP, bool ZEROS> struct few_shape {
  static constexpr int rows = BITS == 4 && GROUP > 32 ? 2 : 1; /* blocks of a unit */
  static constexpr int groups = PIECE / GROUP, window_groups = WARPS * groups;
  static constexpr int group_q = GROUP * PACKED_ROWS * BITS / 8, pair = ZEROS ? 8 : 4; /* bytes */
  static constexpr int piece = rows * groups * (group_q + 8 * pair), slot = WARPS * piece;
  static constexpr bool tails = GROUP < PIECE; /* the last piece may have fewer inputs */
  static constexpr int outputs = rows * PACKED_ROWS * COLS, each = outputs / (FOLDERS * 32);
  /* A window's scales, [groups][rows][16], and sums, [groups][rows][cols][SUM_STEP]. */
  __host__ __device__ static inline int sums(int cols) {
    return window_groups * rows * (PACKED_ROWS + cols * SUM_STEP);
  }
};

/* Where a block of threads works: blocks [first, last), tokens [token, end) in passes. */
typedef struct few_place {
  const uint8_t *w;
  int first, last, units, passes;
  int64_t token, end;
} few_place;

/* ---- barriers ---- */

/* Of weights, x and sums: that a slot is full, and that it is empty. x that stays is left once for each unit. */
enum { W_FULL = 0, W_EMPTY = MOST_DEPTH, X_FULL = 2 * MOST_DEPTH, X_EMPTY = X_FULL + MOST_X };
enum { SUMS_FULL = X_EMPTY + MOST_X, SUMS_EMPTY = SUMS_FULL + SUM_SLOTS, BARRIERS = SUMS_EMPTY + SUM_SLOTS };
enum { BARRIER_BYTES = 1024 };
static_assert((int)BARRIERS * 8 <= (int)BARRIER_BYTES && (int)BARRIERS <= (int)THREADS, "barriers");

__device__ static inline void make_barrier(const few_job &j, uint32_t room, int units, int i) {
#if __CUDA_ARCH__ >= 900
  const int copiers = 1;
#else
  const int copiers = 32;
#endif
  const int readers = j.x_slots == j.windows ? WARPS * units : WARPS;
  int count = i < W_EMPTY ? copiers : i < X_FULL ? WARPS : i < X_EMPTY ? 32 : i < SUMS_FULL ? readers : WARPS;
  if (i >= SUMS_EMPTY) count = FOLDERS;
  if (i < BARRIERS) barrier_init(room + i * 8, count);
}

/* A slot of a ring, and the parity of how often it has gone round. */
typedef struct few_slot {
  int at, round;
} few_slot;

__device__ static inline void step(few_slot &s, int slots) {
  if (++s.at == slots) s.at = 0, s.round ^= 1;
}

/* ---- weights ---- */

/* A lane's piece of a window, of all blocks of a unit: one behind the other in memory, unless they belong to two
 * eights.
 */
typedef struct few_source {
  const uint8_t *from; /* of piece `lane`, in the first window */
  int64_t step;        /* from window to window */
  int count, here;     /* blocks; how many of them are of the first's eight */
  int block;
} few_source;

template <class S>
__device__ static inline few_source source_of(const few_job &j, const few_place &p, int unit, int lane) {
  few_source s;
  s.block = p.first + unit * S::rows;
  const int eight = s.block / PACKED_BLOCKS * PACKED_BLOCKS;
  const int64_t piece = min((int)PACKED_BLOCKS, (int)j.l.blocks - eight) * j.l.piece_bytes;
  s.count = min(S::rows, p.last - s.block);
  s.here = min(s.count, eight + PACKED_BLOCKS - s.block);
  s.step = WARPS * piece;
  s.from = p.w + eight * j.l.block_bytes + lane % WARPS * piece + (s.block - eight) * j.l.piece_bytes;
  return s;
}

template <class S>
__device__ static inline void copy_window(const few_job &j, const few_place &p, const few_source &s, int window,
                                          uint32_t to, uint32_t full, int lane) {
  const int piece = window * WARPS + lane % WARPS, pieces = min((int)WARPS, (int)j.l.pieces - window * WARPS);
  const bool tail = S::tails && piece + 1 == j.l.pieces;
  const int bytes = tail ? (int)j.l.tail_bytes : (int)j.l.piece_bytes;
  const uint8_t *from = tail ? p.w + packed_at(j.l, s.block, piece) : s.from + window * s.step;
  to += lane % WARPS * S::piece;
#if __CUDA_ARCH__ >= 900
  int all = pieces * (int)j.l.piece_bytes;
  if (S::tails && (window + 1) * WARPS >= j.l.pieces) all -= (int)(j.l.piece_bytes - j.l.tail_bytes);
  if (lane == 0) barrier_expect(full, all * s.count);
  __syncwarp();
  if (lane < pieces) bulk_copy(to, from, s.here * bytes, full);
  if (s.here < s.count && lane < pieces)
    bulk_copy(to + s.here * bytes, p.w + packed_at(j.l, s.block + s.here, piece), (s.count - s.here) * bytes, full);
#else
  if (lane < pieces) {
    for (int i = 0; i < s.here * bytes; i += 16) copy16(to + i, from + i);
    from = p.w + packed_at(j.l, s.block + s.here, piece);
    for (int i = 0; i < (s.count - s.here) * bytes; i += 16) copy16(to + s.here * bytes + i, from + i);
  }
  barrier_after_copies(full);
#endif
}

template <class S>
__device__ static inline void copy_weights(const few_job &j, const few_place &p, uint32_t room, uint32_t at, int lane) {
  few_slot mine = {0, 0};
  for (int pass = 0; pass < p.passes; pass++)
    for (int unit = 0; unit < p.units; unit++) {
      few_source s = source_of<S>(j, p, unit, lane);
      for (int window = 0; window < j.windows; window++) {
        barrier_wait(room + (W_EMPTY + mine.at) * 8, mine.round ^ 1);
        copy_window<S>(j, p, s, window, at + mine.at * S::slot, room + (W_FULL + mine.at) * 8, lane);
        step(mine, j.depth);
      }
    }
}

/* ---- x ---- */

__device__ static inline int tokens_of(const few_job &j, const few_place &p, int pass) {
  int most = j.cols / j.parts;
  return (int)min((int64_t)most, p.end - p.token - (int64_t)pass * most);
}

/* [cols][X_STEP] for each window: rows of tokens, for parts one after the other. */
__device__ static inline void stage_window(const few_job &j, int64_t token, int tokens, int window, uint32_t to,
                                           int lane) {
  int64_t first = (int64_t)window * PACKED_WINDOW;
  int width = (int)min((int64_t)PACKED_WINDOW, j.l.places - first);
  for (int part = 0; part < j.parts; part++)
    for (int col = 0; col < tokens; col++, to += X_STEP * 2) {
      const bf16 *from = j.x + (token + col + part * (int64_t)j.tokens) * j.x_step + first;
#pragma unroll 4
      for (int k = lane * 8; k < width; k += 256) copy16(to + k * 2, from + k);
    }
}

__device__ static inline void stage_x(const few_job &j, const few_place &p, uint32_t room, uint32_t at, int lane) {
  few_slot x = {0, 0};
  int times = j.x_slots == j.windows ? 1 : p.units;
  for (int pass = 0; pass < p.passes; pass++)
    for (int i = 0; i < times; i++)
      for (int window = 0; window < j.windows; window++) {
        barrier_wait(room + (X_EMPTY + x.at) * 8, x.round ^ 1);
        stage_window(j, p.token + (int64_t)pass * (j.cols / j.parts), tokens_of(j, p, pass), window,
                     at + x.at * j.cols * X_STEP * 2, lane);
        barrier_after_copies(room + (X_FULL + x.at) * 8);
        step(x, j.x_slots);
      }
}

/* ---- multiplying ---- */

__device__ static inline void load_b(uint32_t b[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(at));
}

/* The two left operands of inputs [32 i, 32 i + 32) of a piece. */
template <int BITS> __device__ static inline void unpack32(const uint4 *w, int i, uint32_t a[2][4]) {
  if (BITS == 4) {
    const uint4 v = w[i / 2];
    unpack4(i % 2 ? v.z : v.x, a[0]);
    unpack4(i % 2 ? v.w : v.y, a[1]);
  } else {
    unpack8(w[i].x, a[0]), unpack8(w[i].y, a[0] + 2);
    unpack8(w[i].z, a[1]), unpack8(w[i].w, a[1] + 2);
  }
}

/* The scales of rows g and g + 8; and sum += (2^(bits-1) - zero) x_sum, of rows g (c 0, 1) and g + 8 (c 2, 3). */
template <int BITS, bool ZEROS>
__device__ static inline float2 finish_group(float sum[4], const float x_sum[4], const char *scales) {
  if (!ZEROS) return __half22float2(*(const __half2 *)scales);
  constexpr float middle = 1 << (BITS - 1);
  uint2 v = *(const uint2 *)scales;
  float2 z = __half22float2(*(const __half2 *)&v.y);
#pragma unroll
  for (int i = 0; i < 4; i++) sum[i] = fmaf(middle - (i < 2 ? z.x : z.y), x_sum[i % 2], sum[i]);
  return __half22float2(*(const __half2 *)&v.x);
}

/* A group's sums [cols][SUM_STEP] (steps of twenty keep lanes in different banks) and scales [16]. */
__device__ static inline void put_sums(float *to, float *scales, const float sum[4], float2 scale, int cols, int lane) {
  int col = lane % 4 * 2;
  float *at = to + col * SUM_STEP + lane / 4;
  if (col < cols) at[0] = sum[0], at[8] = sum[2];
  if (col + 1 < cols) at[SUM_STEP] = sum[1], at[SUM_STEP + 8] = sum[3];
  if (lane % 4 == 3) scales[lane / 4] = scale.x, scales[lane / 4 + 8] = scale.y;
}

/* A piece's bits, of R blocks. */
template <int BITS, int GROUP, int R, bool WHOLE>
__device__ static inline void load_bits(uint4 w[R][BITS / 2], const char *stage, int step, int inputs, int lane) {
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int i = 0; i < BITS / 2; i++) {
      const char *from = stage + r * step + i * PACKED_UNIT;
      if (!WHOLE && BITS == 4 && GROUP == 32 && inputs == i * 64 + 32) { /* half a unit */
        uint2 half = *(const uint2 *)(from + lane * 8);
        w[r][i] = make_uint4(half.x, half.y, 0, 0);
      } else {
        w[r][i] = *(const uint4 *)(from + lane * 16);
      }
    }
}

/* One piece: x of its first input lies at `x` (of this lane's row for ldmatrix). Sums [group][rows][cols] and scales
 * [group][rows] go to where they are put. */
template <int BITS, int GROUP, bool ZEROS, bool WHOLE>
__device__ static inline void multiply_piece(const char *stage, uint32_t x, int inputs, float *sums, float *put_scales,
                                             int cols, int lane) {
  using S = few_shape<BITS, GROUP, ZEROS>;
  constexpr int R = S::rows;
  const uint32_t ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
  const int groups = WHOLE ? PIECE / GROUP : inputs / GROUP, step = groups * (S::group_q + 8 * S::pair);
  uint4 w[R][BITS / 2];
  load_bits<BITS, GROUP, R, WHOLE>(w, stage, step, inputs, lane);
#pragma unroll
  for (int group = 0; group < PIECE / GROUP; group++) {
    if (!WHOLE && group >= groups) break;
    float sum[R][4] = {}, x_sum[4] = {};
#pragma unroll
    for (int i = group * GROUP / 32; i < (group + 1) * GROUP / 32; i++) {
      uint32_t b[4];
      load_b(b, x + i * 64);
      if (ZEROS) mma16(x_sum, ones, b), mma16(x_sum, ones, b + 2);
#pragma unroll
      for (int r = 0; r < R; r++) {
        uint32_t a[2][4];
        unpack32<BITS>(w[r], i, a);
        mma16(sum[r], a[0], b), mma16(sum[r], a[1], b + 2);
      }
    }
    const char *scales = stage + groups * S::group_q + (group * 8 + lane / 4) * S::pair;
#pragma unroll
    for (int r = 0; r < R; r++) {
      float2 scale = finish_group<BITS, ZEROS>(sum[r], x_sum, scales + r * step);
      put_sums(sums + (group * R + r) * cols * SUM_STEP, put_scales + (group * R + r) * PACKED_ROWS, sum[r], scale,
               cols, lane);
    }
  }
}

/* What a warp goes through: its piece of all windows. */
template <int BITS, int GROUP, bool ZEROS>
__device__ static inline void multiply(const few_job &j, const few_place &p, uint32_t room, const char *w,
                                       uint32_t x_at, float *sums, int warp, int lane) {
  using S = few_shape<BITS, GROUP, ZEROS>;
  const int pieces = (int)j.l.pieces, x_window = j.cols * X_STEP * 2, sums_slot = S::sums(j.cols);
  const bool stays = j.x_slots == j.windows;
  few_slot mine = {0, 0}, out = {0, 0};
  int before = 0; /* windows of the units before */
  w += warp * S::piece;
  float *scales = sums + warp * S::groups * S::rows * PACKED_ROWS;
  for (int pass = 0; pass < p.passes; pass++) {
    /* ldmatrix: lanes 8i … 8i + 7 name the rows of the i-th eight inputs. There may be fewer columns than eight. */
    const int cols = tokens_of(j, p, pass) * j.parts, row = min(lane % 8, cols - 1);
    const uint32_t x_lane = x_at + (row * X_STEP + lane / 8 * 8 + warp * PIECE) * 2;
    float *to = sums + S::window_groups * S::rows * PACKED_ROWS + warp * S::groups * S::rows * cols * SUM_STEP;
    for (int unit = 0; unit < p.units; unit++, before += j.windows)
      for (int window = 0; window < j.windows; window++) {
        const int x_slot = stays ? window : (before + window) % j.x_slots, piece = window * WARPS + warp;
        const int x_round = stays ? pass % 2 : (before + window) / j.x_slots % 2;
        if (!stays || unit == 0) barrier_wait(room + (X_FULL + x_slot) * 8, x_round);
        barrier_wait(room + (SUMS_EMPTY + out.at) * 8, out.round ^ 1);
        barrier_wait(room + (W_FULL + mine.at) * 8, mine.round);
        const char *stage = w + mine.at * S::slot;
        const uint32_t x = x_lane + x_slot * x_window;
        if (!S::tails ? piece < pieces : piece + 1 < pieces || piece < pieces && j.l.tail == PIECE)
          multiply_piece<BITS, GROUP, ZEROS, true>(stage, x, PIECE, to + out.at * sums_slot,
                                                   scales + out.at * sums_slot, cols, lane);
        else if (S::tails && piece < pieces)
          multiply_piece<BITS, GROUP, ZEROS, false>(stage, x, j.l.tail, to + out.at * sums_slot,
                                                    scales + out.at * sums_slot, cols, lane);
        __syncwarp();
        if (lane == 0) {
          barrier_arrive(room + (SUMS_FULL + out.at) * 8);
          barrier_arrive(room + (W_EMPTY + mine.at) * 8);
          barrier_arrive(room + (X_EMPTY + x_slot) * 8);
        }
        step(mine, j.depth), step(out, SUM_SLOTS);
      }
  }
}

/* ---- adding up ---- */

__device__ static inline float load_any(const void *p, pu_dtype type, int64_t i) {
  return type == PU_F32 ? ((const float *)p)[i] : to_f32(((const bf16 *)p)[i]);
}

__device__ static inline void meet_folders() {
  asm volatile("bar.sync 1, %0;" ::"n"(FOLDERS * 32) : "memory");
}

__device__ static inline void store_output(const few_job &j, int64_t token, int64_t m, float v) {
  if (j.y.bias) v += load_any(j.y.bias, j.y.bias_type, m);
  if (j.y.type == PU_F32)
    ((float *)j.y.y)[token * j.y.step + m] = v;
  else
    ((bf16 *)j.y.y)[token * j.y.step + m] = from_f32<bf16>(v);
}

/* A unit's outputs; of three parts the sums are added from the smallest part on, by way of `room`. Output i is row i %
 * 16 of block i / 16 % rows, column i / (16 rows). */
template <class S>
__device__ static inline void store_unit(const few_job &j, const float acc[S::each], float *room, int64_t block,
                                         int64_t token, int tokens, int last, int thread) {
  if (j.parts > 1) {
#pragma unroll
    for (int o = 0; o < S::each; o++) room[thread + o * FOLDERS * 32] = acc[o];
    meet_folders();
  }
#pragma unroll
  for (int o = 0; o < S::each; o++) {
    int i = thread + o * FOLDERS * 32, col = i / (PACKED_ROWS * S::rows), r = i / PACKED_ROWS % S::rows;
    int64_t m = (block + r) * PACKED_ROWS + i % PACKED_ROWS;
    if (col >= tokens || block + r >= last || m >= j.rows) continue;
    float v = acc[o];
    if (j.parts > 1) {
      v = 0;
      for (int part = j.parts - 1; part >= 0; part--) v += room[i + part * tokens * PACKED_ROWS * S::rows];
    }
    store_output(j, token + col, m, v);
  }
  if (j.parts > 1) meet_folders();
}

/* acc += a window's sums times scales. Thread: row % 16, block, first column; its next columns are `apart` further. */
template <class S>
__device__ static inline void add_window(float acc[S::each], const float *window, int groups, int cols, int thread) {
  constexpr int R = S::rows, apart = FOLDERS * 32 / (PACKED_ROWS * R);
  const int col = thread / (PACKED_ROWS * R), r = thread / PACKED_ROWS % R, row = thread % PACKED_ROWS;
  const float *scales = window + r * PACKED_ROWS + row;
  const float *sums = window + S::window_groups * R * PACKED_ROWS + (r * cols + col) * SUM_STEP + row;
  float v[S::each] = {};
#pragma unroll 8
  for (int g = 0; g < groups; g++, scales += R * PACKED_ROWS, sums += R * cols * SUM_STEP) {
    float scale = *scales;
#pragma unroll
    for (int o = 0; o < S::each; o++)
      if (col + o * apart < cols) v[o] = fmaf(scale, sums[o * apart * SUM_STEP], v[o]);
  }
#pragma unroll
  for (int o = 0; o < S::each; o++) acc[o] += v[o];
}

template <class S>
__device__ static inline void add_up(const few_job &j, const few_place &p, uint32_t room, const float *sums_at,
                                     float *outputs, int thread) {
  few_slot in = {0, 0};
  for (int pass = 0; pass < p.passes; pass++) {
    int tokens = tokens_of(j, p, pass);
    for (int unit = 0; unit < p.units; unit++) {
      float acc[S::each] = {};
      for (int window = 0; window < j.windows; window++) {
        barrier_wait(room + (SUMS_FULL + in.at) * 8, in.round);
        add_window<S>(acc, sums_at + in.at * S::sums(j.cols),
                      min(S::window_groups, (int)j.l.groups - window * S::window_groups), tokens * j.parts, thread);
        __syncwarp();
        if (thread % 32 == 0) barrier_arrive(room + (SUMS_EMPTY + in.at) * 8);
        step(in, SUM_SLOTS);
      }
      store_unit<S>(j, acc, outputs, p.first + unit * S::rows, p.token + (int64_t)pass * (j.cols / j.parts), tokens,
                    p.last, thread);
    }
  }
}

/* ---- the kernel ---- */

/* Blocks are shared out evenly. */
__device__ static inline few_place place_of(const few_job &j, int rows) {
  const uint32_t blocks = (uint32_t)j.l.blocks, at = blockIdx.x; /* times the grid's size they are less than 2^32 */
  few_place p = {j.w, (int)(at * blocks / gridDim.x), (int)((at + 1) * blocks / gridDim.x), 0, 0, 0, j.tokens};
  if (j.of.offsets) {
    wait_for_before();
    p.token = j.of.offsets[blockIdx.y];
    p.end = j.of.offsets[blockIdx.y + 1];
    p.w += blockIdx.y * j.of.step;
  }
  int most = j.cols / j.parts;
  p.units = (p.last - p.first + rows - 1) / rows;
  p.passes = ((int)(p.end - p.token) + most - 1) / most;
  return p;
}

template <int BITS, int GROUP, bool ZEROS>
__global__ void __launch_bounds__(THREADS, 2) few_kernel(const __grid_constant__ few_job j) {
  using S = few_shape<BITS, GROUP, ZEROS>;
  extern __shared__ __align__(128) char raw[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t room = (uint32_t)__cvta_generic_to_shared(raw);
  const few_place p = place_of(j, S::rows);
  make_barrier(j, room, p.units, threadIdx.x);
  barriers_visible();
  const int x_at = BARRIER_BYTES + j.depth * S::slot;
  float *sums = (float *)(raw + x_at + j.x_slots * j.cols * X_STEP * 2);
  __syncthreads();
  if (warp < WARPS) {
    multiply<BITS, GROUP, ZEROS>(j, p, room, raw + BARRIER_BYTES, room + x_at, sums, warp, lane);
  } else if (warp == COPIER) {
    copy_weights<S>(j, p, room, room + BARRIER_BYTES, lane);
  } else if (warp == STAGER) {
    wait_for_before();
    let_next_start();
    stage_x(j, p, room, room + x_at, lane);
  } else {
    wait_for_before();
    add_up<S>(j, p, room, sums, sums + SUM_SLOTS * S::sums(j.cols), threadIdx.x - FOLDER * 32);
  }
}

/* ---- launching ---- */

enum { FEW_HALF = 106 << 10 };

/* Half a multiprocessor's, if that is room enough, so that the next product's weights come while this one is at work. x stays if two windows have room beside it. 0: there is no room. */
template <class S> static size_t share_room(few_job *j, size_t most) {
  size_t x = (size_t)j->cols * X_STEP * 2, ring = S::slot;
  size_t all = BARRIER_BYTES + (size_t)(SUM_SLOTS * S::sums(j->cols)) * sizeof(float);
  if (j->parts > 1) all += S::outputs * sizeof(float);
  if (all + 2 * x + 2 * ring <= FEW_HALF) most = PU_MIN(most, (size_t)FEW_HALF);
  bool stays = j->windows <= MOST_X && all + (size_t)j->windows * x + 2 * ring <= most;
  j->x_slots = stays ? j->windows : 2;
  while (!stays && j->x_slots < 4 && all + (size_t)(j->x_slots + 1) * x + 2 * ring <= most) j->x_slots++;
  all += (size_t)j->x_slots * x;
  if (all + ring > most) return 0;
  j->depth = (int)PU_MIN((most - all) / ring, (size_t)MOST_DEPTH);
  return all + (size_t)j->depth * ring;
}

template <int BITS, int GROUP, bool ZEROS> static pu_err launch(pu_cuda *d, few_job *j, pu_error *e) {
  using S = few_shape<BITS, GROUP, ZEROS>;
  static int most = 0; /* of shared memory; one device */
  const void *kernel = (const void *)few_kernel<BITS, GROUP, ZEROS>;
  if (!most) {
    PU_CUDA_TRY(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->device), "its shared memory",
                e);
    PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "its shared memory",
                e);
    PU_CUDA_TRY(
        cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
        "its shared memory", e);
  }
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t c = {};
  c.dynamicSmemBytes = share_room<S>(j, (size_t)most);
  if (!c.dynamicSmemBytes) return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: too little shared memory for packed weights");
  /* Eight bits take fewer instructions a byte and two blocks of threads a multiprocessor; of four bits that is slower
   * (docs/gpu-notes.md). */
  int64_t places = d->sms * (BITS == 8 && j->l.blocks >= (int64_t)d->sms * 4 ? 2 : 1);
  c.gridDim = dim3((unsigned)PU_MIN(j->l.blocks, places), j->of.offsets ? (unsigned)j->of.n : 1);
  c.blockDim = dim3(THREADS);
  c.stream = d->stream;
  c.attrs = &early;
  c.numAttrs = d->capability >= 90;
  PU_CUDA_TRY(cudaLaunchKernelEx(&c, few_kernel<BITS, GROUP, ZEROS>, *j), "a product with a packed weight", e);
  return PU_OK;
}

template <int BITS> static pu_err launch_group(pu_cuda *d, few_job *j, const pu_packing *p, pu_error *e) {
  if (p->group == 32) return p->zeros ? launch<BITS, 32, true>(d, j, e) : launch<BITS, 32, false>(d, j, e);
  if (p->group == 64) return p->zeros ? launch<BITS, 64, true>(d, j, e) : launch<BITS, 64, false>(d, j, e);
  return p->zeros ? launch<BITS, 128, true>(d, j, e) : launch<BITS, 128, false>(d, j, e);
}

pu_err packed_few(pu_cuda *d, const packed_matrix *w, const packed_x *x, const packed_y *y, const packed_parts *parts,
                  pu_error *e) {
  few_job j = {};
  if (x->tokens == 0 || w->rows == 0) return PU_OK;
  j.w = w->data;
  j.l = w->l;
  j.rows = w->rows;
  j.windows = (int)ceil_div(j.l.pieces, WARPS);
  j.x = x->x;
  j.x_step = x->step;
  j.tokens = (int)x->tokens;
  j.parts = x->parts;
  j.cols = (int)PU_MIN(x->tokens, (int64_t)(COLS / x->parts)) * x->parts;
  j.y = *y;
  if (parts) j.of = *parts;
  return w->p.bits == 4 ? launch_group<4>(d, &j, &w->p, e) : launch_group<8>(d, &j, &w->p, e);
}
