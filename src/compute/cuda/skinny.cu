/* Products of few rows (decoding) at the speed of memory: b, the weights, is read once, and that is what takes the
 * time.
 *
 * A block takes a strip of columns of y, which are lines of b, and walks along the whole sum in stages. One thread has
 * the copy engine fetch stages ahead of their use, as boxes of 64 values of all lines of the strip and of all rows of
 * a, in the pattern that warpgroup products read (wgmma.h). One warpgroup does nothing but these products: the rows are
 * the 64 of its operand A, of which those that are not there are whatever lies behind or, with up to 8 rows, the same 8
 * again; the lines are operand B. Each element's sum is one sequence of steps of 16. Rows and lines that are not there
 * only reach sums that nobody stores.
 *
 * What the kernel waits for is a, not b, where b rests: its blocks may start before the kernels before it have ended,
 * fetch the first stages of b, and only then wait (programmatic dependent launch). To have as much as possible on the
 * way, nearly all of a multiprocessor's shared memory is taken, by one block or by two. */
#include <cuda.h>
#include <stdlib.h>
#include <string.h>

#include "src/compute/cuda/product.h"
#include "src/compute/cuda/tensor.cuh"
#include "src/compute/cuda/use.h"
#include "src/compute/cuda/wgmma.h"

enum { BOX = 64 /* values of a line: 128 bytes */, MOST_STAGES = 32, MOST_LINES = 256 };
enum { CONSUMERS = 128, THREADS = CONSUMERS + 32 };
enum { RING = 200 << 10 /* bytes of a multiprocessor's shared memory for stages */ };

/* Up to ROWS of a; up to N * COUNT lines of b, in COUNT products. */
template <int ROWS, int N, int COUNT> struct shape {
  static constexpr int rows = ROWS, n = N, count = COUNT;
  static constexpr int boxes = COUNT == 1 ? 2 : 1, depth = boxes * BOX, a_box = ROWS * 128; /* of a stage */
  /* What a product reads of a box: 8 rows again and again, or all that follow. */
  static constexpr int a_reach = ROWS == 8 ? a_box : 64 * 128, b_reach = N * COUNT * 128;
};

typedef struct skinny_args {
  void *y;
  const void *bias;
  int64_t y_step, cols;
  int inner, rows;
  int lines;  /* of b, of a block */
  int stages; /* in shared memory */
  bool bias_f32, b_rests;
} skinny_args;

/* Rows of a, then lines of b. */
template <typename S> __host__ __device__ static inline int stage_bytes(int lines) {
  return S::boxes * (S::a_box + lines * 128);
}

#ifdef PU_WGMMA

/* Of each stage: it has arrived; it is used up. */
struct barriers {
  uint64_t full[MOST_STAGES], empty[MOST_STAGES];
};

/* One thread's work: stages of a and b on their way. */
template <typename S> struct fetcher {
  const CUtensorMap *a, *b;
  barriers *bars;
  uint32_t room;
  int line, lines;

  __device__ void expect(int slot) const {
    barrier_expect(&bars->full[slot], stage_bytes<S>(lines));
  }
  __device__ void fetch_b(int slot, int t) const {
    uint32_t to = room + slot * stage_bytes<S>(lines) + S::boxes * S::a_box;
    for (int i = 0; i < S::boxes; i++)
      box_copy(to + i * lines * 128, b, t * S::depth + i * BOX, line, &bars->full[slot]);
  }
  __device__ void fetch_a(int slot, int t) const {
    uint32_t to = room + slot * stage_bytes<S>(lines);
    for (int i = 0; i < S::boxes; i++) box_copy(to + i * S::a_box, a, t * S::depth + i * BOX, 0, &bars->full[slot]);
  }
};

/* Of the first stages, what need not be waited for; before the other warps go on, so as to lose no time. */
template <typename S> __device__ static void fetch_early(const fetcher<S> &f, const skinny_args &p, int early) {
  if (!p.b_rests) wait_for_before();
  for (int t = 0; t < early; t++) {
    f.expect(t);
    f.fetch_b(t, t);
  }
  map_ahead(f.a);
}

