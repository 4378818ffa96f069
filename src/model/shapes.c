/* Named shapes: the published InternLM models, and small ones for training on a desk. */
#include "puyu/model.h"

#include <string.h>

#define SIZES(v, c, f, l, h, kv, d, max)                                                                               \
  .vocab = (v), .hidden = (c), .ffn = (f), .layers = (l), .heads = (h), .kv_heads = (kv), .head_dim = (d),             \
  .max_position = (max), .norm_eps = 1e-5, .bos = 1, .eos = {2}, .n_eos = 1
#define ROPE(theta)            .rope = {.base = (theta), .factor = 1.0}
#define DYNAMIC(theta, f, max) .rope = {.kind = PU_ROPE_DYNAMIC, .base = (theta), .factor = (f), .original_max = (max)}

/* The small shapes have 2, 25 and 120 million parameters besides the embedding, which is tied: in models of this size
 * a second vocabulary matrix would weigh as much as the blocks. */
static const pu_shape shapes[] = {
    {"puyu-2m", "internlm2", {SIZES(4096, 192, 512, 5, 6, 2, 32, 2048), ROPE(1e4), .tied = true}},
    {"puyu-25m", "internlm2", {SIZES(16384, 512, 1536, 8, 8, 4, 64, 2048), ROPE(1e4), .tied = true}},
    {"puyu-120m", "internlm2", {SIZES(32768, 768, 2560, 16, 12, 4, 64, 4096), ROPE(1e5), .tied = true}},
    {"internlm2-1.8b", "internlm2", {SIZES(92544, 2048, 8192, 24, 16, 8, 128, 32768), DYNAMIC(1e6, 2.0, 32768)}},
    {"internlm2-7b", "internlm2", {SIZES(92544, 4096, 14336, 32, 32, 8, 128, 32768), DYNAMIC(1e6, 2.0, 32768)}},
    {"internlm2-20b", "internlm2", {SIZES(92544, 6144, 16384, 48, 48, 8, 128, 32768), DYNAMIC(1e6, 2.0, 32768)}},
    {"internlm-7b",
     "internlm",
     {SIZES(103168, 4096, 11008, 32, 32, 32, 128, 2048), ROPE(1e4), .qkv_bias = true, .o_bias = true}},
    {"internlm3-8b", "internlm3", {SIZES(128512, 4096, 10240, 48, 32, 2, 128, 32768), DYNAMIC(5e7, 6.0, 32768)}},
};

const pu_shape *pu_shape_at(size_t i) {
  return i < PU_COUNT(shapes) ? &shapes[i] : NULL;
}

const pu_shape *pu_shape_find(const char *name) {
  for (size_t i = 0; name && i < PU_COUNT(shapes); i++)
    if (strcmp(shapes[i].name, name) == 0) return &shapes[i];
  return NULL;
}
