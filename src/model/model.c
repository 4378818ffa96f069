/* A model's tensors: which there are, where they lie, how values get into them. */
#include "src/model/weights.h"

#include <stdlib.h>
#include <string.h>

/* ---- sizes ---- */

static size_t aligned(size_t bytes) {
  return (bytes + 63) & ~(size_t)63;
}

static int64_t product(const int64_t *shape, int ndim) {
  int64_t n = 1;
  for (int i = 0; i < ndim; i++) n *= shape[i];
  return n;
}

static bool is_tiled(pu_slot slot, int ndim, const pu_model_options *o, const pu_packing *p) {
  return o->tile && !o->plain && ndim == 2 && pu_slot_is_matrix(slot) && !p->bits;
}

/* What an adapter can stand beside. */
static bool is_nf4(pu_slot slot, const pu_model_options *o) {
  return o->nf4 && (slot == PU_SLOT_QKV || slot == PU_SLOT_WO || slot == PU_SLOT_GATE_UP || slot == PU_SLOT_DOWN);
}

/* The same matrices. */
bool pu_takes_codes(pu_slot slot, const int64_t *shape, int ndim, const pu_model_options *o) {
  bool which = slot == PU_SLOT_QKV || slot == PU_SLOT_WO || slot == PU_SLOT_GATE_UP || slot == PU_SLOT_DOWN;
  return o->tile && which && ndim == 2 && shape[0] % 16 == 0 && shape[1] % 16 == 0;
}

pu_layout pu_coded_layout(pu_slot slot, const int64_t *shape, int ndim, const pu_model_options *o) {
  bool fits = pu_takes_codes(slot, shape, ndim, o);
  if (fits && o->quant == PU_QUANT_FP8) return PU_LAYOUT_FP8;
  return fits && o->quant == PU_QUANT_I8 && shape[1] <= PU_INT8_MOST_COLS ? PU_LAYOUT_INT8 : PU_LAYOUT_PLAIN;
}

static pu_form form_of(const pu_forms *f, pu_slot slot, int layer) {
  return f ? *pu_form_of(f, slot, layer) : (pu_form){0};
}

static pu_layout coded_layout(pu_slot slot, const int64_t *shape, int ndim, const pu_model_options *o,
                              const pu_form *form) {
  return form->fp8 ? PU_LAYOUT_FP8 : pu_coded_layout(slot, shape, ndim, o);
}

/* Vectors are small and every rounding in them would be felt by all tokens; the router, rounded, would send tokens to
 * other experts (Fedus et al. 2022). Both stay f32. */
static pu_dtype dtype_of(pu_slot slot, const pu_model_options *o) {
  bool exact = slot == PU_SLOT_ROUTER || (!pu_slot_is_matrix(slot) && slot != PU_SLOT_EMBED);
  return exact ? PU_F32 : o->dtype;
}

static pu_dtype grad_type(pu_slot slot, const pu_model_options *o) {
  return dtype_of(slot, o) == PU_F32 ? PU_F32 : o->grads;
}

static bool has_low(pu_dtype dtype, const pu_model_options *o) {
  return o->train && !o->rough && dtype == PU_BF16;
}

/* What one parameter takes of the weights' memory: the weight, and in training its lower half and its gradient. */
static size_t param_bytes(pu_slot slot, const int64_t *shape, int ndim, const pu_model_options *o,
                          const pu_form *form) {
  const pu_packing p = form->packing;
  size_t n = (size_t)product(shape, ndim);
  pu_tensor w = {.dtype = dtype_of(slot, o), .ndim = ndim, .packing = p};
  pu_dtype dtype = w.dtype;
  memcpy(w.shape, shape, sizeof w.shape);
  pu_layout coded = coded_layout(slot, shape, ndim, o, form);
  w.layout = p.bits                        ? PU_LAYOUT_PACKED
             : is_nf4(slot, o)             ? PU_LAYOUT_NF4
             : coded                       ? coded
             : is_tiled(slot, ndim, o, &p) ? PU_LAYOUT_TILED
                                           : PU_LAYOUT_PLAIN;
  size_t bytes = aligned(pu_weight_bytes(&w));
  if (o->train && !o->late_grads) bytes += aligned(n * pu_dtype_size(grad_type(slot, o)));
  if (has_low(dtype, o)) bytes += aligned(n * 2);
  return bytes;
}

