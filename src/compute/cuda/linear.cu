#include "src/compute/cuda/use.h"

void pu_cuda_use_linear(pu_cuda *d) {
  (void)d;
}

void pu_cuda_linear_close(pu_cuda *d) {
  (void)d;
}

pu_err pu_cuda_multiply(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  (void)d;
  (void)p;
  return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: products come next");
}
