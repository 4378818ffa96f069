/* Deduplication as a step of the pipeline: reads a stage, writes one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "src/data/clean.h"
#include "src/data/dedup/dedup.h"

typedef struct step {
  const pu_stage *in;
  pu_dedup_how o;
  pu_dedup *found;
  pu_stage_writer *w;
  char rule[64];
  const pu_data_how *how;
} step;

/* ---- a stage as input ----------------------------------------------------------------------------------------------
 */

/* Values of one attribute, beside the documents in their order. */
typedef struct scores {
  pu_records *records;
  const char *key;
  uint64_t n; /* of the line that was read; UINT64_MAX: none is left */
  double value;
} scores;

static pu_err scores_next(scores *s, pu_error *e) {
  const json_t *line;
  bool found;
  PU_TRY(pu_records_next(s->records, &line, &found, e));
  s->n = found ? (uint64_t)json_integer_value(json_object_get(line, "n")) : UINT64_MAX;
  const json_t *v = found ? json_object_get(line, s->key) : NULL;
  s->value = json_is_number(v) ? json_number_value(v) : NAN;
  return PU_OK;
}

static pu_err scores_open(scores *s, const pu_stage *in, size_t unit, const char *key, pu_error *e) {
  *s = (scores){.key = key, .n = UINT64_MAX, .value = NAN};
  if (!key) return PU_OK;
  PU_TRY(pu_records_open(in, unit, "attrs", &s->records, e));
  return scores_next(s, e);
}

static pu_err score_of(scores *s, uint64_t n, double *out, pu_error *e) {
  while (s->n < n) PU_TRY(scores_next(s, e));
  *out = s->n == n ? s->value : NAN;
  return PU_OK;
}

static pu_err take_all(pu_unit *unit, scores *s, pu_doc *d, pu_dedup_take take, void *arg, pu_error *e) {
  for (;;) {
    pu_dedup_doc doc = {.doc = d};
    bool found;
    PU_TRY(pu_unit_next(unit, d, &doc.n, &found, e));
    if (!found) return PU_OK;
    if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped; the same command goes on");
    PU_TRY(score_of(s, doc.n, &doc.score, e));
    doc.id = d->id;
    doc.time = d->time;
    doc.text = pu_str_of(d->text.data ? d->text.data : "", d->text.len);
    PU_TRY(take(arg, &doc, e));
  }
}

static pu_err each(void *arg, size_t index, pu_dedup_take take, void *take_arg, pu_error *e) {
  const step *s = arg;
  pu_unit *unit = NULL;
  scores values = {0};
  pu_doc d = {0};
  pu_err err = pu_doc_init(&d, e);
  if (err == PU_OK) err = scores_open(&values, s->in, index, s->o.keep == PU_KEEP_BEST ? s->o.score : NULL, e);
  if (err == PU_OK) err = pu_unit_open(s->in, index, &unit, e);
  if (err == PU_OK) err = take_all(unit, &values, &d, take, take_arg, e);
  pu_unit_close(unit);
  pu_records_close(values.records);
  pu_doc_deinit(&d);
  return err;
}

/* What stage.json says, and when it was written: a stage that was made anew is another input. */
static uint64_t input_hash(const pu_stage *in) {
  char path[4096];
  struct stat st = {0};
  const char *key = json_string_value(json_object_get(pu_stage_about(in), "key"));
  snprintf(path, sizeof path, "%s/stage.json", pu_stage_dir(in));
  if (stat(path, &st) != 0) st.st_mtim.tv_sec = 0;
  uint64_t hash = pu_hash64(&st.st_mtim, sizeof st.st_mtim, 0);
  return key ? pu_hash64(key, strlen(key), hash) : hash;
}

/* ---- writing -------------------------------------------------------------------------------------------------------
 */

typedef struct unit_out {
  step *s;
  pu_unit_writer *out;
  pu_clean_counts *counts;
  uint64_t place, cut, clustered;
} unit_out;