static pu_model_part part_of(const pu_hparams *hp, const pu_model_options *o) {
  return o->part ? *o->part : (pu_model_part){0, hp->layers, true};
}

size_t pu_model_bytes(const pu_hparams *hp, const pu_model_options *o, const pu_forms *forms) {
  size_t total = 0;
  int64_t shape[PU_MAX_DIMS];
  pu_model_part part = part_of(hp, o);
  for (int s = 0; s < PU_SLOT_COUNT; s++) {
    pu_slot slot = (pu_slot)s;
    int ndim = pu_slot_shape(hp, slot, shape);
    bool outer = pu_slot_is_outer(slot);
    int from = outer ? -1 : (int)part.from, to = !outer ? (int)part.to : part.outer ? 0 : -1;
    for (int layer = from; ndim && layer < to; layer++) {
      pu_form form = form_of(forms, slot, layer);
      total += param_bytes(slot, shape, ndim, o, &form);
    }
  }
  pu_form output = form_of(forms, PU_SLOT_OUTPUT, -1);
  if (hp->tied && part.outer && (output.packing.bits || (o->tile && !o->plain)))
    total += param_bytes(PU_SLOT_OUTPUT, (int64_t[PU_MAX_DIMS]){hp->vocab, hp->hidden}, 2, o, &output);
  return total;
}

size_t pu_model_weight_bytes(const pu_arch *arch, const pu_hparams *hp, const pu_model_options *o) {
  pu_forms forms;
  (void)arch; /* in memory all families look the same */
  if (pu_forms_init(&forms, hp, o, NULL) != PU_OK) return SIZE_MAX;
  size_t bytes = pu_model_bytes(hp, o, &forms);
  pu_forms_deinit(&forms);
  return bytes;
}

/* ---- making the tensors ---- */

/* data NULL: a header alone. */
static pu_tensor *header(pu_model *m, pu_dtype dtype, int ndim, const int64_t *shape, void *data) {
  pu_tensor *t = pu_arena_zalloc(m->host, sizeof *t);
  if (!t) return NULL;
  *t = (pu_tensor){.dtype = dtype, .ndim = ndim, .data = data};
  int64_t step = 1;
  for (int i = ndim - 1; i >= 0; i--) {
    t->shape[i] = shape[i];
    t->stride[i] = step;
    step *= shape[i];
  }
  return t;
}

static pu_tensor *placed(pu_model *m, pu_dtype dtype, int ndim, const int64_t *shape) {
  void *data = pu_arena_alloc(m->weights, (size_t)product(shape, ndim) * pu_dtype_size(dtype));
  return data ? header(m, dtype, ndim, shape, data) : NULL;
}

static pu_tensor *make_weight(pu_model *m, const pu_model_options *o, pu_slot slot, const int64_t *shape, int ndim,
                              const pu_form *form) {
  const pu_packing packing = form->packing;
  pu_dtype dtype = dtype_of(slot, o);
  /* One in another layout gets its memory when it is that. */
  bool nf4 = is_nf4(slot, o);
  pu_layout coded = coded_layout(slot, shape, ndim, o, form);
  if (!packing.bits && !nf4 && !coded && !is_tiled(slot, ndim, o, &packing)) return placed(m, dtype, ndim, shape);
  pu_tensor *w = header(m, dtype, ndim, shape, NULL);
  if (!w) return NULL;
  if (nf4 || coded) w->layout = nf4 ? PU_LAYOUT_NF4 : coded;
  if (packing.bits) w->layout = PU_LAYOUT_PACKED;
  w->packing = packing;
  return w;
}

