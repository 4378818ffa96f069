/* The activation plan: a step is run with operations that do nothing, over memory that is never touched, and the
 * arena's peak is read off. So the plan cannot drift away from what the blocks and the tape really take. */
#include "src/model/weights.h"

#include <string.h>

/* Backward of a dry operation: its inputs' gradients count as written. */
static void written(pu_tensor *t) {
  if (t && t->grad) (void)pu_grad_beta(t);
}

#define DRY_BACKWARD(op, ...)                                                                                          \
  static pu_err dry_##op(pu_backend *be, void *args, pu_error *e) {                                                    \
    const pu_##op##_args *a = args;                                                                                    \
    pu_tensor *inputs[] = {__VA_ARGS__};                                                                               \
    (void)be;                                                                                                          \
    (void)e;                                                                                                           \
    for (size_t i = 0; i < PU_COUNT(inputs); i++) written(inputs[i]);                                                  \
    return PU_OK;                                                                                                      \
  }
DRY_BACKWARD(embedding, a->w)
DRY_BACKWARD(rmsnorm_add, a->res, a->x, a->w)
DRY_BACKWARD(linear, a->x, a->w, a->b)
DRY_BACKWARD(linear_fp8, a->x, a->w, a->b)
DRY_BACKWARD(mlp_fp8, a->x, a->gate_up, a->down)
DRY_BACKWARD(lora, a->x)
DRY_BACKWARD(qk_norm, a->qkv, a->wq, a->wk)
DRY_BACKWARD(rope, a->qkv)
DRY_BACKWARD(attention, a->qkv)
DRY_BACKWARD(swiglu, a->gu)
DRY_BACKWARD(moe_route, a->logits)
DRY_BACKWARD(moe_mlp, a->x, a->weight, a->gate_up, a->down)
DRY_BACKWARD(linear_cross_entropy, a->x)

static pu_err dry_forward(pu_backend *be, void *args, pu_error *e) {
  (void)be;
  (void)args;
  (void)e;
  return PU_OK;
}

/* An address that no one reads: arenas over it only count. */
#define NOWHERE ((void *)(uintptr_t)4096)

static pu_err dry_alloc(pu_backend *be, size_t bytes, void **out, pu_error *e) {
  (void)be;
  (void)bytes;
  (void)e;
  *out = NOWHERE;
  return PU_OK;
}

static void dry_free(pu_backend *be, void *memory) {
  (void)be;
  (void)memory;
}

static pu_err dry_copy(pu_backend *be, void *to, const void *from, size_t bytes, pu_error *e) {
  (void)be;
  (void)to;
  (void)from;
  (void)bytes;
  (void)e;
  return PU_OK;
}

static pu_err dry_clear(pu_backend *be, void *device, size_t bytes, pu_error *e) {
  return dry_copy(be, device, NULL, bytes, e);
}

static pu_err dry_sync(pu_backend *be, pu_error *e) {
  return dry_copy(be, NULL, NULL, 0, e);
}

static pu_backend dry_backend(void) {
  pu_backend be = {.name = "dry",
                   .alloc = dry_alloc,
                   .free = dry_free,
                   .upload = dry_copy,
                   .download = dry_copy,
                   .copy = dry_copy,
                   .clear = dry_clear,
                   .sync = dry_sync};
  for (int op = 0; op < PU_OP_COUNT; op++) be.forward[op] = dry_forward;
#define BACKWARD(op) be.backward[PU_OP_##op] = dry_##op
  BACKWARD(embedding);
  BACKWARD(rmsnorm_add);
  BACKWARD(linear);
  BACKWARD(linear_fp8);
  BACKWARD(mlp_fp8);
  BACKWARD(lora);
  BACKWARD(qk_norm);
  BACKWARD(rope);
  BACKWARD(attention);
  BACKWARD(swiglu);
  BACKWARD(moe_route);
  BACKWARD(moe_mlp);
  BACKWARD(linear_cross_entropy);
#undef BACKWARD
  return be;
}

/* The sequences of the step: as many of seq_len as fit, and a shorter rest. */
static bool make_seqs(pu_arena *a, int64_t tokens, int64_t seq_len, pu_seqs *out) {
  int32_t n = (int32_t)((tokens + seq_len - 1) / seq_len);
  int32_t *cu = pu_arena_alloc(a, ((size_t)n + 1) * sizeof *cu);
  int32_t *positions = pu_arena_zalloc(a, (size_t)tokens * sizeof *positions);
  if (!cu || !positions) return false;
  for (int32_t i = 0; i <= n; i++) cu[i] = (int32_t)PU_MIN(i * seq_len, tokens);
  *out = (pu_seqs){.n = n, .tokens = (int32_t)tokens, .max_len = (int32_t)seq_len, .cu = cu, .positions = positions};
  return true;
}

static pu_err run_dry(pu_model *m, pu_ctx *c, const pu_seqs *seqs, pu_recompute recompute) {
  const int64_t n = seqs->tokens;
  pu_tensor ids = {.dtype = PU_I32, .ndim = 1, .shape = {n}, .stride = {1}, .data = NOWHERE};
  pu_forward f = {.ids = &ids, .seqs = seqs, .recompute = recompute};
  pu_tensor *hidden = pu_model_forward(m, c, &f);
  if (!c->tape) return c->status;
  pu_model_loss(m, c, hidden, &ids, 1.0f);
  return c->status ? c->status : pu_backward(c);
}

static pu_err measure(const pu_model *m, pu_arena *host, int64_t tokens, int64_t seq_len, bool train,
                      pu_recompute recompute, size_t *out) {
  pu_backend be = dry_backend();
  if (m->be) be.loss_bytes = m->be->loss_bytes;
  pu_error e;
  pu_model *dry;
  pu_arena *mem;
  pu_seqs seqs;
  pu_hparams hp = m->hp;
  /* Angles are worked out on the host whatever the backend: as short ones as can be. */
  hp.rope = (pu_rope_params){.base = 2, .factor = 1};
  const pu_model_options o = {
      .dtype = m->dtype, .train = train, .grads = m->grads, .late_grads = m->late_grads, .fp8 = m->fp8};
  if (!make_seqs(host, tokens, seq_len, &seqs)) return PU_ERR_NOMEM;
  PU_TRY(pu_model_new(m->arch, &hp, &be, &o, NULL, &dry, &e));
  pu_err err = pu_arena_wrap(NOWHERE, (size_t)1 << 46, &mem, &e);
  if (err == PU_OK) {
    pu_ctx c = {.be = &be, .mem = mem, .host = host, .err = &e};
    if (train) err = pu_tape_create(host, &c.tape, &e);
    if (err == PU_OK) err = run_dry(dry, &c, &seqs, recompute);
    *out = pu_arena_peak(mem);
    pu_arena_free(mem);
  }
  pu_model_free(dry);
  return err;
}

size_t pu_model_activation_bytes(const pu_model *m, int64_t tokens, int64_t seq_len, bool train,
                                 pu_recompute recompute) {
  pu_arena *host;
  size_t bytes = 0;
  if (tokens < 1 || seq_len < 1 || tokens > INT32_MAX) return 0;
  size_t room = ((size_t)64 << 20) + (size_t)m->hp.layers * 65536 + (size_t)tokens * ((size_t)m->hp.head_dim * 4 + 16);
  if (pu_arena_create(room, &host, NULL) != PU_OK) return 0;
  if (measure(m, host, tokens, seq_len, train, recompute, &bytes) != PU_OK) bytes = 0;
  pu_arena_free(host);
  return bytes;
}
