/* The operations as a model calls them: check shapes, take memory for the outputs, run, record. */
#include "src/compute/context.h"

#include <string.h>

/* ---- helpers --------------------------------------------------------------------------------------------------- */

static bool has_grad(const pu_tensor *t) {
  return t && t->grad;
}

static bool run(pu_ctx *c, pu_op op, void *args) {
  if (c->status) return false;
  if (!c->be->forward[op]) {
    pu_ctx_fail(c, PU_ERR_UNSUPPORTED, "%s: this operation is missing (number %d)", c->be->name, (int)op);
    return false;
  }
  return pu_ctx_ok(c, c->be->forward[op](c->be, args, c->err));
}

/* Runs, and records where a gradient will have to pass. Inputs may be NULL. */
static bool run_and_record(pu_ctx *c, pu_record r, size_t args_size) {
  if (!run(c, r.op, r.args)) return false;
  if (!pu_tape_recording(c)) return true;
  int n = 0;
  for (int i = 0; i < r.n_in; i++)
    if (has_grad(r.in[i])) r.in[n++] = r.in[i];
  r.n_in = n;
  if (n || r.again) pu_tape_add(c, &r, args_size);
  return c->status == PU_OK;
}

#define RECORD(name, a, ins, outs)                                                                                     \
  (pu_record) {                                                                                                        \
    .op = PU_OP_##name, .args = (a), .n_in = PU_COUNT(((pu_tensor *[]){ins})),                                         \
    .n_out = PU_COUNT(((pu_tensor *[]){outs})), .in = {ins}, .out = {                                                  \
      outs                                                                                                             \
    }                                                                                                                  \
  }
#define LIST(...) __VA_ARGS__

static pu_tensor *new1(pu_ctx *c, pu_dtype dtype, int64_t n, bool grad) {
  return pu_tensor_new(c, dtype, 1, &n, grad);
}

static pu_tensor *new2(pu_ctx *c, pu_dtype dtype, int64_t rows, int64_t cols, bool grad) {
  return pu_tensor_new(c, dtype, 2, (int64_t[]){rows, cols}, grad);
}

/* For what a segment may return. */
static pu_tensor *new_leaving(pu_ctx *c, pu_dtype dtype, int64_t rows, int64_t cols, bool grad) {
  pu_tensor *t = pu_tape_leaves(c, dtype, rows, cols);
  return t ? t : new2(c, dtype, rows, cols, grad);
}

/* The same for operations whose outputs come from pu_tensor_again. */
static pu_tensor *cheap1(pu_ctx *c, pu_dtype dtype, int64_t n) {
  return pu_tensor_again(c, dtype, 1, &n, false, pu_tape_saving(c));
}

static pu_tensor *cheap2(pu_ctx *c, pu_dtype dtype, int64_t rows, int64_t cols, bool grad) {
  return pu_tensor_again(c, dtype, 2, (int64_t[]){rows, cols}, grad, pu_tape_saving(c));
}

static bool run_and_record_again(pu_ctx *c, pu_record r, void *again, size_t args_size) {
  if (pu_tape_saving(c)) r.again = again;
  return run_and_record(c, r, args_size);
}

/* What is done in place is done again where what it is done to is. */
static bool run_and_record_in_place(pu_ctx *c, pu_record r, size_t args_size) {
  if (pu_tape_again(c, r.out[0])) r.again = r.args;
  return run_and_record(c, r, args_size);
}

static bool is_compute(pu_dtype t) {
  return t == PU_F32 || t == PU_BF16;
}

/* A matrix (or, with ndim 1, a vector) of the compute types whose last dimension is `last` (-1: any). */
static bool fits(const pu_tensor *t, int ndim, int64_t last) {
  return t->ndim == ndim && is_compute(t->dtype) && t->stride[ndim - 1] == 1 &&
         (last < 0 || t->shape[ndim - 1] == last);
}

static void *misfit(pu_ctx *c, const char *op) {
  return pu_ctx_fail(c, PU_ERR_SHAPE, "%s: the tensors do not fit each other", op);
}