static bool make_param(pu_model *m, const pu_model_options *o, const pu_forms *forms, pu_slot slot, int layer) {
  int64_t shape[PU_MAX_DIMS];
  int ndim = pu_slot_shape(&m->hp, slot, shape);
  if (!ndim) return true;
  pu_param *p = &m->params[m->n_params++];
  *p = (pu_param){.slot = slot, .layer = layer, .decay = pu_slot_is_matrix(slot)};
  p->name = layer < 0 ? pu_slot_name(slot) : pu_arena_printf(m->host, "layers.%d.%s", layer, pu_slot_name(slot));
  pu_dtype dtype = dtype_of(slot, o);
  pu_form form = form_of(forms, slot, layer);
  p->w = make_weight(m, o, slot, shape, ndim, &form);
  if (!p->w || !p->name) return false;
  if (o->train) {
    pu_dtype type = grad_type(slot, o);
    p->w->grad = o->late_grads ? header(m, type, ndim, shape, NULL) : placed(m, type, ndim, shape);
    p->w->grad_late = o->late_grads;
    if (has_low(dtype, o)) p->low = placed(m, PU_U16, ndim, shape);
    if (!p->w->grad || (has_low(dtype, o) && !p->low)) return false;
  }
  *(layer < 0 ? &m->outer[slot] : &m->layers[layer].slot[slot]) = p->w;
  return true;
}

static bool make_params(pu_model *m, const pu_model_options *o, const pu_forms *forms) {
  pu_model_part part = part_of(&m->hp, o);
  bool ok = !part.outer || make_param(m, o, forms, PU_SLOT_EMBED, -1);
  for (int l = (int)part.from; l < part.to && ok; l++)
    for (int s = 0; s < PU_SLOT_COUNT && ok; s++)
      if (!pu_slot_is_outer((pu_slot)s)) ok = make_param(m, o, forms, (pu_slot)s, l);
  if (!part.outer || !ok) return ok;
  ok = make_param(m, o, forms, PU_SLOT_OUT_NORM, -1) && make_param(m, o, forms, PU_SLOT_OUTPUT, -1);
  if (!ok || !m->hp.tied) return ok;
  /* The embedding is read by rows and stays plain; as output matrix it is read like the others, and so is a copy. */
  pu_form form = form_of(forms, PU_SLOT_OUTPUT, -1);
  if (!form.packing.bits) {
    m->outer[PU_SLOT_OUTPUT] = m->outer[PU_SLOT_EMBED]; /* tiled by pu_filler_finish */
    return true;
  }
  m->outer[PU_SLOT_OUTPUT] = make_weight(m, o, PU_SLOT_OUTPUT, m->outer[PU_SLOT_EMBED]->shape, 2, &form);
  return m->outer[PU_SLOT_OUTPUT] != NULL;
}

static pu_err make_memory(pu_model *m, const pu_model_options *o, const pu_forms *forms, pu_error *e) {
  size_t n = (size_t)m->hp.layers * PU_SLOT_COUNT + 3, bytes = pu_model_bytes(&m->hp, o, forms) + 64;
  void *memory;
  PU_TRY(pu_arena_create((1 << 20) + n * 2048, &m->host, e));
  PU_TRY(m->be->alloc(m->be, bytes, &memory, e));
  pu_err err = pu_arena_wrap(memory, bytes, &m->weights, e);
  if (err != PU_OK) {
    m->be->free(m->be, memory);
    return err;
  }
  m->weights_memory = memory;
  m->layers = pu_arena_zalloc(m->host, (size_t)m->hp.layers * sizeof *m->layers);
  m->params = pu_arena_zalloc(m->host, n * sizeof *m->params);
  if (!m->layers || !m->params || !make_params(m, o, forms))
    return pu_fail(e, PU_ERR_NOMEM, "the model's weights do not fit in the %zu bytes planned for them", bytes);
  return PU_OK;
}

