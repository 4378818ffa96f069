/* A bilingual corpus by rules, as raw files; or the user's own text, which needs no making. */
#include "src/cli/demo/demo.h"

typedef struct corpus_sink {
  pu_demo *d;
  FILE *files[PU_SYNTH_KINDS];
  pu_buf line;
  uint64_t bytes;
  pu_progress *bar;
} corpus_sink;

static pu_err write_document(void *arg, const pu_synth_document *doc, pu_error *e) {
  corpus_sink *s = arg;
  pu_buf_clear(&s->line);
  pu_buf_puts(&s->line, "{\"id\":");
  pu_buf_json_str(&s->line, pu_str_c(doc->id));
  pu_buf_puts(&s->line, ",\"content\":");
  pu_buf_json_str(&s->line, doc->content);
  pu_buf_puts(&s->line, "}\n");
  if (s->line.failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for a document of %zu bytes", doc->content.len);
  if (fwrite(s->line.data, 1, s->line.len, s->files[doc->kind]) != s->line.len)
    return pu_fail(e, PU_ERR_IO, "%s: cannot write: is the disk full?", s->d->raw);
  s->bytes += doc->content.len;
  pu_progress_set(s->bar, (double)s->bytes, NULL);
  return pu_signals_stop() ? pu_fail(e, PU_ERR_STOPPED, "stopped by a signal") : PU_OK;
}

static pu_err keep_question(void *arg, const pu_synth_question *q, pu_error *e) {
  return pu_sum_list_add(&((corpus_sink *)arg)->d->sums, q, e);
}

/* RAW/stories.jsonl and so on. */
static pu_err files_open(corpus_sink *s, pu_error *e) {
  PU_TRY(pu_remove_tree(s->d->raw, e));
  PU_TRY(pu_mkdirs(s->d->raw, e));
  for (int k = 0; k < PU_SYNTH_KINDS; k++) {
    const char *path = pu_arena_printf(s->d->a, "%s/%s.jsonl", s->d->raw, pu_synth_kind_names[k]);
    if (!path) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
    if (!(s->files[k] = fopen(path, "w"))) return pu_fail(e, PU_ERR_IO, "%s: cannot be written", path);
  }
  return PU_OK;
}

static pu_err files_close(corpus_sink *s, pu_err err, pu_error *e) {
  bool good = true;
  for (int k = 0; k < PU_SYNTH_KINDS; k++)
    if (s->files[k]) good &= fclose(s->files[k]) == 0;
  return err || good ? err : pu_fail(e, PU_ERR_IO, "%s: cannot write: is the disk full?", s->d->raw);
}

static pu_err make_corpus(pu_demo *d, pu_error *e) {
  if (d->o->text) return PU_OK;
  corpus_sink s = {.d = d};
  pu_buf_init(&s.line, PU_BUF_MAX);
  pu_synth_options o = pu_synth_defaults();
  o.seed = (uint64_t)d->o->seed;
  o.documents = 0;
  o.bytes = d->o->megabytes << 20;
  o.weights[PU_SYNTH_ARITHMETIC] = 6;
  o.weights[PU_SYNTH_STORIES] = o.weights[PU_SYNTH_FACTS] = 1;
  s.bar = pu_progress_open("corpus", "bytes", (double)o.bytes);
  pu_err err = files_open(&s, e);
  if (!err) err = pu_synth_run(&o, &(pu_synth_sink){write_document, keep_question, &s}, e);
  pu_progress_close(s.bar);
  pu_buf_deinit(&s.line);
  return files_close(&s, err, e);
}

const pu_demo_stage pu_demo_corpus = {"getting a corpus", make_corpus, NULL};
