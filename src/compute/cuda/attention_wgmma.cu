/* The same attention as attention_mma.cu on Hopper's own tensor cores, of bf16. Two warpgroups multiply, 64 rows each;
 * a third one brings tiles of the other side into shared memory. They wait for each other at barriers in shared memory
 * only, so one warpgroup's softmax falls into the other's products (Shah et al. 2024, "FlashAttention-3").
 *
 * A row's result depends on its own sequence alone: tiles begin at multiples of their size, and what a row does not see
 * adds nothing, to the bit. */
#include "src/compute/cuda/attention.h"
#include "src/compute/cuda/barriers.h"
#include "src/compute/cuda/mma.h"
#include "src/compute/cuda/wgmma.h"

namespace {

constexpr int ROWS = PU_CUDA_MMA_TILE, GROUP_THREADS = 128, THREADS = 3 * GROUP_THREADS;
constexpr int STAGES = 2, KEYS = 128; /* forward: tiles that are on their way, and their rows */
constexpr int TURNS = 3, SIDE = 64;   /* backward: the same */
/* Backward: bytes of a tile of both matrices of the other side, and of the numbers beside it: lse and delta of its
 * rows. */
template <int D> constexpr int side_bytes = 2 * SIDE *D * 2;
constexpr int number_bytes = 1024; /* 2 SIDE numbers; tiles begin at multiples of 1024 */

#ifdef PU_WGMMA

constexpr int CONSUMERS = 8; /* warps */
constexpr float LOG2E = 1.4426950408889634f;

/* A place in shared memory for a tile: filled by the third warpgroup, then read by the two others. */
typedef struct slot {
  uint32_t full, free;
} slot;

__device__ slot slot_of(uint64_t *barriers, int i) {
  return {shared_address(&barriers[2 * i]), shared_address(&barriers[2 * i + 1])};
}

/* By all threads of the block, before they part. */
__device__ void init_slots(uint64_t *barriers, int n) {
  if ((int)threadIdx.x < n) {
    const slot s = slot_of(barriers, threadIdx.x);
    barrier_init(s.full, GROUP_THREADS);
    barrier_init(s.free, CONSUMERS);
  }
  __syncthreads();
}

/* The turn-th use of a slot may begin: what used it before is done. */
__device__ void wait_free(const slot &s, int turn) {
  if (turn > 0) barrier_wait(s.free, (turn - 1) & 1);
}

__device__ void give_free(const slot &s) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(s.free);
}

/* ---- the third warpgroup ---- */

/* Where rows of the other side are: of a head of one sequence. */
typedef struct source {
  const char *base;
  int64_t step, block_bytes; /* from row to row; from block to block of a cache */
  const int32_t *table;      /* NULL: not paged */
  int shift;
} source;

__device__ source source_of(const pu_cuda_rows &r, int head, const pu_cuda_tile &t) {
  source s = {r.base + head * r.head, r.row, r.block_bytes, NULL, r.shift};
  if (r.table)
    s.table = r.table + (int64_t)t.seq * r.table_stride;
  else
    s.base += t.row * r.row;
  return s;
}

__device__ source source_of_rows(const char *base, int64_t step) {
  return {base, step, 0, NULL, 0};
}

__device__ const char *row_at(const source &s, int pos) {
  return s.base + (int64_t)__ldg(s.table + (pos >> s.shift)) * s.block_bytes + (pos & ((1 << s.shift) - 1)) * s.step;
}

/* Rows [pos, pos + N) of a source; zeros from `end` on. A thread has the same piece of every PASS-th row, which is a
 * multiple of 8: the swizzle's pattern is one for all. Few instructions a piece, since one warp's latency bounds this.
 */
template <int D, int N> __device__ __forceinline__ void fill(char *to, const source s, int pos, int end) {
  constexpr int COLS = D / 8, PASS = GROUP_THREADS / COLS;
  const int tid = threadIdx.x % GROUP_THREADS, c = tid % COLS, r0 = tid / COLS;
  const uint32_t place = shared_address(to) + wide_at<N>(r0, c);
  const int rows = end - pos - r0; /* row r0 + i PASS is there, where i PASS < rows */
  if (!s.table) {
    const char *from = s.base + (pos + r0) * s.step + c * 16;
#pragma unroll
    for (int i = 0; i < N / PASS; i++, from += PASS * s.step)
      copy_async(place + i * PASS * 128, i * PASS < rows ? from : s.base, i * PASS < rows ? 16 : 0);
  } else {
    const char *from[N / PASS];
#pragma unroll
    for (int i = 0; i < N / PASS; i++) from[i] = row_at(s, min(pos + r0 + i * PASS, end - 1)) + c * 16;
#pragma unroll
    for (int i = 0; i < N / PASS; i++) copy_async(place + i * PASS * 128, from[i], i * PASS < rows ? 16 : 0);
  }
  copies_commit();
}

