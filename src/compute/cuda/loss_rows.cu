/* The loss of each row of logits, and its gradient in place.
 *
 * In bf16, where shared memory has room for it, a block takes a row and keeps its exponentials there as bf16; from 9.0
 * on a cluster of blocks takes a row, each a part of it in shared memory: logits are read once and gradients written
 * once. Elsewhere, and for a vocabulary that does not fit, a block walks over the row twice.
 *
 * A part's maximum and sum of exponentials are joined with the others' as running ones are (Milakov & Gimelshein 2018).
 */
#include "src/compute/cuda/barriers.h"
#include "src/compute/cuda/loss.h"
#include "src/compute/cuda/rows.h"

enum { WIDTH = 8 }; /* logits at a time */

typedef struct soft {
  float max, sum;
} soft;

/* fmaxf passes over a NaN, whose exponential then is one, and so is every sum it goes into. */
__device__ static soft soft_join(soft a, soft b) {
  float max = fmaxf(a.max, b.max);
  if (max == -INFINITY) return {max, a.sum + b.sum};
  return {max, a.sum * expf(a.max - max) + b.sum * expf(b.max - max)};
}

__device__ static soft soft_warp(soft s) {
  for (int step = 16; step; step >>= 1) {
    soft other = {__shfl_xor_sync(0xffffffffu, s.max, step), __shfl_xor_sync(0xffffffffu, s.sum, step)};
    s = soft_join(s, other);
  }
  return s;
}

/* Of all threads of a block; room: 32 of them. */
__device__ static soft soft_block(soft s, soft *room) {
  int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  s = soft_warp(s);
  if (lane == 0) room[threadIdx.x / 32] = s;
  __syncthreads();
  return soft_warp(lane < warps ? room[lane] : soft{-INFINITY, 0});
}

/* exp(x - max). What becomes bf16 does not see the difference: 2^(x log2 e - max log2 e), in two instructions. */
template <typename T> __device__ static inline float exp_below(float x, float max);
template <> __device__ inline float exp_below<float>(float x, float max) {
  return expf(x - max);
}
template <> __device__ inline float exp_below<bf16>(float x, float max) {
  const float log2_e = 1.4426950408889634f;
  return exp2_fast(fmaf(x, log2_e, -max * log2_e));
}

/* WIDTH logits; those from `left` on lie behind the vocabulary and count for nothing. */
__device__ static inline void read_logits(const float *from, int64_t left, float *v) {
#pragma unroll
  for (int j = 0; j < WIDTH; j += 4) {
    float4 q = left > 0 ? *(const float4 *)(from + j) : float4{};
    v[j] = q.x, v[j + 1] = q.y, v[j + 2] = q.z, v[j + 3] = q.w;
  }
  if (left >= WIDTH) return;
#pragma unroll
  for (int j = 0; j < WIDTH; j++)
    if (j >= left) v[j] = -INFINITY;
}

template <typename T> __device__ static inline void write_grads(T *to, const float *v) {
#pragma unroll
  for (int j = 0; j < WIDTH; j += pu_pack<T>::n) {
    pu_pack<T> out;
#pragma unroll
    for (int i = 0; i < pu_pack<T>::n; i++) out.v[i] = from_f32<T>(v[j + i]);
    *(pu_pack<T> *)(to + j) = out;
  }
}

/* One thread writes it. */
__device__ static inline void write_loss(const pu_loss_rows &l, int64_t row, soft s, float at_target, int32_t target) {
  bool live = target >= 0 && target < l.vocab;
  if (target >= l.vocab) pu_cuda_report(l.faults, PU_CUDA_BAD_TARGET, l.place + row, target);
  l.loss[row] = live ? logf(s.sum) + s.max - at_target : 0.0f;
}

/* ---- twice over the row ---- */

enum { LONG_THREADS = 1024, LONG_TILE = LONG_THREADS * WIDTH };

