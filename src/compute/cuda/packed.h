/* Weights in few bits on the device: how they lie there, and what the kernels share.
 *
 * The sections and their sizes are those of compute.h at pu_packing; inside a section this backend has its own order,
 * made by pack_weight. Sixteen rows times sixteen inputs are the left operand of one mma (m16n8k16, PTX ISA), of which
 * lane l, g = l / 4, t = l % 4, holds the pairs of inputs
 *   0: row g, inputs 2t, 2t + 1    1: row g + 8, the same    2: row g, inputs 2t + 8, 2t + 9    3: row g + 8, the same
 * A piece is 128 inputs of sixteen rows: their bits, then their scales, so that all of it is read from one place.
 *   - Of 4 bits: two units of 512 bytes, of 64 inputs: sixteen bytes a lane, one word for each sixteen inputs; pair i's
 *     first value in bits 4i…, its second in bits 16 + 4i….
 *   - Of 8 bits: four units of 512 bytes, of 32 inputs: sixteen bytes a lane, two words for each sixteen inputs; of the
 *     first, bytes 0 and 2 are pair 0, bytes 1 and 3 pair 1; of the second pairs 2 and 3.
 *   - Scales: f16 [128 / group, 8]: scale of row g, of row g + 8, and where there are zeros, likewise, theirs.
 * The last piece may have fewer inputs (K' is a multiple of 32), and of 4 bits end with half a unit, eight bytes a
 * lane. Eight blocks of sixteen rows (or what is left) lie together: [M'/128] [K'/128] [8] pieces. The order follows,
 * where compute.h has it. */
#ifndef PUYU_CUDA_PACKED_H
#define PUYU_CUDA_PACKED_H

#include "src/compute/cuda/mma.h"

enum { PACKED_ROWS = 16, PACKED_UNIT = 512, PACKED_PIECE = 128, PACKED_BLOCKS = 8 };

typedef struct packed_layout {
  int64_t groups, places, blocks, pieces;       /* places: K' */
  int tail;                                     /* inputs of the last piece */
  int64_t piece_bytes, tail_bytes, block_bytes; /* of sixteen rows: a piece, the last one, all */
  size_t order, bytes;                          /* where it begins; of all */
} packed_layout;

static inline packed_layout packed_layout_of(const pu_packing *p, int64_t rows, int64_t cols) {
  packed_layout l;
  int64_t group_bytes = PACKED_ROWS * (p->group * p->bits / 8 + (p->zeros ? 4 : 2));
  l.groups = pu_packed_groups(p, cols);
  l.places = l.groups * p->group;
  l.blocks = ceil_div(rows, PACKED_ROWS);
  l.pieces = ceil_div(l.places, PACKED_PIECE);
  l.tail = (int)(l.places - (l.pieces - 1) * PACKED_PIECE);
  l.piece_bytes = PACKED_PIECE / p->group * group_bytes;
  l.tail_bytes = l.tail / p->group * group_bytes;
  l.block_bytes = l.groups * group_bytes;
  size_t scales = (size_t)ceil_div(l.blocks * l.groups * PACKED_ROWS * 2, 64) * 64;
  l.order = (size_t)(l.blocks * l.places * PACKED_ROWS * p->bits / 8) + scales * (p->zeros ? 2 : 1);
  l.bytes = l.order + (p->ordered ? (size_t)ceil_div(l.places * 4, 64) * 64 : 0);
  return l;
}

/* Where a block's piece begins. Pieces of the next blocks follow it, up to a multiple of eight. */
__host__ __device__ static inline int64_t packed_at(const packed_layout &l, int64_t block, int64_t piece) {
  int64_t first = block / PACKED_BLOCKS * PACKED_BLOCKS, n = PU_MIN((int64_t)PACKED_BLOCKS, l.blocks - first);
  return first * l.block_bytes + piece * n * l.piece_bytes +
         (block - first) * (piece + 1 == l.pieces ? l.tail_bytes : l.piece_bytes);
}

/* One matrix. */
typedef struct packed_matrix {
  const uint8_t *data;
  const int32_t *order; /* NULL: as they come */
  packed_layout l;
  pu_packing p;
  int64_t rows, cols;
} packed_matrix;

static inline packed_matrix packed_matrix_of(const pu_tensor *w, int64_t i) {
  packed_matrix m;
  m.rows = w->shape[w->ndim - 2];
  m.cols = w->shape[w->ndim - 1];
  m.p = w->packing;
  m.l = packed_layout_of(&m.p, m.rows, m.cols);
  m.data = (const uint8_t *)w->data + (size_t)i * m.l.bytes;
  m.order = m.p.ordered ? (const int32_t *)(m.data + m.l.order) : NULL;
  return m;
}

