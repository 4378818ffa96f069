/* Any bytes as a GGUF file: what is accepted may be read to its last byte, and described; its blocks give values. */
#include <stdlib.h>
#include <string.h>

#include "src/model/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile double sink;

static void read_keys(const pu_gguf *g) {
  for (size_t i = 0; i < pu_gguf_meta_count(g); i++) {
    const pu_gguf_meta *m = pu_gguf_meta_at(g, i);
    if (pu_gguf_meta_find(g, m->key) != m) abort();
    size_t at = 0, n = 0;
    double v;
    for (pu_str s; pu_gguf_str(m, &at, &s); n++) sink = sink + (s.len ? s.ptr[s.len - 1] : 0);
    for (size_t k = 0; pu_gguf_num(m, k, &v); k++, n++) sink = sink + v;
    if (n > m->count) abort();
  }
}

static void read_tensors(const pu_gguf *g) {
  static float values[PU_GGUF_PIECE];
  for (size_t i = 0; i < pu_gguf_count(g); i++) {
    const pu_gguf_tensor *t = pu_gguf_at(g, i);
    if (pu_gguf_find(g, t->name) != t) abort();
    if (t->bytes) sink = sink + ((const uint8_t *)t->data)[t->bytes - 1];
    int64_t n = t->bytes ? (int64_t)(t->bytes / t->type->bytes) * t->type->block : 0;
    if (pu_gguf_readable(t->type)) pu_gguf_to_f32(t->type, t->data, PU_MIN(n, (int64_t)PU_GGUF_PIECE), values);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *copy = malloc(size ? size : 1); /* so that reading past the end is seen */
  if (!copy) return 0;
  if (size) memcpy(copy, data, size);
  pu_gguf *g;
  pu_error e;
  if (pu_gguf_parse(pu_str_of(copy, size), &g, &e) == PU_OK) {
    const pu_arch *arch;
    pu_hparams hp;
    read_keys(g);
    read_tensors(g);
    if (pu_gguf_describe(g, "fuzz", &arch, &hp, &e) == PU_OK && pu_hparams_count(&hp, false) <= 0) abort();
    pu_gguf_close(g);
  }
  free(copy);
  return 0;
}
