/* Inside model: what GGUF files say of RoPE otherwise than config.json. */
#ifndef PUYU_MODEL_ROPE_H
#define PUYU_MODEL_ROPE_H

#include "puyu/model.h"

/* By how much llama3 scaling divides frequency i of head_dim / 2. */
double pu_rope_llama3_divisor(const pu_rope_params *r, int64_t head_dim, int64_t i);

#endif
