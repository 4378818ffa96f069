/* Inside engine: making weights of few bits, layer by layer.
 *
 * run.c reads a layer, lets the calibration's hidden states pass through it while inputs.c watches what its matrices
 * are given, hands it to a method, and lets the hidden states pass once more, through the quantised weights: so that
 * the next layer is calibrated on what it will be given. A method is one file in methods/ that defines one
 * pu_quantizer.
 *
 * Everything lies in the memory of the cpu backend, which is host memory. */
#ifndef PUYU_ENGINE_QUANTIZE_H
#define PUYU_ENGINE_QUANTIZE_H

#include "puyu/engine.h"

/* ---- what is known of a matrix's inputs ---- */

enum {
  PU_QUANT_SAMPLE = 512, /* inputs kept at most */
  PU_QUANT_MAX_GROUP = 128,

  PU_NEEDS_INPUTS = 1,  /* what a method asks for: mean, greatest value and sample of inputs */
  PU_NEEDS_HESSIAN = 2, /* and their Hessian */
};

typedef struct pu_quant_inputs {
  int64_t cols, seen;
  double *sum;   /* [cols] of |x| */
  float *most;   /* [cols] greatest |x| */
  float *sample; /* [PU_QUANT_SAMPLE, cols] every step-th input */
  int64_t sampled, step;
  float *hessian; /* [cols, cols] sum of x^T x; NULL: not asked for */
} pu_quant_inputs;

pu_err pu_quant_inputs_init(pu_quant_inputs *in, int64_t cols, bool hessian, pu_error *e) PU_MUST_USE;
void pu_quant_inputs_deinit(pu_quant_inputs *in); /* of all zeros: fine */
/* x: [n, cols] f32 or bf16, contiguous. */
void pu_quant_inputs_add(pu_quant_inputs *in, pu_ctx *c, const pu_tensor *x);
/* From now on the inputs are x[k] / s[k]. */
void pu_quant_inputs_divide(pu_quant_inputs *in, pu_backend *be, const float *s);

/* ---- a layer's matrices ---- */

/* Rows of a parameter that have inputs of their own: all of it, or one expert. */
typedef struct pu_quant_matrix {
  pu_slot slot;
  int64_t expert; /* -1: none */
  int64_t rows, cols;
  float *w;     /* [rows, cols] as the method leaves them; folding changes them */
  pu_qmatrix q; /* a view of the parameter's: what the method fills */
  pu_quant_inputs in;
} pu_quant_matrix;

typedef struct pu_quant_layer {
  pu_model *m; /* all of it, or this layer alone */
  int64_t layer;
  const pu_quantize_options *o;
  pu_dtype file_type; /* what norms are written as */
  pu_quant_matrix *v; /* qkv, wo, and gate_up, down (of each expert) */
  size_t n;
  pu_qmatrix *q; /* [m->n_params] as pu_model_save_quantised takes them */
} pu_quant_layer;

/* The layer's matrices as f32, with room for their statistics and results. */
pu_err pu_quant_layer_open(pu_model *m, int64_t layer, const pu_quantize_options *o, unsigned needs,
                           pu_quant_layer *out, pu_error *e) PU_MUST_USE;
void pu_quant_layer_close(pu_quant_layer *l); /* of all zeros: fine */
/* An observer of forward passes (arg: the layer) that fills the statistics. */
void pu_quant_layer_see(void *layer, pu_ctx *c, int64_t index, pu_slot slot, const pu_tensor *x, const pu_tensor *idx);
/* The quantised values become the model's weights. */
void pu_quant_layer_put(pu_quant_layer *l);
pu_quant_matrix *pu_quant_layer_find(pu_quant_layer *l, pu_slot slot, int64_t expert); /* NULL: none */

/* ---- methods ---- */

typedef struct pu_quantizer {
  pu_quantize_method is;
  unsigned needs;
  pu_quant_format format; /* of its files */
  /* Moves scales between the layer's matrices and norms; may be NULL. */
  pu_err (*fold)(pu_quant_layer *l, pu_error *e);
  /* Fills m->q from m->w. */
  pu_err (*quantise)(pu_quant_layer *l, pu_quant_matrix *m, pu_error *e);
} pu_quantizer;

extern const pu_quantizer *const pu_quantizer_all[];     /* made by CMake from methods/, NULL-ended */
const pu_quantizer *pu_quantizer_find(const char *name); /* NULL: unknown */

/* ---- tools of methods ---- */

/* y[n, m] = x[n, k] w[m, k]^T, all f32; rows x_step and w_step apart. */
pu_err pu_quant_product(pu_backend *be, const float *x, int64_t n, int64_t x_step, const float *w, int64_t m,
                        int64_t w_step, int64_t k, float *y, pu_error *e) PU_MUST_USE;
/* Every row to nearest. */
void pu_quant_round_all(pu_backend *be, pu_quant_matrix *m);
/* Of the sample: sum of |(w' - w) x|^2, w' being m->q, and of |w x|^2. */
typedef struct pu_quant_loss {
  double error, size;
} pu_quant_loss;
pu_err pu_quant_measure(pu_backend *be, const pu_quant_matrix *m, pu_quant_loss *out, pu_error *e) PU_MUST_USE;
/* gptq of one matrix; act_order: inputs by what they carry, else as they stand. */
pu_err pu_gptq_quantise(pu_backend *be, pu_quant_matrix *m, bool act_order, pu_error *e) PU_MUST_USE;

/* Column k of the matrices `to` may be multiplied by s[k] if what makes their input k is divided by it: the norm, or
 * row `row + k` of a matrix (with its bias). */
typedef struct pu_quant_fold {
  pu_tensor *norm; /* f32 [K]; or NULL: */
  pu_quant_matrix *from;
  int64_t row;
  pu_tensor *bias;     /* f32, by rows of the parameter; NULL: none */
  pu_quant_matrix *to; /* n of them, `to_step` apart in the layer's list, all with the same inputs' sizes */
  size_t n, to_step;
  pu_tensor *router; /* f32 [E, K], multiplied along; NULL: none */
} pu_quant_fold;

/* How scales are chosen: of a grid of ratios the one with the least error of the products' results. */
typedef struct pu_quant_search {
  int steps; /* ratios i / steps */
  void (*scales)(const pu_quant_fold *f, double ratio, float *s);
  bool int8_inputs; /* inputs are rounded to int8, a scale for each token */
} pu_quant_search;
/* Searches and folds, for all places of the layer where that leaves what it computes as it is. */
pu_err pu_quant_fold_all(pu_quant_layer *l, const pu_quant_search *how, pu_error *e) PU_MUST_USE;
/* Folds these scales; a norm is rounded to the files' type, and s becomes what it was really divided by. */
void pu_quant_fold_apply(pu_quant_layer *l, const pu_quant_fold *f, float *s);
/* The places: at most PU_QUANT_FOLDS + one an expert, written to out. */
enum { PU_QUANT_FOLDS = 4 };
size_t pu_quant_fold_list(pu_quant_layer *l, pu_quant_fold *out);

#endif