/* What this thread has written is there, for the tensor cores too. */
template <int LATER> __device__ void tell_full(const slot &s) {
  copies_wait<LATER>();
  before_bulk();
  barrier_arrive(s.full);
}

/* ---- products ---- */

/* c[64, N] = A times the transpose of a tile of N rows. */
template <int D, int N> __device__ void times_rows(float (&c)[N / 2], const uint32_t a[D / 16][4], uint32_t tile) {
#pragma unroll
  for (int i = 0; i < D / 16; i++) wide_mma<0>(c, a[i], wide_matrix(tile + i / 4 * (N * 128) + i % 4 * 32, 16), i > 0);
}

/* The same with A in shared memory: 64 rows of a tile of A_ROWS. */
template <int D, int N, int A_ROWS> __device__ void times_rows(float (&c)[N / 2], uint32_t a, uint32_t tile) {
#pragma unroll
  for (int i = 0; i < D / 16; i++)
    wide_mma<0>(c, wide_matrix(a + i / 4 * (A_ROWS * 128) + i % 4 * 32, 16),
                wide_matrix(tile + i / 4 * (N * 128) + i % 4 * 32, 16), i > 0);
}

/* c[64, D] += A[64, N] times a tile of N rows; a: N / 16 fragments. */
template <int D, int N> __device__ void add_rows(float (&c)[D / 2], const uint32_t a[N / 16][4], uint32_t tile) {
#pragma unroll
  for (int i = 0; i < N / 16; i++) wide_mma<1>(c, a[i], wide_matrix(tile + i * 2048, N * 128), 1);
}

/* C as the A of the next product. */
template <int N> __device__ void as_a(uint32_t a[N / 16][4], const float (&c)[N / 2]) {
#pragma unroll
  for (int i = 0; i < N / 16; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) a[i][j] = pair_bf16(c[8 * i + 2 * j], c[8 * i + 2 * j + 1]);
}

/* Half h (row g, or g + 8) of C as bf16. */
template <int D> __device__ void store_row(char *row, const float (&c)[D / 2], int h, float by, bool add) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    round_pair((uint32_t *)(row + (8 * i + 2 * t) * 2), c[4 * i + 2 * h] * by, c[4 * i + 2 * h + 1] * by, add);
  }
}

/* ---- forward ---- */

/* What a block does, one after the other: a tile of queries of one head, over keys [from, end). */
typedef struct job {
  pu_cuda_tile t;
  int head, from, end, tiles;
} job;

__device__ job job_of(const pu_cuda_attend &a, int index) {
  job j = {a.tiles[index / a.heads], index % a.heads, 0, 0, 0};
  j.from = (int)(max(j.t.base + j.t.at - a.window + 1, (int64_t)0) / KEYS * KEYS);
  j.end = j.t.base + min(j.t.n, j.t.at + ROWS);
  j.tiles = (j.end - j.from + KEYS - 1) / KEYS;
  return j;
}

/* K0 V0 K1 V1 … of all jobs, each told when the next is on its way. */
template <int D> __device__ void bring_keys(const pu_cuda_attend &a, char *shared, uint64_t *barriers) {
  constexpr int TILE = KEYS * D * 2, SLOTS = 2 * STAGES;
  int turn = 0;
  for (int index = blockIdx.x; index < a.heads * a.tile_count; index += gridDim.x) {
    const job j = job_of(a, index);
    const source k = source_of(a.k, j.head / a.share, j.t), v = source_of(a.v, j.head / a.share, j.t);
    for (int i = 0; i < 2 * j.tiles; i++, turn++) {
      wait_free(slot_of(barriers, turn % SLOTS), turn / SLOTS);
      if (i % 2)
        fill<D, KEYS>(shared + turn % SLOTS * TILE, v, j.from + i / 2 * KEYS, j.end);
      else
        fill<D, KEYS>(shared + turn % SLOTS * TILE, k, j.from + i / 2 * KEYS, j.end);
      if (turn > 0) tell_full<1>(slot_of(barriers, (turn - 1) % SLOTS));
    }
  }
  tell_full<0>(slot_of(barriers, (turn - 1) % SLOTS));
}

typedef struct state {
  float most[2], sum[2];
} state;

/* Scores of rows at pos and pos + 8 that are not seen become minus infinity. */
__device__ void mask(float (&s)[KEYS / 2], int key0, int pos, int window) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < KEYS / 2; i++) {
    const int key = key0 + i / 4 * 8 + 2 * t + i % 2, at = pos + i / 2 % 2 * 8;
    if (key > at || key <= at - window) s[i] = -INFINITY;
  }
}