template <typename T> __device__ static soft soft_row(const float *row, int64_t vocab) {
  soft s = {-INFINITY, 0};
  for (int64_t i = (int64_t)threadIdx.x * WIDTH; i < vocab; i += LONG_TILE) {
    float v[WIDTH], max = s.max, sum = 0;
    read_logits(row + i, vocab - i, v);
#pragma unroll
    for (int j = 0; j < WIDTH; j++) max = fmaxf(max, v[j]);
    float below = max == -INFINITY ? 0.0f : max;
#pragma unroll
    for (int j = 0; j < WIDTH; j++) sum += exp_below<T>(v[j], below);
    s = {max, s.sum * exp_below<T>(s.max, below) + sum};
  }
  return s;
}

/* The next tile is read before this one is written; what that writes lies below the logits that all threads have read
 * by then. */
template <typename T>
__device__ static void back_row(float *row, const pu_loss_rows &l, float max, float factor, int32_t target) {
  int64_t end = factor != 0 ? l.vocab : 0, at = (int64_t)threadIdx.x * WIDTH;
  float v[WIDTH], next[WIDTH];
  read_logits(row + at, end - at, v);
  for (int64_t first = 0; first < l.vocab; first += LONG_TILE) {
    int64_t i = first + at;
    read_logits(row + i + LONG_TILE, end - i - LONG_TILE, next);
    __syncthreads();
    if (i < l.vocab) {
#pragma unroll
      for (int j = 0; j < WIDTH; j++)
        v[j] = factor != 0 ? factor * exp_below<T>(v[j], max) - (i + j == target ? l.scale : 0.0f) : 0.0f;
      write_grads((T *)row + i, v);
    }
#pragma unroll
    for (int j = 0; j < WIDTH; j++) v[j] = next[j];
  }
}

template <typename T> __global__ void __launch_bounds__(LONG_THREADS) long_kernel(const pu_loss_rows l) {
  __shared__ soft room[32];
  float *row = l.logits + (int64_t)blockIdx.x * l.step;
  int32_t target = l.targets[blockIdx.x];
  bool live = target >= 0 && target < l.vocab;
  soft s = {0, 1};
  float at_target = live ? row[target] : 0;
  if (live) s = soft_block(soft_row<T>(row, l.vocab), room);
  if (threadIdx.x == 0) write_loss(l, blockIdx.x, s, at_target, target);
  if (l.back) back_row<T>(row, l, s.max, live ? l.scale / s.sum : 0.0f, target);
}

/* ---- a row to a block, its exponentials in shared memory ----------------------------------------------------------
 *
 * Blocks stay. A thread has four columns of each tile, and while it writes the gradients of one row it reads the next
 * one, whose exponentials take the place of those that it just used: nothing is shared but the sums. The exponentials
 * are of logits below the maximum of the thread's columns of the first tile; where another column lies so far above
 * that one of them is infinite, the thread goes over its columns again. */

enum { ROW_THREADS = 1024, ROW_LANE = 4, ROW_TILE = ROW_THREADS * ROW_LANE, ROW_AHEAD = 4 /* tiles */ };

#define LEAST    -1e38f /* reference: what it is multiplied with must not make it infinite */
#define TOO_MUCH 1e30f  /* sum of a thread: below, its reference is near enough to the row's maximum for f32 */

/* A row as a thread sees it. */
typedef struct row_view {
  float *at; /* the thread's first column; NULL: there is no row */
  int32_t target;
  bool live; /* it has a target; else its logits are not read */
} row_view;

/* A row whose gradients are to be written: factor times what was kept. */
typedef struct row_back {
  bf16 *to; /* the thread's first column; NULL: there is none */
  float factor;
  int32_t target; /* in columns from `to` on, where it is this thread's; else -1 */
  float at_target;
} row_back;

__device__ static inline int first_column() {
  return (int)threadIdx.x * ROW_LANE;
}

