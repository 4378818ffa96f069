/* Continuing a text with an engine: what `generate`, the demo and samples during training share. */
#ifndef PUYU_SAMPLE_H
#define PUYU_SAMPLE_H

#include "puyu/engine.h"

/* Appends the continuation of prompt to out. */
pu_err pu_cli_continue(pu_engine *en, const char *prompt, const pu_sampling *how, pu_buf *out, pu_error *e) PU_MUST_USE;

/* pu_train_hooks.sample: an engine over the model in training, for one prompt. */
pu_err pu_cli_sample_hook(void *arg, pu_model *m, const pu_tokenizer *t, const char *prompt, int64_t max_tokens,
                          double temperature, pu_buf *out, pu_error *e);

#endif