template <int D> __device__ void soften(state &w, float (&s)[KEYS / 2], float (&out)[D / 2], float scale) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float top = w.most[h], sum = 0;
#pragma unroll
    for (int i = 0; i < KEYS / 8; i++) top = fmaxf(top, fmaxf(s[4 * i + 2 * h], s[4 * i + 2 * h + 1]));
    top = quad_max(top);
    /* Products by themselves: where the maximum stays, keep is 1 to the bit. */
    const float base = top == -INFINITY ? 0.0f : __fmul_rn(top, scale),
                keep = exp2_fast(__fmul_rn(w.most[h], scale) - base);
#pragma unroll
    for (int i = 0; i < KEYS / 4; i++) {
      float *x = &s[i / 2 * 4 + 2 * h + i % 2];
      *x = exp2_fast(fmaf(*x, scale, -base));
      sum += *x;
    }
    w.most[h] = top;
    w.sum[h] = fmaf(w.sum[h], keep, sum);
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      out[4 * i + 2 * h] *= keep;
      out[4 * i + 2 * h + 1] *= keep;
    }
  }
}

/* A job, by one of the two warpgroups; first: tiles of the jobs before. */
template <int D>
__device__ void attend(const pu_cuda_attend &a, const job &j, char *shared, uint64_t *barriers, int first) {
  constexpr int TILE = KEYS * D * 2;
  const pu_cuda_tile &t = j.t;
  const int head = j.head, warp = threadIdx.x / 32, r = t.at + warp * 16 + threadIdx.x % 32 / 4;
  const int window = (int)min(a.window, (int64_t)1 << 30), pos = t.base + t.at + warp * 16;
  const uint32_t at = shared_address(shared);
  const char *row0 = a.q + (int64_t)(t.row + r) * a.q_row + (int64_t)head * D * 2;
  uint32_t q[D / 16][4], p[KEYS / 16][4];
  float s[KEYS / 2], out[D / 2];
  state w = {{-INFINITY, -INFINITY}, {0, 0}};
  const auto keys_of = [&](int i) { return (first + i) % STAGES * 2; };
  const auto phase_of = [&](int i) { return (first + i) / STAGES & 1; };
  rows_as_a<D>(q, r < t.n ? row0 : NULL, r + 8 < t.n ? row0 + 8 * a.q_row : NULL);
#pragma unroll
  for (int i = 0; i < D / 2; i++) out[i] = 0;
  barrier_wait(slot_of(barriers, keys_of(0)).full, phase_of(0));
  wide_begin();
  times_rows<D, KEYS>(s, q, at + keys_of(0) * TILE);
  wide_commit();
  wide_wait<0>(s);
  give_free(slot_of(barriers, keys_of(0)));
  const auto soften_tile = [&](int i) {
    const int key0 = j.from + i * KEYS;
    if (key0 + KEYS - 1 > pos || key0 <= pos + 15 - window) mask(s, key0, pos + threadIdx.x % 32 / 4, window);
    soften<D>(w, s, out, a.scale * LOG2E);
    as_a<KEYS>(p, s);
    barrier_wait(slot_of(barriers, keys_of(i) + 1).full, phase_of(i));
  };
  for (int i = 0; i + 1 < j.tiles; i++) {
    const int next = keys_of(i + 1);
    soften_tile(i);
    barrier_wait(slot_of(barriers, next).full, phase_of(i + 1));
    wide_begin();
    add_rows<D, KEYS>(out, p, at + (keys_of(i) + 1) * TILE);
    times_rows<D, KEYS>(s, q, at + next * TILE);
    wide_commit();
    wide_wait<0>(s, out);
    give_free(slot_of(barriers, keys_of(i) + 1));
    give_free(slot_of(barriers, next));
  }
  soften_tile(j.tiles - 1);
  wide_begin();
  add_rows<D, KEYS>(out, p, at + (keys_of(j.tiles - 1) + 1) * TILE);
  wide_commit();
  wide_wait<0>(out);
  give_free(slot_of(barriers, keys_of(j.tiles - 1) + 1));
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float sum = quad_sum(w.sum[h]);
    if (r + 8 * h >= t.n) continue;
    store_row<D>(a.out + (int64_t)(t.row + r + 8 * h) * a.out_row + (int64_t)head * D * 2, out, h, 1 / sum, false);
    if (a.lse && threadIdx.x % 4 == 0)
      a.lse[head * a.lse_stride + t.row + r + 8 * h] = fmaf(w.most[h], a.scale, logf(sum));
  }
}

/* ---- backward ---- */

