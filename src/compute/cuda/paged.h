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

/* New rows are made ready, and those of sequences that are not decoded go into the cache; both in one kernel where
 * heads are of 64 or 128 in bf16, aligned. seqs, token_seq: of the tokens' sequences, in device memory, token_seq[n] <
 * 0: it is decoded; NULL: all are. */
pu_err pu_cuda_new_rows(pu_cuda *d, const pu_cuda_attend *a, const pu_attention_paged_args *args,
                        const pu_cuda_tile *seqs, const int32_t *token_seq, pu_error *e) PU_MUST_USE;

/* Hands over what the kernels of such a call have to know, and launches none. */
pu_err pu_cuda_paged_plan(pu_cuda *d, const pu_attention_paged_args *args, pu_error *e) PU_MUST_USE;

#endif
