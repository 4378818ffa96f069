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
  int64_t block;        /* values come in multiples of so many; divides PU_SOURCE_GRAIN */
  const void *data;     /* in the file, unaligned perhaps */
  const void *coding;   /* the source's own word for how they lie there; NULL: plainly, as dtype */
  bool floats;          /* with a coding: floats all the same (FP8), for which bf16 is wide enough */
  pu_packing few;       /* a matrix whose values are had in few bits, too; bits 0: it is none. ordered: by g_idx */
  const int32_t *g_idx; /* [columns] group of each, as many columns in one as in the other; NULL: one after the other */
  int64_t file_group;   /* columns in one of those, or with one scale in FP8 */
  int64_t fp8_rows;     /* rows with one scale, of a matrix in E4M3 whose codes are `data`; 0: it is none */
} pu_source_tensor;

enum { PU_SOURCE_GRAIN = 1 << 14 }; /* values that a thread decodes at a time */

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
  /* Values [at, at + n) of a tensor with a coding, both multiples of its block. Any number of threads at once. */
  void (*values)(const pu_source_tensor *t, int64_t at, int64_t n, void *out);
  /* Rows [row, row + n) of a matrix with `few`, all its leading dimensions counted as rows: q [n, K], scale and zero
   * [n, G] for groups of few.group; zero NULL where there are none. */
  void (*codes)(const pu_source_tensor *t, int64_t row, int64_t n, uint8_t *q, float *scale, float *zero);
  /* The scale of a value of a matrix with `fp8_rows`. */
  float (*scale)(const pu_source_tensor *t, int64_t row, int64_t col);
  void (*close)(pu_source *s); /* what the opener made besides; `tensors` is freed by pu_source_close */
  void *own;
};

pu_err pu_source_open(const char *path, pu_source *out, pu_error *e) PU_MUST_USE; /* path outlives it */
void pu_source_close(pu_source *s);
const pu_source_tensor *pu_source_find(const pu_source *s, const char *name); /* NULL: none */
/* Values [at, at + n) as t->dtype: a view into the file, or made in room. */
const void *pu_source_values(const pu_source *s, const pu_source_tensor *t, int64_t at, int64_t n, void *room);

/* ---- the openers; they may fail half-way: pu_source_close cleans up ---- */

pu_err pu_source_open_dir(const char *path, pu_source *s, pu_error *e) PU_MUST_USE;  /* source.c */
pu_err pu_source_open_gguf(const char *path, pu_source *s, pu_error *e) PU_MUST_USE; /* gguf_model.c */
/* Matrices of a directory that are spread over several tensors, as its quantization_config says, become one each in s's
 * list. *out keeps what they need; NULL is fine to close (quant_read.c). */
typedef struct pu_quant_files pu_quant_files;
pu_err pu_quant_files_open(const char *dir, const pu_safetensors *files, pu_source *s, pu_quant_files **out,
                           pu_error *e) PU_MUST_USE;
pu_err pu_quant_files_show(const json_t *config, const char *where, const pu_safetensors *files, pu_source *s,
                           pu_quant_files **out, pu_error *e) PU_MUST_USE;
void pu_quant_files_close(pu_quant_files *f);
/* Family and hyper-parameters alone. */
pu_err pu_describe_gguf(const char *path, const pu_arch **arch, pu_hparams *hp, pu_error *e) PU_MUST_USE;

#endif
