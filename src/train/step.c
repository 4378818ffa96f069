#include "src/train/loop.h"

#include <math.h>
#include <string.h>

enum { SPIKE_WARMUP = 20 }; /* gradient norms seen before a spike can be told from a beginning */

/* ---- one micro-batch ---- */

static pu_tensor *upload_i32(pu_ctx *c, const int32_t *host, int64_t n) {
  pu_tensor *t = pu_tensor_new(c, PU_I32, 1, &n, false);
  if (t && c->be->upload(c->be, t->data, host, (size_t)n * sizeof *host, c->err) != PU_OK) c->status = c->err->code;
  return t;
}

/* Rows [from, from + n): their losses into the news from the at-th on, and with a tape their gradients, scaled, into
 * the parameters. Nothing is waited for. */
static pu_err run_rows(pu_train_loop *l, const pu_train_rows *rows, int64_t from, int64_t n, int64_t at,
                       float grad_scale, pu_tape *tape, pu_error *e) {
  pu_ctx *c = &l->ctx;
  pu_arena_reset(c->mem);
  size_t mark = pu_arena_mark(c->host);
  c->tape = tape;
  c->err = e;
  c->status = PU_OK;
  if (tape) pu_tape_reset(tape);
  pu_train_pack_rows(&l->pack, rows, from, n);
  int64_t N = l->pack.seqs.tokens;
  pu_tensor *ids = upload_i32(c, l->pack.ids, N);
  pu_tensor *targets = upload_i32(c, l->pack.targets, N);
  pu_adapter_rows all = {l->adapter, 0, (int32_t)N};
  pu_forward f = {.ids = ids,
                  .seqs = &l->pack.seqs,
                  .recompute = tape ? (pu_recompute)l->cfg.train.recompute : PU_RECOMPUTE_NONE,
                  .adapters = &all,
                  .n_adapters = l->adapter ? 1 : 0};
  pu_tensor *hidden = ids && targets ? pu_model_forward(l->model, c, &f) : NULL;
  pu_tensor *loss = hidden ? pu_model_loss(l->model, c, hidden, targets, grad_scale) : NULL;
  pu_err err = c->status;
  if (err == PU_OK && !loss) err = pu_fail(e, PU_ERR_INTERNAL, "the model gave no loss, and no reason");
  if (err == PU_OK && tape) err = pu_backward(c);
  if (err == PU_OK) err = c->be->copy(c->be, l->news.losses + at, loss->data, (size_t)N * sizeof(float), e);
  c->tape = NULL;
  pu_arena_release(c->host, mark);
  return err;
}

/* Adds the losses of the first n rows, of which the news are, to their sources' sums. */
static void add_losses(pu_train_loop *l, const pu_train_rows *rows, int64_t n) {
  const float *loss = pu_train_news_losses(&l->news);
  for (int64_t i = 0; i < n; i++) {
    const int32_t *targets = rows->targets + i * rows->seq_len;
    for (int64_t j = 0; j < rows->len[i]; j++, loss++) {
      if (targets[j] < 0) continue;
      l->source_loss[rows->source[i]] += (double)*loss;
      l->source_tokens[rows->source[i]]++;
    }
  }
}

/* ---- a step ---- */

/* printf writes the sign of a NaN where it has one. */
static double plain_nan(double v) {
  return isnan(v) ? fabs((double)NAN) : v;
}

/* Model FLOPs of a step. pu_hparams_train_flops is linear in the length that attention runs over, and attention begins
 * anew at each document: a token of a document of n tokens counts n, so that the step counts the sum of n^2. */
static double step_flops(const pu_hparams *hp, int64_t tokens, double squares, bool adapts) {
  double fixed = pu_hparams_train_flops(hp, 0), by_length = pu_hparams_train_flops(hp, 1) - fixed;
  if (adapts)
    fixed *= 2.0 / 3; /* the model's matrices have no gradient of their own; the adapter's products count nothing */
  return fixed * (double)tokens + by_length * squares;
}

/* Where the device is: behind micro-batches of this step. */
typedef struct line {
  uint64_t last, before; /* marks behind the last one asked for, and the one before it; 0: none */
} line;

/* One micro-batch more is in line. The next one is asked for while it runs, and not before: else a signal would be
 * heard only when it is too late. */
static pu_err keep_pace(pu_backend *be, line *in, pu_error *e) {
  if (!be->mark) return PU_OK;
  in->before = in->last;
  PU_TRY(be->mark(be, &in->last, e));
  return in->before ? be->reach(be, in->before, e) : PU_OK;
}

/* Gradients of the whole batch, each token weighted by 1 / (predicted tokens of the whole step): the same whatever the
 * micro-batches. *stop: a signal was heard with micro-batches still to do; they were left out. */
