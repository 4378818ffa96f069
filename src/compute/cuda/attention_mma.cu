/* Attention on tensor cores by warp, in bf16, for what is neither decoded nor taken by cuDNN: packed documents,
 * windows, long runs of new tokens over the paged cache (Dao 2023, "FlashAttention-2"). A block has 128 rows, a warp 16
 * of them; the other side comes in tiles of 64 rows, through cp.async, two at a time. A row's result depends on its own
 * sequence alone: its tiles begin at multiples of 64 positions, and what it does not see adds nothing, to the bit.
 *
 * The backward has no sums by several blocks: keys' and values' gradients are summed by the block that has the keys,
 * and queries' once more by the block that has the queries, at seven products instead of five. */
#include "src/compute/cuda/attention.h"
#include "src/compute/cuda/mma.h"

namespace {

constexpr int ROWS = PU_CUDA_MMA_TILE, TILE = 64, GROUP = 16, WARPS = ROWS / 16, THREADS = WARPS * 32;
constexpr float LOG2E = 1.4426950408889634f;

/* Where sixteen rows of the other side begin, for four tiles at a time: found three tiles before they are read. */
typedef struct places {
  const char *k[4][TILE / GROUP], *v[4][TILE / GROUP];
} places;

__device__ void find_places(places *p, const pu_cuda_attend &a, const pu_cuda_tile &t, int g, int tile, int64_t pos,
                            int64_t end) {
  const int i = threadIdx.x;
  if (i >= TILE / GROUP || pos + i * GROUP >= end) return;
  p->k[tile % 4][i] = pu_row_of(a.k, g, t.seq, t.row, pos + i * GROUP);
  p->v[tile % 4][i] = pu_row_of(a.v, g, t.seq, t.row, pos + i * GROUP);
}

/* A tile of bf16 rows, `step` bytes apart within sixteen; zeros from row `valid` on. */
template <int D>
__device__ void load_rows(uint32_t to, const char *const groups[TILE / GROUP], int64_t step, int valid) {
#pragma unroll
  for (int i = 0; i < TILE * D / 8 / THREADS; i++) {
    const int p = threadIdx.x + i * THREADS, r = p / (D / 8), c = p % (D / 8);
    const bool there = r < valid;
    copy_async(to + swizzled<D>(r, c), there ? groups[r / GROUP] + r % GROUP * step + c * 16 : groups[0],
               there ? 16 : 0);
  }
}

/* A tile of rows in few bits as they lie in the cache. */
__device__ void load_raw(uint32_t to, const char *const groups[TILE / GROUP], int row, int valid) {
  for (int p = threadIdx.x; p < TILE * row / 16; p += THREADS) {
    const int bytes = min(max(valid * row - p * 16, 0), 16);
    copy_async(to + p * 16, (bytes ? groups[p / row] : groups[0]) + p % row * 16, bytes);
  }
}

/* Such a tile as bf16. A row is four threads'. */
template <int D> __device__ void unpack(char *to, const char *raw, int bits) {
  const int r = threadIdx.x / 4, c = threadIdx.x % 4, row = D * bits / 8 + PU_KV_PAIR_BYTES;
  const uint32_t *words = (const uint32_t *)(raw + r * row), pair = words[D * bits / 32];
  const float scale = __half2float(__ushort_as_half((unsigned short)pair));
  const float low = __half2float(__ushort_as_half((unsigned short)(pair >> 16)));
  const uint32_t each = (1u << bits) - 1;
#pragma unroll
  for (int i = 0; i < D / 32; i++) {
    const int piece = c + 4 * i; /* eight values */
    uint32_t out[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int at = piece * 8 + 2 * j;
      const uint32_t x = words[at * bits / 32] >> at * bits % 32, y = x >> bits;
      out[j] = pair_bf16(fmaf((float)(x & each), scale, low), fmaf((float)(y & each), scale, low));
    }
    *(uint4 *)(to + swizzled<D>(r, piece)) = make_uint4(out[0], out[1], out[2], out[3]);
  }
}

/* c[2 x 8 columns] of rows [row, row + 16) of a tile: A times their transpose. */
template <int D> __device__ void times_rows(float c[2][4], const uint32_t a[D / 16][4], uint32_t tile, int row) {
  const int lane = threadIdx.x % 32, r = row + lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int i = 0; i < 4; i++) c[0][i] = c[1][i] = 0;
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    uint32_t b[4];
    load_matrices(b, tile + swizzled<D>(r, 2 * i + lane / 8 % 2));
    mma(c[0], a[i], b[0], b[1]);
    mma(c[1], a[i], b[2], b[3]);
  }
}

