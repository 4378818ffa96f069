/* Continuing a text with an engine: what `generate`, the demo and samples during training share. */
#ifndef PUYU_SAMPLE_H
#define PUYU_SAMPLE_H

#include "puyu/engine.h"
#include "puyu/train.h"
#include "src/cli/rows.h"

/* The type to compute in, by --dtype. AUTO: f32 where most of the weights in the files are f32, so that what was
 * written exactly is computed exactly; else bf16. */
typedef enum pu_cli_dtype { PU_CLI_AUTO, PU_CLI_F32, PU_CLI_BF16 } pu_cli_dtype;
#define PU_CLI_DTYPE_ROW(holder, member)                                                                               \
  PU_ROW(holder, member, "dtype", ENUM, .dflt = "auto", .choices = "auto|f32|bf16",                                    \
         .help = "type to compute in; auto: f32 for weights in f32, else bf16")

/* A callback of whatever reports (done, total): sets a bar whose unit is "%". */
void pu_cli_show_share(void *bar, double done, double total);

/* How a model is read and run: for the commands that let it answer. */
typedef struct pu_cli_model {
  int dtype, quant, kv_dtype; /* of pu_cli_dtype, pu_quant, pu_kv_type; the draft has the first two, too */
  int64_t context, guess;
  const char *weights_cache, *draft; /* NULL: none */
  const char *device;                /* NULL: the processor */
} pu_cli_model;
#define PU_CLI_MODEL_ROWS(holder, in)                                                                                  \
  PU_ROW_DEVICE(holder, in.device), PU_CLI_DTYPE_ROW(holder, in.dtype), PU_ROW_QUANT(holder, in.quant),                \
      PU_ROW_KV_DTYPE(holder, in.kv_dtype),                                                                            \
      PU_ROW(holder, in.weights_cache, "weights-cache", STR, .meta = "DIR",                                            \
             .help = "keep weights here as they lie in memory: the next start maps them"),                             \
      PU_ROW(holder, in.context, "context", INT, .dflt = "0", .max = 1 << 24, .meta = "N",                             \
             .help = "tokens of a prompt and its answer together; 0: what the model was trained for, at most 32768"),  \
      PU_ROW(holder, in.guess, "guess", INT, .dflt = "0", .max = 15, .meta = "N",                                      \
             .help = "tokens guessed ahead; the text stays the same, 3 often makes it faster"),                        \
      PU_ROW(holder, in.draft, "draft", STR, .meta = "MODEL",                                                          \
             .help = "a smaller model with the same tokenizer that does the guessing, of 3 tokens or --guess")

/* A LoRA adapter, for the commands that use one. */
#define PU_CLI_ADAPTER_ROW(holder)                                                                                     \
  PU_ROW(holder, adapter, "adapter", STR, .meta = "DIR",                                                               \
         .help = "a LoRA adapter of the model: a directory as PEFT writes it")

typedef struct pu_cli_engine_options {
  pu_cli_model model;
  int64_t threads, batch;            /* batch: sessions at a time */
  const char *adapter;               /* a directory: for pu_cli_open_session; NULL: none */
  const pu_engine_adapter *adapters; /* instead of it */
  int n_adapters;
  size_t memory;                   /* bytes; 0: what is free */
  bool no_prefix_cache, says_plan; /* says_plan: what will be taken is said before it is */
} pu_cli_engine_options;

/* An engine over a model directory, with a progress bar while its weights are read. */
pu_err pu_cli_open_engine(const char *model, const pu_cli_engine_options *o, pu_engine **out, pu_error *e) PU_MUST_USE;

/* Is it a model, and can it be talked to? Asked before its weights are read. */
pu_err pu_cli_check_talker(const char *model, pu_error *e) PU_MUST_USE;

/* What that would take. */
pu_err pu_cli_plan_engine(const char *model, const pu_cli_engine_options *o, pu_engine_plan *out,
                          pu_error *e) PU_MUST_USE;

/* A session by --adapter, where it was given. */
pu_err pu_cli_open_session(pu_engine *en, pu_session **out, pu_error *e) PU_MUST_USE;

/* The ids of a text to go on from: bos in front where the tokenizer says that the model was trained so. */
pu_err pu_cli_encode_prompt(const pu_tokenizer *t, pu_str text, pu_ids *out, pu_error *e) PU_MUST_USE;

/* Appends the continuation of prompt to out. */
pu_err pu_cli_continue(pu_engine *en, const char *prompt, const pu_sampling *how, pu_buf *out, pu_error *e) PU_MUST_USE;

/* pu_train_hooks.sample: an engine over the model in training, for one prompt; an adapter goes there through a folder
 * in the run's, which is removed again. */
pu_err pu_cli_sample_hook(void *arg, const pu_train_sample *s, pu_buf *out, pu_error *e);

#endif
