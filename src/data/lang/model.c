#include "src/data/lang/model.h"

#include <pthread.h>

#include "src/data/lang/model.inc"

_Static_assert((int)LANG_ALL_ROWS < (int)LANG_ROWS && (int)LANG_ROWS < 65536, "rows fit what counts them");
static int8_t rows[LANG_ROWS][LANG_MOST];
static uint16_t row_of[LANG_MODELS][LANG_KEYS];
static lang_model models[LANG_MODELS];
static pthread_once_t made = PTHREAD_ONCE_INIT;

static void unpack(const lang_packed *p, const lang_model *m, uint16_t *of, const int *value) {
  size_t width = LANG_KEY_CHARS + m->n_names;
  for (size_t r = 0; r < m->n_rows; r++) {
    const char *row = p->rows + r * width;
    uint32_t key = 0;
    for (int i = 0; i < LANG_KEY_CHARS; i++) key = key << 6 | (uint32_t)value[(uint8_t)row[i]];
    for (size_t l = 0; l < m->n_names; l++)
      rows[m->first + r][l] = (int8_t)(value[(uint8_t)row[LANG_KEY_CHARS + l]] - LANG_ZERO);
    of[key] = (uint16_t)(m->first + r);
  }
}

static void make_models(void) {
  int value[256] = {0};
  for (int i = 0; i < LANG_SYMBOLS; i++) value[(uint8_t)lang_symbol(i)] = i;
  size_t first = 1;
  for (int s = 0; s < LANG_MODELS; s++) {
    const lang_packed *p = &packed[s];
    lang_model *m = &models[s];
    *m = (lang_model){.names = p->names, .first = first, .n_rows = p->n_rows, .scale = p->scale, .bias = p->bias};
    m->rows = (const int8_t(*)[LANG_MOST])rows;
    m->row_of = row_of[s];
    while (p->names && p->names[m->n_names]) m->n_names++;
    unpack(p, m, row_of[s], value);
    first += m->n_rows;
  }
}

const lang_model *lang_model_of(lang_script s) {
  pthread_once(&made, make_models);
  return &models[s];
}

void lang_probabilities(const lang_model *m, const int64_t *sums, size_t n, double *out) {
  double top = -INFINITY, all = 0, each = (double)m->scale * lang_trust(n) / (double)n;
  for (size_t l = 0; l < m->n_names; l++) {
    out[l] = (double)m->bias[l] + each * (double)sums[l];
    top = PU_MAX(top, out[l]);
  }
  for (size_t l = 0; l < m->n_names; l++) all += out[l] = exp(out[l] - top);
  for (size_t l = 0; l < m->n_names; l++) out[l] /= all;
}
