/* adjust_logits: a block for each row, which goes through its lists one after the other.
 *
 * top_logits: the k largest of a row, and its softmax's sums, in two kernels. The first has a block for every part of a
 * row, which it keeps in shared memory: each thread knows the best of its own share, a warp that of its threads, and of
 * the warps' the best is taken, k times; only whose it was looks for its next one. The second merges the parts' lists.
 * How a row is divided depends on its length alone. The order is total (value, then lower id), so the result does not
 * depend on which thread holds what. */
#include <math.h>

#include "src/compute/cuda/use.h"

namespace {

/* ---- adjust_logits ---- */

enum { ADJUST_THREADS = 512 };

typedef struct adjusted_rows {
  float *logits;
  int64_t step;
  int vocab;
  const float *penalty, *values;
  const int32_t *offsets, *ids;
} adjusted_rows;

/* As pu_penalised; a product and a difference that become one instruction would be rounded once. */
__device__ inline float penalised(float x, float by_positive, float r, float minus) {
  return __fsub_rn(__fmul_rn(x, x > 0 ? by_positive : r), minus);
}

__global__ void __launch_bounds__(ADJUST_THREADS) adjust_kernel(const adjusted_rows a) {
  float *x = a.logits + (int64_t)blockIdx.x * a.step;
  const int32_t *at = a.offsets + 3 * (int64_t)blockIdx.x;
  let_next_start();
  wait_for_before();
  const float r = a.penalty[blockIdx.x], by_positive = __fdiv_rn(1.0f, r);
  for (int list = 0; list < 3; list++) {
    for (int i = at[list] + (int)threadIdx.x; i < at[list + 1]; i += ADJUST_THREADS) {
      const int32_t id = a.ids[i];
      if (id < 0 || id >= a.vocab) continue;
      if (list == 0) x[id] = __fadd_rn(x[id], a.values[i]);
      if (list == 1) x[id] = penalised(x[id], by_positive, r, a.values[i]);
      if (list == 2) x[id] = -INFINITY;
    }
    __syncthreads(); /* an id may stand in the next list, too */
  }
}

pu_err adjust_logits(pu_backend *be, void *args, pu_error *e) {
  const pu_adjust_logits_args *a = (const pu_adjust_logits_args *)args;
  const int64_t rows = a->logits->shape[0];
  if (rows == 0) return PU_OK;
  const adjusted_rows r = {(float *)a->logits->data,       a->logits->stride[0],
                           (int)a->logits->shape[1],       (const float *)a->penalty->data,
                           (const float *)a->values->data, (const int32_t *)a->offsets->data,
                           (const int32_t *)a->ids->data};
  pu_cuda_start((pu_cuda *)be, true, adjust_kernel, (unsigned)rows, ADJUST_THREADS, 0, r);
  return pu_cuda_launched("adjust_logits", e);
}

/* ---- top_logits ---- */

enum { THREADS = 256, WARPS = THREADS / 32, PARTS = 32, MOST_KEPT = 8192, MERGE_THREADS = 128, MERGE_KEPT = 4096 };

typedef struct best {
  float value;
  int32_t id;
} best;

typedef struct part_sums {
  float scaled, plain; /* of e^(x - the part's largest) */
} part_sums;

typedef struct top_rows {
  const float *logits, *scale;
  int64_t step;
  int vocab, k, part; /* part: values of each but the last */
  best *lists;        /* [rows, PARTS, k] */
  part_sums *parts;   /* [rows, PARTS] */
  float *values, *sums;
  int32_t *ids;
} top_rows;

__device__ inline bool is_before(best a, best b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

/* NaN counts as the least; zeros are one. */
__device__ inline float clean(float v) {
  return isnan(v) ? -INFINITY : v + 0.0f;
}

/* In the order of the values, none of which is NaN. */
__device__ inline uint32_t rank_of(float v) {
  const uint32_t bits = __float_as_uint(v);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float value_of(uint32_t rank) {
  return __uint_as_float(rank >> 31 ? rank & 0x7fffffffu : ~rank);
}

__device__ inline best best_of_warp(best mine) {
  const uint32_t rank = rank_of(mine.value), most = __reduce_max_sync(~0u, rank);
  return {value_of(most), __reduce_min_sync(~0u, rank == most ? mine.id : INT32_MAX)};
}

/* The best of a thread's share of the part that comes after `last`; ids count from the part's begin. */
__device__ inline best next_best(const float *part, int n, best last) {
  best out = {-INFINITY, INT32_MAX};
  for (int i = (int)threadIdx.x; i < n; i += THREADS) {
    const best here = {clean(part[i]), i};
    if (is_before(last, here) && is_before(here, out)) out = here;
  }
  return out;
}

/* The k best in order. */
__device__ inline best list_part(const float *part, int n, int k, int first_id, best *list) {
  __shared__ best room[2][WARPS];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  best mine = next_best(part, n, {INFINITY, -1}), ours = best_of_warp(mine), first = {};
  for (int i = 0; i < k; i++) {
    if (lane == 0) room[i % 2][warp] = ours;
    __syncthreads(); /* those who read the other half have passed the barrier before this one */
    const best top = best_of_warp(room[i % 2][lane % WARPS]);
    if (i == 0) first = top;
    if (threadIdx.x == 0) list[i] = {top.value, top.id == INT32_MAX ? INT32_MAX : top.id + first_id};
    if (top.id == INT32_MAX || top.id % THREADS / 32 != warp) continue;
    if (top.id == mine.id) mine = next_best(part, n, top);
    ours = best_of_warp(mine);
  }
  return first;
}

__global__ void __launch_bounds__(THREADS) list_kernel(const top_rows t) {
  __shared__ float kept[MOST_KEPT], sum_room[32];
  const int64_t row = blockIdx.x, at = row * PARTS + blockIdx.y;
  const int first_id = (int)blockIdx.y * t.part, n = min(t.part, t.vocab - first_id);
  const float *part = t.logits + row * t.step + first_id;
  let_next_start();
  wait_for_before();
  if (n <= MOST_KEPT) {
    for (int i = (int)threadIdx.x; i < n; i += THREADS) kept[i] = part[i];
    part = kept; /* a thread reads what it wrote itself */
  }
  const best first = list_part(part, n, t.k, first_id, t.lists + at * t.k);
  float scaled = 0, plain = 0;
  const float by = t.scale[row];
  for (int i = (int)threadIdx.x; i < n && isfinite(first.value); i += THREADS) {
    const float d = clean(part[i]) - first.value;
    scaled += expf(d * by);
    plain += expf(d);
  }
  scaled = block_sum(scaled, sum_room);
  plain = block_sum(plain, sum_room);
  if (threadIdx.x == 0) t.parts[at] = {scaled, plain};
}

/* Of all parts, each lane having one; first: its largest. */
__device__ inline void merge_sums(const top_rows &t, int64_t row, int parts, float first) {
  const int lane = threadIdx.x % 32;
  const float most = value_of(__reduce_max_sync(~0u, rank_of(first)));
  const bool counts = lane < parts && isfinite(most) && isfinite(first);
  const part_sums s = counts ? t.parts[row * PARTS + lane] : part_sums{0, 0};
  const float d = counts ? first - most : 0;
  const float scaled = warp_sum(s.scaled * expf(d * t.scale[row])), plain = warp_sum(s.plain * expf(d));
  if (lane) return;
  t.sums[2 * row] = scaled;
  t.sums[2 * row + 1] = plain;
}

__global__ void __launch_bounds__(MERGE_THREADS) merge_kernel(const top_rows t, int parts) {
  __shared__ best kept[MERGE_KEPT];
  const int64_t row = blockIdx.x;
  const best *lists = t.lists + row * PARTS * t.k, none = {-INFINITY, INT32_MAX};
  const int lane = threadIdx.x;
  let_next_start();
  wait_for_before();
  if (parts * t.k <= MERGE_KEPT) {
    for (int i = (int)threadIdx.x; i < parts * t.k; i += MERGE_THREADS) kept[i] = lists[i];
    lists = kept;
    __syncthreads();
  }
  if (lane >= 32) return;
  int at = 0;
  best mine = lane < parts ? lists[lane * t.k] : none;
  merge_sums(t, row, parts, mine.value);
  for (int i = 0; i < t.k; i++) {
    const best top = best_of_warp(mine);
    if (lane == 0) {
      t.values[row * t.k + i] = top.value;
      t.ids[row * t.k + i] = top.id;
    }
    if (mine.id == top.id) mine = ++at < t.k && lane < parts ? lists[lane * t.k + at] : none;
  }
}

pu_err top_logits(pu_backend *be, void *args, pu_error *e) {
  const pu_top_logits_args *a = (const pu_top_logits_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  const int64_t rows = a->logits->shape[0];
  void *work;
  if (rows == 0) return PU_OK;
  const size_t lists = (size_t)(rows * PARTS) * (size_t)a->k * sizeof(best);
  PU_TRY(pu_cuda_work(d, lists + (size_t)(rows * PARTS) * sizeof(part_sums), &work, e));
  top_rows t = {(const float *)a->logits->data, (const float *)a->scale->data, a->logits->stride[0], (int)a->vocab,
                a->k};
  t.part = (int)ceil_div(ceil_div(a->vocab, PARTS), THREADS) * THREADS;
  t.lists = (best *)work, t.parts = (part_sums *)((char *)work + lists);
  t.values = (float *)a->values->data, t.sums = (float *)a->sums->data, t.ids = (int32_t *)a->ids->data;
  const unsigned parts = (unsigned)ceil_div(a->vocab, t.part);
  pu_cuda_start(d, true, list_kernel, dim3((unsigned)rows, parts), THREADS, 0, t);
  pu_cuda_start(d, true, merge_kernel, (unsigned)rows, MERGE_THREADS, 0, t, (int)parts);
  return pu_cuda_launched("top_logits", e);
}

} // namespace

void pu_cuda_use_top(pu_cuda *d) {
  d->base.forward[PU_OP_adjust_logits] = adjust_logits;
  d->base.forward[PU_OP_top_logits] = top_logits;
}