/* Probabilities from scores; lse(i): what belongs to number i of C. */
template <typename Lse> __device__ void to_probabilities(float (&c)[SIDE / 2], float scale, Lse lse) {
#pragma unroll
  for (int i = 0; i < SIDE / 2; i++) c[i] = exp2_fast(fmaf(c[i], scale, -lse(i) * LOG2E));
}

/* What a query does not see is zero. distance: of the lane's first row and column, query less key; SIGN: 1 where rows
 * are queries, -1 where columns are. */
template <int SIGN> __device__ void clear_unseen(float (&p)[SIDE / 2], int distance, int window) {
#pragma unroll
  for (int i = 0; i < SIDE / 2; i++) {
    const int far = distance + SIGN * (i / 2 % 2 * 8 - (i / 4 * 8 + i % 2));
    if (far < 0 || far >= window) p[i] = 0;
  }
}

/* When tile i is on its way, what was before it has arrived: the last tile, or the block's own rows. */
__device__ void tell_side(uint64_t *barriers, int i, int tiles) {
  const slot s = slot_of(barriers, i == 0 ? TURNS : (i - 1) % TURNS);
  if (i < tiles)
    tell_full<2>(s);
  else
    tell_full<0>(s);
}

/* The block's queries and gradients of outputs, then keys and values. */
template <int D>
__device__ void bring_sides_q(const pu_cuda_attend &a, const pu_cuda_tile &t, char *shared, uint64_t *barriers,
                              int from, int tiles, int end) {
  const int g = blockIdx.x / a.share;
  const source k = source_of(a.k, g, t), v = source_of(a.v, g, t);
  const int64_t column = (int64_t)blockIdx.x * D * 2;
  fill<D, ROWS>(shared, source_of_rows(a.q + t.row * a.q_row + column, a.q_row), t.at, t.n);
  fill<D, ROWS>(shared + ROWS * D * 2, source_of_rows(a.dout + t.row * a.dout_row + column, a.dout_row), t.at, t.n);
  for (int i = 0; i <= tiles; i++) {
    char *to = shared + 2 * ROWS * D * 2 + i % TURNS * side_bytes<D>;
    if (i < tiles) {
      wait_free(slot_of(barriers, i % TURNS), i / TURNS);
      fill<D, SIDE>(to, k, from + i * SIDE, end);
      fill<D, SIDE>(to + SIDE * D * 2, v, from + i * SIDE, end);
    }
    tell_side(barriers, i, tiles);
  }
}

template <int D>
__device__ void gradient_q(const pu_cuda_attend &a, const pu_cuda_tile &t, char *shared, uint64_t *barriers, int from,
                           int tiles) {
  const int head = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = t.at + warp * 16 + lane / 4;
  const int window = (int)min(a.window, (int64_t)1 << 30), first = t.at + warp * 16;
  const int64_t row = t.row + r, column = (int64_t)head * D * 2, number = head * a.lse_stride + row;
  const uint32_t q = shared_address(shared) + warp / 4 * 8192, dout = q + ROWS * D * 2; /* 64 rows of 128 bytes */
  uint32_t x[SIDE / 16][4];
  float dq[D / 2], s[SIDE / 2], dp[SIDE / 2];
  const float lse[2] = {r < t.n ? a.lse[number] : 0, r + 8 < t.n ? a.lse[number + 8] : 0};
  const float delta[2] = {r < t.n ? a.delta[number] : 0, r + 8 < t.n ? a.delta[number + 8] : 0};
#pragma unroll
  for (int i = 0; i < D / 2; i++) dq[i] = 0;
  barrier_wait(slot_of(barriers, TURNS).full, 0);
  for (int i = 0; i < tiles; i++) {
    const slot of = slot_of(barriers, i % TURNS);
    const uint32_t keys = shared_address(shared) + 2 * ROWS * D * 2 + i % TURNS * side_bytes<D>,
                   values = keys + SIDE * D * 2;
    const int key0 = from + i * SIDE;
    barrier_wait(of.full, i / TURNS & 1);
    wide_begin();
    times_rows<D, SIDE, ROWS>(s, q, keys);
    times_rows<D, SIDE, ROWS>(dp, dout, values);
    wide_commit();
    wide_wait<0>(s, dp);
    to_probabilities(s, a.scale * LOG2E, [&](int j) { return lse[j / 2 % 2]; });
    if (key0 + SIDE - 1 > first || key0 <= first + 15 - window) clear_unseen<1>(s, r - key0 - lane % 4 * 2, window);
#pragma unroll
    for (int j = 0; j < SIDE / 2; j++) dp[j] = s[j] * (dp[j] - delta[j / 2 % 2]);
    as_a<SIDE>(x, dp);
    wide_begin();
    add_rows<D, SIDE>(dq, x, keys);
    wide_commit();
    wide_wait<0>(dq);
    give_free(of);
  }
#pragma unroll
  for (int h = 0; h < 2; h++)
    if (r + 8 * h < t.n) store_row<D>(a.dq + (row + 8 * h) * a.dqkv_row + column, dq, h, a.scale, a.add);
}

