/* Inside lang: the linear models, one for each script in which several languages are written. model.inc holds them as
 * text, as tests/data/train_lang.c wrote it; here they are unpacked, once, when first asked for. */
#ifndef PUYU_DATA_LANG_MODEL_H
#define PUYU_DATA_LANG_MODEL_H

#include "src/data/lang/chars.h"

/* LANG_MOST: languages of one model, at most; a row of weights is as long. A packed row is its key, 6 bits a character,
 * and then one character a language. Characters stand for numbers, from 0 on: what can be printed, in the order of
 * ASCII, but without those that mean something in a C string. */
enum { LANG_MOST = 48, LANG_KEY_CHARS = 3, LANG_SYMBOLS = 92, LANG_ZERO = LANG_SYMBOLS / 2 };
static inline char lang_symbol(int i) { /* ! is 0; no ", ? or \ */
  int c = i + 32;
  c += c >= '"';
  c += c >= '?';
  c += c >= '\\';
  return (char)c;
}

/* As model.inc has it. */
typedef struct lang_packed {
  const char *const *names; /* NULL-ended */
  const char *rows;
  size_t n_rows;
  float scale; /* of the weights */
  float bias[LANG_MOST];
} lang_packed;

/* Of a text with n n-grams, language l's logit is bias[l] + scale / n * the sum of row[l] over those that have a row.
 */
typedef struct lang_model {
  const char *const *names;
  size_t n_names, n_rows;
  const int8_t (*rows)[LANG_MOST]; /* [n_rows], zeros where there is no language */
  const uint32_t *slots;           /* open addressing: key << 13 | row + 1; 0: empty */
  uint32_t mask;                   /* how many slots there are, less 1 */
  float scale;
  const float *bias; /* [LANG_MOST] */
} lang_model;

const lang_model *lang_model_of(lang_script s); /* s < LANG_MODELS; one without a model has no names */

/* The row of a key, or -1. */
static inline int lang_row(const lang_model *m, uint32_t key) {
  for (uint32_t i = key & m->mask;; i = (i + 1) & m->mask) {
    uint32_t slot = m->slots[i];
    if (slot >> 13 == key && slot) return (int)(slot & 0x1FFF) - 1;
    if (!slot) return -1;
  }
}

/* Probabilities of the m->n_names languages from sums [LANG_MOST] of rows over n > 0 n-grams. */
void lang_probabilities(const lang_model *m, const int64_t *sums, size_t n, double *out);

#endif
