/* The model is asked: scores, and texts to look at, after each step that changes it. */
#include "src/cli/conversation.h"
#include "src/cli/demo/demo.h"
#include "src/cli/sample.h"

enum { STORY_TOKENS = 90, ANSWER_TOKENS = 160 };

static const char *const rule_prompts[] = {"从前有一个", "Once there", "问：37加45等于多少？答：",
                                           "Q: What is 58 - 23? A:", NULL};
static const char *const text_prompts[] = {"", "The ", "他", NULL};
static const char *const questions[] = {"Hello!", "What is the capital of France?", "37加45等于多少？",
                                        "Tell me a story about Lily.", NULL};

pu_err pu_demo_engine(const pu_demo *d, const char *path, pu_engine **out, pu_error *e) {
  const pu_engine_options o = {.device = d->o->device,
                               .dtype = PU_BF16,
                               .threads = (int)d->o->threads,
                               .context = PU_DEMO_CONTEXT,
                               .max_batch = 64};
  return pu_engine_open(path, &o, out, e);
}

static pu_sampling sampling(const pu_demo *d, int tokens) {
  pu_sampling how = pu_sampling_default();
  how.temperature = 0.7;
  how.top_p = 0.9;
  how.seed = (uint64_t)d->o->seed;
  how.max_tokens = tokens;
  return how;
}

static pu_err write_samples(pu_demo *d, pu_engine *en, pu_error *e) {
  pu_sampling how = sampling(d, STORY_TOKENS);
  pu_buf text;
  pu_buf_init(&text, PU_BUF_MAX);
  pu_err err = PU_OK;
  for (const char *const *p = d->o->text ? text_prompts : rule_prompts; *p && !err; p++) {
    pu_buf_clear(&text);
    err = pu_cli_continue(en, *p, &how, &text, e);
    if (!err) pu_demo_sample(&d->samples, *p, pu_str_of(text.data, text.len));
  }
  pu_buf_deinit(&text);
  return err;
}

static pu_err ask_pretrained(pu_demo *d, pu_error *e) {
  pu_engine *en;
  PU_TRY(pu_demo_engine(d, d->trained.checkpoint, &en, e));
  d->parameters = pu_hparams_count(&pu_engine_model(en)->hp, false);
  pu_err err = pu_demo_evaluate(d, PU_DEMO_PRETRAINED, en, d->trained.checkpoint, e);
  if (!err) err = write_samples(d, en, e);
  pu_engine_free(en);
  return err;
}

static pu_err part_samples(const pu_demo *d, pu_buf *html, pu_error *e) {
  (void)e;
  pu_buf_puts(html, "<h3>It goes on with what it is given</h3>\n");
  pu_buf_append(html, d->samples.data, d->samples.len);
  return PU_OK;
}

/* ---- a chat ---- */

static bool keep(void *arg, pu_str text) {
  return pu_buf_append(arg, text.ptr, text.len) || !text.len;
}

static pu_err chat(pu_demo *d, pu_engine *en, pu_error *e) {
  pu_conversation c;
  pu_sampling how = sampling(d, ANSWER_TOKENS);
  pu_buf text;
  size_t dropped;
  pu_buf_init(&text, PU_BUF_MAX);
  PU_TRY(pu_conversation_open(en, &c, e));
  pu_err err = PU_OK;
  for (const char *const *q = questions; *q && !err; q++) {
    pu_buf_clear(&text);
    err = pu_conversation_ask(&c, pu_str_c(*q), &how, keep, &text, pu_signals_stop, &dropped, e);
    if (!err) pu_demo_sample(&d->talk, *q, pu_str_of(text.data, text.len));
    pu_conversation_reset(&c);
  }
  pu_conversation_close(&c);
  pu_buf_deinit(&text);
  return err;
}

static pu_err ask_tuned(pu_demo *d, pu_error *e) {
  pu_engine *en;
  PU_TRY(pu_demo_engine(d, d->tuned.checkpoint, &en, e));
  pu_err err = pu_demo_evaluate(d, PU_DEMO_TUNED, en, d->tuned.checkpoint, e);
  if (!err) err = chat(d, en, e);
  pu_engine_free(en);
  return err;
}

static pu_err part_chat(const pu_demo *d, pu_buf *html, pu_error *e) {
  (void)e;
  pu_buf_puts(html, "<h3>It answers</h3>\n");
  pu_buf_append(html, d->talk.data, d->talk.len);
  return PU_OK;
}

static pu_err ask_quantised(pu_demo *d, pu_error *e) {
  pu_engine *en;
  PU_TRY(pu_demo_engine(d, d->quantised, &en, e));
  pu_err err = pu_demo_evaluate(d, PU_DEMO_QUANTISED, en, d->quantised, e);
  pu_engine_free(en);
  return err;
}

const pu_demo_stage pu_demo_ask_pretrained = {"asking it", NULL, NULL, ask_pretrained, NULL, part_samples};
const pu_demo_stage pu_demo_ask_tuned = {"asking the chat model", NULL, NULL, ask_tuned, NULL, part_chat};
const pu_demo_stage pu_demo_ask_quantised = {"asking the model in 4 bits", NULL, NULL, ask_quantised, NULL, NULL};
