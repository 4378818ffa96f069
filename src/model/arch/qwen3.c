/* Qwen3 (dense): each head of q and k goes through an RMS norm; `head_dim` is its own; `attention_bias` as Llama's. */
#include "src/model/arch.h"

static pu_err read_config(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  hp->qk_norm = true;
  PU_TRY(pu_json_bool_or(config, "attention_bias", false, &hp->qkv_bias, where, e));
  hp->o_bias = hp->qkv_bias;
  return pu_arch_read_qwen_window(config, where, hp, e);
}

static pu_err write_config(const pu_hparams *hp, json_t *config, pu_error *e) {
  PU_TRY(pu_arch_set(config, "attention_bias", json_boolean(hp->qkv_bias), e));
  return pu_arch_write_qwen_window(hp, config, e);
}

static const pu_tensor_rule tensors[] = {PU_RULES_LLAMA_OUTER,  PU_RULES_LLAMA_ATTENTION, PU_RULES_LLAMA_QKV_BIAS,
                                         PU_RULES_LLAMA_O_BIAS, PU_RULES_QWEN3_QK_NORM,   PU_RULES_LLAMA_MLP,
                                         PU_RULES_END};

const pu_arch pu_arch_qwen3 = {
    .name = "qwen3",
    .model_types = (const char *const[]){"qwen3", NULL},
    .class_name = "Qwen3ForCausalLM",
    .tensors = tensors,
    .read_config = read_config,
    .write_config = write_config,
};
