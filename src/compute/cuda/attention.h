/* Attention on the device: what its files share.
 *
 * Training (attention.cu chooses): equal sequences in bf16 go to cuDNN (attention_cudnn.cu), where it is installed, but
 * for the backward of heads of 128 on Hopper, where sums may be in any order: our kernel is faster at that; packed
 * documents, windows and a gradient that is added to, to our kernels: on Hopper's warpgroup products
 * (attention_wgmma.cu), on those of a warp (attention_mma.cu), or plain ones for every case (attention_plain.cu).
 * Inference (paged.cu chooses): few new tokens of a sequence are decoded (paged_few.cu); more go the way of the
 * training forward, over the cache. */
#ifndef PUYU_CUDA_ATTENTION_H
#define PUYU_CUDA_ATTENTION_H

#include "src/compute/cuda/cuda.h"

enum { PU_CUDA_MAX_HEAD = 256 };

/* Neighbouring queries (or keys) of one sequence, for one block of threads. */
typedef struct pu_cuda_tile {
  int32_t row;  /* in qkv: where the sequence's new tokens begin */
  int32_t n;    /* new tokens of the sequence */
  int32_t at;   /* the tile's first one, from 0 */
  int32_t base; /* position of the sequence's first new token: 0 in training */
  int32_t seq;
} pu_cuda_tile;

/* Rows of keys or values: of qkv, or of a paged cache (see pu_kv). */
typedef struct pu_cuda_rows {
  char *base;           /* of head 0, and of row 0 or block 0 */
  int64_t row, head;    /* bytes from one row to the next, from one head to the next */
  int bits;             /* of a value: 32 (f32), 16 (bf16), or 8 and 4 as pu_kv_pack leaves them */
  const int32_t *table; /* NULL: not paged. [sequences, table_stride] */
  int32_t table_stride;
  int32_t block;       /* tokens in a block of the cache */
  int32_t shift;       /* it is 2^shift, and no less than 16; else 0 */
  int64_t block_bytes; /* from one block of the cache to the next */
} pu_cuda_rows;

/* One call, for kernels: everything but the tiles is the same for all blocks of threads. */
typedef struct pu_cuda_attend {
  const pu_cuda_tile *tiles;
  int32_t tile_count;
  int heads, share, dim; /* share: query heads of a key head */
  int64_t window;        /* INT64_MAX / 2: none */
  float scale;
  const char *q;
  char *out;
  int64_t q_row, out_row; /* bytes */
  int q_bits;             /* of q and out, 32 or 16 */
  pu_cuda_rows k, v;
  float *lse; /* [heads, lse_stride], NULL: not wanted */
  int64_t lse_stride;
  /* Backward. */
  const char *dout;
  char *dq, *dk, *dv;
  int64_t dout_row, dqkv_row;
  const float *delta; /* [heads, lse_stride]: dout . out of each row */
  bool add;
  /* Decoding. */
  const float *cs; /* angles [N, dim] by which new queries and keys are turned; NULL: they are turned already */
  int64_t cs_row;  /* values */
} pu_cuda_attend;

/* What the backend keeps for attention. */
typedef struct pu_cuda_attention {
  char *list; /* of a call: its tiles */
  size_t list_bytes;
  struct pu_cuda_planned *planned; /* paged.cu: of a call on the cache, all that it has to know */
  struct pu_cudnn *cudnn;          /* attention_cudnn.cu */
  int32_t *counters;               /* paged.cu; device memory */
  size_t counter_count;
} pu_cuda_attention;

/* What attention over qkv and over a paged cache have in common: queries and outputs. */
template <typename Args> static inline pu_cuda_attend pu_cuda_attend_of(const Args *args) {
  const int64_t value = (int64_t)pu_dtype_size(args->qkv->dtype);
  pu_cuda_attend a = {};
  a.heads = args->heads;
  a.share = args->heads / args->kv_heads;
  a.dim = args->head_dim;
  a.window = args->window > 0 ? args->window : INT64_MAX / 2;
  a.scale = args->scale;
  a.q = (const char *)args->qkv->data;
  a.out = (char *)args->out->data;
  a.q_row = args->qkv->stride[0] * value;
  a.out_row = args->out->stride[0] * value;
  a.q_bits = (int)(value * 8);
  return a;
}

/* Whether there are as few tiles as a grid's second dimension has room for, where a kernel has them there. */
pu_err pu_cuda_tiles_fit(const pu_cuda_attend *a, pu_error *e) PU_MUST_USE;