/* The block's keys and values, then queries and gradients of outputs of each head, with their numbers. */
template <int D>
__device__ void bring_sides_kv(const pu_cuda_attend &a, const pu_cuda_tile &t, char *shared, uint64_t *barriers,
                               int each, int end) {
  constexpr int HOME = 2 * ROWS * D * 2, TURN = side_bytes<D> + number_bytes;
  const int g = blockIdx.x, tid = threadIdx.x % GROUP_THREADS, n = tid % SIDE, tiles = a.share * each;
  fill<D, ROWS>(shared, source_of(a.k, g, t), t.at, t.n);
  fill<D, ROWS>(shared + ROWS * D * 2, source_of(a.v, g, t), t.at, t.n);
  for (int i = 0; i <= tiles; i++) {
    if (i < tiles) {
      char *to = shared + HOME + i % TURNS * TURN;
      const int head = g * a.share + i / each, first = t.at + i % each * SIDE, there = first + n < end;
      const float *numbers = (tid < SIDE ? a.lse : a.delta) + head * a.lse_stride + t.row + first;
      wait_free(slot_of(barriers, i % TURNS), i / TURNS);
      copy_async_word(shared_address(to) + side_bytes<D> + tid * 4, numbers + (there ? n : 0), there * 4);
      fill<D, SIDE>(to, source_of_rows(a.q + t.row * a.q_row + (int64_t)head * D * 2, a.q_row), first, end);
      fill<D, SIDE>(to + SIDE * D * 2, source_of_rows(a.dout + t.row * a.dout_row + (int64_t)head * D * 2, a.dout_row),
                    first, end);
    }
    tell_side(barriers, i, tiles);
  }
}

/* The lane's rows of dk and dv. */
template <int D>
__device__ void store_kv(const pu_cuda_attend &a, const pu_cuda_tile &t, const float (&dk)[D / 2],
                         const float (&dv)[D / 2]) {
  const int r = t.at + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
  const int64_t row = t.row + r, column = (int64_t)blockIdx.x * D * 2;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    if (r + 8 * h >= t.n) continue;
    store_row<D>(a.dk + (row + 8 * h) * a.dqkv_row + column, dk, h, a.scale, a.add);
    store_row<D>(a.dv + (row + 8 * h) * a.dqkv_row + column, dv, h, 1, a.add);
  }
}

template <int D>
__device__ void gradient_kv(const pu_cuda_attend &a, const pu_cuda_tile &t, char *shared, uint64_t *barriers,
                            int each) {
  constexpr int HOME = 2 * ROWS * D * 2, TURN = side_bytes<D> + number_bytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = t.at + warp * 16 + lane / 4;
  const int window = (int)min(a.window, (int64_t)1 << 30), first = t.at + warp * 16, tiles = a.share * each;
  const uint32_t k = shared_address(shared) + warp / 4 * 8192, v = k + ROWS * D * 2; /* 64 rows of 128 bytes */
  uint32_t x[SIDE / 16][4];
  float dk[D / 2], dv[D / 2], c[SIDE / 2];
#pragma unroll
  for (int i = 0; i < D / 2; i++) dk[i] = dv[i] = 0;
  barrier_wait(slot_of(barriers, TURNS).full, 0);
  for (int i = 0; i < tiles; i++) {
    const slot of = slot_of(barriers, i % TURNS);
    const char *turn = shared + HOME + i % TURNS * TURN;
    const uint32_t queries = shared_address(turn), douts = queries + SIDE * D * 2;
    const float *numbers = (const float *)(turn + side_bytes<D>)+lane % 4 * 2;
    const int query0 = t.at + i % each * SIDE;
    barrier_wait(of.full, i / TURNS & 1);
    wide_begin();
    times_rows<D, SIDE, ROWS>(c, k, queries);
    wide_commit();
    wide_wait<0>(c);
    to_probabilities(c, a.scale * LOG2E, [&](int j) { return numbers[j / 4 * 8 + j % 2]; });
    if (query0 < first + 15 || query0 + SIDE - 1 >= first + window)
      clear_unseen<-1>(c, query0 + lane % 4 * 2 - r, window);
    as_a<SIDE>(x, c); /* kept as bf16 only: registers are short */
    wide_begin();
    add_rows<D, SIDE>(dv, x, douts);
    times_rows<D, SIDE, ROWS>(c, v, douts);
    wide_commit();
    wide_wait<0>(c, dv);
#pragma unroll
    for (int j = 0; j < SIDE / 2; j++) {
      const uint32_t pair = x[j / 8][j % 8 / 2];
      const float p = __uint_as_float(j % 2 ? pair & 0xffff0000u : pair << 16);
      c[j] = p * (c[j] - numbers[SIDE + j / 4 * 8 + j % 2]);
    }
    as_a<SIDE>(x, c);
    wide_begin();
    add_rows<D, SIDE>(dk, x, queries);
    wide_commit();
    wide_wait<0>(dk);
    give_free(of);
  }
  store_kv<D>(a, t, dk, dv);
}

