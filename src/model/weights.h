/* Inside model: making a model's tensors and putting values into them. */
#ifndef PUYU_MODEL_WEIGHTS_H
#define PUYU_MODEL_WEIGHTS_H

#include "src/model/slots.h"

/* In what form each parameter is kept. */
typedef struct pu_form {
  pu_packing packing; /* bits 0: not PACKED; its group is also that of FP8 */
  bool as_file;       /* the file's own values, not rounded here */
  bool fp8;           /* with as_file: in PU_LAYOUT_FP8, whatever the options say of others */
} pu_form;
typedef struct pu_forms {
  pu_form
      *of; /* [layers + 1][PU_SLOT_COUNT], outer ones first; that of a tied output is of its copy of the embedding */
} pu_forms;
pu_err pu_forms_init(pu_forms *f, const pu_hparams *hp, const pu_model_options *o, pu_error *e) PU_MUST_USE;
void pu_forms_deinit(pu_forms *f);
static inline pu_form *pu_form_of(const pu_forms *f, pu_slot slot, int layer) {
  return &f->of[(layer + 1) * PU_SLOT_COUNT + (int)slot];
}

/* Whether a matrix may be kept as codes with scales: by which it is and by its sizes. */
bool pu_takes_codes(pu_slot slot, const int64_t *shape, int ndim, const pu_model_options *o);
/* As what the options have it then: PU_LAYOUT_FP8 or PU_LAYOUT_INT8, or PU_LAYOUT_PLAIN: as neither. */
pu_layout pu_coded_layout(pu_slot slot, const int64_t *shape, int ndim, const pu_model_options *o);

/* Headers, names and memory for all parameters; nothing is filled. forms NULL: none in few bits. */
pu_err pu_model_new(const pu_arch *arch, const pu_hparams *hp, pu_backend *be, const pu_model_options *o,
                    const pu_forms *forms, pu_model **out, pu_error *e) PU_MUST_USE;
size_t pu_model_bytes(const pu_hparams *hp, const pu_model_options *o, const pu_forms *forms);

/* Values on their way into one parameter after the other. */
typedef struct pu_filler {
  pu_model *m;
  bool tile, coded;
  pu_tensor *plain;         /* where a matrix that is to be tiled lies first; its data is NULL without tiling */
  void *room;               /* host memory for PU_FILL_PIECE values of 4 bytes */
  struct pu_packer *packer; /* where a matrix that is to be packed lies first; NULL: none is */
  double done, total;
  void (*progress)(void *arg, double done, double total);
  void *progress_arg;
} pu_filler;

enum { PU_FILL_PIECE = 1 << 21 };

pu_err pu_filler_init(pu_filler *f, pu_model *m, const pu_model_options *o, pu_error *e) PU_MUST_USE;
void pu_filler_deinit(pu_filler *f);
/* Before the first of a parameter's values. coded: a packed weight made of them comes by pu_filler_put_codes, one in
 * INT8 by pu_filler_put_int8, one in FP8 by pu_filler_put_fp8, not by rounding them. */
void pu_filler_begin(pu_filler *f, const pu_param *p, bool coded);
/* In what type values that are made for p are best given: they go in as they are. */
pu_dtype pu_filler_type(const pu_filler *f, const pu_param *p);
/* n values from one type to another by the pool's threads; src may lie at any address. */
void pu_convert_by(pu_pool *pool, void *to, pu_dtype to_type, const void *src, pu_dtype type, int64_t n);
/* n values of `type` at src (unaligned perhaps) become the parameter's values from `at` on; of one that
 * is rounded to few bits, whole rows in the end. */
pu_err pu_filler_put(pu_filler *f, const pu_param *p, int64_t at, const void *src, pu_dtype type, int64_t n,
                     pu_error *e) PU_MUST_USE;
/* Rows [row, row + n) of a PACKED parameter as a source's `codes` gives them; order: as in pu_pack_weight. */
void pu_filler_put_codes(pu_filler *f, const pu_param *p, int64_t row, int64_t n, const uint8_t *q, const float *scale,
                         const float *zero);
/* Likewise of an INT8 parameter, of whose rows all groups have one scale. q and scale are written over. */
pu_err pu_filler_put_int8(pu_filler *f, const pu_param *p, int64_t row, int64_t n, uint8_t *q, float *scale,
                          int64_t groups, pu_error *e) PU_MUST_USE;
/* Likewise of an FP8 parameter: codes (unaligned perhaps), and of its scales those of these rows or blocks of rows. */
pu_err pu_filler_put_fp8(pu_filler *f, const pu_param *p, int64_t row, int64_t n, const void *codes, const float *scale,
                         pu_error *e) PU_MUST_USE;