/* ---- embedding, norms ------------------------------------------------------------------------------------------ */

pu_tensor *pu_embedding(pu_ctx *c, const pu_tensor *ids, pu_tensor *w, pu_dtype out) {
  if (c->status || !ids || !w) return NULL;
  if (ids->dtype != PU_I32 || ids->ndim != 1 || !fits(w, 2, -1) || !is_compute(out)) return misfit(c, "embedding");
  pu_tensor *y = new2(c, out, ids->shape[0], w->shape[1], has_grad(w));
  if (!y) return NULL;
  pu_embedding_args a = {ids, w, y};
  return run_and_record(c, RECORD(embedding, &a, LIST(w), LIST(y)), sizeof a) ? y : NULL;
}

pu_tensor *pu_rmsnorm_add(pu_ctx *c, pu_tensor *res, pu_tensor *x, pu_tensor *w, float eps, pu_dtype out,
                          pu_tensor **h) {
  *h = NULL;
  if (c->status || !res || !w) return NULL;
  bool ok = fits(res, 2, -1) && res->dtype == PU_F32 && fits(w, 1, res->shape[1]) && is_compute(out) &&
            (!x || (fits(x, 2, res->shape[1]) && x->shape[0] == res->shape[0]));
  if (!ok) return misfit(c, "rmsnorm_add");
  bool grad = has_grad(res) || has_grad(x) || has_grad(w);
  int64_t n = res->shape[0], width = res->shape[1];
  /* With x the sum can be had again; where x is gone, the sum is kept, and y had again from it. */
  bool gone = x && pu_tape_gone(c, x), cheap = !gone || x->dtype == out;
  pu_tensor *sum = !x || pu_tape_over(c) ? res
                   : gone                ? new2(c, PU_F32, n, width, grad)
                                         : cheap2(c, PU_F32, n, width, grad);
  pu_tensor *y = cheap ? cheap2(c, out, n, width, grad) : new2(c, out, n, width, grad);
  pu_tensor *rstd = cheap ? cheap1(c, PU_F32, n) : new1(c, PU_F32, n, false);
  if (!sum || !y || !rstd) return NULL;
  pu_rmsnorm_add_args a = {res, x, w, sum, y, rstd, eps}, again = a;
  if (gone) again.res = sum, again.x = NULL;
  pu_record r = RECORD(rmsnorm_add, &a, LIST(res, x, w), LIST(y, sum));
  if (!(cheap ? run_and_record_again(c, r, &again, sizeof a) : run_and_record(c, r, sizeof a))) return NULL;
  *h = sum;
  return y;
}

/* qkv rows hold heads + 2 kv_heads heads, and query heads share key/value heads evenly. */
static bool fits_heads(const pu_tensor *qkv, int heads, int kv_heads, int head_dim) {
  return heads > 0 && kv_heads > 0 && head_dim > 0 && heads % kv_heads == 0 &&
         fits(qkv, 2, (int64_t)(heads + 2 * kv_heads) * head_dim);
}

pu_tensor *pu_qk_norm(pu_ctx *c, pu_tensor *qkv, pu_tensor *wq, pu_tensor *wk, int heads, int kv_heads, int head_dim,
                      float eps) {
  if (c->status || !qkv || !wq || !wk) return NULL;
  if (!fits_heads(qkv, heads, kv_heads, head_dim) || !fits(wq, 1, head_dim) || !fits(wk, 1, head_dim))
    return misfit(c, "qk_norm");
  pu_tensor *out = cheap2(c, qkv->dtype, qkv->shape[0], qkv->shape[1], has_grad(qkv) || has_grad(wq) || has_grad(wk));
  pu_tensor *rstd = cheap2(c, PU_F32, qkv->shape[0], heads + kv_heads, false);
  if (!out || !rstd) return NULL;
  pu_qk_norm_args a = {qkv, wq, wk, out, rstd, heads, kv_heads, head_dim, eps};
  return run_and_record_again(c, RECORD(qk_norm, &a, LIST(qkv, wq, wk), LIST(out)), &a, sizeof a) ? out : NULL;
}

