/* Inside model: how llama.cpp calls what a model is made of, for reading and writing. */
#ifndef PUYU_MODEL_GGUF_NAMES_H
#define PUYU_MODEL_GGUF_NAMES_H

#include "puyu/model.h"

/* One value of `general.architecture`. */
typedef struct pu_gguf_arch {
  const char *name;
  const pu_tensor_rule *rules, *also_read;
  const char *const *families; /* those a file of it may hold, best first; NULL-ended */
} pu_gguf_arch;

const pu_gguf_arch *pu_gguf_arch_named(pu_str name); /* NULL: unknown */
/* The one that llama.cpp reads such a model by; NULL: none. */
const pu_gguf_arch *pu_gguf_arch_for(const pu_arch *arch, const pu_hparams *hp);

#define PU_GGUF_ROPE_FREQS "rope_freqs.weight" /* f32 [head_dim / 2]: what each frequency is divided by */

/* What GGUF has no key for, under a name of our own: other readers pass over it. */
#define PU_GGUF_FAMILY         "puyu.family"
#define PU_GGUF_DYNAMIC_FACTOR "puyu.rope.dynamic.factor"
#define PU_GGUF_DYNAMIC_MAX    "puyu.rope.dynamic.original_context_length"
#define PU_GGUF_YARN_EXACT     "puyu.rope.yarn.exact_range"

#endif
