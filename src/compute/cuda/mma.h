/* Tensor cores by warp (compute capability 8.0 on): mma.sync m16n8k16 of bf16 with sums in f32, and what feeds it:
 * copies into shared memory ahead of their use (cp.async), fragments out of it (ldmatrix; PTX ISA 9.0, "Warp-level
 * matrix instructions"). Of a product C[16, 8] += A[16, 16] B[16, 8], lane l = 4 g + t holds
 *   a[0] A[g][2t, 2t+1]   a[1] A[g+8][2t, 2t+1]   a[2] A[g][2t+8, 2t+9]   a[3] A[g+8][2t+8, 2t+9]
 *   b[0] B[2t, 2t+1][g]   b[1] B[2t+8, 2t+9][g]
 *   c[0], c[1] C[g][2t, 2t+1]   c[2], c[3] C[g+8][2t, 2t+1] */
#ifndef PUYU_CUDA_MMA_H
#define PUYU_CUDA_MMA_H

#include "src/compute/cuda/cuda.h"

__device__ static inline void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* The same of f16. */
__device__ static inline void mma_f16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four 8 by 8 matrices of 16-bit values: lane l names row l % 8 of matrix l / 8. */
__device__ static inline void load_matrices(uint32_t r[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}
__device__ static inline void load_matrices_turned(uint32_t r[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}

/* Sixteen bytes into shared memory. */
__device__ static inline void copy_async(uint32_t to, const void *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
/* If `wanted`: without a branch. */
__device__ static inline void copy_async_if(uint32_t to, const void *from, bool wanted) {
  asm volatile(
      "{\n\t.reg .pred p;\n\tsetp.ne.u32 p, %2, 0;\n\t@p cp.async.cg.shared.global [%0], [%1], 16;\n\t}" ::"r"(to),
      "l"(from), "r"((uint32_t)wanted)
      : "memory");
}
/* Sixteen bytes, of which the first `bytes` are read and the others are zero. */
__device__ static inline void copy_async(uint32_t to, const void *from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
/* Likewise; whoever reads on behind them finds the 128 bytes around them in the second cache. */
__device__ static inline void copy_async_wide(uint32_t to, const void *from, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
/* Four bytes, or zeros. */
__device__ static inline void copy_async_word(uint32_t to, const void *from, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ static inline void copies_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All but the last N groups have arrived. */
template <int N> __device__ static inline void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ static inline uint32_t pair_f16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

/* Sixteen rows in memory, of D values, as A: rows g and g + 8 of the lane. NULL: zeros. */
template <int D> __device__ static inline void rows_as_a(uint32_t a[D / 16][4], const char *row0, const char *row8) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    a[i][0] = row0 ? *(const uint32_t *)(row0 + (16 * i + 2 * t) * 2) : 0;
    a[i][1] = row8 ? *(const uint32_t *)(row8 + (16 * i + 2 * t) * 2) : 0;
    a[i][2] = row0 ? *(const uint32_t *)(row0 + (16 * i + 2 * t + 8) * 2) : 0;
    a[i][3] = row8 ? *(const uint32_t *)(row8 + (16 * i + 2 * t + 8) * 2) : 0;
  }
}

/* Two neighbours in memory become x and y, rounded; add: they are added to what is there. */
__device__ static inline void round_pair(uint32_t *at, float x, float y, bool add) {
  if (add) {
    x += __uint_as_float(*at << 16);
    y += __uint_as_float(*at & 0xffff0000u);
  }
  *at = pair_bf16(x, y);
}

/* word & mask | bits, which is one instruction only when it is asked for: two of its operands are constants. */
__device__ static inline uint32_t and_or(uint32_t word, uint32_t mask, uint32_t bits) {
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(word), "r"(mask), "r"(bits));
  return y;
}

/* Over the four lanes of a row of C. */
__device__ static inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ static inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* Where 16-byte piece c of row r lies in a tile of bf16 rows of D: pieces change places so that eight rows' same piece
 * lie in different banks. */
template <int D> __device__ static inline int swizzled(int r, int c) {
  return r * D * 2 + ((c ^ (r & 7)) << 4);
}

#endif
