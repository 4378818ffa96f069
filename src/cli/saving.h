/* Writing a model that was read from elsewhere: what `convert` and `merge` share. */
#ifndef PUYU_CLI_SAVING_H
#define PUYU_CLI_SAVING_H

#include "puyu/engine.h"

/* May a model read from src be written to dst, a GGUF file or a directory? Not over src itself, nor a training run;
 * over another model with `force`. */
pu_err pu_cli_check_place(const char *src, const char *dst, bool gguf, bool force, pu_arena *a,
                          pu_error *e) PU_MUST_USE;
/* The type that holds all of a model's weights without loss; PU_DTYPE_COUNT: some of them are quantised. */
pu_err pu_cli_type_of(const char *model, pu_dtype *out, pu_error *e) PU_MUST_USE;
/* Into a directory, with the files of src's tokenizer. */
pu_err pu_cli_save_dir(const pu_model *m, const char *src, const char *dst, pu_dtype dtype, size_t shard_bytes,
                       pu_arena *a, pu_error *e) PU_MUST_USE;

#endif