/* Angles of the heads of qkv's rows. */
static bool fits_angles(const pu_tensor *cs, const pu_tensor *qkv, int head_dim) {
  return head_dim % 2 == 0 && fits(cs, 2, head_dim) && cs->dtype == PU_F32 && cs->shape[0] == qkv->shape[0];
}

pu_tensor *pu_rope(pu_ctx *c, pu_tensor *qkv, const pu_tensor *cs, int heads, int kv_heads, int head_dim) {
  if (c->status || !qkv || !cs) return NULL;
  if (!fits_heads(qkv, heads, kv_heads, head_dim) || !fits_angles(cs, qkv, head_dim)) return misfit(c, "rope");
  pu_rope_args a = {qkv, cs, heads, kv_heads, head_dim};
  return run_and_record_in_place(c, RECORD(rope, &a, LIST(qkv), LIST(qkv)), sizeof a) ? qkv : NULL;
}

/* ---- linear ---------------------------------------------------------------------------------------------------- */

pu_tensor *pu_linear(pu_ctx *c, pu_tensor *x, pu_tensor *w, pu_tensor *b, bool y_f32) {
  if (c->status || !x || !w) return NULL;
  if (!fits(x, 2, -1) || !fits(w, 2, x->shape[1]) || x->dtype != w->dtype || (b && !fits(b, 1, w->shape[0])))
    return misfit(c, "linear");
  bool grad = has_grad(x) || has_grad(w) || has_grad(b);
  bool frozen = w->layout == PU_LAYOUT_NF4 && !has_grad(w);
  if (w->layout != PU_LAYOUT_PLAIN && !frozen && pu_tape_recording(c) && grad)
    return pu_ctx_fail(c, PU_ERR_UNSUPPORTED,
                       "linear: a tiled or packed weight has no backward; train with the plain one");
  pu_tensor *y = new_leaving(c, y_f32 ? PU_F32 : x->dtype, x->shape[0], w->shape[0], grad);
  if (!y) return NULL;
  pu_linear_args a = {.x = x, .w = w, .b = b, .y = y};
  return run_and_record(c, RECORD(linear, &a, LIST(x, w, b), LIST(y)), sizeof a) ? y : NULL;
}

/* A matrix that products in FP8 take. */
static bool fits_fp8(const pu_tensor *t) {
  return t->dtype == PU_BF16 && t->layout == PU_LAYOUT_PLAIN && t->shape[0] > 0 && t->shape[0] % PU_FP8_TILE == 0 &&
         t->shape[1] % PU_FP8_TILE == 0 && t->stride[0] % 8 == 0 && (uintptr_t)t->data % 16 == 0;
}

pu_tensor *pu_linear_fp8(pu_ctx *c, pu_tensor *x, pu_tensor *w, pu_tensor *b) {
  if (c->status || !x || !w) return NULL;
  if (!fits(x, 2, -1) || !fits(w, 2, x->shape[1]) || (b && !fits(b, 1, w->shape[0]))) return misfit(c, "linear_fp8");
  if (!fits_fp8(x) || !fits_fp8(w)) return pu_linear(c, x, w, b, false);
  bool grad = has_grad(x) || has_grad(w) || has_grad(b);
  pu_tensor *y = new2(c, x->dtype, x->shape[0], w->shape[0], grad);
  if (!y) return NULL;
  pu_linear_fp8_args a = {.x = x, .w = w, .b = b, .y = y};
  return run_and_record(c, RECORD(linear_fp8, &a, LIST(x, w, b), LIST(y)), sizeof a) ? y : NULL;
}

static bool fits_lora(const pu_tensor *x, const pu_tensor *y, const pu_lora_part *p) {
  return p->a && p->b && fits(p->a, 2, x->shape[1]) && fits(p->b, 2, p->a->shape[0]) && p->a->dtype == x->dtype &&
         p->b->dtype == x->dtype && p->a->layout == PU_LAYOUT_PLAIN && p->b->layout == PU_LAYOUT_PLAIN && p->row >= 0 &&
         p->rows > 0 && p->row + p->rows <= x->shape[0] && p->from >= 0 && p->from + p->b->shape[0] <= y->shape[1] &&
         p->a->shape[0] <= PU_LORA_MAX_RANK;
}

