/* Decontamination as a step of the pipeline: reads a stage, writes one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/clean.h"
#include "src/data/contam.h"

enum { TOLD = 64 /* items in a document's record */, SHOWN = 300 /* bytes of an n-gram in it */, SAMPLES = 8 };

typedef struct step {
  const pu_stage *in;
  const pu_contam *c;
  pu_stage_writer *w;
  const pu_data_how *how;
} step;

typedef struct unit_run {
  const step *s;
  pu_unit_writer *out;
  pu_clean_counts *counts;
  pu_contam_found found;
  pu_doc d;
  pu_buf line;
  json_t *touched; /* {file: {number of a record: documents that touch it}} */
  json_t *samples;
  uint64_t cut, n_touching;
} unit_run;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "decontaminate: no memory");
}

static bool cuts(const unit_run *r) {
  return r->s->c->o.mode == PU_CONTAM_PASSAGE;
}

/* ---- records ------------------------------------------------------------------------------------------------------
 */

static void put_quoted(pu_buf *b, const char *key, pu_str s) {
  pu_buf_printf(b, "\"%s\": ", key);
  pu_buf_json_str(b, s);
}

static pu_str shown(pu_str s) {
  size_t len = PU_MIN(s.len, (size_t)SHOWN);
  while (len < s.len && len > 0 && ((uint8_t)s.ptr[len] & 0xc0) == 0x80) len--;
  return pu_str_of(s.ptr, len);
}

static void put_hit(pu_buf *b, const pu_contam *c, const pu_contam_hit *h) {
  pu_contam_item x = pu_contam_item_of(c, h->item);
  char share[32];
  pu_format_float(share, (float)h->share);
  put_quoted(b, "file", pu_str_c(x.file));
  pu_buf_printf(b, ", \"number\": %llu, ", (unsigned long long)x.number);
  put_quoted(b, "field", pu_str_c(x.field));
  pu_buf_printf(b, ", \"share\": %s, \"by\": \"%s\", \"over\": %s, ", share, pu_contam_by_names[h->by],
                h->over ? "true" : "false");
  put_quoted(b, "ngram", shown(h->at));
}

/* The list of what a document touches, for its sidecar: made while the text that was checked is there. */
static pu_err list_hits(unit_run *r, pu_error *e) {
  const pu_contam_found *f = &r->found;
  pu_buf_clear(&r->line);
  for (size_t i = 0; i < f->n && i < TOLD; i++) {
    pu_buf_puts(&r->line, i ? "}, {" : "[{");
    put_hit(&r->line, r->s->c, &f->hits[i]);
  }
  return f->n == 0 || pu_buf_puts(&r->line, "}]") ? PU_OK : nomem(e);
}

static pu_err write_attrs(unit_run *r, uint64_t n, uint64_t cut, pu_error *e) {
  const pu_contam_found *f = &r->found;
  double most = 0;
  PU_TRY(pu_unit_attrs_begin(r->out, n, r->d.id, e));
  for (size_t i = 0; i < f->n; i++) most = PU_MAX(most, f->hits[i].share);
  if (f->n > 0) {
    PU_TRY(pu_unit_attr(r->out, "contam", "share", most, e));
    PU_TRY(pu_unit_attr(r->out, "contam", "items", (double)f->n_over, e));
    PU_TRY(pu_unit_attr(r->out, "contam", "cut", cut > 0 ? (double)cut : NAN, e));
    PU_TRY(pu_unit_attr_json(r->out, "contam.touched", r->line.data, e));
  }
  return pu_unit_attrs_end(r->out, e);
}

static pu_err write_drop(unit_run *r, uint64_t n, pu_error *e) {
  const pu_contam *c = r->s->c;
  const pu_contam_hit *h = &r->found.hits[0];
  pu_contam_item x = pu_contam_item_of(c, h->item);
  char of[4200];
  snprintf(of, sizeof of, "%s:%llu", x.file, (unsigned long long)x.number);
  double bound = h->by == PU_CONTAM_NGRAM ? c->o.share : h->by == PU_CONTAM_NEAR ? c->o.similarity : 1;
  pu_buf_clear(&r->line);
  pu_buf_puts(&r->line, ", ");
  put_quoted(&r->line, "of", pu_str_c(of));
  pu_buf_puts(&r->line, ", ");
  put_quoted(&r->line, "field", pu_str_c(x.field));
  pu_buf_printf(&r->line, ", \"by\": \"%s\", ", pu_contam_by_names[h->by]);
  put_quoted(&r->line, "ngram", shown(h->at));
  if (r->line.failed) return nomem(e);
  return pu_unit_drop(r->out, n, r->d.id, "contam", h->share, -INFINITY, bound, r->line.data, e);
}

/* ---- counts for the report ----------------------------------------------------------------------------------------
 */

