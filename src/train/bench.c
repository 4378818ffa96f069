/* puyu bench train: a step as the loop runs it, and the matrix products it is made of. */
#include "src/train/memory.h"
#include "src/train/news.h"
#include "src/train/optim.h"
#include "src/train/peak.h"
#include "src/train/profile.h"

#include <math.h>
#include <stdlib.h>

typedef struct bench {
  const pu_train_bench_options *o;
  pu_hparams hp;
  pu_backend *be;
  pu_model *model;
  pu_train_optim optim;
  pu_train_news news;
  pu_train_profile profile;
  pu_arena *host, *step_host;
  void *memory;
  pu_tape *tape;
  pu_ctx ctx;
  pu_seqs seqs;
  int32_t *ids, *targets; /* on the host */
  size_t before;          /* memory in use */
  pu_train_config cfg;
  double betas[2];
} bench;

/* ---- the products of a step ---- */

/* y = x w^T with [N, K] and [M, K], forward, dx and dw; seconds. Gradients lie in the memory of their tensors' kind. */
static double time_linear(pu_ctx *c, pu_dtype dtype, pu_dtype grads, int64_t N, int64_t M, int64_t K) {
  size_t mark = pu_arena_mark(c->mem), host = pu_arena_mark(c->host);
  pu_tensor *x = pu_tensor_new(c, dtype, 2, (int64_t[]){N, K}, false);
  pu_tensor *dx = pu_tensor_new(c, dtype, 2, (int64_t[]){N, K}, false);
  pu_tensor *w = pu_tensor_new(c, dtype, 2, (int64_t[]){M, K}, false);
  pu_tensor *dw = pu_tensor_new(c, grads, 2, (int64_t[]){M, K}, false);
  pu_tensor *y = pu_tensor_new(c, dtype, 2, (int64_t[]){N, M}, false);
  pu_tensor *dy = pu_tensor_new(c, dtype, 2, (int64_t[]){N, M}, false);
  double best = INFINITY;
  if (x && dx && w && dw && y && dy) {
    x->grad = dx;
    w->grad = dw;
    y->grad = dy;
    pu_linear_args a = {.x = x, .w = w, .y = y};
    for (int i = 0; i < 3 && c->status == PU_OK; i++) {
      x->grad_set = w->grad_set = false;
      y->grad_set = true;
      double begin = pu_now();
      c->status = c->be->forward[PU_OP_linear](c->be, &a, c->err);
      if (c->status == PU_OK) c->status = c->be->backward[PU_OP_linear](c->be, &a, c->err);
      if (c->status == PU_OK) c->status = c->be->sync(c->be, c->err);
      best = fmin(best, pu_now() - begin);
    }
  }
  pu_arena_release(c->mem, mark);
  pu_arena_release(c->host, host);
  return best;
}

/* FLOP/s of all products of a step, each shape weighted by how often it comes. */
static double products_rate(bench *b) {
  const pu_hparams *hp = &b->model->hp;
  int64_t N = b->o->batch * b->o->seq_len, C = hp->hidden, attention = hp->heads * hp->head_dim;
  const struct {
    int64_t count, rows, cols;
  } products[] = {{hp->layers, attention + 2 * hp->kv_heads * hp->head_dim, C},
                  {hp->layers, C, attention},
                  {hp->layers, 2 * hp->ffn, C},
                  {hp->layers, C, hp->ffn},
                  {1, hp->vocab, C}};
  double flops = 0, seconds = 0;
  pu_arena_reset(b->ctx.mem);
  for (size_t i = 0; i < PU_COUNT(products); i++) {
    /* The output matrix is never applied to a whole batch at once (its logits do not fit): nor here. */
    int64_t rows = i + 1 == PU_COUNT(products) ? PU_MIN(N, 1024) : N;
    double t = time_linear(&b->ctx, b->o->dtype, b->model->grads, rows, products[i].rows, products[i].cols);
    double n = (double)products[i].count * (double)N / (double)rows;
    flops += 6.0 * n * (double)rows * (double)products[i].rows * (double)products[i].cols;
    seconds += n * t;
  }
  return flops / seconds;
}

