/* The files of operations, each once. */
#ifndef PUYU_CUDA_USE_H
#define PUYU_CUDA_USE_H

#include "src/compute/cuda/cuda.h"

void pu_cuda_use_adamw(pu_cuda *d); /* and sum_squares */
void pu_cuda_use_attention(pu_cuda *d);
void pu_cuda_use_embedding(pu_cuda *d);
void pu_cuda_use_graphs(pu_cuda *d);                         /* record and play */
pu_err pu_cuda_use_fp8(pu_cuda *d, pu_error *e) PU_MUST_USE; /* linear_fp8 and mlp_fp8: once the device is known */
void pu_cuda_use_linear(pu_cuda *d);
void pu_cuda_use_lora(pu_cuda *d);
void pu_cuda_use_loss(pu_cuda *d);
void pu_cuda_use_moe(pu_cuda *d);
void pu_cuda_use_norm(pu_cuda *d); /* rmsnorm_add and qk_norm */
void pu_cuda_use_packed(pu_cuda *d);
void pu_cuda_use_paged(pu_cuda *d);
void pu_cuda_use_rope(pu_cuda *d);
void pu_cuda_use_swiglu(pu_cuda *d);
void pu_cuda_use_top(pu_cuda *d);

extern "C" pu_err pu_cuda_facts(const pu_backend *be, pu_buf *out, pu_error *e);

/* What they keep in the backend. */
pu_err pu_cuda_attention_open(pu_cuda *d, pu_error *e) PU_MUST_USE;
void pu_cuda_graphs_close(pu_cuda *d);
void pu_cuda_linear_close(pu_cuda *d);
void pu_cuda_skinny_close(pu_cuda *d);
void pu_cuda_attention_close(pu_cuda *d);
void pu_cuda_fp8_close(pu_cuda *d);
/* What they take of the shared work memory at most, for a step of that shape. */
size_t pu_cuda_embedding_work_bytes(const pu_work_shape *s);
size_t pu_cuda_fp8_work_bytes(const pu_work_shape *s);
size_t pu_cuda_norm_work_bytes(const pu_cuda *d, const pu_work_shape *s);
size_t pu_cuda_attention_work_bytes(const pu_cuda *d, const pu_work_shape *s);
size_t pu_cuda_lora_work_bytes(const pu_work_shape *s);
size_t pu_cuda_moe_work_bytes(const pu_work_shape *s);

#endif
