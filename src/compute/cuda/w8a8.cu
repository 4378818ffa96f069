/* Weights in PU_LAYOUT_FP8 and PU_LAYOUT_INT8 (W8A8): making them, and `linear` with them. x is rounded, a scale a row,
 * then multiplied. FP8's products are product.cu's; of FP8 with a scale for each block, own kernels' on Hopper
 * (skinny.cu, codes_product.cu), elsewhere a plain one's. Sums of int8 are exact, so any order gives the same bits: on
 * Hopper own kernels take any number of rows (skinny.cu, codes_product.cu); elsewhere, and where y's rows do not begin
 * at multiples of 16 bytes, cuBLASLt sums to int32, a strip of rows at a time, and a second kernel scales. */
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/w8a8.h"
#include "src/compute/cuda/wgmma.h"

#include <cuda_fp8.h>

/* ---- rounding ---- */

enum { THREADS = 512, HELD = 4 /* packs of eight values that a thread keeps from the search to the rounding */ };

/* Two codes; the largest magnitude of a code. */
__device__ static inline uint32_t two_codes(int8_t, float low, float high) {
  return (uint32_t)(__float2int_rn(low) & 0xff) | (uint32_t)(__float2int_rn(high) & 0xff) << 8;
}
__device__ static inline uint32_t two_codes(e4m3, float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}
template <typename V> constexpr float LARGEST = 127;
template <> constexpr float LARGEST<e4m3> = 448;

template <typename V> __device__ static inline uint32_t two_codes(uint32_t pair, float by) {
  float low, high;
  two_f32(pair, &low, &high);
  return two_codes(V(), __fmul_rn(low, by), __fmul_rn(high, by));
}