/* ---- a step ---- */

static pu_tensor *to_device(pu_ctx *c, const int32_t *v, int64_t n) {
  pu_tensor *t = pu_tensor_new(c, PU_I32, 1, &n, false);
  if (t) c->status = c->be->upload(c->be, t->data, v, (size_t)n * sizeof *v, c->err);
  return t;
}

/* Forward and backward. */
static pu_err run_passes(bench *b) {
  pu_ctx *c = &b->ctx;
  int64_t N = b->o->batch * b->o->seq_len;
  pu_arena_reset(c->mem);
  pu_train_optim_begin(&b->optim);
  size_t mark = pu_arena_mark(c->host);
  pu_tape_reset(b->tape);
  c->tape = b->tape;
  pu_tensor *ids = to_device(c, b->ids, N), *targets = to_device(c, b->targets, N);
  pu_forward f = {.ids = ids, .seqs = &b->seqs, .recompute = b->o->recompute};
  pu_tensor *hidden = c->status ? NULL : pu_model_forward(b->model, c, &f);
  pu_tensor *loss = hidden ? pu_model_loss(b->model, c, hidden, targets, 1 / (float)N) : NULL;
  pu_err err = loss ? pu_backward(c) : c->status;
  c->tape = NULL;
  pu_arena_release(c->host, mark);
  return err;
}

static pu_err run_update(bench *b, int64_t step, pu_error *e) {
  const pu_adamw_gate gate = {.squares = b->news.squares, .clip = 1, .most = INFINITY};
  PU_TRY(pu_train_optim_sum(&b->optim, &b->ctx, b->news.squares));
  PU_TRY(pu_train_news_send(&b->news, 0, e));
  PU_TRY(pu_train_optim_step(&b->optim, &b->ctx, &b->cfg, b->cfg.optim.lr, &gate, step));
  PU_TRY(pu_train_news_wait(&b->news, e));
  if (isfinite(pu_train_news_squares(&b->news))) return PU_OK;
  return pu_fail(e, PU_ERR_INTERNAL, "the gradient of random weights is not a number");
}

/* A step alone, and how much of it norm and update are. */
static pu_err run_step(bench *b, int64_t step, double *seconds, double *optim_seconds, pu_error *e) {
  double begin = pu_now();
  PU_TRY(run_passes(b));
  PU_TRY(b->ctx.be->sync(b->ctx.be, e));
  double middle = pu_now();
  PU_TRY(run_update(b, step, e));
  PU_TRY(b->ctx.be->sync(b->ctx.be, e));
  *seconds = pu_now() - begin;
  *optim_seconds = pu_now() - middle;
  return PU_OK;
}

enum { ROW_FIRST = 3, ROW_STEPS = 6 };

static pu_err run_row(bench *b, int n, pu_error *e) {
  for (int i = 0; i < n; i++) {
    PU_TRY(run_passes(b));
    PU_TRY(run_update(b, 2 + i, e));
  }
  return b->ctx.be->sync(b->ctx.be, e);
}

/* Steps as a run has them: the host waits once in each, for the norm, with the update in line; and if its power bounds
 * the device, it is slower than for a moment. */
static pu_err measure_row(bench *b, pu_train_bench_result *r, pu_error *e) {
  PU_TRY(run_row(b, ROW_FIRST, e));
  double begin = pu_now();
  PU_TRY(run_row(b, ROW_STEPS, e));
  r->row_seconds = (pu_now() - begin) / ROW_STEPS;
  return PU_OK;
}

