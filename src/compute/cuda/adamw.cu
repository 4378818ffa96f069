#include "src/compute/cuda/use.h"

void pu_cuda_use_adamw(pu_cuda *d) {
  (void)d;
}