/* out += A times rows [row, row + 16) of a tile. */
template <int D> __device__ void add_rows(float out[D / 8][4], const uint32_t a[4], uint32_t tile, int row) {
  const int lane = threadIdx.x % 32, r = row + lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
  for (int i = 0; i < D / 16; i++) {
    uint32_t b[4];
    load_matrices_turned(b, tile + swizzled<D>(r, 2 * i + lane / 16));
    mma(out[2 * i], a, b[0], b[1]);
    mma(out[2 * i + 1], a, b[2], b[3]);
  }
}

/* Two tiles of C as A of the next product. */
__device__ void as_a(uint32_t a[4], const float c[2][4]) {
  a[0] = pair_bf16(c[0][0], c[0][1]);
  a[1] = pair_bf16(c[0][2], c[0][3]);
  a[2] = pair_bf16(c[1][0], c[1][1]);
  a[3] = pair_bf16(c[1][2], c[1][3]);
}

template <int D> __device__ void clear(float out[D / 8][4]) {
#pragma unroll
  for (int i = 0; i < D / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) out[i][j] = 0;
}

/* Half h (row g, or g + 8) of outputs as bf16. */
template <int D> __device__ void store_row(char *row, const float out[D / 8][4], int h, float by, bool add) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < D / 8; i++) {
    round_pair((uint32_t *)(row + (8 * i + 2 * t) * 2), out[i][2 * h] * by, out[i][2 * h + 1] * by, add);
  }
}

/* ---- forward ---- */

/* Scores of a lane's two rows, at `pos` and pos + 8, that are not seen become minus infinity. */
__device__ void mask(float s[TILE / 8][4], int64_t key0, int64_t pos, int64_t window) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < TILE / 8; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int64_t key = key0 + 8 * i + 2 * t + j % 2, at = pos + j / 2 * 8;
      if (key > at || key <= at - window) s[i][j] = -INFINITY;
    }
}

template <int D> struct state { float most[2], sum[2], out[D / 8][4]; };

template <int D> __device__ void soften(state<D> &w, float s[TILE / 8][4], float scale) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float top = w.most[h], sum = 0;
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) top = fmaxf(top, fmaxf(s[i][2 * h], s[i][2 * h + 1]));
    top = quad_max(top);
    /* Products by themselves: where the maximum stays, keep is 1 to the bit. */
    const float base = top == -INFINITY ? 0.0f : __fmul_rn(top, scale),
                keep = exp2_fast(__fmul_rn(w.most[h], scale) - base);
#pragma unroll
    for (int i = 0; i < TILE / 8; i++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        float *x = &s[i][2 * h + j];
        *x = exp2_fast(fmaf(*x, scale, -base));
        sum += *x;
      }
    w.most[h] = top;
    w.sum[h] = fmaf(w.sum[h], keep, sum);
#pragma unroll
    for (int i = 0; i < D / 8; i++) {
      w.out[i][2 * h] *= keep;
      w.out[i][2 * h + 1] *= keep;
    }
  }
}

