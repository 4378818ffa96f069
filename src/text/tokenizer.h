/* The insides of a tokenizer, shared by the loaders (spm_model.c, hf_json.c, config.c) and the encoders. */
#ifndef PUYU_TEXT_TOKENIZER_H
#define PUYU_TEXT_TOKENIZER_H

#include "puyu/text.h"
#include "src/text/bpe.h"
#include "src/text/map.h"

#define TEXT_FILE_MAX   ((size_t)64 << 20)
#define TEXT_PIECES_MAX (1 << 20)
#define TEXT_PIECE_MAX  ((size_t)64 << 10)
#define TEXT_WS         "\xE2\x96\x81" /* U+2581, what SentencePiece writes for a space */

/* The numbers are those of SentencePiece's model files; NONE is a hole between ids. */
typedef enum piece_type {
  PIECE_NONE = 0,
  PIECE_NORMAL = 1,
  PIECE_UNKNOWN = 2,
  PIECE_CONTROL = 3,
  PIECE_USER = 4,
  PIECE_UNUSED = 5,
  PIECE_BYTE = 6
} piece_type;

typedef struct text_piece {
  pu_str text; /* as stored */
  pu_str raw;  /* byte-level: the bytes it stands for; SentencePiece: its text in the model, before any renaming */
  float score;
  uint8_t type;
  bool special; /* gives no text under PU_DECODE_SKIP_SPECIAL, enters only with PU_ENCODE_SPECIAL */
  bool guarded; /* a chat marker that plain text would give too: not inside a chat's contents */
} text_piece;

/* An added token: matched in text before anything else happens to it (specials only where the caller allows). */
typedef struct text_added {
  int32_t id;
  bool special, lstrip, rstrip, single_word, normalized;
} text_added;

/* SentencePiece: how text is changed before it is cut. */
typedef struct spm_norm {
  const uint8_t *units; /* a Darts-clone double array, little-endian u32 each; n_units 0: identity */
  size_t n_units;
  const char *strings; /* what the array's values point at: NUL-ended replacements */
  size_t n_strings;
  bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, whitespace_as_suffix;
} spm_norm;

typedef struct spm_model {
  spm_norm norm;
  bool unigram, byte_fallback;
  bool has_unused; /* unused pieces are taken apart again, see spm_encode.c */
  int32_t unk;
  int32_t byte_id[256];
  pu_str unk_surface;
  text_trie user;       /* user-defined pieces */
  uint64_t *user_first; /* a bit per hash of a first character: could a user-defined piece begin here? */
  /* BPE */
  int32_t ascii[128]; /* character to symbol; symbols from n_pieces on are characters without a piece */
  text_map chars;
  uint64_t *joins; /* a bit per hash of two neighbouring characters inside a piece */
  /* Unigram */
  text_trie pieces;
  float min_score, max_score;
} spm_model;

/* Byte-level BPE: what happens to a text before merging. */
enum { TEXT_NORMS_MAX = 4, TEXT_SPLITS_MAX = 8 };

typedef struct text_splitter text_splitter; /* split.h */

typedef struct byte_model {
  int norms[TEXT_NORMS_MAX]; /* utf8proc options, in order */
  int n_norms;
  bool add_prefix_space;
  bool ignore_merges; /* a word that is a piece is that piece */
  text_splitter *splits[TEXT_SPLITS_MAX];
  int n_splits;
  int32_t byte_sym[256]; /* -1: the vocabulary lacks the byte */
  int32_t unk;
  text_map raw; /* bytes to id, for ignore_merges */
} byte_model;

/* A file as it was read, for pu_tokenizer_save. */
typedef struct text_file {
  const char *name;
  pu_str bytes;
  struct text_file *next;
} text_file;