/* ---- dq too, its sums in any order ----
 *
 * Then S and dP are computed once, not once for dq and once for dk and dv. A tile's dS of both warpgroups goes to
 * shared memory, from where each multiplies it with half of the columns of the keys; the products are added to dq in
 * f32 in memory. The places in shared memory are two, so that one meeting of the warpgroups a tile is enough. */

constexpr int SCORE_BYTES = ROWS * SIDE * 2;

/* This warpgroup's dS, keys by queries, into its rows. */
__device__ void keep_scores(char *to, const uint32_t x[SIDE / 16][4]) {
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, within = threadIdx.x % 4 * 4;
#pragma unroll
  for (int i = 0; i < SIDE / 16; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) *(uint32_t *)(to + wide_at<ROWS>(row + j % 2 * 8, 2 * i + j / 2) + within) = x[i][j];
}

/* Everything that both wrote to shared memory is there, for the tensor cores too. */
__device__ void meet() {
  before_bulk();
  meet_threads<2 * GROUP_THREADS>();
}

/* c = dS of SIDE queries, by 64 columns of the keys. */
__device__ void times_keys(float (&c)[SIDE / 2], uint32_t scores, uint32_t keys) {
#pragma unroll
  for (int i = 0; i < ROWS / 16; i++)
    wide_mma<1, 1>(c, wide_matrix(scores + i * 2048, ROWS * 128), wide_matrix(keys + i * 2048, ROWS * 128), i > 0);
}

/* Sums of dq are kept as threads hold them: of SIDE queries of a head and 64 columns, four numbers of each thread of a
 * warpgroup after the other, so that a warp adds to one stretch of memory. Sequences begin at places of their own. */
constexpr int PLACE = SIDE * 64; /* numbers */

__device__ float *place_of(float *sums, const pu_cuda_attend &a, const pu_cuda_tile &t, int query, int head, int half) {
  return sums + (((int64_t)(t.row / SIDE + t.seq + query / SIDE) * a.heads + head) * 2 + half) * PLACE;
}

__device__ void add_to_place(float *place, const float (&c)[SIDE / 2]) {
  float *to = place + threadIdx.x % GROUP_THREADS * 4;
#pragma unroll
  for (int i = 0; i < SIDE / 8; i++)
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to + i * GROUP_THREADS * 4),
                 "f"(c[4 * i]), "f"(c[4 * i + 1]), "f"(c[4 * i + 2]), "f"(c[4 * i + 3])
                 : "memory");
}

/* Products are asked for as early as registers allow: dP's runs while the probabilities are computed, dv's while dS is,
 * dk's while dq is added. */
