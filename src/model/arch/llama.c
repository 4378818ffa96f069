/* Llama 1 to 3: `attention_bias` for all four attention projections, `mlp_bias` for the MLP. */
#include "src/model/arch.h"

static pu_err read_config(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  PU_TRY(pu_json_bool_or(config, "attention_bias", false, &hp->qkv_bias, where, e));
  hp->o_bias = hp->qkv_bias;
  return pu_json_bool_or(config, "mlp_bias", false, &hp->mlp_bias, where, e);
}

static pu_err write_config(const pu_hparams *hp, json_t *config, pu_error *e) {
  PU_TRY(pu_arch_set(config, "attention_bias", json_boolean(hp->qkv_bias), e));
  return pu_arch_set(config, "mlp_bias", json_boolean(hp->mlp_bias), e);
}

static const pu_tensor_rule tensors[] = {PU_RULES_LLAMA_OUTER,  PU_RULES_LLAMA_ATTENTION, PU_RULES_LLAMA_QKV_BIAS,
                                         PU_RULES_LLAMA_O_BIAS, PU_RULES_LLAMA_MLP,       PU_RULES_LLAMA_MLP_BIAS,
                                         PU_RULES_END};

const pu_arch pu_arch_llama = {
    .name = "llama",
    .model_types = (const char *const[]){"llama", NULL},
    .class_name = "LlamaForCausalLM",
    .tensors = tensors,
    .read_config = read_config,
    .write_config = write_config,
};
