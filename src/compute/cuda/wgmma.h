/* The tensor cores of Hopper, by warpgroup: wgmma of bf16 with sums in f32, and of codes of 8 bits (PTX ISA 9.0,
 * "Asynchronous warpgroup level matrix instructions"). C[64, N] += A[64, 16] B[16, N], of codes 32 instead of 16; warp
 * w of the four has rows 16 w to 16 w + 15 of C, and of an A in registers, as mma.h has them. What lies in shared
 * memory are rows of 64 values (128 bytes) with their eight pieces exchanged in the pattern of eight rows ("128-byte
 * swizzle"); rows of more values are several such matrices. */
#ifndef PUYU_CUDA_WGMMA_H
#define PUYU_CUDA_WGMMA_H

#include "src/compute/cuda/cuda.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PU_WGMMA 1
#endif

struct e4m3 {
  uint8_t code;
};
/* Of a weight with a scale for each block of 128 x 128. */
struct e4m3_blocks : e4m3 {};
template <typename V> constexpr bool in_blocks = false;
template <> constexpr bool in_blocks<e4m3_blocks> = true;

/* What sums of products of these operands are, and whether they keep too few bits to go on with for long. */
template <typename V> struct wide_sum {
  typedef float type;
  static constexpr bool few_bits = false;
};
template <> struct wide_sum<e4m3> {
  typedef float type;
  static constexpr bool few_bits = true;
};
template <> struct wide_sum<e4m3_blocks> : wide_sum<e4m3> {};
template <> struct wide_sum<int8_t> {
  typedef int type;
  static constexpr bool few_bits = false;
};

/* Where piece c (eight values) of row r lies in matrices of ROWS rows; they begin at a multiple of 1024 bytes. */
template <int ROWS> __device__ static inline int wide_at(int r, int c) {
  return c / 8 * (ROWS * 128) + r * 128 + ((c % 8 ^ (r & 7)) << 4);
}

#ifdef PU_WGMMA

/* This warpgroup goes on with N registers a thread, fewer or more than before. */
template <int N> __device__ static inline void registers_less() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> __device__ static inline void registers_more() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* Rows of eight are 1024 bytes apart; wide: bytes from 64 values of B's columns to the next, where they are not its
 * inner dimension. */
__device__ static inline uint64_t wide_matrix(uint32_t at, int wide) {
  return (uint64_t)((at & 0x3ffff) >> 4) | (uint64_t)(wide >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
         (uint64_t)1 << 62;
}

__device__ static inline void wide_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ static inline void wide_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Sums of N registers: as text, and as operands of type C. */
#define PU_TEXT_4  "%0, %1, %2, %3"
#define PU_TEXT_8  PU_TEXT_4 ", %4, %5, %6, %7"
#define PU_TEXT_16 PU_TEXT_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define PU_TEXT_32 PU_TEXT_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PU_TEXT_64                                                                                                     \
  PU_TEXT_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"                        \
             ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PU_TEXT_128                                                                                                    \
  PU_TEXT_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"                        \
             ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"                        \
             ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"            \
             ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define PU_SUMS_4(C, i)   C(d[i]), C(d[(i) + 1]), C(d[(i) + 2]), C(d[(i) + 3])
#define PU_SUMS_8(C, i)   PU_SUMS_4(C, i), PU_SUMS_4(C, (i) + 4)
#define PU_SUMS_16(C, i)  PU_SUMS_8(C, i), PU_SUMS_8(C, (i) + 8)
#define PU_SUMS_32(C, i)  PU_SUMS_16(C, i), PU_SUMS_16(C, (i) + 16)
#define PU_SUMS_64(C, i)  PU_SUMS_32(C, i), PU_SUMS_32(C, (i) + 32)
#define PU_SUMS_128(C, i) PU_SUMS_64(C, i), PU_SUMS_64(C, (i) + 64)

/* One product: WHAT it is, its sums, the text of A, the numbers of the operands B and `add`, what follows them. */
#define PU_WIDE(WHAT, N, C, A, B, ADD, REST, ...)                                                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #ADD ", 0;\n"                                                      \
               "wgmma.mma_async.sync.aligned." WHAT " {" PU_TEXT_##N "}, " A ", %" #B ", p" REST ";\n}"                \
               : PU_SUMS_##N(C, 0)                                                                                     \
               : __VA_ARGS__)

/* wide_mma: d += A B, or = where `add` is 0. Of bf16; TURNED, A_TURNED: B's columns, A's rows, not the inner dimension,
 * are side by side in memory. */
