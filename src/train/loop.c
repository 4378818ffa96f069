/* What comes when: steps, validation, samples, checkpoints, and the end. */
#include "src/train/loop.h"

#include "src/train/peak.h"
#include "src/train/run_dir.h"

#include <math.h>
#include <string.h>

static bool due(int64_t every, int64_t step) {
  return every > 0 && step % every == 0;
}

static pu_err sample_one(pu_train_loop *l, const char *prompt, pu_buf *text, pu_error *e) {
  pu_buf_clear(text);
  const pu_train_sample s = {.model = l->model,
                             .adapter = l->adapter,
                             .tokenizer = l->tokenizer,
                             .cfg = &l->cfg,
                             .path = l->from,
                             .prompt = prompt};
  PU_TRY(l->hooks->sample(l->hooks->arg, &s, text, e));
  pu_train_log_begin(&l->samples);
  pu_train_log_int(&l->samples, "step", l->state.step);
  pu_train_log_str(&l->samples, "prompt", pu_str_c(prompt));
  pu_train_log_str(&l->samples, "text", pu_str_of(text->data ? text->data : "", text->len));
  PU_TRY(pu_train_log_end(&l->samples, e));
  char label[40];
  snprintf(label, sizeof label, "step %lld:", (long long)l->state.step);
  pu_log_sample(label, prompt, pu_str_of(text->data ? text->data : "", text->len));
  return PU_OK;
}

static pu_err sample(pu_train_loop *l, pu_error *e) {
  pu_buf text;
  pu_buf_init(&text, 16 << 20);
  pu_err err = PU_OK;
  for (size_t i = 0; err == PU_OK && i < l->cfg.sample.prompts.n; i++)
    err = sample_one(l, l->cfg.sample.prompts.v[i], &text, e);
  pu_buf_deinit(&text);
  l->peak_bytes = PU_MAX(l->peak_bytes, pu_train_memory_used(l->be));
  return err;
}

/* Everything metrics.jsonl holds up to this step is on the disk before a checkpoint of it can be. */
static pu_err checkpoint(pu_train_loop *l, pu_error *e) {
  if (l->saved_step == l->state.step) return PU_OK;
  PU_TRY(pu_train_log_sync(&l->metrics, e));
  PU_TRY(pu_train_saver_submit(l->saver, &l->state, e));
  l->saved_step = l->state.step;
  l->peak_bytes = PU_MAX(l->peak_bytes, pu_train_memory_used(l->be));
  return PU_OK;
}

/* A run that is given minutes has as many steps as fit: the number is estimated anew after each, so that the schedule
 * ends when the time does, however fast the machine is. Such a run depends on the clock. Until the mean means something
 * train.steps is a guess that only the schedule goes by. */
void pu_train_loop_follow_clock(pu_train_loop *l) {
  enum { SETTLED = 8 }; /* steps after which their mean time means something */
  double budget = 60 * l->cfg.train.minutes;
  if (budget <= 0) return;
  if (l->state.step < SETTLED && l->state.seconds < budget) {
    l->cfg.train.steps = PU_MAX(l->cfg.train.steps, l->state.step + 1);
    return;
  }
  double left = (budget - l->state.seconds) / (l->state.seconds / (double)l->state.step);
  l->cfg.train.steps = l->state.step + (left > 0.5 ? (int64_t)(left + 0.5) : 0);
}

/* What MFU is held against is measured again after the first second of steps, and after twice the time each time: other
 * programs come and go. */
static pu_err measure_again(pu_train_loop *l, pu_error *e) {
  if (l->peak_flops > 0 && l->seconds >= PU_MAX(l->next_peak, 1)) {
    l->next_peak = 2 * l->seconds;
    l->ctx.err = e;
    PU_TRY(pu_train_peak_raise(&l->ctx, l->model->dtype, &l->peak_flops));
  }
  bool tell = l->peak_flops > l->told_flops && (l->next_peak == 2 * l->seconds || pu_train_loop_done(l));
  return tell ? pu_train_write_facts(l, e) : PU_OK;
}

