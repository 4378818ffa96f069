/* New rows in kernels: turned, and on their way into the cache. */
#ifndef PUYU_CUDA_PAGED_ROWS_CUH
#define PUYU_CUDA_PAGED_ROWS_CUH

#include "src/compute/cuda/attention.h"

/* ---- by a warp a row ---- */

enum { PU_CUDA_LANE_VALUES = PU_CUDA_MAX_HEAD / 32 };

__device__ static inline int pu_level(float x, float low, float inverse, float most) {
  float q = __fmul_rn(__fsub_rn(x, low), inverse);
  q = q > 0 ? q : 0;
  return (int)__fadd_rn(q < most ? q : most, 0.5f);
}

__device__ static inline float warp_min(float v) {
  return -warp_max(-v);
}

/* Of zeros of both signs the minimum is the first, as in pu_kv_pack: the sign is kept in f16. */
__device__ static inline float pu_first_zero(const float x[PU_CUDA_LANE_VALUES]) {
  for (int j = 0; j < PU_CUDA_LANE_VALUES; j++) {
    const unsigned zeros = __ballot_sync(0xffffffffu, x[j] == 0);
    if (zeros) return __shfl_sync(0xffffffffu, x[j], __ffs(zeros) - 1);
  }
  return 0;
}

/* pu_kv_pack by a warp, to the bit: lane l has values l, l + 32, …, NaN behind the row's end. */
__device__ static inline void pu_pack_row(char *row, int bits, const float x[PU_CUDA_LANE_VALUES], int dim) {
  const int lane = threadIdx.x % 32;
  const float most = (float)((1 << bits) - 1);
  const float f16_max = 65504;
  float low = f16_max, high = -f16_max;
#pragma unroll
  for (int j = 0; j < PU_CUDA_LANE_VALUES; j++) {
    low = x[j] < low ? x[j] : low;
    high = x[j] > high ? x[j] : high;
  }
  low = fmaxf(warp_min(low), -f16_max);
  if (low == 0) low = pu_first_zero(x);
  high = fminf(warp_max(high), f16_max);
  high = high > low ? high : low;
  const half low_kept = __float2half_rn(low);
  low = __half2float(low_kept);
  const half scale_kept = __float2half_rn(__fdiv_rn(__fsub_rn(high, low), most));
  const float scale = __half2float(scale_kept), inverse = scale > 0 ? __fdiv_rn(1.0f, scale) : 0;
#pragma unroll
  for (int j = 0; j < PU_CUDA_LANE_VALUES; j++) {
    const int i = lane + 32 * j, q = pu_level(x[j], low, inverse, most), next = __shfl_down_sync(0xffffffffu, q, 1);
    if (i >= dim) continue;
    if (bits == 8)
      ((unsigned char *)row)[i] = (unsigned char)q;
    else if (lane % 2 == 0)
      ((unsigned char *)row)[i / 2] = (unsigned char)(q | next << 4);
  }
  if (lane >= PU_KV_PAIR_BYTES) return;
  const unsigned short kept = __half_as_ushort(lane < 2 ? scale_kept : low_kept);
  row[dim * bits / 8 + lane] = (char)(kept >> lane % 2 * 8); /* at any address */
}

/* A row's values as a warp has them for pu_pack_row. */
__device__ static inline void pu_read_row(float x[PU_CUDA_LANE_VALUES], const char *row, int bits, int dim) {
#pragma unroll
  for (int j = 0; j < PU_CUDA_LANE_VALUES; j++) {
    const int i = threadIdx.x % 32 + 32 * j;
    x[j] = i < dim ? pu_read_value(row, bits, dim, i) : __int_as_float(0x7fffffff);
  }
}

/* ---- by eight values a lane ---- */

