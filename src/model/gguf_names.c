/* llama.cpp's names. It turns neighbouring rows of a head by RoPE in the Llama-like architectures, so its converter
 * reorders the rows of q and k there (PU_PART_Q_PAIRS); in Qwen's they stay as they were. */
#include "src/model/gguf_names.h"

#include <string.h>

#define OUTER                                                                                                          \
  {"token_embd.weight", PU_SLOT_EMBED, PU_PART_ALL}, {"output_norm.weight", PU_SLOT_OUT_NORM, PU_PART_ALL}, {          \
    "output.weight", PU_SLOT_OUTPUT, PU_PART_ALL                                                                       \
  }
#define ATTENTION(q, k)                                                                                                \
  {"blk.%d.attn_norm.weight", PU_SLOT_ATTN_NORM, PU_PART_ALL}, {"blk.%d.attn_q.weight", PU_SLOT_QKV, q},               \
      {"blk.%d.attn_k.weight", PU_SLOT_QKV, k}, {"blk.%d.attn_v.weight", PU_SLOT_QKV, PU_PART_V},                      \
      {"blk.%d.attn_q.bias", PU_SLOT_QKV_BIAS, q}, {"blk.%d.attn_k.bias", PU_SLOT_QKV_BIAS, k},                        \
      {"blk.%d.attn_v.bias", PU_SLOT_QKV_BIAS, PU_PART_V}, {"blk.%d.attn_output.weight", PU_SLOT_WO, PU_PART_ALL}, {   \
    "blk.%d.attn_output.bias", PU_SLOT_WO_BIAS, PU_PART_ALL                                                            \
  }
#define NORMS                                                                                                          \
  {"blk.%d.attn_q_norm.weight", PU_SLOT_Q_NORM, PU_PART_ALL}, {                                                        \
    "blk.%d.attn_k_norm.weight", PU_SLOT_K_NORM, PU_PART_ALL                                                           \
  }
#define MLP                                                                                                            \
  {"blk.%d.ffn_norm.weight", PU_SLOT_MLP_NORM, PU_PART_ALL},                                                           \
      {"blk.%d.ffn_gate.weight", PU_SLOT_GATE_UP, PU_PART_GATE},                                                       \
      {"blk.%d.ffn_up.weight", PU_SLOT_GATE_UP, PU_PART_UP},                                                           \
      {"blk.%d.ffn_gate.bias", PU_SLOT_GATE_UP_BIAS, PU_PART_GATE},                                                    \
      {"blk.%d.ffn_up.bias", PU_SLOT_GATE_UP_BIAS, PU_PART_UP}, {"blk.%d.ffn_down.weight", PU_SLOT_DOWN, PU_PART_ALL}, \
  {                                                                                                                    \
    "blk.%d.ffn_down.bias", PU_SLOT_DOWN_BIAS, PU_PART_ALL                                                             \
  }
#define EXPERTS                                                                                                        \
  {"blk.%d.ffn_gate_inp.weight", PU_SLOT_ROUTER, PU_PART_ALL},                                                         \
      {"blk.%d.ffn_gate_exps.weight", PU_SLOT_EXPERTS_GATE_UP, PU_PART_GATE},                                          \
      {"blk.%d.ffn_up_exps.weight", PU_SLOT_EXPERTS_GATE_UP, PU_PART_UP}, {                                            \
    "blk.%d.ffn_down_exps.weight", PU_SLOT_EXPERTS_DOWN, PU_PART_ALL                                                   \
  }
#define END                                                                                                            \
  { 0 }

static const pu_tensor_rule paired[] = {OUTER, ATTENTION(PU_PART_Q_PAIRS, PU_PART_K_PAIRS), MLP, EXPERTS, END};
static const pu_tensor_rule straight[] = {OUTER, ATTENTION(PU_PART_Q, PU_PART_K), NORMS, MLP, END};

/* Files of before April 2024 hold the experts one by one. */
static const pu_tensor_rule older[] = {
    {"blk.%d.ffn_gate.%d.weight", PU_SLOT_EXPERTS_GATE_UP, PU_PART_GATE},
    {"blk.%d.ffn_up.%d.weight", PU_SLOT_EXPERTS_GATE_UP, PU_PART_UP},
    {"blk.%d.ffn_down.%d.weight", PU_SLOT_EXPERTS_DOWN, PU_PART_ALL},
    END,
};

static const pu_gguf_arch archs[] = {
    {"llama", paired, older,
     (const char *const[]){"llama", "mistral", "mixtral", "internlm3", "internlm", "internlm2", NULL}},
    {"internlm2", paired, NULL, (const char *const[]){"internlm2", NULL}},
    {"qwen2", straight, NULL, (const char *const[]){"qwen2", NULL}},
    {"qwen3", straight, NULL, (const char *const[]){"qwen3", NULL}},
};

const pu_gguf_arch *pu_gguf_arch_named(pu_str name) {
  for (size_t i = 0; i < PU_COUNT(archs); i++)
    if (pu_str_eq(name, pu_str_c(archs[i].name))) return &archs[i];
  return NULL;
}

static bool holds(const pu_gguf_arch *g, const char *family) {
  for (const char *const *f = g->families; *f; f++)
    if (strcmp(*f, family) == 0) return true;
  return false;
}

const pu_gguf_arch *pu_gguf_arch_for(const pu_arch *arch, const pu_hparams *hp) {
  /* llama.cpp's InternLM2 has an output matrix of its own, no biases, and heads that make up the hidden size; one that
   * differs is a Llama, which it computes alike. */
  bool plain = !hp->tied && !hp->qkv_bias && !hp->o_bias && hp->heads * hp->head_dim == hp->hidden;
  for (size_t i = PU_COUNT(archs); i-- > 0;) {
    if (strcmp(archs[i].name, "internlm2") == 0 && !plain) continue;
    if (holds(&archs[i], arch->name)) return &archs[i];
  }
  return NULL;
}
