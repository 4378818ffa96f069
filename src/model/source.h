/* Inside model: where weights come from. A source is a family, hyper-parameters, and a list of tensors under the names
 * of its rules; loading knows nothing else of a file. Hugging Face directories and GGUF files are sources; a
 * format that spreads a matrix over several tensors (packed values, scales, zeros) shows it as one.
 *
 * To add one: a function in a file of its own that fills a pu_source, and a row of `formats` in source.c. */
#ifndef PUYU_MODEL_SOURCE_H
#define PUYU_MODEL_SOURCE_H

#include "puyu/model.h"

typedef struct pu_source_tensor {
  const char *name;
  const char *type; /* as people call it: "bf16", "q4_K" */
  pu_dtype dtype;   /* of the values that come out: f32, bf16, f16; PU_DTYPE_COUNT: they cannot be had */
  int ndim;
  int64_t shape[PU_MAX_DIMS];
  int64_t block;      /* values come in multiples of so many; divides PU_SOURCE_PIECE */
  const void *data;   /* in the file, unaligned perhaps */
  const void *coding; /* the source's own word for how they lie there; NULL: plainly, as dtype */
} pu_source_tensor;

enum { PU_SOURCE_PIECE = 1 << 16 }; /* the most values read at once */

typedef struct pu_source pu_source;
struct pu_source {
  const char *where;  /* the path, for errors */
  const char *config; /* what the sizes come from, for errors: "config.json" */
  const char *types;  /* what can be read, for errors: "f32, bf16 and f16" */
  const pu_arch *arch;
  pu_hparams hp;
  const pu_tensor_rule *rules, *also_read; /* as in pu_arch */
  const char *const *ignored;              /* ends of names that nothing is read from; NULL-ended */
  pu_source_tensor *tensors;               /* sorted by name */
  size_t n;
  /* Values [at, at + n) of a tensor with a coding, both multiples of its block. */
  void (*values)(const pu_source_tensor *t, int64_t at, int64_t n, void *out);
  void (*close)(pu_source *s); /* what the opener made besides; `tensors` is freed by pu_source_close */
  void *own;
};

pu_err pu_source_open(const char *path, pu_source *out, pu_error *e) PU_MUST_USE; /* path outlives it */
void pu_source_close(pu_source *s);
const pu_source_tensor *pu_source_find(const pu_source *s, const char *name); /* NULL: none */
/* Values [at, at + n), n at most PU_SOURCE_PIECE, as t->dtype: a view into the file, or made in room. */
const void *pu_source_values(const pu_source *s, const pu_source_tensor *t, int64_t at, int64_t n, void *room);

/* ---- the openers; they may fail half-way: pu_source_close cleans up ---- */

pu_err pu_source_open_dir(const char *path, pu_source *s, pu_error *e) PU_MUST_USE;  /* source.c */
pu_err pu_source_open_gguf(const char *path, pu_source *s, pu_error *e) PU_MUST_USE; /* gguf_model.c */
/* Family and hyper-parameters alone. */
pu_err pu_describe_gguf(const char *path, const pu_arch **arch, pu_hparams *hp, pu_error *e) PU_MUST_USE;

#endif
