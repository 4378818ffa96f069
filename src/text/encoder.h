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

/* A word waits in a short queue between the moment its place in the cache is known, and fetched, and the moment it is
 * looked at: the cache is larger than the processor's nearest ones. */
enum { WORDS_WAITING = 16 };
typedef struct word_key {
  uint64_t k[4];
} word_key;
typedef struct waiting_word {
  const uint8_t *p;
  size_t n;
  word_key key;
  word_slot *set; /* NULL: too long for the cache */
} waiting_word;

typedef pu_err (*merge_word_fn)(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e);

typedef struct lattice_node { /* Unigram: the best way to get here */
  int32_t id;
  float score;
  uint32_t from;
  bool reached;
} lattice_node;

struct pu_encoder {
  const pu_tokenizer *t;
  word_slot *cache;    /* WORD_SETS pairs, newest first; NULL: none */
  merge_word_fn merge; /* ids of a word that the cache does not have */
  waiting_word waiting[WORDS_WAITING];
  size_t n_waiting;
  bpe_work work;
  int32_t *syms;
  size_t cap_syms;
  pu_buf norm;
  lattice_node *lattice;
  size_t cap_lattice;
  int32_t (*halves)[2]; /* what each unused piece was last made of; NULL: the model has none */
  int32_t *stack;       /* TEXT_PIECE_MAX: halves still to be written */
  unsigned flags;
  /* text_encode_marked: a byte for each of `marked_text`, 1 where no special token may come from. NULL: no marks. */
  const uint8_t *marks, *marked_text;
  size_t n_marks;
  const uint8_t *readable; /* end of the memory that may be read around the words */
  bool after_unk;          /* SentencePiece: unknown characters in a row are one id */
};

pu_err spm_merge_word(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e) PU_MUST_USE;
pu_err byte_merge_word(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e) PU_MUST_USE;
/* spm_encode.c, byte_encode.c: p[0..n) is a stretch without added tokens; first: it begins the text. */
pu_err spm_encode_part(pu_encoder *enc, const uint8_t *p, size_t n, bool first, pu_ids *out, pu_error *e) PU_MUST_USE;
pu_err byte_encode_part(pu_encoder *enc, const uint8_t *p, size_t n, bool first, pu_ids *out, pu_error *e) PU_MUST_USE;

/* words.c: the ids of p[0..n) go to out, now or when the words are flushed. p must stay until then. */
pu_err text_put_word(pu_encoder *enc, const uint8_t *p, size_t n, pu_ids *out, pu_error *e) PU_MUST_USE;
pu_err text_flush_words(pu_encoder *enc, pu_ids *out, pu_error *e) PU_MUST_USE;

/* encode.c */
typedef pu_err (*encode_part_fn)(pu_encoder *enc, const uint8_t *p, size_t n, bool first, pu_ids *out, pu_error *e);
/* Cuts p at the added tokens in `trie` and gives what is between to fn. */
pu_err text_split_added(pu_encoder *enc, const text_trie *trie, const uint8_t *p, size_t n, bool first,
                        encode_part_fn fn, pu_ids *out, pu_error *e) PU_MUST_USE;
/* Special tokens come from where a text was written by the template, and from nowhere else: all of their bytes must
 * have mark 0. Between them the text is encoded as a whole, whoever wrote it. */
pu_err text_encode_marked(pu_encoder *enc, pu_str text, const uint8_t *marks, unsigned flags, pu_ids *out,
                          pu_error *e) PU_MUST_USE;
pu_err text_encoder_bare(const pu_tokenizer *t, pu_encoder **out, pu_error *e) PU_MUST_USE; /* without a cache */
bool text_reserve_syms(pu_encoder *enc, size_t n);
bool text_reserve_ids(pu_ids *out, size_t more);
pu_err text_no_memory(pu_error *e, size_t n);

#endif
