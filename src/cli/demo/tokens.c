/* A tokenizer for the corpus and the conversations, and the corpus as token shards. */
#include <string.h>

#include "puyu/tune.h"
#include "src/cli/demo/demo.h"
#include "src/cli/pipeline.h"

enum { TALKS = 10000 }; /* conversations whose words are counted: made by rules, they are alike */

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

/* What stands between the markers of a conversation as the model reads it. */
static pu_err add_between(pu_bpe_trainer *t, pu_str text, pu_error *e) {
  const char *p = text.ptr, *end = p + text.len;
  while (p < end) {
    const char *mark = memmem(p, (size_t)(end - p), "<|", 2), *stop = mark ? mark : end;
    PU_TRY(pu_bpe_trainer_add(t, pu_str_of(p, (size_t)(stop - p)), e));
    const char *close = mark ? memmem(mark, (size_t)(end - mark), "|>", 2) : NULL;
    p = close ? close + 2 : end;
  }
  return PU_OK;
}

static pu_err add_talk(pu_bpe_trainer *t, const pu_dialogue *talk, pu_buf *text, pu_error *e) {
  const pu_chat chat = {.messages = talk->messages, .tools = talk->tools};
  static const char begin[] = "<s>";
  pu_buf_clear(text);
  PU_TRY(pu_chat_render_text(pu_chat_find("internlm2"), &chat, text, e));
  size_t from = text->len > strlen(begin) && memcmp(text->data, begin, strlen(begin)) == 0 ? strlen(begin) : 0;
  return add_between(t, pu_str_of(text->data + from, text->len - from), e);
}

static pu_err count_talks(pu_demo *d, pu_bpe_trainer *t, pu_error *e) {
  const pu_train_source how = {.type = PU_SOURCE_CHAT, .form = "messages"};
  const char *path = pu_path_join(d->a, d->talks, "train.jsonl");
  pu_dialogues *all;
  pu_buf text;
  bool found = true;
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  PU_TRY(pu_dialogues_open(path, &how, &all, e));
  pu_buf_init(&text, PU_BUF_MAX);
  pu_err err = PU_OK;
  for (int i = 0; i < TALKS && found && !err; i++) {
    pu_dialogue talk = {0};
    err = pu_dialogues_next(all, &talk, &found, e);
    if (!err && found) err = add_talk(t, &talk, &text, e);
    pu_dialogue_deinit(&talk);
  }
  pu_buf_deinit(&text);
  pu_dialogues_close(all);
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
    if (!err) err = count_talks(d, t, e);
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

static pu_err part_shards(const pu_demo *d, pu_buf *html, pu_error *e) {
  (void)d, (void)e;
  pu_buf_puts(html, "<p class=sub>What became of the text, step by step: <a "
                    "href=\"data/report.html\">data/report.html</a></p>\n");
  return PU_OK;
}

const pu_demo_stage pu_demo_tokenizer = {"training a tokenizer", NULL, NULL, train_tokenizer, tell_tokenizer, NULL};
const pu_demo_stage pu_demo_shards = {"turning text into token shards", NULL, NULL, make_shards, NULL, part_shards};
