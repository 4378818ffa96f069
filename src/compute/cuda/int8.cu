/* Weights in PU_LAYOUT_INT8 (W8A8): making them, and `linear` with them. Sums are exact, so any order gives the same
 * bits: on Hopper the kernel of int8_product.cu takes any number of rows; elsewhere cuBLASLt sums to int32, a strip of
 * rows at a time, and a second kernel scales. */
#include "src/compute/cuda/int8.h"
#include "src/compute/cuda/rows.h"

/* ---- rounding ------------------------------------------------------------------------------------------------------
 */

enum { THREADS = 512, HELD = 4 /* packs of eight values that a thread keeps from the search to the rounding */ };

__device__ static inline uint32_t larger(uint32_t most, uint4 v) {
  uint32_t a = __vmaxu2(v.x & 0x7fff7fffu, v.y & 0x7fff7fffu), b = __vmaxu2(v.z & 0x7fff7fffu, v.w & 0x7fff7fffu);
  return __vmaxu2(most, __vmaxu2(a, b));
}

__device__ static inline uint32_t two_codes(uint32_t pair, float by) {
  float low, high;
  two_f32(pair, &low, &high);
  int first = __float2int_rn(__fmul_rn(low, by)), second = __float2int_rn(__fmul_rn(high, by));
  return (uint32_t)(first & 0xff) | (uint32_t)(second & 0xff) << 8;
}

__device__ static inline uint2 codes_of(uint4 v, float by) {
  return make_uint2(two_codes(v.x, by) | two_codes(v.y, by) << 16, two_codes(v.z, by) | two_codes(v.w, by) << 16);
}

/* Of all threads, as the bits of an f32. */
__device__ static inline float block_most(uint32_t most, uint32_t *room) {
  most = __reduce_max_sync(0xffffffffu, max(most << 16, most & 0xffff0000u));
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = most;
  __syncthreads();
  most = __reduce_max_sync(0xffffffffu, threadIdx.x % 32 < THREADS / 32 ? room[threadIdx.x % 32] : 0);
  return __uint_as_float(most);
}

/* A block a row. What is not finite has codes without meaning, and NaN as its scale. */
__global__ void __launch_bounds__(THREADS)
    round_rows(const bf16 *from, int64_t step, int packs, int8_t *codes, float *scale) {
  __shared__ uint32_t room[THREADS / 32];
  const uint4 *row = (const uint4 *)(from + (int64_t)blockIdx.x * step);
  uint2 *to = (uint2 *)(codes + (int64_t)blockIdx.x * packs * 8);
  uint4 held[HELD];
  uint32_t most = 0;
  let_next_start();
  wait_for_before();
#pragma unroll
  for (int i = 0; i < HELD; i++) {
    int at = i * THREADS + (int)threadIdx.x;
    held[i] = at < packs ? row[at] : make_uint4(0, 0, 0, 0);
    most = larger(most, held[i]);
  }
  for (int at = HELD * THREADS + (int)threadIdx.x; at < packs; at += THREADS) most = larger(most, row[at]);
  float m = block_most(most, room), s = __fmul_rn(fmaxf(m, 0x1p-100f), 1.0f / 127), by = __frcp_rn(s);
  if (threadIdx.x == 0) scale[blockIdx.x] = m < INFINITY ? s : NAN;
#pragma unroll
  for (int i = 0; i < HELD; i++) {
    int at = i * THREADS + (int)threadIdx.x;
    if (at < packs) to[at] = codes_of(held[i], by);
  }
  for (int at = HELD * THREADS + (int)threadIdx.x; at < packs; at += THREADS) to[at] = codes_of(row[at], by);
}

static float *scales_behind(const void *codes, int64_t rows, int64_t cols) {
  return (float *)((char *)codes + pu_fp8_codes_bytes(rows, cols));
}

static pu_err to_codes(pu_cuda *d, const pu_tensor *t, void *memory, pu_cuda_coded *out, pu_error *e) {
  int64_t rows = t->shape[0], cols = t->shape[1];
  float *scale = scales_behind(memory, rows, cols);
  *out = {(int8_t *)memory, scale, rows, cols};
  pu_cuda_start(d, rows <= PU_CUDA_SHORT_ROWS, round_rows, dim3((unsigned)rows), dim3(THREADS), 0,
                (const bf16 *)t->data, t->stride[0], (int)(cols / 8), (int8_t *)memory, scale);
  return pu_cuda_launched("rounding rows to int8", e);
}