/* Rows of x as the kernels read them: bf16 or f32, K' of them, 16-byte aligned. */
typedef struct packed_x {
  const void *x;
  int64_t step; /* elements */
  int64_t tokens;
  pu_dtype type;
  const float2 *groups; /* not NULL: rounded, see packed_round */
} packed_x;

typedef struct packed_y {
  void *y;
  int64_t step;
  pu_dtype type;
  const void *bias; /* NULL: none */
  pu_dtype bias_type;
} packed_y;

/* Where rows of a batch belong to several matrices (experts): matrix e has rows [offsets[e], offsets[e + 1]) of x and
 * y. In device memory. */
typedef struct packed_parts {
  const int32_t *offsets; /* NULL: one matrix, all rows */
  int n;
  size_t step; /* bytes from matrix to matrix */
} packed_parts;

/* At most PACKED_FEW columns (tokens times parts) at a time, of any number. A token's result depends on M, K and the
 * packing alone. */
enum { PACKED_FEW = 16 };
/* More tokens than this are rounded once, by packed_round, into room (packed_round_bytes), in the weight's order; fewer
 * by each block of threads. */
enum { PACKED_ROUND = 2 };
size_t packed_round_bytes(const packed_matrix *w, int64_t tokens, pu_dtype type);
pu_err packed_round(pu_cuda *d, const packed_matrix *w, packed_x *x, void *room, pu_error *e) PU_MUST_USE;
/* gated: y = swiglu(x w^T) of bf16, without a bias, to the bit what linear and swiglu give; where packed_few_gates. */
bool packed_few_gates(const packed_matrix *w);
pu_err packed_few(pu_cuda *d, const packed_matrix *w, const packed_x *x, const packed_y *y, const packed_parts *parts,
                  bool gated, pu_error *e) PU_MUST_USE;

/* Any number of tokens, of one part, with wgmma: where the device has it. x's rows have `cols` inputs, K' or fewer;
 * zeros follow. room: packed_many_bytes of work memory. */
bool packed_many_can(const pu_cuda *d);
size_t packed_many_bytes(const pu_cuda *d, const packed_matrix *w, int64_t tokens);
pu_err packed_many(pu_cuda *d, const packed_matrix *w, const packed_x *x, int64_t cols, const packed_y *y, void *room,
                   pu_error *e) PU_MUST_USE;
pu_err packed_many_parts(pu_cuda *d, const packed_matrix *w, const packed_x *x, int64_t cols, const packed_y *y,
                         const packed_parts *parts, pu_error *e) PU_MUST_USE;

/* ---- in kernels ---- */

__device__ static inline float bias_at(const packed_y &y, int64_t row, int64_t rows) {
  if (!y.bias || row >= rows) return 0;
  return y.bias_type == PU_F32 ? ((const float *)y.bias)[row] : to_f32(((const bf16 *)y.bias)[row]);
}

/* a * 1 + b of two bf16 each; exact wherever it is used here. */
__device__ static inline uint32_t add_bf16x2(uint32_t a, uint32_t b) {
  uint32_t y;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(0x3f803f80u), "r"(b));
  return y;
}

/* Of four bits, the i-th pair plus 128: 0x4300 is 128 in bf16, whose last bit counts 1. */
__device__ static inline uint32_t pair4(uint32_t word, int i) {
  return and_or(word >> (4 * i), 0x000f000fu, 0x43004300u);
}

/* Of four bits, less 8. */
__device__ static inline void unpack4(uint32_t word, uint32_t a[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) a[i] = add_bf16x2(pair4(word, i), 0xc308c308u);
}

/* Of eight bits, less 128: the lower seven bits as 128 + them, and -256 or -128 by the highest. */
__device__ static inline void unpack8(uint32_t word, uint32_t a[2]) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    uint32_t w = word >> (8 * i), high;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(high) : "r"(w), "r"(0x00800080u), "r"(0xc380c380u)); /* (w & m) ^ c */
    a[i] = add_bf16x2(and_or(w, 0x007f007fu, 0x43004300u), high);
  }
}

/* The kernel before this one in the stream, and all it wrote, is done. What is asked for before it may only be weights:
 * they were written before that kernel began (see pack_weight). From there on the next kernel may begin likewise. */
__device__ static inline void after_last_kernel() {
  wait_for_before();
  let_next_start();
}

#endif
