/* A bilingual corpus by rules; or the user's own text, which needs no making. */
#include "src/cli/demo/demo.h"

typedef struct corpus_sink {
  pu_demo *d;
  FILE *file;
  const char *path;
  pu_buf line;
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
  if (fwrite(s->line.data, 1, s->line.len, s->file) != s->line.len)
    return pu_fail(e, PU_ERR_IO, "%s: cannot write: is the disk full?", s->path);
  s->d->documents++;
  s->d->corpus_bytes += doc->content.len;
  pu_progress_set(s->bar, (double)s->d->corpus_bytes, NULL);
  return pu_signals_stop() ? pu_fail(e, PU_ERR_STOPPED, "stopped by a signal") : PU_OK;
}

static pu_err keep_question(void *arg, const pu_synth_question *q, pu_error *e) {
  return pu_sum_list_add(&((corpus_sink *)arg)->d->sums, q, e);
}

static pu_err make_corpus(pu_demo *d, pu_error *e) {
  if (d->o->text) {
    d->corpus = (char *)(uintptr_t)d->o->text;
    return PU_OK;
  }
  corpus_sink s = {.d = d, .path = d->corpus, .file = fopen(d->corpus, "w")};
  if (!s.file) return pu_fail(e, PU_ERR_IO, "%s: cannot be written", d->corpus);
  pu_buf_init(&s.line, PU_BUF_MAX);
  pu_synth_options o = pu_synth_defaults();
  o.seed = (uint64_t)d->o->seed;
  o.documents = 0;
  o.bytes = d->o->megabytes << 20;
  o.weights[PU_SYNTH_ARITHMETIC] = 6;
  o.weights[PU_SYNTH_STORIES] = o.weights[PU_SYNTH_FACTS] = 1;
  s.bar = pu_progress_open("corpus", "bytes", (double)o.bytes);
  pu_err err = pu_synth_run(&o, &(pu_synth_sink){write_document, keep_question, &s}, e);
  pu_progress_close(s.bar);
  pu_buf_deinit(&s.line);
  if (fclose(s.file) && !err) err = pu_fail(e, PU_ERR_IO, "%s: cannot write: is the disk full?", d->corpus);
  return err;
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  pu_demo_row(t, "corpus", "%.1f MB, %llu documents", (double)d->tokens.bytes / 1e6,
              (unsigned long long)d->tokens.documents);
}

const pu_demo_stage pu_demo_corpus = {"getting a corpus", make_corpus, tell};
