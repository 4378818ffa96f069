/* The plain references: one forward and one backward for each row of puyu/ops.def. They are what every faster version
 * is tested against, and what runs where there is none. */
#ifndef PUYU_REF_H
#define PUYU_REF_H

#include "src/compute/cpu/cpu.h"

#define PU_REF_BACK_0(name)
#define PU_REF_BACK_1(name) pu_err pu_ref_##name##_back(pu_backend *be, void *args, pu_error *e);
#define PU_OP(name, has_backward)                                                                                      \
  pu_err pu_ref_##name(pu_backend *be, void *args, pu_error *e);                                                       \
  PU_REF_BACK_##has_backward(name)
#include "puyu/ops.def"
#undef PU_OP
#undef PU_REF_BACK_0
#undef PU_REF_BACK_1

/* The work memory that moe_mlp and lora take in backward. */
size_t pu_ref_moe_work_bytes(const pu_work_shape *s);
size_t pu_ref_lora_work_bytes(const pu_work_shape *s);
/* linear_fp8's and mlp_fp8's. */
size_t pu_ref_fp8_work_bytes(const pu_work_shape *s);

/* Weights in PU_LAYOUT_FP8: making one, and linear with it. */
void pu_ref_fp8_weight(const pu_tensor *w, pu_tensor *out);
pu_err pu_ref_linear_of_fp8(pu_cpu *cpu, const pu_linear_args *a, pu_error *e);
/* The same of PU_LAYOUT_INT8. */
void pu_ref_int8_weight(pu_cpu *cpu, const pu_tensor *w, pu_tensor *out);
pu_err pu_ref_linear_of_int8(pu_cpu *cpu, const pu_linear_args *a, pu_error *e);

/* Makes q and k ready, in place; from then on the call has nothing of that. */
pu_err pu_ref_qk_ready(pu_backend *be, pu_attention_paged_args *a, pu_error *e);

/* db = column sums of dy. */
void pu_ref_bias_back(pu_cpu *cpu, const pu_tensor *dy, pu_tensor *b);

#endif
