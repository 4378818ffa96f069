/* Continuing a text with an engine: what `generate`, the demo and samples during training share. */
#ifndef PUYU_SAMPLE_H
#define PUYU_SAMPLE_H

#include "puyu/engine.h"

/* An engine over a model directory, with a progress bar while its weights are read. f32: compute in f32, not bf16. */
pu_err pu_cli_open_engine(const char *model, bool f32, int64_t threads, pu_engine **out, pu_error *e) PU_MUST_USE;

/* The ids of a text to go on from: bos in front where the tokenizer says that the model was trained so. */
pu_err pu_cli_encode_prompt(const pu_tokenizer *t, pu_str text, pu_ids *out, pu_error *e) PU_MUST_USE;

/* Appends the continuation of prompt to out. */
pu_err pu_cli_continue(pu_engine *en, const char *prompt, const pu_sampling *how, pu_buf *out, pu_error *e) PU_MUST_USE;

/* pu_train_hooks.sample: an engine over the model in training, for one prompt. */
pu_err pu_cli_sample_hook(void *arg, pu_model *m, const pu_tokenizer *t, const char *prompt, int64_t max_tokens,
                          double temperature, pu_buf *out, pu_error *e);

#endif