/* target: as it was read, some time ago. */
__device__ static inline row_view view_of(const pu_loss_rows &l, int64_t row, int32_t target) {
  if (row >= l.rows) return {NULL, -1, false};
  return {l.logits + row * l.step + first_column(), target, target >= 0 && target < l.vocab};
}

__device__ static inline int32_t target_of(const pu_loss_rows &l, int64_t row) {
  return row < l.rows ? l.targets[row] : -1;
}

/* From column `left` of four on there is nothing. */
__device__ static inline void end_four(float4 *q, int left) {
  if (left < 1) q->x = -INFINITY;
  if (left < 2) q->y = -INFINITY;
  if (left < 3) q->z = -INFINITY;
  if (left < 4) q->w = -INFINITY;
}

__device__ static inline float max_four(float4 q) {
  return fmaxf(fmaxf(q.x, q.y), fmaxf(q.z, q.w));
}

/* The four exponentials below a reference, which are added to the sum, and kept. */
template <bool BACK> __device__ static inline void take_four(float4 q, float ref, float *sum, uint2 *kept) {
  q.x = exp_below<bf16>(q.x, ref), q.y = exp_below<bf16>(q.y, ref);
  q.z = exp_below<bf16>(q.z, ref), q.w = exp_below<bf16>(q.w, ref);
  *sum += q.x + q.y + (q.z + q.w);
  if (BACK) *kept = make_uint2(pair_bf16(q.x, q.y), pair_bf16(q.z, q.w));
}

__device__ static inline void write_four(bf16 *to, float factor, uint2 kept) {
  float v[ROW_LANE];
  two_f32(kept.x, &v[0], &v[1]);
  two_f32(kept.y, &v[2], &v[3]);
  *(uint2 *)to = make_uint2(pair_bf16(factor * v[0], factor * v[1]), pair_bf16(factor * v[2], factor * v[3]));
}

/* The thread's columns again, below their maximum. */
template <bool BACK> __device__ static __noinline__ soft take_again(const float *from, int width, uint2 *kept) {
  float ref = LEAST, sum = 0;
  for (int pass = 0; pass < 2; pass++)
#pragma unroll 1
    for (int at = 0; at < width; at += ROW_TILE) {
      float4 q = *(const float4 *)(from + at);
      end_four(&q, width - at);
      if (pass)
        take_four<BACK>(q, ref, &sum, kept + at / ROW_LANE);
      else
        ref = fmaxf(ref, max_four(q));
    }
  return {ref, sum};
}

/* Of all threads: the largest reference, and the sums below it. Where there is no column all is LEAST, which must be
 * taken from itself before it is multiplied. */
__device__ static soft row_soft(soft s, soft *room) {
  float max = warp_max(s.max), sum = warp_sum(s.sum * exp_below<bf16>(s.max - max, 0));
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = {max, sum};
  __syncthreads();
  s = room[threadIdx.x % 32];
  max = warp_max(s.max);
  return {max, warp_sum(s.sum * exp_below<bf16>(s.max - max, 0))};
}

/* The row's loss, and what its gradients are made with. mine: what this thread took; at_target: a logit. */
__device__ static row_back end_row(const pu_loss_rows &l, int64_t row, row_view v, soft mine, float at_target,
                                   soft *room) {
  soft all = row_soft(mine, room);
  row_back b = {(bf16 *)(l.logits + row * l.step) + first_column(), 0, -1, 0};
  if (threadIdx.x == 0) write_loss(l, row, all, at_target, v.target);
  if (!v.live) return b;
  b.factor = l.scale / all.sum * expf(mine.max - all.max);
  if (v.target % ROW_TILE / ROW_LANE != (int)threadIdx.x) return b;
  b.target = v.target - first_column();
  b.at_target = l.scale * (expf(at_target - all.max) / all.sum - 1.0f);
  return b;
}