/* The parts must live as long as the record. */
static bool record_lora(pu_ctx *c, const pu_lora_args *a) {
  bool grad = has_grad(a->x), again = pu_tape_again(c, a->y);
  for (int i = 0; i < a->n; i++) grad |= has_grad(a->parts[i].a) || has_grad(a->parts[i].b);
  if (!pu_tape_recording(c) || (!grad && !again)) return true;
  size_t bytes = (size_t)a->n * sizeof *a->parts;
  pu_lora_args kept = *a;
  pu_lora_part *parts = pu_arena_alloc(c->host, bytes);
  if (!parts) return pu_ctx_fail(c, PU_ERR_NOMEM, "no memory for the tape");
  kept.parts = memcpy(parts, a->parts, bytes);
  /* The product that y came from has perhaps nothing to learn. */
  if (grad && !a->y->grad) a->y->grad = pu_tensor_over(c, a->y->dtype, 2, a->y->shape, NULL);
  pu_record r = {.op = PU_OP_lora, .args = &kept, .n_in = has_grad(a->x), .n_out = 1, .in = {a->x}, .out = {a->y}};
  if (again) r.again = &kept;
  if (!c->status) pu_tape_add(c, &r, sizeof kept);
  return c->status == PU_OK;
}

pu_tensor *pu_lora(pu_ctx *c, pu_tensor *x, pu_tensor *y, const pu_lora_part *parts, int n) {
  if (c->status || !x || !y || n == 0) return c->status || !x ? NULL : y;
  bool ok = fits(x, 2, -1) && fits(y, 2, -1) && y->dtype == x->dtype && y->shape[0] == x->shape[0];
  for (int i = 0; i < n && ok; i++) ok = fits_lora(x, y, &parts[i]);
  if (!ok) return misfit(c, "lora");
  pu_lora_args a = {x, y, parts, n};
  return run(c, PU_OP_lora, &a) && record_lora(c, &a) ? y : NULL;
}

pu_tensor *pu_tile_weight(pu_ctx *c, const pu_tensor *w) {
  if (c->status || !w) return NULL;
  if (!fits(w, 2, -1) || w->layout != PU_LAYOUT_PLAIN) return misfit(c, "tile_weight");
  pu_tensor *out = pu_tensor_over(c, w->dtype, 2, w->shape, NULL);
  if (!out) return NULL;
  size_t bytes = pu_tiled_bytes(w->dtype, w->shape[0], w->shape[1]);
  out->layout = PU_LAYOUT_TILED;
  out->data = pu_arena_alloc(c->mem, bytes);
  if (!out->data) return pu_ctx_fail(c, PU_ERR_NOMEM, "%zu bytes for a weight do not fit", bytes);
  pu_tile_weight_args a = {w, out};
  return run(c, PU_OP_tile_weight, &a) ? out : NULL;
}

/* To codes, with a scale for each row. */
static pu_err code_rows(pu_ctx *c, const pu_tensor *w, pu_tensor *out, pu_layout layout, const char *name) {
  bool ok = fits(w, 2, -1) && w->layout == PU_LAYOUT_PLAIN && w->dtype == PU_BF16 && out->layout == layout &&
            out->ndim == 2 && out->shape[0] == w->shape[0] && out->shape[1] == w->shape[1] && w->shape[0] % 16 == 0 &&
            w->shape[1] % 16 == 0 && w->stride[0] % 8 == 0 && out->packing.group == 0;
  if (layout == PU_LAYOUT_INT8) ok = ok && w->shape[1] <= PU_INT8_MOST_COLS;
  if (c->status == PU_OK && !ok) misfit(c, name);
  pu_tile_weight_args a = {w, out};
  run(c, PU_OP_tile_weight, &a);
  return c->status;
}

