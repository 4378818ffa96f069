/* Mixtral: Mistral's attention; a router sends each token to `num_experts_per_tok` of `num_local_experts` MLPs. Files
 * hold the experts one by one (w1 gate, w3 up, w2 down); some newer ones all of a layer in one tensor. */
#include "src/model/arch.h"

enum { MAX_EXPERTS = 4096 };

static pu_err read_config(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  PU_TRY(pu_json_int_or(config, "num_local_experts", 1, MAX_EXPERTS, 8, &hp->experts, where, e));
  PU_TRY(pu_json_int_or(config, "num_experts_per_tok", 1, hp->experts, 2, &hp->experts_used, where, e));
  return pu_arch_read_window(config, where, hp, e);
}

static pu_err write_config(const pu_hparams *hp, json_t *config, pu_error *e) {
  PU_TRY(pu_arch_set(config, "num_local_experts", json_integer(hp->experts), e));
  PU_TRY(pu_arch_set(config, "num_experts_per_tok", json_integer(hp->experts_used), e));
  return pu_arch_write_window(hp, config, e);
}

static const pu_tensor_rule tensors[] = {
    PU_RULES_LLAMA_OUTER,
    PU_RULES_LLAMA_ATTENTION,
    {"model.layers.%d.block_sparse_moe.gate.weight", PU_SLOT_ROUTER, PU_PART_ALL},
    {"model.layers.%d.block_sparse_moe.experts.%d.w1.weight", PU_SLOT_EXPERTS_GATE_UP, PU_PART_GATE},
    {"model.layers.%d.block_sparse_moe.experts.%d.w3.weight", PU_SLOT_EXPERTS_GATE_UP, PU_PART_UP},
    {"model.layers.%d.block_sparse_moe.experts.%d.w2.weight", PU_SLOT_EXPERTS_DOWN, PU_PART_ALL},
    PU_RULES_END,
};

static const pu_tensor_rule also_read[] = {
    {"model.layers.%d.mlp.gate.weight", PU_SLOT_ROUTER, PU_PART_ALL},
    {"model.layers.%d.mlp.experts.gate_up_proj", PU_SLOT_EXPERTS_GATE_UP, PU_PART_ALL},
    {"model.layers.%d.mlp.experts.down_proj", PU_SLOT_EXPERTS_DOWN, PU_PART_ALL},
    PU_RULES_END,
};

const pu_arch pu_arch_mixtral = {
    .name = "mixtral",
    .model_types = (const char *const[]){"mixtral", NULL},
    .class_name = "MixtralForCausalLM",
    .tensors = tensors,
    .also_read = also_read,
    .read_config = read_config,
    .write_config = write_config,
};
