/* text, inside: Qwen 2's pre-tokenization, as puyu's own tokenizers use it. Digits stand alone, which helps small
 * models with arithmetic. */
#ifndef PUYU_SRC_TEXT_SPLIT_QWEN2_H
#define PUYU_SRC_TEXT_SPLIT_QWEN2_H

#include "puyu/text.h"

#define PU_QWEN2_PATTERN                                                                                               \
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"                   \
  "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Bytes of the first word of s, at least 1 where s has any. Bytes that are not UTF-8 count as one character each,
 * neither letter, number nor space. */
size_t pu_split_qwen2(pu_str s);

#endif
