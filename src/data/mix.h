/* Inside data: how a mixture is planned, and documents joined for long contexts. */
#ifndef PUYU_DATA_MIX_H
#define PUYU_DATA_MIX_H

#include "src/data/stage.h"

/* ---- mix_plan.c: how often each source comes ---- */

typedef struct pu_mix_share {
  const char *source;
  uint64_t documents, bytes; /* that there are */
  double passes;             /* how often they come: 2.5 is twice, and half of them once more */
} pu_mix_share;
typedef struct pu_mix_plan {
  pu_mix_share *v; /* by name; their names belong to the stage */
  size_t n;
  uint64_t bytes; /* of text that comes out, about */
  uint64_t hash;  /* of the plan and its options */
} pu_mix_plan;
/* From the sums in stage.json. Weights are shares of the wanted text; without any, size to the power of 1 /
 * temperature (Devlin et al. 2019; Conneau et al. 2020). What `cap` takes from a source goes to the others. */
pu_err pu_mix_plan_make(const pu_stage *s, const pu_mix_options *o, pu_mix_plan *out, pu_error *e) PU_MUST_USE;
void pu_mix_plan_deinit(pu_mix_plan *p);
double pu_mix_passes(const pu_mix_plan *p, pu_str source);               /* 0: not of the plan */
json_t *pu_mix_plan_json(const pu_mix_plan *p, const pu_mix_options *o); /* NULL: no memory */

/* ---- join.c ---- */

/* Of a document's repository: its source and its own folder, else the first one of its path; 0: it lies in none.
 * Documents of one group belong into one bucket. */
uint64_t pu_join_group(const pu_doc *d);

/* Documents that are joined. PU_JOIN_PATH: the files of a repository, each after those that it imports, as far as
 * import lines and names of files tell, else by path (Guo et al. 2024, DeepSeek-Coder). PU_JOIN_SIMILAR: each document
 * after the one it shares most rare words with, of those that are left (Shi et al. 2023, in-context pretraining).
 * A joined document has the strings of its first part. One thread. */
typedef struct pu_joiner pu_joiner;
pu_err pu_joiner_create(pu_join how, uint64_t bytes, pu_joiner **out, pu_error *e) PU_MUST_USE;
pu_err pu_joiner_add(pu_joiner *j, const pu_doc *d, pu_error *e) PU_MUST_USE; /* copied */
/* Calls put with each joined document of about `bytes`; parts: JSON, [{"id", "at", "bytes"}]. */
typedef pu_err (*pu_join_put)(void *arg, pu_doc *d, const char *parts, pu_error *e);
pu_err pu_joiner_write(pu_joiner *j, pu_join_put put, void *arg, pu_error *e) PU_MUST_USE;
void pu_joiner_free(pu_joiner *j); /* NULL is fine */

#endif