pu_err pu_fp8_weight(pu_ctx *c, const pu_tensor *w, pu_tensor *out) {
  return code_rows(c, w, out, PU_LAYOUT_FP8, "fp8_weight");
}

pu_err pu_int8_weight(pu_ctx *c, const pu_tensor *w, pu_tensor *out) {
  return code_rows(c, w, out, PU_LAYOUT_INT8, "int8_weight");
}

pu_err pu_pack_weight(pu_ctx *c, const pu_pack_weight_args *a) {
  pu_pack_weight_args args = *a;
  const pu_packing *p = &a->out->packing;
  bool ok = a->out->layout == PU_LAYOUT_PACKED && (a->out->ndim == 2 || a->out->ndim == 3) &&
            is_compute(a->out->dtype) && a->out->shape[a->out->ndim - 1] <= 1 << 18 && (p->bits == 4 || p->bits == 8) &&
            (p->group == 32 || p->group == 64 || p->group == 128) && p->zeros == (a->zero != NULL) &&
            p->ordered == (a->order != NULL);
  if (c->status == PU_OK && !ok) misfit(c, "pack_weight");
  run(c, PU_OP_pack_weight, &args);
  return c->status;
}

/* ---- attention ------------------------------------------------------------------------------------------------- */

pu_tensor *pu_attention(pu_ctx *c, pu_tensor *qkv, const pu_seqs *seqs, int heads, int kv_heads, int head_dim,
                        int window, float scale) {
  if (c->status || !qkv) return NULL;
  if (!fits_heads(qkv, heads, kv_heads, head_dim) || seqs->tokens != qkv->shape[0]) return misfit(c, "attention");
  pu_tensor *out = new2(c, qkv->dtype, qkv->shape[0], (int64_t)heads * head_dim, has_grad(qkv));
  pu_tensor *lse = new2(c, PU_F32, heads, qkv->shape[0], false);
  if (!out || !lse) return NULL;
  pu_attention_args a = {qkv, out, lse, seqs, heads, kv_heads, head_dim, window, scale};
  return run_and_record(c, RECORD(attention, &a, LIST(qkv), LIST(out)), sizeof a) ? out : NULL;
}

static bool fits_cache(const pu_kv *kv, const pu_tensor *t, int bits, int kv_heads, int head_dim) {
  bool type = bits ? t->dtype == PU_U8 && head_dim * bits % 8 == 0 : is_compute(t->dtype);
  return type && t->ndim == 4 && pu_tensor_contiguous(t) && t->shape[1] == kv_heads && t->shape[2] == kv->block &&
         t->shape[3] == pu_kv_row(bits, head_dim);
}

static bool fits_ready(const pu_qk_ready *r, const pu_tensor *qkv, int head_dim) {
  bool norms = !r->wq == !r->wk && (!r->wq || (fits(r->wq, 1, head_dim) && fits(r->wk, 1, head_dim)));
  return norms && (!r->cs || fits_angles(r->cs, qkv, head_dim));
}

pu_tensor *pu_attention_paged(pu_ctx *c, pu_tensor *qkv, const pu_qk_ready *ready, const pu_seqs *seqs, const pu_kv *kv,
                              int heads, int kv_heads, int head_dim, int window, float scale) {
  if (c->status || !qkv) return NULL;
  if (!fits_heads(qkv, heads, kv_heads, head_dim) || seqs->tokens != qkv->shape[0] ||
      !fits_ready(ready, qkv, head_dim) || !fits_cache(kv, kv->k, kv->k_bits, kv_heads, head_dim) ||
      !fits_cache(kv, kv->v, kv->v_bits, kv_heads, head_dim))
    return misfit(c, "attention_paged");
  pu_tensor *out = new2(c, qkv->dtype, qkv->shape[0], (int64_t)heads * head_dim, false);
  if (!out) return NULL;
  pu_attention_paged_args a = {qkv, out, *ready, seqs, kv, heads, kv_heads, head_dim, window, scale};
  return run(c, PU_OP_attention_paged, &a) ? out : NULL;
}

/* ---- MLPs ------------------------------------------------------------------------------------------------------ */

