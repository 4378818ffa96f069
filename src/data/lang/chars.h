/* Inside lang: the characters of a text by script, and the hashed n-grams that models count. Trainer and finder read a
 * text through the same function, so that a feature is the same thing to both. */
#ifndef PUYU_DATA_LANG_CHARS_H
#define PUYU_DATA_LANG_CHARS_H

#include "puyu/base.h"

/* Scripts in which several languages are written have a model; those of one language tell it alone. Kana and Hangul are
 * in between: find.c knows. */
typedef enum lang_script {
  LANG_NONE, /* no letter: it ends a word */
  LANG_LATIN,
  LANG_CYRILLIC,
  LANG_ARABIC,
  LANG_DEVANAGARI,
  LANG_HAN,
  LANG_MODELS, /* from here on without a model */
  LANG_KANA = LANG_MODELS,
  LANG_HANGUL,
  LANG_GREEK,
  LANG_HEBREW,
  LANG_ARMENIAN,
  LANG_GEORGIAN,
  LANG_THAI,
  LANG_BENGALI,
  LANG_GURMUKHI,
  LANG_GUJARATI,
  LANG_ORIYA,
  LANG_TAMIL,
  LANG_TELUGU,
  LANG_KANNADA,
  LANG_MALAYALAM,
  LANG_SINHALA,
  LANG_LAO,
  LANG_TIBETAN,
  LANG_MYANMAR,
  LANG_ETHIOPIC,
  LANG_KHMER,
  LANG_SKIP, /* a mark within a word that is not looked at */
  LANG_SCRIPTS
} lang_script;
enum { LANG_KEY_BITS = 18, LANG_KEYS = 1 << LANG_KEY_BITS, LANG_BATCH = 512 };

/* Reads a text; the caller zeroes it and sets take and arg, then gives pieces, then calls lang_scan_end, which must not
 * be left out. After it the object may be used again. */
typedef struct lang_scan {
  /* n keys below LANG_KEYS of n-grams of one script with a model: 1 to 4 letters with the ends of words as letters, and
   * whole words; of Han 1 and 2 characters. */
  void (*take)(void *arg, lang_script s, const uint32_t *keys, size_t n);
  void *arg;
  size_t letters[LANG_SCRIPTS]; /* how many were read; the caller may clear them */
  lang_script script;           /* of the word that is being read */
  uint64_t last;                /* its last four letters, 16 bits each */
  uint64_t word;                /* hash of its letters */
  size_t length;                /* letters of it so far */
  size_t n;
  uint32_t keys[LANG_BATCH];
} lang_scan;

/* Reads on; bytes that are not UTF-8 end a word. */
void lang_scan_text(lang_scan *s, pu_str text);
void lang_scan_end(lang_scan *s); /* ends the word and hands over the last keys */

#endif
