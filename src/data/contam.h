/* Inside contam: the index while it grows. What it is for stands in puyu/data.h. */
#ifndef PUYU_DATA_CONTAM_H
#define PUYU_DATA_CONTAM_H

#include "src/data/dedup/shingle.h"
#include "src/data/dedup/sort.h"
#include "src/data/stage.h"

enum {
  CONTAM_WORDS = 8,       /* least tokens of an item that is looked for whole */
  CONTAM_CHARS = 10,      /* the same where it is written without spaces */
  CONTAM_DIFFERENT = 4,   /* least different words in an n-gram */
  CONTAM_TEMPLATE = 8,    /* least records of a file for what stands in most of them to be a template */
  CONTAM_NEAR_MAX = 16,   /* items of one band key */
  CONTAM_PARAGRAPH = 2000 /* bytes of a paragraph that is cut as a whole */
};

/* Hashes and the items that have them. Pairs are added, sorted and cleaned, then become arrays by hash, with a table of
 * where those of the same leading bits begin and a bit for each hash that may be there. */
typedef struct lookup {
  pu_buf pairs; /* while it grows */
  size_t n;
  uint64_t *hashes; /* [n] */
  uint32_t *items;  /* [n] */
  uint64_t *filter;
  uint32_t *begin; /* [2^bits + 1] */
  int bits, filter_bits;
} lookup;

typedef struct item {
  uint64_t hash;              /* of all tokens */
  uint64_t number, last;      /* records: the first it stands in, the last */
  uint32_t file, last_file;   /* files of these */
  uint32_t times, home_times; /* records it stands in: of last_file, of file */
  uint32_t files;             /* files it stands in */
  uint32_t tokens, ngrams;    /* ngrams: different ones that are its own */
  uint32_t set_n, bytes;      /* near: shingles; bytes of its text */
  size_t field, set_at;       /* in fields, in bytes; in sets, in shingles */
  bool template;
} item;

typedef struct set_file {
  char *name;
  uint64_t records;
  uint64_t items;
} set_file;

struct pu_contam {
  pu_contam_options o;
  pu_bands bands;
  size_t memory; /* most that buffers may take */
  pu_arena *arena;
  pu_buf files, items, fields; /* of set_file, of item, of chars */
  pu_buf sets;                 /* near: shingles of items, uint32_t */
  pu_buf seen;                 /* open table of 1 + item, by hash: a power of two of uint32_t */
  pu_buf tokens;               /* of the string that is taken */
  pu_buf here;                 /* items that stand in the file that is read */
  lookup ngrams, keys;         /* keys: of bands */
  lookup wholes, tails;        /* items that are looked for whole, by all tokens; their last CONTAM_WORDS tokens */
  size_t near_bytes[2];        /* least and most that a part of a text may have to be like an item */
  pu_contam_about counts;
  bool built;
};

/* The steps of pu_contam_open. */
pu_err contam_create(const pu_contam_options *o, size_t memory, pu_contam **out, pu_error *e) PU_MUST_USE;
/* contam_read.c. A file, or a folder; what is broken is counted and passed over. */
pu_err contam_add(pu_contam *c, const char *path, pu_error *e) PU_MUST_USE;
/* The file under another name, which says its form. */
pu_err contam_add_as(pu_contam *c, const char *path, const char *name, pu_error *e) PU_MUST_USE;
/* After the last one. Nothing to look for is an error. */
pu_err contam_build(pu_contam *c, pu_error *e) PU_MUST_USE;
uint64_t contam_hash(const pu_contam *c); /* of options and items: what tells two indexes apart */

/* What reading calls: a file begins, a string of its record `number`, the file ends after so many records. */
pu_err contam_file_begin(pu_contam *c, const char *name, pu_error *e) PU_MUST_USE;
pu_err contam_take(pu_contam *c, uint64_t number, pu_str field, pu_str text, pu_error *e) PU_MUST_USE;
void contam_file_end(pu_contam *c, uint64_t records);

static inline item *contam_items(const pu_contam *c) {
  return (item *)(void *)c->items.data;
}
static inline size_t contam_n_items(const pu_contam *c) {
  return c->items.len / sizeof(item);
}
static inline set_file *contam_files(const pu_contam *c) {
  return (set_file *)(void *)c->files.data;
}
static inline size_t contam_n_files(const pu_contam *c) {
  return c->files.len / sizeof(set_file);
}
/* May the hash be there? Of those that are not, one in 16 or fewer may. */
static inline bool lookup_may(const lookup *l, uint64_t hash) {
  uint64_t bit = hash >> (64 - l->filter_bits);
  return l->filter[bit >> 6] >> (bit & 63) & 1;
}
static inline void lookup_fetch(const lookup *l, uint64_t hash) {
  __builtin_prefetch(&l->filter[hash >> (64 - l->filter_bits) >> 6]);
}
/* The items of a hash, *n of them; NULL: none. */
const uint32_t *lookup_find(const lookup *l, uint64_t hash, size_t *n);
/* A hash of tokens in a row, one after the other; 0 before the first. */
static inline uint64_t contam_chain(uint64_t hash, uint64_t token) {
  return pu_mix64((hash + token) * PU_ROLL_FACTOR);
}

#endif
