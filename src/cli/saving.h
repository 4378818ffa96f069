/* Writing a model as a whole, and where it may go: what `init`, `convert`, `merge` and `quantize` share. */
#ifndef PUYU_CLI_SAVING_H
#define PUYU_CLI_SAVING_H

#include "puyu/engine.h"
#include "src/cli/stage.h"

/* May a model read from src be written to dst, a GGUF file or a directory? Not over src itself, nor a training run;
 * over another model, or the tokenizer that lies there, with `force`. */
pu_err pu_cli_check_place(const char *src, const char *dst, bool gguf, bool force, pu_arena *a,
                          pu_error *e) PU_MUST_USE;
bool pu_cli_is_gguf_name(const char *path);           /* is it to become a GGUF file? */
bool pu_cli_same_place(const char *a, const char *b); /* one file or folder under two names */
/* Refuses a folder that holds what only a training run or its checkpoint does, and a checkpoint's name inside a run. */
pu_err pu_cli_check_no_run(const char *dst, pu_arena *a, pu_error *e) PU_MUST_USE;
/* What belongs to a model besides config.json and weights (tokenizer, chat template, generation_config.json), as it is.
 */
pu_err pu_cli_copy_companions(const char *from_dir, const char *to_dir, pu_arena *a, pu_error *e) PU_MUST_USE;
/* Into a directory, with the files of src's tokenizer: as a whole, and in place of a model that is there with `force`.
 */
pu_err pu_cli_save_dir(const pu_model *m, const char *src, const char *dst, bool force, pu_dtype dtype,
                       size_t shard_bytes, pu_arena *a, pu_error *e) PU_MUST_USE;

#endif