static pu_err write_fate(unit_out *u, const pu_dedup_doc *doc, pu_error *e) {
  pu_dedup_fate f = pu_dedup_fate_of(u->s->found, u->place);
  bool gone = f.clustered && f.kept != u->place;
  PU_TRY(pu_unit_attrs_begin(u->out, doc->n, doc->id, e));
  if (f.clustered) {
    PU_TRY(pu_unit_attr_str(u->out, "dedup.cluster", f.kept_id, e));
    PU_TRY(pu_unit_attr(u->out, "dedup", "similarity", f.similarity, e));
  }
  PU_TRY(pu_unit_attrs_end(u->out, e));
  u->clustered += f.clustered && !gone;
  PU_TRY(pu_clean_counts_doc(u->counts, doc->doc, gone ? u->s->rule : NULL, f.similarity, e));
  if (!gone) return PU_OK;
  pu_buf more;
  pu_buf_init(&more, 1 << 20);
  pu_buf_puts(&more, ", \"of\": ");
  pu_buf_json_str(&more, f.kept_id);
  double max = u->s->o.mode == PU_DEDUP_MINHASH ? u->s->o.threshold : INFINITY;
  pu_err err = more.failed
                   ? pu_fail(e, PU_ERR_NOMEM, "dedup: no memory")
                   : pu_unit_drop(u->out, doc->n, doc->id, u->s->rule, f.similarity, -INFINITY, max, more.data, e);
  pu_buf_deinit(&more);
  return err;
}

static pu_err write_rest(unit_out *u, const pu_dedup_doc *doc, pu_error *e) {
  pu_doc *d = doc->doc;
  uint64_t cut, n, before = d->text.len;
  pu_buf_clear(&d->spare);
  PU_TRY(pu_dedup_rewrite(u->s->found, u->place, doc->text, &d->spare, &cut, e));
  bool gone = cut > 0 && d->spare.len == 0;
  if (cut > 0 && !gone) pu_doc_rewritten(d);
  double share = before > 0 ? (double)cut / (double)before : 0;
  u->cut += cut;
  PU_TRY(pu_unit_doc(u->out, d, &n, e));
  PU_TRY(pu_unit_attrs_begin(u->out, n, d->id, e));
  PU_TRY(pu_unit_attr(u->out, "dedup", "cut", (double)cut, e));
  PU_TRY(pu_unit_attrs_end(u->out, e));
  PU_TRY(pu_clean_counts_doc(u->counts, d, gone ? u->s->rule : NULL, share, e));
  return gone ? pu_unit_drop(u->out, n, d->id, u->s->rule, share, -INFINITY, 1, NULL, e) : PU_OK;
}

static pu_err write_doc(void *arg, const pu_dedup_doc *doc, pu_error *e) {
  unit_out *u = arg;
  PU_TRY(pu_dedup_cuts(u->s->o.mode) ? write_rest(u, doc, e) : write_fate(u, doc, e));
  u->place++;
  return PU_OK;
}

static pu_err write_counts(const unit_out *u, pu_error *e) {
  PU_TRY(pu_clean_counts_put(u->counts, u->out, e));
  if (pu_dedup_cuts(u->s->o.mode)) return pu_unit_count(u->out, "cut_bytes", json_integer((json_int_t)u->cut), e);
  return pu_unit_count(u->out, "clusters", json_integer((json_int_t)u->clustered), e);
}

static pu_err write_unit(void *arg, size_t unit, int worker, pu_error *e) {
  step *s = arg;
  (void)worker;
  static const pu_filter_set none;
  unit_out u = {.s = s, .place = pu_dedup_place(s->found, unit)};
  PU_TRY(pu_clean_counts_create(&none, &u.counts, e));
  pu_err err = pu_unit_create(s->w, unit, &u.out, e);
  if (err == PU_OK) {
    err = each(s, unit, write_doc, &u, e);
    if (err == PU_OK) err = write_counts(&u, e);
    err = pu_unit_end(u.out, err, e);
  }
  pu_clean_counts_free(u.counts);
  return err;
}

/* ---- all -----------------------------------------------------------------------------------------------------------
 */