template <typename S> __device__ static void fetch_stages(const fetcher<S> &f, const skinny_args &p, int early, int n) {
  int slot = 0;
  uint32_t turn = 0;
  wait_for_before();
  for (int t = 0; t < early; t++) f.fetch_a(t, t);
  for (int t = early; t < n; t++) {
    barrier_wait(&f.bars->empty[slot], turn);
    f.expect(slot);
    f.fetch_b(slot, t);
    f.fetch_a(slot, t);
    if (++slot == p.stages) slot = 0, turn ^= 1;
  }
}

/* One stage of the sums. */
template <typename S>
__device__ static inline void use_stage(float (&sum)[S::count][S::n / 2], uint32_t at, int b_box, bool first) {
  /* As wide_matrix, but of 8 rows the next 8 are the same. */
  const uint64_t rows = (uint64_t)(S::rows == 8 ? 0 : 1024 >> 4) << 32 | (uint64_t)1 << 62 | (uint64_t)1 << 16;
#pragma unroll
  for (int k = 0; k < S::boxes * 4; k++) {
    uint32_t a = at + k / 4 * S::a_box + k % 4 * 32, b = at + S::boxes * S::a_box + k / 4 * b_box + k % 4 * 32;
#pragma unroll
    for (int c = 0; c < S::count; c++)
      wide_mma<0>(sum[c], rows | (a & 0x3ffff) >> 4, wide_matrix(b + c * S::n * 128, 16), !(first && k == 0));
  }
}

template <typename S>
__device__ static inline void sum_stages(float (&sum)[S::count][S::n / 2], uint32_t room, int n, const skinny_args &p,
                                         barriers *bars) {
  const int stage = stage_bytes<S>(p.lines);
  int slot = 0, last = 0;
  uint32_t turn = 0;
  for (int t = 0; t < n; t++) {
    barrier_wait(&bars->full[slot], turn);
    wide_begin();
    use_stage<S>(sum, room + slot * stage, p.lines * 128, t == 0);
    wide_commit();
    wide_wait<1>(); /* the stage before is used up */
    if (t && threadIdx.x % 32 == 0) barrier_arrive(&bars->empty[last]);
    last = slot;
    if (++slot == p.stages) slot = 0, turn ^= 1;
  }
  wide_wait<0>();
}

/* A bias is rounded to y's type first, as where cuBLASLt adds it. */
template <typename Y> __device__ static inline float biased(const skinny_args &p, int64_t col, float sum) {
  if (!p.bias) return sum;
  return sum + to_f32(from_f32<Y>(p.bias_f32 ? ((const float *)p.bias)[col] : to_f32(((const bf16 *)p.bias)[col])));
}

template <typename Y> struct alignas(2 * sizeof(Y)) two { Y v[2]; };

template <typename Y>
__device__ static inline void store_two(const skinny_args &p, int row, int64_t col, int64_t end, float first,
                                        float second) {
  if (row >= p.rows || col >= end) return;
  Y *y = (Y *)p.y + row * p.y_step + col;
  first = biased<Y>(p, col, first);
  if (col + 1 < end)
    *(two<Y> *)y = {from_f32<Y>(first), from_f32<Y>(biased<Y>(p, col + 1, second))};
  else
    *y = from_f32<Y>(first);
}

template <typename S, typename Y>
__device__ static void store_sums(const skinny_args &p, const float (&sum)[S::count][S::n / 2], int64_t col) {
  int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  int64_t end = PU_MIN(col + p.lines, p.cols);
  col += lane % 4 * 2;
#pragma unroll
  for (int c = 0; c < S::count; c++)
#pragma unroll
    for (int i = 0; i < S::n / 8; i++) {
      store_two<Y>(p, row, col + c * S::n + i * 8, end, sum[c][4 * i], sum[c][4 * i + 1]);
      if (S::rows > 8) store_two<Y>(p, row + 8, col + c * S::n + i * 8, end, sum[c][4 * i + 2], sum[c][4 * i + 3]);
    }
}

