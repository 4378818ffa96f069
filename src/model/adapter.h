/* Inside model: adapters. adapter_config.c reads what PEFT writes about one, adapter.c makes its tensors,
 * adapter_file.c reads and writes them. */
#ifndef PUYU_MODEL_ADAPTER_H
#define PUYU_MODEL_ADAPTER_H

#include "src/model/slots.h"

enum {
  PU_ADAPTER_MAX_CONFIG = 1 << 20,   /* bytes of adapter_config.json */
  PU_ADAPTER_MAX_PATTERN = 4096,     /* bytes of a regular expression in it */
  PU_ADAPTER_MAX_PATTERNS = 1 << 14, /* entries of a list or table in it */
  PU_ADAPTER_MAX_REGEXES = 64        /* of a table, those that are more than plain names */
};
#define PU_ADAPTER_CONFIG "adapter_config.json"

/* ---- adapter_config.json ---- */

typedef struct pu_adapter_config {
  json_t *json; /* its own */
  const char *where;
  int64_t rank;
  double alpha;
  bool rslora;
} pu_adapter_config;

/* Takes json over, also when it fails. `where` outlives it. */
pu_err pu_adapter_config_read(json_t *json, const char *where, pu_adapter_config *out, pu_error *e) PU_MUST_USE;
/* A directory's; its path goes into a. */
pu_err pu_adapter_config_open(const char *dir, pu_arena *a, pu_adapter_config *out, pu_error *e) PU_MUST_USE;
void pu_adapter_config_deinit(pu_adapter_config *c);

/* What it says of one matrix: is it adapted; with what rank and factor. */
typedef struct pu_adapter_match {
  bool targeted;
  int64_t rank;
  double scale; /* alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023) */
} pu_adapter_match;
/* module: the tensor's name without ".weight". */
pu_err pu_adapter_config_match(const pu_adapter_config *c, const char *module, int layer, pu_adapter_match *out,
                               pu_error *e) PU_MUST_USE;

/* ---- the adapter ---- */

/* One tensor of the base's files, and what is added to it. */
typedef struct pu_adapted {
  const char *module;
  pu_slot slot;
  int layer;
  pu_mapping map;     /* of that tensor, [rows, cols], in its slot */
  int64_t rank, from; /* the slot's row that its first row is */
  float scale;
  pu_tensor *a, *b; /* [rank, cols]; [rows, rank], rows as in memory */
} pu_adapted;

struct pu_adapter {
  const pu_model *m;
  pu_dtype dtype;
  pu_adapter_config config;
  const char *where;
  pu_arena *host, *weights;
  void *memory; /* under weights */
  size_t bytes;
  pu_adapted *v; /* by layer, then slot */
  size_t n;
  size_t *first;    /* [layers * PU_SLOT_COUNT + 1]: where in v those of a layer's slot begin */
  pu_param *params; /* [2 n]: a and b of each */
};

/* Tensors without values. Takes config over, also when it fails. */
pu_err pu_adapter_new(const pu_model *m, pu_adapter_config *config, const char *where, pu_dtype dtype, bool train,
                      pu_adapter **out, pu_error *e) PU_MUST_USE;
/* Values of a or b, row-major, in the file's order of rows. */
pu_err pu_adapter_put(pu_adapter *a, const pu_adapted *t, bool b, const float *values, pu_error *e) PU_MUST_USE;
/* As pu_adapter_load, with values of a type that may differ from the model's. */
pu_err pu_adapter_load_as(const char *dir, const pu_model *m, pu_dtype dtype, bool train, pu_adapter **out,
                          pu_error *e) PU_MUST_USE;

/* What an adapter has for a layer's slot: appends to parts (NULL: only counts), for rows [row, row + rows). */
int pu_adapter_parts(const pu_adapter *a, int64_t layer, pu_slot slot, int32_t row, int32_t rows, pu_lora_part *parts);

#endif
