/* Plain products, until the real ones stand. */
#include "src/compute/cpu/gemm.h"

#include <string.h>

static float at(const void *p, pu_dtype t, int64_t i) {
  return t == PU_F32 ? ((const float *)p)[i] : pu_bf16_to_f32(((const uint16_t *)p)[i]);
}

static void rows(void *arg, int64_t begin, int64_t end, int worker) {
  const pu_gemm *g = arg;
  (void)worker;
  for (int64_t i = begin; i < end; i++)
    for (int64_t j = 0; j < g->n; j++) {
      double sum = 0;
      for (int64_t l = 0; l < g->k; l++)
        sum += (double)at(g->a, g->ab_type, i * g->a_row + l * g->a_col) *
               at(g->b, g->ab_type, l * g->b_row + j * g->b_col);
      float v = g->alpha * (float)sum + (g->bias ? at(g->bias, g->bias_type, j) : 0);
      if (g->beta != 0) v += at(g->c, g->c_type, i * g->c_row + j);
      if (g->c_type == PU_F32)
        ((float *)g->c)[i * g->c_row + j] = v;
      else
        ((uint16_t *)g->c)[i * g->c_row + j] = pu_f32_to_bf16(v);
    }
}

void pu_cpu_gemm(pu_cpu *cpu, const pu_gemm *g) {
  pu_pool_run(cpu->pool, g->m, 8, rows, (void *)(uintptr_t)g);
}

void pu_cpu_gemm_one(pu_cpu *cpu, const pu_gemm *g, int worker) {
  (void)cpu;
  rows((void *)(uintptr_t)g, 0, g->m, worker);
}

size_t pu_tiled_bytes(pu_dtype dtype, int64_t n, int64_t cols) {
  int64_t per = 64 / (int64_t)pu_dtype_size(dtype);
  return (size_t)((n + 15) / 16 * ((cols + per - 1) / per) * 1024);
}

static int64_t tiled_at(pu_dtype dtype, int64_t cols, int64_t r, int64_t k) {
  int64_t per = 64 / (int64_t)pu_dtype_size(dtype), tiles = (cols + per - 1) / per;
  return ((r / 16) * tiles + k / per) * 16 * per + (r % 16) * per + k % per;
}

void pu_cpu_tile_weight(pu_cpu *cpu, const pu_tensor *w, pu_tensor *out) {
  (void)cpu;
  memset(out->data, 0, pu_tiled_bytes(w->dtype, w->shape[0], w->shape[1]));
  for (int64_t r = 0; r < w->shape[0]; r++)
    for (int64_t k = 0; k < w->shape[1]; k++) {
      size_t size = pu_dtype_size(w->dtype);
      memcpy((char *)out->data + (size_t)tiled_at(w->dtype, w->shape[1], r, k) * size,
             (char *)w->data + (size_t)(r * w->stride[0] + k) * size, size);
    }
}

void pu_cpu_linear_tiled(pu_cpu *cpu, const pu_tensor *x, const pu_tensor *w, const pu_tensor *b, pu_tensor *y) {
  (void)cpu;
  for (int64_t n = 0; n < x->shape[0]; n++)
    for (int64_t m = 0; m < w->shape[0]; m++) {
      float sum = 0;
      for (int64_t k = 0; k < x->shape[1]; k++)
        sum +=
            at(x->data, x->dtype, n * x->stride[0] + k) * at(w->data, w->dtype, tiled_at(w->dtype, w->shape[1], m, k));
      if (b) sum += at(b->data, b->dtype, m);
      if (y->dtype == PU_F32)
        ((float *)y->data)[n * y->stride[0] + m] = sum;
      else
        ((uint16_t *)y->data)[n * y->stride[0] + m] = pu_f32_to_bf16(sum);
    }
}