template <typename S, typename Y>
__device__ static void skinny_block(const skinny_args &p, const CUtensorMap *a, const CUtensorMap *b, uint32_t room) {
  __shared__ barriers bars;
  int64_t col = (int64_t)blockIdx.x * p.lines;
  int n = (p.inner + S::depth - 1) / S::depth, early = PU_MIN(n, p.stages);
  bool fetches = threadIdx.x == CONSUMERS;
  fetcher<S> f = {a, b, &bars, room, (int)col, p.lines};
  if (fetches) {
    map_ahead(b);
    for (int s = 0; s < p.stages; s++) {
      barrier_init(&bars.full[s], 1);
      barrier_init(&bars.empty[s], CONSUMERS / 32);
    }
    barriers_visible();
    fetch_early<S>(f, p, early);
  }
  __syncthreads();
  if (fetches) fetch_stages<S>(f, p, early, n);
  if (threadIdx.x >= CONSUMERS) return;
  float sum[S::count][S::n / 2];
  wait_for_before();
  let_next_start(); /* it may read a at once */
  sum_stages<S>(sum, room, n, p, &bars);
  store_sums<S, Y>(p, sum, col);
}

#endif

template <typename S, typename Y>
__global__ void __launch_bounds__(THREADS, 2)
    skinny_kernel(const skinny_args p, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b) {
#ifdef PU_WGMMA
  extern __shared__ __align__(1024) unsigned char raw[];
  skinny_block<S, Y>(p, &a, &b, (shared_at(raw) + 1023) / 1024 * 1024);
#endif
}

/* ---- tensor maps ---------------------------------------------------------------------------------------------------
 */

typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                              const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* Cleared before it is filled: it is compared byte by byte. */
typedef struct map_key {
  const void *data;
  int64_t lines, inner, step;
  int64_t box; /* lines of a box */
} map_key;

typedef struct known_map {
  CUtensorMap map;
  map_key key;
} known_map;

enum { MAPS = 1 << 11 };

struct pu_cuda_maps {
  encode_fn encode;
  known_map known[MAPS]; /* at its key's hash, until another takes its place */
};

void pu_cuda_skinny_close(pu_cuda *d) {
  free(d->maps);
}

static pu_err open_maps(pu_cuda *d, pu_error *e) {
  cudaDriverEntryPointQueryResult found;
  void *encode = NULL;
  if (d->maps) return PU_OK;
  PU_CUDA_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault, &found),
              "tensor maps", e);
  if (!encode) return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: the driver makes no tensor maps");
  d->maps = (struct pu_cuda_maps *)calloc(1, sizeof *d->maps);
  if (!d->maps) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory");
  d->maps->encode = (encode_fn)encode;
  return PU_OK;
}

static pu_err encode_map(const pu_cuda *d, known_map *m, pu_error *e) {
  const map_key *k = &m->key;
  cuuint64_t dims[2] = {(cuuint64_t)k->inner, (cuuint64_t)k->lines}, steps[1] = {(cuuint64_t)k->step * sizeof(bf16)};
  cuuint32_t box[2] = {BOX, (cuuint32_t)k->box}, ones[2] = {1, 1};
  CUresult r = d->maps->encode(&m->map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)k->data, dims, steps, box, ones,
                               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (r == CUDA_SUCCESS) return PU_OK;
  memset(m, 0, sizeof *m);
  return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: no tensor map of %lld x %lld values (error %d)", (long long)k->lines,
                 (long long)k->inner, (int)r);
}

/* Encoding takes the host longer than a launch. */
static pu_err map_of(pu_cuda *d, const void *data, int64_t lines, int64_t inner, int64_t step, int box,
                     CUtensorMap *out, pu_error *e) {
  map_key key = {data, lines, inner, lines == 1 ? ceil_div(inner, 8) * 8 : step, box};
  PU_TRY(open_maps(d, e));
  known_map *m = &d->maps->known[pu_hash64(&key, sizeof key, 0) % MAPS];
  if (memcmp(&m->key, &key, sizeof key) != 0) {
    m->key = key;
    PU_TRY(encode_map(d, m, e));
  }
  *out = m->map;
  return PU_OK;
}

/* ---- launch --------------------------------------------------------------------------------------------------------
 */

typedef struct skinny_plan {
  int rows, n, count, lines;
  int ring; /* bytes of shared memory for stages */
} skinny_plan;

