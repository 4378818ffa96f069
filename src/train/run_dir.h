/* The run's directory: who may write there, which checkpoints it holds, and how files are cut back on resume. */
#ifndef PUYU_TRAIN_RUN_DIR_H
#define PUYU_TRAIN_RUN_DIR_H

#include "puyu/base.h"

#include <limits.h>

/* Claims the directory (*claim: the caller's to close) and removes what a killed process left half written. */
pu_err pu_train_dir_open(const char *run, pu_claim **claim, pu_error *e) PU_MUST_USE;

/* run/step-000200, or while it is being written run/step-000200.tmp. */
pu_err pu_train_dir_step(const char *run, int64_t step, bool temporary, char path[PATH_MAX], pu_error *e) PU_MUST_USE;
/* The newest checkpoint's step; -1: there is none. */
pu_err pu_train_dir_newest(const char *run, int64_t *step, pu_error *e) PU_MUST_USE;
/* The newest checkpoint before `step`; -1: there is none. */
pu_err pu_train_dir_before(const char *run, int64_t step, int64_t *before, pu_error *e) PU_MUST_USE;
/* Removes all but the newest `keep` checkpoints. */
pu_err pu_train_dir_prune(const char *run, int64_t keep, pu_error *e) PU_MUST_USE;
/* Drops from run/name (JSON Lines) what was written after `step`, and a torn last line. Missing: fine. A broken line
 * before others of these steps is an error: what follows it must not be lost. */
pu_err pu_train_dir_cut(const char *run, const char *name, int64_t step, pu_error *e) PU_MUST_USE;

#endif
