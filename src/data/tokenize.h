/* Inside data: what the ways to shards share. */
#ifndef PUYU_DATA_TOKENIZE_H
#define PUYU_DATA_TOKENIZE_H

#include "src/data/stage.h"

pu_err pu_tokenize_check(const pu_tokenize_options *o, pu_error *e) PU_MUST_USE;
/* Does the document belong to the validation split? By a hash of its id, so that all copies go the same way,
 * and a joined one ("ID+3") as its first part. */
bool pu_tokenize_is_valid(double fraction, pu_str id);

/* ---- units of a stage to shards (tokenize_units.c) ---- */

/* What all units of a stage have in common: how, and an encoder for each worker of the pool. What it is given is
 * borrowed. domains: names of sources, sorted. */
typedef struct pu_sharding pu_sharding;
pu_err pu_sharding_create(const char *dir, const pu_tokenize_options *o, const pu_data_how *how, const char **domains,
                          size_t n_domains, pu_sharding **out, pu_error *e) PU_MUST_USE;
void pu_sharding_free(pu_sharding *s);          /* NULL is fine */
json_t *pu_sharding_json(const pu_sharding *s); /* for stage.json; NULL: no memory */
pu_err pu_sharding_result(const char *dir, pu_tokenize_result *out, pu_error *e) PU_MUST_USE; /* of a stage of shards */

/* One unit's shards, sidecar and counts, which go into `out`. One thread, worker number `worker`. */
typedef struct pu_unit_shards pu_unit_shards;
pu_err pu_unit_shards_open(const pu_sharding *s, const char *name, int worker, pu_unit_writer *out,
                           pu_unit_shards **result, pu_error *e) PU_MUST_USE;
/* n: the document's line. parts: of a joined one, see pu_join_put; NULL: it is not joined. */
pu_err pu_unit_shards_doc(pu_unit_shards *u, const pu_doc *d, uint64_t n, const char *parts, pu_error *e) PU_MUST_USE;
/* With any err but PU_OK (which it gives back) nothing is left of the files. Frees; NULL is fine. */
pu_err pu_unit_shards_end(pu_unit_shards *u, pu_err err, pu_error *e) PU_MUST_USE;

#endif
