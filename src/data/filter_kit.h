/* Inside data: what several filters use: which words count, n-grams and duplicates, phrases found in a text.
 *
 * Rules published for English count words. In text written without spaces a word of the view is a character, and two of
 * them stand for one word of the rules (running Chinese has 1.5 to 2 characters a word): bounds on words, lines and
 * n-grams then need no second set. */
#ifndef PUYU_DATA_FILTER_KIT_H
#define PUYU_DATA_FILTER_KIT_H

#include <string.h>

#include "src/data/filter.h"

enum { PU_KIT_UNSPACED_PER_WORD = 2 };

typedef enum pu_word_kind {
  PU_WORD_ALPHABETIC, /* holds a letter */
  PU_WORD_NUMBER,     /* digits and no letter */
  PU_WORD_SYMBOL,     /* neither */
  PU_WORD_MARK, /* only marks of typography (“—…, 。，), which English would have in a word's end: no word */
  PU_WORD_UNSPACED, /* one character of a script without spaces */
  PU_WORD_KINDS
} pu_word_kind;
/* Of the word at p, len > 0; *chars gets its code points. */
pu_word_kind pu_word_kind_of(const char *p, size_t len, size_t *chars);
/* Is the word one character of the block that most Chinese is in (U+4E00 to U+9FFF)? */
static inline bool pu_word_is_han(const char *p, size_t len) {
  uint8_t c = (uint8_t)p[0];
  return len == 3 && ((c >= 0xE5 && c <= 0xE9) || (c == 0xE4 && (uint8_t)p[1] >= 0xB8));
}
/* pu_word_kind_of without the count, for most words by their first bytes. */
static inline pu_word_kind pu_word_kind_fast(const char *p, size_t len) {
  size_t chars;
  if ((uint8_t)(((uint8_t)p[0] | 0x20) - 'a') < 26) return PU_WORD_ALPHABETIC;
  return pu_word_is_han(p, len) ? PU_WORD_UNSPACED : pu_word_kind_of(p, len, &chars);
}

/* "No memory for FILTER". */
pu_err pu_kit_no_memory(const char *filter, pu_error *e);
/* Ends a filter that wrote into d->spare: it becomes the text. */
pu_err pu_kit_rewritten(pu_doc *d, const char *filter, pu_error *e);

/* How many of the spans' texts were there before, and the characters in those, both as shares of all; 0 of none. */
typedef struct pu_duplicates {
  double share, chars;
} pu_duplicates;
pu_err pu_kit_duplicates(pu_doc *d, const pu_span *spans, size_t n, pu_duplicates *out, pu_error *e) PU_MUST_USE;
size_t pu_kit_chars(const char *p, size_t len); /* code points */
/* Of a span of the text; for short ones without a call: of eight bytes, those that are not 10xxxxxx. */
static inline size_t pu_kit_chars_of(const pu_doc *d, pu_span s) {
  uint64_t x;
  if (s.len > 8 || s.len == 0 || d->text.len < 8 || s.at > d->text.len - 8)
    return pu_kit_chars(d->text.data + s.at, s.len);
  memcpy(&x, d->text.data + s.at, 8);
  x &= ~(x << 1) & 0x8080808080808080u & ~(uint64_t)0 >> 8 * (8 - s.len);
  return s.len - (size_t)(((x >> 7) * 0x0101010101010101u) >> 56);
}

/* Does the line end as a sentence does: . ! ? 。 ！ ？ … and other scripts' marks, then any closing quotes and
 * brackets? ellipsis: "..." and … count. quotes: a quotation mark alone is enough, as in C4's rule. */
bool pu_kit_line_ends(pu_str line, bool ellipsis, bool quotes);

/* ---- phrases: Aho and Corasick 1975 ---- */

typedef struct pu_match pu_match;
/* Patterns are found whatever the case of their ASCII letters; empty ones are none. Memory: at most 512 MiB. */
pu_err pu_match_make(const pu_str *patterns, size_t n, pu_match **out, pu_error *e) PU_MUST_USE;
void pu_match_free(pu_match *m); /* NULL is fine */
typedef struct pu_match_at {
  size_t i;                   /* where to go on; begin with all zeros */
  uint32_t state, pending;    /* inner */
  size_t begin, end, pattern; /* what was found */
} pu_match_at;
/* The next occurrence, by their ends, longer ones first where two end together; overlapping ones too. */
bool pu_match_next(const pu_match *m, pu_str text, pu_match_at *at);

/* ---- C4's rules, which two filters share (filters/c4.c) ---- */

/* strict: lines must end in terminal punctuation. */
pu_err pu_c4_apply(const void *shared, pu_doc *d, double *values, bool strict, pu_error *e);
pu_err pu_c4_open(const pu_filter_options *o, void **shared, pu_error *e);
void pu_c4_close(void *shared);

/* The user's files one after the other in `text`, an initialised buffer. */
pu_err pu_kit_lists(const pu_strs *files, pu_buf *text, pu_error *e) PU_MUST_USE;
/* Gives each line to fn, without spaces around it; empty lines and those that begin with '#' are passed over. */
void pu_kit_list(pu_str text, void (*fn)(void *arg, pu_str line), void *arg);

/* Pairs of characters, UTF-8 (filter_han.c). */
extern const char pu_han_to_simplified[], pu_han_to_traditional[];

#endif
