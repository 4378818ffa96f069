/* Byte-pair merging (Sennrich et al. 2016): again and again the pair with the lowest rank, leftmost first, becomes one
 * symbol. Which pairs merge into what is one hash table, the same for SentencePiece models and tokenizer.json. */
#ifndef PUYU_TEXT_BPE_H
#define PUYU_TEXT_BPE_H

#include "puyu/text.h"
#include "src/text/map.h"

#define BPE_NO_RANK UINT32_MAX

typedef struct bpe_pair {
  uint64_t key; /* left << 32 | right; UINT64_MAX: free */
  uint32_t rank;
  int32_t id; /* what the two become */
} bpe_pair;

typedef struct bpe_pairs {
  bpe_pair *slots;
  size_t mask, n;
} bpe_pairs;

void bpe_pairs_deinit(bpe_pairs *p);
/* The first rule for a pair stays. false: no memory. */
bool bpe_pairs_put(bpe_pairs *p, int32_t left, int32_t right, uint32_t rank, int32_t id);

/* The rule for a pair, or NULL. */
static inline const bpe_pair *bpe_pairs_get(const bpe_pairs *p, int32_t left, int32_t right) {
  if (!p->slots) return NULL;
  uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  for (size_t i = text_mix(key) & p->mask;; i = (i + 1) & p->mask) {
    if (p->slots[i].key == UINT64_MAX) return NULL; /* asked first: two unknown symbols, -1 and -1, have this key too */
    if (p->slots[i].key == key) return &p->slots[i];
  }
}

/* Work space, kept between calls. */
typedef struct bpe_work {
  struct bpe_node *nodes;
  uint64_t *heap; /* rank << 32 | place: a min-heap in the order of merging */
  size_t cap_nodes, n_heap, cap_heap;
} bpe_work;

void bpe_work_deinit(bpe_work *w);

/* Told of every pair that could merge, in the order in which it is found; see spm_encode.c. */
typedef void (*bpe_seen_fn)(void *arg, int32_t left, int32_t right, int32_t id);

/* Merges s[0..*n) in place. Symbols without rules (negative ones too) stay as they are. O(n log n). */
pu_err bpe_merge(const bpe_pairs *p, bpe_work *w, int32_t *s, size_t *n, bpe_seen_fn seen, void *arg,
                 pu_error *e) PU_MUST_USE;

#endif
