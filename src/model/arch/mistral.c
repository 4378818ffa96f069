/* Mistral: Llama without biases, perhaps with a sliding window. */
#include "src/model/arch.h"

static const pu_tensor_rule tensors[] = {PU_RULES_LLAMA_OUTER, PU_RULES_LLAMA_ATTENTION, PU_RULES_LLAMA_MLP,
                                         PU_RULES_END};

const pu_arch pu_arch_mistral = {
    .name = "mistral",
    .model_types = (const char *const[]){"mistral", NULL},
    .class_name = "MistralForCausalLM",
    .tensors = tensors,
    .read_config = pu_arch_read_window,
    .write_config = pu_arch_write_window,
};
