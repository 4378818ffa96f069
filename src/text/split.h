/* Cutting a text into words before merging: what Hugging Face calls a pre-tokenizer. The three patterns that nearly all
 * byte-level models use have scanners of their own; any other regular expression goes to PCRE2. */
#ifndef PUYU_TEXT_SPLIT_H
#define PUYU_TEXT_SPLIT_H

#include "puyu/base.h"

typedef struct text_splitter text_splitter;

typedef enum split_behavior {
  SPLIT_ISOLATED, /* a match is a word, what is between matches too */
  SPLIT_REMOVED,
  SPLIT_PREVIOUS, /* a match belongs to what is before it */
  SPLIT_NEXT,
  SPLIT_CONTIGUOUS /* neighbouring matches are one word */
} split_behavior;

extern const char split_pattern_gpt2[], split_pattern_llama3[], split_pattern_qwen2[];

/* A known pattern (isolated, not inverted) gets its scanner unless `plain` asks for PCRE2 (tests compare the two). */
pu_err text_splitter_regex(pu_str pattern, split_behavior behavior, bool invert, bool plain, text_splitter **out,
                           pu_error *e) PU_MUST_USE;
pu_err text_splitter_digits(bool individual, text_splitter **out, pu_error *e) PU_MUST_USE;
/* The split_pattern_… that it cuts by; NULL: another. */
const char *text_splitter_pattern(const text_splitter *s);
void text_splitter_free(text_splitter *s);

/* Given one word after the other, in order. */
typedef pu_err (*split_fn)(void *arg, const uint8_t *p, size_t n, pu_error *e);
/* Cuts by splitters[0], each part by splitters[1] and so on. */
pu_err text_split(text_splitter *const *splitters, int n_splitters, const uint8_t *p, size_t n, split_fn fn, void *arg,
                  pu_error *e) PU_MUST_USE;

#endif
