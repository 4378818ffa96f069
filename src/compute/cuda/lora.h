/* Between lora.cu and lora_cluster.cu, the forward pass on clusters of blocks. */
#ifndef PUYU_CUDA_LORA_H
#define PUYU_CUDA_LORA_H

#include "src/compute/cuda/cuda.h"

/* Whether lora_cluster.cu takes this part: that depends on the device, on the adapter and on how everything lies, not
 * on how many rows there are. */
bool pu_cuda_lora_clusters(const pu_cuda *d, const pu_lora_args *l, const pu_lora_part *p);
/* y += scale (x a^T) b^T for all parts that it takes. With many rows it takes work memory. */
pu_err pu_cuda_lora_in_clusters(pu_cuda *d, const pu_lora_args *l, pu_error *e) PU_MUST_USE;

#endif
