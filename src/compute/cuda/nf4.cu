/* Weights in NF4 (src/compute/nf4.c) as plain ones, at the speed of memory: a block of threads unpacks one group of
 * scales, 256 blocks of 64 values. Rounded as on the host, so that both devices compute with the same weights. */
#include "src/compute/cuda/cuda.h"

enum { BLOCK = PU_NF4_BLOCK, SCALES = PU_NF4_SCALES, THREADS = SCALES, AT_ONCE = 8 };

typedef struct nf4_weight {
  pu_nf4_parts at;
  const uint8_t *packed;
  int64_t n;
  pu_nf4_values values;
} nf4_weight;

template <typename T>
__global__ void __launch_bounds__(THREADS) plain_kernel(const __grid_constant__ nf4_weight w, T *out) {
  __shared__ float scale[SCALES], value[16];
  const int64_t block = (int64_t)blockIdx.x * SCALES + threadIdx.x, first = (int64_t)blockIdx.x * SCALES * BLOCK;
  const float step = ((const float *)(w.packed + w.at.step))[blockIdx.x], mean = *(const float *)(w.packed + w.at.mean);
  if (threadIdx.x < 16) value[threadIdx.x] = w.values.code[threadIdx.x];
  if (block < w.at.blocks)
    scale[threadIdx.x] = __fadd_rn(__fmul_rn(w.values.scale[w.packed[w.at.scale + block]], step), mean);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < BLOCK / AT_ONCE; k++) {
    const int place = (k * THREADS + (int)threadIdx.x) * AT_ONCE;
    const int64_t i = first + place;
    if (i >= w.n) return;
    const uint32_t codes = *(const uint32_t *)(w.packed + i / 2); /* sections end at 64 bytes */
    const float s = scale[place / BLOCK];
    pu_pack<T> to[AT_ONCE / pu_pack<T>::n];
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) /* the first of two in the high half of a byte */
      to[j / pu_pack<T>::n].v[j % pu_pack<T>::n] = from_f32<T>(__fmul_rn(value[codes >> (j ^ 1) * 4 & 15], s));
    if (i + AT_ONCE <= w.n) {
#pragma unroll
      for (int j = 0; j < AT_ONCE / pu_pack<T>::n; j++) ((pu_pack<T> *)(out + i))[j] = to[j];
    } else {
      for (int j = 0; i + j < w.n; j++) out[i + j] = to[j / pu_pack<T>::n].v[j % pu_pack<T>::n];
    }
  }
}

pu_err pu_cuda_nf4_plain(pu_cuda *d, const pu_tensor *w, void *out, pu_error *e) {
  nf4_weight k = {pu_nf4_parts_of(pu_tensor_count(w)), (const uint8_t *)w->data, pu_tensor_count(w)};
  pu_nf4_get_values(&k.values);
  if (k.n && w->dtype == PU_F32)
    plain_kernel<<<(unsigned)k.at.groups, THREADS, 0, d->stream>>>(k, (float *)out);
  else if (k.n)
    plain_kernel<<<(unsigned)k.at.groups, THREADS, 0, d->stream>>>(k, (bf16 *)out);
  return pu_cuda_launched("weights in NF4", e);
}
