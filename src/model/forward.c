/* The one forward pass: the blocks of any family, from its hyper-parameters and the slots it has. */
#include "src/model/adapter.h"
#include "src/model/rope.h"

#include <math.h>
#include <string.h>

/* What a block needs; lives in c->host until backward. */
typedef struct block {
  pu_model *m;
  const pu_forward *f;
  const pu_tensor *cs;
  int64_t layer;
} block;

static void see(pu_ctx *c, const block *b, pu_slot slot, const pu_tensor *x, const pu_tensor *idx) {
  const pu_observer *o = b->f->observer;
  if (o && x && !c->status) o->see(o->arg, c, b->layer, slot, x, idx);
}

static void *fail(pu_ctx *c, pu_err code, const char *what) {
  if (c->status == PU_OK) c->status = pu_fail(c->err, code, "%s", what);
  return NULL;
}

/* Adds what the rows' adapters have for this slot. */
static pu_tensor *adapt(pu_ctx *c, const block *b, pu_slot slot, pu_tensor *x, pu_tensor *y) {
  const pu_forward *f = b->f;
  int n = 0, at = 0;
  for (int i = 0; i < f->n_adapters; i++) n += pu_adapter_parts(f->adapters[i].adapter, b->layer, slot, 0, 0, NULL);
  if (!n || !y) return y;
  pu_lora_part *parts = pu_arena_alloc(c->host, (size_t)n * sizeof *parts);
  if (!parts) return fail(c, PU_ERR_NOMEM, "no host memory for the adapters of a forward pass");
  for (int i = 0; i < f->n_adapters; i++) {
    const pu_adapter_rows *r = &f->adapters[i];
    at += pu_adapter_parts(r->adapter, b->layer, slot, r->row, r->rows, parts + at);
  }
  return pu_lora(c, x, y, parts, n);
}

/* Products in FP8: of what is trained. */
static bool in_fp8(const pu_ctx *c, const block *b) {
  return b->m->fp8 && c->tape;
}

static pu_tensor *linear(pu_ctx *c, const block *b, pu_tensor *x, pu_slot weight, pu_slot bias) {
  pu_tensor *const *w = b->m->layers[b->layer].slot;
  see(c, b, weight, x, NULL);
  pu_tensor *y = in_fp8(c, b) ? pu_linear_fp8(c, x, w[weight], w[bias]) : pu_linear(c, x, w[weight], w[bias], false);
  return adapt(c, b, weight, x, y);
}

static pu_tensor *attention(pu_ctx *c, const block *b, pu_tensor *x) {
  const pu_hparams *hp = &b->m->hp;
  pu_tensor *const *w = b->m->layers[b->layer].slot;
  int heads = (int)hp->heads, kv_heads = (int)hp->kv_heads, head_dim = (int)hp->head_dim, window = (int)hp->window;
  float scale = 1.0f / sqrtf((float)head_dim);
  pu_tensor *qkv = linear(c, b, x, PU_SLOT_QKV, PU_SLOT_QKV_BIAS);
  const pu_qk_ready ready = {b->cs, w[PU_SLOT_Q_NORM], w[PU_SLOT_K_NORM], (float)hp->norm_eps};
  const pu_seqs *seqs = b->f->seqs;
  const pu_kv *kv = b->f->kv ? &b->f->kv[b->layer] : NULL;
  pu_tensor *out;
  if (kv) {
    out = pu_attention_paged(c, qkv, &ready, seqs, kv, heads, kv_heads, head_dim, window, scale);
  } else {
    if (hp->qk_norm) qkv = pu_qk_norm(c, qkv, ready.wq, ready.wk, heads, kv_heads, head_dim, ready.eps);
    qkv = pu_rope(c, qkv, ready.cs, heads, kv_heads, head_dim);
    out = pu_attention(c, qkv, seqs, heads, kv_heads, head_dim, window, scale);
  }
  pu_passing(c, true); /* the norm after it adds it to h, which stays */
  out = linear(c, b, out, PU_SLOT_WO, PU_SLOT_WO_BIAS);
  pu_passing(c, false);
  return out;
}

