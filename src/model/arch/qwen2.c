/* Qwen2 and 2.5: biases on q, k, v only; a sliding window where `use_sliding_window`. */
#include "src/model/arch.h"

static pu_err read_config(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  hp->qkv_bias = true;
  return pu_arch_read_qwen_window(config, where, hp, e);
}

static const pu_tensor_rule tensors[] = {PU_RULES_LLAMA_OUTER, PU_RULES_LLAMA_ATTENTION, PU_RULES_LLAMA_QKV_BIAS,
                                         PU_RULES_LLAMA_MLP, PU_RULES_END};

const pu_arch pu_arch_qwen2 = {
    .name = "qwen2",
    .model_types = (const char *const[]){"qwen2", NULL},
    .class_name = "Qwen2ForCausalLM",
    .tensors = tensors,
    .read_config = read_config,
    .write_config = pu_arch_write_qwen_window,
};
