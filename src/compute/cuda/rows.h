/* How the memory-bound kernels read and write rows: eight values at a time, in f32, whatever the type in memory.
 *
 * A thread owns values [at, at + 8) of a row. FAST: every row of the tensor begins at a multiple of 16 bytes and its
 * width is a multiple of 8, so that this is one access of 16 bytes (bf16) or two (f32). Otherwise value by value, those
 * behind the row's end read as zero and are not written. */
#ifndef PUYU_CUDA_ROWS_H
#define PUYU_CUDA_ROWS_H

#include "src/compute/cuda/cuda.h"

enum { PU_LANE = 8 /* values of a thread */ };

/* Whether rows of t begin at multiples of 16 bytes; NULL, which nobody reads, too. */
static inline bool pu_rows_aligned(const pu_tensor *t) {
  if (!t) return true;
  bool one = t->ndim == 1 || t->shape[0] <= 1;
  return (uintptr_t)t->data % 16 == 0 && (one || (size_t)t->stride[0] * pu_dtype_size(t->dtype) % 16 == 0);
}

static inline int64_t pu_step(const pu_tensor *t) {
  return t ? t->stride[0] : 0;
}

/* Four words of 32 bits from memory that is read once: other data keeps its place in the caches. */
__device__ static inline void read_once(const void *p, uint32_t w[4]) {
  uint4 v = __ldcs((const uint4 *)p);
  w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
}

__device__ static inline void bf16_of_words(const uint32_t w[4], float v[PU_LANE]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v[2 * i] = __uint_as_float(w[i] << 16);
    v[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
  }
}

__device__ static inline uint32_t two_bf16(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *(uint32_t *)&pair;
}

template <bool FAST> __device__ static inline void read8(const float *row, int at, int width, float v[PU_LANE]) {
  if (FAST) {
#pragma unroll
    for (int i = 0; i < PU_LANE; i += 4) {
      float4 f = __ldcs((const float4 *)(row + at + i));
      v[i] = f.x, v[i + 1] = f.y, v[i + 2] = f.z, v[i + 3] = f.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < PU_LANE; i++) v[i] = at + i < width ? row[at + i] : 0.0f;
  }
}

template <bool FAST> __device__ static inline void read8(const bf16 *row, int at, int width, float v[PU_LANE]) {
  if (FAST) {
    uint32_t w[4];
    read_once(row + at, w);
    bf16_of_words(w, v);
  } else {
#pragma unroll
    for (int i = 0; i < PU_LANE; i++) v[i] = at + i < width ? to_f32(row[at + i]) : 0.0f;
  }
}

template <bool FAST> __device__ static inline void write8(float *row, int at, int width, const float v[PU_LANE]) {
  if (FAST) {
#pragma unroll
    for (int i = 0; i < PU_LANE; i += 4) *(float4 *)(row + at + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
  } else {
#pragma unroll
    for (int i = 0; i < PU_LANE; i++)
      if (at + i < width) row[at + i] = v[i];
  }
}

template <bool FAST> __device__ static inline void write8(bf16 *row, int at, int width, const float v[PU_LANE]) {
  if (FAST) {
    *(uint4 *)(row + at) =
        make_uint4(two_bf16(v[0], v[1]), two_bf16(v[2], v[3]), two_bf16(v[4], v[5]), two_bf16(v[6], v[7]));
  } else {
#pragma unroll
    for (int i = 0; i < PU_LANE; i++)
      if (at + i < width) row[at + i] = from_f32<bf16>(v[i]);
  }
}

/* Overwrites, or adds to what is there (pu_grad_beta). */
template <bool FAST, typename T>
__device__ static inline void acc8(T *row, int at, int width, float v[PU_LANE], bool add) {
  if (add) {
    float old[PU_LANE];
    read8<FAST>(row, at, width, old);
#pragma unroll
    for (int i = 0; i < PU_LANE; i++) v[i] += old[i];
  }
  write8<FAST>(row, at, width, v);
}

/* A vector that all rows share (a norm's weight), of either type: it stays in the caches. */
typedef struct pu_vector {
  const void *p;
  bool f32, fast; /* fast: begins at a multiple of 16 bytes */
} pu_vector;

static inline pu_vector pu_vector_of(const pu_tensor *t) {
  return {t->data, t->dtype == PU_F32, (uintptr_t)t->data % 16 == 0};
}

template <bool FAST> __device__ static inline void read_vector8(pu_vector w, int at, int width, float v[PU_LANE]) {
  if (FAST && w.fast && w.f32) {
    const float4 *p = (const float4 *)((const float *)w.p + at);
    float4 a = __ldg(p), b = __ldg(p + 1);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    return;
  }
#pragma unroll
  for (int i = 0; i < PU_LANE; i++)
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
