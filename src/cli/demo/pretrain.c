/* Pretraining: given minutes, not steps, so that it ends in time on any machine. */
#include <math.h>
#include <string.h>

#include "src/cli/demo/demo.h"

/* Text inside single quotes of YAML. */
static const char *quoted(pu_arena *a, const char *s) {
  size_t len = strlen(s);
  char *out = pu_arena_alloc(a, 2 * len + 1), *p = out;
  for (size_t i = 0; out && i < len; i++) {
    if (s[i] == '\'') *p++ = '\'';
    *p++ = s[i];
  }
  if (out) *p = 0;
  return out ? out : "";
}

static pu_err configure(pu_demo *d, pu_train_config *cfg, pu_error *e) {
  PU_TRY(pu_options_default(pu_train_options, cfg, d->a, e));
  const struct {
    const char *key, *value;
  } settings[] = {
      {"run", d->run},
      {"model.shape", d->o->shape},
      {"model.tokenizer", d->tokenizer},
      {"model.seed", pu_arena_printf(d->a, "%lld", (long long)d->o->seed)},
      {"data.seq_len", pu_arena_printf(d->a, "%d", PU_DEMO_SEQ_LEN)},
      {"data.sources", pu_arena_printf(d->a, "[{type: shards, path: '%s/train'}]", quoted(d->a, d->shards))},
      {"train.steps", "10000"}, /* until the clock knows better */
      {"train.minutes", pu_arena_printf(d->a, "%.6g", d->o->minutes)},
      {"train.global_batch", pu_arena_printf(d->a, "%d", PU_DEMO_BATCH)},
      {"train.micro_batch", pu_arena_printf(d->a, "%d", PU_DEMO_BATCH)},
      {"train.device", d->o->device},
      {"train.threads", pu_arena_printf(d->a, "%lld", (long long)d->o->threads)},
      {"train.seed", pu_arena_printf(d->a, "%lld", (long long)d->o->seed)},
      /* Small steps, many of them: chosen on another held-out tenth than the one that is scored. */
      {"optim.lr", "2e-3"},
      {"optim.betas", "[0.9, 0.99]"},
      {"schedule.type", "cosine"},
      {"schedule.warmup", "100"},
      {"schedule.min_lr", "1e-4"},
      {"checkpoint.every", "2000"},
      {"checkpoint.keep", "1"},
      {"validate.every", "500"},
      {"validate.batches", "4"},
      {"validate.path", pu_arena_printf(d->a, "%s/valid", d->shards)},
  };
  /* A short text of one's own may have no paragraph to spare for validation. */
  size_t n = PU_COUNT(settings) - (d->tokens.valid_tokens < 2);
  for (size_t i = 0; i < n; i++) {
    if (!settings[i].value) return pu_fail(e, PU_ERR_NOMEM, "no memory for the configuration");
    PU_TRY(pu_options_set(pu_train_options, cfg, settings[i].key, settings[i].value, "demo", d->a, e));
  }
  return PU_OK;
}

static pu_err pretrain(pu_demo *d, pu_error *e) {
  pu_train_config cfg;
  PU_TRY(configure(d, &cfg, e));
  pu_err err = pu_train_run(&cfg, NULL, &d->trained, e);
  if (err == PU_ERR_STOPPED && d->trained.checkpoint[0])
    return pu_fail(e, err, "stopped; the model so far is %s, and another demo begins anew", d->trained.checkpoint);
  return err;
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  pu_demo_row(t, "model", "%s, %.2f M parameters", d->o->shape, (double)d->parameters / 1e6);
  pu_demo_row(t, "pretraining", "%lld steps, %.1f M tokens, %.0f tokens/s", (long long)d->trained.steps,
              (double)d->trained.tokens / 1e6, d->trained.tok_per_s);
  pu_demo_row(t, "training loss", "%.3f", d->trained.loss);
  if (isfinite(d->trained.valid_loss)) pu_demo_row(t, "validation loss", "%.3f", d->trained.valid_loss);
}

const pu_demo_stage pu_demo_pretrain = {"pretraining", pretrain, tell};
