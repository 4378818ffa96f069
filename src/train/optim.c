#include "src/train/optim.h"

#include <string.h>

static size_t padded(const pu_tensor *t, pu_dtype type) {
  return ((size_t)pu_tensor_count(t) * pu_dtype_size(type) + 63) / 64 * 64;
}

/* A gradient's header over memory; the model may have made the header already. */
static pu_err give_grad(pu_tensor *w, pu_arena *host, char *memory, pu_error *e) {
  if (!w->grad) {
    w->grad = pu_arena_alloc(host, sizeof *w->grad);
    if (!w->grad) return pu_fail(e, PU_ERR_NOMEM, "no memory for the headers of gradients");
    *w->grad = *w;
    w->grad->dtype = PU_F32;
    w->grad->grad = NULL;
    w->grad->grad_set = false;
  }
  w->grad->data = memory;
  return PU_OK;
}

static bool needs_grad(const pu_param *p) {
  return !p->w->grad || (!p->w->grad->data && !p->w->grad_late);
}

static pu_tensor moment(const pu_tensor *w, pu_dtype type, void *memory) {
  pu_tensor t = *w;
  t.dtype = type;
  t.data = memory;
  t.grad = NULL;
  t.grad_set = t.grad_late = false;
  return t;
}

pu_err pu_train_optim_create(pu_backend *be, pu_param *params, size_t n, pu_dtype state, pu_arena *host,
                             pu_train_optim *out, pu_error *e) {
  *out = (pu_train_optim){.be = be, .params = params, .n_params = n};
  for (size_t i = 0; i < n; i++) {
    out->moment_bytes += 2 * padded(params[i].w, state);
    if (needs_grad(&params[i])) out->grad_bytes += padded(params[i].w, PU_F32);
  }
  out->m = pu_arena_alloc(host, n * sizeof *out->m);
  out->v = pu_arena_alloc(host, n * sizeof *out->v);
  out->g = pu_arena_alloc(host, n * sizeof *out->g);
  out->of = pu_arena_alloc(host, n * sizeof *out->of);
  if (!out->m || !out->v || !out->g || !out->of)
    return pu_fail(e, PU_ERR_NOMEM, "no memory for the optimiser's headers");
  PU_TRY(be->alloc(be, out->moment_bytes, &out->moments, e));
  PU_TRY(be->clear(be, out->moments, out->moment_bytes, e));
  if (out->grad_bytes) PU_TRY(be->alloc(be, out->grad_bytes, &out->grads, e));
  char *at = out->moments, *grad = out->grads;
  for (size_t i = 0; i < n; i++) {
    const pu_param *p = &params[i];
    out->m[i] = moment(p->w, state, at);
    out->v[i] = moment(p->w, state, at + padded(p->w, state));
    at += 2 * padded(p->w, state);
    if (!needs_grad(p)) continue;
    PU_TRY(give_grad(p->w, host, grad, e));
    grad += padded(p->w, PU_F32);
  }
  return PU_OK;
}

void pu_train_optim_free(pu_train_optim *o) {
  if (!o->be) return;
  if (o->moments) o->be->free(o->be, o->moments);
  if (o->grads) o->be->free(o->be, o->grads);
  *o = (pu_train_optim){0};
}

void pu_train_optim_begin(pu_train_optim *o) {
  for (size_t i = 0; i < o->n_params; i++) {
    pu_tensor *w = o->params[i].w;
    w->grad_set = false;
    if (w->grad_late) w->grad->data = NULL;
  }
}

pu_err pu_train_optim_sum(pu_train_optim *o, pu_ctx *c, double *squares) {
  for (size_t i = 0; i < o->n_params; i++) {
    pu_tensor *w = o->params[i].w;
    pu_late_grad(c, w);
    PU_TRY(c->status);
    if (!w->grad_set) PU_TRY(c->be->clear(c->be, w->grad->data, pu_tensor_bytes(w->grad), c->err));
    w->grad_set = true;
    o->g[i] = w->grad;
  }
  return pu_sum_squares(c, o->g, (int)o->n_params, squares);
}

pu_err pu_train_optim_step(pu_train_optim *o, pu_ctx *c, const pu_train_config *cfg, double lr,
                           const pu_adamw_gate *gate, int64_t step) {
  for (size_t i = 0; i < o->n_params; i++) {
    const pu_param *p = &o->params[i];
    bool decay = p->decay || cfg->optim.decay_all;
    o->of[i] = (pu_adamw_param){.p = p->w,
                                .low = p->low,
                                .g = p->w->grad,
                                .m = &o->m[i],
                                .v = &o->v[i],
                                .weight_decay = decay ? (float)cfg->optim.weight_decay : 0,
                                .seed = pu_hash64(p->name, strlen(p->name), (uint64_t)cfg->train.seed)};
  }
  pu_adamw_args a = {.of = o->of,
                     .n = (int)o->n_params,
                     .lr = (float)lr,
                     .beta1 = (float)cfg->optim.betas.v[0],
                     .beta2 = (float)cfg->optim.betas.v[1],
                     .eps = (float)cfg->optim.eps,
                     .step = step,
                     .gate = *gate};
  return pu_adamw(c, &a);
}
