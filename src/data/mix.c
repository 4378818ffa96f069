/* Mixing: how often each document of a source comes, and all of them in random order, in memory that does not grow with
 * the corpus. Two passes over a work folder. The first gives every copy of a document a random key (of seed, unit, line
 * and copy alone) and puts it into the bucket that the key falls into; the second sorts each bucket by key. Buckets are
 * the units of the stage: of documents, or, where a tokenizer is given, of shards, for which the text is not written
 * once more. How many there are depends on the amount of text alone, so the result does not depend on threads, ranks or
 * memory. */
#include "src/data/mix.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "src/data/clean.h"
#include "src/data/tokenize.h"
#include "src/data/work.h"

enum { BUCKETS_MAX = 4096, LEVEL = -5, FIELDS = 10 };
#define BUCKET_BYTES ((uint64_t)64 << 20)

typedef struct mix {
  const pu_mix_options *o;
  const pu_data_how *how;
  const pu_stage *before;
  pu_stage_writer *w;
  pu_mix_plan plan;
  size_t n_buckets;
  const char **domains;  /* sources that come, where there are shards */
  pu_sharding *sharding; /* NULL: documents are written */
  pu_work work;
  pu_map *spread; /* [units of before] */
  uint64_t *counts;
} mix;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "mix: no memory");
}

/* ---- first pass: into buckets ---- */

/* A document in a bucket: this, then its strings, end to end, the text last. */
typedef struct record {
  uint64_t key, unit, n, copy;
  uint64_t lens[FIELDS];
} record;

static void fields_of(pu_doc *d, pu_str *out[FIELDS - 1]) {
  pu_str *const v[FIELDS - 1] = {&d->id,     &d->source, &d->repository, &d->url, &d->title,
                                 &d->author, &d->time,   &d->lang,       &d->type};
  memcpy(out, v, sizeof v);
}

static bool put_record(pu_buf *b, const record *r, pu_doc *d) {
  pu_str *f[FIELDS - 1];
  fields_of(d, f);
  pu_buf_append(b, r, sizeof *r);
  for (int i = 0; i < FIELDS - 1; i++) pu_buf_append(b, f[i]->ptr, f[i]->len);
  return pu_buf_append(b, d->text.data, d->text.len);
}

static void lens_of(record *r, pu_doc *d) {
  pu_str *f[FIELDS - 1];
  fields_of(d, f);
  for (int i = 0; i < FIELDS - 1; i++) r->lens[i] = f[i]->len;
  r->lens[FIELDS - 1] = d->text.len;
}

static size_t record_bytes(const record *r) {
  size_t n = sizeof *r;
  for (int i = 0; i < FIELDS; i++) n += r->lens[i];
  return n;
}

/* A copy on its way: where its record is. */
typedef struct copy {
  uint64_t key, copy;
  size_t at;
} copy;

typedef struct spreading {
  const mix *m;
  size_t unit;
  pu_buf records;
  copy *v;
  size_t n, cap;
} spreading;

static bool add_copy(spreading *s, copy c) {
  if (s->n == s->cap) {
    size_t cap = PU_MAX((size_t)1024, 2 * s->cap);
    copy *grown = realloc(s->v, cap * sizeof *grown);
    if (!grown) return false;
    s->v = grown;
    s->cap = cap;
  }
  s->v[s->n++] = c;
  return true;
}

/* Whole passes, and one more for a share of the documents. Files of one repository go the same way. */
static pu_err spread_doc(spreading *s, pu_doc *d, uint64_t n, pu_error *e) {
  const pu_mix_options *o = s->m->o;
  double part = (double)(pu_random_at(o->seed, s->unit, n) >> 11) * 0x1p-53;
  uint64_t copies = (uint64_t)(pu_mix_passes(&s->m->plan, d->source) + part);
  uint64_t group = o->join == PU_JOIN_PATH ? pu_join_group(d) : 0;
  record r = {.unit = s->unit, .n = n};
  size_t at = s->records.len;
  if (copies == 0 || (o->min_bytes > 0 && d->text.len < (uint64_t)o->min_bytes)) return PU_OK;
  lens_of(&r, d);
  if (!put_record(&s->records, &r, d)) return nomem(e);
  for (uint64_t c = 0; c < copies; c++) {
    uint64_t key = group ? pu_random_at(o->seed, group, c) : pu_random_at(o->seed + 1 + c, s->unit, n);
    if (!add_copy(s, (copy){key, c, at})) return nomem(e);
  }
  return PU_OK;
}

