/* The words of a text, as they are indexed and looked for. */
#ifndef PUYU_STORE_TERMS_H
#define PUYU_STORE_TERMS_H

#include "puyu/base.h"

enum { STORE_TERM_MAX = 96 }; /* bytes; of longer words the beginning counts */

typedef enum store_term_kind {
  STORE_WORD, /* letters and digits */
  STORE_PAIR, /* two neighbours of a run of Han, kana or Hangul */
  STORE_LAST  /* the last character of a run: so every character begins a term, and a prefix finds it */
} store_term_kind;

typedef struct store_term {
  store_term_kind kind;
  bool first;        /* of its run; always so of a word */
  pu_str text;       /* folded; lives until the callback returns */
  size_t begin, end; /* the bytes of the text that it stands for */
} store_term;

/* Calls fn for each term in order until it returns other than 0, which is then the result. Any bytes; what is not UTF-8
 * parts words. One pass, in bounded memory. */
int store_terms(pu_str text, int (*fn)(void *arg, const store_term *t), void *arg);

#endif
