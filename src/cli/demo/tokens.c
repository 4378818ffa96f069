/* A tokenizer for the corpus, and the corpus as token shards. */
#include "src/cli/demo/demo.h"
#include "src/cli/pipeline.h"

static void show_phase(void *bar, double done, double total, const char *phase) {
  pu_progress_set(bar, total > 0 ? 100 * done / total : 0, phase);
}

static pu_err count_words(pu_demo *d, pu_bpe_trainer *t, pu_error *e) {
  pu_corpus *c;
  PU_TRY(pu_corpus_open((const char *const[]){d->corpus}, 1, PU_SPLIT_BLANK, NULL, &c, e));
  pu_progress *bar = pu_progress_open("counting words", "bytes", pu_corpus_bytes(c));
  pu_document doc;
  bool found;
  bool any = false;
  pu_err err;
  while (!(err = pu_corpus_next(c, &doc, &found, e)) && found && !(err = pu_bpe_trainer_add(t, doc.text, e))) {
    any |= doc.text.len > 0;
    pu_progress_set(bar, pu_corpus_done(c), NULL);
  }
  if (!err && !any) err = pu_corpus_fail_empty(c, e);
  pu_progress_close(bar);
  pu_corpus_close(c);
  return err;
}

static pu_err train_tokenizer(pu_demo *d, pu_error *e) {
  pu_progress *bar = pu_progress_open("merges", "%", 100);
  pu_bpe_options o = {.vocab_size = (int32_t)d->o->vocab_size,
                      .min_count = 2,
                      .split_cjk = true,
                      .progress = show_phase,
                      .progress_arg = bar};
  pu_bpe_trainer *t;
  pu_err err = pu_bpe_trainer_create(&o, &t, e);
  if (!err) {
    err = count_words(d, t, e);
    if (!err) err = pu_mkdirs(d->tokenizer, e);
    if (!err) err = pu_bpe_trainer_save(t, d->tokenizer, e);
    pu_bpe_trainer_free(t);
  }
  pu_progress_close(bar);
  return err;
}

static pu_err make_shards(pu_demo *d, pu_error *e) {
  const char *mixed = pu_demo_mixed(d);
  pu_tokenizer *t;
  pu_cli_running running;
  if (!mixed) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  PU_TRY(pu_tokenizer_load(d->tokenizer, &t, e));
  d->vocab = pu_tokenizer_size(t);
  pu_err err = pu_cli_step_begin(&(pu_cli_step){.threads = d->o->threads}, &running, e);
  const pu_tokenize_options o = {.tokenizer = t, .valid_fraction = 0.02, .bos = true, .eos = true};
  if (!err) err = pu_tokenize_stage(d->shards, mixed, &o, &running.how, &d->tokens, e);
  pu_cli_step_end(&running);
  pu_tokenizer_free(t);
  return err ? err : pu_demo_data_report(d, e);
}

static void tell_tokenizer(const pu_demo *d, pu_demo_table *t) {
  pu_demo_row(t, "tokenizer", "%lld tokens, %.2f bytes a token", (long long)d->vocab,
              (double)d->tokens.bytes / (double)PU_MAX(d->tokens.tokens, 1));
}

const pu_demo_stage pu_demo_tokenizer = {"training a tokenizer", train_tokenizer, tell_tokenizer};
const pu_demo_stage pu_demo_shards = {"turning text into token shards", make_shards, NULL};
