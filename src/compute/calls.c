#include "src/compute/calls.h"

/* With so many tensors each struct of arguments begins. 0: it cannot be played again. */
static const uint8_t tensors_of[PU_OP_COUNT] = {
    [PU_OP_embedding] = 3,    [PU_OP_rmsnorm_add] = 6, [PU_OP_linear] = 4,          [PU_OP_lora] = 2,
    [PU_OP_qk_norm] = 5,      [PU_OP_rope] = 2,        [PU_OP_attention_paged] = 5, [PU_OP_swiglu] = 2,
    [PU_OP_moe_route] = 3,    [PU_OP_moe_mlp] = 11,    [PU_OP_top_logits] = 5,      [PU_OP_linear_swiglu] = 4,
    [PU_OP_adjust_logits] = 5};

static inline uint64_t mix(uint64_t h, uint64_t v) {
  h = (h ^ v) * 0x9e3779b97f4a7c15u;
  return h ^ h >> 29;
}

static uint64_t with_tensor(uint64_t h, const pu_tensor *t) {
  if (!t) return mix(h, 1);
  h = mix(h, (uintptr_t)t->data);
  h = mix(h, (uint64_t)t->dtype | (uint64_t)t->layout << 8 | (uint64_t)t->ndim << 16);
  for (int i = 0; i < t->ndim; i++) h = mix(mix(h, (uint64_t)t->shape[i]), (uint64_t)t->stride[i]);
  return h;
}

static uint64_t with_parts(uint64_t h, const pu_lora_args *a) {
  for (int i = 0; i < a->n; i++) {
    const pu_lora_part *p = &a->parts[i];
    h = with_tensor(with_tensor(h, p->a), p->b);
    h = mix(mix(mix(h, (uint64_t)p->row), (uint64_t)p->rows), (uint64_t)p->from);
  }
  return h;
}

bool pu_call_playable(pu_op op) {
  return tensors_of[op] > 0;
}

int pu_call_tensors(pu_op op) {
  return tensors_of[op];
}

uint64_t pu_call_hash(uint64_t before, pu_op op, const void *args) {
  const pu_tensor *const *t = args;
  uint64_t h = mix(before, (uint64_t)op + 1);
  for (int i = 0; i < tensors_of[op]; i++) h = with_tensor(h, t[i]);
  if (op == PU_OP_lora) h = with_parts(h, args);
  if (op != PU_OP_attention_paged) return h;
  const pu_kv *kv = ((const pu_attention_paged_args *)args)->kv;
  return mix(with_tensor(with_tensor(h, kv->k), kv->v), (uint64_t)kv->table_stride);
}

uint64_t pu_call_hash_bytes(uint64_t before, const void *place, size_t bytes) {
  return mix(mix(mix(before, PU_OP_COUNT + 1), (uintptr_t)place), bytes);
}