/* One pass: `now` is read, and `before` written. ahead: now's first tiles, then next's. */
template <bool BACK>
__device__ static inline soft row_pass(int width, row_view now, row_view next, const row_back &before,
                                       float4 (&ahead)[ROW_AHEAD], uint2 *kept) {
  soft s = {0, 0};
  if (now.live) {
    float4 q = ahead[0];
    end_four(&q, width);
    s.max = fmaxf(max_four(q), LEAST);
  }
  for (int first = 0; first < width; first += ROW_AHEAD * ROW_TILE) {
    bool last = first + ROW_AHEAD * ROW_TILE >= width; /* the next row is read then */
    const float *from = !last ? now.at + first + ROW_AHEAD * ROW_TILE : next.at;
    int left = !last ? width - first - ROW_AHEAD * ROW_TILE : width;
    bool reads = last ? next.live : now.live;
#pragma unroll
    for (int i = 0; i < ROW_AHEAD; i++) {
      int at = first + i * ROW_TILE;
      float4 q = ahead[i];
      if (reads && left > i * ROW_TILE) ahead[i] = *(const float4 *)(from + i * ROW_TILE);
      if (at >= width) continue;
      if (last) end_four(&q, width - at);
      uint2 *place = kept + at / ROW_LANE;
      if (BACK && before.to) write_four(before.to + at, before.factor, before.factor != 0 ? *place : make_uint2(0, 0));
      take_four<BACK>(q, s.max, &s.sum, place);
    }
  }
  return s;
}

template <bool BACK> __global__ void __launch_bounds__(ROW_THREADS, 1) row_kernel(const pu_loss_rows l) {
  extern __shared__ __align__(16) uint2 all_kept[]; /* [tiles, ROW_THREADS] */
  __shared__ soft rooms[2][32];
  uint2 *kept = all_kept + threadIdx.x;
  int width = (int)l.vocab - first_column(), side = 0; /* columns from the thread's first on */
  row_view now = view_of(l, blockIdx.x, target_of(l, blockIdx.x));
  int32_t later = target_of(l, (int64_t)blockIdx.x + gridDim.x);
  row_back back = {};
  float4 ahead[ROW_AHEAD] = {};
#pragma unroll
  for (int i = 0; i < ROW_AHEAD; i++)
    if (now.live && i * ROW_TILE < width) ahead[i] = *(const float4 *)(now.at + i * ROW_TILE);
  for (int64_t row = blockIdx.x; row < l.rows || (BACK && back.to); row += gridDim.x, side ^= 1) {
    row_view next = view_of(l, row + gridDim.x, later);
    later = target_of(l, row + 2 * (int64_t)gridDim.x);
    float at_target = now.live ? now.at[now.target - first_column()] : 0.0f;
    soft s = row_pass<BACK>(width, now, next, back, ahead, kept);
    if (BACK && back.to && back.target >= 0) back.to[back.target] = from_f32<bf16>(back.at_target);
    if (now.live && !(s.sum < TOO_MUCH)) s = take_again<BACK>(now.at, width, kept);
    back.to = NULL;
    if (row < l.rows) back = end_row(l, row, now, s, at_target, rooms[side]);
    now = next;
  }
}

static size_t row_room(const pu_loss_rows *l) {
  return (size_t)ceil_div(l->vocab, ROW_TILE) * ROW_THREADS * sizeof(uint2);
}

static pu_err launch_rows(pu_cuda *d, const pu_loss_rows *l, pu_error *e) {
  void (*kernel)(pu_loss_rows) = l->back ? row_kernel<true> : row_kernel<false>;
  size_t room = l->back ? row_room(l) : 0;
  unsigned blocks = (unsigned)PU_MIN(l->rows, (int64_t)d->sms);
  PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)room),
              "shared memory for the loss", e);
  kernel<<<blocks, ROW_THREADS, room, d->stream>>>(*l);
  return pu_cuda_launched("the loss", e);
}

/* Whether a block has room for a row: of training also where there is nothing to be kept, so that losses are the same.
 */