/* Two values in bf16 with their others of the pairs; by: the sine's sign, -1 for the first ones of the pairs. */
__device__ static inline uint32_t pu_turned_two(uint32_t x, uint32_t other, float2 cos, float2 sin, float by) {
  return pair_bf16(
      pu_turned(__uint_as_float(x << 16), __uint_as_float(other << 16), cos.x, by * sin.x),
      pu_turned(__uint_as_float(x & 0xffff0000u), __uint_as_float(other & 0xffff0000u), cos.y, by * sin.y));
}

/* Eight. cs: the first one's cosine; half: how far behind it the sine is. */
__device__ static inline uint4 pu_turned_eight(uint4 x, uint4 other, const float *cs, int half, float by) {
  const float4 c = *(const float4 *)cs, d = *(const float4 *)(cs + 4);
  const float4 s = *(const float4 *)(cs + half), t = *(const float4 *)(cs + half + 4);
  return {
      pu_turned_two(x.x, other.x, {c.x, c.y}, {s.x, s.y}, by), pu_turned_two(x.y, other.y, {c.z, c.w}, {s.z, s.w}, by),
      pu_turned_two(x.z, other.z, {d.x, d.y}, {t.x, t.y}, by), pu_turned_two(x.w, other.w, {d.z, d.w}, {t.z, t.w}, by)};
}

/* pu_first_zero of rows of which each lane has eight values. */
template <int D> __device__ static inline float pu_lanes_zero(const float v[8]) {
  float mine = 1;
#pragma unroll
  for (int i = 7; i >= 0; i--) mine = v[i] == 0 ? v[i] : mine;
  const unsigned all = __ballot_sync(0xffffffffu, mine == 0);
  const int group = threadIdx.x % 32 / (D / 8) * (D / 8);
  const float zero = __shfl_sync(0xffffffffu, mine, (__ffs(all >> group & ((1u << D / 8) - 1)) - 1 + group) & 31);
  return zero == 0 ? zero : 0;
}

/* pu_pack_row by D / 8 lanes a row, of which each has eight values, to the bit. there: the row is wanted; all lanes of
 * a warp take part. */
template <int D> __device__ static inline void pu_pack_lanes(uint4 x, int bits, char *row, bool there) {
  const int piece = threadIdx.x % 32 % (D / 8);
  const uint32_t words[4] = {x.x, x.y, x.z, x.w};
  const float most = (float)((1 << bits) - 1), f16_max = 65504;
  float v[8], low = f16_max, high = -f16_max;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    v[i] = __uint_as_float(i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16);
    low = v[i] < low ? v[i] : low;
    high = v[i] > high ? v[i] : high;
  }
#pragma unroll
  for (int step = 1; step < D / 8; step *= 2) {
    low = fminf(low, __shfl_xor_sync(0xffffffffu, low, step));
    high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, step));
  }
  low = fmaxf(low, -f16_max);
  if (__any_sync(0xffffffffu, low == 0)) {
    const float zero = pu_lanes_zero<D>(v);
    low = low == 0 ? zero : low;
  }
  high = fminf(high, f16_max);
  high = high > low ? high : low;
  const half low_kept = __float2half_rn(low);
  low = __half2float(low_kept);
  const half scale_kept = __float2half_rn(__fdiv_rn(__fsub_rn(high, low), most));
  const float scale = __half2float(scale_kept), inverse = scale > 0 ? __fdiv_rn(1.0f, scale) : 0;
  uint32_t codes[2] = {};
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const uint32_t q = (uint32_t)pu_level(v[i], low, inverse, most);
    if (bits == 8)
      codes[i / 4] |= q << i % 4 * 8;
    else
      codes[0] |= q << i * 4;
  }
  if (!there) return;
  uint32_t *to = (uint32_t *)(row + piece * bits);
  to[0] = codes[0];
  if (bits == 8) to[1] = codes[1];
  if (piece == 0)
    *(uint32_t *)(row + D * bits / 8) = __half_as_ushort(scale_kept) | (uint32_t)__half_as_ushort(low_kept) << 16;
}

#endif
