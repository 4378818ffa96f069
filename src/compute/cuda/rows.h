/* How the memory-bound kernels read and write rows: N values at a time, in f32, whatever the type in memory.
 *
 * A thread owns values [at, at + N) of a row, N being 4 where a row is of f32 and 8 where all are of bf16: then one
 * access of a warp is one stretch of memory without gaps, 16 bytes a thread (measured: two accesses of 16 bytes a
 * thread, 32 apart, cost a tenth). FAST: every row of the tensor begins at a multiple of 16 bytes and its width is a
 * multiple of 8, so that this is one access. Otherwise value by value; those behind the row's end read as zero and are
 * not written. */
#ifndef PUYU_CUDA_ROWS_H
#define PUYU_CUDA_ROWS_H

#include "src/compute/cuda/cuda.h"

/* Values of a thread in rows of these types. */
template <typename T> struct pu_lane { static constexpr int n = 4; };
template <> struct pu_lane<bf16> { static constexpr int n = 8; };

/* Whether rows of t begin at multiples of 16 bytes; NULL, which nobody reads, too. */
static inline bool pu_rows_aligned(const pu_tensor *t) {
  if (!t) return true;
  bool one = t->ndim == 1 || t->shape[0] <= 1;
  return (uintptr_t)t->data % 16 == 0 && (one || (size_t)t->stride[0] * pu_dtype_size(t->dtype) % 16 == 0);
}

static inline bool pu_width_whole(int64_t width) {
  return width % 8 == 0;
}

static inline int64_t pu_step(const pu_tensor *t) {
  return t ? t->stride[0] : 0;
}

__device__ static inline void two_f32(uint32_t word, float *low, float *high) {
  *low = __uint_as_float(word << 16);
  *high = __uint_as_float(word & 0xffff0000u);
}

/* The larger of pairs of bf16 magnitudes, which compare as their bits do. */
__device__ static inline uint32_t larger(uint32_t most, uint4 v) {
  uint32_t a = __vmaxu2(v.x & 0x7fff7fffu, v.y & 0x7fff7fffu), b = __vmaxu2(v.z & 0x7fff7fffu, v.w & 0x7fff7fffu);
  return __vmaxu2(most, __vmaxu2(a, b));
}

__device__ static inline void read_fast(const float *p, float (&v)[4]) {
  float4 f = *(const float4 *)p;
  v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
}

__device__ static inline void read_fast(const float *p, float (&v)[8]) {
  float4 a = *(const float4 *)p, b = *(const float4 *)(p + 4);
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

__device__ static inline void read_fast(const bf16 *p, float (&v)[4]) {
  uint2 w = *(const uint2 *)p;
  two_f32(w.x, &v[0], &v[1]);
  two_f32(w.y, &v[2], &v[3]);
}

__device__ static inline void read_fast(const bf16 *p, float (&v)[8]) {
  uint4 w = *(const uint4 *)p;
  two_f32(w.x, &v[0], &v[1]);
  two_f32(w.y, &v[2], &v[3]);
  two_f32(w.z, &v[4], &v[5]);
  two_f32(w.w, &v[6], &v[7]);
}

__device__ static inline void write_fast(float *p, const float (&v)[4]) {
  *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
}

__device__ static inline void write_fast(float *p, const float (&v)[8]) {
  *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
  *(float4 *)(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}

__device__ static inline void write_fast(bf16 *p, const float (&v)[4]) {
  *(uint2 *)p = make_uint2(pair_bf16(v[0], v[1]), pair_bf16(v[2], v[3]));
}

__device__ static inline void write_fast(bf16 *p, const float (&v)[8]) {
  *(uint4 *)p = make_uint4(pair_bf16(v[0], v[1]), pair_bf16(v[2], v[3]), pair_bf16(v[4], v[5]), pair_bf16(v[6], v[7]));
}

template <bool FAST, typename T, int N>
__device__ static inline void read_row(const T *row, int at, int width, float (&v)[N]) {
  if constexpr (FAST) {
    read_fast(row + at, v);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = at + i < width ? to_f32(row[at + i]) : 0.0f;
  }
}

template <bool FAST, typename T, int N>
__device__ static inline void write_row(T *row, int at, int width, const float (&v)[N]) {
  if constexpr (FAST) {
    write_fast(row + at, v);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++)
      if (at + i < width) row[at + i] = from_f32<T>(v[i]);
  }
}

/* Overwrites, or adds to what is there (pu_grad_beta). */
template <bool FAST, typename T, int N>
__device__ static inline void acc_row(T *row, int at, int width, const float (&v)[N], bool add) {
  float sum[N];
  if (!add) {
    write_row<FAST>(row, at, width, v);
    return;
  }
  read_row<FAST>(row, at, width, sum);
#pragma unroll
  for (int i = 0; i < N; i++) sum[i] += v[i];
  write_row<FAST>(row, at, width, sum);
}

/* A vector that all rows share (a norm's weight), of either type. */
typedef struct pu_vector {
  const void *p;
  bool f32, fast; /* fast: begins at a multiple of 16 bytes */
} pu_vector;

static inline pu_vector pu_vector_of(const pu_tensor *t) {
  return {t->data, t->dtype == PU_F32, (uintptr_t)t->data % 16 == 0};
}

template <bool FAST, int N> __device__ static inline void read_vector(pu_vector w, int at, int width, float (&v)[N]) {
  if (FAST && w.fast && w.f32) {
    read_fast((const float *)w.p + at, v);
    return;
  }
#pragma unroll
  for (int i = 0; i < N; i++)
    v[i] = at + i >= width ? 0.0f : w.f32 ? ((const float *)w.p)[at + i] : to_f32(((const bf16 *)w.p)[at + i]);
}

/* Calls f with the C++ type of a compute type. */
template <typename F> static inline void pu_with_type(pu_dtype t, F f) {
  if (t == PU_F32)
    f(float());
  else
    f(bf16());
}

/* w's gradient [cols] (+)= the sums over r of partial[r * step + c], in an order that only `rows` decides: the second
 * half of a deterministic sum over rows. */
void pu_cuda_add_partials(pu_cuda *d, const float *partial, int64_t rows, int64_t step, pu_tensor *w);

#endif
