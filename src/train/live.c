#include "src/train/live.h"

#include <math.h>

static const double PLAIN_SECONDS = 5; /* between plain lines, where log.every does not say otherwise */
/* A step is long after so many seconds: on a terminal; elsewhere, and between plain lines inside it. */
static const double LONG_SECONDS = 1, LONG_PLAIN_SECONDS = 10;

static bool due(pu_train_live *l, const pu_train_config *cfg, int64_t step, double now) {
  if (pu_is_terminal()) return true; /* pu_live_line itself draws at most ten times a second */
  if (step == 1 || step == cfg->train.steps) return true;
  if (cfg->log.every > 0) return step % cfg->log.every == 0;
  return now - l->drawn >= PLAIN_SECONDS;
}

/* A run by the clock has no planned number of steps. */
static const char *step_text(const pu_train_config *cfg, int64_t step, char text[64]) {
  if (cfg->train.minutes > 0)
    snprintf(text, 64, "step %lld", (long long)step);
  else
    snprintf(text, 64, "step %lld/%lld", (long long)step, (long long)cfg->train.steps);
  return text;
}

static void put(const char *line) {
  if (pu_is_terminal())
    pu_live_line(line);
  else
    pu_log(PU_LOG_INFO, "%s", line);
}

/* In a run by the clock, the clock says what is left. */
static void progress(const pu_train_live *l, const pu_train_config *cfg, const pu_train_state *s, char steps[64],
                     char left[16]) {
  double budget = 60 * cfg->train.minutes;
  step_text(cfg, s->step, steps);
  pu_short_time(left, budget > 0 ? fmax(budget - s->seconds, 0) : l->mean_step * (double)(cfg->train.steps - s->step));
}

void pu_train_live_step(pu_train_live *l, const pu_train_config *cfg, const pu_train_state *s, double loss,
                        int64_t tokens, double seconds, double mfu) {
  l->mean_step = l->mean_step > 0 ? 0.9 * l->mean_step + 0.1 * seconds : seconds;
  double now = pu_now();
  if (!due(l, cfg, s->step, now)) return;
  l->drawn = now;
  char line[200], steps[64], rate[16], left[16], share[32] = "";
  if (mfu >= 0) snprintf(share, sizeof share, "  MFU %.0f %%", 100 * mfu);
  progress(l, cfg, s, steps, left);
  snprintf(line, sizeof line, "%s  loss %.4f  %s tok/s%s  %s left", steps, loss,
           pu_short_number(rate, (double)tokens / seconds), share, left);
  put(line);
}

void pu_train_live_begin(pu_train_live *l) {
  l->begun = pu_now();
}

void pu_train_live_inside(pu_train_live *l, const pu_train_config *cfg, int64_t step, int64_t done, int64_t n) {
  double now = pu_now(), since = now - (pu_is_terminal() ? l->begun : fmax(l->begun, l->drawn));
  if (since < (pu_is_terminal() ? LONG_SECONDS : LONG_PLAIN_SECONDS)) return;
  l->drawn = now;
  char line[160], steps[64], left[16];
  pu_short_time(left, (now - l->begun) / (double)done * (double)(n - done));
  snprintf(line, sizeof line, "%s  micro-batch %lld of %lld  %s left in this step", step_text(cfg, step, steps),
           (long long)done, (long long)n, left);
  put(line);
}

void pu_train_live_end(void) {
  if (pu_is_terminal()) pu_live_line(NULL);
}
