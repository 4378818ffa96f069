/* shards, inside: one file of tokens, however it is stored, and the layout of the .pub header. */
#ifndef PUYU_SRC_SHARDS_SHARD_H
#define PUYU_SRC_SHARDS_SHARD_H

#include "puyu/shards.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, ".pub files are read as they lie: little-endian only");

#define PU_PUB_MAGIC   "PUYUSHD1"
#define PU_PUB_VERSION 1u
#define PU_PUB_MASK    1u
#define PU_PUB_DOMAIN  2u

/* The first 64 bytes of a .pub file. */
typedef struct pu_pub_header {
  char magic[8];
  uint32_t version;
  uint32_t width; /* bytes a token: 2 or 4 */
  uint64_t tokens;
  uint64_t documents;
  uint64_t tokenizer;
  uint32_t flags;
  uint32_t reserved[3];
  uint64_t hash; /* of the 56 bytes before it */
} pu_pub_header;
_Static_assert(sizeof(pu_pub_header) == 64, "the header is 64 bytes on disk");

enum { PU_PUB_TOKENS, PU_PUB_OFFSETS, PU_PUB_IDS, PU_PUB_MASKS, PU_PUB_DOMAINS, PU_PUB_SECTIONS };

/* Where the sections lie. Sizes are padded to 8 bytes; the padding is zero and counts in the section's hash. */
typedef struct pu_pub_layout {
  size_t begin[PU_PUB_SECTIONS], size[PU_PUB_SECTIONS]; /* begin 0: there is no such section */
  int sections;
  size_t footer, total;
} pu_pub_layout;

/* False where the sizes overflow or the header's counts make no sense. */
bool pu_pub_layout_of(const pu_pub_header *h, pu_pub_layout *out);

/* One file of a source. Tokens are read through `data`, which points into the map or into `owned`. */
typedef struct pu_shard_file {
  pu_map map;  /* a mapped file; data NULL where the bytes are in memory */
  void *owned; /* memory to free: a copy (parse) or decoded tokens (InternEvo) */
  void *owned_offsets;
  const void *data;
  int width; /* 2 or 4 */
  uint64_t tokens, documents, tokenizer;
  const uint64_t *offsets; /* [documents + 1] */
  const uint8_t *mask;     /* one bit a token, or NULL: all are predicted */
  const uint64_t *ids;     /* [documents], or NULL */
  const uint16_t *domains; /* [documents], or NULL */
  uint64_t first_token;    /* where this file begins in its source */
  uint64_t first_document;
} pu_shard_file;

/* Fills f from the bytes of one .pub, which stay where they are. name begins any error. */
pu_err pu_pub_read(pu_str bytes, bool verify, const char *name, pu_shard_file *f, pu_error *e) PU_MUST_USE;
/* Reads PATH (a .bin) and PATH.meta. */
pu_err pu_internevo_read(const char *path, pu_shard_file *f, pu_error *e) PU_MUST_USE;
/* The .npy file of an int64 array [n, 2], appended to out. */
bool pu_internevo_meta(const int64_t *rows, size_t n, pu_buf *out);
void pu_shard_file_deinit(pu_shard_file *f);

#endif