template <int D> __device__ void finish(const pu_cuda_attend &a, const pu_cuda_tile &t, const state<D> &w, int head) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int r = t.at + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + 8 * h;
    const float sum = quad_sum(w.sum[h]);
    if (r >= t.n) continue;
    store_row<D>(a.out + (int64_t)(t.row + r) * a.out_row + (int64_t)head * D * 2, w.out, h, 1 / sum, false);
    if (a.lse && threadIdx.x % 4 == 0) a.lse[head * a.lse_stride + t.row + r] = fmaf(w.most[h], a.scale, logf(sum));
  }
}

/* FEW: keys and values in few bits. Shared memory: two stages, then the tile that the second becomes. */
template <int D, bool FEW> __global__ void __launch_bounds__(THREADS, 1) forward_kernel(pu_cuda_attend a) {
  extern __shared__ __align__(128) char shared[];
  __shared__ places where;
  const pu_cuda_tile t = a.tiles[blockIdx.y];
  const int head = blockIdx.x, g = head / a.share, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int k_bytes = TILE * (int)(FEW ? a.k.row : D * 2), v_bytes = TILE * (int)(FEW ? a.v.row : D * 2),
            stage = k_bytes + v_bytes;
  const int64_t end = t.base + min(t.n, t.at + ROWS),
                from = max(t.base + t.at - a.window + 1, (int64_t)0) / TILE * TILE;
  const int tiles = (int)((end - from + TILE - 1) / TILE);
  const uint32_t at = shared_address(shared);
  for (int i = 0; i < 3; i++) find_places(&where, a, t, g, i, from + i * TILE, end);
  uint32_t q[D / 16][4];
  const int r = t.at + warp * 16 + lane / 4;
  const char *row0 = a.q + (int64_t)(t.row + r) * a.q_row + (int64_t)head * D * 2;
  rows_as_a<D>(q, r < t.n ? row0 : NULL, r + 8 < t.n ? row0 + 8 * a.q_row : NULL);
  state<D> w = {{-INFINITY, -INFINITY}, {0, 0}};
  clear<D>(w.out);
  const auto load = [&](int i) {
    if (i < tiles) {
      const int valid = (int)min(end - from - i * TILE, (int64_t)TILE);
      const uint32_t to = at + i % 2 * stage;
      if (FEW) {
        load_raw(to, where.k[i % 4], (int)a.k.row, valid);
        load_raw(to + k_bytes, where.v[i % 4], (int)a.v.row, valid);
      } else {
        load_rows<D>(to, where.k[i % 4], a.k.row, valid);
        load_rows<D>(to + k_bytes, where.v[i % 4], a.v.row, valid);
      }
    }
    copies_commit();
  };
  __syncthreads();
  load(0);
  load(1);
  for (int i = 0; i < tiles; i++) {
    const int64_t key0 = from + i * TILE;
    uint32_t keys = at + i % 2 * stage, values = keys + k_bytes;
    copies_wait<1>();
    __syncthreads();
    if (FEW) {
      char *plain = shared + 2 * stage;
      unpack<D>(plain, shared + i % 2 * stage, a.k.bits);
      unpack<D>(plain + TILE * D * 2, shared + i % 2 * stage + k_bytes, a.v.bits);
      keys = at + 2 * stage;
      values = keys + TILE * D * 2;
      __syncthreads();
    }
    find_places(&where, a, t, g, i + 3, key0 + 3 * TILE, end);
    float s[TILE / 8][4];
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) times_rows<D>(s + 2 * j, q, keys, 16 * j);
    const int64_t pos = t.base + t.at + warp * 16;
    if (key0 + TILE - 1 > pos || key0 <= pos + 15 - a.window) mask(s, key0, pos + lane / 4, a.window);
    soften(w, s, a.scale * LOG2E);
#pragma unroll
    for (int j = 0; j < TILE / 16; j++) {
      uint32_t p[4];
      as_a(p, s + 2 * j);
      add_rows<D>(w.out, p, values, 16 * j);
    }
    __syncthreads();
    load(i + 2);
  }
  copies_wait<0>();
  finish(a, t, w, head);
}