static pu_err read_unit(spreading *s, pu_error *e) {
  pu_unit *u;
  pu_doc d = {0};
  PU_TRY(pu_doc_init(&d, e));
  pu_err err = pu_unit_open(s->m->before, s->unit, &u, e);
  for (bool found = err == PU_OK; err == PU_OK && found;) {
    uint64_t n;
    err = pu_unit_next(u, &d, &n, &found, e);
    if (err == PU_OK && found) err = spread_doc(s, &d, n, e);
  }
  pu_unit_close(u);
  pu_doc_deinit(&d);
  return err;
}

static size_t bucket_of(const mix *m, uint64_t key) {
  return (size_t)(((key >> 32) * m->n_buckets) >> 32);
}

static int by_key(const void *a, const void *b) {
  const copy *x = a, *y = b;
  if (x->key != y->key) return x->key < y->key ? -1 : 1;
  if (x->at != y->at) return x->at < y->at ? -1 : 1;
  return (x->copy > y->copy) - (x->copy < y->copy);
}

/* The records of copies [begin, end), one bucket's, compressed. */
static pu_err put_bucket(const spreading *s, size_t begin, size_t end, pu_buf *plain, pu_buf *packed,
                         pu_blob_writer *out, pu_error *e) {
  pu_buf_clear(plain);
  for (size_t i = begin; i < end; i++) {
    record r;
    memcpy(&r, s->records.data + s->v[i].at, sizeof r);
    size_t bytes = record_bytes(&r);
    r.key = s->v[i].key;
    r.copy = s->v[i].copy;
    pu_buf_append(plain, &r, sizeof r);
    pu_buf_append(plain, s->records.data + s->v[i].at + sizeof r, bytes - sizeof r);
  }
  size_t room = ZSTD_compressBound(plain->len);
  pu_buf_clear(packed);
  if (plain->failed || !pu_buf_reserve(packed, room)) return nomem(e);
  size_t n = ZSTD_compress(packed->data, room, plain->data, plain->len, LEVEL);
  if (ZSTD_isError(n)) return pu_fail(e, PU_ERR_NOMEM, "mix: zstd: %s", ZSTD_getErrorName(n));
  return pu_blobs_add(out, bucket_of(s->m, s->v[begin].key), packed->data, n, e);
}

static pu_err put_buckets(spreading *s, pu_blob_writer *out, pu_error *e) {
  pu_buf plain, packed;
  pu_buf_init(&plain, (size_t)1 << 40);
  pu_buf_init(&packed, (size_t)1 << 40);
  if (s->n > 0) qsort(s->v, s->n, sizeof *s->v, by_key);
  pu_err err = PU_OK;
  for (size_t i = 0, end; err == PU_OK && i < s->n; i = end) {
    size_t b = bucket_of(s->m, s->v[i].key);
    for (end = i; end < s->n && bucket_of(s->m, s->v[end].key) == b;) end++;
    err = put_bucket(s, i, end, &plain, &packed, out, e);
  }
  pu_buf_deinit(&plain);
  pu_buf_deinit(&packed);
  return err;
}

static pu_err spread_unit(void *arg, size_t unit, pu_error *e) {
  mix *m = arg;
  spreading s = {.m = m, .unit = unit};
  pu_blob_writer out;
  if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped; what is done stays, the same command goes on");
  pu_buf_init(&s.records, (size_t)1 << 40);
  pu_err err = read_unit(&s, e);
  if (err == PU_OK) err = pu_blobs_begin(&m->work, unit, &out, e);
  if (err == PU_OK) err = pu_blobs_end(&out, put_buckets(&s, &out, e), e);
  free(s.v);
  pu_buf_deinit(&s.records);
  return err;
}

/* ---- second pass: each bucket sorted ---- */

static pu_err unpack(pu_str blob, pu_buf *all, pu_error *e) {
  unsigned long long bytes = ZSTD_getFrameContentSize(blob.ptr, blob.len);
  if (bytes == ZSTD_CONTENTSIZE_ERROR || bytes == ZSTD_CONTENTSIZE_UNKNOWN || !pu_buf_reserve(all, (size_t)bytes))
    return nomem(e);
  size_t n = ZSTD_decompress(all->data + all->len, (size_t)bytes, blob.ptr, blob.len);
  if (ZSTD_isError(n)) return pu_fail(e, PU_ERR_FORMAT, "mix: the work folder is damaged; begin anew with --force");
  all->len += n;
  return PU_OK;
}

