/* Samples in rows: which sample goes into which row. */
#ifndef PUYU_TUNE_PACK_H
#define PUYU_TUNE_PACK_H

#include "puyu/base.h"

typedef struct pu_tune_plan {
  uint32_t *samples; /* row after row */
  uint64_t *begin;   /* [rows + 1] where each row's begin in samples */
  size_t rows;
} pu_tune_plan;
void pu_tune_plan_deinit(pu_tune_plan *p);

/* Puts n samples, in the given order, each of len[sample] tokens (at most room), into rows of at most room tokens,
 * whose samples keep that order: into the fullest of the last OPEN rows that it fits into, the earliest of equal ones,
 * else into a new one. one: a row each. Appends to the plan. */
pu_err pu_tune_plan_add(pu_tune_plan *p, const uint32_t *order, size_t n, const uint32_t *len, int64_t room, bool one,
                        pu_error *e) PU_MUST_USE;

/* order[0 .. n) of `first` + 0 … n - 1, as the seed and stream give it. */
void pu_tune_shuffle(uint32_t *order, size_t n, uint32_t first, uint64_t seed, uint64_t stream);

#endif
