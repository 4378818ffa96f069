/* Inside data: sorting more pairs of numbers than fit in memory. Runs of what fits are sorted and written, then merged.
 * One thread at a time. */
#ifndef PUYU_DATA_SORT_H
#define PUYU_DATA_SORT_H

#include "puyu/base.h"

typedef struct pu_pair {
  uint64_t a, b; /* by a, then by b */
} pu_pair;

/* Sorts in memory, in place (American flag sort: McIlroy et al. 1993). */
void pu_pairs_sort(pu_pair *v, size_t n);

/* prefix: of the temporary files' paths, in a folder that is there; they are gone with the sorter. memory: bytes that
 * pairs and buffers take, at least 1 MiB. */
typedef struct pu_sorter pu_sorter;
pu_err pu_sorter_create(const char *prefix, size_t memory, pu_sorter **out, pu_error *e) PU_MUST_USE;
void pu_sorter_free(pu_sorter *s); /* NULL is fine */
pu_err pu_sorter_add(pu_sorter *s, uint64_t a, uint64_t b, pu_error *e) PU_MUST_USE;
/* The pairs in their order, equal ones as often as they were added. The first call ends adding. */
pu_err pu_sorter_next(pu_sorter *s, pu_pair *out, bool *found, pu_error *e) PU_MUST_USE;
int pu_sorter_runs(const pu_sorter *s); /* runs that went to disk so far, merged ones too */

/* Several sorted arrays as one. */
typedef struct pu_merge pu_merge;
pu_err pu_merge_open(const pu_pair *const *arrays, const size_t *lengths, size_t n, pu_merge **out,
                     pu_error *e) PU_MUST_USE;
bool pu_merge_next(pu_merge *m, pu_pair *out);
void pu_merge_close(pu_merge *m);

#endif