/* Matrices in FP8 or int8 for inference. */
static pu_err check_few_bits(const pu_backend *be, const pu_model_options *o, pu_error *e) {
  const bool fp8 = o->quant == PU_QUANT_FP8;
  if (!o->tile || (!fp8 && o->quant != PU_QUANT_I8)) return PU_OK;
  if (o->dtype != PU_BF16)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "matrices in %s go with bf16, and this would compute in %s: add --dtype bf16",
                   fp8 ? "FP8" : "int8", pu_dtype_name(o->dtype));
  if (be->forward[PU_OP_tile_weight] && (!fp8 || be->forward[PU_OP_linear_fp8])) return PU_OK;
  return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: no matrices in %s here: they go with a processor%s or a GPU%s", be->name,
                 fp8 ? "FP8" : "int8", fp8 ? " (which simulates them)" : "",
                 fp8 ? " of compute capability 9.0 or later" : "");
}

pu_err pu_model_options_check(const pu_backend *be, const pu_model_options *o, pu_error *e) {
  if (o->dtype != PU_F32 && o->dtype != PU_BF16)
    return pu_fail(e, PU_ERR_USAGE, "a model computes in f32 or bf16, not %s", pu_dtype_name(o->dtype));
  if (o->nf4 && (o->train || o->tile))
    return pu_fail(e, PU_ERR_USAGE, "a model in NF4 is for adapters to be trained beside it, and for nothing else");
  if (o->train && o->tile) return pu_fail(e, PU_ERR_USAGE, "tiled weights are for inference, not for training");
  PU_TRY(check_few_bits(be, o, e));
  if (o->fp8 && !be->forward[PU_OP_linear_fp8])
    return pu_fail(e, PU_ERR_UNSUPPORTED,
                   "%s: no products in FP8 here: they need a GPU of compute capability 9.0 or later", be->name);
  return PU_OK;
}

pu_err pu_model_new(const pu_arch *arch, const pu_hparams *hp, pu_backend *be, const pu_model_options *o,
                    const pu_forms *forms, pu_model **out, pu_error *e) {
  *out = NULL;
  PU_TRY(pu_model_options_check(be, o, e));
  if ((o->fp8 || (o->tile && o->quant == PU_QUANT_FP8)) && !be->memory)
    pu_log(PU_LOG_WARN, "%s: products in FP8 are simulated here, slowly: a GPU has them", be->name);
  pu_model *m = calloc(1, sizeof *m);
  if (!m) return pu_fail(e, PU_ERR_NOMEM, "no memory for a model");
  m->arch = arch;
  m->hp = *hp;
  m->dtype = o->dtype;
  m->grads = o->grads;
  m->late_grads = o->late_grads;
  m->fp8 = o->fp8 && o->train && o->dtype == PU_BF16;
  m->be = be;
  pu_err err = make_memory(m, o, forms, e);
  if (err == PU_OK)
    *out = m;
  else
    pu_model_free(m);
  return err;
}

void pu_model_free(pu_model *m) {
  if (!m) return;
  pu_arena_free(m->weights);
  if (m->weights_map.data)
    pu_map_close(&m->weights_map);
  else if (m->weights_memory)
    m->be->free(m->be, m->weights_memory);
  pu_arena_free(m->host);
  free(m->rope_rows.v);
  free(m);
}

/* ---- filling ---- */

static size_t largest_tiled(const pu_model *m) {
  size_t bytes = 0;
  for (size_t i = 0; i < m->n_params; i++) {
    const pu_tensor *w = m->params[i].w;
    if (!w->data && w->layout != PU_LAYOUT_PACKED) bytes = PU_MAX(bytes, pu_tensor_bytes(w));
  }
  return bytes;
}

typedef struct packer_sizes {
  size_t values, scales;
  int64_t cols;
} packer_sizes;

static void count_packed(const pu_tensor *w, packer_sizes *s) {
  if (!w || w->layout != PU_LAYOUT_PACKED) return;
  int64_t cols = w->shape[w->ndim - 1], values = pu_tensor_count(w);
  s->values = PU_MAX(s->values, (size_t)values);
  s->scales = PU_MAX(s->scales, (size_t)(values / cols * pu_packed_groups(&w->packing, cols)));
  s->cols = PU_MAX(s->cols, cols);
}

