/* Products of weights in few bits with few tokens: as fast as memory gives the weights.
 *
 * A block of threads has some rows, and takes two blocks of sixteen of them at a time (a unit) through all inputs, a
 * window of eight pieces after the other. Two teams of eight warps take every other window, each warp one piece of it: it
 * makes bf16 integers of the piece's bits in registers (q less 2^(bits-1): exact), multiplies by x on the tensor cores
 * and leaves each group's sum and scale, which the last warps add up. A warp copies its own pieces into a ring in shared
 * memory as far ahead as there is room: they begin to come before the kernel before this one ends, so that memory never
 * rests. One warp copies x.
 *
 * A result's bits, whatever the number of tokens (packed_many.cu does the same): the products of a group of inputs are
 * summed in one sequence of steps of sixteen, from 0, and where there are zeros 2^(bits-1) less the zero, times the sum of
 * the group's x, is added by one fma. Groups of a window of PACKED_WINDOW inputs are added in order, scale times sum by
 * one fma, from 0; windows are added in order, from 0; the bias comes last. */
#include "src/compute/cuda/packed.h"

#ifdef PACKED_TUNE
#include <stdio.h>
#include <stdlib.h>
#endif

enum { TEAM = 8, TEAMS = 2, WARPS = TEAM * TEAMS, FOLDERS = 2, STAGER = WARPS, FIRST_FOLDER };
enum { THREADS = (WARPS + 1 + FOLDERS) * 32 };
enum { PIECE = PACKED_PIECE, COLS = 8, SUM_STEP = 20, X_STEP = PACKED_WINDOW + 8 };
enum { MOST_DEPTH = 8, MOST_X = 32, SUM_SLOTS = 4 };
static_assert(TEAM * (int)PIECE == (int)PACKED_WINDOW, "a window is a team's");

typedef struct few_job {
  const uint8_t *w;
  packed_layout l;
  int64_t rows;
  int windows;
  const bf16 *x;
  int64_t x_step;
  int cols, tokens, parts; /* cols: of a pass, tokens times parts */
  int depth, x_slots;      /* of rings; x_slots == windows: x stays for all units */
  packed_y y;
  packed_parts of;
} few_job;

template <int BITS, int GROUP, bool ZEROS> struct few_shape {
  static constexpr int rows = BITS == 4 && GROUP > 32 ? 2 : 1; /* blocks of a unit */
  static constexpr int groups = PIECE / GROUP, team_groups = TEAM * groups;
  static constexpr int group_q = GROUP * PACKED_ROWS * BITS / 8, pair = ZEROS ? 8 : 4; /* bytes */
  static constexpr int slot = rows * groups * (group_q + 8 * pair);
  static constexpr int outputs = rows * PACKED_ROWS * COLS, each = outputs / (FOLDERS * 32);
  /* A window's scales, [groups][rows][16], and sums, [groups][rows][cols][SUM_STEP]. */
  __host__ __device__ static inline int sums(int cols) { return team_groups * rows * (PACKED_ROWS + cols * SUM_STEP); }
};

/* Where a block of threads works: blocks [first, last), tokens [token, end) in passes. */
typedef struct few_place {
  const uint8_t *w;
  int first, last, units, passes;
  int64_t token, end;
} few_place;

/* ---- barriers ---- */

/* Of each warp's ring, that what was copied is there; of x and sums that a slot is full, and that it is empty: x that stays
 * has been read in all units then. */
enum { W_FULL = 0, X_FULL = WARPS * MOST_DEPTH, X_EMPTY = X_FULL + MOST_X, SUMS_FULL = X_EMPTY + MOST_X };
enum { SUMS_EMPTY = SUMS_FULL + SUM_SLOTS, BARRIERS = SUMS_EMPTY + SUM_SLOTS, BARRIER_BYTES = 2048 };
static_assert(BARRIERS * 8 <= BARRIER_BYTES && (int)BARRIERS <= (int)THREADS, "barriers");

