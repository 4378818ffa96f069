/* What the other files of text need to know about characters. */
#ifndef PUYU_TEXT_UNICODE_H
#define PUYU_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool text_is_space(uint32_t c); /* White_Space (PropList.txt) */
bool text_is_word(uint32_t c);  /* \w: letters, marks, decimal digits, connecting punctuation */
/* Length of the character that ends at p + i, its code point in *cp; 0: none, or not UTF-8. */
size_t text_utf8_before(const uint8_t *p, size_t i, uint32_t *cp);

#endif
