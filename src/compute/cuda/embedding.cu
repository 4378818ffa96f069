/* embedding: y[n] = w[ids[n]]; dw[v] = sum of dy[n] over ids[n] = v, in the order of the tokens.
 *
 * Backward sorts the tokens by id (stable, so that those of an id stay in their order) and deals them out in tiles of
 * 32, to a warp for every 128 columns: each row of dy is read once, each row of dw that has a token written once, and a
 * token that is everywhere is no more work than others. Where dw has to be overwritten it is cleared first, at the
 * speed of writing. */
#include <cub/device/device_radix_sort.cuh>

#include "src/compute/cuda/rows.h"
#include "src/compute/cuda/use.h"

enum { THREADS = 256, MOST_ROWS = 65535, RUN_THREADS = 128 };
enum { TILE = 32 /* sorted tokens of a warp */, BATCH = 8, RUN_COLUMNS = 4 /* of a thread */ };

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
  constexpr int N = PU_MIN(pu_lane<W>::n, pu_lane<Y>::n);
  int at = (int)(blockIdx.x * blockDim.x + threadIdx.x) * N;
  let_next_start();
  wait_for_before();
  if (at >= g.width) return;
  for (int64_t n = blockIdx.y; n < g.rows; n += gridDim.y) {
    int32_t id = g.ids[n];
    float v[N] = {0};
    if (id >= 0 && id < g.vocab)
      read_row<FAST>(g.w + id * g.w_step, at, g.width, v);
    else if (at == 0)
      pu_cuda_report(g.faults, PU_CUDA_BAD_TOKEN, n, id);
    write_row<FAST>(g.y + n * g.y_step, at, g.width, v);
  }
}

static int lane_of(const pu_embedding_args *a) {
  return a->w->dtype == PU_BF16 && a->y->dtype == PU_BF16 ? pu_lane<bf16>::n : pu_lane<float>::n;
}

