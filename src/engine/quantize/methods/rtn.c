/* rtn: each weight to the nearest value of its group. */
#include "src/engine/quantize/quantize.h"

static pu_err quantise(pu_quant_layer *l, pu_quant_matrix *m, pu_error *e) {
  (void)e;
  pu_quant_round_all(l->m->be, m);
  return PU_OK;
}

const pu_quantizer pu_quantizer_rtn = {.is = {.name = "rtn", .summary = "rounds each weight to the nearest value"},
                                       .format = PU_QUANT_GPTQ,
                                       .quantise = quantise};