static pu_err after_step(pu_train_loop *l, bool *stop, pu_error *e) {
  int64_t step = l->state.step;
  pu_train_loop_follow_clock(l);
  PU_TRY(measure_again(l, e));
  bool last = step >= l->cfg.train.steps;
  bool can_sample = l->cfg.sample.every > 0 && l->hooks && l->hooks->sample;
  if (pu_train_data_there(&l->valid) && (last || due(l->cfg.validate.every, step)))
    PU_TRY(pu_train_loop_validate(l, e));
  if (can_sample && (last || due(l->cfg.sample.every, step))) PU_TRY(sample(l, e));
  *stop = pu_signals_stop();
  if (l->hooks && l->hooks->step && !l->hooks->step(l->hooks->arg, step, l->loss)) *stop = true;
  /* While steps are being skipped the weights may be past mending: the checkpoints there are stay the last ones. */
  bool sound = l->state.skips_in_row == 0;
  if (last || *stop || (sound && due(l->cfg.checkpoint.every, step))) PU_TRY(checkpoint(l, e));
  return pu_train_saver_poll(l->saver, e);
}

static pu_err run_steps(pu_train_loop *l, pu_error *e) {
  bool stop = false;
  while (!stop && l->state.step < l->cfg.train.steps) {
    PU_TRY(pu_train_loop_step(l, &stop, e));
    if (!stop)
      PU_TRY(after_step(l, &stop, e));
    else if (l->state.step > 0)
      PU_TRY(checkpoint(l, e));
  }
  pu_train_live_end();
  if (stop && pu_signals_stop() && l->state.step > 0)
    pu_log(PU_LOG_INFO, "stopping when the checkpoint is written; again to end at once");
  PU_TRY(pu_train_saver_wait(l->saver, e));
  if (stop && l->state.step == 0)
    return pu_fail(e, PU_ERR_STOPPED, "stopped before the end of the first step: there was nothing to save");
  if (stop && l->state.step < l->cfg.train.steps)
    return pu_fail(e, PU_ERR_STOPPED, "stopped after step %lld, which is saved: the same command goes on from there",
                   (long long)l->state.step);
  if (l->cfg.train.minutes > 0 && l->state.step < l->cfg.schedule.warmup)
    pu_log(PU_LOG_WARN, "the time was up at step %lld of schedule.warmup %lld: the rate never reached optim.lr",
           (long long)l->state.step, (long long)l->cfg.schedule.warmup);
  return PU_OK;
}

static void fill_result(const pu_train_loop *l, pu_train_result *r) {
  *r = (pu_train_result){.steps = l->state.step,
                         .tokens = l->state.tokens,
                         .seconds = l->seconds,
                         .loss = l->loss,
                         .valid_loss = l->state.valid_loss,
                         .tok_per_s = l->tok_per_s,
                         .mfu = l->mfu,
                         .planned_bytes = l->plan.total,
                         .peak_bytes = l->peak_bytes > l->base_bytes ? l->peak_bytes - l->base_bytes : 0};
  char path[PATH_MAX];
  if (l->saved_step >= 0 && pu_train_dir_step(l->cfg.run, l->saved_step, false, path, NULL) == PU_OK)
    snprintf(r->checkpoint, sizeof r->checkpoint, "%.*s", (int)sizeof r->checkpoint - 1, path);
}

pu_err pu_train_run(const pu_train_config *cfg, const pu_train_hooks *hooks, pu_train_result *result, pu_error *e) {
  pu_train_loop l;
  *result = (pu_train_result){.loss = NAN, .valid_loss = NAN};
  pu_error own;
  if (!e) e = &own;
  pu_err err = pu_train_loop_open(&l, cfg, hooks, e);
  if (err == PU_OK && pu_train_loop_done(&l))
    pu_log(PU_LOG_INFO, "nothing to do: the run has its %lld steps (raise train.%s to go on)", (long long)l.state.step,
           l.cfg.train.minutes > 0 ? "minutes" : "steps");
  else if (err == PU_OK)
    err = run_steps(&l, e);
  if (err == PU_OK) pu_train_loop_forget_text(&l);
  if (err == PU_OK || err == PU_ERR_STOPPED) fill_result(&l, result);
  pu_train_loop_close(&l);
  return err;
}
