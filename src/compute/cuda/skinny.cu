/* Products of a few rows (decoding) at the speed of memory: b, the weights, is read once, and that is what takes the
 * time.
 *
 * A block takes STRIP columns of y and walks along the whole sum in stages of DEPTH. One warp has the copy engine fetch
 * stages ahead of their use: a line of b or a row of a is one bulk copy. The other warps have 8 columns each: tensor
 * cores multiply up to 16 rows of a with 8 lines of b. Each element's sum is one sequence of steps of 16, which nothing
 * can shorten: a step waits for the one before it, some 33 cycles. So there have to be many sums under way (hence 8
 * lines a warp, not 16), those warps do next to nothing else, and fragments are in registers half a stage before they
 * are used.
 *
 * Lines lie 16 bytes further apart than they are long, so that the eight pieces that ldmatrix reads at once lie in
 * different banks. Rows and lines that are not there stay whatever they are: they only reach sums that nobody stores.
 *
 * What the kernel waits for is a, not b, where b rests: it may start before the kernel before it has ended, fetches the
 * first stages of b, and only then waits (programmatic dependent launch). */
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/tensor.cuh"

enum { DEPTH = 256, STEPS = 8 /* of half a stage */, LINE = DEPTH * 2 + 16 };

template <int COLS, int TILES> struct shape { /* of 8 rows of a */
  static constexpr int strip = COLS, tiles = TILES, lines = COLS + 8 * TILES, stage = lines * LINE;
  static constexpr int stages = (COLS == 16 ? 72 << 10 : 108 << 10) / stage; /* three blocks on a multiprocessor; two */
  static constexpr int warps = COLS / 8, threads = (warps + 1) * 32;
};

typedef struct skinny_args {
  const bf16 *a, *b;
  void *y;
  const void *bias;
  int64_t a_step, b_step, y_step, cols;
  int inner, rows;
  bool bias_f32, b_rests;
} skinny_args;

/* The fragments of half a stage. */
template <int TILES> struct fragments {
  uint32_t rows[STEPS * 2 * TILES]; /* of a: of 8 rows, the halves of a step; of 16, with the lower 8 second */
  uint32_t lines[STEPS * 2];
};

/* line, row: where this lane's piece of the first step lies. */
template <int TILES> __device__ static inline void load_fragments(fragments<TILES> &f, uint32_t line, uint32_t row) {
#pragma unroll
  for (int s = 0; s < STEPS; s += 2) load4(f.lines + 2 * s, line + s * 32); /* two steps' */
#pragma unroll
  for (int s = 0; s < STEPS; s += 3 - TILES) load4(f.rows + 2 * TILES * s, row + s * 32);
}

template <int TILES> __device__ static inline void use_step(float *sum, const fragments<TILES> &f, int s) {
  const uint32_t *r = f.rows + 2 * TILES * s, few[4] = {r[0], 0, r[1], 0};
  multiply_add(sum, TILES == 1 ? few : r, f.lines + 2 * s);
}

template <int TILES> __device__ static inline void use_fragments(float *sum, const fragments<TILES> &f) {
#pragma unroll
  for (int s = 0; s < STEPS; s++) use_step<TILES>(sum, f, s);
}

/* What is left of the sum, in values; of a step that is half there, the other half is zeros. */
template <int TILES> __device__ static inline void use_last(float *sum, fragments<TILES> &f, int left) {
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    if (s * 16 >= left) break;
    if (s * 16 + 8 == left) {
      f.lines[2 * s + 1] = 0;
      for (int i = TILES; i < 2 * TILES; i++) f.rows[2 * TILES * s + i] = 0;
    }
    use_step<TILES>(sum, f, s);
  }
}

