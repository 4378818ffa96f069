/* InternLM (v1): Llama's names, with biases on all four attention projections (config `bias`). Its own checkpoints hold
 * RoPE as `rotary`: {"base": 10000, "type": "origin" | "dynamic"}. */
#include "src/model/arch.h"

#include <string.h>

static pu_err read_rotary(const json_t *config, const char *where, pu_rope_params *rope, int64_t max_position,
                          pu_error *e) {
  const json_t *rotary = json_object_get(config, "rotary");
  const char *type;
  if (!json_is_object(rotary)) return PU_OK;
  PU_TRY(pu_json_num_or(rotary, "base", rope->base, &rope->base, where, e));
  PU_TRY(pu_json_str_or(rotary, "type", "origin", &type, where, e));
  if (strcmp(type, "dynamic") == 0) {
    rope->kind = PU_ROPE_DYNAMIC;
    rope->original_max = max_position;
    return pu_json_num_or(rotary, "scaling_factor", 1.0, &rope->factor, where, e);
  }
  if (strcmp(type, "origin") != 0)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "%s: rotary type '%.40s' is not supported (origin, dynamic are)", where,
                   type);
  return PU_OK;
}

static pu_err read_config(const json_t *config, const char *where, pu_hparams *hp, pu_error *e) {
  PU_TRY(pu_json_bool_or(config, "bias", true, &hp->qkv_bias, where, e));
  hp->o_bias = hp->qkv_bias;
  return hp->rope.kind == PU_ROPE_NONE ? read_rotary(config, where, &hp->rope, hp->max_position, e) : PU_OK;
}

static pu_err write_rotary(const pu_rope_params *rope, json_t *config, pu_error *e) {
  bool dynamic = rope->kind == PU_ROPE_DYNAMIC;
  json_t *rotary = json_pack("{s:f, s:s}", "base", rope->base, "type", dynamic ? "dynamic" : "origin");
  if (rotary && dynamic) json_object_set_new(rotary, "scaling_factor", json_real(rope->factor));
  return pu_arch_set(config, "rotary", rotary, e);
}

static pu_err write_config(const pu_hparams *hp, json_t *config, pu_error *e) {
  PU_TRY(pu_arch_set(config, "bias", json_boolean(hp->qkv_bias), e));
  return write_rotary(&hp->rope, config, e);
}

static const pu_tensor_rule tensors[] = {PU_RULES_LLAMA_OUTER,  PU_RULES_LLAMA_ATTENTION, PU_RULES_LLAMA_QKV_BIAS,
                                         PU_RULES_LLAMA_O_BIAS, PU_RULES_LLAMA_MLP,       PU_RULES_END};

const pu_arch pu_arch_internlm = {
    .name = "internlm",
    .model_types = (const char *const[]){"internlm", NULL},
    .class_name = "InternLMForCausalLM",
    .tensors = tensors,
    .read_config = read_config,
    .write_config = write_config,
};
