/* embedding: y[n] = w[ids[n]]; dw[v] = sum of dy[n] over ids[n] = v, in the order of the tokens.
 *
 * Backward sorts the tokens by id (stable, so that those of an id stay in their order) and gives the run of each id to
 * warps, one for every 128 columns: each row of dy is read once, each row of dw that has a token written once. Where dw
 * has to be overwritten it is cleared first, at the speed of writing. */
#include <cub/device/device_radix_sort.cuh>

#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/use.h"

enum { THREADS = 256, MOST_ROWS = 65535, RUN_THREADS = 128, RUN_COLUMNS = 4 /* of a thread */ };

/* ---- forward ---- */

template <typename W, typename Y> struct gathered {
  const int32_t *ids;
  const W *w;
  Y *y;
  int64_t w_step, y_step, rows, vocab;
  int width;
  pu_cuda_faults faults;
};

/* A row of an id that is none becomes zeros; the host hears of it when it waits next. */
template <typename W, typename Y, bool FAST> __global__ void __launch_bounds__(THREADS) gather(gathered<W, Y> g) {
  int at = (int)(blockIdx.x * blockDim.x + threadIdx.x) * PU_LANE;
  if (at >= g.width) return;
  for (int64_t n = blockIdx.y; n < g.rows; n += gridDim.y) {
    int32_t id = g.ids[n];
    float v[PU_LANE] = {0};
    if (id >= 0 && id < g.vocab)
      read8<FAST>(g.w + id * g.w_step, at, g.width, v);
    else if (at == 0)
      pu_cuda_report(g.faults, PU_CUDA_BAD_TOKEN, n, id);
    write8<FAST>(g.y + n * g.y_step, at, g.width, v);
  }
}

static pu_err embedding(pu_backend *be, void *args, pu_error *e) {
  const pu_embedding_args *a = (const pu_embedding_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  int64_t rows = a->ids->shape[0], width = a->w->shape[1], lanes = ceil_div(width, PU_LANE);
  bool fast = width % PU_LANE == 0 && pu_rows_aligned(a->w) && pu_rows_aligned(a->y);
  unsigned threads = (unsigned)PU_MIN(ceil_div(lanes, 32) * 32, (int64_t)THREADS);
  dim3 grid((unsigned)ceil_div(lanes, threads), (unsigned)PU_MIN(rows, (int64_t)MOST_ROWS));
  if (rows * width == 0) return PU_OK;
  pu_with_type(a->w->dtype, [&](auto w) {
    pu_with_type(a->y->dtype, [&](auto y) {
      typedef decltype(w) W;
      typedef decltype(y) Y;
      gathered<W, Y> g = {(const int32_t *)a->ids->data,
                          (const W *)a->w->data,
                          (Y *)a->y->data,
                          pu_step(a->w),
                          pu_step(a->y),
                          rows,
                          a->w->shape[0],
                          (int)width,
                          d->faults};
      if (fast)
        gather<W, Y, true><<<grid, threads, 0, d->stream>>>(g);
      else
        gather<W, Y, false><<<grid, threads, 0, d->stream>>>(g);
    });
  });
  return pu_cuda_launched("embedding", e);
}

/* ---- backward ---- */

/* What is sorted: id above, token below. An id that is none comes last and is left out. */
__global__ void __launch_bounds__(THREADS) make_keys(const int32_t *ids, int64_t n, int64_t vocab, uint64_t *keys) {
  int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i >= n) return;
  uint64_t id = ids[i] >= 0 && ids[i] < vocab ? (uint64_t)ids[i] : (uint64_t)vocab;
  keys[i] = id << 32 | (uint64_t)i;
}

template <typename Y, typename G> struct runs {
  const uint64_t *keys; /* sorted */
  const Y *dy;
  G *dw;
  int64_t dy_step, dw_step, rows, vocab;
  int width;
  bool add;
};

template <bool FAST> __device__ static inline void read4(const float *row, int at, int width, float v[RUN_COLUMNS]) {
  if (FAST) {
    float4 f = __ldcs((const float4 *)(row + at));
    v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
  } else {
#pragma unroll
    for (int i = 0; i < RUN_COLUMNS; i++) v[i] = at + i < width ? row[at + i] : 0.0f;
  }
}

template <bool FAST> __device__ static inline void read4(const bf16 *row, int at, int width, float v[RUN_COLUMNS]) {
  if (FAST) {
    uint2 w = __ldcs((const uint2 *)(row + at));
    v[0] = __uint_as_float(w.x << 16), v[1] = __uint_as_float(w.x & 0xffff0000u);
    v[2] = __uint_as_float(w.y << 16), v[3] = __uint_as_float(w.y & 0xffff0000u);
  } else {
#pragma unroll
    for (int i = 0; i < RUN_COLUMNS; i++) v[i] = at + i < width ? to_f32(row[at + i]) : 0.0f;
  }
}

/* Adds the rows of dy of COUNT tokens in their order, all of them on their way before the first is added. */
template <bool FAST, int COUNT, typename Y, typename G>
__device__ static inline void add_rows(const runs<Y, G> &r, uint32_t token, int from, int at, float sum[RUN_COLUMNS]) {
  float v[COUNT][RUN_COLUMNS];
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    uint32_t n = __shfl_sync(0xffffffffu, token, from + i);
    read4<FAST>(r.dy + n * r.dy_step, at, r.width, v[i]);
  }
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
#pragma unroll
    for (int c = 0; c < RUN_COLUMNS; c++) sum[c] += v[i][c];
  }
}

