/* The JSON of a call as it comes, byte by byte: where its name and its arguments stand, long before it is whole. It is
 * no parser: values are only skipped, and what is whole is parsed by jansson. */
#ifndef PUYU_TEXT_CHAT_SCAN_H
#define PUYU_TEXT_CHAT_SCAN_H

#include "puyu/text.h"

typedef enum call_state {
  CALL_BEGIN,
  CALL_KEY, /* before one, or the end of an empty object */
  CALL_IN_KEY,
  CALL_COLON,
  CALL_VALUE, /* before one */
  CALL_IN_STRING,
  CALL_IN_NEST, /* an object or an array */
  CALL_IN_WORD, /* a number, true, … */
  CALL_AFTER,   /* a value */
  CALL_CLOSED,
  CALL_BAD /* this is no call */
} call_state;

typedef struct call_scan {
  call_state state;
  size_t at;                                           /* bytes read */
  size_t begin;                                        /* of the key or value that is being read */
  int depth;                                           /* inside of a nested value */
  bool in_string, escaped;                             /* inside of it */
  enum { PART_OTHER, PART_NAME, PART_ARGUMENTS } part; /* what the value that comes is */
  bool has_name, has_arguments;                        /* begun, for arguments that are an object; whole, for others */
  size_t name_begin, name_end;                         /* with its quotes */
  size_t arguments_begin, arguments_end;               /* end 0: not yet */
  bool is_text;                                        /* arguments written as a text that holds the object */
} call_scan;

/* Reads on to text[end); text begins where it began at the first call. */
void call_scan_feed(call_scan *s, const char *text, size_t end);

#endif
