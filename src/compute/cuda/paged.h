/* Attention over the paged cache: what paged.cu tells its kernels. */
#ifndef PUYU_CUDA_PAGED_H
#define PUYU_CUDA_PAGED_H

#include "src/compute/cuda/attention.h"

enum {
  PU_CUDA_FEW = 8,      /* up to so many new tokens of a sequence are decoded */
  PU_CUDA_FEW_ROWS = 64 /* and so many rows: new tokens times the query heads that share a key head */
};

/* The keys of a sequence are divided into pieces by their place alone: never by the batch, nor by how long the sequence
 * is, so a token's sums are the same ones however it comes. A piece is 128 keys, or 256 in few bits. */
static __host__ __device__ constexpr int pu_cuda_piece_log(int bits) {
  return bits == 8 || bits == 4 ? 8 : 7;
}
enum {
  PU_CUDA_UNIT = 8,      /* pieces whose sums are added up first */
  PU_CUDA_GROUP = 16,    /* rows that a block has at a time, at most */
  PU_CUDA_FEW_BLOCKS = 4 /* of a multiprocessor, at most */
};

/* Decoding: few new tokens of each sequence. */
typedef struct alignas(16) pu_cuda_few_seq {
  int32_t row, n, base;  /* as in pu_cuda_tile */
  int32_t number;        /* among the ones that are decoded */
  int32_t before;        /* pieces of the sequences before */
  int32_t first, pieces; /* the first piece that is seen, and how many are; 0: the sequence is not decoded */
  int32_t units_before;  /* units of the sequences before */
} pu_cuda_few_seq;

typedef struct pu_cuda_few {
  const pu_cuda_few_seq *seqs; /* [n + 1] */
  int n;                       /* sequences of the batch */
  int width;                   /* pieces that one of them may have */
  int kv_heads, rows;          /* rows: of a sequence and key head, the most */
  int groups;                  /* of them, each a block's */
  int stages;                  /* places in shared memory for a warp's tiles */
  bool one;                    /* a block has one piece, or none; these three for who launches to say */
  bool early;   /* seqs, the table and the cache's older rows were there before any kernel that may still run */
  float *parts; /* of units: [units, kv_heads, rows, dim] sums, not divided */
  float *sums;  /* [units, kv_heads, rows, 2]: maximum (base 2), sum of exponentials */
  float *piece_parts, *piece_sums; /* of pieces: [blocks, 2 PU_CUDA_UNIT - 2, rows or PU_CUDA_GROUP, dim] … */
  int32_t *arrived;                /* [n, kv_heads, rows or 4, the larger], zero before and after */
  int32_t *piece_arrived;          /* [blocks, 4], the same */
} pu_cuda_few;

/* Whether the kernels on tensor cores take it: heads of 64 or 128 in bf16, a cache in bf16 or few bits, aligned. */
bool pu_cuda_few_fits(const pu_cuda_attend *a);
/* Puts the new rows into the cache, too. */
pu_err pu_cuda_few_forward(pu_cuda *d, const pu_cuda_attend *a, const pu_cuda_few *f, pu_error *e) PU_MUST_USE;

/* Hands over what the kernels of such a call have to know, and launches none. */
pu_err pu_cuda_paged_plan(pu_cuda *d, const pu_attention_paged_args *args, pu_error *e) PU_MUST_USE;

/* ---- in kernels: new rows into the cache ---- */

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

#endif
