/* Inside data: one pass over JSON text that says where values are, without making any. For lines of a corpus, which are
 * mostly one long string. */
#ifndef PUYU_DATA_JSON_SCAN_H
#define PUYU_DATA_JSON_SCAN_H

#include "puyu/base.h"

enum { PU_SCAN_DEPTH = 512 };

typedef enum pu_scan_result {
  PU_SCAN_WHOLE,
  PU_SCAN_CUT, /* right as far as it goes */
  PU_SCAN_WRONG
} pu_scan_result;

/* A value where it stands. Of a string: what is between the quotes. */
typedef struct pu_scan_value {
  const char *ptr;
  size_t len;
  char kind;    /* '"', '{', '[', '0' a number, 't' or 'f' or 'n'; 0: none */
  bool escapes; /* of a string */
} pu_scan_value;

/* The value at *at (after spaces), which moves behind it. Nesting deeper than PU_SCAN_DEPTH is wrong. UTF-8 is not
 * looked at. */
pu_scan_result pu_scan(const char **at, const char *end, pu_scan_value *out);
/* The next member of an object, from behind its brace or the last member; *found false: its end, with *at behind the
 * closing brace. */
pu_scan_result pu_scan_member(const char **at, const char *end, bool first, pu_scan_value *key, pu_scan_value *value,
                              bool *found);
const char *pu_scan_space(const char *at, const char *end);
/* Appends a string without its escapes; half of a surrogate pair becomes U+FFFD. */
bool pu_scan_unescape(const pu_scan_value *string, pu_buf *out);

#endif
