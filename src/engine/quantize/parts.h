/* Inside engine: a checkpoint that comes part by part, each as it is ready: one file of safetensors a part, and in the
 * end the index and config.json. */
#ifndef PUYU_ENGINE_QUANTIZE_PARTS_H
#define PUYU_ENGINE_QUANTIZE_PARTS_H

#include "src/engine/quantize/quantize.h"

typedef struct pu_parts {
  const char *dir;
  pu_arena *a;
  pu_dtype dtype; /* of what is not quantised */
  pu_quant_format format;
  size_t n, done; /* parts */
  size_t bytes;   /* of tensors so far */
  pu_buf map;     /* the index's lines */
  json_t *plain;  /* matrices that are not in few bits, without ".weight" */
} pu_parts;

/* dir is made; it outlives the parts. */
pu_err pu_parts_begin(pu_parts *p, const char *dir, pu_dtype dtype, pu_quant_format format, size_t n,
                      pu_error *e) PU_MUST_USE;
/* m: a part of a model. q: [m->n_params] what of it is quantised, or NULL: nothing. */
pu_err pu_parts_add(pu_parts *p, const pu_model *m, const pu_qmatrix *q, pu_error *e) PU_MUST_USE;
/* The last part, which says how it is quantised, gives config.json. *bytes: of all tensors. */
pu_err pu_parts_end(pu_parts *p, size_t *bytes, pu_error *e) PU_MUST_USE;
void pu_parts_deinit(pu_parts *p); /* of all zeros: fine */

#endif
