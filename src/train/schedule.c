/* Learning rate and batch size as functions of the step. */
#include "puyu/train.h"

#include <math.h>

enum { CONSTANT, LINEAR, COSINE, WSD };

/* How far the decay has come: 0 at its beginning, 1 at the last step. */
static double decay_progress(const pu_train_config *cfg, int64_t step, int64_t begin) {
  int64_t length = cfg->train.steps - begin;
  if (step <= begin || length <= 0) return 0;
  return step >= cfg->train.steps ? 1 : (double)(step - begin) / (double)length;
}

/* WSD (Hu et al. 2024, MiniCPM): warm-up, a stable stretch, then a short decay. */
static int64_t wsd_decay_begin(const pu_train_config *cfg) {
  int64_t decay = cfg->schedule.decay > 0 ? cfg->schedule.decay : PU_MAX(cfg->train.steps / 10, 1);
  return PU_MAX(cfg->train.steps - decay, cfg->schedule.warmup);
}

double pu_train_lr(const pu_train_config *cfg, int64_t step) {
  double high = cfg->optim.lr, low = cfg->schedule.min_lr;
  int64_t warmup = cfg->schedule.warmup;
  if (step < warmup) return high * (double)step / (double)warmup;
  switch (cfg->schedule.type) {
  case LINEAR:
    return high + (low - high) * decay_progress(cfg, step, warmup);
  case COSINE:
    return low + (high - low) * 0.5 * (1 + cos(M_PI * decay_progress(cfg, step, warmup)));
  case WSD:
    return high + (low - high) * decay_progress(cfg, step, wsd_decay_begin(cfg));
  default:
    return high;
  }
}

int64_t pu_train_batch(const pu_train_config *cfg, int64_t step) {
  int64_t full = cfg->train.global_batch, start = cfg->train.ramp_start, steps = cfg->train.ramp_steps;
  if (start <= 0 || step > steps) return full;
  int64_t micro = PU_MAX(cfg->train.micro_batch, 1);
  int64_t batch = start + (int64_t)((double)(full - start) * (double)(step - 1) / (double)steps);
  return PU_MAX(batch / micro * micro, micro); /* whole micro-batches */
}