/* Ends with what is no kernel: see pu_cuda_int8_product. */
pu_err pu_cuda_int8_weight(pu_cuda *d, const pu_tensor *w, pu_tensor *out, pu_error *e) {
  pu_cuda_coded coded;
  void *room;
  if (w->shape[0] == 0) return PU_OK;
  PU_TRY(pu_cuda_work(d, 64, &room, e));
  PU_TRY(to_codes(d, w, out->data, &coded, e));
  return d->base.clear(&d->base, room, 64, e);
}

/* ---- where there is no own kernel ---- */

enum { STRIP = 1024 /* rows whose sums are there at once */, SCALE_THREADS = 256 };

typedef struct scaling {
  const int32_t *sums;    /* [rows, cols] */
  const float *row, *col; /* scales */
  const void *bias;
  void *y;
  int64_t y_step, cols, count;
  bool bias_f32;
} scaling;

template <typename Y> __global__ void scale_sums(const scaling s) {
  int64_t i = (int64_t)blockIdx.x * SCALE_THREADS + threadIdx.x, row = i / s.cols, col = i % s.cols;
  if (i >= s.count) return;
  float v = __fmul_rn(__fmul_rn((float)s.sums[i], s.row[row]), s.col[col]);
  if (s.bias) v = __fadd_rn(v, s.bias_f32 ? ((const float *)s.bias)[col] : to_f32(((const bf16 *)s.bias)[col]));
  ((Y *)s.y)[row * s.y_step + col] = from_f32<Y>(v);
}

static pu_err multiply_strip(pu_cuda *d, const pu_cuda_coded *x, const pu_cuda_coded *w, int32_t *sums,
                             const pu_linear_args *a, int64_t first, pu_error *e) {
  pu_cuda_product p = {};
  p.a = x->codes + first * x->cols, p.b = w->codes, p.y = sums;
  p.rows = PU_MIN(x->rows - first, (int64_t)STRIP), p.cols = w->rows, p.inner = x->cols;
  p.a_step = p.b_step = x->cols, p.y_step = w->rows;
  p.y_type = PU_I32, p.int8 = true;
  PU_TRY(pu_cuda_multiply(d, &p, e));
  scaling s = {sums, x->scale + first, w->scale};
  s.y_step = a->y->stride[0], s.cols = p.cols, s.count = p.rows * p.cols;
  s.y = (char *)a->y->data + (size_t)(first * s.y_step) * pu_dtype_size(a->y->dtype);
  if (a->b) s.bias = a->b->data, s.bias_f32 = a->b->dtype == PU_F32;
  unsigned blocks = (unsigned)ceil_div(s.count, SCALE_THREADS);
  if (a->y->dtype == PU_F32)
    scale_sums<float><<<blocks, SCALE_THREADS, 0, d->stream>>>(s);
  else
    scale_sums<bf16><<<blocks, SCALE_THREADS, 0, d->stream>>>(s);
  return pu_cuda_launched("scaling sums", e);
}

/* ---- linear ---- */

static size_t coded_bytes(int64_t rows, int64_t cols) {
  return (pu_fp8_codes_bytes(rows, cols) + (size_t)rows * sizeof(float) + 255) / 256 * 256;
}

/* Of products with weights of so many rows. */
static size_t sums_bytes(const pu_cuda *d, int64_t tokens, int64_t rows) {
  return pu_cuda_has_int8_product(d) ? 0 : (size_t)(PU_MIN(tokens, (int64_t)STRIP) * rows) * sizeof(int32_t);
}

pu_err pu_cuda_int8_linear(pu_cuda *d, const pu_linear_args *a, pu_error *e) {
  int64_t n = a->x->shape[0], k = a->x->shape[1], m = a->w->shape[0];
  pu_cuda_coded x, w = {(const int8_t *)a->w->data, scales_behind(a->w->data, m, k), m, k};
  void *work;
  if (n == 0 || m == 0) return PU_OK;
  PU_TRY(pu_cuda_work(d, coded_bytes(n, k) + sums_bytes(d, n, m), &work, e));
  PU_TRY(to_codes(d, a->x, work, &x, e));
  if (pu_cuda_has_int8_product(d)) return pu_cuda_int8_product(d, &x, &w, a->b, a->y, e);
  int32_t *sums = (int32_t *)((char *)work + coded_bytes(n, k));
  for (int64_t first = 0; first < n; first += STRIP) PU_TRY(multiply_strip(d, &x, &w, sums, a, first, e));
  return PU_OK;
}
