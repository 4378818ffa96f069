/* A stage's documents to shards: each unit by one thread, with its own files, so that a killed run goes on and any
 * number of threads and processes gives the same bytes. Each document's domain is its source, and the sidecar says
 * where its tokens are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/clean.h"
#include "src/data/tokenize.h"

enum { DOMAINS_MAX = 65536 };

typedef struct step {
  const pu_tokenize_options *o;
  const pu_data_how *how;
  const char *dir;
  const pu_stage *before;
  pu_stage_writer *w;
  const char **domains; /* names of sources, sorted; the stage's */
  size_t n_domains;
  pu_encoder **encoders; /* [workers] */
  int workers;
} step;

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "tokenize: no memory");
}

/* ---- one unit ---- */

typedef struct split {
  pu_shard_writer *writer;
  const char *folder; /* of the shards, below the stage's: "train/" */
  uint64_t documents, tokens;
} split;

typedef struct unit {
  const step *s;
  const char *name;
  pu_encoder *encoder;
  pu_ids ids;
  split train, valid;
  uint64_t bytes;
  pu_unit_writer *out;
  pu_clean_counts *counts;
} unit;

static pu_err split_open(const unit *u, split *p, const char *folder, pu_error *e) {
  char path[4096];
  const pu_tokenize_options *o = u->s->o;
  const pu_shard_writer_options w = {.vocab_size = pu_tokenizer_size(o->tokenizer),
                                     .tokenizer_hash = pu_tokenizer_hash(o->tokenizer),
                                     .max_tokens = o->max_tokens,
                                     .name = u->name,
                                     .domains = !o->internevo,
                                     .internevo = o->internevo};
  p->folder = folder;
  if ((size_t)snprintf(path, sizeof path, "%s%s%s", u->s->dir, folder[0] ? "/" : "", folder) >= sizeof path)
    return pu_fail(e, PU_ERR_USAGE, "%s: the path is too long", u->s->dir);
  return pu_shard_writer_open(path, &w, &p->writer, e);
}

/* Of no document no file is made. */
static pu_err split_close(split *p, pu_err err, pu_error *e) {
  if (p->writer && (err != PU_OK || p->documents == 0))
    pu_shard_writer_abort(p->writer);
  else if (p->writer)
    err = pu_shard_writer_close(p->writer, e);
  p->writer = NULL;
  return err;
}

static uint16_t domain_of(const step *s, pu_str source) {
  for (size_t i = 0; i < s->n_domains; i++)
    if (pu_str_eq(pu_str_c(s->domains[i]), source)) return (uint16_t)i;
  return 0; /* the stage's sums have every source */
}

/* "span": the file, and which of its tokens are which bytes of the document. */
static pu_err put_span(const unit *u, const split *p, const pu_doc *d, pu_error *e) {
  char text[512];
  size_t file;
  uint64_t token;
  pu_shard_writer_place(p->writer, &file, &token);
  snprintf(text, sizeof text, "{\"file\": \"%s%s-%05zu.%s\", \"token\": %llu, \"tokens\": %zu, \"bytes\": %zu}",
           p->folder, u->name, file, u->s->o->internevo ? "bin" : "pub", (unsigned long long)token, u->ids.n,
           d->text.len);
  return pu_unit_attr_json(u->out, "span", text, e);
}

static pu_err put_doc(unit *u, const pu_doc *d, uint64_t n, pu_error *e) {
  const pu_tokenize_options *o = u->s->o;
  unsigned flags = (o->bos ? PU_ENCODE_BOS : 0) | (o->eos ? PU_ENCODE_EOS : 0);
  split *p = pu_tokenize_is_valid(o->valid_fraction, d->id) ? &u->valid : &u->train;
  u->ids.n = 0;
  if (d->text.len > 0) PU_TRY(pu_encoder_encode(u->encoder, pu_str_of(d->text.data, d->text.len), flags, &u->ids, e));
  PU_TRY(pu_unit_attrs_begin(u->out, n, d->id, e));
  if (u->ids.n > 0) {
    pu_shard_writer_domain(p->writer, domain_of(u->s, d->source));
    PU_TRY(pu_shard_writer_add(p->writer, u->ids.v, u->ids.n, NULL, pu_hash64(d->id.ptr, d->id.len, 0), e));
    PU_TRY(put_span(u, p, d, e));
    p->documents++;
    p->tokens += u->ids.n;
  }
  u->bytes += d->text.len;
  PU_TRY(pu_unit_attrs_end(u->out, e));
  return pu_clean_counts_doc(u->counts, d, NULL, NAN, e);
}