typedef struct loaded {
  pu_buf all;
  const char **v; /* records */
  size_t n, cap;
} loaded;

static pu_err index_records(loaded *l, pu_error *e) {
  for (size_t at = 0; at < l->all.len;) {
    record r;
    if (l->n == l->cap) {
      size_t cap = PU_MAX((size_t)1024, 2 * l->cap);
      const char **grown = realloc(l->v, cap * sizeof *grown);
      if (!grown) return nomem(e);
      l->v = grown;
      l->cap = cap;
    }
    l->v[l->n++] = l->all.data + at;
    memcpy(&r, l->all.data + at, sizeof r);
    at += record_bytes(&r);
  }
  return PU_OK;
}

static int records_by_key(const void *a, const void *b) {
  record x, y;
  memcpy(&x, *(const char *const *)a, sizeof x);
  memcpy(&y, *(const char *const *)b, sizeof y);
  const uint64_t p[4] = {x.key, x.unit, x.n, x.copy}, q[4] = {y.key, y.unit, y.n, y.copy};
  for (int i = 0; i < 4; i++)
    if (p[i] != q[i]) return p[i] < q[i] ? -1 : 1;
  return 0;
}

static pu_err load(const mix *m, size_t bucket, loaded *l, pu_error *e) {
  size_t units = pu_stage_units(m->before);
  for (size_t u = 0; u < units; u++) {
    pu_str blob = pu_blobs_find(&m->spread[u], m->counts[u], bucket);
    if (blob.ptr) PU_TRY(unpack(blob, &l->all, e));
  }
  PU_TRY(index_records(l, e));
  if (l->n > 0) qsort(l->v, l->n, sizeof *l->v, records_by_key);
  return PU_OK;
}

static pu_err fill(pu_doc *d, const char *at, pu_error *e) {
  pu_str *f[FIELDS - 1];
  record r;
  memcpy(&r, at, sizeof r);
  at += sizeof r;
  pu_doc_clear(d);
  fields_of(d, f);
  for (int i = 0; i < FIELDS - 1; at += r.lens[i], i++) *f[i] = pu_str_of(at, r.lens[i]);
  return pu_buf_append(&d->text, at, r.lens[FIELDS - 1]) ? PU_OK : nomem(e);
}

/* One unit of the stage. */
typedef struct unit_out {
  pu_unit_writer *unit;
  pu_clean_counts *counts; /* of documents that are written */
  pu_unit_shards *shards;  /* NULL: they are */
  uint64_t n;              /* documents that went into shards */
} unit_out;

/* parts: see pu_join_put; NULL: it is not joined. */
static pu_err put_doc(void *arg, pu_doc *d, const char *parts, pu_error *e) {
  unit_out *out = arg;
  uint64_t n;
  if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped; what is done stays, the same command goes on");
  if (out->shards) return pu_unit_shards_doc(out->shards, d, out->n++, parts, e);
  PU_TRY(pu_unit_doc(out->unit, d, &n, e));
  PU_TRY(pu_unit_attrs_begin(out->unit, n, d->id, e));
  if (parts) PU_TRY(pu_unit_attr_json(out->unit, "parts", parts, e));
  PU_TRY(pu_unit_attrs_end(out->unit, e));
  return pu_clean_counts_doc(out->counts, d, NULL, NAN, e);
}

static pu_err put_all(const loaded *l, pu_doc *d, unit_out *out, pu_error *e) {
  for (size_t i = 0; i < l->n; i++) {
    PU_TRY(fill(d, l->v[i], e));
    PU_TRY(put_doc(out, d, NULL, e));
  }
  return PU_OK;
}

/* Those for validation, or those for training: nothing is joined across. */
static pu_err put_joined(const mix *m, const loaded *l, bool valid, pu_doc *d, unit_out *out, pu_error *e) {
  pu_joiner *j;
  PU_TRY(pu_joiner_create((pu_join)m->o->join, (uint64_t)m->o->join_bytes, &j, e));
  pu_err err = PU_OK;
  for (size_t i = 0; err == PU_OK && i < l->n; i++) {
    err = fill(d, l->v[i], e);
    if (err == PU_OK && pu_tokenize_is_valid(m->o->valid_fraction, d->id) == valid) err = pu_joiner_add(j, d, e);
  }
  if (err == PU_OK) err = pu_joiner_write(j, put_doc, out, e);
  pu_joiner_free(j);
  return err;
}

