/* Pretraining: given minutes, not steps, so that it ends in time on any machine. */
#include <math.h>
#include <string.h>

#include "puyu/tune.h"
#include "src/cli/demo/demo.h"
#include "src/cli/sample.h"

const char *pu_demo_quoted(pu_arena *a, const char *s) {
  size_t len = strlen(s);
  char *out = pu_arena_alloc(a, 2 * len + 1), *p = out;
  for (size_t i = 0; out && i < len; i++) {
    if (s[i] == '\'') *p++ = '\'';
    *p++ = s[i];
  }
  if (out) *p = 0;
  return out;
}

static pu_err set(pu_demo *d, pu_train_config *cfg, const pu_demo_setting *v, size_t n, pu_error *e) {
  for (size_t i = 0; i < n; i++) {
    if (!v[i].value) return pu_fail(e, PU_ERR_NOMEM, "no memory for the configuration");
    PU_TRY(pu_options_set(pu_train_options, cfg, v[i].key, v[i].value, "demo", d->a, e));
  }
  return PU_OK;
}

pu_err pu_demo_train(pu_demo *d, const pu_demo_setting *v, size_t n, double minutes, pu_train_result *out,
                     pu_error *e) {
  const pu_demo_setting common[] = {
      {"train.steps", "10000"}, /* until the clock knows better */
      {"train.minutes", pu_arena_printf(d->a, "%.6g", minutes)},
      {"train.device", d->o->device},
      {"train.threads", pu_arena_printf(d->a, "%lld", (long long)d->o->threads)},
      {"train.seed", pu_arena_printf(d->a, "%lld", (long long)d->o->seed)},
      {"optim.betas", "[0.9, 0.99]"},
      {"schedule.type", "cosine"},
      {"schedule.min_lr", "1e-4"},
      {"checkpoint.every", "2000"},
      {"checkpoint.keep", "1"},
      {"validate.every", "500"},
      {"validate.batches", "4"},
  };
  const pu_train_hooks hooks = {.feed = pu_tune_feed, .sample = pu_cli_sample_hook};
  pu_train_config cfg;
  PU_TRY(pu_options_default(pu_train_options, &cfg, d->a, e));
  PU_TRY(set(d, &cfg, common, PU_COUNT(common), e));
  PU_TRY(set(d, &cfg, v, n, e));
  pu_err err = pu_train_run(&cfg, &hooks, out, e);
  if (err == PU_ERR_STOPPED && out->checkpoint[0])
    return pu_fail(e, err, "stopped; the model so far is %s, and another demo begins anew", out->checkpoint);
  return err;
}

static pu_err pretrain(pu_demo *d, pu_error *e) {
  const char *shards = pu_demo_quoted(d->a, d->shards);
  if (!shards) return pu_fail(e, PU_ERR_NOMEM, "no memory for the configuration");
  const pu_demo_setting settings[] = {
      {"run", d->run},
      {"model.shape", d->o->shape},
      {"model.tokenizer", d->tokenizer},
      {"model.seed", pu_arena_printf(d->a, "%lld", (long long)d->o->seed)},
      {"data.seq_len", pu_arena_printf(d->a, "%d", PU_DEMO_SEQ_LEN)},
      {"data.sources", pu_arena_printf(d->a, "[{type: shards, path: '%s/train'}]", shards)},
      {"train.global_batch", pu_arena_printf(d->a, "%d", PU_DEMO_BATCH)},
      {"train.micro_batch", pu_arena_printf(d->a, "%d", PU_DEMO_BATCH)},
      /* Small steps, many of them: chosen on another held-out tenth than the one that is scored. */
      {"optim.lr", "2e-3"},
      {"schedule.warmup", "100"},
      {"validate.path", pu_arena_printf(d->a, "%s/valid", d->shards)},
  };
  /* A short text of one's own may have no paragraph to spare for validation. */
  size_t n = PU_COUNT(settings) - (d->tokens.valid_tokens < 2);
  return pu_demo_train(d, settings, n, d->o->minutes * (1 - PU_DEMO_TUNE_SHARE), &d->trained, e);
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  pu_demo_row(t, "model", "%s, %.2f M parameters", d->o->shape, (double)d->parameters / 1e6);
  pu_demo_row(t, "pretraining", "%lld steps, %.1f M tokens, %.0f tokens/s", (long long)d->trained.steps,
              (double)d->trained.tokens / 1e6, d->trained.tok_per_s);
  pu_demo_row(t, "its loss", "%.3f", d->trained.loss);
  if (isfinite(d->trained.valid_loss)) pu_demo_row(t, "on text kept out", "%.3f", d->trained.valid_loss);
}

static pu_err part(const pu_demo *d, pu_buf *html, pu_error *e) {
  PU_TRY(pu_report_curves(d->run, "pretraining", html, e));
  pu_buf_puts(html, "<p class=sub>All of its curves: <a href=\"run/report.html\">run/report.html</a></p>\n");
  return pu_report_write(d->run, NULL, NULL, e);
}

const pu_demo_stage pu_demo_pretrain = {
    "pretraining", "Pretraining", "It learns to go on with the text, from random weights.", pretrain, tell, part};
