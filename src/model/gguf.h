/* Inside model: what reading, writing and dequantising GGUF share. */
#ifndef PUYU_MODEL_GGUF_H
#define PUYU_MODEL_GGUF_H

#include "puyu/model.h"

enum {
  PU_GGUF_VERSION = 3,
  PU_GGUF_ALIGNMENT = 32, /* where `general.alignment` is missing */
  PU_GGUF_MAX_ALIGNMENT = 1 << 16,
  PU_GGUF_MAX_NAME = 255, /* of a tensor */
  PU_GGUF_MAX_KEY = 65535,
  PU_GGUF_MAX_KEYS = 1 << 16,
  PU_GGUF_MAX_TENSORS = 1 << 20,
  PU_GGUF_MAX_STRING = 64 << 20,
  PU_GGUF_MAX_ITEMS = 1 << 24 /* of an array */
};

/* A type of tensor. Rows are cut into blocks of `block` values, `bytes` bytes each; the types without functions have
 * one plain value a block (dtype), or are known by size alone. */
struct pu_gguf_type {
  uint32_t id;
  const char *name;
  int64_t block;
  size_t bytes;
  pu_dtype plain; /* PU_DTYPE_COUNT: none */
  void (*to_f32)(const uint8_t *block, float *out);
  void (*from_f32)(const float *in, uint8_t *block);
  /* The same in few bits: 32 values, (q - zero) * scale. NULL: not of that kind. */
  void (*codes)(const uint8_t *block, uint8_t *q, float *scale, float *zero);
  pu_packing few;
  uint32_t file_type; /* `general.file_type` of a file that is mostly of this type */
};
const pu_gguf_type *pu_gguf_type_of(uint32_t id);          /* NULL: unknown */
const pu_gguf_type *pu_gguf_type_of_plain(pu_dtype dtype); /* NULL: the format has none */
/* Can its values be had? */
bool pu_gguf_readable(const pu_gguf_type *t);
/* n values, a multiple of the block, to and from the bytes of whole blocks; any alignment. */
void pu_gguf_to_f32(const pu_gguf_type *t, const void *src, int64_t n, float *dst);
void pu_gguf_from_f32(const pu_gguf_type *t, const float *src, int64_t n, void *dst);

/* Family and hyper-parameters, from the keys and the shapes (gguf_model.c). */
pu_err pu_gguf_describe(const pu_gguf *g, const char *where, const pu_arch **arch, pu_hparams *hp,
                        pu_error *e) PU_MUST_USE;

/* Writes one file, atomically. */
typedef struct pu_gguf_out {
  const char *name;
  const pu_gguf_type *type;
  int ndim;
  int64_t shape[PU_MAX_DIMS]; /* rows first */
  /* Values [at, at + n) of the tensor as f32; n at most PU_GGUF_PIECE. */
  pu_err (*read)(const void *arg, int64_t at, int64_t n, float *out, pu_error *e);
  const void *arg;
} pu_gguf_out;
enum { PU_GGUF_PIECE = 1 << 18 }; /* values: a multiple of every block */
pu_err pu_gguf_write(const char *path, const pu_gguf_keys *keys, const pu_gguf_out *tensors, size_t n,
                     pu_error *e) PU_MUST_USE;

#endif
