/* What a step reads: token shards, text tokenised into shards under RUN/cache, one fixed batch of ids, or rows that a
 * higher floor makes. */
#ifndef PUYU_TRAIN_DATA_H
#define PUYU_TRAIN_DATA_H

#include "puyu/train.h"

typedef struct pu_train_data {
  int64_t seq_len;
  int32_t *fixed; /* ids source: [rows, seq_len], every step; NULL otherwise */
  int64_t rows;
  pu_train_feed feed; /* rows from a higher floor; read NULL: none */
  pu_mix *mix;        /* the other sources */
  pu_shards **shards;
  const char *const *names; /* [n] the sources' paths */
  const char **cache;       /* [n] where the tokens of a text source lie; NULL: in the source itself */
  size_t n;
  uint64_t tokens;
} pu_train_data;

/* Is there anything to read? */
static inline bool pu_train_data_there(const pu_train_data *d) {
  return d->fixed || d->feed.read || d->mix;
}
/* Rows of one pass over the first source: what a validation reads at most. */
uint64_t pu_train_data_pass(const pu_train_data *d);

/* The fixed [B, T] batch of an ids source. */
pu_err pu_train_data_open_ids(const pu_train_source *s, pu_arena *a, pu_train_data *out, pu_error *e) PU_MUST_USE;

typedef struct pu_train_data_options {
  int64_t seq_len;
  uint64_t seed;
  const pu_tokenizer *tokenizer; /* NULL: none; then text cannot be read */
  const char *run;               /* tokenised text is kept in run/cache */
} pu_train_data_options;
/* Shards, text and JSON Lines. Close also after an error. */
pu_err pu_train_data_open(const pu_train_source *s, size_t n, const pu_train_data_options *o, pu_arena *a,
                          pu_train_data *out, pu_error *e) PU_MUST_USE;
/* Rows that hooks->feed makes. */
pu_err pu_train_data_open_feed(const pu_train_hooks *hooks, const pu_train_feed_options *o, pu_train_data *out,
                               pu_error *e) PU_MUST_USE;
void pu_train_data_close(pu_train_data *d);
/* A source of the type that the path's name suggests (for validation, which has no type key). */
pu_train_source pu_train_data_guess(const char *path);
/* Do all ids exist in the model, and were shards made with this tokenizer (NULL: unknown)? */
pu_err pu_train_data_check(const pu_train_data *d, int64_t vocab, const pu_tokenizer *t, pu_error *e) PU_MUST_USE;

/* Some samples side by side. All arrays have room for `room` rows of seq_len. */
typedef struct pu_train_rows {
  int64_t room, seq_len, rows;
  int32_t *ids, *targets; /* [rows, seq_len] */
  int64_t *len;           /* [rows] tokens of each: seq_len, but for a feed's */
  int32_t *starts;        /* [rows, seq_len] */
  int *n_starts, *source; /* [rows] */
} pu_train_rows;
pu_err pu_train_rows_create(int64_t room, int64_t seq_len, pu_arena *a, pu_train_rows *out, pu_error *e) PU_MUST_USE;
/* Samples first .. first + rows - 1 of the run. */
void pu_train_data_read(const pu_train_data *d, uint64_t first, int64_t rows, bool cross_document, pu_train_rows *out);
/* Tokens, and predicted tokens, of all rows. */
int64_t pu_train_rows_tokens(const pu_train_rows *r);
int64_t pu_train_rows_targets(const pu_train_rows *r);

/* Rows as one stream of tokens; all have room for as many tokens (cu: + 1) as a micro-batch has. */
typedef struct pu_train_pack {
  pu_seqs seqs;
  int32_t *cu, *positions;
  int32_t *ids, *targets;
  double squares; /* sum of the squared lengths: the pairs that attention sees are half of it */
} pu_train_pack;
pu_err pu_train_pack_create(int64_t tokens, pu_arena *a, pu_train_pack *out, pu_error *e) PU_MUST_USE;
void pu_train_pack_rows(pu_train_pack *p, const pu_train_rows *r, int64_t from, int64_t n);

#endif