void pu_filler_set_order(pu_filler *f, const pu_param *p, const int32_t *order);
/* All of p's values are there: tiles or packs it where that is wanted, and tells the progress. */
pu_err pu_filler_finish(pu_filler *f, const pu_param *p, pu_error *e) PU_MUST_USE;

/* ---- matrices on their way into few bits (pack.c): one at a time ---- */

typedef struct pu_packer pu_packer;
/* For the largest of these many values and groups' scales; rows of `cols` values at most. */
pu_err pu_packer_create(pu_backend *be, size_t values, size_t scales, int64_t cols, pu_packer **out,
                        pu_error *e) PU_MUST_USE;
void pu_packer_free(pu_packer *k);
/* A tensor begins: its shape and packing. */
void pu_packer_begin(pu_packer *k, const pu_tensor *w);
/* Values from element `at` on, in stretches of whole rows. */
void pu_packer_round(pu_packer *k, int64_t at, const void *src, pu_dtype type, int64_t n);
pu_err pu_packer_end(pu_packer *k, pu_ctx *c, pu_tensor *w, pu_error *e) PU_MUST_USE;

/* ---- kept in a file for the next time (weights_cache.c) ---- */

typedef struct pu_weights_cache {
  char path[4200];
  uint64_t key;
} pu_weights_cache;
/* Where the weights of m, from this file or directory in these forms, would be kept; false: the name is too long. */
bool pu_weights_cache_find(const char *dir, const char *model, const pu_model *m, const pu_forms *forms,
                           pu_weights_cache *out);
/* Where the weights of each parameter, and behind them those of a tied output, lie in a file's bytes. */
typedef struct pu_kept {
  const void *data; /* NULL: there are none */
  pu_layout layout;
} pu_kept;
/* For a model that is not filled yet; out: [n_params + 1]. All of them lie in the file, and read nothing outside of it.
 * NULL, or why the file is not used. Its checksum is not looked at. */
const char *pu_weights_cache_parse(pu_str file, uint64_t key, const pu_model *m, pu_kept *out);
/* Gives a model that is not filled yet its weights; false: there are none that can be used, which is said where a file
 * is there, and nothing is changed. */
bool pu_weights_cache_read(const pu_weights_cache *c, pu_model *m);
pu_err pu_weights_cache_write(const pu_weights_cache *c, const char *dir, const pu_model *m, pu_error *e) PU_MUST_USE;

/* ---- out again (save.c) ---- */

/* One tensor of a model on its way into a file, under the name and with the rows that a list of rules gives it. */
typedef struct pu_outgoing {
  const char *name;
  const pu_model *m;
  pu_slot slot;
  size_t param;                /* of m->params */
  const pu_tensor *from, *low; /* low: the lower halves of f32 values; or NULL */
  pu_mapping map;              /* its shape is the tensor's */
} pu_outgoing;

size_t pu_outgoing_count(const pu_model *m, const pu_tensor_rule *rules);
size_t pu_outgoing_list_bytes(const pu_model *m, const pu_tensor_rule *rules); /* what the list takes of an arena */
/* All of them, in a's memory. */
pu_err pu_outgoing_list(const pu_model *m, const pu_tensor_rule *rules, const char *where, pu_arena *a,
                        pu_outgoing **out, pu_error *e) PU_MUST_USE;
/* Values [at, at + n) as f32, bf16 or f16. */
pu_err pu_outgoing_read(const pu_outgoing *o, int64_t at, int64_t n, pu_dtype type, void *out, pu_error *e) PU_MUST_USE;

/* ---- in few bits (quant_write.c) ---- */

enum { PU_QUANT_PARTS = 4 }; /* tensors of a matrix, at most */
/* Do the matrices go together, and with the format? */
pu_err pu_quant_check(const pu_model *m, const char *where, pu_quant_format f, const pu_qmatrix *q,
                      pu_error *e) PU_MUST_USE;
/* The tensors that o becomes, at out[*n]. What they need is taken of the arena: 4 bytes a row, and PU_QUANT_LIST. */
enum { PU_QUANT_LIST = 2048 };
pu_err pu_quant_sources(const pu_outgoing *o, pu_quant_format f, const pu_qmatrix *q, pu_arena *a, pu_st_source *out,
                        size_t *n, pu_error *e) PU_MUST_USE;
/* A new reference; NULL: no memory. */
json_t *pu_quant_config(const pu_outgoing *o, size_t n, pu_quant_format f, const pu_qmatrix *q);

#endif