static pu_err put_docs(unit *u, size_t number, pu_error *e) {
  pu_doc d = {0};
  pu_unit *in = NULL;
  pu_err err = pu_doc_init(&d, e);
  if (err == PU_OK) err = pu_unit_open(u->s->before, number, &in, e);
  for (bool found = true; err == PU_OK && found;) {
    uint64_t n;
    err = pu_unit_next(in, &d, &n, &found, e);
    if (err == PU_OK && found) err = put_doc(u, &d, n, e);
  }
  pu_unit_close(in);
  pu_doc_deinit(&d);
  return err;
}

static pu_err put_counts(const unit *u, pu_error *e) {
  PU_TRY(pu_unit_count(u->out, "bytes_read", json_integer((json_int_t)u->bytes), e));
  PU_TRY(pu_unit_count(u->out, "tokens", json_integer((json_int_t)(u->train.tokens + u->valid.tokens)), e));
  PU_TRY(pu_unit_count(u->out, "valid_tokens", json_integer((json_int_t)u->valid.tokens), e));
  PU_TRY(pu_unit_count(u->out, "valid_documents", json_integer((json_int_t)u->valid.documents), e));
  return pu_clean_counts_put(u->counts, u->out, e);
}

static pu_err make_unit(void *arg, size_t number, int worker, pu_error *e) {
  static const pu_filter_set none;
  const step *s = arg;
  unit u = {.s = s, .name = pu_stage_unit(s->before, number), .encoder = s->encoders[worker]};
  bool two = s->o->valid_fraction > 0;
  PU_TRY(pu_unit_create(s->w, number, &u.out, e));
  pu_err err = pu_clean_counts_create(&none, &u.counts, e);
  if (err == PU_OK) err = split_open(&u, &u.train, two ? "train/" : "", e);
  if (err == PU_OK && two) err = split_open(&u, &u.valid, "valid/", e);
  if (err == PU_OK) err = put_docs(&u, number, e);
  err = split_close(&u.train, err, e);
  err = split_close(&u.valid, err, e);
  if (err == PU_OK) err = put_counts(&u, e);
  err = pu_unit_end(u.out, err, e);
  pu_clean_counts_free(u.counts);
  pu_ids_deinit(&u.ids);
  return err;
}

/* ---- all ---- */

