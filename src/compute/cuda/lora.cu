#include "src/compute/cuda/use.h"

void pu_cuda_use_lora(pu_cuda *d) {
  (void)d;
}

size_t pu_cuda_lora_work_bytes(const pu_work_shape *s) {
  (void)s;
  return 0;
}
