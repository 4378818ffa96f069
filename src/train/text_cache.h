/* Text and JSON Lines sources, tokenised once into shards under RUN/cache.
 *
 * A cache belongs to the run it lies in, whose lock is held by whoever makes or removes one: runs that read the same
 * text each have their own. It is removed when the run reads it no longer: another text, tokenizer or key, or all steps
 * made. What is gone is made again, with the same tokens, from the text that it came from. */
#ifndef PUYU_TRAIN_TEXT_CACHE_H
#define PUYU_TRAIN_TEXT_CACHE_H

#include "puyu/train.h"

/* The folder of shards of a text source; made when it is not there yet, or when a file or the tokenizer has changed. A
 * .txt or .md file is one document, a line of JSON Lines is one; each gets bos (where there is one) and eos. */
pu_err pu_train_text_cache(const pu_train_source *s, const pu_tokenizer *t, const char *run, pu_arena *a,
                           const char **dir, pu_error *e) PU_MUST_USE;

/* Removes the run's caches but those in keep (as the function above gave them; NULL entries are none), also what a
 * killed process left half made. */
pu_err pu_train_text_cache_prune(const char *run, const char *const *keep, size_t n, pu_error *e) PU_MUST_USE;

#endif
