/* Folders of models: what the commands that make one of another share. */
#ifndef PUYU_MODEL_DIR_H
#define PUYU_MODEL_DIR_H

#include "puyu/base.h"

/* What belongs to a model besides config.json and weights (tokenizer, chat template, generation_config.json), as it is.
 */
pu_err pu_cli_copy_companions(const char *from_dir, const char *to_dir, pu_arena *a, pu_error *e) PU_MUST_USE;
bool pu_cli_same_place(const char *a, const char *b); /* one file or folder under two names */
/* Refuses a folder that holds what only a run or its checkpoint does; what: who would spoil it ("a conversion"). */
pu_err pu_cli_check_no_run(const char *dst, const char *what, pu_arena *a, pu_error *e) PU_MUST_USE;

#endif
