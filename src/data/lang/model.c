#include "src/data/lang/model.h"

#include <math.h>
#include <pthread.h>

#include "src/data/lang/model.inc"

enum { MOST_ROWS = 8191 }; /* what a slot can name */
_Static_assert(LANG_ALL_ROWS <= 65536 && LANG_KEY_BITS + 13 < 32, "model.inc fits the tables below");
static int8_t rows[LANG_ALL_ROWS][LANG_MOST];
static uint32_t slots[4 * LANG_ALL_ROWS + 2 * LANG_MODELS]; /* a power of two of at least twice a model's rows, each */
static lang_model models[LANG_MODELS];
static pthread_once_t made = PTHREAD_ONCE_INIT;

static void unpack(const lang_packed *p, lang_model *m, int8_t (*to)[LANG_MOST], uint32_t *slot, const int *value) {
  size_t width = LANG_KEY_CHARS + m->n_names;
  for (size_t r = 0; r < m->n_rows; r++) {
    const char *row = p->rows + r * width;
    uint32_t key = 0;
    for (int i = 0; i < LANG_KEY_CHARS; i++) key = key << 6 | (uint32_t)value[(uint8_t)row[i]];
    for (size_t l = 0; l < m->n_names; l++) to[r][l] = (int8_t)(value[(uint8_t)row[LANG_KEY_CHARS + l]] - LANG_ZERO);
    uint32_t i = key & m->mask;
    while (slot[i]) i = (i + 1) & m->mask;
    slot[i] = key << 13 | ((uint32_t)r + 1);
  }
}

static void make_models(void) {
  int value[256] = {0};
  for (int i = 0; i < LANG_SYMBOLS; i++) value[(uint8_t)lang_symbol(i)] = i;
  size_t row = 0, slot = 0;
  for (int s = 0; s < LANG_MODELS; s++) {
    const lang_packed *p = &packed[s];
    lang_model *m = &models[s];
    *m = (lang_model){.names = p->names, .n_rows = p->n_rows, .scale = p->scale, .bias = p->bias};
    while (p->names && p->names[m->n_names]) m->n_names++;
    uint32_t size = 2;
    while (size < 2 * m->n_rows) size *= 2;
    m->mask = size - 1;
    m->rows = (const int8_t(*)[LANG_MOST])(rows + row);
    m->slots = slots + slot;
    unpack(p, m, rows + row, slots + slot, value);
    row += m->n_rows;
    slot += size;
  }
}

const lang_model *lang_model_of(lang_script s) {
  pthread_once(&made, make_models);
  return &models[s];
}

void lang_probabilities(const lang_model *m, const int64_t *sums, size_t n, double *out) {
  double top = -INFINITY, all = 0;
  for (size_t l = 0; l < m->n_names; l++) {
    out[l] = (double)m->bias[l] + (double)m->scale * (double)sums[l] / (double)n;
    top = PU_MAX(top, out[l]);
  }
  for (size_t l = 0; l < m->n_names; l++) all += out[l] = exp(out[l] - top);
  for (size_t l = 0; l < m->n_names; l++) out[l] /= all;
}
