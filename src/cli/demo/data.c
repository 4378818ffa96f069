/* The pipeline over the raw text: read, cleaned, what occurs again left out, mixed; as `puyu data run` does it. */
#include <string.h>

#include "src/cli/demo/demo.h"
#include "src/cli/pipeline.h"

#define MIX "all"

/* What holds for any text, short lines and sums included: what goes is rubble. Languages are told, none is left out. */
static const char *const filters[] = {"code", "language"};
static const char *const bounds[] = {"wanjuan.punctuation.min=0", "language.score.min=0"};

const char *pu_demo_mixed(const pu_demo *d) {
  return pu_path_join(d->a, d->data, "3-mix-" MIX);
}

/* A kind of the rule-made documents each, or the user's files. */
static pu_err name_sources(const pu_demo *d, pu_list *out, pu_error *e) {
  size_t n = d->o->text ? 1 : PU_SYNTH_KINDS;
  pu_source *v = pu_arena_zalloc(d->a, n * sizeof *v);
  const char **paths = pu_arena_zalloc(d->a, n * sizeof *paths);
  if (!v || !paths) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  for (size_t i = 0; i < n; i++) {
    paths[i] = d->o->text ? d->o->text : pu_arena_printf(d->a, "%s/%s.jsonl", d->raw, pu_synth_kind_names[i]);
    if (!paths[i]) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
    PU_TRY(pu_options_default(pu_source_options, &v[i], d->a, e));
    v[i].name = d->o->text ? "text" : pu_synth_kind_names[i];
    v[i].paths = (pu_strs){&paths[i], 1};
    v[i].split = PU_SPLIT_BLANK;
  }
  *out = (pu_list){v, n};
  return PU_OK;
}

static pu_err configure(const pu_demo *d, pu_data_config *cfg, pu_mix_options *mix, pu_error *e) {
  static const char *exact[1];
  exact[0] = pu_dedup_mode_names[PU_DEDUP_EXACT];
  PU_TRY(pu_options_default(pu_data_options, cfg, d->a, e));
  PU_TRY(pu_options_default(pu_mix_rows, mix, d->a, e));
  PU_TRY(name_sources(d, &cfg->sources, e));
  mix->name = MIX;
  mix->seed = d->o->seed;
  cfg->out = d->data;
  cfg->filters = (pu_strs){(const char **)(uintptr_t)filters, PU_COUNT(filters)};
  cfg->bounds = (pu_strs){(const char **)(uintptr_t)bounds, PU_COUNT(bounds)};
  cfg->filter.mask = false; /* it is the user's own text; what is found is counted */
  cfg->dedup = (pu_strs){exact, 1};
  cfg->mixes = (pu_list){mix, 1};
  return PU_OK;
}

/* ---- what is left, as one file: for the tokenizer and to calibrate on ---- */

typedef struct kept {
  FILE *file;
  const char *path;
  pu_buf line;
  uint64_t bytes;
} kept;

static pu_err write_kept(void *arg, const pu_kept *doc, pu_error *e) {
  kept *k = arg;
  pu_buf_clear(&k->line);
  pu_buf_puts(&k->line, "{\"id\":");
  pu_buf_json_str(&k->line, doc->id);
  pu_buf_puts(&k->line, ",\"content\":");
  pu_buf_json_str(&k->line, doc->text);
  pu_buf_puts(&k->line, "}\n");
  if (k->line.failed) return pu_fail(e, PU_ERR_NOMEM, "no memory for a document of %zu bytes", doc->text.len);
  k->bytes += doc->text.len;
  if (fwrite(k->line.data, 1, k->line.len, k->file) == k->line.len) return PU_OK;
  return pu_fail(e, PU_ERR_IO, "%s: cannot write: is the disk full?", k->path);
}