__device__ static inline void make_barrier(const few_job &j, uint32_t room, int units, int i) {
#if __CUDA_ARCH__ >= 900
  const int copiers = 1;
#else
  const int copiers = 32;
#endif
  const int readers = j.x_slots == j.windows ? TEAM * units : TEAM;
  int count = i < X_FULL ? copiers : i < X_EMPTY ? 32 : i < SUMS_FULL ? readers : i < SUMS_EMPTY ? TEAM : FOLDERS;
  if (i < BARRIERS) barrier_init(room + i * 8, count);
}

/* The next slot of a ring, and how often it has gone round. */
typedef struct few_slot {
  int at, round;
} few_slot;

__device__ static inline void step(few_slot &s, int by, int slots) {
  s.at += by;
  if (s.at >= slots) s.at -= slots, s.round ^= 1;
}

/* ---- a warp's pieces ---- */

/* Every other window of all units; `piece` may be behind the last. */
typedef struct few_walk {
  int pass, unit, window, piece;
} few_walk;

__device__ static inline void go_on(const few_job &j, const few_place &p, few_walk &k, int windows) {
  k.window += windows, k.piece += windows * TEAM;
  while (k.window >= j.windows) {
    k.window -= j.windows, k.piece -= j.windows * TEAM;
    if (++k.unit == p.units) k.unit = 0, k.pass++;
  }
}

/* A slot that stays empty goes through the same phases. */
__device__ static inline void no_copy(uint32_t full, int lane) {
#if __CUDA_ARCH__ >= 900
  if (lane == 0)
#endif
    barrier_arrive(full);
}

/* Copies a piece of a unit's blocks, one behind the other; in memory they are so too unless they belong to two eights. */
template <class S>
__device__ static inline void copy_piece(const few_job &j, const few_place &p, const few_walk &k, uint32_t to,
                                         uint32_t full, int lane) {
  if (k.pass >= p.passes) return;
  if (k.piece >= j.l.pieces) {
    no_copy(full, lane);
    return;
  }
  const bool tail = k.piece + 1 == j.l.pieces;
  const int block = p.first + k.unit * S::rows, eight = block / PACKED_BLOCKS * PACKED_BLOCKS;
  const int bytes = (int)(tail ? j.l.tail_bytes : j.l.piece_bytes), count = min(S::rows, p.last - block);
  const int side = min((int)PACKED_BLOCKS, (int)j.l.blocks - eight);
  const uint8_t *from = p.w + (int64_t)eight * j.l.block_bytes + (int64_t)k.piece * (side * (int)j.l.piece_bytes) +
                        (block - eight) * bytes;
  const bool apart = S::rows == 2 && count == 2 && block + 1 == eight + PACKED_BLOCKS;
  const uint8_t *second = apart ? p.w + packed_at(j.l, block + 1, k.piece) : from + bytes;
#if __CUDA_ARCH__ >= 900
  if (lane != 0) return;
  barrier_expect(full, count * bytes);
  bulk_copy(to, from, apart ? bytes : count * bytes, full);
  if (apart) bulk_copy(to + bytes, second, bytes, full);
#else
  for (int i = lane * 16; i < bytes; i += 512) {
    copy16(to + i, from + i);
    if (count == 2) copy16(to + bytes + i, second + i);
  }
  barrier_after_copies(full);
#endif
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
        step(x, 1, j.x_slots);
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
      put_sums(sums + (group * R + r) * cols * SUM_STEP, put_scales + (group * R + r) * PACKED_ROWS, sum[r], scale, cols,
               lane);
    }
  }
}

