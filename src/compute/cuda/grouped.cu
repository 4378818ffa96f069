/* Grouped products. A block computes a strip of rows by as many columns of one group. */
#include "src/compute/cuda/grouped.h"

#include <string.h>

/* ---- plain: f32 sums in order, any steps, any alignment ------------------------------------------------------------
 */

enum { TILE = PU_GROUP_ROWS, DEPTH = 16, THREADS = 256 };

/* A tile of TILE lines by DEPTH of the sum into shared memory; threads walk along what lies side by side. */
template <typename T>
__device__ static void plain_load(float (*to)[TILE + 4], const T *from, int64_t line, int64_t lines, int64_t line_step,
                                  int64_t k0, int64_t inner, int64_t inner_step) {
  for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
    int k = inner_step == 1 ? i % DEPTH : i / TILE, l = inner_step == 1 ? i / DEPTH : i % TILE;
    bool in = line + l < lines && k0 + k < inner;
    to[k][l] = in ? to_f32(from[(line + l) * line_step + (k0 + k) * inner_step]) : 0.0f;
  }
}

template <typename Y> __device__ static void store(const pu_cuda_group &g, int64_t row, int64_t col, float sum) {
  if (row >= g.rows || col >= g.cols) return;
  Y *y = (Y *)g.y + row * g.y_step + col;
  sum *= g.alpha;
  if (g.bias) sum += g.bias_f32 ? ((const float *)g.bias)[col] : to_f32(((const bf16 *)g.bias)[col]);
  *y = from_f32<Y>(g.beta != 0 ? sum + g.beta * to_f32(*y) : sum);
}

/* Each thread: 4 rows by 4 columns. */
template <typename T, typename Y> __device__ static void plain_tile(const pu_cuda_group &g, int64_t row, int64_t col) {
  __shared__ __align__(16) float a[DEPTH][TILE + 4], b[DEPTH][TILE + 4];
  int i0 = threadIdx.x / 16 * 4, j0 = threadIdx.x % 16 * 4;
  float sum[4][4] = {};
  for (int64_t k0 = 0; k0 < g.inner; k0 += DEPTH) {
    plain_load(a, (const T *)g.a, row, g.rows, g.a_row, k0, g.inner, g.a_inner);
    plain_load(b, (const T *)g.b, col, g.cols, g.b_col, k0, g.inner, g.b_inner);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      float4 x = *(const float4 *)&a[k][i0], w = *(const float4 *)&b[k][j0];
      const float xs[4] = {x.x, x.y, x.z, x.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] = fmaf(xs[i], ws[j], sum[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) store<Y>(g, row + i0 + i, col + j0 + j, sum[i][j]);
}

/* ---- which group, which tile ----------------------------------------------------------------------------------------
 */

/* The group of a strip: the last one that begins at it or before. Empty groups begin where the next one does. */
__device__ static const pu_cuda_group *group_of(const pu_cuda_group *groups, int n, int strip) {
  int low = 0, high = n; /* groups[low].first <= strip < groups[high].first */
  while (high - low > 1) {
    int middle = (low + high) / 2;
    if (groups[middle].first <= strip)
      low = middle;
    else
      high = middle;
  }
  return groups + low;
}

template <typename T, typename Y> __device__ static void run_block(const pu_cuda_group *groups, int n) {
  const pu_cuda_group *g = group_of(groups, n, blockIdx.x);
  int64_t row = ((int64_t)blockIdx.x - g->first) * TILE, col = (int64_t)blockIdx.y * TILE;
  if (row < g->rows && col < g->cols) plain_tile<T, Y>(*g, row, col);
}

enum { BATCH = 32 }; /* groups that travel as an argument of the kernel: no copy, nothing to wait for */

typedef struct group_batch {
  pu_cuda_group groups[BATCH];
} group_batch;

template <typename T, typename Y>
__global__ void __launch_bounds__(THREADS) batch_kernel(const __grid_constant__ group_batch batch, int n) {
  run_block<T, Y>(batch.groups, n);
}

template <typename T, typename Y>
__global__ void __launch_bounds__(THREADS) device_kernel(const pu_cuda_group *groups, int n) {
  run_block<T, Y>(groups, n);
}

static pu_err run_batch(pu_cuda *d, const pu_cuda_groups *c, const group_batch *batch, int n, int64_t strips,
                        pu_error *e) {
  if (strips == 0 || c->cols == 0) return PU_OK;
  dim3 grid((unsigned)strips, (unsigned)ceil_div(c->cols, TILE));
  if (c->type == PU_F32)
    batch_kernel<float, float><<<grid, THREADS, 0, d->stream>>>(*batch, n);
  else if (c->y_type == PU_F32)
    batch_kernel<bf16, float><<<grid, THREADS, 0, d->stream>>>(*batch, n);
  else
    batch_kernel<bf16, bf16><<<grid, THREADS, 0, d->stream>>>(*batch, n);
  return pu_cuda_launched("products", e);
}

pu_err pu_cuda_grouped(pu_cuda *d, const pu_cuda_groups *common, pu_cuda_group *groups, int n, pu_error *e) {
  for (int at = 0; at < n; at += BATCH) {
    group_batch batch;
    int64_t strips = 0;
    int here = PU_MIN(n - at, (int)BATCH);
    memcpy(batch.groups, groups + at, (size_t)here * sizeof *groups);
    for (int i = 0; i < here; i++) {
      batch.groups[i].first = (int32_t)strips;
      strips += ceil_div(batch.groups[i].rows, TILE);
    }
    PU_TRY(run_batch(d, common, &batch, here, strips, e));
  }
  return PU_OK;
}

pu_err pu_cuda_grouped_on_device(pu_cuda *d, const pu_cuda_groups *c, const pu_cuda_group *groups, int n,
                                 int64_t strips, pu_error *e) {
  if (strips == 0 || c->cols == 0) return PU_OK;
  dim3 grid((unsigned)strips, (unsigned)ceil_div(c->cols, TILE));
  if (c->type == PU_F32)
    device_kernel<float, float><<<grid, THREADS, 0, d->stream>>>(groups, n);
  else if (c->y_type == PU_F32)
    device_kernel<bf16, float><<<grid, THREADS, 0, d->stream>>>(groups, n);
  else
    device_kernel<bf16, bf16><<<grid, THREADS, 0, d->stream>>>(groups, n);
  return pu_cuda_launched("products", e);
}
