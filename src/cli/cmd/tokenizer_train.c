/* Training a tokenizer. */
#include "puyu/data.h"
#include "src/cli/cli.h"
#include "src/cli/rows.h"

typedef struct options {
  const char *out, *key;
  int64_t vocab_size, min_count;
  double megabytes;
  bool split_cjk, force;
} options;

static const pu_option rows[] = {
    PU_ROW_OUT(options, "DIR", "where tokenizer.json and tokenizer_config.json go"),
    PU_ROW(options, vocab_size, "vocab-size", INT, .dflt = "16384", .min = 264, .max = 1048576, .meta = "N",
           .help = "pieces, counted with the 256 bytes and the special tokens"),
    PU_ROW_KEY(options),
    PU_ROW(options, min_count, "min-count", INT, .dflt = "2", .min = 1, .max = 1e9, .meta = "N",
           .help = "pairs rarer than this make no piece"),
    PU_ROW(options, megabytes, "megabytes", FLOAT, .dflt = "0", .max = 1e6, .meta = "N",
           .help = "read this much text at most; 0: all"),
    PU_ROW(options, split_cjk, "split-cjk", BOOL, .dflt = "true", .help = "at most four Chinese characters a piece"),
    PU_ROW_FORCE(options, "replace a tokenizer in DIR"),
    {0},
};

/* Opens its bar when merging begins, so that it does not share the line with the reading. */
static void show(void *arg, double done, double total, const char *phase) {
  pu_progress **bar = arg;
  if (!*bar) *bar = pu_progress_open(phase, "pieces", total);
  pu_progress_set(*bar, done, NULL);
}

static pu_err read_all(pu_bpe_trainer *t, pu_corpus *corpus, double most, double *bytes, pu_error *e) {
  pu_progress *bar = pu_progress_open("reading", "MB", pu_corpus_bytes(corpus) / 1e6);
  pu_err err = PU_OK;
  for (bool found = true; found && err == PU_OK && (most == 0 || *bytes < most);) {
    pu_document d;
    err = pu_corpus_next(corpus, &d, &found, e);
    if (err != PU_OK || !found) break;
    err = pu_bpe_trainer_add(t, d.text, e);
    *bytes += (double)d.text.len;
    pu_progress_set(bar, pu_corpus_done(corpus) / 1e6, NULL);
  }
  pu_progress_close(bar);
  return err;
}

static pu_err run(const pu_cli *cli, const void *given, int n_args, const char **args, pu_error *e) {
  const options *in = given;
  pu_corpus *corpus = NULL;
  pu_bpe_trainer *trainer = NULL;
  pu_progress *bar = NULL;
  double bytes = 0, began = pu_now();
  if (!in->force && pu_tokenizer_in(in->out)) /* shards and models may go by it */
    return pu_fail(e, PU_ERR_USAGE, "%s: there is a tokenizer already: take another folder, or --force", in->out);
  pu_err err = pu_corpus_open(args, (size_t)n_args, PU_SPLIT_FILE, in->key, &corpus, e);
  pu_bpe_options o = {.vocab_size = (int32_t)in->vocab_size, .min_count = in->min_count, .split_cjk = in->split_cjk};
  if (err == PU_OK) {
    o.progress = show;
    o.progress_arg = &bar;
    err = pu_bpe_trainer_create(&o, &trainer, e);
  }
  if (err == PU_OK) err = read_all(trainer, corpus, in->megabytes * 1e6, &bytes, e);
  if (err == PU_OK && bytes == 0) err = pu_corpus_fail_empty(corpus, e);
  if (err == PU_OK) err = pu_bpe_trainer_save(trainer, in->out, e);
  pu_progress_close(bar);
  if (err == PU_OK && pu_bpe_trainer_size(trainer) < in->vocab_size)
    pu_log(PU_LOG_WARN, "the text gives %d pieces, not %lld: give more of it, or ask for fewer%s",
           pu_bpe_trainer_size(trainer), (long long)in->vocab_size,
           in->min_count > 1 ? "; --min-count 1 makes pieces of rarer pairs" : "");
  if (err == PU_OK)
    fprintf(cli->out, "%d pieces from %.1f MB in %.1f s: %s/tokenizer.json\n", pu_bpe_trainer_size(trainer),
            bytes / 1e6, pu_now() - began, in->out);
  pu_bpe_trainer_free(trainer);
  pu_corpus_close(corpus);
  return err;
}

const pu_command pu_command_tokenizer_train = {
    .name = "tokenizer train",
    .summary = "learn a byte-level BPE tokenizer",
    .usage = "--out DIR FILE... [options]",
    .details = "A FILE is text, JSON Lines (.jsonl, .json) or what else docs/data.md lists,\n"
               "plain or with .gz or .zst, or a folder of such files. The same text gives the same tokenizer. Digits "
               "stand alone, and\n"
               "the special tokens are those of InternLM2's chat template.\n",
    .options = rows,
    .options_size = sizeof(options),
    .min_args = 1,
    .max_args = -1,
    .run = run,
};
