/* Fine-tuning: from a model that goes on with text to one that answers and calls a tool. */
#include <math.h>

#include "src/cli/demo/demo.h"

static pu_err tune(pu_demo *d, pu_error *e) {
  const char *talks = pu_demo_quoted(d->a, d->talks);
  if (!talks) return pu_fail(e, PU_ERR_NOMEM, "no memory for the configuration");
  const pu_demo_setting settings[] = {
      {"task", "sft"},
      {"run", d->chat},
      {"model.path", d->trained.checkpoint},
      {"data.seq_len", pu_arena_printf(d->a, "%d", PU_DEMO_CONTEXT)},
      {"data.sources", pu_arena_printf(d->a, "[{path: '%s/train.jsonl', form: messages}]", talks)},
      {"train.global_batch", "4"}, /* as many tokens a step as in pretraining */
      {"train.micro_batch", "4"},
      {"optim.lr", "1e-3"},
      {"optim.weight_decay", "0"},
      {"schedule.warmup", "50"},
      {"validate.path", pu_arena_printf(d->a, "%s/valid.jsonl", d->talks)},
  };
  PU_TRY(pu_demo_train(d, settings, PU_COUNT(settings), d->o->minutes * PU_DEMO_TUNE_SHARE, &d->tuned, e));
  return PU_OK;
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  pu_demo_row(t, "fine-tuning", "%lld steps, %.1f M tokens, %.0f tokens/s", (long long)d->tuned.steps,
              (double)d->tuned.tokens / 1e6, d->tuned.tok_per_s);
  pu_demo_row(t, "its loss", "%.3f", d->tuned.loss);
  if (isfinite(d->tuned.valid_loss)) pu_demo_row(t, "on conversations kept out", "%.3f", d->tuned.valid_loss);
}

static pu_err part(const pu_demo *d, pu_buf *html, pu_error *e) {
  PU_TRY(pu_report_curves(d->chat, "fine-tuning", html, e));
  pu_buf_puts(html, "<p class=sub>All of its curves: <a href=\"chat/report.html\">chat/report.html</a></p>\n");
  return pu_report_write(d->chat, NULL, NULL, e);
}

const pu_demo_stage pu_demo_tune = {"fine-tuning it on conversations",
                                    "Fine-tuning",
                                    "It learns what the assistant says in the conversations: answers, and calls of the "
                                    "calculator.",
                                    tune,
                                    tell,
                                    part};
