/* Inside model: making a model's tensors and putting values into them. */
#ifndef PUYU_MODEL_WEIGHTS_H
#define PUYU_MODEL_WEIGHTS_H

#include "src/model/slots.h"

/* Headers, names and memory for all parameters; nothing is filled. */
pu_err pu_model_new(const pu_arch *arch, const pu_hparams *hp, pu_backend *be, const pu_model_options *o,
                    pu_model **out, pu_error *e) PU_MUST_USE;

/* Values on their way into one parameter after the other. */
typedef struct pu_filler {
  pu_model *m;
  bool tile;
  pu_tensor *plain; /* where a matrix that is to be tiled lies first; its data is NULL without tiling */
  void *room;       /* host memory for PU_FILL_PIECE values of 4 bytes, twice */
  double done, total;
  void (*progress)(void *arg, double done, double total);
  void *progress_arg;
} pu_filler;

enum { PU_FILL_PIECE = 1 << 18 };

pu_err pu_filler_init(pu_filler *f, pu_model *m, const pu_model_options *o, pu_error *e) PU_MUST_USE;
void pu_filler_deinit(pu_filler *f);
/* n values of `type` at src (unaligned perhaps) become the parameter's values from `at` on. */
pu_err pu_filler_put(pu_filler *f, const pu_param *p, int64_t at, const void *src, pu_dtype type, int64_t n,
                     pu_error *e) PU_MUST_USE;
/* All of p's values are there: tiles it where that is wanted, and tells the progress. */
pu_err pu_filler_finish(pu_filler *f, const pu_param *p, pu_error *e) PU_MUST_USE;

/* ---- out again (save.c) ---- */

/* One tensor of a model on its way into a file, under the name and with the rows that a list of rules gives it. */
typedef struct pu_outgoing {
  const char *name;
  const pu_model *m;
  pu_slot slot;
  const pu_tensor *from;
  pu_mapping map; /* its shape is the tensor's */
} pu_outgoing;

size_t pu_outgoing_count(const pu_model *m, const pu_tensor_rule *rules);
size_t pu_outgoing_list_bytes(const pu_model *m, const pu_tensor_rule *rules); /* what the list takes of an arena */
/* All of them, in a's memory. */
pu_err pu_outgoing_list(const pu_model *m, const pu_tensor_rule *rules, const char *where, pu_arena *a,
                        pu_outgoing **out, pu_error *e) PU_MUST_USE;
/* Values [at, at + n) as f32, bf16 or f16. */
pu_err pu_outgoing_read(const pu_outgoing *o, int64_t at, int64_t n, pu_dtype type, void *out, pu_error *e) PU_MUST_USE;

#endif
