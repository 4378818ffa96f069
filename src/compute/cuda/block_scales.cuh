/* Scales of a weight in E4M3 that has one for each block of 128 x 128, as products on Hopper read them. */
#ifndef PUYU_CUDA_BLOCK_SCALES_CUH
#define PUYU_CUDA_BLOCK_SCALES_CUH

#include "src/compute/cuda/mma.h"

/* Of a row of blocks in shared memory: an even number, so that products may do two blocks at a time; zeros behind. */
__host__ __device__ static inline int block_scales_step(int64_t cols) {
  return (int)((cols + 2 * PU_FP8_BLOCK - 1) / (2 * PU_FP8_BLOCK) * 2);
}

/* Asks for N rows of blocks, from that of this line on, into shared memory [N, step]; by so many threads, a
 * warpgroup's. all: of a weight [lines, cols]; zeros behind it. */
template <int THREADS, int N>
__device__ static inline void fetch_block_scales(float *to, const float *all, int64_t lines, int64_t cols,
                                                 int64_t line) {
  const int step = block_scales_step(cols), n = (int)((cols + PU_FP8_BLOCK - 1) / PU_FP8_BLOCK);
  const int64_t first = line / PU_FP8_BLOCK, end = (lines + PU_FP8_BLOCK - 1) / PU_FP8_BLOCK;
  for (int i = 0; i < N; i++)
    for (int k = (int)threadIdx.x % THREADS; k < step; k += THREADS) {
      const bool there = k < n && first + i < end;
      copy_async_word(shared_address(&to[i * step + k]), all + (there ? (first + i) * n + k : 0), there ? 4 : 0);
    }
}

#endif