pu_err pu_filler_init(pu_filler *f, pu_model *m, const pu_model_options *o, pu_error *e) {
  packer_sizes packed = {0};
  *f = (pu_filler){.m = m, .tile = o->tile && !o->plain, .progress = o->progress, .progress_arg = o->progress_arg};
  for (size_t i = 0; i < m->n_params; i++) {
    f->total += (double)pu_tensor_count(m->params[i].w);
    count_packed(m->params[i].w, &packed);
  }
  count_packed(m->outer[PU_SLOT_OUTPUT], &packed);
  f->room = malloc((size_t)PU_FILL_PIECE * 4);
  f->plain = pu_arena_zalloc(m->host, sizeof *f->plain);
  if (!f->room || !f->plain) return pu_fail(e, PU_ERR_NOMEM, "no memory to fill the weights");
  if (packed.values) PU_TRY(pu_packer_create(m->be, packed.values, packed.scales, packed.cols, &f->packer, e));
  size_t bytes = largest_tiled(m);
  return bytes ? m->be->alloc(m->be, bytes, &f->plain->data, e) : PU_OK;
}

void pu_filler_deinit(pu_filler *f) {
  if (f->plain && f->plain->data) f->m->be->free(f->m->be, f->plain->data);
  pu_packer_free(f->packer);
  free(f->room);
}

/* What is packed out of this parameter's values: itself, or the output matrix of a tied embedding. */
static pu_tensor *packed_of(const pu_filler *f, const pu_param *p) {
  pu_tensor *w = p->slot == PU_SLOT_EMBED && f->m->hp.tied ? f->m->outer[PU_SLOT_OUTPUT] : p->w;
  return w->layout == PU_LAYOUT_PACKED ? w : NULL;
}

void pu_filler_begin(pu_filler *f, const pu_param *p, bool coded) {
  const pu_tensor *w = packed_of(f, p);
  f->coded = coded;
  if (w) pu_packer_begin(f->packer, w);
}

/* Values on their way into the type they are kept in, by the backend's threads. */
typedef struct conversion {
  const char *src; /* unaligned perhaps */
  pu_dtype from, to;
  void *out;
  uint16_t *low; /* NULL: out is of type `to`; else out has the upper halves, and this the lower ones */
} conversion;

enum { CONVERTED = 1024, GRAIN = 1 << 14 };

static void convert_part(void *arg, int64_t begin, int64_t end, int worker) {
  const conversion *c = arg;
  size_t from = pu_dtype_size(c->from);
  float aligned[CONVERTED], values[CONVERTED];
  (void)worker;
  for (int64_t i = begin; i < end; i += CONVERTED) {
    int64_t n = PU_MIN(end - i, (int64_t)CONVERTED);
    memcpy(aligned, c->src + (size_t)i * from, (size_t)n * from);
    if (!c->low) {
      pu_convert((char *)c->out + (size_t)i * pu_dtype_size(c->to), c->to, aligned, c->from, n);
    } else {
      pu_convert(values, PU_F32, aligned, c->from, n);
      pu_split_halves((uint16_t *)c->out + i, c->low + i, values, n);
    }
  }
}

void pu_convert_by(pu_pool *pool, void *to, pu_dtype to_type, const void *src, pu_dtype type, int64_t n) {
  conversion c = {src, type, to_type, to, NULL};
  pu_pool_run(pool, n, GRAIN, convert_part, &c);
}

static pu_err put_piece(pu_filler *f, const pu_tensor *to, int64_t at, const void *src, pu_dtype type, int64_t n,
                        pu_error *e) {
  size_t size = pu_dtype_size(to->dtype);
  pu_backend *be = f->m->be;
  uint8_t *dst = (uint8_t *)to->data + (size_t)at * size;
  if (type == to->dtype) return be->upload(be, dst, src, (size_t)n * size, e);
  for (int64_t i = 0; i < n; i += PU_FILL_PIECE) {
    int64_t k = PU_MIN(n - i, (int64_t)PU_FILL_PIECE);
    pu_convert_by(be->pool, f->room, to->dtype, (const char *)src + (size_t)i * pu_dtype_size(type), type, k);
    PU_TRY(be->upload(be, dst + (size_t)i * size, f->room, (size_t)k * size, e));
  }
  return PU_OK;
}

