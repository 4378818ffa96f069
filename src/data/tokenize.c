/* Text to shards. Documents are read in batches, encoded by all workers, and written in their order, so that the files
 * depend on the text alone. */
#include "src/data/tokenize.h"

#include <stdlib.h>
#include <string.h>

enum { BATCH_DOCUMENTS = 4096, BATCH_BYTES = 8 << 20 };
#define VALID_SALT 0x76616c6964u

typedef struct item {
  size_t at, len; /* its text in the batch */
  uint64_t id_hash;
  bool valid;
  pu_ids ids;
} item;

typedef struct tokenize {
  const pu_tokenize_options *o;
  pu_buf text;
  item *items; /* [BATCH_DOCUMENTS] */
  int64_t n;
  pu_encoder **encoders; /* [workers] */
  int workers;
  int64_t *failed_at; /* [workers] first item that failed; n: none */
  pu_error *errors;   /* [workers] */
  pu_shard_writer *train, *valid;
} tokenize;

static void encode_items(void *arg, int64_t begin, int64_t end, int worker) {
  tokenize *t = arg;
  unsigned flags = (t->o->bos ? PU_ENCODE_BOS : 0) | (t->o->eos ? PU_ENCODE_EOS : 0);
  for (int64_t i = begin; i < end && i < t->failed_at[worker]; i++) {
    item *m = &t->items[i];
    m->ids.n = 0;
    pu_error e;
    if (pu_encoder_encode(t->encoders[worker], pu_str_of(t->text.data + m->at, m->len), flags, &m->ids, &e) == PU_OK)
      continue;
    t->failed_at[worker] = i;
    t->errors[worker] = e;
  }
}

/* The error of the first document that failed, whatever worker had it. */
static pu_err encode_batch(tokenize *t, pu_error *e) {
  for (int w = 0; w < t->workers; w++) t->failed_at[w] = t->n;
  if (t->o->pool)
    pu_pool_run(t->o->pool, t->n, 4, encode_items, t);
  else
    encode_items(t, 0, t->n, 0);
  int first = 0;
  for (int w = 1; w < t->workers; w++)
    if (t->failed_at[w] < t->failed_at[first]) first = w;
  if (t->failed_at[first] == t->n) return PU_OK;
  if (e) *e = t->errors[first];
  return t->errors[first].code;
}

pu_err pu_tokenize_check(const pu_tokenize_options *o, pu_error *e) {
  if (o->valid_fraction >= 0 && o->valid_fraction < 1) return PU_OK;
  return pu_fail(e, PU_ERR_USAGE, "the validation fraction must be in [0, 1)");
}

bool pu_tokenize_is_valid(double fraction, pu_str id) {
  size_t end = id.len;
  while (end > 0 && id.ptr[end - 1] >= '0' && id.ptr[end - 1] <= '9') end--;
  if (end > 0 && end < id.len && id.ptr[end - 1] == '+') id.len = end - 1;
  return (double)(pu_hash64(id.ptr, id.len, VALID_SALT) >> 11) * 0x1p-53 < fraction;
}

/* Reads until the batch is full. */
static pu_err batch_read(tokenize *t, pu_corpus *c, bool *ended, pu_error *e) {
  t->n = 0;
  pu_buf_clear(&t->text);
  while (t->n < BATCH_DOCUMENTS && t->text.len < BATCH_BYTES) {
    pu_document d;
    bool found;
    PU_TRY(pu_corpus_next(c, &d, &found, e));
    *ended = !found;
    if (!found) break;
    if (d.text.len == 0) continue;
    item *m = &t->items[t->n++];
    m->at = t->text.len;
    m->len = d.text.len;
    m->id_hash = pu_hash64(d.id.ptr, d.id.len, 0);
    m->valid = pu_tokenize_is_valid(t->o->valid_fraction, d.id);
    if (!pu_buf_append(&t->text, d.text.ptr, d.text.len)) return pu_fail(e, PU_ERR_NOMEM, "tokenize: no memory");
  }
  return PU_OK;
}

