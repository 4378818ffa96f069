/* Products of a few rows (decoding) at the speed of memory: b, the weights, is read once, and that is what takes the
 * time.
 *
 * A block takes STRIP columns of y, four warps of 8 each, and walks along the whole sum in stages of DEPTH, which
 * arrive in shared memory ahead of their use. Tensor cores multiply up to 16 rows of a with 8 lines of b. Each
 * element's sum is one sequence of steps of 16, which nothing can shorten: a step waits for the one before it, some 33
 * cycles. So there have to be many sums under way (hence 8 lines a warp, not 16), and the fragments of a stage are in
 * registers before the stage before it is used up. Rows and lines that are not there are zeros.
 *
 * A line of a stage is 256 bytes; its pieces of 16 bytes are permuted by the line's number, so that the eight that
 * ldmatrix reads at once lie in different banks.
 *
 * What the kernel waits for is a, not b: it may start before the kernel before it has ended, fetches the first stages
 * of b, and only then waits (programmatic dependent launch, from 9.0 on). */
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/tensor.cuh"

enum { STRIP = 32, THREADS = STRIP / 8 * 32, DEPTH = 128, STEPS = DEPTH / 16, LINE = DEPTH * 2, PIECES = LINE / 16 };

template <int TILES> struct shape { /* of 8 rows of a */
  static constexpr int lines = STRIP + 8 * TILES, stage = lines * LINE, stages = 8;
};

typedef struct skinny_args {
  const bf16 *a, *b;
  void *y;
  const void *bias;
  int64_t a_step, b_step, y_step, cols, inner;
  int rows;
  bool bias_f32, b_rests;
} skinny_args;

__device__ static inline uint32_t piece_at(uint32_t stage, int line, int piece) {
  return stage + (uint32_t)(line * LINE + (piece ^ (line & 7)) * 16);
}

__device__ static inline void load_lines(const skinny_args &p, uint32_t stage, int64_t col, int64_t k) {
  int piece = threadIdx.x % PIECES;
  int64_t at = k + piece * 8;
#pragma unroll
  for (int line = threadIdx.x / PIECES; line < STRIP; line += THREADS / PIECES) {
    bool wanted = at < p.inner && col + line < p.cols;
    copy_piece(piece_at(stage, line, piece), wanted ? p.b + (col + line) * p.b_step + at : p.b, wanted ? 16 : 0);
  }
}

template <int TILES> __device__ static inline void load_rows(const skinny_args &p, uint32_t stage, int64_t k) {
  int piece = threadIdx.x % PIECES;
  int64_t at = k + piece * 8;
#pragma unroll
  for (int row = threadIdx.x / PIECES; row < 8 * TILES; row += THREADS / PIECES) {
    bool wanted = at < p.inner && row < p.rows;
    copy_piece(piece_at(stage, STRIP + row, piece), wanted ? p.a + row * p.a_step + at : p.a, wanted ? 16 : 0);
  }
}

/* The same at once, for the first stages: a's copies must not wait behind those of b. */
template <int TILES> __device__ static inline void store_rows(const skinny_args &p, unsigned char *stage, int64_t k) {
  int piece = threadIdx.x % PIECES;
  int64_t at = k + piece * 8;
#pragma unroll
  for (int row = threadIdx.x / PIECES; row < 8 * TILES; row += THREADS / PIECES) {
    uint4 v = {};
    if (at < p.inner && row < p.rows) v = *(const uint4 *)(p.a + row * p.a_step + at);
    *(uint4 *)(stage + piece_at(0, STRIP + row, piece)) = v;
  }
}

/* The fragments of a stage. */
template <int TILES> struct fragments {
  uint32_t rows[STEPS * 2 * TILES]; /* of a: of 8 rows, the halves of a step; of 16, with the lower 8 second */
  uint32_t lines[STEPS * 2];
};

template <int TILES> __device__ static inline void load_fragments(fragments<TILES> &f, uint32_t stage) {
  int lane = threadIdx.x % 32, matrix = lane / 8, l = lane % 8, line = threadIdx.x / 32 * 8 + l;
#pragma unroll
  for (int s = 0; s < STEPS; s += 2) load4(f.lines + 2 * s, piece_at(stage, line, 2 * s + matrix)); /* two steps' */
#pragma unroll
  for (int s = 0; s < STEPS; s += 3 - TILES) {
    if (TILES == 1)
      load4(f.rows + 2 * s, piece_at(stage, STRIP + l, 2 * s + matrix));
    else
      load4(f.rows + 4 * s, piece_at(stage, STRIP + matrix % 2 * 8 + l, 2 * s + matrix / 2));
  }
}

