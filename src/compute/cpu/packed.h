/* Products with weights in few bits (PU_LAYOUT_PACKED). The driver (packed.c) brings x into the form that the kernels
 * read, cuts the outputs into blocks of sixteen and shares them out; a kernel makes all tokens' sums of some blocks.
 *
 * Sixteen outputs are the lanes of every vector, so neither scales nor sums ever go across lanes, and a line of 64
 * bytes (four inputs of sixteen outputs) is what VPDPBUSD multiplies by four bytes of x, and, as it lies, a line of
 * AMX's right operand.
 *
 * Each kernel computes the same numbers in the same order. With x in int8, for the groups g in order:
 *   I = sum over k in g of q[k] xq[k], an integer below 2^24, and exact;  X = sum of xq[k], too
 *   acc = fma(fma(-zero, X, I), scale * sx, acc)
 * With x in f32: w[k] = (q[k] - zero) * scale; the sums of k = j mod 4 by fma from 0 give s[j] for each g, and
 *   acc = acc + ((s[0] + s[1]) + (s[2] + s[3])). */
#ifndef PUYU_PACKED_H
#define PUYU_PACKED_H

#include "src/compute/cpu/cpu.h"

enum { PU_PACKED_ROWS = 16, PU_PACKED_LINE = 64, PU_PACKED_MAX_GROUP = 128 };
/* At most, of a job; so few tokens that their kernels take weights as they lie. */
enum { PU_PACKED_TOKENS = 512, PU_PACKED_BLOCKS = 16, PU_PACKED_FEW = 8 };

typedef struct pu_x_group {
  float scale, sum; /* of xq: an integer */
} pu_x_group;

/* Some blocks of outputs, for some tokens. */
typedef struct pu_packed_job {
  int bits, group;
  int64_t groups, blocks;       /* of inputs; of sixteen outputs */
  const uint8_t *q;             /* the first block's; the others follow, and so with scale and zero */
  const uint16_t *scale, *zero; /* zero NULL: 2^(bits-1) */
  int64_t tokens;
  /* i8 [tokens][x_row], or f32 for exact; with more than PU_PACKED_FEW tokens zeros follow, up to a multiple of 32. */
  const void *x;
  int64_t x_row;        /* elements */
  const pu_x_group *xg; /* [likewise][groups] */
  float *acc;           /* [blocks][tokens rounded up to 32][16]; 64-byte aligned */
} pu_packed_job;

typedef struct pu_packed_kernel {
  /* One row of x, `groups` groups. A group below 1e-30 everywhere counts as 0. */
  void (*round)(const float *x, int64_t groups, int group, int8_t *q, pu_x_group *xg);
  /* room: PU_PACKED_ROOM bytes. */
  void (*integer)(const pu_packed_job *j, char *room);
  void (*exact)(const pu_packed_job *j);
} pu_packed_kernel;

enum { PU_PACKED_ROOM = 16 << 20, PU_PACKED_MAX_INPUTS = 1 << 18 };

extern const pu_packed_kernel pu_packed_ref, pu_packed_avx2, pu_packed_avx512, pu_packed_amx;

/* For kernels that are the next set's: AVX-512's, where few tokens make AMX not worth its while. */
void pu_packed_integer_avx512(const pu_packed_job *j, char *room);

static inline int64_t pu_packed_block_bytes(const pu_packed_job *j) {
  return j->groups * j->group * PU_PACKED_ROWS * j->bits / 8;
}
static inline int64_t pu_packed_tokens(int64_t tokens) {
  return (tokens + 31) / 32 * 32;
}

/* y = x w^T + b, of all tokens; work: pu_packed_work_bytes, 64-byte aligned. Rows of y may be strided. */
void pu_cpu_linear_packed(pu_cpu *cpu, const pu_tensor *x, const pu_tensor *w, const pu_tensor *b, pu_tensor *y,
                          void *work);
/* Matrix i of a packed [E, M, K]. */
pu_tensor pu_packed_matrix(const pu_tensor *w, int64_t i);

#endif