static pu_err embedding(pu_backend *be, void *args, pu_error *e) {
  const pu_embedding_args *a = (const pu_embedding_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  int64_t rows = a->ids->shape[0], width = a->w->shape[1], lanes = ceil_div(width, lane_of(a));
  if (rows * width == 0) return PU_OK;
  bool fast = pu_width_whole(width) && pu_rows_aligned(a->w) && pu_rows_aligned(a->y);
  unsigned threads = (unsigned)PU_MIN(ceil_div(lanes, 32) * 32, (int64_t)THREADS);
  dim3 grid((unsigned)ceil_div(lanes, threads), (unsigned)PU_MIN(rows, (int64_t)MOST_ROWS));
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
      pu_cuda_start(d, rows <= PU_CUDA_SHORT_ROWS, fast ? gather<W, Y, true> : gather<W, Y, false>, grid, threads, 0,
                    g);
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
  float *shares; /* [tiles, 2, width] */
  int64_t dy_step, dw_step, rows, vocab;
  int width;
  bool add;
};

/* Where runs begin and end among the places of a tile: a bit each, the same in all lanes. */
struct places {
  uint32_t id, token; /* of this lane's place */
  uint32_t begins, ends, used;
};

template <typename Y, typename G>
__device__ static inline places read_places(const runs<Y, G> &r, int64_t tile, int lane) {
  int64_t at = tile * TILE + lane;
  uint64_t none = ~(uint64_t)0, key = at < r.rows ? r.keys[at] : none;
  uint32_t id = (uint32_t)(key >> 32);
  uint32_t before = at > 0 && at <= r.rows ? (uint32_t)(r.keys[at - 1] >> 32) : ~0u;
  uint32_t after = at + 1 < r.rows ? (uint32_t)(r.keys[at + 1] >> 32) : ~0u;
  bool used = id < r.vocab;
  return {id, (uint32_t)key, __ballot_sync(~0u, used && id != before), __ballot_sync(~0u, used && id != after),
          __ballot_sync(~0u, used)};
}

/* The sums of the runs of a tile of sorted tokens, of 128 columns. A run that reaches into other tiles leaves its
 * share: the one that ends here or goes on behind in the first row of the tile's shares, the one that begins here and
 * goes on in the second. */
template <bool FAST, typename Y, typename G> __global__ void __launch_bounds__(RUN_THREADS) sum_tiles(runs<Y, G> r) {
  int lane = (int)threadIdx.x % 32, at = (int)(blockIdx.x * RUN_THREADS + threadIdx.x) * RUN_COLUMNS;
  bool mine = at < r.width;
  for (int64_t tile = blockIdx.y; tile * TILE < r.rows; tile += gridDim.y) {
    places p = read_places(r, tile, lane);
    float *share = r.shares + tile * 2 * r.width, sum[RUN_COLUMNS] = {0};
    bool began = false;
    for (int i = 0; i < TILE && p.used >> i; i += BATCH) {
      float v[BATCH][RUN_COLUMNS], old[BATCH][RUN_COLUMNS];
#pragma unroll
      for (int j = 0; j < BATCH; j++) { /* all of them on their way before the first is added */
        int64_t n = __shfl_sync(~0u, p.token, i + j), id = __shfl_sync(~0u, p.id, i + j);
        bool old_too = r.add && p.begins >> (i + j) & 1;
#pragma unroll
        for (int c = 0; c < RUN_COLUMNS; c++) v[j][c] = old[j][c] = 0;
        if (mine && p.used >> (i + j) & 1) read_row<FAST>(r.dy + n * r.dy_step, at, r.width, v[j]);
        if (mine && old_too) read_row<FAST>(r.dw + id * r.dw_step, at, r.width, old[j]);
      }
#pragma unroll
      for (int j = 0; j < BATCH; j++) {
        int64_t id = __shfl_sync(~0u, p.id, i + j);
        bool begins = p.begins >> (i + j) & 1, ends = p.ends >> (i + j) & 1;
        began |= begins;
#pragma unroll
        for (int c = 0; c < RUN_COLUMNS; c++) sum[c] = (begins ? old[j][c] : sum[c]) + v[j][c];
        if (mine && ends && began) write_row<FAST>(r.dw + id * r.dw_step, at, r.width, sum);
        if (mine && ends && !began) write_row<FAST>(share, at, r.width, sum);
      }
    }
    if (mine && p.used >> (TILE - 1) && !(p.ends >> (TILE - 1)))
      write_row<FAST>(share + (began ? r.width : 0), at, r.width, sum);
  }
}

/* How many tiles behind this one belong to the run of id: all that begin with it. */
template <typename Y, typename G>
__device__ static inline int64_t tiles_behind(const runs<Y, G> &r, int64_t tile, uint32_t id, int lane) {
  for (int64_t n = 0;; n += 32) {
    int64_t place = (tile + 1 + n + lane) * TILE;
    uint32_t same = __ballot_sync(~0u, place < r.rows && (uint32_t)(r.keys[place] >> 32) == id);
    if (same != ~0u) return n + __ffs((int)~same) - 1;
  }
}

/* The shares of the run that begins in a tile and goes on behind it, added in their order. */
template <bool FAST, typename Y, typename G> __global__ void __launch_bounds__(RUN_THREADS) add_shares(runs<Y, G> r) {
  int lane = (int)threadIdx.x % 32, at = (int)(blockIdx.x * RUN_THREADS + threadIdx.x) * RUN_COLUMNS;
  for (int64_t tile = blockIdx.y; (tile + 1) * TILE < r.rows; tile += gridDim.y) {
    uint32_t id = (uint32_t)(r.keys[(tile + 1) * TILE - 1] >> 32), next = (uint32_t)(r.keys[(tile + 1) * TILE] >> 32);
    uint32_t first = (uint32_t)(r.keys[tile * TILE] >> 32);
    uint32_t before = tile > 0 ? (uint32_t)(r.keys[tile * TILE - 1] >> 32) : ~0u;
    if (id >= r.vocab || id != next || (first == id && before == id)) continue;
    const float *share = r.shares + tile * 2 * r.width;
    int64_t tiles = tiles_behind(r, tile, id, lane);
    float sum[RUN_COLUMNS];
    if (at >= r.width) continue;
    read_row<FAST>(share + r.width, at, r.width, sum);
#pragma unroll 8
    for (int64_t i = 1; i <= tiles; i++) {
      float v[RUN_COLUMNS];
      read_row<FAST>(share + i * 2 * r.width, at, r.width, v);
#pragma unroll
      for (int c = 0; c < RUN_COLUMNS; c++) sum[c] += v[c];
    }
    write_row<FAST>(r.dw + id * r.dw_step, at, r.width, sum);
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

/* What backward takes of the work memory. */
typedef struct sorting {
  uint64_t *keys, *sorted;
  float *shares;
  void *room; /* of the sort */
  size_t room_bytes;
} sorting;

static size_t up(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

/* work: NULL: only how many bytes. */
static size_t lay_out(int64_t n, int64_t width, int64_t vocab, char *work, sorting *out) {
  size_t keys = up((size_t)n * sizeof(uint64_t)), shares = up((size_t)(ceil_div(n, TILE) * 2 * width) * sizeof(float));
  out->keys = (uint64_t *)work;
  out->sorted = (uint64_t *)(work + keys);
  out->shares = (float *)(work + 2 * keys);
  out->room = work + 2 * keys + shares;
  out->room_bytes = sort_bytes(n, vocab);
  return 2 * keys + shares + out->room_bytes;
}

static pu_err sort_tokens(pu_cuda *d, const pu_embedding_args *a, sorting *out, pu_error *e) {
  int64_t n = a->ids->shape[0], vocab = a->w->shape[0], width = a->w->shape[1];
  void *work;
  PU_TRY(pu_cuda_work(d, lay_out(n, width, vocab, NULL, out), &work, e));
  lay_out(n, width, vocab, (char *)work, out);
  make_keys<<<(unsigned)ceil_div(n, THREADS), THREADS, 0, d->stream>>>((const int32_t *)a->ids->data, n, vocab,
                                                                       out->keys);
  PU_CUDA_TRY(cub::DeviceRadixSort::SortKeys(out->room, out->room_bytes, out->keys, out->sorted, n, 32,
                                             32 + bits_of(vocab), d->stream),
              "sorting tokens", e);
  return PU_OK;
}

template <typename Y, typename G> static void sum_launch(pu_cuda *d, runs<Y, G> r, bool fast) {
  int64_t tiles = ceil_div(r.rows, TILE);
  dim3 grid((unsigned)ceil_div(r.width, RUN_THREADS * RUN_COLUMNS), (unsigned)PU_MIN(tiles, (int64_t)MOST_ROWS));
  if (fast)
    sum_tiles<true><<<grid, RUN_THREADS, 0, d->stream>>>(r);
  else
    sum_tiles<false><<<grid, RUN_THREADS, 0, d->stream>>>(r);
  if (tiles == 1) return;
  if (fast)
    add_shares<true><<<grid, RUN_THREADS, 0, d->stream>>>(r);
  else
    add_shares<false><<<grid, RUN_THREADS, 0, d->stream>>>(r);
}

static pu_err embedding_back(pu_backend *be, void *args, pu_error *e) {
  const pu_embedding_args *a = (const pu_embedding_args *)args;
  pu_cuda *d = (pu_cuda *)be;
  const pu_tensor *dw = a->w->grad, *dy = a->y->grad;
  int64_t rows = a->ids->shape[0], width = a->w->shape[1];
  sorting s;
  if (!dw) return PU_OK;
  bool add = pu_grad_beta(a->w) != 0;
  bool fast = pu_width_whole(width) && pu_rows_aligned(dy) && pu_rows_aligned(dw);
  if (!add) PU_TRY(be->clear(be, dw->data, pu_tensor_bytes(dw), e));
  if (rows * width == 0) return PU_OK;
  PU_TRY(sort_tokens(d, a, &s, e));
  pu_with_type(dy->dtype, [&](auto y) {
    pu_with_type(dw->dtype, [&](auto g) {
      typedef decltype(y) Y;
      typedef decltype(g) G;
      runs<Y, G> r = {s.sorted, (const Y *)dy->data, (G *)dw->data, s.shares, pu_step(dy), pu_step(dw),
                      rows,     a->w->shape[0],      (int)width,    add};
      sum_launch(d, r, fast);
    });
  });
  return pu_cuda_launched("embedding, backward", e);
}

size_t pu_cuda_embedding_work_bytes(const pu_work_shape *s) {
  sorting parts;
  return lay_out(s->tokens, s->hidden, s->vocab, NULL, &parts);
}

void pu_cuda_use_embedding(pu_cuda *d) {
  d->base.forward[PU_OP_embedding] = embedding;
  d->base.backward[PU_OP_embedding] = embedding_back;
}
