/* The matrix product as its definition says: what every kernel is tested against. */
#include "src/compute/cpu/gemm_plain.h"

static float dot(const pu_gemm *g, int64_t i, int64_t j) {
  float sum = 0;
  for (int64_t k = 0; k < g->k; k++)
    sum += pu_load_float(g->a, i * g->a_row + k * g->a_col, g->ab_type) *
           pu_load_float(g->b, k * g->b_row + j * g->b_col, g->ab_type);
  return sum;
}

void pu_gemm_reference(const pu_gemm *g) {
  for (int64_t i = 0; i < g->m; i++)
    for (int64_t j = 0; j < g->n; j++) {
      float v = g->alpha * dot(g, i, j);
      if (g->beta != 0.0f) v += g->beta * pu_load_float(g->c, i * g->c_row + j, g->c_type);
      if (g->bias) v += pu_load_float(g->bias, j, g->bias_type);
      pu_store_float(g->c, i * g->c_row + j, g->c_type, v);
    }
}

void pu_linear_tiled_reference(const pu_tensor *x, const pu_tensor *w, const pu_tensor *b, pu_tensor *y) {
  int64_t tile_k = PU_TILE_ROW_BYTES / (int64_t)pu_dtype_size(w->dtype);
  int64_t k_tiles = (w->shape[1] + tile_k - 1) / tile_k;
  for (int64_t n = 0; n < x->shape[0]; n++)
    for (int64_t m = 0; m < w->shape[0]; m++) {
      const char *row =
          (const char *)w->data + m / PU_TILE_ROWS * k_tiles * PU_TILE_BYTES + m % PU_TILE_ROWS * PU_TILE_ROW_BYTES;
      float sum = b ? pu_load_float(b->data, m, b->dtype) : 0.0f;
      for (int64_t k = 0; k < w->shape[1]; k++)
        sum += pu_load_float(x->data, n * x->stride[0] + k, x->dtype) *
               pu_load_float(row + k / tile_k * PU_TILE_BYTES, k % tile_k, w->dtype);
      pu_store_float(y->data, n * y->stride[0] + m, y->dtype, sum);
    }
}
