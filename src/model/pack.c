/* Matrices on their way into few bits: which are to be, the rounding of their rows, and packing once all are there. */
#include "src/model/weights.h"

#include <stdlib.h>
#include <string.h>

/* ---- in what form ---- */

/* The largest group up to the wanted one that leaves no inputs over. */
static int group_for(int64_t cols, int most) {
  int group = most;
  while (group > 32 && cols % group) group /= 2;
  return group;
}

/* The output matrix decides what is said next, and its error meets no later layer that could make up for it: 8 bits. */
static pu_packing rounded(pu_slot slot, int64_t cols, pu_quant quant) {
  bool four = quant == PU_QUANT_Q4 && slot != PU_SLOT_OUTPUT;
  return (pu_packing){.bits = four ? 4 : 8, .group = group_for(cols, four ? 64 : 128), .zeros = four};
}

pu_err pu_forms_init(pu_forms *f, const pu_hparams *hp, const pu_model_options *o, pu_error *e) {
  f->of = calloc((size_t)(hp->layers + 1) * PU_SLOT_COUNT, sizeof *f->of);
  if (!f->of) return pu_fail(e, PU_ERR_NOMEM, "no memory for the list of a model's matrices");
  if (!o->tile || (o->quant != PU_QUANT_Q8 && o->quant != PU_QUANT_Q4)) return PU_OK;
  for (int layer = -1; layer < hp->layers; layer++)
    for (int s = 0; s < PU_SLOT_COUNT; s++) {
      int64_t shape[PU_MAX_DIMS];
      pu_slot slot = s == PU_SLOT_OUTPUT && hp->tied ? PU_SLOT_EMBED : (pu_slot)s;
      int ndim = pu_slot_is_packable((pu_slot)s) ? pu_slot_shape(hp, slot, shape) : 0;
      if (ndim && pu_slot_is_outer((pu_slot)s) == (layer < 0))
        pu_form_of(f, (pu_slot)s, layer)->packing = rounded((pu_slot)s, shape[ndim - 1], o->quant);
    }
  return PU_OK;
}

void pu_forms_deinit(pu_forms *f) {
  free(f->of);
  f->of = NULL;
}

/* ---- one matrix ---- */

struct pu_packer {
  pu_pool *pool;
  uint8_t *q;
  float *scale, *zero;
  int32_t *order;
  bool has_order;
  pu_packing p;
  int64_t rows, cols, groups;
  float *values;             /* rows that wait to be rounded */
  int64_t most, waiting, at; /* values: room for, there, the first one's element */
};

enum { WAITING = 1 << 20 };

pu_err pu_packer_create(pu_backend *be, size_t values, size_t scales, int64_t cols, pu_packer **out, pu_error *e) {
  pu_packer *k = *out = calloc(1, sizeof *k);
  if (!k) return pu_fail(e, PU_ERR_NOMEM, "no memory to pack weights");
  k->pool = be->pool;
  k->q = malloc(values);
  k->scale = malloc(scales * sizeof *k->scale);
  k->zero = malloc(scales * sizeof *k->zero);
  k->order = malloc((size_t)(cols + 128) * sizeof *k->order);
  k->most = PU_MAX((int64_t)WAITING, cols);
  k->values = malloc((size_t)k->most * sizeof *k->values);
  if (k->q && k->scale && k->zero && k->order && k->values) return PU_OK;
  return pu_fail(e, PU_ERR_NOMEM, "no memory to pack a matrix of %zu weights", values);
}

void pu_packer_free(pu_packer *k) {
  if (!k) return;
  free(k->q);
  free(k->scale);
  free(k->zero);
  free(k->order);
  free(k->values);
  free(k);
}

void pu_packer_begin(pu_packer *k, const pu_tensor *w) {
  k->p = w->packing;
  k->cols = w->shape[w->ndim - 1];
  k->rows = pu_tensor_count(w) / k->cols;
  k->groups = pu_packed_groups(&k->p, k->cols);
  k->waiting = 0;
  k->has_order = false;
}

static void round_rows(void *arg, int64_t begin, int64_t end, int worker) {
  pu_packer *k = arg;
  (void)worker;
  for (int64_t r = begin; r < end; r++) {
    const float *w = k->values + r * k->cols;
    int64_t row = k->at / k->cols + r;
    for (int64_t g = 0; g < k->groups; g++) {
      int64_t first = g * k->p.group, n = PU_MIN(k->p.group, k->cols - first), at = row * k->groups + g;
      uint8_t zero, *q = k->q + row * k->cols + first;
      pu_quant_range(w + first, n, k->p.bits, !k->p.zeros, &k->scale[at], &zero);
      float scale = k->scale[at];
      k->zero[at] = zero;
      for (int64_t i = 0; i < n; i++) q[i] = pu_quant_round(w[first + i], scale, zero, k->p.bits);
    }
  }
}

static void flush(pu_packer *k) {
  int64_t rows = k->waiting / k->cols;
  pu_pool_run(k->pool, rows, PU_MAX(16384 / k->cols, 1), round_rows, k);
  k->at += k->waiting;
  k->waiting = 0;
}

void pu_packer_round(pu_packer *k, int64_t at, const void *src, pu_dtype type, int64_t n) {
  int64_t whole = k->most / k->cols * k->cols;
  if (k->waiting && at != k->at + k->waiting) flush(k);
  if (!k->waiting) k->at = at;
  for (int64_t i = 0; i < n;) {
    int64_t part = PU_MIN(n - i, whole - k->waiting);
    pu_convert_by(k->pool, k->values + k->waiting, PU_F32, (const char *)src + (size_t)i * pu_dtype_size(type), type,
                  part);
    i += part;
    k->waiting += part;
    if (k->waiting == whole) flush(k);
  }
}

void pu_filler_put_codes(pu_filler *f, const pu_param *p, int64_t row, int64_t n, const uint8_t *q, const float *scale,
                         const float *zero) {
  pu_packer *k = f->packer;
  size_t scales = (size_t)(n * k->groups);
  (void)p;
  memcpy(k->q + row * k->cols, q, (size_t)(n * k->cols));
  memcpy(k->scale + row * k->groups, scale, scales * sizeof *scale);
  for (size_t i = 0; i < scales; i++)
    k->zero[(size_t)(row * k->groups) + i] = zero ? zero[i] : (float)(1 << (k->p.bits - 1));
}

void pu_filler_set_order(pu_filler *f, const pu_param *p, const int32_t *order) {
  pu_packer *k = f->packer;
  (void)p;
  memcpy(k->order, order, (size_t)(k->groups * k->p.group) * sizeof *order);
  k->has_order = true;
}

/* Into the weights' memory. A device reads the packed form as the CPU does; what packs it is the backend's operation.
 */
pu_err pu_packer_end(pu_packer *k, pu_ctx *c, pu_tensor *w, pu_error *e) {
  if (k->waiting) flush(k);
  size_t bytes = pu_weight_bytes(w);
  w->data = pu_arena_alloc(c->mem, bytes);
  if (!w->data) return pu_fail(e, PU_ERR_NOMEM, "%zu bytes for a weight do not fit", bytes);
  pu_pack_weight_args a = {k->q, k->scale, k->p.zeros ? k->zero : NULL, k->has_order ? k->order : NULL, w};
  return pu_pack_weight(c, &a);
}
