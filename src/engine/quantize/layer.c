/* A layer's matrices on their way from a model's weights to few bits and back. */
#include "src/engine/quantize/quantize.h"

#include <stdlib.h>
#include <string.h>

/* ---- which there are ---- */

static bool is_quantised(pu_slot slot) {
  return slot == PU_SLOT_QKV || slot == PU_SLOT_WO || slot == PU_SLOT_GATE_UP || slot == PU_SLOT_DOWN ||
         slot == PU_SLOT_EXPERTS_GATE_UP || slot == PU_SLOT_EXPERTS_DOWN;
}

pu_quant_matrix *pu_quant_layer_find(pu_quant_layer *l, pu_slot slot, int64_t expert) {
  for (size_t i = 0; i < l->n; i++)
    if (l->v[i].slot == slot && l->v[i].expert == expert) return &l->v[i];
  return NULL;
}

/* ---- opening ---- */

/* Rows [row, row + rows) of q. */
static pu_qmatrix view(const pu_qmatrix *q, int64_t row, int64_t rows) {
  pu_qmatrix v = *q;
  int64_t groups = pu_qmatrix_groups(q);
  v.rows = rows;
  v.q += row * q->cols;
  v.scale += row * groups;
  if (v.zero) v.zero += row * groups;
  return v;
}

static pu_err open_matrix(const pu_quant_layer *l, const pu_param *p, int64_t expert, unsigned needs,
                          pu_quant_matrix *out, pu_error *e) {
  const pu_tensor *w = p->w;
  int64_t rows = w->shape[w->ndim - 2], cols = w->shape[w->ndim - 1], row = PU_MAX(expert, 0) * rows;
  *out = (pu_quant_matrix){.slot = p->slot, .expert = expert, .rows = rows, .cols = cols};
  out->q = view(&l->q[p - l->m->params], row, rows);
  out->w = malloc((size_t)(rows * cols) * sizeof *out->w);
  if (!out->w) return pu_fail(e, PU_ERR_NOMEM, "no memory for %lld x %lld weights", (long long)rows, (long long)cols);
  const char *from = (const char *)w->data + (size_t)(row * cols) * pu_dtype_size(w->dtype);
  pu_convert(out->w, PU_F32, from, w->dtype, rows * cols);
  return needs ? pu_quant_inputs_init(&out->in, cols, needs & PU_NEEDS_HESSIAN, e) : PU_OK;
}

static pu_err open_param(pu_quant_layer *l, const pu_param *p, unsigned needs, pu_error *e) {
  const pu_tensor *w = p->w;
  int64_t experts = w->ndim == 3 ? w->shape[0] : 1, rows = w->shape[w->ndim - 2], cols = w->shape[w->ndim - 1];
  pu_qmatrix *q = &l->q[p - l->m->params];
  PU_TRY(pu_qmatrix_init(q, l->o->bits, experts * rows, cols, l->o->group, l->o->symmetric, e));
  for (int64_t x = 0; x < experts; x++) PU_TRY(open_matrix(l, p, w->ndim == 3 ? x : -1, needs, &l->v[l->n++], e));
  return PU_OK;
}

pu_err pu_quant_layer_open(pu_model *m, int64_t layer, const pu_quantize_options *o, unsigned needs,
                           pu_quant_layer *out, pu_error *e) {
  *out = (pu_quant_layer){.m = m, .layer = layer, .o = o};
  size_t most = 4 + 2 * (size_t)m->hp.experts;
  out->v = calloc(most, sizeof *out->v);
  out->q = calloc(m->n_params, sizeof *out->q);
  if (!out->v || !out->q) return pu_fail(e, PU_ERR_NOMEM, "no memory for the list of a layer's matrices");
  for (size_t i = 0; i < m->n_params; i++)
    if (m->params[i].layer == layer && is_quantised(m->params[i].slot))
      PU_TRY(open_param(out, &m->params[i], needs, e));
  return PU_OK;
}

void pu_quant_layer_close(pu_quant_layer *l) {
  for (size_t i = 0; i < l->n; i++) {
    free(l->v[i].w);
    pu_quant_inputs_deinit(&l->v[i].in);
  }
  for (size_t i = 0; l->q && i < l->m->n_params; i++) pu_qmatrix_deinit(&l->q[i]);
  free(l->v);
  free(l->q);
  *l = (pu_quant_layer){0};
}