template <typename S, typename Y>
static pu_err launch(pu_cuda *d, const pu_cuda_product *q, const skinny_plan *plan, pu_error *e) {
  skinny_args p = {q->y, q->bias, q->y_step, q->cols, (int)q->inner, (int)q->rows, plan->lines};
  const int stage = stage_bytes<S>(p.lines);
  CUtensorMap a, b;
  PU_TRY(map_of(d, q->a, q->rows, q->inner, q->a_step, S::rows, &a, e));
  PU_TRY(map_of(d, q->b, q->cols, q->inner, q->b_step, p.lines, &b, e));
  p.stages = PU_MIN(PU_MAX(plan->ring / stage, 2), (int)MOST_STAGES);
  p.bias_f32 = q->bias_type == PU_F32, p.b_rests = q->b_rests;
  /* The last boxes of the last stage are read beyond its end. */
  const int behind = PU_MAX((S::boxes - 1) * S::a_box + S::a_reach - stage, S::b_reach - p.lines * 128);
  const int bytes = stage * p.stages + PU_MAX(behind, 0) + 1024;
  PU_CUDA_TRY(cudaFuncSetAttribute(skinny_kernel<S, Y>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "shared memory for a product", e);
  const dim3 grid((unsigned)ceil_div(q->cols, p.lines));
  pu_cuda_start(d, true, skinny_kernel<S, Y>, grid, THREADS, (size_t)bytes, p, a, b);
  d->waited_for = q->a;
  return pu_cuda_launched("a product of few rows", e);
}

template <int ROWS, typename Y>
static pu_err launch_lines(pu_cuda *d, const pu_cuda_product *q, const skinny_plan *plan, pu_error *e) {
  switch (plan->n * plan->count) {
  case 16:
    return launch<shape<ROWS, 16, 1>, Y>(d, q, plan, e);
  case 32:
    return launch<shape<ROWS, 32, 1>, Y>(d, q, plan, e);
  case 48:
    return launch<shape<ROWS, 48, 1>, Y>(d, q, plan, e);
  case 64:
    return launch<shape<ROWS, 64, 1>, Y>(d, q, plan, e);
  case 128:
    return launch<shape<ROWS, 64, 2>, Y>(d, q, plan, e);
  case 192:
    return launch<shape<ROWS, 64, 3>, Y>(d, q, plan, e);
  default:
    return launch<shape<ROWS, 64, 4>, Y>(d, q, plan, e);
  }
}

template <typename Y>
static pu_err launch_rows(pu_cuda *d, const pu_cuda_product *q, const skinny_plan *plan, pu_error *e) {
  switch (plan->rows) {
  case 8:
    return launch_lines<8, Y>(d, q, plan, e);
  case 16:
    return launch_lines<16, Y>(d, q, plan, e);
  case 32:
    return launch_lines<32, Y>(d, q, plan, e);
  default:
    return launch_lines<64, Y>(d, q, plan, e);
  }
}

/* All multiprocessors have as many lines: what takes longest is what one has to do. Many of them go to two blocks, so
 * that the next kernel's first block begins while the other still runs. */
static skinny_plan plan_of(const pu_cuda *d, const pu_cuda_product *p) {
  skinny_plan plan = {};
  int64_t turns = ceil_div(p->cols, (int64_t)d->sms * MOST_LINES);
  plan.rows = p->rows <= 8 ? 8 : p->rows <= 16 ? 16 : p->rows <= 32 ? 32 : 64;
  plan.lines = (int)ceil_div(p->cols, turns * d->sms * 8) * 8, plan.ring = RING;
  if (turns == 1 && plan.lines > 128) plan.lines = (int)ceil_div(plan.lines, 16) * 8, plan.ring = RING / 2;
  plan.n = plan.lines <= 48 ? (int)ceil_div(plan.lines, 16) * 16 : 64;
  plan.count = (int)ceil_div(plan.lines, plan.n);
  return plan;
}

bool pu_cuda_has_skinny(const pu_cuda *d) {
  return d->capability == 90;
}

pu_err pu_cuda_skinny(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  skinny_plan plan = plan_of(d, p);
  return p->y_type == PU_F32 ? launch_rows<float>(d, p, &plan, e) : launch_rows<bf16>(d, p, &plan, e);
}
