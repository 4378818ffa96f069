/* What the family descriptions in src/model/arch/ are made of: the tensor names that many families share, and small
 * helpers for their config hooks. */
#ifndef PUYU_MODEL_ARCH_H
#define PUYU_MODEL_ARCH_H

#include "puyu/model.h"

/* Llama's names, which most later families kept. */
#define PU_RULES_LLAMA_OUTER                                                                                           \
  {"model.embed_tokens.weight", PU_SLOT_EMBED, PU_PART_ALL}, {"model.norm.weight", PU_SLOT_OUT_NORM, PU_PART_ALL},     \
      {"lm_head.weight", PU_SLOT_OUTPUT, PU_PART_ALL},                                                                 \
      {"model.layers.%d.input_layernorm.weight", PU_SLOT_ATTN_NORM, PU_PART_ALL}, {                                    \
    "model.layers.%d.post_attention_layernorm.weight", PU_SLOT_MLP_NORM, PU_PART_ALL                                   \
  }
#define PU_RULES_LLAMA_ATTENTION                                                                                       \
  {"model.layers.%d.self_attn.q_proj.weight", PU_SLOT_QKV, PU_PART_Q},                                                 \
      {"model.layers.%d.self_attn.k_proj.weight", PU_SLOT_QKV, PU_PART_K},                                             \
      {"model.layers.%d.self_attn.v_proj.weight", PU_SLOT_QKV, PU_PART_V}, {                                           \
    "model.layers.%d.self_attn.o_proj.weight", PU_SLOT_WO, PU_PART_ALL                                                 \
  }
#define PU_RULES_LLAMA_QKV_BIAS                                                                                        \
  {"model.layers.%d.self_attn.q_proj.bias", PU_SLOT_QKV_BIAS, PU_PART_Q},                                              \
      {"model.layers.%d.self_attn.k_proj.bias", PU_SLOT_QKV_BIAS, PU_PART_K}, {                                        \
    "model.layers.%d.self_attn.v_proj.bias", PU_SLOT_QKV_BIAS, PU_PART_V                                               \
  }
#define PU_RULES_LLAMA_O_BIAS                                                                                          \
  { "model.layers.%d.self_attn.o_proj.bias", PU_SLOT_WO_BIAS, PU_PART_ALL }
#define PU_RULES_LLAMA_MLP                                                                                             \
  {"model.layers.%d.mlp.gate_proj.weight", PU_SLOT_GATE_UP, PU_PART_GATE},                                             \
      {"model.layers.%d.mlp.up_proj.weight", PU_SLOT_GATE_UP, PU_PART_UP}, {                                           \
    "model.layers.%d.mlp.down_proj.weight", PU_SLOT_DOWN, PU_PART_ALL                                                  \
  }
#define PU_RULES_LLAMA_MLP_BIAS                                                                                        \
  {"model.layers.%d.mlp.gate_proj.bias", PU_SLOT_GATE_UP_BIAS, PU_PART_GATE},                                          \
      {"model.layers.%d.mlp.up_proj.bias", PU_SLOT_GATE_UP_BIAS, PU_PART_UP}, {                                        \
    "model.layers.%d.mlp.down_proj.bias", PU_SLOT_DOWN_BIAS, PU_PART_ALL                                               \
  }
#define PU_RULES_QWEN3_QK_NORM                                                                                         \
  {"model.layers.%d.self_attn.q_norm.weight", PU_SLOT_Q_NORM, PU_PART_ALL}, {                                          \
    "model.layers.%d.self_attn.k_norm.weight", PU_SLOT_K_NORM, PU_PART_ALL                                             \
  }
#define PU_RULES_END                                                                                                   \
  { NULL, PU_SLOT_COUNT, PU_PART_ALL }

/* `sliding_window`, an integer or null. */
pu_err pu_arch_read_window(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) PU_MUST_USE;
pu_err pu_arch_write_window(const pu_hparams *hp, json_t *config, pu_error *e) PU_MUST_USE;
/* Qwen's: only where `use_sliding_window`, and from layer `max_window_layers` on. */
pu_err pu_arch_read_qwen_window(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) PU_MUST_USE;
pu_err pu_arch_write_qwen_window(const pu_hparams *hp, json_t *config, pu_error *e) PU_MUST_USE;

/* json_object_set_new with an error. Takes over value. */
pu_err pu_arch_set(json_t *config, const char *key, json_t *value, pu_error *e) PU_MUST_USE;

/* pu_config_write, with a `quantization_config` (NULL: none). */
pu_err pu_config_write_with(const char *path, const pu_arch *arch, const pu_hparams *hp, pu_dtype dtype,
                            json_t *quantisation, pu_error *e) PU_MUST_USE;

/* Are the sizes ones that a model can have? */
pu_err pu_hparams_check(const pu_hparams *hp, const char *where, pu_error *e) PU_MUST_USE;
/* Which member differs; NULL: none. */
const char *pu_hparams_differ(const pu_hparams *a, const pu_hparams *b);

#endif
