/* To FP8: once over the matrix for the largest magnitude, once more to round, a tile of 128 by 128 a block. */
#include "src/compute/cuda/fp8.h"

#include <cuda_fp8.h>

enum { THREADS = 256, TILE = 128, PITCH = TILE / 4 + 1 /* words from column to column of a tile in shared memory */ };

/* ---- the largest magnitude ------------------------------------------------------------------------------------------
 */

/* Magnitudes compare as their bits do; a NaN's are the largest, and make the scale NaN. */
__global__ void __launch_bounds__(THREADS) largest_kernel(const pu_cuda_fp8 f, unsigned *largest) {
  int64_t packs = f.cols / 8, count = f.rows * packs;
  unsigned most = 0;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (int64_t)gridDim.x * THREADS) {
    uint4 v = *(const uint4 *)(f.from + i / packs * f.step + i % packs * 8);
    unsigned pair =
        __vmaxu2(__vmaxu2(v.x & 0x7fff7fffu, v.y & 0x7fff7fffu), __vmaxu2(v.z & 0x7fff7fffu, v.w & 0x7fff7fffu));
    most = PU_MAX(most, PU_MAX(pair & 0xffffu, pair >> 16));
  }
  most = __reduce_max_sync(0xffffffffu, most);
  if (threadIdx.x % 32 == 0 && most) atomicMax(largest, most << 16); /* as a float */
}

/* ---- rounding -------------------------------------------------------------------------------------------------------
 */

__device__ static inline unsigned round_pair(float a, float b, bool gradient) {
  return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, gradient ? __NV_E5M2 : __NV_E4M3);
}

/* Eight values to eight bytes. */
__device__ static inline uint2 round_pack(const bf16 *from, float by, bool gradient) {
  pu_pack<bf16> v = *(const pu_pack<bf16> *)from;
  unsigned p[4];
#pragma unroll
  for (int i = 0; i < 4; i++) p[i] = round_pair(by * to_f32(v.v[2 * i]), by * to_f32(v.v[2 * i + 1]), gradient);
  return make_uint2(p[0] | p[1] << 16, p[2] | p[3] << 16);
}

/* Four rows by eight columns into the tile turned: a word holds four rows of a column. */
__device__ static inline void turn_pack(const uint2 *rows, uint32_t *tile) {
#pragma unroll
  for (int c = 0; c < 8; c++) {
    const unsigned shift = c % 4 * 8;
    uint32_t word = 0;
#pragma unroll
    for (int r = 0; r < 4; r++) word |= ((c < 4 ? rows[r].x : rows[r].y) >> shift & 0xffu) << (r * 8);
    tile[c * PITCH] = word;
  }
}

__global__ void __launch_bounds__(THREADS) round_kernel(const pu_cuda_fp8 f) {
  __shared__ uint32_t tile[TILE * PITCH];
  float largest = f.scale[1], most = f.gradient ? 57344.0f : 448.0f;
  float by = largest > 0 ? most / largest : largest == 0 ? 1.0f : NAN;
  by = isinf(by) ? 1.0f : by;
  int64_t row0 = (int64_t)blockIdx.y * TILE, col0 = (int64_t)blockIdx.x * TILE;
  int pack = threadIdx.x % 16, four = threadIdx.x / 16;
  if (threadIdx.x == 0 && blockIdx.x == 0 && blockIdx.y == 0) f.scale[0] = 1 / by;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int64_t row = row0 + (four + half * 16) * 4, col = col0 + pack * 8;
    uint2 rows[4] = {};
#pragma unroll
    for (int r = 0; r < 4; r++) {
      if (row + r >= f.rows || col >= f.cols) continue;
      rows[r] = round_pack(f.from + (row + r) * f.step + col, by, f.gradient);
      if (f.plain) *(uint2 *)(f.plain + (row + r) * f.cols + col) = rows[r];
    }
    if (f.turned) turn_pack(rows, tile + pack * 8 * PITCH + four + half * 16);
  }
  if (!f.turned) return;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < TILE * 8 / THREADS; i++) {
    int c = threadIdx.x / 8 + i * 32, piece = threadIdx.x % 8;
    const uint32_t *from = tile + c * PITCH + piece * 4;
    if (col0 + c < f.cols && row0 + piece * 16 < f.rows)
      *(uint4 *)(f.turned + (col0 + c) * f.rows + row0 + piece * 16) = make_uint4(from[0], from[1], from[2], from[3]);
  }
}

pu_err pu_cuda_to_fp8(pu_cuda *d, const pu_cuda_fp8 *f, pu_error *e) {
  dim3 grid((unsigned)ceil_div(f->cols, TILE), (unsigned)ceil_div(f->rows, TILE));
  PU_CUDA_TRY(cudaMemsetAsync(f->scale, 0, 2 * sizeof *f->scale, d->stream), "rounding to FP8", e);
  largest_kernel<<<(unsigned)(8 * d->sms), THREADS, 0, d->stream>>>(*f, (unsigned *)(f->scale + 1));
  round_kernel<<<grid, THREADS, 0, d->stream>>>(*f);
  return pu_cuda_launched("rounding to FP8", e);
}
