/* Products of a few rows (decoding) at the speed of memory: b, the weights, is read once, and that is what takes the
 * time.
 *
 * A block takes STRIP columns of y, two warps of 16 each, and walks along the whole sum in stages of DEPTH, which
 * arrive in shared memory ahead of their use (cp.async): LINES of b, and the rows of a beside them. Tensor cores
 * multiply 16 lines of b with 8 rows of a (mma.m16n8k16), so that each element's sum is one sequence of steps of 16
 * whatever the number of rows; large products by cuBLASLt without split sums go the same way. Rows and lines that are
 * not there are zeros. A line of a stage is 256 bytes; its pieces of 16 bytes are permuted by the line's number, so
 * that the eight that ldmatrix reads at once lie in different banks. */
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/tensor.cuh"

enum { STRIP = 32, WARPS = STRIP / 16, THREADS = WARPS * 32, DEPTH = 128, LINE = DEPTH * 2, PIECES = LINE / 16 };

template <int TILES> struct shape { /* of 8 rows of a */
  static constexpr int lines = STRIP + 8 * TILES, stage = lines * LINE, stages = 8;
};

typedef struct skinny_args {
  const bf16 *a, *b;
  void *y;
  const void *bias;
  int64_t a_step, b_step, y_step, cols, inner;
  int rows;
  bool bias_f32;
} skinny_args;

__device__ static inline uint32_t piece_at(uint32_t stage, int line, int piece) {
  return stage + (uint32_t)(line * LINE + (piece ^ (line & 7)) * 16);
}

template <int TILES>
__device__ static inline void load_stage(const skinny_args &p, uint32_t stage, int64_t col, int64_t k) {
  int piece = threadIdx.x % PIECES;
  int64_t at = k + piece * 8;
  bool inside = at < p.inner;
#pragma unroll
  for (int line = threadIdx.x / PIECES; line < STRIP; line += THREADS / PIECES) {
    bool wanted = inside && col + line < p.cols;
    copy_piece(piece_at(stage, line, piece), wanted ? p.b + (col + line) * p.b_step + at : p.b, wanted ? 16 : 0);
  }
#pragma unroll
  for (int row = threadIdx.x / PIECES; row < 8 * TILES; row += THREADS / PIECES) {
    bool wanted = inside && row < p.rows;
    copy_piece(piece_at(stage, STRIP + row, piece), wanted ? p.a + row * p.a_step + at : p.a, wanted ? 16 : 0);
  }
}

/* The fragments of a of two steps: of one tile, four pieces of eight rows; of two, twice two of each. */
template <int TILES> __device__ static inline void load_rows(uint32_t *f, uint32_t stage, int step) {
  int lane = threadIdx.x % 32, matrix = lane / 8, row = lane % 8;
  if (TILES == 1) {
    load4(f, piece_at(stage, STRIP + row, 2 * step + matrix));
    return;
  }
  load4(f, piece_at(stage, STRIP + row + matrix / 2 * 8, 2 * step + matrix % 2));
  load4(f + 4, piece_at(stage, STRIP + row + matrix / 2 * 8, 2 * step + 2 + matrix % 2));
}

template <int TILES> __device__ static inline void use_stage(float (*sum)[4], uint32_t stage) {
  int lane = threadIdx.x % 32, matrix = lane / 8, line = threadIdx.x / 32 * 16 + lane % 8 + matrix % 2 * 8;
#pragma unroll
  for (int step = 0; step < DEPTH / 16; step += 2) {
    uint32_t w[2][4], x[4 * TILES];
    load4(w[0], piece_at(stage, line, 2 * step + matrix / 2));
    load4(w[1], piece_at(stage, line, 2 * step + 2 + matrix / 2));
    load_rows<TILES>(x, stage, step);
#pragma unroll
    for (int s = 0; s < 2; s++)
#pragma unroll
      for (int tile = 0; tile < TILES; tile++) multiply_add(sum[tile], w[s], x + s * 2 * TILES + tile * 2);
  }
}

template <typename Y> __device__ static inline void store_one(const skinny_args &p, int row, int64_t col, float sum) {
  if (row >= p.rows || col >= p.cols) return;
  if (p.bias) sum += p.bias_f32 ? ((const float *)p.bias)[col] : to_f32(((const bf16 *)p.bias)[col]);
  ((Y *)p.y)[row * p.y_step + col] = from_f32<Y>(sum);
}

template <int TILES, typename Y> __global__ void __launch_bounds__(THREADS) skinny_kernel(const skinny_args p) {
  extern __shared__ __align__(256) unsigned char room[];
  constexpr int stages = shape<TILES>::stages, bytes = shape<TILES>::stage;
  uint32_t base = shared_at(room);
  int64_t col = (int64_t)blockIdx.x * STRIP;
  int n = (int)((p.inner + DEPTH - 1) / DEPTH);
  float sum[TILES][4] = {};
  for (int s = 0; s < stages - 1; s++) {
    if (s < n) load_stage<TILES>(p, base + s * bytes, col, (int64_t)s * DEPTH);
    copies_done();
  }
  for (int t = 0; t < n; t++) {
    copies_wait<stages - 2>();
    __syncthreads(); /* stage t is there for all, and all are done with t - 1 */
    int next = t + stages - 1;
    if (next < n) load_stage<TILES>(p, base + next % stages * bytes, col, (int64_t)next * DEPTH);
    copies_done();
    use_stage<TILES>(sum, base + t % stages * bytes);
  }
  int lane = threadIdx.x % 32, row = lane % 4 * 2;
  col += threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int tile = 0; tile < TILES; tile++)
#pragma unroll
    for (int i = 0; i < 4; i++) store_one<Y>(p, tile * 8 + row + i % 2, col + i / 2 * 8, sum[tile][i]);
}

template <int TILES, typename Y> static pu_err launch(pu_cuda *d, const skinny_args *a, pu_error *e) {
  const int bytes = shape<TILES>::stage * shape<TILES>::stages;
  PU_CUDA_TRY(cudaFuncSetAttribute(skinny_kernel<TILES, Y>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "shared memory for a product", e);
  skinny_kernel<TILES, Y><<<(unsigned)ceil_div(a->cols, STRIP), THREADS, bytes, d->stream>>>(*a);
  return pu_cuda_launched("a product of few rows", e);
}

pu_err pu_cuda_skinny(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  skinny_args a = {(const bf16 *)p->a, (const bf16 *)p->b, p->y, p->bias};
  a.a_step = p->a_step, a.b_step = p->b_step, a.y_step = p->y_step;
  a.cols = p->cols, a.inner = p->inner, a.rows = (int)p->rows, a.bias_f32 = p->bias_type == PU_F32;
  if (p->rows <= 8) return p->y_type == PU_F32 ? launch<1, float>(d, &a, e) : launch<1, bf16>(d, &a, e);
  return p->y_type == PU_F32 ? launch<2, float>(d, &a, e) : launch<2, bf16>(d, &a, e);
}