/* The run of id from a place on. Lanes behind the last column read the last ones again, and write nothing. */
template <bool FAST, typename Y, typename G>
__device__ static inline void sum_run(const runs<Y, G> &r, int64_t place, uint32_t id, int lane, int at,
                                      float sum[RUN_COLUMNS]) {
  for (int count = 32; count == 32; place += 32) {
    uint64_t key = place + lane < r.rows ? r.keys[place + lane] : ~(uint64_t)0;
    count = __popc(__ballot_sync(0xffffffffu, (uint32_t)(key >> 32) == id)); /* sorted: the first lanes */
    int i = 0;
    for (; i + 8 <= count; i += 8) add_rows<FAST, 8>(r, (uint32_t)key, i, at, sum);
    for (; i < count; i++) add_rows<FAST, 1>(r, (uint32_t)key, i, at, sum);
  }
}

/* A warp has the run that begins at its place, if one does, and 128 columns of it. */
template <bool FAST, typename Y, typename G> __global__ void __launch_bounds__(RUN_THREADS) sum_runs(runs<Y, G> r) {
  int lane = (int)threadIdx.x % 32, own = (int)(blockIdx.x * RUN_THREADS + threadIdx.x) * RUN_COLUMNS;
  int at = FAST ? min(own, r.width - RUN_COLUMNS) : own;
  if (own - lane * RUN_COLUMNS >= r.width) return;
  for (int64_t begin = blockIdx.y; begin < r.rows; begin += gridDim.y) {
    uint32_t id = (uint32_t)(r.keys[begin] >> 32);
    if (id >= r.vocab || (begin > 0 && (uint32_t)(r.keys[begin - 1] >> 32) == id)) continue;
    float sum[RUN_COLUMNS] = {0};
    G *to = r.dw + id * r.dw_step;
    if (r.add) {
#pragma unroll
      for (int i = 0; i < RUN_COLUMNS; i++) sum[i] = at + i < r.width ? to_f32(to[at + i]) : 0.0f;
    }
    sum_run<FAST>(r, begin, id, lane, at, sum);
    if (own >= r.width) continue;
#pragma unroll
    for (int i = 0; i < RUN_COLUMNS; i++)
      if (FAST || at + i < r.width) to[at + i] = from_f32<G>(sum[i]);
  }
}

static int bits_of(int64_t vocab) {
  int bits = 1;
  while (bits < 31 && vocab >> bits) bits++;
  return bits;
}

static size_t sort_bytes(int64_t n, int64_t vocab) {
  size_t bytes = 0;
  cub::DeviceRadixSort::SortKeys((void *)NULL, bytes, (const uint64_t *)NULL, (uint64_t *)NULL, n, 32,
                                 32 + bits_of(vocab));
  return bytes;
}

static size_t keys_bytes(int64_t n) {
  return (size_t)ceil_div(n, 32) * 32 * sizeof(uint64_t);
}

static pu_err sort_tokens(pu_cuda *d, const pu_embedding_args *a, uint64_t **sorted, pu_error *e) {
  int64_t n = a->ids->shape[0], vocab = a->w->shape[0];
  size_t room = sort_bytes(n, vocab);
  void *work;
  PU_TRY(pu_cuda_work(d, 2 * keys_bytes(n) + room, &work, e));
  uint64_t *keys = (uint64_t *)work;
  *sorted = (uint64_t *)((char *)work + keys_bytes(n));
  make_keys<<<(unsigned)ceil_div(n, THREADS), THREADS, 0, d->stream>>>((const int32_t *)a->ids->data, n, vocab, keys);
  PU_CUDA_TRY(cub::DeviceRadixSort::SortKeys((char *)work + 2 * keys_bytes(n), room, keys, *sorted, n, 32,
                                             32 + bits_of(vocab), d->stream),
              "sorting tokens", e);
  return PU_OK;
}

static pu_err embedding_back(pu_backend *be, void *args, pu_error *e) {
  const pu_embedding_args *a = (const pu_embedding_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  const pu_tensor *dw = a->w->grad, *dy = a->y->grad;
  int64_t rows = a->ids->shape[0], width = a->w->shape[1];
  uint64_t *sorted;
  if (!dw) return PU_OK;
  bool add = pu_grad_beta(a->w) != 0, fast = width % RUN_COLUMNS == 0 && pu_rows_aligned(dy);
  if (!add) PU_TRY(be->clear(be, dw->data, pu_tensor_bytes(dw), e));
  if (rows * width == 0) return PU_OK;
  PU_TRY(sort_tokens(d, a, &sorted, e));
  dim3 grid((unsigned)ceil_div(width, RUN_THREADS * RUN_COLUMNS), (unsigned)PU_MIN(rows, (int64_t)MOST_ROWS));
  pu_with_type(dy->dtype, [&](auto y) {
    pu_with_type(dw->dtype, [&](auto g) {
      typedef decltype(y) Y;
      typedef decltype(g) G;
      runs<Y, G> r = {sorted, (const Y *)dy->data, (G *)dw->data, pu_step(dy), pu_step(dw),
                      rows,   a->w->shape[0],      (int)width,    add};
      if (fast)
        sum_runs<true><<<grid, RUN_THREADS, 0, d->stream>>>(r);
      else
        sum_runs<false><<<grid, RUN_THREADS, 0, d->stream>>>(r);
    });
  });
  return pu_cuda_launched("embedding, backward", e);
}

size_t pu_cuda_embedding_work_bytes(const pu_work_shape *s) {
  return 2 * keys_bytes(s->tokens) + sort_bytes(s->tokens, s->vocab);
}

void pu_cuda_use_embedding(pu_cuda *d) {
  d->base.forward[PU_OP_embedding] = embedding;
  d->base.backward[PU_OP_embedding] = embedding_back;
}