pu_tensor *pu_swiglu(pu_ctx *c, pu_tensor *gu) {
  if (c->status || !gu) return NULL;
  if (!fits(gu, 2, -1) || gu->shape[1] % 2) return misfit(c, "swiglu");
  bool again = pu_tape_gates(c);
  pu_tensor *y = pu_tensor_again(c, gu->dtype, 2, (int64_t[]){gu->shape[0], gu->shape[1] / 2}, has_grad(gu), again);
  if (!y) return NULL;
  pu_swiglu_args a = {gu, y, false};
  pu_record r = RECORD(swiglu, &a, LIST(gu), LIST(y));
  r.in_back = &a.again;
  if (again) r.again = &a;
  return run_and_record(c, r, sizeof a) ? y : NULL;
}

pu_tensor *pu_linear_swiglu(pu_ctx *c, pu_tensor *x, pu_tensor *w) {
  if (c->status || !x || !w) return NULL;
  if (c->tape) return pu_swiglu(c, pu_linear(c, x, w, NULL, false));
  if (!fits(x, 2, -1) || !fits(w, 2, x->shape[1]) || x->dtype != w->dtype || w->shape[0] % 2)
    return misfit(c, "linear_swiglu");
  pu_linear_swiglu_args a = {.x = x, .w = w, .y = new2(c, x->dtype, x->shape[0], w->shape[0] / 2, false)};
  size_t mark = pu_arena_mark(c->mem);
  a.gu = new2(c, x->dtype, x->shape[0], w->shape[0], false);
  bool ok = a.y && a.gu && run(c, PU_OP_linear_swiglu, &a);
  pu_arena_release(c->mem, mark);
  return ok ? a.y : NULL;
}

pu_tensor *pu_mlp_fp8(pu_ctx *c, pu_tensor *x, pu_tensor *gate_up, pu_tensor *down) {
  if (c->status || !x || !gate_up || !down) return NULL;
  bool ok = fits(x, 2, -1) && fits(gate_up, 2, x->shape[1]) && gate_up->shape[0] % 2 == 0 &&
            fits(down, 2, gate_up->shape[0] / 2);
  if (!ok) return misfit(c, "mlp_fp8");
  if (!fits_fp8(x) || !fits_fp8(gate_up) || !fits_fp8(down))
    return pu_linear_fp8(c, pu_swiglu(c, pu_linear_fp8(c, x, gate_up, NULL)), down, NULL);
  bool grad = has_grad(x) || has_grad(gate_up) || has_grad(down);
  pu_mlp_fp8_args a = {.x = x, .gate_up = gate_up, .down = down};
  a.gu = new2(c, x->dtype, x->shape[0], gate_up->shape[0], false);
  a.y = new2(c, x->dtype, x->shape[0], down->shape[0], grad);
  if (c->status) return NULL;
  return run_and_record(c, RECORD(mlp_fp8, &a, LIST(x, gate_up, down), LIST(a.y)), sizeof a) ? a.y : NULL;
}

pu_tensor *pu_moe_route(pu_ctx *c, pu_tensor *logits, int k, pu_tensor **weight) {
  *weight = NULL;
  if (c->status || !logits) return NULL;
  if (!fits(logits, 2, -1) || logits->dtype != PU_F32 || k < 1 || k > logits->shape[1]) return misfit(c, "moe_route");
  pu_tensor *idx = new2(c, PU_I32, logits->shape[0], k, false);
  pu_tensor *wt = new2(c, PU_F32, logits->shape[0], k, has_grad(logits));
  if (!idx || !wt) return NULL;
  pu_moe_route_args a = {logits, idx, wt, k};
  if (!run_and_record(c, RECORD(moe_route, &a, LIST(logits), LIST(wt)), sizeof a)) return NULL;
  *weight = wt;
  return idx;
}

