#include "src/compute/cuda/use.h"

void pu_cuda_use_packed(pu_cuda *d) {
  (void)d;
}
