/* Products of few rows (decoding) at the speed of memory: b, the weights, is read once, and that is what takes the
 * time. Of bf16, or of codes of 8 bits with a scale for each row of a and of b, or for each block of b.
 *
 * A block takes a strip of columns of y, which are lines of b, and walks along the whole sum in stages. One thread has
 * the copy engine fetch stages ahead of their use, as boxes of 128 bytes of all lines of the strip and of all rows of
 * a, in the pattern that warpgroup products read (wgmma.h). One warpgroup does nothing but these products: lines, 64
 * at a time, are operand A, rows operand B: a sum's steps follow one another, and so each takes as little time as it
 * can. Each element's sum is one sequence of steps of 32 bytes; of E4M3, whose products keep too few bits for that, of
 * the sums of boxes, which have b's scales by block then. Lines that are not there are whatever lies behind, and only
 * reach sums that nobody stores.
 *
 * What the kernel waits for is a, not b, where b rests: its blocks may start before the kernels before it have ended,
 * fetch the first stages of b, and only then wait (programmatic dependent launch). To have as much as possible on the
 * way, nearly all of a multiprocessor's shared memory is taken, by one block or by two. */
#include <cuda.h>
#include <stdlib.h>
#include <string.h>

#include "src/compute/cuda/barriers.h"
#include "src/compute/cuda/block_scales.cuh"
#include "src/compute/cuda/gates.cuh"
#include "src/compute/cuda/product.h"
#include "src/compute/cuda/use.h"
#include "src/compute/cuda/wgmma.h"

/* Lengths along the sum are in values of 16 bits, which may be two codes. */
enum { BOX = 64 /* values of a line: 128 bytes */, MOST_STAGES = 32, MOST_LINES = 256 };
enum { LINES = 64 /* of a product */ };
enum { CONSUMERS = 128, THREADS = CONSUMERS + 32 };
enum { BLOCK_ROWS = 2 /* rows of blocks with scales that a strip's lines may be of: there are 128 of them at most */ };
/* Bytes of a multiprocessor's shared memory for stages. Blocks of few lines and rows leave room for a block of the
 * kernel before or after them, attention's above all; with more lines that costs more than it gains, and so it does of
 * codes (measured), but for the 40 KB that attention takes over one sequence with a cache in 4 bits. */
enum { RING = 200 << 10, ONE_RING = 190 << 10, SHARED_RING = 116 << 10, SHARED_LINES = 32, SHARED_ROWS = 16 };

/* Operands of type V. Up to ROWS of a; up to 64 COUNT lines of b, in COUNT products. GATED: of two, gates and what they
 * are for, whose lines are `cols` apart in b. */
template <typename V, int ROWS, int COUNT, bool GATED> struct shape {
  typedef V value;
  typedef typename wide_sum<V>::type sum;
  static constexpr int rows = ROWS, count = COUNT, strips = GATED ? 2 : 1;
  static constexpr int boxes = COUNT == 1 ? 2 : 1, depth = boxes * BOX, a_box = ROWS * 128; /* of a stage */
  static constexpr bool scaled = sizeof(V) == 1, by_box = wide_sum<V>::few_bits, blocks = in_blocks<V>;
  __host__ __device__ static constexpr int b_box(int lines) {
    return strips * lines * 128;
  }
  /* Where the i-th product's lines are, and the end of what products read. */
  __host__ __device__ static constexpr int b_at(int i, int lines) {
    return i * (GATED ? lines : LINES) * 128;
  }
  __host__ __device__ static constexpr int b_reach(int lines) {
    return b_at(COUNT - 1, lines) + LINES * 128;
  }
};

typedef struct skinny_args {
  void *y;
  const void *bias;
  const float *a_scale, *b_scale; /* of rows and lines of codes, or of blocks of lines */
  int64_t y_step, cols;
  int inner, rows;
  int lines;  /* of b, of a block and strip: columns of y */
  int stages; /* in shared memory, behind so many scales of blocks */
  int scales;
  bool bias_f32, y_f32, b_rests;
} skinny_args;