static pu_err measure(bench *b, pu_train_bench_result *r, pu_error *e) {
  double seconds, optim;
  PU_TRY(run_step(b, 1, &seconds, &optim, e)); /* touches the memory */
  r->step_seconds = INFINITY;
  for (int64_t i = 0; i < b->o->rounds; i++) {
    PU_TRY(pu_train_peak_raise(&b->ctx, b->o->dtype, &r->peak_flops));
    r->gemm_flops = fmax(r->gemm_flops, products_rate(b));
    PU_TRY(b->ctx.status);
    pu_train_profile_clear(&b->profile);
    PU_TRY(run_step(b, 2 + i, &seconds, &optim, e));
    if (seconds >= r->step_seconds) continue;
    r->step_seconds = seconds;
    r->optim_seconds = optim;
    for (int op = 0; op < PU_OP_COUNT; op++)
      for (int way = 0; way < 2; way++) r->op_seconds[op][way] = b->profile.seconds[op][way];
  }
  double tokens = (double)(b->o->batch * b->o->seq_len);
  r->tok_per_s = tokens / r->step_seconds;
  r->flops = pu_hparams_train_flops(&b->model->hp, b->o->seq_len) * r->tok_per_s;
  r->ratio = r->flops / r->gemm_flops;
  r->peak_flops = fmax(r->peak_flops, r->gemm_flops);
  r->mfu = r->flops / r->peak_flops;
  return b->be->memory ? measure_row(b, r, e) : PU_OK;
}

/* ---- setup ---- */

static const char MEND[] =
    "lower --batch, --seq or --layers, set --recompute gates, some or all, set --state, --weights "
    "and --grads bf16, or take a smaller --shape";

static pu_err make_batch(bench *b, pu_error *e) {
  int64_t T = b->o->seq_len, N = b->o->batch * T;
  int32_t *cu = pu_arena_alloc(b->host, (size_t)(b->o->batch + 1) * sizeof *cu);
  int32_t *positions = pu_arena_alloc(b->host, (size_t)N * sizeof *positions);
  b->ids = pu_arena_alloc(b->host, (size_t)N * sizeof *b->ids);
  b->targets = pu_arena_alloc(b->host, (size_t)N * sizeof *b->targets);
  if (!cu || !positions || !b->ids || !b->targets) return pu_fail(e, PU_ERR_NOMEM, "no memory for a batch");
  for (int64_t i = 0; i <= b->o->batch; i++) cu[i] = (int32_t)(i * T);
  for (int64_t i = 0; i < N; i++) {
    positions[i] = (int32_t)(i % T);
    b->ids[i] = (int32_t)(pu_random_at(1, 0, (uint64_t)i) % (uint64_t)b->model->hp.vocab);
    b->targets[i] = (int32_t)(pu_random_at(1, 1, (uint64_t)i) % (uint64_t)b->model->hp.vocab);
  }
  b->seqs = (pu_seqs){(int32_t)b->o->batch, (int32_t)N, (int32_t)T, cu, positions};
  return PU_OK;
}

/* What the largest product needs, in the room of a step: x, dx, w, y, dy in the compute type, dw in f32. */
static size_t product_bytes(const bench *b) {
  const pu_hparams *hp = &b->model->hp;
  size_t widest = (size_t)PU_MAX(2 * hp->ffn, 3 * hp->hidden), N = (size_t)(b->o->batch * b->o->seq_len);
  return 8 * (N * (widest + (size_t)hp->hidden)) + 16 * (size_t)(hp->vocab * hp->hidden) + 8 * 1024 * (size_t)hp->vocab;
}