static pu_err accumulate(pu_train_loop *l, int64_t batch, int64_t *predicted, bool *stop, pu_error *e) {
  int64_t micro = PU_MIN(l->cfg.train.micro_batch, batch), tokens = 0;
  line in = {0};
  pu_train_data_read(&l->data, (uint64_t)l->state.samples, batch, l->cfg.data.cross_document, &l->rows);
  *predicted = pu_train_rows_targets(&l->rows);
  float scale = *predicted > 0 ? (float)(1.0 / (double)*predicted) : 0;
  l->squares = 0;
  pu_train_optim_begin(&l->optim);
  pu_train_live_begin(&l->live);
  for (int64_t at = 0; at < batch; at += micro) {
    if (at > 0) PU_TRY(keep_pace(l->be, &in, e));
    *stop = at > 0 && pu_signals_stop();
    if (*stop) return PU_OK;
    const int64_t done = at / micro - (in.last ? 1 : 0); /* at least */
    if (done > 0) pu_train_live_inside(&l->live, &l->cfg, l->state.step + 1, done, (batch + micro - 1) / micro);
    int64_t n = PU_MIN(micro, batch - at);
    PU_TRY(run_rows(l, &l->rows, at, n, tokens, scale, l->tape, e));
    tokens += l->pack.seqs.tokens;
    l->squares += l->pack.squares;
  }
  return PU_OK;
}

/* The norm above which it is a spike: the running mean decides. */
static double most_norm(const pu_train_loop *l) {
  const pu_train_state *s = &l->state;
  return l->cfg.train.spike > 0 && s->norms >= SPIKE_WARMUP ? l->cfg.train.spike * s->norm_mean : INFINITY;
}

/* Asks for the update, which the device takes only if guard() will say the same of the news, and for these: they come
 * while it runs. (A token that is none is told with them: the update was taken then, and the run ends.) Where nothing
 * is predicted there is no loss, and nothing to take. */
static pu_err ask_update(pu_train_loop *l, double lr, int64_t tokens, int64_t predicted, pu_error *e) {
  const pu_tensor losses = {.dtype = PU_F32, .ndim = 1, .shape = {tokens}, .stride = {1}, .data = l->news.losses};
  const pu_adamw_gate gate = {
      .squares = l->news.squares, .finite = &losses, .clip = l->cfg.train.grad_clip, .most = most_norm(l)};
  l->ctx.err = e;
  PU_TRY(pu_train_optim_sum(&l->optim, &l->ctx, l->news.squares));
  PU_TRY(pu_train_news_send(&l->news, tokens, e));
  if (predicted == 0) return PU_OK;
  return pu_train_optim_step(&l->optim, &l->ctx, &l->cfg, lr, &gate, l->state.updates + 1);
}

/* Waits for the news. *loss is the mean before the update. */
static pu_err hear(pu_train_loop *l, int64_t batch, int64_t predicted, double *loss, double *norm, pu_error *e) {
  double sum = 0;
  memset(l->source_loss, 0, l->data.n * sizeof *l->source_loss);
  memset(l->source_tokens, 0, l->data.n * sizeof *l->source_tokens);
  PU_TRY(pu_train_news_wait(&l->news, e));
  add_losses(l, &l->rows, batch);
  for (size_t i = 0; i < l->data.n; i++) sum += l->source_loss[i];
  *loss = plain_nan(predicted > 0 ? sum / (double)predicted : NAN);
  *norm = plain_nan(sqrt(pu_train_news_squares(&l->news)));
  return PU_OK;
}

/* Why the step was not taken, or NULL. */
static const char *guard(const pu_train_loop *l, double loss, double norm) {
  float scale;
  if (!isfinite(loss)) return "the loss is not a number";
  if (pu_adamw_takes(norm, l->cfg.train.grad_clip, most_norm(l), &scale)) return NULL;
  return isfinite(norm) ? "the gradient norm is a spike" : "a gradient is not a number";
}

static void count_update(pu_train_state *s, double norm) {
  s->updates++;
  s->norm_mean = s->norms == 0 ? norm : 0.98 * s->norm_mean + 0.02 * norm;
  s->norms++;
  s->skips_in_row = 0;
}

static pu_err skip(pu_train_loop *l, const char *why, double loss, double norm, pu_error *e) {
  pu_train_state *s = &l->state;
  s->skips++;
  s->skips_in_row++;
  pu_log(PU_LOG_WARN, "step %lld skipped: %s (loss %g, gradient norm %g, its running mean %g)", (long long)s->step, why,
         loss, norm, s->norm_mean);
  if (s->skips_in_row < l->cfg.train.max_skips) return PU_OK;
  return pu_fail(e, PU_ERR_STOPPED,
                 "stopped after %lld skipped steps in a row (%s): lower optim.lr, or look at the data of these steps",
                 (long long)s->skips_in_row, why);
}

