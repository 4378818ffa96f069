/* What the model makes of held-out sums, and how it writes. */
#include "src/cli/demo/demo.h"
#include "src/cli/sample.h"

enum { STORY_TOKENS = 90 };

static const char *const rule_prompts[] = {"从前有一个", "Once there", "问：37加45等于多少？答：",
                                           "Q: What is 58 - 23? A:", NULL};
static const char *const text_prompts[] = {"", "The ", "他", NULL};

static pu_err write_samples(pu_demo *d, pu_engine *en, pu_error *e) {
  pu_sampling how = pu_sampling_default();
  how.temperature = 0.7;
  how.top_p = 0.9;
  how.seed = (uint64_t)d->o->seed;
  how.max_tokens = STORY_TOKENS;
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_err err = PU_OK;
  for (const char *const *p = d->o->text ? text_prompts : rule_prompts; *p && !err; p++) {
    pu_buf_clear(&text);
    err = pu_cli_continue(en, *p, &how, &text, e);
    if (!err) pu_demo_sample(d, *p, pu_str_of(text.data, text.len));
  }
  pu_buf_deinit(&text);
  return err;
}

static pu_err answer(pu_demo *d, pu_error *e) {
  pu_engine *en;
  pu_engine_options o = {.device = d->o->device,
                         .dtype = PU_BF16,
                         .threads = (int)d->o->threads,
                         .context = PU_DEMO_SEQ_LEN,
                         .max_batch = 64};
  PU_TRY(pu_engine_open(d->trained.checkpoint, &o, &en, e));
  d->parameters = pu_hparams_count(&pu_engine_model(en)->hp, false);
  pu_err err = pu_sums_ask(en, &d->sums, e);
  if (!err) err = write_samples(d, en, e);
  pu_engine_free(en);
  return err;
}

static void sum_row(pu_demo_table *t, const pu_demo *d, int within) {
  pu_sum_score s = pu_sums_score(&d->sums, within);
  if (!s.asked) return;
  char label[48];
  snprintf(label, sizeof label, "held-out sums within %d", within);
  pu_demo_row(t, label, "%.1f %% right (%zu of %zu)", 100.0 * (double)s.right / (double)s.asked, s.right, s.asked);
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  sum_row(t, d, 100);
  sum_row(t, d, 1000);
}

const pu_demo_stage pu_demo_answer = {"letting it answer", answer, tell};
