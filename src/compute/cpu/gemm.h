/* Matrix product of the CPU backend: C = alpha A B + beta C + bias, every layout and type the operations need.
 *
 * A is [m, k], B is [k, n], C is [m, n]. Element (i, j) of A lies at a[i * a_row + j * a_col], in elements; one of
 * a_row, a_col is 1. B likewise (b_row steps along k). So x w^T is b_row = 1, b_col = K.
 * Types: A and B both f32, or both bf16; C f32 or bf16; accumulation in f32 whatever k. beta is 0 or 1.
 * The result does not depend on the number of threads. */
#ifndef PUYU_GEMM_H
#define PUYU_GEMM_H

#include "src/compute/cpu/cpu.h"

typedef struct pu_gemm {
  int64_t m, n, k;
  const void *a, *b;
  void *c;
  int64_t a_row, a_col, b_row, b_col, c_row;
  pu_dtype ab_type, c_type;
  float alpha, beta;
  const void *bias; /* [n], of type bias_type, added to every row; or NULL */
  pu_dtype bias_type;
} pu_gemm;

/* The products use the first this many bytes of each working worker's scratch; what lies behind is the caller's. */
enum { PU_GEMM_SCRATCH = 4 << 20 };

/* On all threads of the backend. */
void pu_cpu_gemm(pu_cpu *cpu, const pu_gemm *g);
/* On the calling worker alone: for use inside a kernel that is parallel itself. Tile registers and their configuration
 * (AMX) are not kept. */
void pu_cpu_gemm_one(pu_cpu *cpu, const pu_gemm *g, int worker);

/* y = x w^T + b with w TILED (16 rows by 64 bytes a tile: 32 columns of bf16, 16 of f32; row tiles outermost; edges
 * zero-filled). Few rows of x: at memory speed; many: at the matrix unit's. A row of y has the same bits whatever the
 * number of rows, and those that pu_cpu_gemm gives with the plain w.
 *
 * Inside a tile lie its 16 rows one after the other, for AMX's bf16 and for the references. For vector registers it is
 * turned: line i holds the i-th four bytes (one f32, or two bf16) of all 16 rows. So outputs are lanes, no sum goes
 * across lanes, and a kernel of few rows adds along k as that of many does, in one order. */
void pu_cpu_linear_tiled(pu_cpu *cpu, const pu_tensor *x, const pu_tensor *w, const pu_tensor *b, pu_tensor *y);
void pu_cpu_tile_weight(pu_cpu *cpu, const pu_tensor *w, pu_tensor *out);

#endif