template <int D, bool FEW> pu_err forward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  const int stage = TILE * (int)(FEW ? a->k.row + a->v.row : 4 * D), bytes = 2 * stage + (FEW ? TILE * 4 * D : 0);
  PU_CUDA_TRY(cudaFuncSetAttribute(forward_kernel<D, FEW>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "attention", e);
  forward_kernel<D, FEW><<<dim3(a->heads, a->tile_count), THREADS, bytes, d->stream>>>(*a);
  return pu_cuda_launched("attention", e);
}

/* ---- backward ---- */

/* Rows [0, valid) of a matrix whose rows are `step` bytes apart; zeros after them. */
template <int D> __device__ void load_side(uint32_t to, const char *from, int64_t step, int valid) {
#pragma unroll
  for (int i = 0; i < TILE * D / 8 / THREADS; i++) {
    const int p = threadIdx.x + i * THREADS, r = p / (D / 8), c = p % (D / 8);
    const bool there = r < valid;
    copy_async(to + swizzled<D>(r, c), from + (there ? r * step + c * 16 : 0), there ? 16 : 0);
  }
}

/* Gradients of the scores of sixteen rows and sixteen columns, from the scores and dp; scores become probabilities.
 * lse (base 2) and delta of each number: of its row or of its column. seen(i, j): whether number j of tile i counts. */
template <typename Seen>
__device__ void score_back(float s[2][4], float dp[2][4], float scale, const float lse[2][4], const float delta[2][4],
                           Seen seen) {
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float p = seen(i, j) ? exp2_fast(fmaf(s[i][j], scale, -lse[i][j])) : 0.0f;
      s[i][j] = p;
      dp[i][j] = p * (dp[i][j] - delta[i][j]);
    }
}

/* A tile of queries: over the keys that they see. */
template <int D> __global__ void __launch_bounds__(THREADS, 1) backward_q_kernel(pu_cuda_attend a) {
  constexpr int SIDE = TILE * D * 2, STAGE = 2 * SIDE;
  extern __shared__ __align__(128) char shared[];
  const pu_cuda_tile t = a.tiles[blockIdx.y];
  const int head = blockIdx.x, g = head / a.share, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int end = min(t.n, t.at + ROWS), r = t.at + warp * 16 + lane / 4;
  const int from = (int)(max(t.at - a.window + 1, (int64_t)0) / TILE * TILE), tiles = (end - from + TILE - 1) / TILE;
  const int64_t row = t.row + r, column = (int64_t)head * D * 2;
  const char *k = a.k.base + g * a.k.head + (int64_t)t.row * a.k.row,
             *v = a.v.base + g * a.v.head + (int64_t)t.row * a.v.row;
  const uint32_t at = shared_address(shared);
  const auto load = [&](int i) {
    const int first = from + i * TILE;
    if (i < tiles) {
      load_side<D>(at + i % 2 * STAGE, k + first * a.k.row, a.k.row, min(end - first, TILE));
      load_side<D>(at + i % 2 * STAGE + SIDE, v + first * a.v.row, a.v.row, min(end - first, TILE));
    }
    copies_commit();
  };
  load(0);
  load(1);
  uint32_t q[D / 16][4], dout[D / 16][4];
  float dq[D / 8][4], lse[2][4], delta[2][4];
  clear<D>(dq);
  const char *q0 = a.q + row * a.q_row + column, *d0 = a.dout + row * a.dout_row + column;
  rows_as_a<D>(q, r < t.n ? q0 : NULL, r + 8 < t.n ? q0 + 8 * a.q_row : NULL);
  rows_as_a<D>(dout, r < t.n ? d0 : NULL, r + 8 < t.n ? d0 + 8 * a.dout_row : NULL);
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const bool there = r + j / 2 * 8 < t.n;
    const int64_t i = head * a.lse_stride + row + j / 2 * 8;
    lse[0][j] = lse[1][j] = there ? a.lse[i] * LOG2E : 0;
    delta[0][j] = delta[1][j] = there ? a.delta[i] : 0;
  }
  for (int i = 0; i < tiles; i++) {
    const uint32_t keys = at + i % 2 * STAGE, values = keys + SIDE;
    copies_wait<1>();
    __syncthreads();
#pragma unroll
    for (int c = 0; c < TILE / 16; c++) {
      const int64_t key = from + i * TILE + 16 * c + lane % 4 * 2;
      float s[2][4], ds[2][4];
      uint32_t x[4];
      times_rows<D>(s, q, keys, 16 * c);
      times_rows<D>(ds, dout, values, 16 * c);
      score_back(s, ds, a.scale * LOG2E, lse, delta, [&](int tile, int j) {
        const int64_t there = key + 8 * tile + j % 2, pos = r + j / 2 * 8;
        return there <= pos && there > pos - a.window;
      });
      as_a(x, ds);
      add_rows<D>(dq, x, keys, 16 * c);
    }
    __syncthreads();
    load(i + 2);
  }
  copies_wait<0>();
  for (int h = 0; h < 2; h++)
    if (r + 8 * h < t.n) store_row<D>(a.dq + (row + 8 * h) * a.dqkv_row + column, dq, h, a.scale, a.add);
}

