/* Made-up documents for the tests and the bench of deduplication: units of texts in memory, and pairs of texts whose
 * similarity is known. */
#ifndef PUYU_TEST_DEDUP_TEXTS_H
#define PUYU_TEST_DEDUP_TEXTS_H

#include <stdlib.h>
#include <string.h>

#include "src/data/dedup/dedup.h"

typedef struct text_unit {
  const pu_dedup_doc *docs;
  size_t n;
} text_unit;

static pu_err texts_each(void *arg, size_t unit, pu_dedup_take take, void *take_arg, pu_error *e) {
  const text_unit *u = (const text_unit *)arg + unit;
  for (size_t i = 0; i < u->n; i++) PU_TRY(take(take_arg, &u->docs[i], e));
  return PU_OK;
}

/* Word number k, made of letters; the same k gives the same word. */
static inline void put_word(pu_buf *b, uint64_t k) {
  for (int i = 0; i < 7; i++) {
    pu_buf_putc(b, (char)('a' + k % 26));
    k /= 26;
  }
  pu_buf_putc(b, ' ');
}

/* Two texts of random words whose shingle sets have a Jaccard similarity close to j: the second has `edits` words
 * changed, evenly spread, and each takes five shingles with it. Returns the similarity that this gives. */
static inline double put_pair(pu_rng *r, pu_buf *a, pu_buf *b, int words, double j) {
  int shingles = words - PU_SHINGLE + 1;
  int edits = (int)((1 - j) / (1 + j) * shingles / PU_SHINGLE + 0.5), lost = 0, next = 0;
  int last = -PU_SHINGLE;
  for (int i = 0; i < words; i++) {
    uint64_t k = pu_rng_next(r);
    put_word(a, k);
    bool edit = next < edits && i == (int)((next + 0.5) * words / edits);
    next += edit;
    put_word(b, edit ? pu_rng_next(r) : k);
    if (edit) last = i;
    lost += i >= PU_SHINGLE - 1 && i - last < PU_SHINGLE;
  }
  return (double)(shingles - lost) / (shingles + lost);
}

#endif
