/* Documents of a unit to shards of its own, so that a killed run goes on and any number of threads and processes gives
 * the same bytes. Each document's domain is its source, and the sidecar says where its tokens are. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/data/clean.h"
#include "src/data/tokenize.h"

enum { DOMAINS_MAX = 65536 };

struct pu_sharding {
  const pu_tokenize_options *o;
  const char *dir;
  const char **domains;
  size_t n_domains;
  pu_encoder **encoders; /* [workers] */
  int workers;
};

static pu_err nomem(pu_error *e) {
  return pu_fail(e, PU_ERR_NOMEM, "tokenize: no memory");
}

pu_err pu_sharding_create(const char *dir, const pu_tokenize_options *o, const pu_data_how *how, const char **domains,
                          size_t n_domains, pu_sharding **out, pu_error *e) {
  *out = NULL;
  if (n_domains > DOMAINS_MAX) return pu_fail(e, PU_ERR_USAGE, "tokenize: more than %d sources", DOMAINS_MAX);
  pu_sharding *s = calloc(1, sizeof *s);
  if (!s) return nomem(e);
  *s = (pu_sharding){o, dir, domains, n_domains, NULL, how->pool ? pu_pool_size(how->pool) : 1};
  s->encoders = calloc((size_t)s->workers, sizeof(pu_encoder *));
  pu_err err = s->encoders ? PU_OK : nomem(e);
  for (int i = 0; err == PU_OK && i < s->workers; i++) err = pu_encoder_create(o->tokenizer, &s->encoders[i], e);
  if (err == PU_OK)
    *out = s;
  else
    pu_sharding_free(s);
  return err;
}

void pu_sharding_free(pu_sharding *s) {
  if (!s) return;
  for (int i = 0; s->encoders && i < s->workers; i++) pu_encoder_free(s->encoders[i]);
  free(s->encoders);
  free(s);
}

json_t *pu_sharding_json(const pu_sharding *s) {
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

pu_err pu_sharding_result(const char *dir, pu_tokenize_result *out, pu_error *e) {
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

/* ---- one unit ---- */

typedef struct split {
  pu_shard_writer *writer;
  const char *folder; /* of the shards, below the stage's: "train/" */
  uint64_t documents, tokens;
} split;

struct pu_unit_shards {
  const pu_sharding *s;
  const char *name;
  pu_encoder *encoder;
  pu_ids ids;
  split train, valid;
  uint64_t bytes;
  pu_unit_writer *out;
  pu_clean_counts *counts;
};

static pu_err split_open(const pu_unit_shards *u, split *p, const char *folder, pu_error *e) {
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

static uint16_t domain_of(const pu_sharding *s, pu_str source) {
  for (size_t i = 0; i < s->n_domains; i++)
    if (pu_str_eq(pu_str_c(s->domains[i]), source)) return (uint16_t)i;
  return 0; /* the stage's sums have every source */
}

/* "span": the file, and which of its tokens are which bytes of the document. */
static pu_err put_span(const pu_unit_shards *u, const split *p, const pu_doc *d, pu_error *e) {
  char text[512];
  size_t file;
  uint64_t token;
  pu_shard_writer_place(p->writer, &file, &token);
  snprintf(text, sizeof text, "{\"file\": \"%s%s-%05zu.%s\", \"token\": %llu, \"tokens\": %zu, \"bytes\": %zu}",
           p->folder, u->name, file, u->s->o->internevo ? "bin" : "pub", (unsigned long long)token, u->ids.n,
           d->text.len);
  return pu_unit_attr_json(u->out, "span", text, e);
}

pu_err pu_unit_shards_open(const pu_sharding *s, const char *name, int worker, pu_unit_writer *out,
                           pu_unit_shards **result, pu_error *e) {
  static const pu_filter_set none;
  bool two = s->o->valid_fraction > 0;
  pu_unit_shards *u = *result = calloc(1, sizeof *u);
  if (!u) return nomem(e);
  u->s = s;
  u->name = name;
  u->encoder = s->encoders[worker];
  u->out = out;
  pu_err err = pu_clean_counts_create(&none, &u->counts, e);
  if (err == PU_OK) err = split_open(u, &u->train, two ? "train/" : "", e);
  if (err == PU_OK && two) err = split_open(u, &u->valid, "valid/", e);
  if (err == PU_OK) return PU_OK;
  *result = NULL;
  return pu_unit_shards_end(u, err, e);
}

pu_err pu_unit_shards_doc(pu_unit_shards *u, const pu_doc *d, uint64_t n, const char *parts, pu_error *e) {
  const pu_tokenize_options *o = u->s->o;
  unsigned flags = (o->bos ? PU_ENCODE_BOS : 0) | (o->eos ? PU_ENCODE_EOS : 0);
  split *p = pu_tokenize_is_valid(o->valid_fraction, d->id) ? &u->valid : &u->train;
  u->ids.n = 0;
  if (d->text.len > 0) PU_TRY(pu_encoder_encode(u->encoder, pu_str_of(d->text.data, d->text.len), flags, &u->ids, e));
  PU_TRY(pu_unit_attrs_begin(u->out, n, d->id, e));
  if (parts) PU_TRY(pu_unit_attr_json(u->out, "parts", parts, e));
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

static pu_err put_counts(const pu_unit_shards *u, pu_error *e) {
  PU_TRY(pu_unit_count(u->out, "bytes_read", json_integer((json_int_t)u->bytes), e));
  PU_TRY(pu_unit_count(u->out, "tokens", json_integer((json_int_t)(u->train.tokens + u->valid.tokens)), e));
  PU_TRY(pu_unit_count(u->out, "valid_tokens", json_integer((json_int_t)u->valid.tokens), e));
  PU_TRY(pu_unit_count(u->out, "valid_documents", json_integer((json_int_t)u->valid.documents), e));
  return pu_clean_counts_put(u->counts, u->out, e);
}

pu_err pu_unit_shards_end(pu_unit_shards *u, pu_err err, pu_error *e) {
  if (!u) return err;
  err = split_close(&u->train, err, e);
  err = split_close(&u->valid, err, e);
  if (err == PU_OK) err = put_counts(u, e);
  pu_clean_counts_free(u->counts);
  pu_ids_deinit(&u->ids);
  free(u);
  return err;
}