template <int D>
__device__ void gradient_all(const pu_cuda_attend &a, const pu_cuda_tile &t, char *shared, uint64_t *barriers, int each,
                             float *dq_sum) {
  constexpr int HOME = 2 * ROWS * D * 2, TURN = side_bytes<D> + number_bytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = t.at + warp * 16 + lane / 4;
  const int window = (int)min(a.window, (int64_t)1 << 30), first = t.at + warp * 16, tiles = a.share * each;
  const uint32_t home = shared_address(shared), k = home + warp / 4 * 8192, v = k + ROWS * D * 2;
  uint32_t x[SIDE / 16][4], y[SIDE / 16][4];
  float dk[D / 2], dv[D / 2], c[SIDE / 2], dp[SIDE / 2];
#pragma unroll
  for (int i = 0; i < D / 2; i++) dk[i] = dv[i] = 0;
  barrier_wait(slot_of(barriers, TURNS).full, 0);
  for (int i = 0; i < tiles; i++) {
    const char *turn = shared + HOME + i % TURNS * TURN;
    char *scores = shared + HOME + TURNS * TURN + i % 2 * SCORE_BYTES;
    const uint32_t queries = shared_address(turn), douts = queries + SIDE * D * 2;
    const float *numbers = (const float *)(turn + side_bytes<D>)+lane % 4 * 2;
    const int query0 = t.at + i % each * SIDE;
    barrier_wait(slot_of(barriers, i % TURNS).full, i / TURNS & 1);
    wide_begin();
    times_rows<D, SIDE, ROWS>(c, k, queries);
    wide_commit();
    times_rows<D, SIDE, ROWS>(dp, v, douts);
    wide_commit();
    wide_wait<1>(c);
    to_probabilities(c, a.scale * LOG2E, [&](int j) { return numbers[j / 4 * 8 + j % 2]; });
    if (query0 < first + 15 || query0 + SIDE - 1 >= first + window)
      clear_unseen<-1>(c, query0 + lane % 4 * 2 - r, window);
    as_a<SIDE>(x, c);
    wide_begin();
    add_rows<D, SIDE>(dv, x, douts);
    wide_commit();
    wide_wait<1>(dp);
#pragma unroll
    for (int j = 0; j < SIDE / 2; j++) dp[j] = c[j] * (dp[j] - numbers[SIDE + j / 4 * 8 + j % 2]);
    as_a<SIDE>(y, dp);
    keep_scores(scores, y);
    meet();
    wide_begin();
    times_keys(c, shared_address(scores), home + warp / 4 * (ROWS * 128));
    wide_commit();
    add_rows<D, SIDE>(dk, y, queries);
    wide_commit();
    wide_wait<1>(dv, c);
    add_to_place(place_of(dq_sum, a, t, query0, blockIdx.x * a.share + i / each, warp / 4), c);
    wide_wait<0>(dk);
    give_free(slot_of(barriers, i % TURNS));
  }
  store_kv<D>(a, t, dk, dv);
}

#endif

template <int D>
__global__ void __launch_bounds__(THREADS, 1) forward_kernel(const __grid_constant__ pu_cuda_attend a) {
#ifdef PU_WGMMA
  extern __shared__ __align__(1024) char shared[];
  __shared__ uint64_t barriers[2 * 2 * STAGES];
  init_slots(barriers, 2 * STAGES);
  if (threadIdx.x >= 2 * GROUP_THREADS) {
    registers_less<56>();
    bring_keys<D>(a, shared, barriers);
  } else {
    registers_more<224>();
    for (int index = blockIdx.x, first = 0; index < a.heads * a.tile_count; index += gridDim.x) {
      const job j = job_of(a, index);
      attend<D>(a, j, shared, barriers, first);
      first += j.tiles;
    }
  }
#endif
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1) backward_q_kernel(const __grid_constant__ pu_cuda_attend a) {
#ifdef PU_WGMMA
  extern __shared__ __align__(1024) char shared[];
  __shared__ uint64_t barriers[2 * (TURNS + 1)];
  const pu_cuda_tile t = a.tiles[blockIdx.y];
  const int end = min(t.n, t.at + ROWS), from = (int)(max(t.at - a.window + 1, (int64_t)0) / SIDE * SIDE);
  const int tiles = (end - from + SIDE - 1) / SIDE;
  init_slots(barriers, TURNS + 1);
  if (threadIdx.x >= 2 * GROUP_THREADS) {
    registers_less<56>();
    bring_sides_q<D>(a, t, shared, barriers, from, tiles, end);
  } else {
    registers_more<224>();
    gradient_q<D>(a, t, shared, barriers, from, tiles);
  }
#endif
}

/* dq_sum: NULL, or where dq is to be added up. */
template <int D, bool ALL>
__global__ void __launch_bounds__(THREADS, 1)
    backward_kv_kernel(const __grid_constant__ pu_cuda_attend a, float *dq_sum) {
#ifdef PU_WGMMA
  extern __shared__ __align__(1024) char shared[];
  __shared__ uint64_t barriers[2 * (TURNS + 1)];
  const pu_cuda_tile t = a.tiles[a.tile_count - 1 - blockIdx.y]; /* early keys are seen by most */
  const int end = (int)min((int64_t)t.n, t.at + ROWS - 1 + a.window), each = (end - t.at + SIDE - 1) / SIDE;
  init_slots(barriers, TURNS + 1);
  if (threadIdx.x >= 2 * GROUP_THREADS) {
    registers_less<ALL ? 24 : 56>();
    bring_sides_kv<D>(a, t, shared, barriers, each, end);
  } else {
    registers_more<ALL ? 240 : 224>();
    if constexpr (ALL)
      gradient_all<D>(a, t, shared, barriers, each, dq_sum);
    else
      gradient_kv<D>(a, t, shared, barriers, each);
  }
#endif
}

