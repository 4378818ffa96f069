/* Inside eval: what a report knows of the logs. */
#ifndef PUYU_EVAL_REPORT_H
#define PUYU_EVAL_REPORT_H

#include "src/eval/internal.h"

enum { EVAL_SHOWN = 40 }; /* samples of a group in a page */
typedef enum eval_group { GROUP_WRONG, GROUP_RIGHT, GROUP_UNREAD, GROUP_CUT, GROUP_TOO_LONG, GROUPS } eval_group;

/* Samples of one kind: those with the least hashes of their keys, so that they are spread over all. */
typedef struct eval_shown {
  json_t *v[EVAL_SHOWN];
  uint64_t hash[EVAL_SHOWN];
  size_t n;
  int64_t all;
} eval_shown;

/* One log. */
typedef struct eval_set {
  json_t *head, *before; /* before: texts by their hash */
  pu_eval_kind kind;
  int rule; /* of choices; else -1 */
  eval_tally *tally;
  pu_eval_result result;
  eval_shown groups[GROUPS];
} eval_set;

typedef struct eval_sets {
  eval_set *v;
  size_t n, cap;
} eval_sets;

pu_err eval_page(const eval_sets *sets, pu_buf *out, pu_error *e) PU_MUST_USE;

#endif
