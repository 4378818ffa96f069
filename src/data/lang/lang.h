/* Inside data: which language a text is in. A linear model over hashed character n-grams, trained by puyu itself
 * (tests/data/train_lang.c makes model.inc), and the script where that decides. */
#ifndef PUYU_DATA_LANG_H
#define PUYU_DATA_LANG_H

#include "puyu/base.h"

typedef struct pu_lang_guess {
  const char *lang; /* "en", "zh", "zh-Hant", "ja", …; "und": cannot be told, or is none of those that are known */
  double share;     /* of the text's letters that are in it */
  double score;     /* probability that the model gives */
} pu_lang_guess;

/* The languages of a text, the largest share first: at most max; returns how many. More than one where parts of it
 * (paragraphs) are in another. At most the first 64 KiB are looked at, in even pieces of a longer text. */
size_t pu_lang_find(pu_str text, pu_lang_guess *out, size_t max);
const char *const *pu_lang_names(void); /* without "und"; NULL-ended */

#endif
