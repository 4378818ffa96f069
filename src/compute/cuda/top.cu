/* top_logits: the k largest of a row, and its softmax's sums, a block a row. Each thread keeps the best of its own
 * share; the block takes the best of these, k times, and whose it was looks for its next one. The order is total
 * (value, then lower id), so the result does not depend on which thread holds what. */
#include <math.h>

#include "src/compute/cuda/use.h"

namespace {

constexpr int THREADS = 1024;

typedef struct best {
  float value;
  int32_t id;
} best;

__device__ inline bool is_before(best a, best b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

__device__ inline float clean(float v) {
  return isnan(v) ? -INFINITY : v;
}

/* The best of a thread's share that comes after `last`. */
__device__ best next_best(const float *row, int vocab, best last) {
  best out = {-INFINITY, INT32_MAX};
  for (int i = threadIdx.x; i < vocab; i += THREADS) {
    best here = {clean(row[i]), i};
    if (is_before(last, here) && is_before(here, out)) out = here;
  }
  return out;
}

__device__ best best_of_block(best mine, best *room) {
  for (int step = 16; step; step >>= 1) {
    best other = {__shfl_xor_sync(0xffffffffu, mine.value, step), __shfl_xor_sync(0xffffffffu, mine.id, step)};
    if (is_before(other, mine)) mine = other;
  }
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  __syncthreads();
  if (lane == 0) room[warp] = mine;
  __syncthreads();
  mine = room[lane];
  for (int step = 16; step; step >>= 1) {
    best other = {__shfl_xor_sync(0xffffffffu, mine.value, step), __shfl_xor_sync(0xffffffffu, mine.id, step)};
    if (is_before(other, mine)) mine = other;
  }
  return mine;
}

__global__ void __launch_bounds__(THREADS) top_kernel(const float *logits, int64_t step, const float *scale, int vocab,
                                                      int k, float *values, int32_t *ids, float *sums) {
  __shared__ best room[32];
  __shared__ float sum_room[32];
  const float *row = logits + blockIdx.x * step;
  const best start = {INFINITY, -1};
  let_next_start();
  wait_for_before();
  best mine = next_best(row, vocab, start), first = start;
  for (int i = 0; i < k; i++) {
    best top = best_of_block(mine, room);
    if (i == 0) first = top;
    if (threadIdx.x == 0) {
      values[(int64_t)blockIdx.x * k + i] = top.value;
      ids[(int64_t)blockIdx.x * k + i] = top.id;
    }
    if (top.id == mine.id) mine = next_best(row, vocab, top);
  }
  bool finite = isfinite(first.value);
  float scaled = 0, plain = 0, by = scale[blockIdx.x];
  for (int i = threadIdx.x; i < vocab && finite; i += THREADS) {
    float d = clean(row[i]) - first.value;
    scaled += expf(d * by);
    plain += expf(d);
  }
  scaled = block_sum(scaled, sum_room);
  plain = block_sum(plain, sum_room);
  if (threadIdx.x == 0) {
    sums[2 * (int64_t)blockIdx.x] = scaled;
    sums[2 * (int64_t)blockIdx.x + 1] = plain;
  }
}

pu_err top_logits(pu_backend *be, void *args, pu_error *e) {
  const pu_top_logits_args *a = (const pu_top_logits_args *)args;
  unsigned rows = (unsigned)a->logits->shape[0];
  if (rows == 0) return PU_OK;
  pu_cuda_start((pu_cuda *)be, true, top_kernel, rows, THREADS, 0, (const float *)a->logits->data, a->logits->stride[0],
                (const float *)a->scale->data, (int)a->vocab, a->k, (float *)a->values->data, (int32_t *)a->ids->data,
                (float *)a->sums->data);
  return pu_cuda_launched("top_logits", e);
}

} // namespace

void pu_cuda_use_top(pu_cuda *d) {
  d->base.forward[PU_OP_top_logits] = top_logits;
}