/* Plain kernels: any head up to PU_CUDA_MAX_HEAD, any type. Tiles are of pu_cuda_plain_tile(dim) tokens. */
int pu_cuda_plain_tile(int dim);
pu_err pu_cuda_plain_forward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) PU_MUST_USE;
pu_err pu_cuda_plain_backward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) PU_MUST_USE;
/* delta [heads, lse_stride] of rows [0, rows). */
pu_err pu_cuda_attention_delta(pu_cuda *d, const pu_cuda_attend *a, int64_t rows, float *delta,
                               pu_error *e) PU_MUST_USE;

/* Kernels on tensor cores (mma.sync): heads of 64 or 128 in bf16, rows at 16-byte addresses, a cache in bf16 or few
 * bits whose blocks are multiples of 16. Tiles are of PU_CUDA_MMA_TILE tokens. */
enum { PU_CUDA_MMA_TILE = 128 };
bool pu_cuda_mma_fits(const pu_cuda_attend *a);
pu_err pu_cuda_mma_forward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) PU_MUST_USE;
pu_err pu_cuda_mma_backward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) PU_MUST_USE;

/* The same on Hopper's own tensor cores (wgmma), of bf16. */
bool pu_cuda_wgmma_fits(const pu_cuda *d, const pu_cuda_attend *a);
pu_err pu_cuda_wgmma_forward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) PU_MUST_USE;
pu_err pu_cuda_wgmma_backward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) PU_MUST_USE;
/* Whether sums may be in any order, and this then is the faster way; sums: work memory of so many bytes, for as many
 * rows of so many sequences. */
bool pu_cuda_wgmma_any_order(const pu_cuda *d, const pu_cuda_attend *a);
size_t pu_cuda_wgmma_sums(const pu_cuda_attend *a, int64_t rows, int64_t seqs);
pu_err pu_cuda_wgmma_backward_any_order(pu_cuda *d, const pu_cuda_attend *a, void *sums, size_t bytes,
                                        pu_error *e) PU_MUST_USE;

/* Training on n sequences of len tokens each, by cuDNN; done: whether it was: cuDNN may be absent, or not take the
 * case. The backward runs where a->dq is set. */
enum { PU_CUDNN_LEAST = 128 };
#define PU_CUDNN_SCORES ((int64_t)2 << 30)
#define PU_CUDNN_MOST   ((int64_t)8 << 30) /* bytes of dS: longer sequences are left to own kernels */
pu_err pu_cuda_cudnn_attention(pu_cuda *d, const pu_cuda_attend *a, int64_t n, int64_t len, bool *done,
                               pu_error *e) PU_MUST_USE;
/* Sequences of its backward that run at a time: a divisor of n; 0: not even one. */
int64_t pu_cuda_cudnn_part(int64_t n, int64_t len, int heads);
void pu_cuda_cudnn_close(struct pu_cudnn *c);
void pu_cuda_paged_close(struct pu_cuda_planned *last);
size_t pu_cuda_cudnn_version(void); /* 91400: 9.14.0; 0: it is not there */

/* ---- in kernels ---- */

/* Value i of a row. */
__device__ static inline float pu_read_value(const char *row, int bits, int dim, int i) {
  if (bits == 32) return ((const float *)row)[i];
  if (bits == 16) return to_f32(((const bf16 *)row)[i]);
  const unsigned char *q = (const unsigned char *)row;
  const unsigned char *pair = q + dim * bits / 8; /* at any address */
  const unsigned short scale = (unsigned short)(pair[0] | pair[1] << 8), low = (unsigned short)(pair[2] | pair[3] << 8);
  const int v = bits == 8 ? q[i] : (i & 1 ? q[i / 2] >> 4 : q[i / 2] & 15);
  return fmaf((float)v, __half2float(__ushort_as_half(scale)), __half2float(__ushort_as_half(low)));
}

__device__ static inline void pu_write_value(char *row, int bits, int i, float x) {
  if (bits == 32)
    ((float *)row)[i] = x;
  else
    ((bf16 *)row)[i] = from_f32<bf16>(x);
}

/* The row of a key's position; first: the row of qkv where its sequence begins (not paged). */
__device__ static inline char *pu_row_of(const pu_cuda_rows &r, int head, int32_t seq, int64_t first, int64_t pos) {
  if (!r.table) return r.base + head * r.head + (first + pos) * r.row;
  const int64_t block = r.table[(int64_t)seq * r.table_stride + pos / r.block];
  return r.base + head * r.head + block * r.block_bytes + pos % r.block * r.row;
}

#endif
