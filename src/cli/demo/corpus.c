/* What the model learns from, as raw files: a bilingual corpus by rules, or the user's own text; and conversations by
 * rules. And what it will be asked: questions that neither holds. */
#include <math.h>

#include "src/cli/demo/demo.h"

enum { MOST_LINE = 16 << 20 };

typedef struct making {
  pu_demo *d;
  FILE *files[PU_SYNTH_KINDS], *talks[2]; /* talks: for training, for validation */
  pu_demo_questions *questions;
  pu_buf line;
  uint64_t bytes;
  int64_t dialogues;
  pu_progress *bar;
} making;

static pu_err put_line(making *m, FILE *f, const char *where, pu_error *e) {
  if (m->line.failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for a line of %s", where);
  if (fwrite(m->line.data, 1, m->line.len, f) != m->line.len)
    return pu_fail(e, PU_ERR_IO, "%s: cannot write: is the disk full?", where);
  return pu_signals_stop() ? pu_fail(e, PU_ERR_STOPPED, "stopped by a signal") : PU_OK;
}

static pu_err write_document(void *arg, const pu_synth_document *doc, pu_error *e) {
  making *m = arg;
  m->bytes += doc->content.len;
  pu_progress_set(m->bar, (double)m->bytes, NULL);
  if (doc->valid) return pu_demo_questions_text(m->questions, doc->content, e);
  pu_buf_clear(&m->line);
  pu_buf_puts(&m->line, "{\"id\":");
  pu_buf_json_str(&m->line, pu_str_c(doc->id));
  pu_buf_puts(&m->line, ",\"content\":");
  pu_buf_json_str(&m->line, doc->content);
  pu_buf_puts(&m->line, "}\n");
  return put_line(m, m->files[doc->kind], m->d->raw, e);
}

static pu_err write_dialogue(void *arg, const pu_synth_dialogue *d, pu_error *e) {
  making *m = arg;
  pu_progress_set(m->bar, (double)++m->dialogues, NULL);
  pu_buf_clear(&m->line);
  pu_buf_append(&m->line, d->json.ptr, d->json.len);
  pu_buf_putc(&m->line, '\n');
  return put_line(m, m->talks[d->valid], m->d->talks, e);
}

static pu_err keep_question(void *arg, const pu_synth_question *q, pu_error *e) {
  return pu_demo_questions_add(((making *)arg)->questions, q, e);
}

/* ---- files ---- */

static pu_err file_open(const pu_demo *d, const char *dir, const char *name, FILE **out, pu_error *e) {
  const char *path = pu_arena_printf(d->a, "%s/%s.jsonl", dir, name);
  if (!path) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  return (*out = fopen(path, "wbe")) ? PU_OK : pu_fail(e, PU_ERR_IO, "%s: %m", path);
}

/* RAW/stories.jsonl and so on. */
static pu_err files_open(making *m, pu_error *e) {
  const pu_demo *d = m->d;
  PU_TRY(pu_remove_tree(d->raw, e));
  PU_TRY(pu_remove_tree(d->talks, e));
  PU_TRY(pu_mkdirs(d->talks, e));
  PU_TRY(file_open(d, d->talks, "train", &m->talks[0], e));
  PU_TRY(file_open(d, d->talks, "valid", &m->talks[1], e));
  PU_TRY(pu_demo_questions_open(d, &m->questions, e));
  if (d->o->text) return PU_OK;
  PU_TRY(pu_mkdirs(d->raw, e));
  for (int k = 0; k < PU_SYNTH_KINDS; k++) PU_TRY(file_open(d, d->raw, pu_synth_kind_names[k], &m->files[k], e));
  return PU_OK;
}

static pu_err files_close(making *m, pu_err err, pu_error *e) {
  bool good = true;
  for (int k = 0; k < PU_SYNTH_KINDS; k++)
    if (m->files[k]) good &= fclose(m->files[k]) == 0;
  for (int i = 0; i < 2; i++)
    if (m->talks[i]) good &= fclose(m->talks[i]) == 0;
  if (!err && !good) err = pu_fail(e, PU_ERR_IO, "%s: cannot write: is the disk full?", m->d->o->out);
  return pu_demo_questions_close(m->questions, err, e);
}

/* ---- making ---- */

static pu_err make_text(making *m, pu_error *e) {
  const pu_demo_options *given = m->d->o;
  pu_synth_options o = pu_synth_defaults();
  o.seed = (uint64_t)given->seed;
  o.documents = 0;
  o.bytes = given->megabytes << 20;
  o.weights[PU_SYNTH_ARITHMETIC] = 8;
  o.weights[PU_SYNTH_STORIES] = 1;
  o.weights[PU_SYNTH_FACTS] = 1.5;
  o.questions = given->questions;
  o.valid_fraction = 0.002;
  m->bar = given->text ? NULL : pu_progress_open("corpus", "bytes", (double)o.bytes);
  pu_err err = pu_synth_run(&o, &(pu_synth_sink){given->text ? NULL : write_document, keep_question, m}, e);
  pu_progress_close(m->bar);
  return err;
}

static pu_err make_dialogues(making *m, pu_error *e) {
  const pu_demo_options *given = m->d->o;
  pu_synth_chat_options o = pu_synth_chat_defaults();
  o.seed = (uint64_t)given->seed;
  o.dialogues = given->dialogues;
  o.questions = given->questions;
  o.valid_fraction = fmax(o.valid_fraction, 40.0 / (double)o.dialogues); /* some, of few too */
  o.tool = m->d->tool;
  m->bar = pu_progress_open("conversations", "", (double)o.dialogues);
  pu_err err = pu_synth_chat_run(&o, &(pu_synth_chat_sink){write_dialogue, keep_question, m}, e);
  pu_progress_close(m->bar);
  return err;
}

static pu_err make_corpus(pu_demo *d, pu_error *e) {
  making m = {.d = d};
  pu_buf_init(&m.line, MOST_LINE);
  pu_err err = files_open(&m, e);
  if (!err) err = make_text(&m, e);
  if (!err) err = make_dialogues(&m, e);
  err = files_close(&m, err, e);
  pu_buf_deinit(&m.line);
  return err;
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  pu_demo_row(t, "conversations", "%lld, made by rules", (long long)d->o->dialogues);
}

const pu_demo_stage pu_demo_corpus = {"getting a corpus and conversations",
                                      "Text and conversations",
                                      "A text is cleaned, what occurs again is left out, the rest mixed and cut into "
                                      "tokens. The conversations are made by rules: about sums, facts and stories, a "
                                      "quarter of them with a calculator on offer. The sums that it is asked later "
                                      "stand in neither, the facts in the text alone.",
                                      make_corpus,
                                      tell,
                                      NULL};
