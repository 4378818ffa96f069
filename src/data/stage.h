/* Inside data: stages, what one step of the pipeline leaves for the next one.
 *
 * A stage is a folder. Its work is cut into units: a file, or a range of a large one; each unit is made by one thread,
 * whole or not at all, so that any number of threads and machines gives the same bytes and a killed run goes on with
 * the units that are missing. For unit U there are U.docs.jsonl.zst   the documents, one a line: {"id", "content",
 * "source", "lang", …}: only where the step read raw files or rewrote text; else the documents of an earlier stage
 * stand U.attrs.jsonl.zst  one line for every document that the step saw: {"n": its line in docs, "id",
 * "FILTER.MEASURE": value…} U.drops.jsonl.zst  one line for every document that it dropped: {"n", "id", "rule",
 * "value", "min" or "max": the bound} U.done.json        counts; written last, it makes the unit and stage.json says
 * which step with which options made it, which folder has the documents, and whose drops count. Nothing is ever taken
 * out of docs: a document is dropped by being listed, so bounds can be changed later. */
#ifndef PUYU_DATA_STAGE_H
#define PUYU_DATA_STAGE_H

#include "src/data/doc.h"

/* ---- reading ---- */

typedef struct pu_stage pu_stage;
pu_err pu_stage_open(const char *dir, pu_stage **out, pu_error *e) PU_MUST_USE;
void pu_stage_close(pu_stage *s);
const char *pu_stage_dir(const pu_stage *s);
size_t pu_stage_units(const pu_stage *s);
const char *pu_stage_unit(const pu_stage *s, size_t unit); /* its name */
const json_t *pu_stage_about(const pu_stage *s);           /* stage.json */
/* of: "source", "lang", "type". {"NAME": [documents, bytes, documents left, bytes left]}; NULL: it was not counted. */
const json_t *pu_stage_shares(const pu_stage *s, const char *of);

/* The documents of a unit that are still in after this stage, in their order. Units may be read by several threads. */
typedef struct pu_unit pu_unit;
pu_err pu_unit_open(const pu_stage *s, size_t unit, pu_unit **out, pu_error *e) PU_MUST_USE;
/* n: its line in docs, from 0: with the unit's number, the name by which records know it. */
pu_err pu_unit_next(pu_unit *u, pu_doc *d, uint64_t *n, bool *found, pu_error *e) PU_MUST_USE;
void pu_unit_close(pu_unit *u);
/* One line of attrs, drops, skips or docs (all of them, also those that were dropped) after the other, as JSON that
 * lives until the next call. */
typedef struct pu_records pu_records;
pu_err pu_records_open(const pu_stage *s, size_t unit, const char *kind /* "attrs", … */, pu_records **out,
                       pu_error *e) PU_MUST_USE;
pu_err pu_records_next(pu_records *r, const json_t **line, bool *found, pu_error *e) PU_MUST_USE;
void pu_records_close(pu_records *r);

/* ---- writing ---- */

typedef struct pu_stage_writer pu_stage_writer;
/* dir: made where it is missing, claimed for one run (per rank). An earlier run of the same step, options and input is
 * gone on with (its units that are done stay); of another is refused unless force, which begins anew. before: the stage
 * whose documents it goes on with; NULL: it makes the first. docs: it writes documents of its own. options: what it was
 * told, for stage.json and for telling runs apart; borrowed. */
typedef struct pu_stage_options {
  const char *step;
  json_t *options;
  const pu_stage *before;
  const char *const *units; /* names; NULL: those of `before` */
  size_t n_units;
  bool docs, force;
  bool no_docs; /* its units have documents of their own that it writes nowhere: they go into shards at once */
  bool instead; /* takes the place of `before`: has its documents, but not its drops */
  int rank, ranks;
} pu_stage_options;
pu_err pu_stage_create(const char *dir, const pu_stage_options *o, pu_stage_writer **out, pu_error *e) PU_MUST_USE;
void pu_stage_writer_free(pu_stage_writer *w);
size_t pu_stage_writer_units(const pu_stage_writer *w);
const char *pu_stage_writer_unit(const pu_stage_writer *w, size_t unit); /* its name */
bool pu_stage_unit_done(const pu_stage_writer *w, size_t unit);

/* One unit's files; any thread, each its own unit. */
typedef struct pu_unit_writer pu_unit_writer;
pu_err pu_unit_create(pu_stage_writer *w, size_t unit, pu_unit_writer **out, pu_error *e) PU_MUST_USE;
/* Writes the document and counts; *n gets its line. Only where the stage has docs. */
pu_err pu_unit_doc(pu_unit_writer *u, const pu_doc *d, uint64_t *n, pu_error *e) PU_MUST_USE;
/* A line of attrs: begin it, add values (NAN is left out), end it. */
pu_err pu_unit_attrs_begin(pu_unit_writer *u, uint64_t n, pu_str id, pu_error *e) PU_MUST_USE;
pu_err pu_unit_attr(pu_unit_writer *u, const char *prefix, const char *name, double value, pu_error *e) PU_MUST_USE;
pu_err pu_unit_attr_str(pu_unit_writer *u, const char *name, pu_str value, pu_error *e) PU_MUST_USE;
/* json: written as it is. */
pu_err pu_unit_attr_json(pu_unit_writer *u, const char *name, const char *json, pu_error *e) PU_MUST_USE;
pu_err pu_unit_attrs_end(pu_unit_writer *u, pu_error *e) PU_MUST_USE;
/* min, max: the bounds of the value; infinite ones are left out. more: further members (", \"of\": \"…\"" as JSON), or
 * NULL. */
pu_err pu_unit_drop(pu_unit_writer *u, uint64_t n, pu_str id, const char *rule, double value, double min, double max,
                    const char *more, pu_error *e) PU_MUST_USE;
pu_err pu_unit_skip(pu_unit_writer *u, const char *file, uint64_t offset, const char *why, pu_error *e) PU_MUST_USE;
/* Puts a count or a list into done.json (steals value). */
pu_err pu_unit_count(pu_unit_writer *u, const char *key, json_t *value, pu_error *e) PU_MUST_USE;
/* Makes the unit; with any err but PU_OK (which it gives back) nothing of it is left. Frees. */
pu_err pu_unit_end(pu_unit_writer *u, pu_err err, pu_error *e) PU_MUST_USE;
/* Waits until all units are there, those of other ranks too (looking at the folder), then, on rank 0, writes
 * stage.json; the others wait for it. */
pu_err pu_stage_end(pu_stage_writer *w, pu_error *e) PU_MUST_USE;

/* Runs fn over units 0..n that are not done, on the pool's threads, this rank's share of them; the error of the first
 * unit that failed. progress: units that are done, of n. */
typedef pu_err (*pu_unit_fn)(void *arg, size_t unit, int worker, pu_error *e);
pu_err pu_stage_run(pu_stage_writer *w, pu_pool *pool, pu_unit_fn fn, void *arg,
                    void (*progress)(void *arg, double done), void *progress_arg, pu_error *e) PU_MUST_USE;

#endif