static pu_err rows_fit(const pu_cuda *d, const pu_loss_rows *l, bool *fit, pu_error *e) {
  int most = 0;
  PU_CUDA_TRY(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, d->device), "asking for room", e);
  *fit = l->type == PU_BF16 && row_room(l) + 2 * 32 * sizeof(soft) <= (size_t)most;
  return PU_OK;
}

/* ---- a part of the row in each block of a cluster ---- */

enum {
  PART_THREADS = 512,
  PART_MOST = 56 << 10 /* logits */,
  PART_GOOD = 14 << 10 /* four blocks on a multiprocessor */
};

typedef struct part_state {
  soft s;
  float at_target;
} part_state;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

/* All of the part at once, by the copy engine. */
__device__ static void fetch_part(float *part, const float *from, uint32_t bytes, uint64_t *arrived) {
  if (threadIdx.x == 0) {
    barrier_init(arrived, 1);
    before_bulk();
    barrier_expect(arrived, bytes);
    bulk_copy(shared_address(part), from, bytes, arrived);
  }
  __syncthreads();
  barrier_wait(arrived, 0);
}

/* Zeros' exponentials, behind the part's end up to a multiple of WIDTH: loops need not look where it ends. */
__device__ static void end_part(float *part, int count) {
  int i = count + (int)threadIdx.x;
  if (i < (count + WIDTH - 1) / WIDTH * WIDTH) part[i] = -INFINITY;
  __syncthreads();
}

/* The part's exponentials below its own maximum, in place. */
template <typename T> __device__ static soft soft_part(float *part, int count, soft *room) {
  float max = -INFINITY, sum = 0;
  for (int i = threadIdx.x * 4; i < count; i += PART_THREADS * 4) {
    float4 q = *(const float4 *)(part + i);
    max = fmaxf(max, fmaxf(fmaxf(q.x, q.y), fmaxf(q.z, q.w)));
  }
  max = soft_block({max, 0}, room).max;
  float below = max == -INFINITY ? 0.0f : max;
  for (int i = threadIdx.x * 4; i < count; i += PART_THREADS * 4) {
    float4 q = *(const float4 *)(part + i);
    q.x = exp_below<T>(q.x, below), q.y = exp_below<T>(q.y, below);
    q.z = exp_below<T>(q.z, below), q.w = exp_below<T>(q.w, below);
    sum += q.x + q.y + (q.z + q.w);
    *(float4 *)(part + i) = q;
  }
  __syncthreads(); /* room is read from before */
  return {max, soft_block({0, sum}, room).sum};
}

/* The state that block `rank` of the cluster keeps at the same place. */
__device__ static part_state state_of(const part_state *mine, int rank) {
  part_state s;
  const uint32_t at = cluster_address(mine, rank);
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(s.s.max) : "r"(at) : "memory");
  asm volatile("ld.shared::cluster.f32 %0, [%1 + 4];" : "=f"(s.s.sum) : "r"(at) : "memory");
  asm volatile("ld.shared::cluster.f32 %0, [%1 + 8];" : "=f"(s.at_target) : "r"(at) : "memory");
  return s;
}

/* Every thread joins the states in the same order. */
__device__ static part_state join_parts(const part_state *mine, int parts) {
  part_state all = {{-INFINITY, 0}, 0};
  for (int i = 0; i < parts; i++) {
    part_state s = state_of(mine, i);
    all.s = soft_join(all.s, s.s);
    all.at_target += s.at_target;
  }
  return all;
}

/* The target's own value is set apart, by the thread that wrote it. */
template <typename T>
__device__ static void back_part(T *to, const float *part, int count, float factor, float scale, int64_t target) {
  for (int i = threadIdx.x * WIDTH; i < count; i += PART_THREADS * WIDTH) {
    float v[WIDTH] = {};
    if (factor != 0) {
      float4 low = *(const float4 *)(part + i), high = *(const float4 *)(part + i + 4);
      v[0] = factor * low.x, v[1] = factor * low.y, v[2] = factor * low.z, v[3] = factor * low.w;
      v[4] = factor * high.x, v[5] = factor * high.y, v[6] = factor * high.z, v[7] = factor * high.w;
    }
    write_grads(to + i, v);
    if (factor != 0 && target >= i && target < i + WIDTH) to[target] = from_f32<T>(factor * part[target] - scale);
  }
}

