/* Flash attention on the CPU: the driver (attention.c: sequences, items of work, threads, memory) and the kernels it
 * calls (isa/attention_*.c, one table per instruction set and tile type).
 *
 * Everything a kernel multiplies lies in tiles of 16 rows by 64 bytes, one after the other: 1 KB each, which is what an
 * AMX register holds and what AVX registers stream well. A tile has KE elements along the product's inner dimension: 32
 * of bf16 or 16 of f32. For C = A B:
 *   A tile  16 rows of A, KE inner elements each;
 *   B tile  KE inner elements by 16 columns; bf16 in pairs: row j holds elements 2j, 2j+1 of each column side by side;
 *   C tile  16 by 16 of f32.
 * Scores are kept transposed, S^T = K Q^T: keys are rows and queries are lanes, so that the softmax's maximum and sum
 * over keys go down the rows and never across a register, and P^T is at once the right operand of O^T = V^T P^T. */
#ifndef PUYU_ATTENTION_H
#define PUYU_ATTENTION_H

#include "src/compute/cpu/cpu.h"

enum {
  PU_ATTENTION_BLOCK = 128, /* queries of one head that a kernel call handles */
  PU_ATTENTION_ROWS = 32,   /* keys (or queries) packed at a time: sequences are padded to a multiple of it */
  PU_ATTENTION_KEYS = 128,  /* keys of one pass; the first packed key stands at a multiple of it */
  PU_ATTENTION_MAX_DIM = 256,
  PU_ATTENTION_SCRATCH = 3 << 20, /* bytes a kernel call needs of its worker's scratch, at most */
  PU_ATTENTION_SPLIT = 512, /* keys of one item when decoding: fixed, so that a result never depends on the batch */
};

/* Queries of one head against all the keys of its sequence. Strides are in elements. */
typedef struct pu_attention_block {
  int n;          /* queries, 1 to PU_ATTENTION_BLOCK */
  int head_dim;   /* a multiple of 8 */
  int64_t pos;    /* position of the first query, from the first packed key; i sees (pos + i - window, pos + i] */
  int64_t window; /* > 0 */
  float scale;
  pu_dtype dtype; /* of q, out, grad_out, grad_q */
  const void *q;
  void *out;
  int64_t q_stride, out_stride;
  float *lse;         /* [n]; forward may have NULL */
  const void *keys;   /* pack_rows of K: [key tile][KE chunk of D] */
  const void *values; /* forward: pack_cols of V, [KE chunk of keys][tile of D]; backward: pack_rows of V */
  void *scratch;      /* of this worker, PU_ATTENTION_SCRATCH at least, 64-byte aligned */
  /* Backward only. */
  const void *keys_t; /* pack_cols of K */
  const void *grad_out;
  void *grad_q;
  int64_t grad_out_stride, grad_q_stride;
  bool add;       /* to grad_q; else overwrite */
  float *dk, *dv; /* C tiles [key tile][tile of D], added to; dk lacks the factor `scale` */
} pu_attention_block;

/* One stretch of a sequence's cache against one new token's heads that share a key head. */
typedef struct pu_attention_decode {
  int heads, head_dim;
  int64_t first, last; /* key positions [first, last) */
  float scale;
  pu_dtype q_dtype;
  int k_bits, v_bits; /* of a value in the cache: 32 (f32), 16 (bf16), 8 or 4 (see pu_kv) */
  const void *q;      /* heads rows of head_dim, q_stride elements apart */
  int64_t q_stride;
  const char *k, *v;        /* this head's part of cache block 0 */
  int64_t k_row, v_row;     /* bytes from one token to the next inside a block */
  int64_t k_block, v_block; /* and from one block to the next */
  int32_t block;            /* tokens in a cache block */
  const int32_t *table;
  float *part; /* per head: maximum (base 2), sum, then head_dim unnormalised outputs */
} pu_attention_decode;

/* 32 rows of a matrix (NULL: zeros), where they are. */
typedef struct pu_attention_rows {
  const void *row[PU_ATTENTION_ROWS];
  pu_dtype dtype;
  int head_dim;
} pu_attention_rows;

typedef struct pu_attention_kernel {
  pu_dtype tile;
  void (*pack_rows)(const pu_attention_rows *r, void *tiles); /* A tiles of the rows */
  void (*pack_cols)(const pu_attention_rows *r, void *tiles); /* A tiles of their transpose */
  void (*forward)(const pu_attention_block *b);
  void (*backward)(const pu_attention_block *b);
  /* 32 rows of C tiles [2][tile of D], times scale, to rows of dtype; NULL rows are skipped. */
  void (*unpack)(const float *tiles, float scale, pu_dtype dtype, int head_dim, bool add, void *const *row);
  void (*decode)(const pu_attention_decode *d);
  /* A row in 8 or 4 bits (see pu_kv) as values of the tiles' type. */
  void (*widen)(const void *row, int bits, int head_dim, void *out);
} pu_attention_kernel;

extern const pu_attention_kernel pu_attention_avx2; /* f32 tiles, as the next; bf16 is widened */
extern const pu_attention_kernel pu_attention_avx512;
extern const pu_attention_kernel pu_attention_avx512_bf16;
extern const pu_attention_kernel pu_attention_amx;

static inline int pu_attention_padded_dim(int head_dim) {
  return (head_dim + 31) / 32 * 32;
}

/* The work memory that training takes: backward's, which is more than forward's and than the references'. Documents are
 * padded to PU_ATTENTION_ROWS: counted as if that doubled the rows, which holds for documents of so many on average. */
size_t pu_attention_work_bytes(const pu_cpu *cpu, const pu_work_shape *s);

/* Puts the flash kernels in the place of the references (AVX2 and above). */
void pu_cpu_use_attention(pu_cpu *cpu);

#endif