static json_t *options_json(const pu_dedup_how *o) {
  json_t *all = json_pack("{s:s}", "mode", pu_dedup_mode_names[o->mode]);
  if (!all || pu_dedup_cuts(o->mode)) {
    json_object_set_new(all, "min_bytes", json_integer(pu_dedup_min_bytes(o)));
    return all;
  }
  json_object_set_new(all, "keep", json_string(pu_dedup_keep_names[o->keep]));
  if (o->keep == PU_KEEP_BEST) json_object_set_new(all, "score", json_string(o->score));
  if (o->mode == PU_DEDUP_MINHASH) {
    pu_bands b = pu_bands_for(o->threshold);
    json_t *curve = json_array(); /* found of pairs at similarities of 0, 0.1, … 1 */
    for (int i = 0; i <= 10; i++) json_array_append_new(curve, json_real(pu_bands_found(b, i / 10.0)));
    json_object_set_new(all, "threshold", json_real(o->threshold));
    json_object_set_new(all, "bands", json_integer(b.bands));
    json_object_set_new(all, "rows", json_integer(b.rows));
    json_object_set_new(all, "found", curve);
  }
  return all;
}

static void find_progress(void *arg, const char *what, double done, double total) {
  const step *s = arg;
  if (s->how->progress) s->how->progress(s->how->progress_arg, what, done, total);
}

static void write_progress(void *arg, double done) {
  const step *s = arg;
  if (s->how->progress) s->how->progress(s->how->progress_arg, "dedup", done, (double)pu_stage_writer_units(s->w));
}

static pu_err run(step *s, const char *dir, pu_error *e) {
  char work[4096];
  if ((size_t)snprintf(work, sizeof work, "%s/work", dir) >= sizeof work - 32)
    return pu_fail(e, PU_ERR_USAGE, "%s: the path is too long", dir);
  pu_dedup_input input = {pu_stage_units(s->in), each, s, input_hash(s->in)};
  PU_TRY(pu_dedup_find(&input, work, &s->o, &s->found, e));
  PU_TRY(pu_stage_run(s->w, s->how->pool, write_unit, s, write_progress, s, e));
  PU_TRY(pu_dedup_clear(s->found, e));
  return pu_stage_end(s->w, e);
}

static pu_err make(const pu_stage *in, const char *dir, const pu_dedup_options *o, const pu_data_how *how,
                   pu_error *e) {
  step s = {.in = in, .how = how};
  s.o.mode = (pu_dedup_mode)o->mode;
  s.o.keep = (pu_dedup_keep)o->keep;
  s.o.score = o->score;
  s.o.threshold = o->threshold;
  s.o.min_bytes = o->min_bytes;
  s.o.pool = how->pool;
  s.o.memory = how->memory ? how->memory : pu_memory_free() / 2;
  s.o.rank = how->rank;
  s.o.ranks = how->ranks;
  s.o.progress = find_progress;
  s.o.progress_arg = &s;
  PU_TRY(pu_dedup_check(&s.o, e));
  snprintf(s.rule, sizeof s.rule, "dedup.%s", pu_dedup_mode_names[s.o.mode]);
  json_t *options = options_json(&s.o);
  pu_stage_options so = {.step = "dedup",
                         .options = options,
                         .before = in,
                         .docs = pu_dedup_cuts(s.o.mode),
                         .force = how->force,
                         .rank = how->rank,
                         .ranks = how->ranks};
  pu_err err = options ? pu_stage_create(dir, &so, &s.w, e) : pu_fail(e, PU_ERR_NOMEM, "dedup: no memory");
  if (err == PU_OK) err = run(&s, dir, e);
  pu_dedup_free(s.found);
  pu_stage_writer_free(s.w);
  json_decref(options);
  return err;
}

pu_err pu_dedup_run(const char *dir, const char *before, const pu_dedup_options *o, const pu_data_how *how,
                    pu_data_result *out, pu_error *e) {
  pu_stage *in;
  PU_TRY(pu_stage_open(before, &in, e));
  pu_err err = make(in, dir, o, how, e);
  pu_stage_close(in);
  return err == PU_OK ? pu_data_counts(dir, out, e) : err;
}