static pu_err put_sorted(const mix *m, const loaded *l, unit_out *out, pu_error *e) {
  pu_doc d = {0};
  PU_TRY(pu_doc_init(&d, e));
  bool joins = m->o->join != PU_JOIN_NONE;
  pu_err err = joins ? put_joined(m, l, false, &d, out, e) : put_all(l, &d, out, e);
  if (err == PU_OK && joins && m->o->valid_fraction > 0) err = put_joined(m, l, true, &d, out, e);
  pu_doc_deinit(&d);
  return err;
}

static pu_err put_bucket_out(const mix *m, size_t bucket, int worker, unit_out *out, pu_error *e) {
  static const pu_filter_set none;
  loaded l = {0};
  pu_buf_init(&l.all, (size_t)1 << 40);
  pu_err err = m->sharding ? pu_unit_shards_open(m->sharding, pu_stage_writer_unit(m->w, bucket), worker, out->unit,
                                                 &out->shards, e)
                           : pu_clean_counts_create(&none, &out->counts, e);
  if (err == PU_OK) err = load(m, bucket, &l, e);
  if (err == PU_OK) err = put_sorted(m, &l, out, e);
  if (err == PU_OK && out->counts) err = pu_clean_counts_put(out->counts, out->unit, e);
  err = pu_unit_shards_end(out->shards, err, e);
  pu_clean_counts_free(out->counts);
  free(l.v);
  pu_buf_deinit(&l.all);
  return err;
}

static pu_err sort_bucket(void *arg, size_t bucket, int worker, pu_error *e) {
  const mix *m = arg;
  unit_out out = {0};
  PU_TRY(pu_unit_create(m->w, bucket, &out.unit, e));
  return pu_unit_end(out.unit, put_bucket_out(m, bucket, worker, &out, e), e);
}

/* ---- all ---- */

static void show(void *arg, const char *what, double done, double total) {
  const mix *m = arg;
  if (m->how->progress) m->how->progress(m->how->progress_arg, what, done, total);
}

static void show_buckets(void *arg, double buckets) {
  const mix *m = arg;
  show(arg, m->sharding ? "tokenize" : "shuffling", buckets, (double)m->n_buckets);
}

/* What stage.json says: the plan, or how shards are made, with the plan below "mix". */
static json_t *options_json(const mix *m) {
  json_t *plan = pu_mix_plan_json(&m->plan, m->o), *all = m->sharding ? pu_sharding_json(m->sharding) : NULL;
  if (!m->sharding) return plan;
  if (plan && all && json_object_set(all, "mix", plan) != 0) {
    json_decref(all);
    all = NULL;
  }
  if (!plan) json_decref(all);
  json_decref(plan);
  return plan ? all : NULL;
}

static pu_err create(mix *m, const char *dir, pu_error *e) {
  pu_arena *a = NULL;
  const char **names = calloc(m->n_buckets + 1, sizeof *names);
  pu_err err = names ? pu_arena_create((size_t)1 << 20, &a, e) : nomem(e);
  for (size_t i = 0; err == PU_OK && i < m->n_buckets; i++)
    if (!(names[i] = pu_arena_printf(a, "mix-%05zu", i))) err = nomem(e);
  json_t *options = err == PU_OK ? options_json(m) : NULL;
  if (err == PU_OK && !options) err = nomem(e);
  const pu_stage_options so = {.step = m->sharding ? "tokenize" : "mix",
                               .options = options,
                               .before = m->before,
                               .units = names,
                               .n_units = m->n_buckets,
                               .docs = !m->sharding,
                               .no_docs = m->sharding,
                               .force = m->how->force,
                               .rank = m->how->rank,
                               .ranks = m->how->ranks};
  if (err == PU_OK) err = pu_stage_create(dir, &so, &m->w, e);
  json_decref(options);
  pu_arena_free(a);
  free(names);
  return err;
}

static pu_err spread(mix *m, const char *dir, pu_error *e) {
  size_t units = pu_stage_units(m->before);
  m->work.dir = dir;
  m->work.pool = m->how->pool;
  m->work.rank = m->how->rank;
  m->work.ranks = PU_MAX(1, m->how->ranks);
  m->work.progress = show;
  m->work.progress_arg = m;
  m->spread = calloc(units + 1, sizeof *m->spread);
  m->counts = calloc(units + 1, sizeof *m->counts);
  if (!m->spread || !m->counts) return nomem(e);
  PU_TRY(pu_mkdirs(dir, e));
  PU_TRY(pu_work_sign(&m->work, "left", false, e));
  PU_TRY(pu_work_sign(&m->work, "failed", false, e));
  PU_TRY(pu_work_each(&m->work, units, "blobs", "reading", spread_unit, m, e));
  return pu_work_wait(&m->work, units, "blobs", m->spread, m->counts, e);
}