static pu_tensor *mlp(pu_ctx *c, const block *b, pu_tensor *x) {
  pu_tensor *const *w = b->m->layers[b->layer].slot;
  bool plain = !w[PU_SLOT_GATE_UP_BIAS] && !w[PU_SLOT_DOWN_BIAS] && !b->f->observer && !b->f->n_adapters;
  if (in_fp8(c, b) && plain) return pu_mlp_fp8(c, x, w[PU_SLOT_GATE_UP], w[PU_SLOT_DOWN]);
  pu_tensor *gated = plain ? pu_linear_swiglu(c, x, w[PU_SLOT_GATE_UP])
                           : pu_swiglu(c, linear(c, b, x, PU_SLOT_GATE_UP, PU_SLOT_GATE_UP_BIAS));
  pu_leaving(c, true);
  pu_tensor *out = linear(c, b, gated, PU_SLOT_DOWN, PU_SLOT_DOWN_BIAS);
  pu_leaving(c, false);
  return out;
}

/* The router reads the norm of h in f32, whatever the compute type: see dtype_of in model.c. */
static pu_tensor *experts(pu_ctx *c, const block *b, pu_tensor *h, pu_tensor *x) {
  pu_tensor *const *w = b->m->layers[b->layer].slot;
  pu_tensor *weight, *exact = x;
  if (b->m->dtype != PU_F32)
    exact = pu_rmsnorm_add(c, h, NULL, w[PU_SLOT_MLP_NORM], (float)b->m->hp.norm_eps, PU_F32, &h);
  pu_tensor *logits = pu_linear(c, exact, w[PU_SLOT_ROUTER], NULL, true);
  pu_tensor *idx = pu_moe_route(c, logits, (int)b->m->hp.experts_used, &weight);
  see(c, b, PU_SLOT_EXPERTS_GATE_UP, x, idx);
  pu_leaving(c, true);
  pu_tensor *out = pu_moe_mlp(c, x, idx, weight, w[PU_SLOT_EXPERTS_GATE_UP], w[PU_SLOT_EXPERTS_DOWN]);
  pu_leaving(c, false);
  return out;
}

/* Pre-norm: h += attention(norm(h)), h += mlp(norm(h)); each addition happens in the norm that follows it. */
static pu_state run_block(pu_ctx *c, void *arg, pu_state in) {
  const block *b = arg;
  const pu_hparams *hp = &b->m->hp;
  pu_tensor *const *w = b->m->layers[b->layer].slot;
  float eps = (float)hp->norm_eps;
  pu_tensor *h;
  pu_tensor *x = pu_rmsnorm_add(c, in.h, in.x, w[PU_SLOT_ATTN_NORM], eps, b->m->dtype, &h);
  x = attention(c, b, x);
  x = pu_rmsnorm_add(c, h, x, w[PU_SLOT_MLP_NORM], eps, b->m->dtype, &h);
  x = hp->experts ? experts(c, b, h, x) : mlp(c, b, x);
  return (pu_state){h, x};
}

static pu_err keep_first(pu_ctx *c, pu_err err) {
  if (c->status == PU_OK) c->status = err;
  return c->status;
}

/* The tokens' angles, worked out here and sent to the device. */
static pu_tensor *angles(pu_model *m, pu_ctx *c, const pu_forward *f) {
  const int64_t shape[] = {f->seqs->tokens, m->hp.head_dim};
  const int32_t *len = f->rope_len ? f->rope_len : f->kv ? f->kv->len : NULL;
  pu_tensor *cs = pu_tensor_new(c, PU_F32, 2, shape, false);
  if (!cs) return NULL;
  size_t mark = pu_arena_mark(c->host);
  float *host = pu_arena_alloc(c->host, pu_tensor_bytes(cs));
  if (!host) return fail(c, PU_ERR_NOMEM, "no host memory for the angles of so many tokens");
  pu_rope_kept_angles(&m->rope_rows, &m->hp.rope, m->hp.head_dim, f->seqs, len, host);
  pu_err err = keep_first(c, c->be->upload(c->be, cs->data, host, pu_tensor_bytes(cs), c->err));
  pu_arena_release(c->host, mark);
  return err == PU_OK ? cs : NULL;
}