static pu_err write_line(pu_train_loop *l, double norm, double lr, int64_t step_tokens, int64_t predicted,
                         double seconds, const char *skipped, pu_error *e) {
  pu_train_log *m = &l->metrics;
  pu_train_log_begin(m);
  pu_train_log_int(m, "step", l->state.step);
  pu_train_log_num(m, "loss", l->loss);
  pu_train_log_num(m, "grad_norm", norm);
  pu_train_log_num(m, "lr", lr);
  pu_train_log_int(m, "tokens", l->state.tokens);
  pu_train_log_int(m, "step_tokens", step_tokens);
  pu_train_log_int(m, "predicted", predicted);
  pu_train_log_num(m, "tok_per_s", l->tok_per_s);
  pu_train_log_num(m, "mfu", l->mfu);
  pu_train_log_num(m, "seconds", seconds);
  if (skipped) pu_train_log_str(m, "skipped", pu_str_c(skipped));
  if (l->data.n > 1) {
    pu_buf sources;
    pu_buf_init(&sources, 1 << 20);
    for (size_t i = 0; i < l->data.n; i++) {
      char text[32];
      pu_format_double(text, l->source_tokens[i] ? l->source_loss[i] / (double)l->source_tokens[i] : NAN);
      pu_buf_puts(&sources, i ? "," : "{");
      pu_buf_json_str(&sources, pu_str_c(l->data.names[i]));
      pu_buf_printf(&sources, ":%s", text);
    }
    pu_buf_putc(&sources, '}');
    if (!sources.failed) pu_train_log_raw(m, "source_loss", sources.data);
    pu_buf_deinit(&sources);
  }
  return pu_train_log_end(m, e);
}

pu_err pu_train_loop_step(pu_train_loop *l, bool *stopped, pu_error *e) {
  pu_train_state *s = &l->state;
  double begin = pu_now(), norm = NAN, loss = NAN;
  int64_t batch = pu_train_batch(&l->cfg, s->step + 1), predicted;
  double lr = pu_train_lr(&l->cfg, s->step + 1);
  PU_TRY(accumulate(l, batch, &predicted, stopped, e));
  if (*stopped) return PU_OK;
  int64_t tokens = pu_train_rows_tokens(&l->rows);
  PU_TRY(ask_update(l, lr, tokens, predicted, e));
  PU_TRY(hear(l, batch, predicted, &loss, &norm, e));
  l->loss = loss;
  s->step++;
  s->samples += batch;
  s->tokens += tokens;
  const char *why = guard(l, l->loss, norm);
  if (!why) count_update(s, norm);
  double seconds = pu_now() - begin;
  s->seconds += seconds;
  l->seconds += seconds;
  l->tok_per_s = (double)tokens / seconds;
  double flops = step_flops(&l->model->hp, tokens, l->squares, l->adapter != NULL) / seconds;
  if (l->peak_flops > 0) l->peak_flops = PU_MAX(l->peak_flops, flops);
  l->mfu = l->peak_flops > 0 ? flops / l->peak_flops : NAN;
  l->peak_bytes = PU_MAX(l->peak_bytes, pu_train_memory_used(l->be));
  PU_TRY(write_line(l, norm, lr, tokens, predicted, seconds, why, e));
  if (why) return skip(l, why, l->loss, norm, e);
  pu_train_live_step(&l->live, &l->cfg, s, l->loss, tokens, seconds, isfinite(l->mfu) ? l->mfu : -1);
  return PU_OK;
}

/* ---- validation ---- */

pu_err pu_train_loop_validate(pu_train_loop *l, pu_error *e) {
  int64_t micro = l->cfg.train.micro_batch, predicted = 0;
  /* Once through a small set at most: nothing is counted twice. */
  int64_t rows = PU_MIN(l->cfg.validate.batches * micro, (int64_t)pu_train_data_pass(&l->valid));
  double all = 0;
  memset(l->source_loss, 0, l->most_sources * sizeof *l->source_loss);
  memset(l->source_tokens, 0, l->most_sources * sizeof *l->source_tokens);
  for (int64_t at = 0; at < rows; at += micro) {
    int64_t n = PU_MIN(micro, rows - at);
    pu_train_data_read(&l->valid, (uint64_t)at, n, l->cfg.data.cross_document, &l->valid_rows);
    PU_TRY(run_rows(l, &l->valid_rows, 0, n, 0, 1, NULL, e));
    PU_TRY(pu_train_news_send(&l->news, l->pack.seqs.tokens, e));
    PU_TRY(pu_train_news_wait(&l->news, e));
    add_losses(l, &l->valid_rows, n);
  }
  for (size_t i = 0; i < l->valid.n; i++) {
    all += l->source_loss[i];
    predicted += l->source_tokens[i];
  }
  l->state.valid_loss = plain_nan(predicted > 0 ? all / (double)predicted : NAN);
  pu_train_log_begin(&l->metrics);
  pu_train_log_int(&l->metrics, "step", l->state.step);
  pu_train_log_num(&l->metrics, "valid_loss", l->state.valid_loss);
  PU_TRY(pu_train_log_end(&l->metrics, e));
  pu_log(PU_LOG_INFO, "step %lld: validation loss %.4f", (long long)l->state.step, l->state.valid_loss);
  return PU_OK;
}