#define PU_WIDE_BF16(N, COLS, A, B, ADD, TURN_A, TURN_B)                                                               \
  template <int TURNED, int A_TURNED = 0>                                                                              \
  __device__ static inline void wide_mma(float(&d)[N], uint64_t a, uint64_t b, int add) {                              \
    PU_WIDE("m64n" #COLS "k16.f32.bf16.bf16", N, "+f", "%" #A, B, ADD, ", 1, 1, %" #TURN_A ", %" #TURN_B, "l"(a),      \
            "l"(b), "r"(add), "n"(A_TURNED), "n"(TURNED));                                                             \
  }
PU_WIDE_BF16(4, 8, 4, 5, 6, 7, 8)
PU_WIDE_BF16(8, 16, 8, 9, 10, 11, 12)
PU_WIDE_BF16(16, 32, 16, 17, 18, 19, 20)
PU_WIDE_BF16(32, 64, 32, 33, 34, 35, 36)
PU_WIDE_BF16(64, 128, 64, 65, 66, 67, 68)

/* With A in registers. */
#define PU_WIDE_HELD(N, COLS, A, B, ADD, TURN_B)                                                                       \
  template <int TURNED>                                                                                                \
  __device__ static inline void wide_mma(float(&d)[N], const uint32_t a[4], uint64_t b, int add) {                     \
    PU_WIDE("m64n" #COLS "k16.f32.bf16.bf16", N, "+f", A, B, ADD, ", 1, 1, %" #TURN_B, "r"(a[0]), "r"(a[1]),           \
            "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(TURNED));                                                      \
  }
PU_WIDE_HELD(4, 8, "{%4, %5, %6, %7}", 8, 9, 10)
PU_WIDE_HELD(8, 16, "{%8, %9, %10, %11}", 12, 13, 14)
PU_WIDE_HELD(16, 32, "{%16, %17, %18, %19}", 20, 21, 22)
PU_WIDE_HELD(32, 64, "{%32, %33, %34, %35}", 36, 37, 38)
PU_WIDE_HELD(64, 128, "{%64, %65, %66, %67}", 68, 69, 70)

/* Of codes of 8 bits, A[64, 32] B[32, N], whose rows of 128 bytes are 128 values: int8 with sums in int32, E4M3 with
 * sums in f32, which keep some 14 bits. */
#define PU_WIDE_CODES(N, COLS, A, B, ADD)                                                                              \
  __device__ static inline void wide_mma(int(&d)[N], uint64_t a, uint64_t b, int add) {                                \
    PU_WIDE("m64n" #COLS "k32.s32.s8.s8", N, "+r", "%" #A, B, ADD, "", "l"(a), "l"(b), "r"(add));                      \
  }                                                                                                                    \
  __device__ static inline void wide_mma_e4m3(float(&d)[N], uint64_t a, uint64_t b, int add) {                         \
    PU_WIDE("m64n" #COLS "k32.f32.e4m3.e4m3", N, "+f", "%" #A, B, ADD, ", 1, 1", "l"(a), "l"(b), "r"(add));            \
  }
PU_WIDE_CODES(4, 8, 4, 5, 6)
PU_WIDE_CODES(8, 16, 8, 9, 10)
PU_WIDE_CODES(16, 32, 16, 17, 18)
PU_WIDE_CODES(32, 64, 32, 33, 34)
PU_WIDE_CODES(64, 128, 64, 65, 66)
PU_WIDE_CODES(128, 256, 128, 129, 130)

/* By the type of operands. */
template <int N> __device__ static inline void wide_mma(bf16, float (&d)[N], uint64_t a, uint64_t b, int add) {
  wide_mma<0>(d, a, b, add);
}
template <int N> __device__ static inline void wide_mma(int8_t, int (&d)[N], uint64_t a, uint64_t b, int add) {
  wide_mma(d, a, b, add);
}
template <int N> __device__ static inline void wide_mma(e4m3, float (&d)[N], uint64_t a, uint64_t b, int add) {
  wide_mma_e4m3(d, a, b, add);
}

/* A matrix so many bytes behind another; within shared memory only the lower half changes. */
__device__ static inline uint64_t wide_further(uint64_t matrix, int bytes) {
  return (matrix >> 32 << 32) | ((uint32_t)matrix + ((uint32_t)bytes >> 4));
}

/* No use of a sum goes before this: the compiler knows of no dependence on a wait. */
template <int N> __device__ static inline void wide_settled(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N> __device__ static inline void wide_settled(int (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+r"(d[i])::"memory");
}

/* Until at most so many groups of products are on their way. sums: of those that are not, as far as they are used next.
 */
template <int GROUPS, typename... S> __device__ static inline void wide_wait(S &...sums) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
  (wide_settled(sums), ...);
}

#endif
#endif