static bool fits(const pu_model *m, const pu_forward *f, pu_ctx *c) {
  if (c->status) return false;
  for (int i = 0; i < f->n_adapters; i++)
    if (f->adapters[i].adapter->m != m || f->adapters[i].adapter->dtype != m->dtype)
      fail(c, PU_ERR_USAGE, "an adapter belongs to another model than the one that is to run with it");
  if (f->ids->ndim != 1 || f->ids->shape[0] != f->seqs->tokens || f->seqs->n < 1 || f->seqs->tokens < 1)
    fail(c, PU_ERR_SHAPE, "the sequences do not cover the tokens of a forward pass");
  if (f->kv && c->tape) fail(c, PU_ERR_USAGE, "a pass over a key/value cache cannot be recorded for backward");
  return c->status == PU_OK;
}

pu_tensor *pu_model_forward(pu_model *m, pu_ctx *c, const pu_forward *f) {
  if (!fits(m, f, c)) return NULL;
  block *blocks = pu_arena_alloc(c->host, (size_t)m->hp.layers * sizeof *blocks);
  pu_forward *kept = pu_arena_alloc(c->host, sizeof *kept);
  if (!blocks || !kept) return fail(c, PU_ERR_NOMEM, "no host memory for the blocks of a forward pass");
  *kept = *f;
  pu_tensor *cs = angles(m, c, f), *h;
  pu_state s = {pu_embedding(c, f->ids, m->outer[PU_SLOT_EMBED], PU_F32), NULL};
  for (int64_t l = 0; l < m->hp.layers && cs; l++) {
    blocks[l] = (block){m, kept, cs, l};
    s = pu_segment(c, run_block, &blocks[l], s, f->recompute);
  }
  return pu_rmsnorm_add(c, s.h, s.x, m->outer[PU_SLOT_OUT_NORM], (float)m->hp.norm_eps, m->dtype, &h);
}

pu_state pu_model_block(pu_model *m, pu_ctx *c, const pu_forward *f, int64_t layer, pu_state in) {
  const pu_state none = {NULL, NULL};
  if (c->status || !in.h) return none;
  if (in.h->ndim != 2 || in.h->shape[0] != f->seqs->tokens || layer < 0 || layer >= m->hp.layers) {
    fail(c, PU_ERR_SHAPE, "the sequences do not cover the residual state, or there is no such layer");
    return none;
  }
  block b = {m, f, angles(m, c, f), layer};
  return b.cs ? run_block(c, &b, in) : none;
}

/* The given rows of hidden, taken as an embedding takes rows of its table. */
static pu_tensor *pick_rows(pu_ctx *c, pu_tensor *hidden, const int32_t *rows, int64_t n) {
  pu_tensor *ids = pu_tensor_new(c, PU_I32, 1, &n, false);
  if (!ids || keep_first(c, c->be->upload(c->be, ids->data, rows, (size_t)n * sizeof *rows, c->err)) != PU_OK)
    return NULL;
  return pu_embedding(c, ids, hidden, hidden->dtype);
}

pu_tensor *pu_model_logits(pu_model *m, pu_ctx *c, pu_tensor *hidden, const int32_t *rows, int64_t n) {
  if (c->status || !hidden) return NULL;
  pu_tensor *x = rows ? pick_rows(c, hidden, rows, n) : hidden;
  return pu_linear(c, x, m->outer[PU_SLOT_OUTPUT], NULL, true);
}

pu_tensor *pu_model_loss(pu_model *m, pu_ctx *c, pu_tensor *hidden, const pu_tensor *targets, float grad_scale) {
  return pu_linear_cross_entropy(c, hidden, m->outer[PU_SLOT_OUTPUT], targets, grad_scale);
}
