/* Attention with AVX2 and FMA; bf16 is widened to f32 as it is packed. */
#define PU_TILE_BF16 0
/* In this order: each stands on the one before. */
#include "src/compute/cpu/isa/vec16_avx2.h"

#include "src/compute/cpu/isa/tile_product.h"

#include "src/compute/cpu/isa/attention_body.h"

PU_ATTENTION_KERNEL(pu_attention_avx2);
