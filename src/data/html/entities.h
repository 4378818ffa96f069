/* Inside data/html: character references. */
#ifndef PUYU_DATA_HTML_ENTITIES_H
#define PUYU_DATA_HTML_ENTITIES_H

#include "puyu/text.h"

/* The character that the reference at s (s.ptr[0] is '&') stands for, and how many bytes the reference takes. 0 bytes:
 * it is none, the ampersand stands for itself. A number that is no character gives U+FFFD; numbers 128 to 159 are read
 * as windows-1252, as browsers do. */
size_t html_entity(pu_str s, uint32_t *cp);
/* Appends s with its references decoded. */
void html_decode(pu_buf *b, pu_str s);

#endif
