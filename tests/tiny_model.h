/* The sizes of the small model that tests make from random weights. */
#ifndef PUYU_TEST_TINY_MODEL_H
#define PUYU_TEST_TINY_MODEL_H

#include "puyu/model.h"

static inline pu_hparams pu_test_hparams(int64_t vocab, int64_t max_position) {
  return (pu_hparams){.vocab = vocab,
                      .hidden = 64,
                      .ffn = 96,
                      .layers = 2,
                      .heads = 4,
                      .kv_heads = 2,
                      .head_dim = 16,
                      .max_position = max_position,
                      .norm_eps = 1e-5,
                      .rope = {.base = 1e4, .factor = 1}};
}

#endif