/* Rows of a, then lines of b. */
template <typename S> __host__ __device__ static inline int stage_bytes(int lines) {
  return S::boxes * (S::a_box + S::b_box(lines));
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
  int line, lines, strip; /* from strip to strip */

  __device__ void expect(int slot) const {
    barrier_expect(&bars->full[slot], stage_bytes<S>(lines));
  }
  __device__ void fetch_b(int slot, int t) const {
    uint32_t to = room + slot * stage_bytes<S>(lines) + S::boxes * S::a_box;
    for (int i = 0; i < S::boxes; i++)
      for (int s = 0; s < S::strips; s++)
        box_copy(to + (i * S::strips + s) * lines * 128, b, t * S::depth + i * BOX, line + s * strip,
                 &bars->full[slot]);
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
  ring_place at = {};
  wait_for_before();
  for (int t = 0; t < early; t++) f.fetch_a(t, t);
  for (int t = early; t < n; t++) {
    barrier_wait(&f.bars->empty[at.slot], at.turn);
    f.expect(at.slot);
    f.fetch_b(at.slot, t);
    f.fetch_a(at.slot, t);
    at.go_on(p.stages);
  }
}

/* The first of a thread's two lines, from the block's first column on. */
__device__ static inline int line_of_thread() {
  return (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
}

/* The line of b that the c-th product's first or second one is. */
template <typename S> __device__ static inline int64_t line_of_sum(const skinny_args &p, int64_t col, int c, int half) {
  return col + (S::strips == 2 ? c * p.cols : c * LINES) + line_of_thread() + half * 8;
}

/* Elements of up to COUNT products: a thread has two lines, 8 apart, of each, and of each 8 rows two. */
template <typename S> struct sums { typename S::sum of[S::count][S::rows / 2]; };

/* One stage of the sums; `into` one for all boxes, or one for each. */
template <typename S, int N>
__device__ static inline void use_stage(sums<S> (&into)[N], uint32_t at, int lines, bool first) {
  const uint64_t a = wide_matrix(at, 16), b = wide_matrix(at + S::boxes * S::a_box, 16);
#pragma unroll
  for (int k = 0; k < S::boxes * 4; k++)
#pragma unroll
    for (int c = 0; c < S::count; c++)
      wide_mma(typename S::value(), into[k / 4 % N].of[c],
               wide_further(b, k / 4 * S::b_box(lines) + S::b_at(c, lines) + k % 4 * 32),
               wide_further(a, k / 4 * S::a_box + k % 4 * 32), N == 1 ? !(first && k == 0) : k % 4 != 0);
}

/* The next stage is waited for while this one's products run: with three stages at least, it comes. */
template <typename S>
__device__ static inline void sum_stages(sums<S> (&sum)[1], uint32_t room, int n, const skinny_args &p,
                                         barriers *bars) {
  const int stage = stage_bytes<S>(p.lines);
  ring_place at = {};
  int last = 0;
  barrier_wait(&bars->full[0], 0);
  for (int t = 0; t < n; t++) {
    const int here = at.slot;
    wide_begin();
    use_stage<S>(sum, room + here * stage, p.lines, t == 0);
    wide_commit();
    at.go_on(p.stages);
    if (t + 1 < n) barrier_wait(&bars->full[at.slot], at.turn);
    wide_wait<1>(); /* the stage before is used up */
    if (t && threadIdx.x % 32 == 0) barrier_arrive(&bars->empty[last]);
    last = here;
  }
  wide_wait<0>();
  for (int c = 0; c < S::count; c++) wide_settled(sum->of[c]);
}

/* The sum of a box, to that of the boxes before it; by: of either line, with blocks. */
template <typename S>
__device__ static inline void add_box(float (&sum)[S::rows / 2], const float (&box)[S::rows / 2],
                                      const float (&by)[2]) {
#pragma unroll
  for (int k = 0; k < S::rows / 2; k++) sum[k] = S::blocks ? fmaf(by[k % 4 / 2], box[k], sum[k]) : sum[k] + box[k];
}

/* What boxes' sums are multiplied with. */
template <typename S> struct box_scales {
  const float *of[S::count][2]; /* of each line, in shared memory */
  float now[S::boxes][S::count][2];

  /* room: [strips, BLOCK_ROWS] rows of blocks. Those of lines that nobody stores may be of other lines. */
  __device__ void open(float *room, const skinny_args &p, int64_t col) {
    const int step = block_scales_step(2 * p.inner);
#pragma unroll
    for (int s = 0; s < S::strips; s++)
      fetch_block_scales<CONSUMERS, BLOCK_ROWS>(room + s * BLOCK_ROWS * step, p.b_scale, S::strips * p.cols,
                                                2 * p.inner, col + s * p.cols);
#pragma unroll
    for (int c = 0; c < S::count; c++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int64_t first = S::strips == 2 ? col + c * p.cols : col, line = line_of_sum<S>(p, col, c, half);
        const int row = min((int)(line / PU_FP8_BLOCK - first / PU_FP8_BLOCK), BLOCK_ROWS - 1);
        of[c][half] = room + ((S::strips == 2 ? c * BLOCK_ROWS : 0) + row) * step;
      }
    copies_commit();
    copies_wait<0>();
    meet_threads<CONSUMERS>();
  }
  __device__ void go_on(int stage) {
#pragma unroll
    for (int i = 0; i < S::boxes; i++)
#pragma unroll
      for (int c = 0; c < S::count; c++)
#pragma unroll
        for (int half = 0; half < 2; half++) now[i][c][half] = of[c][half][stage * S::boxes + i];
  }
};

/* Likewise, adding up boxes; by: with blocks. */
template <typename S>
__device__ static inline void sum_boxes(sums<S> &sum, uint32_t room, int n, const skinny_args &p, barriers *bars,
                                        box_scales<S> &by) {
  const int stage = stage_bytes<S>(p.lines);
  sums<S> box[S::boxes];
  ring_place at = {};
  sum = {};
  barrier_wait(&bars->full[0], 0);
  for (int t = 0; t < n; t++) {
    const int here = at.slot;
    wide_begin();
    use_stage<S>(box, room + here * stage, p.lines, true);
    wide_commit();
    if constexpr (S::blocks) by.go_on(t);
    at.go_on(p.stages);
    if (t + 1 < n) barrier_wait(&bars->full[at.slot], at.turn);
    wide_wait<0>();
    if (threadIdx.x % 32 == 0) barrier_arrive(&bars->empty[here]);
#pragma unroll
    for (int i = 0; i < S::boxes; i++)
#pragma unroll
      for (int c = 0; c < S::count; c++) {
        wide_settled(box[i].of[c]);
        add_box<S>(sum.of[c], box[i].of[c], by.now[i][c]);
      }
  }
}

/* ---- what becomes of a sum ---- */

/* The first two of a thread's rows. */
__device__ static inline int row_of_thread() {
  return (int)threadIdx.x % 4 * 2;
}

/* Of a thread's rows and lines. */
template <typename S> struct scales { float row[S::rows / 4], line[S::count][2]; };

/* Read before the sums are there. */
template <typename S> __device__ static inline void fetch_line_scales(const skinny_args &p, int64_t col, scales<S> *s) {
#pragma unroll
  for (int c = 0; c < S::count; c++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int64_t at = line_of_sum<S>(p, col, c, half);
      s->line[c][half] = at < S::strips * p.cols ? p.b_scale[at] : 0;
    }
}
template <typename S> __device__ static inline void fetch_row_scales(const skinny_args &p, scales<S> *s) {
#pragma unroll
  for (int i = 0; i < S::rows / 4; i++) {
    int row = i / 2 * 8 + row_of_thread() + i % 2;
    s->row[i] = row < p.rows ? p.a_scale[row] : 0;
  }
}

template <typename S> __device__ static inline float value_of(const sums<S> &sum, const scales<S> &s, int c, int i) {
  float v = (float)sum.of[c][i], row = s.row[i / 4 * 2 + i % 2], line = s.line[c][i % 4 / 2];
  if (!S::scaled) return v;
  if (S::blocks) return __fmul_rn(v, row);
  if (S::by_box) return __fmul_rn(__fmul_rn(v, line), row); /* as cuBLASLt does */
  return __fmul_rn(__fmul_rn(v, row), line);
}

/* As where cuBLASLt is followed by the addition of a bias, in FP8, or adds it itself: rounded to y's type is the value,
 * or the bias. Of int8 neither is, nor of blocks. */
template <typename S> __device__ static inline float biased(const skinny_args &p, int64_t col, float v) {
  if (!p.bias) return v;
  float bias = p.bias_f32 ? ((const float *)p.bias)[col] : to_f32(((const bf16 *)p.bias)[col]);
  if (S::by_box && !S::blocks && !p.y_f32) v = to_f32(from_f32<bf16>(v));
  if (!S::scaled && !p.y_f32) bias = to_f32(from_f32<bf16>(bias));
  return __fadd_rn(v, bias);
}

/* As linear and swiglu one after the other: what goes in between is rounded. */
__device__ static inline float gated(float gate, float up) {
  float a = to_f32(from_f32<bf16>(gate));
  return pu_gated(a, pu_sigmoid(a, bf16()), to_f32(from_f32<bf16>(up)));
}

template <typename S>
__device__ static void store_sums(const skinny_args &p, const sums<S> &sum, const scales<S> &s, int64_t col) {
  int64_t end = PU_MIN(col + p.lines, p.cols);
#pragma unroll
  for (int c = 0; c < S::count / S::strips; c++)
#pragma unroll
    for (int i = 0; i < S::rows / 2; i++) {
      int64_t at = col + c * LINES + line_of_thread() + i % 4 / 2 * 8;
      int n = row_of_thread() + i / 4 * 8 + i % 2;
      if (n >= p.rows || at >= end) continue;
      int64_t to = n * p.y_step + at;
      float v = value_of(sum, s, c, i);
      v = S::strips == 2 ? gated(v, value_of(sum, s, S::count - 1, i)) : biased<S>(p, at, v);
      if (p.y_f32)
        ((float *)p.y)[to] = v;
      else
        ((bf16 *)p.y)[to] = from_f32<bf16>(v);
    }
}

template <typename S>
__device__ static void skinny_block(const skinny_args &p, const CUtensorMap *a, const CUtensorMap *b,
                                    float *block_scale, uint32_t room) {
  __shared__ barriers bars;
  int64_t col = (int64_t)blockIdx.x * p.lines;
  int n = (p.inner + S::depth - 1) / S::depth, early = PU_MIN(n, p.stages);
  bool fetches = threadIdx.x == CONSUMERS;
  fetcher<S> f = {a, b, &bars, room, (int)col, p.lines, (int)p.cols};
  if (fetches) {
    map_ahead(b);
    for (int s = 0; s < p.stages; s++) {
      barrier_init(&bars.full[s], 1);
      barrier_init(&bars.empty[s], CONSUMERS / 32);
    }
    before_bulk();
    fetch_early<S>(f, p, early);
  }
  __syncthreads();
  if (fetches) fetch_stages<S>(f, p, early, n);
  if (threadIdx.x >= CONSUMERS) return;
  sums<S> sum[1];
  scales<S> scale;
  box_scales<S> by;
  if constexpr (S::blocks) by.open(block_scale, p, col);
  if constexpr (S::scaled && !S::blocks) fetch_line_scales(p, col, &scale);
  wait_for_before();
  let_next_start(); /* it may read a at once */
  if constexpr (S::scaled) fetch_row_scales(p, &scale);
  if constexpr (S::by_box)
    sum_boxes<S>(*sum, room, n, p, &bars, by);
  else
    sum_stages<S>(sum, room, n, p, &bars);
  store_sums<S>(p, *sum, scale, col);
}

#endif

template <typename S>
__global__ void __launch_bounds__(THREADS, 2)
    skinny_kernel(const skinny_args p, const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b) {
#ifdef PU_WGMMA
  extern __shared__ __align__(1024) unsigned char raw[];
  skinny_block<S>(p, &a, &b, (float *)raw, (shared_address(raw + p.scales * sizeof(float)) + 1023) / 1024 * 1024);
#endif
}

/* ---- tensor maps ---- */

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
pu_err pu_cuda_map_of(pu_cuda *d, const void *data, int64_t lines, int64_t inner, int64_t step, int box,
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

/* ---- launch ---- */

typedef struct skinny_plan {
  int rows, count, lines;
  int ring; /* bytes of shared memory for stages */
  bool gated;
} skinny_plan;

template <typename S> static pu_err launch(pu_cuda *d, const pu_cuda_product *q, const skinny_plan *plan, pu_error *e) {
  const int pair = 2 / sizeof(typename S::value); /* values in 16 bits */
  skinny_args p = {q->y, q->bias, q->a_scale, q->b_scale, q->y_step, q->cols};
  p.inner = (int)(q->inner / pair), p.rows = (int)q->rows, p.lines = plan->lines;
  const int stage = stage_bytes<S>(p.lines);
  CUtensorMap a, b;
  PU_TRY(pu_cuda_map_of(d, q->a, q->rows, p.inner, q->a_step / pair, S::rows, &a, e));
  PU_TRY(pu_cuda_map_of(d, q->b, S::strips * q->cols, p.inner, q->b_step / pair, p.lines, &b, e));
  p.scales = S::blocks ? S::strips * BLOCK_ROWS * block_scales_step(q->inner) : 0;
  const int scales = p.scales * (int)sizeof(float);
  p.stages = PU_MIN(PU_MAX((plan->ring - scales) / stage, 3), (int)MOST_STAGES);
  p.bias_f32 = q->bias_type == PU_F32, p.y_f32 = q->y_type == PU_F32, p.b_rests = q->b_rests;
  /* The last boxes of the last stage are read beyond its end. */
  const int bytes = scales + stage * p.stages + PU_MAX(S::b_reach(p.lines) - S::b_box(p.lines), 0) + 1024;
  PU_CUDA_TRY(cudaFuncSetAttribute(skinny_kernel<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "shared memory for a product", e);
  const dim3 grid((unsigned)ceil_div(q->cols, p.lines));
  pu_cuda_start(d, true, skinny_kernel<S>, grid, THREADS, (size_t)bytes, p, a, b);
  d->waited_for = q->a;
  return pu_cuda_launched("a product of few rows", e);
}

template <typename V, int ROWS>
static pu_err launch_lines(pu_cuda *d, const pu_cuda_product *q, const skinny_plan *plan, pu_error *e) {
  if (plan->gated) return launch<shape<V, ROWS, 2, true>>(d, q, plan, e);
  if (plan->count == 1) return launch<shape<V, ROWS, 1, false>>(d, q, plan, e);
  if (plan->count == 2) return launch<shape<V, ROWS, 2, false>>(d, q, plan, e);
  if constexpr (sizeof(V) == 1)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: %d lines of codes a block", plan->lines); /* see plan_of */
  else if (plan->count == 3)
    return launch<shape<V, ROWS, 3, false>>(d, q, plan, e);
  else
    return launch<shape<V, ROWS, 4, false>>(d, q, plan, e);
}

template <typename V>
static pu_err launch_rows(pu_cuda *d, const pu_cuda_product *q, const skinny_plan *plan, pu_error *e) {
  switch (plan->rows) {
  case 8:
    return launch_lines<V, 8>(d, q, plan, e);
  case 16:
    return launch_lines<V, 16>(d, q, plan, e);
  case 32:
    return launch_lines<V, 32>(d, q, plan, e);
  default:
    return launch_lines<V, 64>(d, q, plan, e);
  }
}

static pu_err launch_plan(pu_cuda *d, const pu_cuda_product *q, const skinny_plan *plan, pu_error *e) {
  if (q->int8) return launch_rows<int8_t>(d, q, plan, e);
  if (q->blocks) return launch_rows<e4m3_blocks>(d, q, plan, e);
  return q->fp8 ? launch_rows<e4m3>(d, q, plan, e) : launch_rows<bf16>(d, q, plan, e);
}

/* All multiprocessors have as many lines: what takes longest is what one has to do. Many of them go to two blocks, so
 * that the next kernel's first block begins while the other still runs. Of codes a block has 128 at most: sums of boxes
 * take as many registers again. */
static skinny_plan plan_of(const pu_cuda *d, const pu_cuda_product *p, bool gated) {
  skinny_plan plan = {};
  const int strips = gated ? 2 : 1, most = gated ? 2 * LINES : MOST_LINES; /* of a multiprocessor */
  int64_t turns = ceil_div(p->cols, (int64_t)d->sms * most);
  plan.rows = p->rows <= 8 ? 8 : p->rows <= 16 ? 16 : p->rows <= 32 ? 32 : 64, plan.gated = gated;
  plan.lines = (int)ceil_div(p->cols, turns * d->sms * 8) * 8;
  const bool codes = p->fp8 || p->int8, halved = strips * plan.lines > 128 && (turns == 1 || codes);
  const bool shared = strips * plan.lines <= SHARED_LINES;
  plan.ring = plan.rows > SHARED_ROWS || codes ? RING : shared ? SHARED_RING : ONE_RING;
  if (halved || (gated && plan.lines > LINES)) plan.lines = (int)ceil_div(plan.lines, 16) * 8, plan.ring = RING / 2;
  plan.count = strips * (int)ceil_div(plan.lines, LINES);
  return plan;
}

bool pu_cuda_has_skinny(const pu_cuda *d) {
  return d->capability == 90;
}

pu_err pu_cuda_skinny(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  skinny_plan plan = plan_of(d, p, false);
  return launch_plan(d, p, &plan, e);
}

pu_err pu_cuda_skinny_gated(pu_cuda *d, const pu_cuda_product *p, pu_error *e) {
  skinny_plan plan = plan_of(d, p, true);
  return launch_plan(d, p, &plan, e);
}