pu_tensor *pu_moe_mlp(pu_ctx *c, pu_tensor *x, pu_tensor *idx, pu_tensor *weight, pu_tensor *gate_up, pu_tensor *down) {
  if (c->status || !x || !idx || !weight || !gate_up || !down) return NULL;
  bool ok = fits(x, 2, -1) && fits(gate_up, 3, x->shape[1]) && gate_up->shape[1] % 2 == 0 &&
            fits(down, 3, gate_up->shape[1] / 2) && down->shape[0] == gate_up->shape[0] &&
            down->shape[1] == x->shape[1] && idx->shape[0] == x->shape[0] && weight->shape[1] == idx->shape[1] &&
            gate_up->dtype == x->dtype && down->dtype == x->dtype && gate_up->layout <= PU_LAYOUT_PACKED &&
            down->layout <= PU_LAYOUT_PACKED;
  if (!ok) return misfit(c, "moe_mlp");
  bool grad = has_grad(x) || has_grad(weight) || has_grad(gate_up) || has_grad(down);
  if ((gate_up->layout != PU_LAYOUT_PLAIN || down->layout != PU_LAYOUT_PLAIN) && pu_tape_recording(c) && grad)
    return pu_ctx_fail(c, PU_ERR_UNSUPPORTED, "moe_mlp: a packed weight has no backward; train with the plain one");
  int64_t n = x->shape[0], width = x->shape[1], slots = n * idx->shape[1], inner = down->shape[2];
  pu_moe_mlp_args a = {.x = x, .idx = idx, .weight = weight, .gate_up = gate_up, .down = down};
  a.y = new_leaving(c, x->dtype, n, width, grad);
  a.order = new1(c, PU_I32, slots, false);
  a.offsets = new1(c, PU_I32, gate_up->shape[0] + 1, false);
  a.gu = new2(c, x->dtype, slots, 2 * inner, false);
  a.act = new2(c, x->dtype, slots, inner, false);
  a.out = new2(c, x->dtype, slots, width, false);
  if (c->status) return NULL;
  return run_and_record(c, RECORD(moe_mlp, &a, LIST(x, weight, gate_up, down), LIST(a.y)), sizeof a) ? a.y : NULL;
}

/* ---- loss, optimiser ------------------------------------------------------------------------------------------- */

/* The losses, where they outlive the blocks' memory; and w's gradient, which is made with them. */
static pu_tensor *new_last(pu_ctx *c, pu_tensor *w, int64_t n) {
  pu_tensor *loss = pu_tensor_over(c, PU_F32, 1, &n, NULL);
  pu_late_grad(c, w);
  if (loss) loss->data = pu_tape_last(c, pu_tensor_bytes(loss));
  return loss;
}

pu_tensor *pu_linear_cross_entropy(pu_ctx *c, pu_tensor *x, pu_tensor *w, const pu_tensor *targets, float grad_scale) {
  if (c->status || !x || !w || !targets) return NULL;
  if (!fits(x, 2, -1) || !fits(w, 2, x->shape[1]) || x->dtype != w->dtype || targets->dtype != PU_I32 ||
      targets->shape[0] != x->shape[0])
    return misfit(c, "linear_cross_entropy");
  bool grad = pu_tape_recording(c) && (has_grad(x) || has_grad(w));
  if (w->layout > PU_LAYOUT_PACKED || (grad && w->layout != PU_LAYOUT_PLAIN))
    return pu_ctx_fail(
        c, PU_ERR_UNSUPPORTED,
        "linear_cross_entropy: a tiled or packed weight has no backward, and NF4, FP8 and INT8 no forward");
  pu_tensor *loss = grad && w->grad_late ? new_last(c, w, x->shape[0]) : new1(c, PU_F32, x->shape[0], false);
  pu_tensor *dx = grad ? new2(c, x->dtype, x->shape[0], x->shape[1], false) : NULL;
  if (c->status) return NULL;
  pu_linear_cross_entropy_args a = {
      .x = x, .w = w, .targets = targets, .loss = loss, .dx = dx, .grad_scale = grad_scale};
  pu_record r = {.op = PU_OP_linear_cross_entropy, .args = &a};
  size_t mark = pu_arena_mark(c->mem);
  if (c->be->loss_bytes) a.room = pu_arena_alloc(c->mem, c->be->loss_bytes(x->shape[0], w->shape[0]));
  bool ok = run(c, r.op, &a);
  pu_arena_release(c->mem, mark);
  if (!ok) return NULL;
  /* No inputs are named: backward hands dx on as x's gradient, in its own memory where x has none yet. */
  if (dx && has_grad(x)) pu_tape_add(c, &r, sizeof a);
  return c->status ? NULL : loss;
}