template <int BITS, int GROUP, bool ZEROS>
__device__ static inline void multiply(const few_job &j, const few_place &p, uint32_t room, char *w, uint32_t x_at,
                                       float *sums_at, int warp, int lane) {
  using S = few_shape<BITS, GROUP, ZEROS>;
  const int team = warp / TEAM, in_team = warp % TEAM, total = p.passes * p.units * j.windows;
  const int last_cols = tokens_of(j, p, p.passes - 1) * j.parts; /* of the last pass */
  const bool stays = j.x_slots == j.windows;
  const uint32_t ring = (uint32_t)__cvta_generic_to_shared(w), w_full = room + (W_FULL + warp * MOST_DEPTH) * 8;
  few_walk now = {0, 0, 0, in_team};
  go_on(j, p, now, team);
  few_walk ahead = now;
  for (int i = 0; i < j.depth; i++) {
    copy_piece<S>(j, p, ahead, ring + i * S::slot, w_full + i * 8, lane);
    go_on(j, p, ahead, TEAMS);
  }
  few_slot mine = {0, 0}, x = {0, 0}, sums = {0, 0};
  step(x, team, j.x_slots), step(sums, team, SUM_SLOTS);
  for (int i = team; i < total; i += TEAMS) {
    const int cols = now.pass + 1 < p.passes ? j.cols : last_cols;
    float *scales = sums_at + sums.at * S::sums(j.cols) + in_team * S::groups * S::rows * PACKED_ROWS;
    float *to = sums_at + sums.at * S::sums(j.cols) + S::team_groups * S::rows * PACKED_ROWS +
                in_team * S::groups * S::rows * cols * SUM_STEP;
    /* ldmatrix: lanes 8i … 8i + 7 name the rows of the i-th eight inputs. There may be fewer columns than eight. */
    const int x_slot = stays ? now.window : x.at, row = min(lane % 8, cols - 1);
    const uint32_t from = x_at + ((x_slot * j.cols + row) * X_STEP + lane / 8 * 8 + in_team * PIECE) * 2;
    barrier_wait(room + (X_FULL + x_slot) * 8, stays ? now.pass % 2 : x.round);
    barrier_wait(room + (SUMS_EMPTY + sums.at) * 8, sums.round ^ 1);
    if (now.piece < j.l.pieces) {
      barrier_wait(w_full + mine.at * 8, mine.round);
      if (GROUP == PIECE || now.piece + 1 < j.l.pieces || j.l.tail == PIECE)
        multiply_piece<BITS, GROUP, ZEROS, true>(w + mine.at * S::slot, from, PIECE, to, scales, cols, lane);
      else
        multiply_piece<BITS, GROUP, ZEROS, false>(w + mine.at * S::slot, from, j.l.tail, to, scales, cols, lane);
    }
    __syncwarp();
    if (lane == 0) {
      barrier_arrive(room + (SUMS_FULL + sums.at) * 8);
      barrier_arrive(room + (X_EMPTY + x_slot) * 8);
    }
    copy_piece<S>(j, p, ahead, ring + mine.at * S::slot, w_full + mine.at * 8, lane);
    go_on(j, p, ahead, TEAMS), go_on(j, p, now, TEAMS);
    step(mine, 1, j.depth), step(x, TEAMS, j.x_slots), step(sums, TEAMS, SUM_SLOTS);
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

/* A unit's outputs; of three parts the sums are added from the smallest part on, by way of `room`. Output i is row i % 16
 * of block i / 16 % rows, column i / (16 rows). */
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
  const float *sums = window + S::team_groups * R * PACKED_ROWS + (r * cols + col) * SUM_STEP + row;
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
  few_slot sums = {0, 0};
  for (int pass = 0; pass < p.passes; pass++) {
    int tokens = tokens_of(j, p, pass);
    for (int unit = 0; unit < p.units; unit++) {
      float acc[S::each] = {};
      for (int window = 0; window < j.windows; window++) {
        barrier_wait(room + (SUMS_FULL + sums.at) * 8, sums.round);
        add_window<S>(acc, sums_at + sums.at * S::sums(j.cols),
                      min(S::team_groups, (int)j.l.groups - window * S::team_groups), tokens * j.parts, thread);
        __syncwarp();
        if (thread % 32 == 0) barrier_arrive(room + (SUMS_EMPTY + sums.at) * 8);
        step(sums, 1, SUM_SLOTS);
      }
      store_unit<S>(j, acc, outputs, p.first + unit * S::rows, p.token + (int64_t)pass * (j.cols / j.parts), tokens,
                    p.last, thread);
    }
  }
}

/* ---- the kernel ---- */

/* Blocks are shared out evenly. */
__device__ static inline few_place place_of(const few_job &j, int rows) {
  few_place p = {j.w, (int)(blockIdx.x * j.l.blocks / gridDim.x), (int)((blockIdx.x + 1) * j.l.blocks / gridDim.x),
                 0,   0, 0, j.tokens};
  if (j.of.offsets) {
    after_last_kernel();
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
__global__ void __launch_bounds__(THREADS, 1) few_kernel(const __grid_constant__ few_job j) {
  using S = few_shape<BITS, GROUP, ZEROS>;
  extern __shared__ __align__(128) char raw[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  let_next_start();
  const uint32_t room = (uint32_t)__cvta_generic_to_shared(raw);
  const few_place p = place_of(j, S::rows);
  make_barrier(j, room, p.units, threadIdx.x);
  barriers_visible();
  const int x_at = BARRIER_BYTES + WARPS * j.depth * S::slot;
  float *sums = (float *)(raw + x_at + j.x_slots * j.cols * X_STEP * 2);
  __syncthreads();
  if (warp < WARPS) {
    multiply<BITS, GROUP, ZEROS>(j, p, room, raw + BARRIER_BYTES + warp * j.depth * S::slot, room + x_at, sums, warp,
                                 lane);
  } else if (warp == STAGER) {
    after_last_kernel();
    stage_x(j, p, room, room + x_at, lane);
  } else {
    after_last_kernel();
    add_up<S>(j, p, room, sums, sums + SUM_SLOTS * S::sums(j.cols), threadIdx.x - FIRST_FOLDER * 32);
  }
}

/* ---- launching ---- */

/* x stays in shared memory if three pieces of each warp have room beside it. */
template <class S> static size_t share_room(few_job *j, size_t most) {
  size_t x = (size_t)j->cols * X_STEP * 2, ring = (size_t)(WARPS * S::slot);
  size_t all = BARRIER_BYTES + (size_t)(SUM_SLOTS * S::sums(j->cols)) * sizeof(float);
  if (j->parts > 1) all += S::outputs * sizeof(float);
  bool stays = j->windows <= MOST_X && all + (size_t)j->windows * x + 3 * ring <= most;
  j->x_slots = stays ? j->windows : 2;
  while (!stays && j->x_slots < 4 && all + (size_t)(j->x_slots + 1) * x + 3 * ring <= most) j->x_slots++;
  all += (size_t)j->x_slots * x;
  j->depth = all + 2 * ring > most ? 1 : (int)PU_MIN((most - all) / ring, (size_t)MOST_DEPTH);
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
  }
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t c = {};
#ifdef PACKED_TUNE
  if (getenv("FEW_ROOM")) most = atoi(getenv("FEW_ROOM")) << 10;
#endif
  c.dynamicSmemBytes = share_room<S>(j, (size_t)most);
  c.gridDim = dim3((unsigned)PU_MIN(j->l.blocks, (int64_t)d->sms), j->of.offsets ? (unsigned)j->of.n : 1);
  c.blockDim = dim3(THREADS);
  c.stream = d->stream;
  c.attrs = &early;
  c.numAttrs = d->capability >= 90;
#ifdef PACKED_TUNE
  if (getenv("FEW_SAY")) printf("bits %d group %d cols %d: depth %d x %d of %d, %zu bytes\n", BITS, GROUP, j->cols, j->depth, j->x_slots, j->windows, c.dynamicSmemBytes);
#endif
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
  j.windows = (int)ceil_div(j.l.pieces, TEAM);
  j.x = x->x;
  j.x_step = x->step;
  j.tokens = (int)x->tokens;
  j.parts = x->parts;
  j.cols = (int)PU_MIN(x->tokens, (int64_t)(COLS / x->parts)) * x->parts;
  j.y = *y;
  if (parts) j.of = *parts;
  return w->p.bits == 4 ? launch_group<4>(d, &j, &w->p, e) : launch_group<8>(d, &j, &w->p, e);
}