template <typename V> __device__ static inline uint2 codes_of(uint4 v, float by) {
  return make_uint2(two_codes<V>(v.x, by) | two_codes<V>(v.y, by) << 16, two_codes<V>(v.z, by) | two_codes<V>(v.w, by)
                                                                                                     << 16);
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
template <typename V>
__global__ void __launch_bounds__(THREADS)
    round_rows(const bf16 *from, int64_t step, int packs, V *codes, float *scale) {
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
  float m = block_most(most, room), s = __fmul_rn(fmaxf(m, 0x1p-100f), 1.0f / LARGEST<V>), by = __frcp_rn(s);
  if (threadIdx.x == 0) scale[blockIdx.x] = m < INFINITY ? s : NAN;
#pragma unroll
  for (int i = 0; i < HELD; i++) {
    int at = i * THREADS + (int)threadIdx.x;
    if (at < packs) to[at] = codes_of<V>(held[i], by);
  }
  for (int at = HELD * THREADS + (int)threadIdx.x; at < packs; at += THREADS) to[at] = codes_of<V>(row[at], by);
}

/* A matrix [rows, cols] in codes, behind which are its scales, f32 [rows]. */
static float *scales_behind(const void *codes, int64_t rows, int64_t cols) {
  return (float *)((char *)codes + pu_fp8_codes_bytes(rows, cols));
}

static size_t coded_bytes(int64_t rows, int64_t cols) {
  return (pu_fp8_codes_bytes(rows, cols) + (size_t)rows * sizeof(float) + 255) / 256 * 256;
}

template <typename V> static void round_launch(pu_cuda *d, const pu_tensor *t, void *to) {
  const int64_t rows = t->shape[0], cols = t->shape[1];
  pu_cuda_start(d, rows <= PU_CUDA_SHORT_ROWS, round_rows<V>, dim3((unsigned)rows), dim3(THREADS), 0,
                (const bf16 *)t->data, t->stride[0], (int)(cols / 8), (V *)to, scales_behind(to, rows, cols));
}

static pu_err to_codes(pu_cuda *d, const pu_tensor *t, pu_layout layout, void *to, pu_error *e) {
  if (!pu_rows_aligned(t))
    return pu_fail(e, PU_ERR_SHAPE,
                   "cuda: rows that are to be rounded to a byte a value do not begin at multiples of 16 bytes");
  if (layout == PU_LAYOUT_FP8)
    round_launch<e4m3>(d, t, to);
  else
    round_launch<int8_t>(d, t, to);
  return pu_cuda_launched("rounding rows to codes", e);
}

/* Ends with what is no kernel: products read weights before the kernels before them have ended. */
pu_err pu_cuda_w8a8_weight(pu_cuda *d, const pu_tensor *w, pu_tensor *out, pu_error *e) {
  void *room;
  if (w->shape[0] == 0) return PU_OK;
  PU_TRY(pu_cuda_work(d, 64, &room, e));
  PU_TRY(to_codes(d, w, out->layout, out->data, e));
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

/* p: of int8, as it is where there is an own kernel. */
static pu_err multiply_strip(pu_cuda *d, const pu_cuda_product *p, int32_t *sums, int64_t first, pu_error *e) {
  pu_cuda_product strip = {};
  strip.a = (const int8_t *)p->a + first * p->a_step, strip.b = p->b, strip.y = sums;
  strip.rows = PU_MIN(p->rows - first, (int64_t)STRIP), strip.cols = p->cols, strip.inner = p->inner;
  strip.a_step = p->a_step, strip.b_step = p->b_step, strip.y_step = p->cols;
  strip.y_type = PU_I32, strip.int8 = true;
  PU_TRY(pu_cuda_multiply(d, &strip, e));
  scaling s = {sums, p->a_scale + first, p->b_scale, p->bias};
  s.y = (char *)p->y + (size_t)(first * p->y_step) * pu_dtype_size(p->y_type);
  s.y_step = p->y_step, s.cols = p->cols, s.count = strip.rows * p->cols, s.bias_f32 = p->bias_type == PU_F32;
  unsigned blocks = (unsigned)ceil_div(s.count, SCALE_THREADS);
  if (p->y_type == PU_F32)
    scale_sums<float><<<blocks, SCALE_THREADS, 0, d->stream>>>(s);
  else
    scale_sums<bf16><<<blocks, SCALE_THREADS, 0, d->stream>>>(s);
  return pu_cuda_launched("scaling sums", e);
}

/* Own kernels write y in pairs. */
static bool has_own(const pu_cuda *d, const pu_linear_args *a) {
  return pu_cuda_has_codes_product(d) && pu_rows_aligned(a->y);
}

static size_t sums_bytes(const pu_cuda *d, const pu_linear_args *a) {
  if (has_own(d, a) || a->w->layout == PU_LAYOUT_FP8) return 0;
  return (size_t)(PU_MIN(a->x->shape[0], (int64_t)STRIP) * a->w->shape[0]) * sizeof(int32_t);
}

/* Tiles of TILE rows by as many columns, a thread for each value, block after block of the sum. */
enum { TILE = 16 };

__device__ static inline float value_of(const void *codes, int64_t at) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(((const __nv_fp8_storage_t *)codes)[at], __NV_E4M3)));
}

template <typename Y> __global__ void __launch_bounds__(TILE *TILE) multiply_blocks(const pu_cuda_product p) {
  __shared__ float a[TILE][PU_FP8_BLOCK + 1], b[TILE][PU_FP8_BLOCK + 1];
  const int64_t row = (int64_t)blockIdx.x * TILE, col = (int64_t)blockIdx.y * TILE;
  const int own_row = (int)threadIdx.x / TILE, own_col = (int)threadIdx.x % TILE;
  const int64_t to_row = row + own_row, to_col = col + own_col, blocks = (p.inner + PU_FP8_BLOCK - 1) / PU_FP8_BLOCK;
  float sum = 0;
  for (int64_t at = 0; at < blocks; at++) {
    __syncthreads(); /* the block before is used up */
    for (int i = (int)threadIdx.x; i < TILE * PU_FP8_BLOCK; i += TILE * TILE) {
      int line = i / PU_FP8_BLOCK, k = i % PU_FP8_BLOCK;
      int64_t from = at * PU_FP8_BLOCK + k;
      a[line][k] = from < p.inner && row + line < p.rows ? value_of(p.a, (row + line) * p.a_step + from) : 0;
      b[line][k] = from < p.inner ? value_of(p.b, (col + line) * p.b_step + from) : 0;
    }
    __syncthreads();
    float s = 0;
    for (int k = 0; k < PU_FP8_BLOCK; k++) s = fmaf(a[own_row][k], b[own_col][k], s);
    sum = fmaf(p.b_scale[to_col / PU_FP8_BLOCK * blocks + at], s, sum);
  }
  if (to_row >= p.rows) return;
  sum = __fmul_rn(sum, p.a_scale[to_row]);
  if (p.bias)
    sum = __fadd_rn(sum,
                    p.bias_type == PU_F32 ? ((const float *)p.bias)[to_col] : to_f32(((const bf16 *)p.bias)[to_col]));
  ((Y *)p.y)[to_row * p.y_step + to_col] = from_f32<Y>(sum);
}