static int by_name(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static pu_err find_domains(step *s, pu_error *e) {
  const json_t *sources = pu_stage_shares(s->before, "source"), *row;
  const char *name;
  size_t n = json_object_size(sources);
  if (n > DOMAINS_MAX) return pu_fail(e, PU_ERR_USAGE, "tokenize: more than %d sources", DOMAINS_MAX);
  s->domains = calloc(n + 1, sizeof *s->domains);
  if (!s->domains) return nomem(e);
  json_object_foreach((json_t *)sources, name, row) s->domains[s->n_domains++] = name;
  if (n > 1) qsort(s->domains, n, sizeof *s->domains, by_name);
  return PU_OK;
}

static json_t *options_json(const step *s) {
  const pu_tokenize_options *o = s->o;
  char hash[32];
  snprintf(hash, sizeof hash, "%016llx", (unsigned long long)pu_tokenizer_hash(o->tokenizer));
  json_t *all = json_pack("{s:s, s:f, s:b, s:b, s:b, s:I, s:[]}", "tokenizer", hash, "valid", o->valid_fraction, "bos",
                          (int)o->bos, "eos", (int)o->eos, "internevo", (int)o->internevo, "max_tokens",
                          (json_int_t)o->max_tokens, "domains");
  for (size_t i = 0; all && i < s->n_domains; i++)
    json_array_append_new(json_object_get(all, "domains"), json_string(s->domains[i]));
  return all;
}

/* Of a document of both sides the side would be wrong. */
static pu_err check_joined(const step *s, pu_error *e) {
  const json_t *options = json_object_get(pu_stage_about(s->before), "options");
  const char *join = json_string_value(json_object_get(options, "join"));
  double valid = json_number_value(json_object_get(options, "valid"));
  if (!join || strcmp(join, pu_join_names[PU_JOIN_NONE]) == 0 || s->o->valid_fraction <= 0 ||
      s->o->valid_fraction == valid)
    return PU_OK;
  return pu_fail(e, PU_ERR_USAGE,
                 "%s: its documents were joined for a validation fraction of %g, not %g: mix them once more with "
                 "--valid-fraction %g",
                 pu_stage_dir(s->before), valid, s->o->valid_fraction, s->o->valid_fraction);
}

static void show(void *arg, double units) {
  const step *s = arg;
  if (s->how->progress) s->how->progress(s->how->progress_arg, "tokenize", units, (double)pu_stage_writer_units(s->w));
}

static pu_err create(step *s, pu_error *e) {
  json_t *options = options_json(s);
  if (!options) return nomem(e);
  const pu_stage_options so = {.step = "tokenize",
                               .options = options,
                               .before = s->before,
                               .force = s->how->force,
                               .rank = s->how->rank,
                               .ranks = s->how->ranks};
  pu_err err = pu_stage_create(s->dir, &so, &s->w, e);
  json_decref(options);
  return err;
}

static pu_err run(step *s, pu_error *e) {
  PU_TRY(check_joined(s, e));
  s->workers = s->how->pool ? pu_pool_size(s->how->pool) : 1;
  s->encoders = calloc((size_t)s->workers, sizeof(pu_encoder *));
  if (!s->encoders) return nomem(e);
  for (int i = 0; i < s->workers; i++) PU_TRY(pu_encoder_create(s->o->tokenizer, &s->encoders[i], e));
  PU_TRY(find_domains(s, e));
  PU_TRY(create(s, e));
  PU_TRY(pu_stage_run(s->w, s->how->pool, make_unit, s, show, s, e));
  return pu_stage_end(s->w, e);
}

static pu_err read_result(const char *dir, pu_tokenize_result *out, pu_error *e) {
  pu_stage *s;
  PU_TRY(pu_stage_open(dir, &s, e));
  const json_t *c = json_object_get(pu_stage_about(s), "counts");
  const struct {
    const char *key;
    uint64_t *to;
  } all[] = {{"documents", &out->documents},
             {"tokens", &out->tokens},
             {"bytes_read", &out->bytes},
             {"valid_documents", &out->valid_documents},
             {"valid_tokens", &out->valid_tokens}};
  for (size_t i = 0; i < PU_COUNT(all); i++) *all[i].to = (uint64_t)json_integer_value(json_object_get(c, all[i].key));
  pu_stage_close(s);
  return PU_OK;
}

pu_err pu_tokenize_stage(const char *dir, const char *before, const pu_tokenize_options *o, const pu_data_how *how,
                         pu_tokenize_result *out, pu_error *e) {
  step s = {.o = o, .how = how, .dir = dir};
  pu_stage *in;
  *out = (pu_tokenize_result){0};
  PU_TRY(pu_tokenize_check(o, e));
  PU_TRY(pu_stage_open(before, &in, e));
  s.before = in;
  pu_err err = run(&s, e);
  for (int i = 0; s.encoders && i < s.workers; i++) pu_encoder_free(s.encoders[i]);
  free(s.encoders);
  free(s.domains);
  pu_stage_writer_free(s.w);
  pu_stage_close(in);
  return err == PU_OK ? read_result(dir, out, e) : err;
}