/* A tile of keys of one key head: over the query heads that share it, and the queries that see it. */
template <int D> __global__ void __launch_bounds__(THREADS, 1) backward_kv_kernel(pu_cuda_attend a) {
  constexpr int SIDE = TILE * D * 2, NUMBERS = 2 * TILE * (int)sizeof(float), STAGE = 2 * SIDE + NUMBERS;
  extern __shared__ __align__(128) char shared[];
  const pu_cuda_tile t = a.tiles[a.tile_count - 1 - blockIdx.y]; /* early keys are seen by most */
  const int g = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = t.at + warp * 16 + lane / 4;
  const int end = (int)min((int64_t)t.n, t.at + ROWS - 1 + a.window), from = t.at,
            each = (end - from + TILE - 1) / TILE;
  const int64_t row = t.row + r, column = (int64_t)g * D * 2;
  const uint32_t at = shared_address(shared);
  const auto load = [&](int i) {
    const int head = g * a.share + i / each, first = from + i % each * TILE, valid = min(end - first, TILE);
    const uint32_t to = at + i % 2 * STAGE;
    if (i < a.share * each) {
      const int64_t place = t.row + first, numbers = head * a.lse_stride + place;
      load_side<D>(to, a.q + place * a.q_row + (int64_t)head * D * 2, a.q_row, valid);
      load_side<D>(to + SIDE, a.dout + place * a.dout_row + (int64_t)head * D * 2, a.dout_row, valid);
      const int n = threadIdx.x % TILE, there = n < valid;
      if (threadIdx.x < 2 * TILE)
        copy_async_word(to + 2 * SIDE + threadIdx.x * 4,
                        (threadIdx.x < TILE ? a.lse : a.delta) + numbers + (there ? n : 0), there * 4);
    }
    copies_commit();
  };
  load(0);
  load(1);
  uint32_t k[D / 16][4], v[D / 16][4];
  float dk[D / 8][4], dv[D / 8][4];
  clear<D>(dk);
  clear<D>(dv);
  const char *k0 = a.k.base + column + row * a.k.row, *v0 = a.v.base + column + row * a.v.row;
  rows_as_a<D>(k, r < t.n ? k0 : NULL, r + 8 < t.n ? k0 + 8 * a.k.row : NULL);
  rows_as_a<D>(v, r < t.n ? v0 : NULL, r + 8 < t.n ? v0 + 8 * a.v.row : NULL);
  for (int i = 0; i < a.share * each; i++) {
    const uint32_t queries = at + i % 2 * STAGE, douts = queries + SIDE;
    const float *numbers = (const float *)(shared + i % 2 * STAGE + 2 * SIDE);
    copies_wait<1>();
    __syncthreads();
#pragma unroll
    for (int c = 0; c < TILE / 16; c++) {
      const int in_tile = 16 * c + lane % 4 * 2;
      const int64_t query = from + i % each * TILE + in_tile;
      float s[2][4], ds[2][4], lse[2][4], delta[2][4];
      uint32_t x[4];
#pragma unroll
      for (int j = 0; j < 8; j++) {
        lse[j / 4][j % 4] = numbers[in_tile + j / 4 * 8 + j % 2] * LOG2E;
        delta[j / 4][j % 4] = numbers[TILE + in_tile + j / 4 * 8 + j % 2];
      }
      times_rows<D>(s, k, queries, 16 * c);
      times_rows<D>(ds, v, douts, 16 * c);
      score_back(s, ds, a.scale * LOG2E, lse, delta, [&](int tile, int j) {
        const int64_t there = query + 8 * tile + j % 2, pos = r + j / 2 * 8;
        return there >= pos && there < pos + a.window;
      });
      as_a(x, s);
      add_rows<D>(dv, x, douts, 16 * c);
      as_a(x, ds);
      add_rows<D>(dk, x, queries, 16 * c);
    }
    __syncthreads();
    load(i + 2);
  }
  copies_wait<0>();
  for (int h = 0; h < 2; h++) {
    if (r + 8 * h >= t.n) continue;
    store_row<D>(a.dk + (row + 8 * h) * a.dqkv_row + column, dk, h, a.scale, a.add);
    store_row<D>(a.dv + (row + 8 * h) * a.dqkv_row + column, dv, h, 1, a.add);
  }
}

