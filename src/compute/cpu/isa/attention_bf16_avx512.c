/* Attention with AVX-512 on bf16 tiles (vdpbf16ps), where there is no AMX. */
#define PU_TILE_BF16 1
/* In this order: each stands on the one before. */
#include "src/compute/cpu/isa/vec16_avx512.h"

#include "src/compute/cpu/isa/tile_product.h"

#include "src/compute/cpu/isa/attention_body.h"

PU_ATTENTION_KERNEL(pu_attention_avx512_bf16);
