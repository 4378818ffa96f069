/* w8a8: weights in int8, a scale for each row; activations are rounded to int8 as they come, a scale for each token.
 * What is hard to round in the activations, a few inputs far larger than the rest, is moved into the weights
 * (SmoothQuant, Xiao et al. 2022): input k is divided by most|x_k|^a / most|w_k|^(1 - a). The paper gives one a for a
 * model; here it is searched for each group of matrices. */
#include "src/engine/quantize/quantize.h"

#include <math.h>

static float greatest_weight(const pu_quant_fold *f, int64_t k) {
  float most = 0;
  for (size_t i = 0; i < f->n; i++) {
    const pu_quant_matrix *m = f->to + i * f->to_step;
    for (int64_t r = 0; r < m->rows; r++) most = fmaxf(most, fabsf(m->w[r * m->cols + k]));
  }
  return most;
}

static float greatest_input(const pu_quant_fold *f, int64_t k) {
  float most = 0;
  for (size_t i = 0; i < f->n; i++) most = fmaxf(most, f->to[i * f->to_step].in.most[k]);
  return most;
}

static void scales(const pu_quant_fold *f, double ratio, float *s) {
  for (int64_t k = 0; k < f->to->cols; k++) {
    double x = fmax((double)greatest_input(f, k), 1e-5), w = fmax((double)greatest_weight(f, k), 1e-5);
    s[k] = (float)fmin(fmax(pow(x, ratio) / pow(w, 1 - ratio), 1e-4), 1e4);
  }
}

static pu_err fold(pu_quant_layer *l, pu_error *e) {
  static const pu_quant_search how = {.steps = 10, .scales = scales, .int8_inputs = true};
  return pu_quant_fold_all(l, &how, e);
}

static pu_err quantise(pu_quant_layer *l, pu_quant_matrix *m, pu_error *e) {
  (void)e;
  pu_quant_round_all(l->m->be, m);
  return PU_OK;
}

const pu_quantizer pu_quantizer_w8a8 = {
    .is = {.name = "w8a8",
           .summary = "int8 for weights and activations; large activations move into the weights",
           .bits = 8,
           .needs_texts = true,
           .a_row = true},
    .needs = PU_NEEDS_INPUTS,
    .format = PU_QUANT_INT8,
    .fold = fold,
    .quantise = quantise};