/* Both halves of f32 values. */
static pu_err put_halves(pu_filler *f, const pu_param *p, int64_t at, const void *src, pu_dtype type, int64_t n,
                         pu_error *e) {
  uint16_t *high = f->room, *low = high + PU_FILL_PIECE;
  pu_backend *be = f->m->be;
  for (int64_t i = 0; i < n; i += PU_FILL_PIECE) {
    int64_t k = PU_MIN(n - i, (int64_t)PU_FILL_PIECE);
    conversion c = {(const char *)src + (size_t)i * pu_dtype_size(type), type, PU_BF16, high, low};
    pu_pool_run(be->pool, k, GRAIN, convert_part, &c);
    PU_TRY(be->upload(be, (uint16_t *)p->w->data + at + i, high, (size_t)k * sizeof *high, e));
    PU_TRY(be->upload(be, (uint16_t *)p->low->data + at + i, low, (size_t)k * sizeof *low, e));
  }
  return PU_OK;
}

pu_dtype pu_filler_type(const pu_filler *f, const pu_param *p) {
  return packed_of(f, p) || p->low ? PU_F32 : p->w->dtype;
}

pu_err pu_filler_put(pu_filler *f, const pu_param *p, int64_t at, const void *src, pu_dtype type, int64_t n,
                     pu_error *e) {
  if (packed_of(f, p) && !f->coded) pu_packer_round(f->packer, at, src, type, n);
  if (p->w->layout == PU_LAYOUT_PACKED) return PU_OK;
  if (p->low) return put_halves(f, p, at, src, type, n, e);
  pu_tensor plain = *p->w;
  if (!plain.data) plain.data = f->plain->data;
  return put_piece(f, &plain, at, src, type, n, e);
}

/* A tiled copy of `plain`, in the weights' memory. */
static pu_tensor *tiled(pu_filler *f, const pu_tensor *plain, pu_err *err, pu_error *e) {
  pu_ctx c = {.be = f->m->be, .mem = f->m->weights, .host = f->m->host, .err = e};
  pu_tensor *t = pu_tile_weight(&c, plain);
  *err = c.status;
  return t;
}

/* The plain weight that w is to stand for, in NF4 in the weights' memory. */
static pu_err pack_nf4(const pu_filler *f, pu_tensor *w, pu_error *e) {
  pu_model *m = f->m;
  int64_t n = pu_tensor_count(w);
  size_t bytes = pu_nf4_bytes(n);
  void *plain = malloc((size_t)n * sizeof(float)), *packed = malloc(bytes);
  float *values = malloc((size_t)n * sizeof *values);
  pu_err err = plain && packed && values ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "no memory to pack the weights");
  if (!err) err = m->be->download(m->be, plain, f->plain->data, pu_tensor_bytes(w), e);
  if (!err) {
    pu_convert_by(m->be->pool, values, PU_F32, plain, w->dtype, n);
    err = pu_nf4_pack(m->be->pool, packed, values, n, e);
  }
  if (!err && !(w->data = pu_arena_alloc(m->weights, bytes)))
    err = pu_fail(e, PU_ERR_NOMEM, "the model's weights do not fit into the memory planned for them");
  if (!err) err = m->be->upload(m->be, w->data, packed, bytes, e);
  free(plain);
  free(packed);
  free(values);
  return err;
}

static pu_err place_codes(const pu_filler *f, pu_tensor *w, pu_error *e) {
  if (!w->data) w->data = pu_arena_alloc(f->m->weights, pu_weight_bytes(w));
  return w->data ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "the model's weights do not fit into the memory planned for them");
}

