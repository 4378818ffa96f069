/* Held-out sums: questions kept from pu_synth_run, asked to an engine, and counted. Used by `puyu demo`. */
#ifndef PUYU_SUMS_H
#define PUYU_SUMS_H

#include "puyu/data.h"
#include "puyu/engine.h"

typedef struct pu_sum_question {
  const char *prompt, *answer; /* in the list's arena */
  int within;
  char got[24]; /* the first number the model wrote; "" before it was asked, or when it wrote none */
} pu_sum_question;

typedef struct pu_sum_list {
  pu_arena *arena; /* the caller's */
  pu_sum_question *v;
  size_t n, cap;
} pu_sum_list;

/* A sink's question callback; arg is the pu_sum_list. */
pu_err pu_sum_list_add(void *list, const pu_synth_question *q, pu_error *e);
void pu_sum_list_deinit(pu_sum_list *list);

/* Asks every question greedily, as many at a time as the engine has sessions for; fills `got`. */
pu_err pu_sums_ask(pu_engine *en, pu_sum_list *list, pu_error *e) PU_MUST_USE;

typedef struct pu_sum_score {
  size_t asked, right;
} pu_sum_score;
pu_sum_score pu_sums_score(const pu_sum_list *list, int within);

#endif
