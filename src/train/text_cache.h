/* Text and JSON Lines sources, tokenised once into shards under RUN/cache. */
#ifndef PUYU_TRAIN_TEXT_CACHE_H
#define PUYU_TRAIN_TEXT_CACHE_H

#include "puyu/train.h"

/* The folder of shards of a text source; made when it is not there yet, or when a file or the tokenizer has changed. A
 * .txt or .md file is one document, a line of JSON Lines is one; each gets bos (where there is one) and eos. */
pu_err pu_train_text_cache(const pu_train_source *s, const pu_tokenizer *t, const char *run, pu_arena *a,
                           const char **dir, pu_error *e) PU_MUST_USE;

#endif
