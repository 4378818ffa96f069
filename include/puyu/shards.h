/* shards: token shards on disk (.pub), memory-mapped, and the order in which training reads them.
 *
 * A .pub file, little-endian, every section 8-byte aligned:
 *   header   64 bytes: magic "PUYUSHD1", version u32 = 1, token width u32 (2 or 4), tokens u64, documents u64,
 *            tokenizer hash u64, flags u32 (1: a loss mask, 2: domains are there), reserved, xxhash64 of the header's first 56 bytes
 *   tokens   [tokens] u16 or u32
 *   offsets  [documents + 1] u64: where each document begins, in tokens
 *   ids      [documents] u64: hash of the document's id
 *   mask     (flag 1) one bit a token, 1: it is predicted
 *   domains  (flag 2) [documents] u16: which source each document is of
 *   footer   xxhash64 of each section before it
 * A folder of .pub files is one source, in the order of their names. InternEvo's .bin/.bin.meta pairs are read and
 * written too. Sizes are checked against the file's before anything is used.
 *
 * Threads: a source does not change after open; any thread may read. */
#ifndef PUYU_SHARDS_H
#define PUYU_SHARDS_H

#include "puyu/base.h"

typedef struct pu_shards pu_shards;

/* path: a .pub or .bin file, or a folder of them. verify: also check the sections' hashes. */
pu_err pu_shards_open(const char *path, bool verify, pu_shards **out, pu_error *e) PU_MUST_USE;
pu_err pu_shards_parse(pu_str bytes, pu_shards **out, pu_error *e) PU_MUST_USE; /* one .pub in memory, unverified: fuzzing */
void pu_shards_close(pu_shards *s);
uint64_t pu_shards_tokens(const pu_shards *s);
uint64_t pu_shards_documents(const pu_shards *s);
uint64_t pu_shards_tokenizer(const pu_shards *s); /* hash; 0: unknown */
int32_t pu_shards_max_id(const pu_shards *s);     /* largest id (scanned at first call): does it fit the model? */
int32_t pu_shards_domain(const pu_shards *s, uint64_t document); /* the source it is of; -1: the file does not say */
uint64_t pu_shards_document_id(const pu_shards *s, uint64_t document); /* the hash of its id; 0: the file does not say */
uint64_t pu_shards_document_start(const pu_shards *s, uint64_t document);
/* Copies tokens [at, at + n) of the source (all files end to end) as i32; mask (may be NULL) gets 0 or 1 each. */
void pu_shards_read(const pu_shards *s, uint64_t at, int64_t n, int32_t *ids, uint8_t *mask);
/* The document that holds token `at`. */
uint64_t pu_shards_find(const pu_shards *s, uint64_t at);

/* Writing: documents one after the other; the file appears under its name at close, complete, or not at all. A writer
 * given a folder starts a new file every max_tokens (0: 2^28): NAME-00000.pub, … */
typedef struct pu_shard_writer pu_shard_writer;
typedef struct pu_shard_writer_options {
  int32_t vocab_size;      /* up to 65,536: u16 */
  uint64_t tokenizer_hash;
  uint64_t max_tokens;
  bool mask;
  bool domains;
  const char *name;        /* "shard" */
  bool internevo;          /* .bin/.bin.meta instead */
} pu_shard_writer_options;
pu_err pu_shard_writer_open(const char *dir, const pu_shard_writer_options *o, pu_shard_writer **out, pu_error *e)
    PU_MUST_USE;
pu_err pu_shard_writer_add(pu_shard_writer *w, const int32_t *ids, size_t n, const uint8_t *mask, uint64_t id_hash,
                           pu_error *e) PU_MUST_USE;
/* The domain (0 to 65,535) of the documents that are added from now on. */
void pu_shard_writer_domain(pu_shard_writer *w, uint16_t domain);
/* Where the document that was added last lies: in file number `file`, from token `token` of it. */
void pu_shard_writer_place(const pu_shard_writer *w, size_t *file, uint64_t *token);
pu_err pu_shard_writer_close(pu_shard_writer *w, pu_error *e) PU_MUST_USE; /* finishes; frees in any case */
void pu_shard_writer_abort(pu_shard_writer *w);                            /* removes what was begun; frees */

/* ---- packing: which tokens make sample number i ------------------------------------------------------------------------ */

/* Sample i of a mixture is a pure function of (seed, i): a source is chosen by weight, and a window of seq_len + 1 tokens
 * of it by a permutation of its windows (a new one each pass). Where a window crosses documents, the boundaries are given
 * so that attention and positions restart; the token after a boundary is not predicted from the one before it. */
typedef struct pu_mix pu_mix;
typedef struct pu_mix_source {
  const pu_shards *shards;
  double weight; /* > 0; relative; 0 everywhere: by tokens */
} pu_mix_source;
pu_err pu_mix_create(const pu_mix_source *sources, size_t n, int64_t seq_len, uint64_t seed, pu_mix **out, pu_error *e)
    PU_MUST_USE;
void pu_mix_free(pu_mix *m);

typedef struct pu_sample {
  int32_t *ids;      /* [seq_len] given by the caller */
  int32_t *targets;  /* [seq_len] given by the caller: the next token, or -1 */
  int32_t *starts;   /* [seq_len] given by the caller: where documents start inside the sample; starts[0] = 0 */
  int n_starts;
  int source;        /* index into sources */
} pu_sample;
/* cross_document: one run of tokens, no boundaries. */
void pu_mix_read(const pu_mix *m, uint64_t index, bool cross_document, pu_sample *out);
uint64_t pu_mix_epoch_samples(const pu_mix *m, size_t source); /* windows in one pass */

#endif
