/* A configuration before the run: defaults that depend on other values, and whether it makes sense. */
#ifndef PUYU_TRAIN_CONFIG_H
#define PUYU_TRAIN_CONFIG_H

#include "puyu/train.h"

/* Sets the batch sizes that were left to puyu (ids_rows: rows of the fixed batch, 0 for other sources), then names the
 * first thing that cannot work, with its key and the mend. */
pu_err pu_train_config_resolve(pu_train_config *cfg, int64_t ids_rows, pu_error *e) PU_MUST_USE;

/* A run goes on with the model that it was begun with: refuses another shape, and puts back (with a warning) the path
 * and the seed of the weights it began from, so that config.yaml stays true. */
pu_err pu_train_config_same_model(const pu_train_config *was, pu_train_config *is, pu_error *e) PU_MUST_USE;

/* Appends to keys, separated by ", ", the keys in which two configurations differ and whose change makes losses differ
 * from those of an unbroken run. */
void pu_train_config_changes(const pu_train_config *was, const pu_train_config *is, pu_buf *keys);

/* Is an adapter trained instead of the model? */
static inline bool pu_train_config_adapts(const pu_train_config *cfg) {
  return cfg->lora.rank > 0 || cfg->lora.path;
}

/* Steps against what the schedule asks of them: where epochs decide, when they are known. */
pu_err pu_train_config_check_steps(const pu_train_config *cfg, pu_error *e) PU_MUST_USE;

#endif
