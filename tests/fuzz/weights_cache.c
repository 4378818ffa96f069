/* The first byte chooses a model that is not filled yet, the rest is a file of --weights-cache for it: what is taken of
 * it lies in it wholly. Key and counts of the head are set right, unless the byte says not to, so that the rest is
 * reached. */
#include <stdlib.h>
#include <string.h>

#include "src/model/weights.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MODELS = 3, KEY = 12345, HEAD_WORDS = 5, PAGE = 4096 };

static void must(bool good) {
  if (!good) abort();
}

static volatile uint64_t sink;

/* Tiled with an output that is the embedding's copy; in few bits; and with an order of inputs. */
static pu_model *make_model(pu_backend *be, int which) {
  static const pu_hparams hp = {.vocab = 20,
                                .hidden = 32,
                                .ffn = 48,
                                .layers = 1,
                                .heads = 2,
                                .kv_heads = 1,
                                .head_dim = 16,
                                .max_position = 64,
                                .norm_eps = 1e-5,
                                .rope = {.base = 1e4, .factor = 1}};
  static const pu_quant quants[MODELS] = {PU_QUANT_NONE, PU_QUANT_Q4, PU_QUANT_Q8};
  pu_hparams own = hp;
  pu_forms forms;
  pu_model *m;
  pu_model_options o = {.dtype = which ? PU_F32 : PU_BF16, .tile = true, .quant = quants[which]};
  own.tied = which < 2;
  must(pu_forms_init(&forms, &own, &o, NULL) == PU_OK);
  for (int s = 0; which == 2 && s < PU_SLOT_COUNT; s++) {
    pu_packing *p = &pu_form_of(&forms, (pu_slot)s, 0)->packing;
    p->ordered = p->bits > 0;
  }
  must(pu_model_new(pu_arch_find("llama"), &own, be, &o, &forms, &m, NULL) == PU_OK);
  pu_forms_deinit(&forms);
  return m;
}

static const pu_model *model_of(int which) {
  static pu_model *models[MODELS];
  static pu_backend *be;
  if (!be) must(pu_cpu_open(1, PU_ISA_REF, &be, NULL) == PU_OK);
  if (!models[which]) models[which] = make_model(be, which);
  return models[which];
}

/* {magic, key, bytes, n, sum}. */
static void set_head(const pu_model *m, char *file, size_t len) {
  size_t n = m->n_params + 1, at = (HEAD_WORDS * 8 + n * 16 + PAGE - 1) / PAGE * PAGE;
  const uint64_t words[] = {KEY, len > at ? len - at : 0, n};
  if (len < HEAD_WORDS * 8) return;
  memcpy(file, "puyu-wts", 8);
  memcpy(file + 8, words, sizeof words);
}

static void read_all(const pu_tensor *w, const pu_kept *kept) {
  pu_tensor as = *w;
  uint64_t sum = 0;
  as.layout = kept->layout;
  size_t bytes = pu_weight_bytes(&as);
  for (size_t i = 0; i < bytes; i++) sum += ((const uint8_t *)kept->data)[i];
  sink = sink + sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  pu_kept kept[32];
  if (size < 1) return 0;
  const pu_model *m = model_of(data[0] % MODELS);
  must(m->n_params < PU_COUNT(kept));
  char *file = malloc(size); /* so that reading past the end is seen */
  must(file != NULL);
  memcpy(file, data + 1, size - 1);
  if (data[0] < 128) set_head(m, file, size - 1);
  const char *why = pu_weights_cache_parse(pu_str_of(file, size - 1), KEY, m, kept);
  for (size_t i = 0; !why && i < m->n_params; i++) {
    must(kept[i].data != NULL);
    read_all(m->params[i].w, &kept[i]);
  }
  must(why || !kept[m->n_params].data == !m->hp.tied);
  if (!why && m->hp.tied) read_all(m->outer[PU_SLOT_OUTPUT], &kept[m->n_params]);
  free(file);
  return 0;
}