template <int TILES> __device__ static inline void use_fragments(float *sum, const fragments<TILES> &f) {
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    const uint32_t *r = f.rows + 2 * TILES * s, few[4] = {r[0], 0, r[1], 0};
    multiply_add(sum, TILES == 1 ? few : r, f.lines + 2 * s);
  }
}

/* A bias is rounded to y's type first, as where cuBLASLt adds it. */
template <typename Y> __device__ static inline void store_one(const skinny_args &p, int row, int64_t col, float sum) {
  if (row >= p.rows || col >= p.cols) return;
  if (p.bias)
    sum += to_f32(from_f32<Y>(p.bias_f32 ? ((const float *)p.bias)[col] : to_f32(((const bf16 *)p.bias)[col])));
  ((Y *)p.y)[row * p.y_step + col] = from_f32<Y>(sum);
}

__device__ static inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ static inline void wait_for_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

template <int TILES> __device__ static inline void fill(const skinny_args &p, unsigned char *room, int64_t col, int n) {
  constexpr int stages = shape<TILES>::stages, bytes = shape<TILES>::stage;
  let_next_start();
  if (!p.b_rests) wait_for_before();
  for (int s = 0; s < stages - 1; s++) {
    if (s < n) load_lines(p, shared_at(room) + s * bytes, col, (int64_t)s * DEPTH);
    copies_done();
  }
  wait_for_before();
  for (int s = 0; s < stages - 1 && s < n; s++) store_rows<TILES>(p, room + s * bytes, (int64_t)s * DEPTH);
}

template <int TILES, typename Y> __global__ void __launch_bounds__(THREADS) skinny_kernel(const skinny_args p) {
  extern __shared__ __align__(256) unsigned char room[];
  constexpr int stages = shape<TILES>::stages, bytes = shape<TILES>::stage;
  uint32_t base = shared_at(room);
  int64_t col = (int64_t)blockIdx.x * STRIP;
  int n = (int)((p.inner + DEPTH - 1) / DEPTH);
  float sum[4] = {};
  fragments<TILES> f[2];
  fill<TILES>(p, room, col, n);
  /* Fragments are loaded one stage ahead: round t loads those of t and uses those of t - 1. */
  for (int t = 0; t <= n; t += 2) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int now = t + half, next = now + stages - 1;
      copies_wait<stages - 2>();
      __syncthreads(); /* stage `now` is there for all, and all have the fragments of now - 1 */
      if (next < n) {
        load_lines(p, base + next % stages * bytes, col, (int64_t)next * DEPTH);
        load_rows<TILES>(p, base + next % stages * bytes, (int64_t)next * DEPTH);
      }
      copies_done();
      if (now < n) load_fragments<TILES>(f[half], base + now % stages * bytes);
      if (now > 0 && now <= n) use_fragments<TILES>(sum, f[1 - half]);
    }
  }
  int lane = threadIdx.x % 32;
  col += threadIdx.x / 32 * 8 + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; i++) store_one<Y>(p, lane / 4 + i / 2 * 8, col + i % 2, sum[i]);
}

template <int TILES, typename Y> static pu_err launch(pu_cuda *d, const skinny_args *a, pu_error *e) {
  const int bytes = shape<TILES>::stage * shape<TILES>::stages;
  PU_CUDA_TRY(cudaFuncSetAttribute(skinny_kernel<TILES, Y>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "shared memory for a product", e);
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3((unsigned)ceil_div(a->cols, STRIP)), config.blockDim = dim3(THREADS);
  config.dynamicSmemBytes = (size_t)bytes, config.stream = d->stream;
  config.attrs = &early, config.numAttrs = d->capability >= 90;
  PU_CUDA_TRY(cudaLaunchKernelEx(&config, skinny_kernel<TILES, Y>, *a), "a product of few rows", e);
  return PU_OK;
}

pu_err pu_cuda_skinny(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  skinny_args a = {(const bf16 *)p->a, (const bf16 *)p->b, p->y, p->bias};
  a.a_step = p->a_step, a.b_step = p->b_step, a.y_step = p->y_step;
  a.cols = p->cols, a.inner = p->inner, a.rows = (int)p->rows, a.bias_f32 = p->bias_type == PU_F32;
  a.b_rests = p->b_rests;
  if (p->rows <= 8) return p->y_type == PU_F32 ? launch<1, float>(d, &a, e) : launch<1, bf16>(d, &a, e);
  return p->y_type == PU_F32 ? launch<2, float>(d, &a, e) : launch<2, bf16>(d, &a, e);
}