static pu_err sample(unit_run *r, pu_error *e) {
  if (json_array_size(r->samples) >= SAMPLES) return PU_OK;
  json_t *o = NULL;
  pu_buf_clear(&r->line);
  pu_buf_puts(&r->line, "{");
  put_quoted(&r->line, "id", r->d.id);
  pu_buf_puts(&r->line, ", ");
  put_hit(&r->line, r->s->c, &r->found.hits[0]);
  if (!pu_buf_puts(&r->line, "}") || r->line.failed) return nomem(e);
  PU_TRY(pu_json_parse("sample", pu_str_of(r->line.data, r->line.len), &o, e));
  return json_array_append_new(r->samples, o) == 0 ? PU_OK : nomem(e);
}

static pu_err count_touched(unit_run *r, pu_error *e) {
  const pu_contam_found *f = &r->found;
  if (f->n_over == 0) return PU_OK;
  r->n_touching++;
  for (size_t i = 0; i < f->n_over; i++) {
    pu_contam_item x = pu_contam_item_of(r->s->c, f->hits[i].item);
    char number[24];
    snprintf(number, sizeof number, "%llu", (unsigned long long)x.number);
    json_t *of = json_object_get(r->touched, x.file);
    if (!of && json_object_set_new(r->touched, x.file, of = json_object()) != 0) return nomem(e);
    json_int_t before = json_integer_value(json_object_get(of, number));
    if (json_object_set_new(of, number, json_integer(before + 1)) != 0) return nomem(e);
  }
  return sample(r, e);
}

static pu_err write_counts(unit_run *r, pu_error *e) {
  PU_TRY(pu_clean_counts_put(r->counts, r->out, e));
  PU_TRY(pu_unit_count(r->out, "touched", json_incref(r->touched), e));
  PU_TRY(pu_unit_count(r->out, "touches", json_incref(r->samples), e));
  PU_TRY(pu_unit_count(r->out, "touching", json_integer((json_int_t)r->n_touching), e));
  return pu_unit_count(r->out, "cut_bytes", json_integer((json_int_t)r->cut), e);
}

/* ---- a document ---------------------------------------------------------------------------------------------------
 */

static bool is_blank(const pu_buf *b) {
  size_t i = 0;
  while (i < b->len && strchr(" \t\n", b->data[i]) && b->data[i]) i++;
  return i == b->len;
}

/* Of a document that touches an item: is nothing of it left? */
static pu_err cut_doc(unit_run *r, uint64_t *cut, bool *gone, pu_error *e) {
  pu_doc *d = &r->d;
  pu_str text = pu_str_of(d->text.data, d->text.len);
  pu_buf_clear(&d->spare);
  PU_TRY(pu_contam_cut(&r->found, text, &d->spare, e));
  *cut = text.len - d->spare.len;
  *gone = is_blank(&d->spare);
  r->cut += *cut;
  if (!*gone) pu_doc_rewritten(d);
  return PU_OK;
}

static pu_err handle(unit_run *r, uint64_t n, pu_error *e) {
  pu_doc *d = &r->d;
  pu_str text = pu_str_of(d->text.data ? d->text.data : "", d->text.len);
  PU_TRY(pu_contam_check(r->s->c, text, &r->found, e));
  bool touches = r->found.n_over > 0, gone = touches;
  double share = touches ? r->found.hits[0].share : 0;
  uint64_t cut = 0;
  PU_TRY(count_touched(r, e));
  PU_TRY(list_hits(r, e));
  if (cuts(r)) {
    if (touches) PU_TRY(cut_doc(r, &cut, &gone, e));
    PU_TRY(pu_unit_doc(r->out, d, &n, e));
  }
  PU_TRY(write_attrs(r, n, cut, e));
  PU_TRY(pu_clean_counts_doc(r->counts, d, gone ? "contam" : NULL, share, e));
  return gone ? write_drop(r, n, e) : PU_OK;
}

/* ---- units --------------------------------------------------------------------------------------------------------
 */

static pu_err handle_all(unit_run *r, size_t unit, pu_error *e) {
  pu_unit *in;
  PU_TRY(pu_unit_open(r->s->in, unit, &in, e));
  pu_err err = PU_OK;
  for (bool found = true; err == PU_OK && found;) {
    uint64_t n;
    err = pu_unit_next(in, &r->d, &n, &found, e);
    if (err == PU_OK && found) err = handle(r, n, e);
    if (err == PU_OK && pu_signals_stop())
      err = pu_fail(e, PU_ERR_STOPPED, "stopped; what is done stays, the same command goes on");
  }
  pu_unit_close(in);
  return err;
}

static pu_err make_unit(unit_run *r, size_t unit, pu_error *e) {
  static const pu_filter_set none;
  PU_TRY(pu_doc_init(&r->d, e));
  PU_TRY(pu_clean_counts_create(&none, &r->counts, e));
  PU_TRY(pu_unit_create(r->s->w, unit, &r->out, e));
  pu_err err = handle_all(r, unit, e);
  if (err == PU_OK) err = write_counts(r, e);
  return pu_unit_end(r->out, err, e);
}

static pu_err run_unit(void *arg, size_t unit, int worker, pu_error *e) {
  unit_run r = {.s = arg, .touched = json_object(), .samples = json_array()};
  (void)worker;
  pu_buf_init(&r.line, PU_BUF_MAX);
  pu_err err = r.touched && r.samples ? make_unit(&r, unit, e) : nomem(e);
  pu_clean_counts_free(r.counts);
  pu_contam_found_free(&r.found);
  pu_doc_deinit(&r.d);
  pu_buf_deinit(&r.line);
  json_decref(r.touched);
  json_decref(r.samples);
  return err;
}