/* A bias is rounded to y's type first, as where cuBLASLt adds it. */
template <typename Y> __device__ static inline void store_one(const skinny_args &p, int row, int64_t col, float sum) {
  if (row >= p.rows || col >= p.cols) return;
  if (p.bias)
    sum += to_f32(from_f32<Y>(p.bias_f32 ? ((const float *)p.bias)[col] : to_f32(((const bf16 *)p.bias)[col])));
  ((Y *)p.y)[row * p.y_step + col] = from_f32<Y>(sum);
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

/* Of each stage: it has arrived; it is used up. */
template <typename S> struct barriers { uint64_t full[S::stages], empty[S::stages]; };

/* One lane, one line of b and one row of a. */
template <typename S> struct fetcher {
  const bf16 *b, *a;
  uint32_t to_b, to_a; /* in the first stage */
  bool has_b, has_a;
  int inner, lines; /* that come with each stage */

  __device__ fetcher(const skinny_args &p, uint32_t room, int64_t col) {
    int lane = threadIdx.x % 32;
    has_b = lane < S::strip && col + lane < p.cols, has_a = lane < p.rows;
    b = p.b + (has_b ? (col + lane) * p.b_step : 0), a = p.a + (has_a ? lane * p.a_step : 0);
    to_b = room + lane * LINE, to_a = room + (S::strip + lane) * LINE;
    inner = p.inner, lines = (int)PU_MIN((int64_t)S::strip, p.cols - col) + p.rows;
  }
  __device__ uint32_t bytes(int t) const {
    return (uint32_t)PU_MIN(inner - t * DEPTH, (int)DEPTH) * 2;
  }
  __device__ void expect(uint64_t *full, int t) const {
    if (threadIdx.x % 32 == 0) barrier_expect(full, bytes(t) * (uint32_t)lines);
    __syncwarp();
  }
  __device__ void fetch_b(uint64_t *full, int slot, int t) const {
    if (has_b) bulk_copy(to_b + slot * S::stage, b + t * DEPTH, bytes(t), full);
  }
  __device__ void fetch_a(uint64_t *full, int slot, int t) const {
    if (has_a) bulk_copy(to_a + slot * S::stage, a + t * DEPTH, bytes(t), full);
  }
};

template <typename S>
__device__ static void fetch_stages(const skinny_args &p, uint32_t room, int64_t col, int n, barriers<S> *bars) {
  fetcher<S> f(p, room, col);
  int early = PU_MIN(n, S::stages);
  if (!p.b_rests) wait_for_before();
  for (int t = 0; t < early; t++) {
    f.expect(&bars->full[t], t);
    f.fetch_b(&bars->full[t], t, t);
  }
  wait_for_before();
  for (int t = 0; t < early; t++) f.fetch_a(&bars->full[t], t, t);
  for (int t = early; t < n; t++) {
    int slot = t % S::stages;
    barrier_wait(&bars->empty[slot], (uint32_t)(t / S::stages - 1) & 1);
    f.expect(&bars->full[slot], t);
    f.fetch_b(&bars->full[slot], slot, t);
    f.fetch_a(&bars->full[slot], slot, t);
  }
}

template <typename S>
__device__ static void sum_stages(float *sum, uint32_t room, int inner, int n, barriers<S> *bars) {
  constexpr int tiles = S::tiles;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, matrix = lane / 8, l = lane % 8;
  uint32_t line = room + (warp * 8 + l) * LINE + matrix * 16;
  uint32_t row = tiles == 1 ? room + (S::strip + l) * LINE + matrix * 16
                            : room + (S::strip + matrix % 2 * 8 + l) * LINE + matrix / 2 * 16;
  fragments<tiles> f[2];
  int slot = 0;
  for (int t = 0; t < n; t++) {
    uint32_t at = slot * S::stage;
    barrier_wait(&bars->full[slot], (uint32_t)(t / S::stages) & 1);
    load_fragments<tiles>(f[0], line + at, row + at);
    if (t) {
      use_fragments<tiles>(sum, f[1]);
      __syncwarp(); /* what the other lanes read is read: the one that says so speaks for all */
      if (lane == 0) barrier_arrive(&bars->empty[slot ? slot - 1 : S::stages - 1]); /* stage t - 1 is in registers */
    }
    load_fragments<tiles>(f[1], line + at + DEPTH, row + at + DEPTH);
    if (t + 1 < n) use_fragments<tiles>(sum, f[0]);
    slot = slot + 1 == S::stages ? 0 : slot + 1;
  }
  int left = inner - (n - 1) * DEPTH;
  if (n == 0) return;
  use_last<tiles>(sum, f[0], left);
  use_last<tiles>(sum, f[1], left - DEPTH / 2);
}

template <typename S, typename Y> __device__ static void skinny_block(const skinny_args &p, uint32_t room) {
  __shared__ barriers<S> bars;
  int64_t col = (int64_t)blockIdx.x * S::strip;
  int n = (p.inner + DEPTH - 1) / DEPTH, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  let_next_start();
  if (threadIdx.x == 0) {
    for (int s = 0; s < S::stages; s++) {
      barrier_init(&bars.full[s], 1);
      barrier_init(&bars.empty[s], S::warps);
    }
    barriers_visible();
  }
  __syncthreads();
  if (warp == S::warps) {
    fetch_stages<S>(p, room, col, n, &bars);
    return;
  }
  float sum[4] = {};
  sum_stages<S>(sum, room, p.inner, n, &bars);
  col += warp * 8 + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < 4; i++) store_one<Y>(p, lane / 4 + i / 2 * 8, col + i % 2, sum[i]);
}

#endif

template <typename S, typename Y> __global__ void __launch_bounds__(S::threads) skinny_kernel(const skinny_args p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char room[];
  skinny_block<S, Y>(p, shared_at(room));
#endif
}

template <typename S, typename Y> static pu_err launch(pu_cuda *d, const skinny_args *a, pu_error *e) {
  const int bytes = S::stage * S::stages;
  PU_CUDA_TRY(cudaFuncSetAttribute(skinny_kernel<S, Y>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "shared memory for a product", e);
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3((unsigned)ceil_div(a->cols, S::strip)), config.blockDim = dim3(S::threads);
  config.dynamicSmemBytes = (size_t)bytes, config.stream = d->stream;
  config.attrs = &early, config.numAttrs = 1;
  PU_CUDA_TRY(cudaLaunchKernelEx(&config, skinny_kernel<S, Y>, *a), "a product of few rows", e);
  return PU_OK;
}

template <typename Y> static pu_err launch_for(pu_cuda *d, const skinny_args *a, pu_error *e) {
  bool narrow = ceil_div(a->cols, 32) < 2 * d->sms; /* with wide strips some multiprocessors would have two, some one */
  if (a->rows <= 8) return narrow ? launch<shape<16, 1>, Y>(d, a, e) : launch<shape<32, 1>, Y>(d, a, e);
  return narrow ? launch<shape<16, 2>, Y>(d, a, e) : launch<shape<32, 2>, Y>(d, a, e);
}

bool pu_cuda_has_skinny(const pu_cuda *d) {
  return d->capability >= 90;
}

pu_err pu_cuda_skinny(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  skinny_args a = {(const bf16 *)p->a, (const bf16 *)p->b, p->y, p->bias};
  a.a_step = p->a_step, a.b_step = p->b_step, a.y_step = p->y_step;
  a.cols = p->cols, a.inner = (int)p->inner, a.rows = (int)p->rows;
  a.bias_f32 = p->bias_type == PU_F32, a.b_rests = p->b_rests;
  return p->y_type == PU_F32 ? launch_for<float>(d, &a, e) : launch_for<bf16>(d, &a, e);
}