static pu_err all_buckets(mix *m, const char *work, pu_error *e) {
  PU_TRY(spread(m, work, e));
  PU_TRY(pu_stage_run(m->w, m->how->pool, sort_bucket, m, show_buckets, m, e));
  PU_TRY(pu_work_sign(&m->work, "left", true, e));
  if (m->work.rank > 0) return PU_OK;
  PU_TRY(pu_work_await(&m->work, "left", e));
  return pu_remove_tree(work, e);
}

static bool is_whole(const mix *m) {
  for (size_t b = 0; b < m->n_buckets; b++)
    if (!pu_stage_unit_done(m->w, b)) return false;
  return true;
}

static pu_err begin_shards(mix *m, const char *dir, const pu_tokenize_options *t, pu_error *e) {
  size_t n = 0;
  m->domains = calloc(m->plan.n + 1, sizeof *m->domains);
  if (!m->domains) return nomem(e);
  for (size_t i = 0; i < m->plan.n; i++)
    if (m->plan.v[i].passes > 0) m->domains[n++] = m->plan.v[i].source;
  return pu_sharding_create(dir, t, m->how, m->domains, n, &m->sharding, e);
}

static pu_err run(mix *m, const char *dir, const pu_tokenize_options *t, pu_error *e) {
  char work[4096];
  if ((size_t)snprintf(work, sizeof work, "%s/work", dir) >= sizeof work - 32)
    return pu_fail(e, PU_ERR_USAGE, "%s: the path is too long", dir);
  PU_TRY(pu_mix_plan_make(m->before, m->o, &m->plan, e));
  m->n_buckets = (size_t)PU_MIN(m->plan.bytes / BUCKET_BYTES + 1, (uint64_t)BUCKETS_MAX);
  if (t) PU_TRY(begin_shards(m, dir, t, e));
  PU_TRY(create(m, dir, e));
  const char *key = json_string_value(json_object_get(pu_stage_about(m->before), "key"));
  m->work.hash = pu_hash64(key, key ? strlen(key) : 0, m->n_buckets ^ m->plan.hash);
  /* A run that was killed may have left the work folder behind its last bucket. */
  pu_err err = is_whole(m) && m->how->ranks <= 1 ? pu_remove_tree(work, e) : all_buckets(m, work, e);
  pu_error unsaid; /* the first error is the one to tell */
  if (err != PU_OK && m->work.dir && pu_work_sign(&m->work, "failed", true, &unsaid) != PU_OK)
    pu_log(PU_LOG_WARN, "%s; other ranks wait until they are stopped", unsaid.msg);
  return err == PU_OK ? pu_stage_end(m->w, e) : err;
}

static pu_err make(const char *dir, const char *before, const pu_mix_options *o, const pu_tokenize_options *t,
                   const pu_data_how *how, pu_error *e) {
  mix m = {.o = o, .how = how};
  pu_stage *s;
  PU_TRY(pu_stage_open(before, &s, e));
  m.before = s;
  pu_err err = run(&m, dir, t, e);
  for (size_t u = 0; m.spread && u < pu_stage_units(s); u++) pu_map_close(&m.spread[u]);
  free(m.spread);
  free(m.counts);
  pu_sharding_free(m.sharding);
  free(m.domains);
  pu_mix_plan_deinit(&m.plan);
  pu_stage_writer_free(m.w);
  pu_stage_close(s);
  return err;
}

pu_err pu_mix_documents(const char *dir, const char *before, const pu_mix_options *o, const pu_data_how *how,
                        pu_data_result *out, pu_error *e) {
  PU_TRY(make(dir, before, o, NULL, how, e));
  return pu_data_counts(dir, out, e);
}

pu_err pu_mix_shards(const char *dir, const char *before, const pu_mix_options *o, const pu_tokenize_options *t,
                     const pu_data_how *how, pu_tokenize_result *out, pu_error *e) {
  pu_mix_options mixed = *o;
  mixed.valid_fraction = t->valid_fraction;
  PU_TRY(pu_tokenize_check(t, e));
  PU_TRY(make(dir, before, &mixed, t, how, e));
  return pu_sharding_result(dir, out, e);
}