static pu_err batch_write(tokenize *t, pu_tokenize_result *r, pu_error *e) {
  for (int64_t i = 0; i < t->n; i++) {
    item *m = &t->items[i];
    PU_TRY(pu_shard_writer_add(m->valid ? t->valid : t->train, m->ids.v, m->ids.n, NULL, m->id_hash, e));
    r->documents++;
    r->tokens += m->ids.n;
    r->bytes += m->len;
    r->valid_documents += m->valid;
    r->valid_tokens += m->valid ? m->ids.n : 0;
  }
  return PU_OK;
}

static pu_err writers_open(tokenize *t, const char *dir, pu_error *e) {
  const pu_shard_writer_options w = {.vocab_size = pu_tokenizer_size(t->o->tokenizer),
                                     .tokenizer_hash = pu_tokenizer_hash(t->o->tokenizer),
                                     .max_tokens = t->o->max_tokens,
                                     .internevo = t->o->internevo};
  if (t->o->valid_fraction <= 0) return pu_shard_writer_open(dir, &w, &t->train, e);
  char path[4096];
  if ((size_t)snprintf(path, sizeof path, "%s/valid", dir) >= sizeof path)
    return pu_fail(e, PU_ERR_USAGE, "%s: the path is too long", dir);
  PU_TRY(pu_shard_writer_open(path, &w, &t->valid, e));
  snprintf(path, sizeof path, "%s/train", dir);
  return pu_shard_writer_open(path, &w, &t->train, e);
}

static pu_err setup(tokenize *t, const char *dir, pu_error *e) {
  t->workers = t->o->pool ? pu_pool_size(t->o->pool) : 1;
  pu_buf_init(&t->text, PU_BUF_MAX);
  t->items = calloc(BATCH_DOCUMENTS, sizeof *t->items);
  t->encoders = calloc((size_t)t->workers, sizeof(pu_encoder *));
  t->failed_at = calloc((size_t)t->workers, sizeof *t->failed_at);
  t->errors = calloc((size_t)t->workers, sizeof *t->errors);
  if (!t->items || !t->encoders || !t->failed_at || !t->errors) return pu_fail(e, PU_ERR_NOMEM, "tokenize: no memory");
  for (int w = 0; w < t->workers; w++) PU_TRY(pu_encoder_create(t->o->tokenizer, &t->encoders[w], e));
  return writers_open(t, dir, e);
}

static void teardown(tokenize *t) {
  pu_shard_writer_abort(t->train);
  pu_shard_writer_abort(t->valid);
  for (int w = 0; t->encoders && w < t->workers; w++) pu_encoder_free(t->encoders[w]);
  for (int i = 0; t->items && i < BATCH_DOCUMENTS; i++) pu_ids_deinit(&t->items[i].ids);
  free(t->items);
  free(t->encoders);
  free(t->failed_at);
  free(t->errors);
  pu_buf_deinit(&t->text);
}

static pu_err run(tokenize *t, pu_corpus *corpus, const char *dir, pu_tokenize_result *out, pu_error *e) {
  PU_TRY(setup(t, dir, e));
  for (bool ended = false; !ended;) {
    PU_TRY(batch_read(t, corpus, &ended, e));
    PU_TRY(encode_batch(t, e));
    PU_TRY(batch_write(t, out, e));
    if (t->o->progress) t->o->progress(t->o->progress_arg, pu_corpus_done(corpus), pu_corpus_bytes(corpus));
    if (pu_signals_stop()) return pu_fail(e, PU_ERR_STOPPED, "stopped; no shard was made");
  }
  if (out->documents == 0) return pu_corpus_fail_empty(corpus, e);
  pu_shard_writer *train = t->train, *valid = t->valid;
  t->train = t->valid = NULL;
  pu_err err = pu_shard_writer_close(train, e);
  if (err != PU_OK) {
    pu_shard_writer_abort(valid);
    return err;
  }
  return valid ? pu_shard_writer_close(valid, e) : PU_OK;
}

pu_err pu_tokenize_run(pu_corpus *corpus, const char *dir, const pu_tokenize_options *o, pu_tokenize_result *out,
                       pu_error *e) {
  *out = (pu_tokenize_result){0};
  PU_TRY(pu_tokenize_check(o, e));
  tokenize t = {.o = o};
  pu_err err = run(&t, corpus, dir, out, e);
  teardown(&t);
  return err;
}
