/* int8 products. With AMX they are the same blocks as bf16's; elsewhere rows of A and B are multiplied as they lie. */
#include "src/compute/cpu/gemm_kernel.h"

#include <string.h>

static int32_t dot_ref(const int8_t *a, const int8_t *b, int64_t k) {
  int32_t sum = 0;
  for (int64_t i = 0; i < k; i++) sum += a[i] * b[i];
  return sum;
}

static void rows_ref(const pu_gemm_i8 *g, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++)
    for (int64_t j = 0; j < g->n; j++) g->c[i * g->c_row + j] = dot_ref(g->a + i * g->a_row, g->b + j * g->b_row, g->k);
}

typedef struct i8_arg {
  const pu_gemm_i8 *g;
  void (*rows)(const pu_gemm_i8 *g, int64_t begin, int64_t end);
} i8_arg;

static void run_rows(void *arg, int64_t begin, int64_t end, int worker) {
  (void)worker;
  const i8_arg *r = arg;
  r->rows(r->g, begin, end);
}

void pu_cpu_gemm_i8(pu_cpu *cpu, const pu_gemm_i8 *g) {
  static void (*const rows[PU_ISA_COUNT])(const pu_gemm_i8 *, int64_t, int64_t) = {rows_ref, pu_gemm_i8_avx2,
                                                                                   pu_gemm_i8_avx512};
  if (g->m <= 0 || g->n <= 0) return;
  if (rows[cpu->isa]) {
    i8_arg r = {g, rows[cpu->isa]};
    pu_pool_run(cpu->pool, g->m, 16, run_rows, &r);
    return;
  }
  pu_gemm_job j = {.g = {.m = g->m,
                         .n = g->n,
                         .k = g->k,
                         .a = g->a,
                         .b = g->b,
                         .c = g->c,
                         .a_row = g->a_row,
                         .a_col = 1,
                         .b_row = 1,
                         .b_col = g->b_row,
                         .c_row = g->c_row,
                         .ab_type = PU_I8,
                         .c_type = PU_I32},
                   .kernel = pu_gemm_kernel_for(cpu->isa, PU_I8)};
  pu_gemm_run(cpu, &j);
}
