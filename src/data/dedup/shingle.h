/* Inside data: what two texts are compared by. Folded tokens, shingles of them, MinHash signatures, bands.
 *
 * Folding. Letters and digits count; case, width (Ａ, A), compatibility forms and accents do not; spaces, punctuation
 * and symbols only end words. A token is a word, or a single character of a script that is written without spaces
 * (Han, kana, Thai, …). So a shingle is five words of English, five characters of Chinese, and five of either where a
 * text mixes them: no language has to be decided on, and none can be decided differently for two versions of a text.
 *
 * MinHash (Broder 1997). Of each of 128 permutations of 32-bit shingle hashes, h(x) = a x + b mod 2^32 with odd a, a
 * signature holds the smallest value over a text's shingles; two signatures agree in a place with the probability of
 * the Jaccard similarity of the two sets.
 *
 * Bands. Signatures are cut into `bands` of `rows` values; texts that agree in one band are candidates. At similarity s
 * that finds 1 - (1 - s^rows)^bands of the pairs.
 *
 * Threads: everything here but the work space is read only after first use. */
#ifndef PUYU_DATA_SHINGLE_H
#define PUYU_DATA_SHINGLE_H

#include "puyu/base.h"

enum { PU_SHINGLE = 5, PU_MINHASHES = 128, PU_ROLL_MAX = 32 };

typedef struct pu_token {
  uint64_t hash;    /* of the folded letters */
  uint32_t at, len; /* where it is in the text */
} pu_token;

/* Tokens of a text, some at a time. Any bytes: what is no UTF-8 ends words. Texts below 4 GiB. */
typedef struct pu_folder {
  pu_str text;
  size_t at;
} pu_folder;
/* Up to max tokens; 0: the end. */
size_t pu_fold_next(pu_folder *f, pu_token *out, size_t max);
/* The folded text as text, a space after each token: for showing and for tests. */
bool pu_fold_text(pu_str text, pu_buf *out);

/* A hash of the last `width` tokens, moved on by one token. */
typedef struct pu_roll {
  uint64_t sum, drop; /* drop: -M^width, by which the oldest token leaves the sum */
  uint64_t ring[PU_ROLL_MAX];
  uint32_t width, at, n;
} pu_roll;
void pu_roll_init(pu_roll *r, int width); /* 1..PU_ROLL_MAX */
static inline uint64_t pu_mix64(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  x ^= x >> 32;
  return x;
}
#define PU_ROLL_FACTOR 0x9e3779b97f4a7c15u
/* The hash of the last width tokens; before there are as many, of those that there are. */
static inline uint64_t pu_roll_push(pu_roll *r, uint64_t token) {
  r->sum = r->sum * PU_ROLL_FACTOR + token + r->drop * r->ring[r->at];
  r->ring[r->at] = token;
  r->at = r->at + 1 == r->width ? 0 : r->at + 1;
  r->n += r->n < r->width;
  return pu_mix64(r->sum);
}
static inline bool pu_roll_full(const pu_roll *r) {
  return r->n == r->width;
}

/* The signature of a text; returns its number of shingles, repeated ones too. A text of fewer than five tokens is one
 * shingle; of none has none, and its signature says nothing. */
size_t pu_minhash(pu_str text, uint32_t signature[PU_MINHASHES]);
/* The share of places in which two signatures agree. */
double pu_minhash_similarity(const uint32_t *a, const uint32_t *b);
/* The kernel under it, by instruction set; signature[i] = min(signature[i], a[i] x + b[i]) for all x. */
typedef void (*pu_minhash_fn)(uint32_t *signature, const uint32_t *x, size_t n, const uint32_t *a, const uint32_t *b);
void pu_minhash_ref(uint32_t *signature, const uint32_t *x, size_t n, const uint32_t *a, const uint32_t *b);
void pu_minhash_avx2(uint32_t *signature, const uint32_t *x, size_t n, const uint32_t *a, const uint32_t *b);
void pu_minhash_avx512(uint32_t *signature, const uint32_t *x, size_t n, const uint32_t *a, const uint32_t *b);
pu_minhash_fn pu_minhash_kernel(const char *isa); /* "ref", "avx2", "avx512"; NULL: this processor does not have it */

/* The set of a text's shingles, sorted, each once, as 32-bit hashes, appended to out. */
pu_err pu_shingle_set(pu_str text, pu_buf *out, pu_error *e) PU_MUST_USE;
/* |A and B| / |A or B|; of two empty sets 0. */
double pu_jaccard(const uint32_t *a, size_t n, const uint32_t *b, size_t m);

typedef struct pu_bands {
  int bands, rows; /* bands * rows <= PU_MINHASHES */
} pu_bands;
/* The most rows that still find 95 % of the pairs at the threshold: more rows make fewer false candidates, which are
 * only work, since candidates are verified. */
pu_bands pu_bands_for(double threshold);
double pu_bands_found(pu_bands b, double similarity);
uint64_t pu_band_key(const uint32_t *signature, pu_bands b, int band);

#endif
