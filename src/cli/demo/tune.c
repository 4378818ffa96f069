/* Fine-tuning: from a model that goes on with text to one that answers and calls a tool. A small model forgets what it
 * does not go on doing, so a part of the text is learned along with the conversations: as what an assistant says of
 * itself. */
#include <math.h>

#include "src/cli/demo/demo.h"

enum { REHEARSED = 220 }; /* bytes of text for each conversation: two fifths of all tokens */

/* ---- text to rehearse ---- */

static pu_err put_text(FILE *f, pu_str text, pu_buf *line, const char *path, pu_error *e) {
  pu_buf_clear(line);
  pu_buf_puts(line, "{\"messages\": [{\"role\": \"assistant\", \"content\": ");
  pu_buf_json_str(line, text);
  pu_buf_puts(line, "}]}\n");
  if (line->failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for a document of %zu bytes", text.len);
  return fwrite(line->data, 1, line->len, f) == line->len ? PU_OK : pu_fail(e, PU_ERR_IO, "%s: %m", path);
}

/* Documents from all over the corpus. */
static pu_err put_texts(const pu_demo *d, FILE *f, const char *path, pu_error *e) {
  double share = REHEARSED * (double)d->o->dialogues / (double)PU_MAX(d->tokens.bytes, 1), due = 1;
  pu_corpus *c;
  pu_document doc;
  pu_buf line;
  bool found = true;
  PU_TRY(pu_corpus_open((const char *const[]){d->corpus}, 1, PU_SPLIT_BLANK, NULL, &c, e));
  pu_buf_init(&line, PU_BUF_MAX);
  pu_err err;
  while (!(err = pu_corpus_next(c, &doc, &found, e)) && found) {
    if (due >= 1 && doc.text.len && (err = put_text(f, doc.text, &line, path, e))) break;
    due = (due >= 1 ? due - 1 : due) + share;
  }
  pu_buf_deinit(&line);
  pu_corpus_close(c);
  return err;
}

static pu_err write_rehearsal(const pu_demo *d, const char *path, pu_error *e) {
  FILE *f = path ? fopen(path, "wbe") : NULL;
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  if (!f) return pu_fail(e, PU_ERR_IO, "%s: %m", path);
  pu_err err = put_texts(d, f, path, e);
  if (fclose(f) && !err) err = pu_fail(e, PU_ERR_IO, "%s: %m", path);
  return err;
}

/* ---- the stage ---- */

static pu_err tune(pu_demo *d, pu_error *e) {
  const char *talks = pu_demo_quoted(d->a, d->talks);
  PU_TRY(write_rehearsal(d, pu_path_join(d->a, d->talks, "rehearsal.jsonl"), e));
  if (!talks) return pu_fail(e, PU_ERR_NOMEM, "no memory for the configuration");
  const pu_demo_setting settings[] = {
      {"task", "sft"},
      {"run", d->chat},
      {"model.path", d->trained.checkpoint},
      {"data.seq_len", pu_arena_printf(d->a, "%d", PU_DEMO_CONTEXT)},
      {"data.sources",
       pu_arena_printf(d->a,
                       "[{path: '%1$s/train.jsonl', form: messages}, {path: '%1$s/rehearsal.jsonl', form: messages}]",
                       talks)},
      {"data.too_long", "cut"},
      {"train.global_batch", "4"}, /* as many tokens a step as in pretraining */
      {"train.micro_batch", "4"},
      {"optim.lr", "6e-4"},
      {"optim.weight_decay", "0"},
      {"schedule.warmup", "100"},
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
                                    "calculator. Some of the text goes along, so that it is not forgotten.",
                                    tune,
                                    tell,
                                    part};
