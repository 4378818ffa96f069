/* InternLM2 and 2.5: no biases; q, k, v in one matrix whose rows go by key/value group: [its queries, k, v]. Older
 * checkpoints have `norm_head`: the rows of the output matrix are used at length 1. */
#include "src/model/arch.h"

static pu_err read_config(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  PU_TRY(pu_json_bool_or(config, "bias", false, &hp->qkv_bias, where, e));
  hp->o_bias = hp->qkv_bias;
  return pu_json_bool_or(config, "norm_head", false, &hp->norm_head, where, e);
}

static pu_err write_config(const pu_hparams *hp, json_t *config, pu_error *e) {
  if (hp->norm_head) PU_TRY(pu_arch_set(config, "norm_head", json_true(), e));
  return pu_arch_set(config, "bias", json_boolean(hp->qkv_bias), e);
}

static const pu_tensor_rule tensors[] = {
    {"model.tok_embeddings.weight", PU_SLOT_EMBED, PU_PART_ALL},
    {"model.norm.weight", PU_SLOT_OUT_NORM, PU_PART_ALL},
    {"output.weight", PU_SLOT_OUTPUT, PU_PART_ALL},
    {"model.layers.%d.attention_norm.weight", PU_SLOT_ATTN_NORM, PU_PART_ALL},
    {"model.layers.%d.attention.wqkv.weight", PU_SLOT_QKV, PU_PART_QKV_GROUPED},
    {"model.layers.%d.attention.wqkv.bias", PU_SLOT_QKV_BIAS, PU_PART_QKV_GROUPED},
    {"model.layers.%d.attention.wo.weight", PU_SLOT_WO, PU_PART_ALL},
    {"model.layers.%d.attention.wo.bias", PU_SLOT_WO_BIAS, PU_PART_ALL},
    {"model.layers.%d.ffn_norm.weight", PU_SLOT_MLP_NORM, PU_PART_ALL},
    {"model.layers.%d.feed_forward.w1.weight", PU_SLOT_GATE_UP, PU_PART_GATE},
    {"model.layers.%d.feed_forward.w3.weight", PU_SLOT_GATE_UP, PU_PART_UP},
    {"model.layers.%d.feed_forward.w2.weight", PU_SLOT_DOWN, PU_PART_ALL},
    PU_RULES_END,
};

const pu_arch pu_arch_internlm2 = {
    .name = "internlm2",
    .model_types = (const char *const[]){"internlm2", NULL},
    .class_name = "InternLM2ForCausalLM",
    .tensors = tensors,
    .read_config = read_config,
    .write_config = write_config,
};