template <int D> pu_err backward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  const int bytes = 2 * 2 * TILE * D * 2, more = bytes + 2 * 2 * TILE * (int)sizeof(float);
  PU_CUDA_TRY(cudaFuncSetAttribute(backward_q_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
              "attention", e);
  PU_CUDA_TRY(cudaFuncSetAttribute(backward_kv_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, more),
              "attention", e);
  backward_q_kernel<D><<<dim3(a->heads, a->tile_count), THREADS, bytes, d->stream>>>(*a);
  backward_kv_kernel<D><<<dim3(a->heads / a->share, a->tile_count), THREADS, more, d->stream>>>(*a);
  return pu_cuda_launched("attention's backward", e);
}

} // namespace

bool pu_cuda_mma_fits(const pu_cuda_attend *a) {
  const int64_t bytes = a->q_row | a->out_row | a->dout_row | a->dqkv_row | (int64_t)a->q | (int64_t)a->out |
                        (int64_t)a->k.base | (int64_t)a->v.base | (int64_t)a->dout | (int64_t)a->dq;
  const bool rows =
      a->k.bits == 16 && a->v.bits == 16 ? (a->k.row | a->v.row) % 16 == 0 : a->k.bits < 16 && a->v.bits < 16;
  const bool blocks = !a->k.table || a->k.block % GROUP == 0;
  return a->q_bits == 16 && rows && blocks && (a->dim == 64 || a->dim == 128) && bytes % 16 == 0;
}

pu_err pu_cuda_mma_forward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  PU_TRY(pu_cuda_tiles_fit(a, e));
  if (a->dim == 64) return a->k.bits == 16 ? forward<64, false>(d, a, e) : forward<64, true>(d, a, e);
  return a->k.bits == 16 ? forward<128, false>(d, a, e) : forward<128, true>(d, a, e);
}

pu_err pu_cuda_mma_backward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  PU_TRY(pu_cuda_tiles_fit(a, e));
  return a->dim == 64 ? backward<64>(d, a, e) : backward<128>(d, a, e);
}