struct pu_tokenizer {
  pu_arena *arena;
  text_piece *pieces;
  int32_t n, cap;
  int32_t bos, eos;
  bool adds_bos;
  bool byte_level; /* else SentencePiece */
  uint64_t hash;
  text_map ids; /* piece text to id */
  bpe_pairs pairs;
  spm_model spm;
  byte_model bytes;
  text_added *added;
  size_t n_added, cap_added;
  text_trie added_raw, added_normalized; /* to indices of `added` */
  bool has_plain_added;                  /* some added token is not special: every text is searched */
  text_file *files;
};

/* tokenizer.c */
pu_err text_tokenizer_new(size_t bytes, pu_tokenizer **out, pu_error *e) PU_MUST_USE;
/* A copy of s in the tokenizer's arena; ptr NULL: no memory. */
pu_str text_keep(pu_tokenizer *t, pu_str s);
/* Makes room for id (holes get type NONE). */
pu_err text_grow_pieces(pu_tokenizer *t, int64_t id, pu_error *e) PU_MUST_USE;
/* Registers an added token and its text at a.id. */
pu_err text_add_token(pu_tokenizer *t, text_added a, pu_str content, pu_error *e) PU_MUST_USE;
void text_finish(pu_tokenizer *t);        /* when all pieces and their kinds are known */
void text_guard_markers(pu_tokenizer *t); /* chat.c: marks the pieces that are markers of some chat template */

/* spm_model.c */
pu_err spm_parse(pu_tokenizer *t, pu_str bytes, pu_error *e) PU_MUST_USE;
pu_err spm_prepare_chars(pu_tokenizer *t, pu_error *e) PU_MUST_USE; /* tables of characters and joins from the pieces */
void spm_deinit(spm_model *m);

/* spm_normalize.c: appends to out. */
pu_err spm_normalize(const spm_model *m, pu_str text, bool prefix, pu_buf *out, pu_error *e) PU_MUST_USE;

/* hf_json.c */
pu_err hf_parse(pu_tokenizer *t, pu_str bytes, pu_error *e) PU_MUST_USE;
/* config.c: tokenizer_config.json and its like, from the directory of a tokenizer. */
pu_err text_read_config(pu_tokenizer *t, const char *dir, pu_error *e) PU_MUST_USE;
pu_err text_apply_config(pu_tokenizer *t, const json_t *config, pu_error *e) PU_MUST_USE;
/* For pu_tokenizer_save; copies the bytes. */
pu_err text_keep_file(pu_tokenizer *t, const char *name, pu_str bytes, pu_error *e) PU_MUST_USE;

/* ---- characters, as SentencePiece cuts them: by the first byte alone ---- */

static inline size_t spm_char_len(uint8_t first) {
  return (size_t) "\1\1\1\1\1\1\1\1\1\1\1\1\2\2\3\4"[first >> 4];
}

/* Length of the character at p and its bytes as a number. n > 0. */
static inline size_t spm_char(const uint8_t *p, size_t n, uint32_t *code) {
  if (p[0] < 0x80) {
    *code = p[0];
    return 1;
  }
  size_t len = PU_MIN(spm_char_len(p[0]), n);
  uint32_t c = 0;
  for (size_t i = 0; i < len; i++) c |= (uint32_t)p[i] << (8 * i);
  *code = c;
  return len;
}

enum { SPM_JOIN_BITS = 20, SPM_FIRST_BITS = 14 };

static inline uint32_t spm_join_hash(uint32_t a, uint32_t b) {
  return (uint32_t)((((uint64_t)a << 32 | b) * 0x9E3779B97F4A7C15u) >> (64 - SPM_JOIN_BITS));
}
static inline uint32_t spm_first_hash(uint32_t a) {
  return (uint32_t)(((uint64_t)a * 0x9E3779B97F4A7C15u) >> (64 - SPM_FIRST_BITS));
}
static inline bool text_bit(const uint64_t *bits, uint32_t i) {
  return bits[i / 64] >> (i % 64) & 1;
}
static inline void text_set_bit(uint64_t *bits, uint32_t i) {
  bits[i / 64] |= (uint64_t)1 << (i % 64);
}

#endif