static pu_err write_corpus(const pu_demo *d, uint64_t *bytes, pu_error *e) {
  kept k = {.path = d->corpus, .file = fopen(d->corpus, "w")};
  const char *mixed = pu_demo_mixed(d);
  if (!k.file) return pu_fail(e, PU_ERR_IO, "%s: cannot be written", d->corpus);
  pu_buf_init(&k.line, PU_BUF_MAX);
  pu_err err =
      mixed ? pu_data_each(mixed, NULL, 0, 0, write_kept, &k, e) : pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  pu_buf_deinit(&k.line);
  if (fclose(k.file) && !err) err = pu_fail(e, PU_ERR_IO, "%s: cannot write: is the disk full?", d->corpus);
  *bytes = k.bytes;
  return err;
}

/* ---- the stage ---- */

/* A token is a byte at least: less text than this is less than one step of training, which teaches nothing. */
static pu_err check_length(const pu_demo *d, uint64_t bytes, pu_error *e) {
  const uint64_t least = (uint64_t)PU_DEMO_SEQ_LEN * PU_DEMO_BATCH;
  if (bytes >= least) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE,
                 "--text %s: %llu bytes of text are too few to learn from: %llu are the least, and a megabyte or more "
                 "is better",
                 d->o->text ? d->o->text : d->raw, (unsigned long long)bytes, (unsigned long long)least);
}

static pu_err run_steps(pu_demo *d, pu_error *e) {
  pu_data_config cfg = {0};
  pu_mix_options mix = {0};
  pu_cli_running running;
  PU_TRY(configure(d, &cfg, &mix, e));
  pu_err err = pu_cli_step_begin(&(pu_cli_step){.threads = d->o->threads}, &running, e);
  if (err == PU_OK) err = pu_data_run(&cfg, &running.how, &d->cleaned, e);
  pu_cli_step_end(&running);
  return err;
}

/* An earlier demo's model goes only when it is known that there is text for another one. */
static pu_err clean(pu_demo *d, pu_error *e) {
  double began = pu_now();
  uint64_t bytes = 0;
  PU_TRY(pu_remove_tree(d->data, e));
  pu_err err = run_steps(d, e);
  if (err == PU_ERR_USAGE && d->cleaned.documents == d->cleaned.dropped) err = check_length(d, 0, e);
  PU_TRY(err);
  PU_TRY(write_corpus(d, &bytes, e));
  PU_TRY(check_length(d, bytes, e));
  d->cleaned_in = pu_now() - began;
  PU_TRY(pu_remove_tree(d->shards, e));
  PU_TRY(pu_remove_tree(d->chat, e));
  return pu_remove_tree(d->run, e);
}

pu_err pu_demo_data_report(const pu_demo *d, pu_error *e) {
  const char *stages[4] = {pu_path_join(d->a, d->data, "1-clean"), pu_path_join(d->a, d->data, "2-exact"),
                           pu_demo_mixed(d), d->shards};
  const char *page = pu_path_join(d->a, d->data, "report.html");
  for (size_t i = 0; i < PU_COUNT(stages); i++)
    if (!stages[i] || !page) return pu_fail(e, PU_ERR_NOMEM, "no memory for the paths");
  return pu_data_report("The demo's data", stages, PU_COUNT(stages), page, e);
}

static void tell(const pu_demo *d, pu_demo_table *t) {
  const pu_data_result *r = &d->cleaned;
  char broken[64] = "";
  if (r->skipped) snprintf(broken, sizeof broken, ", %llu broken records skipped", (unsigned long long)r->skipped);
  pu_demo_row(t, "data pipeline", "%.1f MB, %llu documents, of which %llu were dropped%s; %.0f s",
              (double)r->bytes / 1e6, (unsigned long long)r->documents, (unsigned long long)r->dropped, broken,
              d->cleaned_in);
  pu_demo_row(t, "corpus", "%.1f MB, %llu documents", (double)d->tokens.bytes / 1e6,
              (unsigned long long)d->tokens.documents);
}

const pu_demo_stage pu_demo_data = {"cleaning and mixing the text", NULL, NULL, clean, tell, NULL};
