/* Tensors: headers in host memory, data in the backend's. */
#include <string.h>

#include "src/compute/context.h"

int64_t pu_tensor_count(const pu_tensor *t) {
  int64_t n = 1;
  for (int i = 0; i < t->ndim; i++) n *= t->shape[i];
  return n;
}

size_t pu_tensor_bytes(const pu_tensor *t) {
  return (size_t)pu_tensor_count(t) * pu_dtype_size(t->dtype);
}

size_t pu_weight_bytes(const pu_tensor *w) {
  int64_t cols = w->shape[w->ndim - 1], rows = w->ndim > 1 ? w->shape[w->ndim - 2] : 1;
  if (w->layout == PU_LAYOUT_TILED) return pu_tiled_bytes(w->dtype, rows, cols);
  if (w->layout == PU_LAYOUT_PACKED)
    return (size_t)(w->ndim == 3 ? w->shape[0] : 1) * pu_packed_bytes(&w->packing, rows, cols);
  if (w->layout == PU_LAYOUT_FP8 || w->layout == PU_LAYOUT_INT8)
    return pu_fp8_codes_bytes(rows, cols) + (size_t)pu_fp8_scales(w->packing.group, rows, cols) * sizeof(float);
  if (w->layout == PU_LAYOUT_NF4) return pu_nf4_bytes(pu_tensor_count(w));
  return pu_tensor_bytes(w);
}

bool pu_tensor_contiguous(const pu_tensor *t) {
  int64_t step = 1;
  for (int i = t->ndim - 1; i >= 0; i--) {
    if (t->shape[i] != 1 && t->stride[i] != step) return false;
    step *= t->shape[i];
  }
  return true;
}

float pu_grad_beta(pu_tensor *t) {
  float beta = t->grad_set ? 1.0f : 0.0f;
  t->grad_set = true;
  return beta;
}

pu_tensor *pu_tensor_over(pu_ctx *c, pu_dtype dtype, int ndim, const int64_t *shape, void *data) {
  if (c->status) return NULL;
  pu_tensor *t = pu_arena_zalloc(c->host, sizeof *t);
  if (!t) return pu_ctx_fail(c, PU_ERR_NOMEM, "no memory left for tensor headers (%zu bytes)", pu_arena_max(c->host));
  t->dtype = dtype;
  t->ndim = ndim;
  t->data = data;
  int64_t step = 1;
  for (int i = ndim - 1; i >= 0; i--) {
    t->shape[i] = shape[i];
    t->stride[i] = step;
    step *= shape[i];
  }
  return t;
}

/* The bytes of a tensor of that shape; false when they do not fit a size_t. */
static bool bytes_of(pu_dtype dtype, int ndim, const int64_t *shape, size_t *out) {
  *out = pu_dtype_size(dtype);
  for (int i = 0; i < ndim; i++)
    if (shape[i] < 0 || pu_mul_overflows(*out, (size_t)shape[i], out)) return false;
  return true;
}

/* at_end: in the memory that the segments of the tape take in turn. */
static pu_tensor *make(pu_ctx *c, pu_dtype dtype, int ndim, const int64_t *shape, bool wants_grad, bool at_end) {
  size_t bytes;
  if (c->status) return NULL;
  if (!bytes_of(dtype, ndim, shape, &bytes)) return pu_ctx_fail(c, PU_ERR_SHAPE, "a tensor's size does not fit");
  pu_tensor *t = pu_tensor_over(c, dtype, ndim, shape, NULL);
  if (!t) return NULL;
  t->data = at_end ? pu_arena_alloc_end(c->mem, bytes) : pu_arena_alloc(c->mem, bytes);
  if (!t->data)
    return pu_ctx_fail(c, PU_ERR_NOMEM, "%zu bytes for a tensor do not fit in what is left of %zu: use a smaller batch",
                       bytes, pu_arena_max(c->mem));
  if (wants_grad && pu_tape_recording(c)) t->grad = pu_tensor_over(c, dtype, ndim, shape, NULL);
  return t;
}

pu_tensor *pu_tensor_new(pu_ctx *c, pu_dtype dtype, int ndim, const int64_t *shape, bool wants_grad) {
  return make(c, dtype, ndim, shape, wants_grad, pu_tape_passes(c));
}

pu_tensor *pu_tensor_again(pu_ctx *c, pu_dtype dtype, int ndim, const int64_t *shape, bool wants_grad, bool again) {
  return make(c, dtype, ndim, shape, wants_grad, again);
}
