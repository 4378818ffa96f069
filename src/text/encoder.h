/* The state of encoding, shared by encode.c (what is common), spm_encode.c and byte_encode.c. */
#ifndef PUYU_TEXT_ENCODER_H
#define PUYU_TEXT_ENCODER_H

#include <string.h>

#include "src/text/tokenizer.h"

/* Beside PU_ENCODE_…: chat markers and special pieces never come from this text, even where their user-defined form
 * would be matched in plain text (InternLM's <eoa>, InternLM2's [UNUSED_TOKEN_145]). */
#define TEXT_ENCODE_GUARD (1u << 16)

/* A word and its ids, on one line of the cache. The word is padded with zeros; the last two bytes of `key` hold its
 * length and the number of ids. */
enum { WORD_MAX = 30, WORD_IDS = 8, WORD_SETS = 1 << 15, WORD_PAD = 32 };
typedef struct word_slot {
  uint64_t key[4];
  int32_t ids[WORD_IDS];
} word_slot;

typedef struct lattice_node { /* Unigram: the best way to get here */
  int32_t id;
  float score;
  uint32_t from;
  bool reached;
} lattice_node;

struct pu_encoder {
  const pu_tokenizer *t;
  word_slot *cache; /* WORD_SETS pairs, newest first; NULL: none */
  bpe_work work;
  int32_t *syms;
  size_t cap_syms;
  pu_buf norm;
  lattice_node *lattice;
  size_t cap_lattice;
  int32_t (*halves)[2]; /* what each unused piece was last made of; NULL: the model has none */
  int32_t *stack;       /* TEXT_PIECE_MAX: halves still to be written */
  unsigned flags;
  const uint8_t *readable; /* end of the memory that may be read around the words */
  bool after_unk;          /* SentencePiece: unknown characters in a row are one id */
};

/* spm_encode.c, byte_encode.c: p[0..n) is a stretch without added tokens; first: it begins the text. */
pu_err spm_encode_part(pu_encoder *enc, const uint8_t *p, size_t n, bool first, pu_ids *out, pu_error *e) PU_MUST_USE;
pu_err byte_encode_part(pu_encoder *enc, const uint8_t *p, size_t n, bool first, pu_ids *out, pu_error *e) PU_MUST_USE;

/* encode.c */
typedef pu_err (*encode_part_fn)(pu_encoder *enc, const uint8_t *p, size_t n, bool first, pu_ids *out, pu_error *e);
/* Cuts p at the added tokens in `trie` and gives what is between to fn. */
pu_err text_split_added(pu_encoder *enc, const text_trie *trie, const uint8_t *p, size_t n, bool first,
                        encode_part_fn fn, pu_ids *out, pu_error *e) PU_MUST_USE;
pu_err text_encoder_bare(const pu_tokenizer *t, pu_encoder **out, pu_error *e) PU_MUST_USE; /* without a cache */
bool text_reserve_syms(pu_encoder *enc, size_t n);
bool text_reserve_ids(pu_ids *out, size_t more);
pu_err text_no_memory(pu_error *e, size_t n);

/* ---- the word cache
 * -------------------------------------------------------------------------------------------------- */

typedef struct word_key {
  uint64_t k[4];
} word_key;

static inline uint64_t word_mask(size_t len, size_t i) {
  return len >= 8 * i + 8 ? UINT64_MAX : len <= 8 * i ? 0 : ((uint64_t)1 << (8 * (len - 8 * i))) - 1;
}

/* n <= WORD_MAX */
static inline word_key word_key_of(const pu_encoder *enc, const uint8_t *p, size_t n) {
  word_key w;
  if (enc->readable - p >= WORD_PAD) {
    memcpy(w.k, p, sizeof w.k);
    for (size_t i = 0; i < 4; i++) w.k[i] &= word_mask(n, i);
  } else {
    memset(w.k, 0, sizeof w.k);
    memcpy(w.k, p, n);
  }
  w.k[3] |= (uint64_t)n << 48;
  return w;
}

static inline uint64_t word_fold(uint64_t a, uint64_t b) {
  unsigned __int128 m = (unsigned __int128)a * b;
  return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static inline word_slot *word_set(const pu_encoder *enc, const word_key *w) {
  uint64_t h = word_fold(w->k[0] ^ 0xA0761D6478BD642Fu, w->k[1] ^ 0xE7037ED1A0B428DBu) ^
               word_fold(w->k[2] ^ 0x8EBC6AF09C88C6E3u, w->k[3] ^ 0x589965CC75374CC3u);
  return enc->cache + 2 * (h & (WORD_SETS - 1));
}

#define WORD_COUNT_SHIFT 56

static inline const word_slot *word_find(const word_slot *set, const word_key *w) {
  for (int i = 0; i < 2; i++) {
    const uint64_t *k = set[i].key;
    if (k[0] == w->k[0] && k[1] == w->k[1] && k[2] == w->k[2] &&
        (k[3] & (((uint64_t)1 << WORD_COUNT_SHIFT) - 1)) == w->k[3]) {
      return &set[i];
    }
  }
  return NULL;
}

static inline void word_keep(word_slot *set, const word_key *w, const int32_t *ids, size_t n_ids) {
  if (n_ids > WORD_IDS) return;
  set[1] = set[0];
  memcpy(set[0].key, w->k, sizeof w->k);
  set[0].key[3] |= (uint64_t)n_ids << WORD_COUNT_SHIFT;
  memcpy(set[0].ids, ids, n_ids * sizeof *ids);
}

#endif