static bool fits_list(const pu_tensor *t, pu_dtype dtype, int64_t n) {
  return t->dtype == dtype && t->ndim == 1 && t->stride[0] == 1 && (n < 0 || t->shape[0] == n);
}

pu_tensor *pu_adjust_logits(pu_ctx *c, pu_tensor *logits, const pu_tensor *penalty, const pu_tensor *offsets,
                            const pu_tensor *ids, const pu_tensor *values) {
  if (c->status || !logits || !penalty || !offsets || !ids || !values) return NULL;
  const int64_t n = logits->shape[0];
  if (!fits(logits, 2, -1) || logits->dtype != PU_F32 || !fits_list(penalty, PU_F32, n) ||
      !fits_list(offsets, PU_I32, 3 * n + 1) || !fits_list(ids, PU_I32, -1) ||
      !fits_list(values, PU_F32, ids->shape[0]))
    return misfit(c, "adjust_logits");
  pu_adjust_logits_args a = {logits, penalty, offsets, ids, values};
  return run(c, PU_OP_adjust_logits, &a) ? logits : NULL;
}

pu_tensor *pu_top_logits(pu_ctx *c, const pu_tensor *logits, int64_t vocab, int k, const pu_tensor *scale,
                         pu_tensor **values, pu_tensor **sums) {
  *values = *sums = NULL;
  if (c->status || !logits || !scale) return NULL;
  if (!fits(logits, 2, -1) || logits->dtype != PU_F32 || !fits(scale, 1, logits->shape[0]) || scale->dtype != PU_F32 ||
      k < 1 || k > PU_TOP_MOST || k > vocab || vocab > logits->shape[1])
    return misfit(c, "top_logits");
  int64_t n = logits->shape[0];
  pu_top_logits_args a = {.logits = logits, .scale = scale, .vocab = vocab, .k = k};
  a.values = new2(c, PU_F32, n, k, false);
  a.ids = new2(c, PU_I32, n, k, false);
  a.sums = new2(c, PU_F32, n, 2, false);
  if (c->status || !run(c, PU_OP_top_logits, &a)) return NULL;
  *values = a.values;
  *sums = a.sums;
  return a.ids;
}

pu_err pu_sum_squares(pu_ctx *c, const pu_tensor *const *t, int n, double *out) {
  pu_sum_squares_args a = {t, n, out};
  for (int i = 0; i < n; i++)
    if (!c->status && !is_compute(t[i]->dtype)) misfit(c, "sum_squares");
  run(c, PU_OP_sum_squares, &a);
  return c->status;
}

static bool can_step(const pu_adamw_param *a) {
  int64_t n = pu_tensor_count(a->p);
  return pu_tensor_count(a->g) == n && pu_tensor_count(a->m) == n && pu_tensor_count(a->v) == n &&
         is_compute(a->g->dtype) && is_compute(a->p->dtype) && is_compute(a->m->dtype) && a->v->dtype == a->m->dtype &&
         (!a->low || (pu_tensor_count(a->low) == n && a->low->dtype == PU_U16 && a->p->dtype == PU_BF16));
}

pu_err pu_adamw(pu_ctx *c, const pu_adamw_args *a) {
  pu_adamw_args args = *a;
  const pu_tensor *finite = a->gate.finite;
  bool ok = a->step > 0 && (!finite || (finite->dtype == PU_F32 && pu_tensor_contiguous(finite)));
  for (int i = 0; i < a->n; i++) ok = ok && can_step(&a->of[i]);
  if (!ok) misfit(c, "adamw");
  run(c, PU_OP_adamw, &args);
  return c->status;
}