static pu_err plain_blocks(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  const dim3 grid((unsigned)ceil_div(p->rows, TILE), (unsigned)(p->cols / TILE));
  if (p->y_type == PU_F32)
    multiply_blocks<float><<<grid, TILE * TILE, 0, d->stream>>>(*p);
  else
    multiply_blocks<bf16><<<grid, TILE * TILE, 0, d->stream>>>(*p);
  return pu_cuda_launched("a product in FP8", e);
}

/* ---- linear ---- */

/* The product, x being in codes at `codes`. */
static pu_cuda_product product_of(const pu_linear_args *a, const void *codes) {
  pu_cuda_product p = {};
  p.rows = a->x->shape[0], p.cols = a->w->shape[0], p.inner = a->x->shape[1];
  p.a = codes, p.a_scale = scales_behind(codes, p.rows, p.inner);
  p.b = a->w->data, p.b_scale = scales_behind(p.b, p.cols, p.inner);
  p.y = a->y->data, p.y_step = a->y->stride[0], p.y_type = a->y->dtype;
  p.a_step = p.b_step = p.inner, p.type = PU_BF16;
  p.fp8 = a->w->layout == PU_LAYOUT_FP8, p.int8 = !p.fp8;
  p.by_rows = p.steady = p.b_rests = true;
  p.blocks = p.fp8 && a->w->packing.group == PU_FP8_BLOCK;
  if (a->b) p.bias = a->b->data, p.bias_type = a->b->dtype;
  return p;
}

pu_err pu_cuda_w8a8_linear(pu_cuda *d, const pu_linear_args *a, pu_error *e) {
  void *codes;
  if (a->x->shape[0] == 0 || a->w->shape[0] == 0) return PU_OK;
  const size_t bytes = coded_bytes(a->x->shape[0], a->x->shape[1]);
  PU_TRY(pu_cuda_work(d, bytes + sums_bytes(d, a), &codes, e));
  PU_TRY(to_codes(d, a->x, a->w->layout, codes, e));
  const pu_cuda_product p = product_of(a, codes);
  if (p.fp8 && !p.blocks) return pu_cuda_multiply(d, &p, e);
  if (has_own(d, a)) return pu_cuda_codes_product(d, &p, e);
  if (p.blocks) return plain_blocks(d, &p, e);
  int32_t *sums = (int32_t *)((char *)codes + bytes);
  for (int64_t first = 0; first < p.rows; first += STRIP) PU_TRY(multiply_strip(d, &p, sums, first, e));
  return PU_OK;
}

bool pu_cuda_w8a8_has_gated(const pu_cuda *d, const pu_linear_args *a) {
  return pu_cuda_has_skinny(d) && a->x->shape[0] <= PU_SKINNY_ROWS;
}

pu_err pu_cuda_w8a8_gated(pu_cuda *d, const pu_linear_args *a, const pu_tensor *y, pu_error *e) {
  void *codes;
  if (a->x->shape[0] == 0 || a->w->shape[0] == 0) return PU_OK;
  PU_TRY(pu_cuda_work(d, coded_bytes(a->x->shape[0], a->x->shape[1]), &codes, e));
  PU_TRY(to_codes(d, a->x, a->w->layout, codes, e));
  pu_cuda_product p = product_of(a, codes);
  p.y = y->data, p.y_step = y->stride[0], p.cols = y->shape[1];
  return pu_cuda_skinny_gated(d, &p, e);
}