static pu_err open_bench(bench *b, pu_train_bench_result *r, pu_error *e) {
  const pu_shape *shape = pu_shape_find(b->o->shape);
  if (!shape) return pu_fail(e, PU_ERR_USAGE, "there is no shape '%s': puyu init --help lists them", b->o->shape);
  b->cfg.train.precision = b->o->dtype == PU_F32;
  b->cfg.train.linear = b->o->fp8;
  b->cfg.train.weights = b->o->weights;
  b->cfg.train.grads = b->o->grads;
  b->cfg.optim.state = b->o->state;
  const pu_model_options mo = pu_train_model_options(&b->cfg);
  const pu_dtype state = pu_train_moment_type(&b->cfg);
  b->hp = shape->hp;
  if (b->o->layers) b->hp.layers = b->o->layers;
  PU_TRY(pu_backend_open(b->o->device, b->o->threads, &b->be, e));
  b->be->any_order = b->o->any_order;
  b->before = pu_train_memory_used(b->be);
  /* Before anything is made, what does not depend on the batch: gradients may come later, one after the other. */
  const size_t moments = 2 * pu_dtype_size(state) * (size_t)pu_hparams_count(&b->hp, false);
  PU_TRY(pu_train_plan_check(b->be, pu_model_weight_bytes(pu_arch_find(shape->arch), &b->hp, &mo) + moments, MEND, e));
  PU_TRY(pu_model_random(pu_arch_find(shape->arch), &b->hp, 1, b->be, &mo, &b->model, e));
  PU_TRY(pu_arena_create((size_t)4 << 30, &b->host, e));
  PU_TRY(pu_arena_create((size_t)1 << 30, &b->step_host, e));
  PU_TRY(pu_train_optim_create(b->be, b->model->params, b->model->n_params, state, b->host, &b->optim, e));
  PU_TRY(pu_train_news_open(b->be, 0, &b->news, e));
  PU_TRY(make_batch(b, e));
  size_t activations =
      pu_model_activation_bytes(b->model, b->o->batch * b->o->seq_len, b->o->seq_len, true, b->o->recompute);
  size_t room = PU_MAX(pu_train_activation_room(b->be, activations), product_bytes(b));
  r->planned_bytes = pu_model_weight_bytes(b->model->arch, &b->model->hp, &mo) + b->optim.moment_bytes +
                     b->optim.grad_bytes + activations +
                     pu_train_work_bytes(b->be, b->model, b->o->batch * b->o->seq_len, b->o->seq_len, 0);
  PU_TRY(pu_train_plan_check(b->be, activations, MEND, e));
  PU_TRY(b->be->alloc(b->be, room, &b->memory, e));
  PU_TRY(pu_arena_wrap(b->memory, room, &b->ctx.mem, e));
  PU_TRY(pu_tape_create(b->step_host, &b->tape, e));
  pu_train_profile_init(&b->profile, b->be);
  b->ctx.be = b->o->profile ? &b->profile.base : b->be;
  b->ctx.host = b->step_host;
  b->ctx.err = e;
  b->betas[0] = 0.9, b->betas[1] = 0.95;
  b->cfg.optim.lr = 1e-4;
  b->cfg.optim.eps = 1e-8;
  b->cfg.optim.weight_decay = 0.1;
  b->cfg.optim.betas = (pu_floats){b->betas, 2};
  return PU_OK;
}

static void close_bench(bench *b) {
  pu_train_optim_free(&b->optim);
  pu_train_news_close(&b->news);
  pu_arena_free(b->ctx.mem);
  if (b->memory) b->be->free(b->be, b->memory);
  pu_arena_free(b->step_host);
  pu_arena_free(b->host);
  pu_model_free(b->model);
  if (b->be) b->be->close(b->be);
}

pu_err pu_train_bench(const pu_train_bench_options *o, pu_train_bench_result *out, pu_error *e) {
  *out = (pu_train_bench_result){0};
  bench b = {.o = o};
  pu_err err = open_bench(&b, out, e);
  double seconds, optim;
  if (err == PU_OK) err = run_step(&b, 1, &seconds, &optim, e);
  if (err == PU_OK) out->peak_bytes = pu_train_memory_used(b.be) - b.before; /* before the products take their own */
  if (err == PU_OK) pu_train_where(b.be, out->where);
  out->layers = b.hp.layers;
  if (err == PU_OK) err = measure(&b, out, e);
  close_bench(&b);
  return err;
}