template <typename T>
__device__ static void run_part(const pu_loss_rows &l, float *part, int64_t row, int rank, int parts, int width) {
  __shared__ soft room[32];
  __shared__ part_state state;
  __shared__ __align__(8) uint64_t arrived;
  int64_t first = (int64_t)rank * width;
  int count = (int)PU_MAX(PU_MIN((int64_t)width, l.vocab - first), (int64_t)0);
  int32_t target = l.targets[row];
  bool live = target >= 0 && target < l.vocab;
  float *logits = l.logits + row * l.step;
  part_state all = {{0, 1}, 0}, mine = {{-INFINITY, 0}, 0};
  if (live) {
    if (count) {
      fetch_part(part, logits + first, (uint32_t)(count + 3) / 4 * 16, &arrived);
      if (target >= first && target < first + count) mine.at_target = part[target - first];
      end_part(part, count);
      mine.s = soft_part<T>(part, count, room);
    }
    if (threadIdx.x == 0) state = mine;
    cluster_meet(); /* all have read their logits, too: from here on gradients may lie where they were */
    all = join_parts(&state, parts);
  }
  if (rank == 0 && threadIdx.x == 0) write_loss(l, row, all.s, all.at_target, target);
  float factor = live && count ? l.scale / all.s.sum * expf(mine.s.max - all.s.max) : 0.0f;
  if (l.back) back_part((T *)logits + first, part, count, factor, l.scale, target - first);
  if (live) cluster_meet(); /* the others may still read this block's state */
}

#endif

template <typename T>
__global__ void __launch_bounds__(PART_THREADS, 4) part_kernel(const pu_loss_rows l, int parts, int width) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) float part[];
  run_part<T>(l, part, blockIdx.x / parts, blockIdx.x % parts, parts, width);
#endif
}

template <typename T> static pu_err launch_parts(pu_cuda *d, const pu_loss_rows *l, int parts, pu_error *e) {
  int width = (int)(ceil_div(ceil_div(l->vocab, parts), WIDTH) * WIDTH);
  cudaLaunchAttribute cluster = {};
  cudaLaunchConfig_t config = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = (unsigned)parts, cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.gridDim = dim3((unsigned)(l->rows * parts)), config.blockDim = dim3(PART_THREADS);
  config.dynamicSmemBytes = (size_t)width * sizeof(float), config.stream = d->stream;
  config.attrs = &cluster, config.numAttrs = 1;
  PU_CUDA_TRY(
      cudaFuncSetAttribute(part_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)config.dynamicSmemBytes),
      "shared memory for the loss", e);
  PU_CUDA_TRY(cudaLaunchKernelEx(&config, part_kernel<T>, *l, parts, width), "the loss", e);
  return PU_OK;
}

pu_err pu_cuda_loss_rows(pu_cuda *d, const pu_loss_rows *l, pu_error *e) {
  int parts = 1;
  bool f32 = l->type == PU_F32, fit;
  if (l->rows == 0) return PU_OK;
  PU_TRY(rows_fit(d, l, &fit, e));
  if (fit) return launch_rows(d, l, e);
  while (parts < 8 && l->vocab > (int64_t)parts * PART_GOOD) parts *= 2;
  if (d->capability >= 90 && l->vocab <= (int64_t)parts * PART_MOST)
    return f32 ? launch_parts<float>(d, l, parts, e) : launch_parts<bf16>(d, l, parts, e);
  if (f32)
    long_kernel<float><<<(unsigned)l->rows, LONG_THREADS, 0, d->stream>>>(*l);
  else
    long_kernel<bf16><<<(unsigned)l->rows, LONG_THREADS, 0, d->stream>>>(*l);
  return pu_cuda_launched("the loss", e);
}
