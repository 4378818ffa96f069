/* Grouped products: a block computes a strip of rows by some columns of one group. */
#include "src/compute/cuda/grouped.h"
#include "src/compute/cuda/grouped_tensor.cuh"

#include <string.h>

/* ---- plain: f32 sums in order, any steps, any alignment ---- */

enum { TILE = PU_STRIP_PLAIN, DEPTH = 16, THREADS = 256 };

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
    for (int j = 0; j < 4; j++) pu_group_store<Y>(g, row + i0 + i, col + j0 + j, sum[i][j]);
}

/* ---- which group, which tile ---- */

/* How a block computes its tile: what the kernels are made of. */
template <typename T, typename Y> struct plain_way {
  static constexpr int threads = THREADS, rows = TILE, cols = TILE, room = 0, blocks = 1;
  __device__ static void run(const pu_cuda_group &g, unsigned char *, int64_t row, int64_t col) {
    plain_tile<T, Y>(g, row, col);
  }
};

template <typename T, typename Y> struct tensor_way {
  static constexpr int threads = T::threads, rows = T::rows, cols = T::cols, room = T::stage * T::stages, blocks = 2;
  __device__ static void run(const pu_cuda_group &g, unsigned char *shared, int64_t row, int64_t col) {
    tensor_block<T, Y>(g, shared, row, col);
  }
};

template <typename WAY> __device__ static void run_block(const pu_cuda_group *groups, int n) {
  extern __shared__ __align__(256) unsigned char room[];
  let_next_start();
  wait_for_before();
  const pu_cuda_group *g = groups + last_begun(groups, n, (int)blockIdx.x);
  int64_t row = ((int64_t)blockIdx.x - g->first) * WAY::rows, col = (int64_t)blockIdx.y * WAY::cols;
  if (row < g->rows && col < g->cols) WAY::run(*g, room, row, col);
}

enum { BATCH = 32 }; /* groups that travel as an argument of the kernel: no copy, nothing to wait for */

typedef struct group_batch {
  pu_cuda_group groups[BATCH];
} group_batch;

template <typename WAY>
__global__ void __launch_bounds__(WAY::threads, WAY::blocks)
    batch_kernel(const __grid_constant__ group_batch batch, int n) {
  run_block<WAY>(batch.groups, n);
}

template <typename WAY>
__global__ void __launch_bounds__(WAY::threads, WAY::blocks) device_kernel(const pu_cuda_group *groups, int n) {
  run_block<WAY>(groups, n);
}

/* ---- launches
 * -------------------------------------------------------------------------------------------------------- */

/* Groups in device memory, or a batch that goes along. */
typedef struct group_launch {
  const group_batch *batch;
  const pu_cuda_group *device;
  int n;
  int64_t strips, cols;
} group_launch;

template <typename WAY> static pu_err launch(pu_cuda *d, const group_launch *l, pu_error *e) {
  dim3 grid((unsigned)l->strips, (unsigned)ceil_div(l->cols, WAY::cols));
  const void *kernel = l->batch ? (const void *)batch_kernel<WAY> : (const void *)device_kernel<WAY>;
  if (WAY::room > 48 << 10)
    PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, WAY::room),
                "shared memory for products", e);
  const bool early = l->strips * WAY::rows <= PU_CUDA_SHORT_ROWS;
  if (l->batch)
    pu_cuda_start(d, early, batch_kernel<WAY>, grid, WAY::threads, WAY::room, *l->batch, l->n);
  else
    pu_cuda_start(d, early, device_kernel<WAY>, grid, WAY::threads, WAY::room, l->device, l->n);
  return pu_cuda_launched("products", e);
}

static pu_err run(pu_cuda *d, const pu_cuda_groups *c, const group_launch *l, pu_error *e) {
  if (l->strips == 0 || l->cols == 0) return PU_OK;
  if (c->strip == PU_STRIP_FEW) return launch<tensor_way<tensor_tile<PU_STRIP_FEW, false, false>, bf16>>(d, l, e);
  if (c->strip == PU_STRIP) {
    if (c->a_turned) return launch<tensor_way<tensor_tile<PU_STRIP, true, true>, float>>(d, l, e);
    if (c->b_turned) return launch<tensor_way<tensor_tile<PU_STRIP, false, true>, bf16>>(d, l, e);
    return launch<tensor_way<tensor_tile<PU_STRIP, false, false>, bf16>>(d, l, e);
  }
  if (c->type == PU_F32) return launch<plain_way<float, float>>(d, l, e);
  if (c->y_type == PU_F32) return launch<plain_way<bf16, float>>(d, l, e);
  return launch<plain_way<bf16, bf16>>(d, l, e);
}

int pu_cuda_strip(const pu_cuda_groups *c, const pu_cuda_group *g, int64_t rows) {
  int64_t steps = (c->a_turned ? g->a_inner : g->a_row) | (c->b_turned ? g->b_inner : g->b_col);
  bool lies_well = ((uintptr_t)g->a | (uintptr_t)g->b | (size_t)steps * sizeof(bf16)) % 16 == 0;
  bool there_is = c->a_turned ? c->b_turned && c->y_type == PU_F32 : c->y_type == PU_BF16;
  if (c->type != PU_BF16 || !lies_well || !there_is) return PU_STRIP_PLAIN;
  return rows <= PU_STRIP_FEW && !c->a_turned && !c->b_turned ? PU_STRIP_FEW : PU_STRIP;
}

pu_err pu_cuda_grouped(pu_cuda *d, const pu_cuda_groups *common, const pu_cuda_group *groups, int n, pu_error *e) {
  for (int at = 0; at < n; at += BATCH) {
    group_batch batch;
    group_launch l = {&batch, NULL, PU_MIN(n - at, (int)BATCH), 0, common->cols};
    memcpy(batch.groups, groups + at, (size_t)l.n * sizeof *groups);
    for (int i = 0; i < l.n; i++) {
      batch.groups[i].first = (int32_t)l.strips;
      l.strips += ceil_div(batch.groups[i].rows, common->strip);
    }
    PU_TRY(run(d, common, &l, e));
  }
  return PU_OK;
}

pu_err pu_cuda_grouped_on_device(pu_cuda *d, const pu_cuda_groups *common, const pu_cuda_group *groups, int n,
                                 int64_t strips, pu_error *e) {
  group_launch l = {NULL, groups, n, strips, common->cols};
  return run(d, common, &l, e);
}
