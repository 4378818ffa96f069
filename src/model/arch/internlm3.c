/* InternLM3: Llama's names; `qkv_bias` for q, k, v, `bias` for the output projection and the MLP. */
#include "src/model/arch.h"

static pu_err read_config(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  PU_TRY(pu_json_bool_or(config, "qkv_bias", false, &hp->qkv_bias, where, e));
  PU_TRY(pu_json_bool_or(config, "bias", false, &hp->o_bias, where, e));
  hp->mlp_bias = hp->o_bias;
  return PU_OK;
}

static pu_err write_config(const pu_hparams *hp, json_t *config, pu_error *e) {
  PU_TRY(pu_arch_set(config, "qkv_bias", json_boolean(hp->qkv_bias), e));
  return pu_arch_set(config, "bias", json_boolean(hp->o_bias), e);
}

static const pu_tensor_rule tensors[] = {PU_RULES_LLAMA_OUTER,  PU_RULES_LLAMA_ATTENTION, PU_RULES_LLAMA_QKV_BIAS,
                                         PU_RULES_LLAMA_O_BIAS, PU_RULES_LLAMA_MLP,       PU_RULES_LLAMA_MLP_BIAS,
                                         PU_RULES_END};

const pu_arch pu_arch_internlm3 = {
    .name = "internlm3",
    .model_types = (const char *const[]){"internlm3", NULL},
    .class_name = "InternLM3ForCausalLM",
    .tensors = tensors,
    .read_config = read_config,
    .write_config = write_config,
};