pu_err pu_filler_put_int8(pu_filler *f, const pu_param *p, int64_t row, int64_t n, uint8_t *q, float *scale,
                          int64_t groups, pu_error *e) {
  pu_backend *be = f->m->be;
  int64_t cols = p->w->shape[1];
  PU_TRY(place_codes(f, p->w, e));
  for (int64_t i = 0; i < n * cols; i++) q[i] ^= 0x80;
  for (int64_t i = 0; i < n; i++) scale[i] = scale[i * groups];
  uint8_t *codes = p->w->data;
  float *scales = (float *)(codes + pu_fp8_codes_bytes(p->w->shape[0], cols));
  PU_TRY(be->upload(be, codes + row * cols, q, (size_t)(n * cols), e));
  return be->upload(be, scales + row, scale, (size_t)n * sizeof *scale, e);
}

pu_err pu_filler_put_fp8(pu_filler *f, const pu_param *p, int64_t row, int64_t n, const void *codes, const float *scale,
                         pu_error *e) {
  pu_backend *be = f->m->be;
  int64_t rows = p->w->shape[0], cols = p->w->shape[1];
  int group = p->w->packing.group;
  PU_TRY(place_codes(f, p->w, e));
  uint8_t *to = p->w->data;
  float *scales = (float *)(to + pu_fp8_codes_bytes(rows, cols));
  PU_TRY(be->upload(be, to + row * cols, codes, (size_t)(n * cols), e));
  return be->upload(be, scales + pu_fp8_scales(group, row, cols), scale,
                    (size_t)pu_fp8_scales(group, n, cols) * sizeof *scale, e);
}

/* The same in FP8 or int8, by the device. */
static pu_err pack_codes(const pu_filler *f, pu_tensor *w, pu_error *e) {
  pu_ctx c = {.be = f->m->be, .mem = f->m->weights, .host = f->m->host, .err = e};
  pu_tensor plain = *w;
  plain.layout = PU_LAYOUT_PLAIN;
  plain.data = f->plain->data;
  PU_TRY(place_codes(f, w, e));
  return w->layout == PU_LAYOUT_FP8 ? pu_fp8_weight(&c, &plain, w) : pu_int8_weight(&c, &plain, w);
}

pu_err pu_filler_finish(pu_filler *f, const pu_param *p, pu_error *e) {
  pu_err err = PU_OK;
  pu_tensor *packed = packed_of(f, p);
  if (packed) {
    pu_ctx c = {.be = f->m->be, .mem = f->m->weights, .host = f->m->host, .err = e};
    err = pu_packer_end(f->packer, &c, packed, e);
  } else if (p->w->layout == PU_LAYOUT_NF4) {
    err = pack_nf4(f, p->w, e);
  } else if (p->w->layout == PU_LAYOUT_FP8 || p->w->layout == PU_LAYOUT_INT8) {
    if (!f->coded) err = pack_codes(f, p->w, e);
  } else if (!p->w->data) {
    pu_tensor plain = *p->w;
    plain.data = f->plain->data;
    const pu_tensor *t = tiled(f, &plain, &err, e);
    if (t) *p->w = *t;
  } else if (f->tile && p->slot == PU_SLOT_EMBED && f->m->hp.tied) {
    f->m->outer[PU_SLOT_OUTPUT] = tiled(f, p->w, &err, e);
  }
  f->done += (double)pu_tensor_count(p->w);
  if (f->progress) f->progress(f->progress_arg, f->done, f->total);
  return err;
}

const char *pu_quant_name(pu_quant q) {
  static const char *const names[] = {[PU_QUANT_FILE] = "file", [PU_QUANT_NONE] = "none", [PU_QUANT_Q8] = "q8",
                                      [PU_QUANT_Q4] = "q4",     [PU_QUANT_FP8] = "fp8",   [PU_QUANT_I8] = "int8"};
  return names[q];
}

pu_model_options pu_model_options_on(const pu_backend *be, const pu_model_options *o) {
  pu_model_options own = *o;
  own.plain |= !be->forward[PU_OP_tile_weight];
  own.fp8_files = be->fp8_files && o->dtype == PU_BF16;
  return own;
}