/* ---- seeing inputs ---- */

/* The rows of x that go to an expert, one after the other. NULL: none, or c->status. */
static pu_tensor *gather(pu_ctx *c, const pu_tensor *x, const pu_tensor *idx, int64_t expert) {
  const int32_t *of = idx->data;
  int64_t used = idx->shape[1], n = 0;
  for (int64_t i = 0; i < idx->shape[0] * used; i++) n += of[i] == expert;
  int64_t shape[] = {n, x->shape[1]};
  pu_tensor *out = n ? pu_tensor_new(c, x->dtype, 2, shape, false) : NULL;
  if (!out) return NULL;
  size_t row = (size_t)x->shape[1] * pu_dtype_size(x->dtype);
  char *to = out->data;
  for (int64_t i = 0; i < idx->shape[0] * used; i++)
    if (of[i] == expert) {
      memcpy(to, (const char *)x->data + (size_t)(i / used) * row, row);
      to += row;
    }
  return out;
}

/* One expert's matrix as a tensor. */
static pu_tensor *expert_of(pu_ctx *c, const pu_tensor *w, int64_t expert) {
  size_t bytes = (size_t)(w->shape[1] * w->shape[2]) * pu_dtype_size(w->dtype);
  return pu_tensor_over(c, w->dtype, 2, w->shape + 1, (char *)w->data + (size_t)expert * bytes);
}

/* What comes out of the first half of an expert goes into its second: worked out here, since the operation of all
 * experts keeps it to itself. */
static void see_experts(pu_quant_layer *l, pu_ctx *c, const pu_tensor *x, const pu_tensor *idx) {
  const pu_tensor *gate_up = l->m->layers[l->layer].slot[PU_SLOT_EXPERTS_GATE_UP];
  for (int64_t i = 0; i < gate_up->shape[0] && !c->status; i++) {
    size_t mark = pu_arena_mark(c->mem);
    pu_tensor *mine = gather(c, x, idx, i);
    if (mine) {
      pu_tensor *act = pu_swiglu(c, pu_linear(c, mine, expert_of(c, gate_up, i), NULL, false));
      pu_quant_inputs_add(&pu_quant_layer_find(l, PU_SLOT_EXPERTS_GATE_UP, i)->in, c, mine);
      if (act) pu_quant_inputs_add(&pu_quant_layer_find(l, PU_SLOT_EXPERTS_DOWN, i)->in, c, act);
    }
    pu_arena_release(c->mem, mark);
  }
}

void pu_quant_layer_see(void *layer, pu_ctx *c, int64_t index, pu_slot slot, const pu_tensor *x, const pu_tensor *idx) {
  pu_quant_layer *l = layer;
  pu_quant_matrix *m = pu_quant_layer_find(l, slot, -1);
  if (index == l->layer && idx) see_experts(l, c, x, idx);
  if (index == l->layer && m) pu_quant_inputs_add(&m->in, c, x);
}

/* ---- back into the model ---- */

typedef struct put_job {
  const pu_quant_matrix *m;
  char *to;
  pu_dtype type;
} put_job;

static void put_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const put_job *j = arg;
  const pu_quant_matrix *m = j->m;
  (void)worker;
  for (int64_t r = begin; r < end; r++) {
    float *w = m->w + r * m->cols;
    pu_qmatrix_to_f32(&m->q, r, w);
    pu_convert(j->to + (size_t)(r * m->cols) * pu_dtype_size(j->type), j->type, w, PU_F32, m->cols);
  }
}

void pu_quant_layer_put(pu_quant_layer *l) {
  for (size_t i = 0; i < l->n; i++) {
    const pu_quant_matrix *m = &l->v[i];
    const pu_tensor *w = l->m->layers[l->layer].slot[m->slot];
    size_t before = (size_t)(PU_MAX(m->expert, 0) * m->rows * m->cols) * pu_dtype_size(w->dtype);
    put_job j = {m, (char *)w->data + before, w->dtype};
    pu_pool_run(l->m->be->pool, m->rows, 16, put_rows, &j);
  }
}