/* ---- contam.jsonl: the stage's sidecars by item --------------------------------------------------------------------
 */

static pu_err report_line(pu_writer *w, const char *unit, const json_t *line, pu_error *e) {
  const json_t *touched = json_object_get(line, "contam.touched"), *hit;
  size_t i;
  json_array_foreach((json_t *)touched, i, hit) {
    json_t *o = json_copy((json_t *)hit);
    json_object_set(o, "id", json_object_get(line, "id"));
    json_object_set(o, "n", json_object_get(line, "n"));
    json_object_set_new(o, "unit", json_string(unit));
    char *text = o ? json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    pu_err err = text ? pu_writer_put(w, text, strlen(text), e) : nomem(e);
    if (err == PU_OK) err = pu_writer_put(w, "\n", 1, e);
    json_decref(o);
    free(text);
    PU_TRY(err);
  }
  return PU_OK;
}

static pu_err report_units(pu_writer *w, const pu_stage *s, pu_error *e) {
  for (size_t u = 0; u < pu_stage_units(s); u++) {
    pu_records *r;
    PU_TRY(pu_records_open(s, u, "attrs", &r, e));
    pu_err err = PU_OK;
    for (bool found = true; err == PU_OK && found;) {
      const json_t *line;
      err = pu_records_next(r, &line, &found, e);
      if (err == PU_OK && found) err = report_line(w, pu_stage_unit(s, u), line, e);
    }
    pu_records_close(r);
    PU_TRY(err);
  }
  return PU_OK;
}

static pu_err write_report(const char *dir, pu_error *e) {
  char path[4096];
  pu_stage *s;
  pu_writer *w;
  if ((size_t)snprintf(path, sizeof path, "%s/contam.jsonl", dir) >= sizeof path)
    return pu_fail(e, PU_ERR_USAGE, "%s: the path is too long", dir);
  PU_TRY(pu_stage_open(dir, &s, e));
  pu_err err = pu_writer_begin(path, &w, e);
  if (err == PU_OK) err = pu_writer_end(w, report_units(w, s, e), e);
  pu_stage_close(s);
  return err;
}

/* ---- all ----------------------------------------------------------------------------------------------------------
 */

/* What is looked for; each set with its records, for the report. */
static json_t *options_json(const pu_contam *c) {
  pu_contam_about n = pu_contam_about_of(c);
  char index[32];
  snprintf(index, sizeof index, "%016llx", (unsigned long long)contam_hash(c));
  json_t *sets = json_object();
  for (size_t i = 0; i < contam_n_files(c); i++)
    json_object_set_new(sets, contam_files(c)[i].name, json_integer((json_int_t)contam_files(c)[i].records));
  json_t *all = json_pack("{s:s, s:s, s:I, s:f, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "index", index, "mode",
                          pu_contam_mode_names[c->o.mode], "ngram", (json_int_t)c->o.ngram, "share", c->o.share, "near",
                          c->o.near, "common", (json_int_t)c->o.common, "items", (json_int_t)n.items, "templates",
                          (json_int_t)n.templates, "shorter", (json_int_t)n.shorter, "broken", (json_int_t)n.broken,
                          "ngrams", (json_int_t)n.ngrams, "sets", sets);
  if (all && c->o.near) json_object_set_new(all, "similarity", json_real(c->o.similarity));
  return all;
}

static void on_progress(void *arg, double done) {
  const step *s = arg;
  if (!s->how->progress) return;
  s->how->progress(s->how->progress_arg, "decontaminate", done, (double)pu_stage_writer_units(s->w));
}

static pu_err make(step *s, const char *dir, pu_error *e) {
  json_t *options = options_json(s->c);
  pu_stage_options so = {.step = "decontaminate",
                         .options = options,
                         .before = s->in,
                         .docs = s->c->o.mode == PU_CONTAM_PASSAGE,
                         .force = s->how->force,
                         .rank = s->how->rank,
                         .ranks = s->how->ranks};
  pu_err err = options ? pu_stage_create(dir, &so, &s->w, e) : nomem(e);
  if (err == PU_OK) err = pu_stage_run(s->w, s->how->pool, run_unit, s, on_progress, s, e);
  if (err == PU_OK) err = pu_stage_end(s->w, e);
  if (err == PU_OK && s->how->rank == 0) err = write_report(dir, e);
  pu_stage_writer_free(s->w);
  json_decref(options);
  return err;
}

pu_err pu_contam_run(const char *dir, const char *before, const pu_contam *c, const pu_data_how *how,
                     pu_data_result *out, pu_error *e) {
  step s = {.c = c, .how = how};
  pu_stage *in;
  PU_TRY(pu_stage_open(before, &in, e));
  s.in = in;
  pu_err err = make(&s, dir, e);
  pu_stage_close(in);
  return err == PU_OK ? pu_data_counts(dir, out, e) : err;
}