template <int D> pu_err backward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  const int q = 2 * ROWS * D * 2 + TURNS * side_bytes<D>, kv = q + TURNS * number_bytes;
  PU_CUDA_TRY(cudaFuncSetAttribute(backward_q_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, q), "attention",
              e);
  PU_CUDA_TRY(cudaFuncSetAttribute(backward_kv_kernel<D, false>, cudaFuncAttributeMaxDynamicSharedMemorySize, kv),
              "attention", e);
  backward_q_kernel<D><<<dim3(a->heads, a->tile_count), THREADS, q, d->stream>>>(*a);
  backward_kv_kernel<D, false><<<dim3(a->heads / a->share, a->tile_count), THREADS, kv, d->stream>>>(*a, NULL);
  return pu_cuda_launched("attention's backward", e);
}

/* dq of a tile's rows and a head from its sums: a thread gathers eight columns of a row, which four neighbours had. */
__global__ void __launch_bounds__(2 * GROUP_THREADS) round_dq(const __grid_constant__ pu_cuda_attend a, float *sums) {
#ifdef PU_WGMMA
  const pu_cuda_tile t = a.tiles[blockIdx.y];
  const int head = blockIdx.x;
#pragma unroll 4
  for (int n = threadIdx.x; n < ROWS * 16; n += 2 * GROUP_THREADS) {
    const int i = n % 8, h = n / 8 % 2, four = n / 16 % 32, half = n / 512 % 2, at = t.at + n / 1024 * SIDE;
    const int row = at + four / 8 * 16 + four % 8 + 8 * h;
    if (row >= t.n) continue;
    const float2 *from = (const float2 *)(place_of(sums, a, t, at, head, half) + (i * 32 + four) * 16) + h;
    uint4 *to = (uint4 *)(a.dq + (t.row + row) * a.dqkv_row + (head * 128 + half * 64 + i * 8) * 2);
    uint4 out = a.add ? *to : make_uint4(0, 0, 0, 0);
    uint32_t *pairs = (uint32_t *)&out;
#pragma unroll
    for (int q = 0; q < 4; q++) {
      const float2 c = from[2 * q];
      round_pair(&pairs[q], c.x * a.scale, c.y * a.scale, a.add);
    }
    *to = out;
  }
#endif
}

template <int D> pu_err backward_any_order(pu_cuda *d, const pu_cuda_attend *a, void *sums, size_t bytes, pu_error *e) {
  const int room = 2 * ROWS * D * 2 + TURNS * (side_bytes<D> + number_bytes) + 2 * ROWS * SIDE * 2;
  PU_CUDA_TRY(cudaFuncSetAttribute(backward_kv_kernel<D, true>, cudaFuncAttributeMaxDynamicSharedMemorySize, room),
              "attention", e);
  PU_CUDA_TRY(cudaMemsetAsync(sums, 0, bytes, d->stream), "clearing dq", e);
  backward_kv_kernel<D, true>
      <<<dim3(a->heads / a->share, a->tile_count), THREADS, room, d->stream>>>(*a, (float *)sums);
  round_dq<<<dim3(a->heads, a->tile_count), 2 * GROUP_THREADS, 0, d->stream>>>(*a, (float *)sums);
  return pu_cuda_launched("attention's backward", e);
}

template <int D> pu_err forward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  const int bytes = 2 * STAGES * KEYS * D * 2;
  PU_CUDA_TRY(cudaFuncSetAttribute(forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "attention",
              e);
  forward_kernel<D><<<PU_MIN(a->heads * a->tile_count, d->sms), THREADS, bytes, d->stream>>>(*a);
  return pu_cuda_launched("attention", e);
}

} // namespace

bool pu_cuda_wgmma_fits(const pu_cuda *d, const pu_cuda_attend *a) {
  return d->capability == 90 && a->k.bits == 16 && pu_cuda_mma_fits(a) && (!a->k.table || a->k.shift > 0);
}

pu_err pu_cuda_wgmma_forward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  return a->dim == 64 ? forward<64>(d, a, e) : forward<128>(d, a, e);
}

bool pu_cuda_wgmma_any_order(const pu_cuda *d, const pu_cuda_attend *a) {
  return d->base.any_order && a->dim == 128 && pu_cuda_wgmma_fits(d, a);
}

size_t pu_cuda_wgmma_sums(const pu_cuda_attend *a, int64_t rows, int64_t seqs) {
  return (size_t)((rows / SIDE + seqs + 1) * a->heads * SIDE * a->dim) * sizeof(float);
}

pu_err pu_cuda_wgmma_backward_any_order(pu_cuda *d, const pu_cuda_attend *a, void *sums, size_t bytes, pu_error *e) {
  PU_TRY(pu_cuda_tiles_fit(a, e));
  return backward_any_order<128>(d, a, sums, bytes, e);
}

pu_err pu_cuda_wgmma_backward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  PU_TRY(pu_cuda_tiles_fit(a, e));
  return a->dim == 64 ? backward<64>(d, a, e) : backward<128>(d, a, e);
}
