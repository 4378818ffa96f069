/* Attention in every case: any head, any type, packed or paged, in f32 throughout. A block of threads takes a tile of
 * rows (queries; in the backward of keys and values: keys) and goes over tiles of the other side in their order, so a
 * row's result depends on its own sequence alone, and not on how its tokens were divided among calls.
 *
 * Eight threads have a row: for scores, thread c of them has columns c, c + 8, … of the tile; for outputs, the values
 * 4 c + 32 i and the three after them. */
#include <math.h>

#include "src/compute/cuda/attention.h"
#include "src/compute/cuda/rows.h"

namespace {

constexpr int LANES = 8; /* threads of a row */

template <int DM> struct sizes {
  static constexpr int rows = DM > 128 ? 16 : 32; /* shared memory holds four tiles of f32 */
  static constexpr int threads = rows * LANES;
  static constexpr int parts = DM / 32; /* float4 of a thread's outputs */
};

__device__ int pitch_of(int dim) {
  return (dim + 3) / 4 * 4 + 4; /* eight rows' float4 lie in different banks */
}

__device__ int64_t first_seen(int64_t pos, int64_t window) {
  return max(pos - window + 1, (int64_t)0);
}

__device__ float of_lanes_max(float x) {
  for (int step = 1; step < LANES; step *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

__device__ float of_lanes_sum(float x) {
  for (int step = 1; step < LANES; step *= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

/* A tile as f32, zeros where there is nothing: row r is `row(r)`, or NULL. A warp takes a row at a time. */
template <int ROWS, typename F> __device__ void fill(float *to, int pitch, int bits, int dim, F row) {
  for (int r = threadIdx.x / 32; r < ROWS; r += ROWS * LANES / 32) {
    const char *from = row(r);
    for (int i = threadIdx.x % 32; i < pitch; i += 32)
      to[r * pitch + i] = from && i < dim ? pu_read_value(from, bits, dim, i) : 0.0f;
  }
}

__device__ float dot(const float *a, const float *b, int dim) {
  float sum = 0;
  for (int i = 0; i < dim; i += 4) {
    const float4 x = *(const float4 *)(a + i), y = *(const float4 *)(b + i);
    sum = fmaf(x.x, y.x, fmaf(x.y, y.y, fmaf(x.z, y.z, fmaf(x.w, y.w, sum))));
  }
  return sum;
}

/* acc += p row, the thread's part. */
template <int PARTS> __device__ void add_row(float4 acc[PARTS], float p, const float *row, int dim) {
  const int c = threadIdx.x % LANES;
#pragma unroll
  for (int i = 0; i < PARTS; i++)
    if (4 * c + 32 * i < dim) {
      const float4 x = *(const float4 *)(row + 4 * c + 32 * i);
      acc[i].x = fmaf(p, x.x, acc[i].x);
      acc[i].y = fmaf(p, x.y, acc[i].y);
      acc[i].z = fmaf(p, x.z, acc[i].z);
      acc[i].w = fmaf(p, x.w, acc[i].w);
    }
}

template <int PARTS> __device__ void clear(float4 acc[PARTS]) {
#pragma unroll
  for (int i = 0; i < PARTS; i++) acc[i] = make_float4(0, 0, 0, 0);
}

template <int PARTS> __device__ void multiply(float4 acc[PARTS], float by) {
#pragma unroll
  for (int i = 0; i < PARTS; i++) acc[i] = make_float4(acc[i].x * by, acc[i].y * by, acc[i].z * by, acc[i].w * by);
}

template <int PARTS> __device__ void store(char *row, int bits, int dim, const float4 acc[PARTS], bool add) {
  const int c = threadIdx.x % LANES;
#pragma unroll
  for (int i = 0; i < PARTS; i++) {
    const float x[4] = {acc[i].x, acc[i].y, acc[i].z, acc[i].w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int at = 4 * c + 32 * i + j;
      if (at < dim) pu_write_value(row, bits, at, add ? pu_read_value(row, bits, dim, at) + x[j] : x[j]);
    }
  }
}

/* ---- forward ---- */

template <int DM> __global__ void __launch_bounds__(sizes<DM>::threads) forward_kernel(pu_cuda_attend a) {
  constexpr int ROWS = sizes<DM>::rows, PARTS = sizes<DM>::parts, MINE = ROWS / LANES;
  extern __shared__ float4 shared[];
  const pu_cuda_tile t = a.tiles[blockIdx.x];
  const int head = blockIdx.y, g = head / a.share, pitch = pitch_of(a.dim), value = a.q_bits / 8;
  const int r = threadIdx.x / LANES, c = threadIdx.x % LANES;
  float *q = (float *)shared, *k = q + ROWS * pitch, *v = k + ROWS * pitch, *p = v + ROWS * pitch + r * (ROWS + 1);
  const int last = min(t.n - t.at, ROWS) - 1;
  const int64_t pos = t.base + t.at + r, end = t.base + t.at + last + 1;
  fill<ROWS>(q, pitch, a.q_bits, a.dim, [&](int i) {
    return i <= last ? a.q + (t.row + t.at + i) * a.q_row + (int64_t)head * a.dim * value : NULL;
  });
  float4 acc[PARTS];
  float most = -INFINITY, sum = 0;
  clear<PARTS>(acc);
  for (int64_t j0 = first_seen(t.base + t.at, a.window) / ROWS * ROWS; j0 < end; j0 += ROWS) {
    __syncthreads();
    const auto key = [&](const pu_cuda_rows &rows) {
      return [&, j0](int i) -> const char * { return j0 + i < end ? pu_row_of(rows, g, t.seq, t.row, j0 + i) : NULL; };
    };
    fill<ROWS>(k, pitch, a.k.bits, a.dim, key(a.k));
    fill<ROWS>(v, pitch, a.v.bits, a.dim, key(a.v));
    __syncthreads();
    float s[MINE], top = -INFINITY;
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const int64_t j = j0 + c + LANES * i;
      s[i] =
          j <= pos && j > pos - a.window ? a.scale * dot(q + r * pitch, k + (c + LANES * i) * pitch, a.dim) : -INFINITY;
      top = fmaxf(top, s[i]);
    }
    top = fmaxf(most, of_lanes_max(top));
    const float keep = most == -INFINITY ? 0.0f : expf(most - top);
    float add = 0;
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      const float x = s[i] == -INFINITY ? 0.0f : expf(s[i] - top);
      p[c + LANES * i] = x;
      add += x;
    }
    __syncwarp();
    most = top;
    sum = sum * keep + of_lanes_sum(add);
    multiply<PARTS>(acc, keep);
    for (int i = 0; i < ROWS; i++) add_row<PARTS>(acc, p[i], v + i * pitch, a.dim);
    __syncwarp();
  }
  if (r > last) return;
  multiply<PARTS>(acc, 1 / sum);
  store<PARTS>(a.out + (t.row + t.at + r) * a.out_row + (int64_t)head * a.dim * value, a.q_bits, a.dim, acc, false);
  if (a.lse && c == 0) a.lse[head * a.lse_stride + t.row + t.at + r] = most + logf(sum);
}

/* ---- backward ---- */

__global__ void delta_kernel(pu_cuda_attend a, int64_t rows, float *delta) {
  const int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const int head = blockIdx.y, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const int64_t column = (int64_t)head * a.dim * (a.q_bits / 8);
  float sum = 0;
  for (int i = lane; i < a.dim; i += 32)
    sum = fmaf(pu_read_value(a.out + row * a.out_row + column, a.q_bits, a.dim, i),
               pu_read_value(a.dout + row * a.dout_row + column, a.q_bits, a.dim, i), sum);
  sum = warp_sum(sum);
  if (lane == 0) delta[head * a.lse_stride + row] = sum;
}

/* The same of bf16 rows at 16-byte addresses, whose heads are of 8 LANES values: an access of a warp is one stretch. */
template <int LANES> __global__ void delta_of_eights(const pu_cuda_attend a, int64_t rows, float *delta) {
  const int64_t item = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / LANES, row = item / a.heads;
  const int head = (int)(item % a.heads), lane = threadIdx.x % LANES, at = (head * LANES + lane) * 16;
  float out[8] = {0}, dout[8] = {0}, sum = 0;
  if (row < rows) {
    read_fast((const bf16 *)(a.out + row * a.out_row + at), out);
    read_fast((const bf16 *)(a.dout + row * a.dout_row + at), dout);
  }
#pragma unroll
  for (int i = 0; i < 8; i++) sum = fmaf(out[i], dout[i], sum);
#pragma unroll
  for (int step = LANES / 2; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane == 0 && row < rows) delta[head * a.lse_stride + row] = sum;
}

/* One query against one key: its probability and the gradient of its score. */
__device__ void score_back(const pu_cuda_attend &a, const float *q, const float *k, const float *dout, const float *v,
                           float lse, float delta, float *p, float *ds) {
  *p = expf(a.scale * dot(q, k, a.dim) - lse);
  *ds = a.scale * *p * (dot(dout, v, a.dim) - delta);
}

/* A tile of queries. */
template <int DM> __global__ void __launch_bounds__(sizes<DM>::threads) backward_q_kernel(pu_cuda_attend a) {
  constexpr int ROWS = sizes<DM>::rows, PARTS = sizes<DM>::parts;
  extern __shared__ float4 shared[];
  const pu_cuda_tile t = a.tiles[blockIdx.x];
  const int head = blockIdx.y, g = head / a.share, pitch = pitch_of(a.dim), tile = ROWS * pitch;
  const int r = threadIdx.x / LANES, c = threadIdx.x % LANES;
  float *q = (float *)shared, *k = q + tile, *v = k + tile, *dout = v + tile, *ds = dout + tile + r * (ROWS + 1);
  const int last = min(t.n - t.at, ROWS) - 1;
  const int64_t column = (int64_t)head * a.dim * (a.q_bits / 8), row = t.row + t.at + r;
  const int64_t pos = t.at + r, end = t.at + last + 1;
  const auto mine = [&](const char *base, int64_t step) {
    return [=](int i) { return i <= last ? base + (t.row + t.at + i) * step + column : NULL; };
  };
  fill<ROWS>(q, pitch, a.q_bits, a.dim, mine(a.q, a.q_row));
  fill<ROWS>(dout, pitch, a.q_bits, a.dim, mine(a.dout, a.dout_row));
  const float lse = r <= last ? a.lse[head * a.lse_stride + row] : 0,
              delta = r <= last ? a.delta[head * a.lse_stride + row] : 0;
  float4 acc[PARTS];
  clear<PARTS>(acc);
  for (int64_t j0 = first_seen(t.at, a.window) / ROWS * ROWS; j0 < end; j0 += ROWS) {
    __syncthreads();
    const auto key = [&](const pu_cuda_rows &rows) {
      return [&, j0](int i) -> const char * { return j0 + i < end ? pu_row_of(rows, g, t.seq, t.row, j0 + i) : NULL; };
    };
    fill<ROWS>(k, pitch, a.k.bits, a.dim, key(a.k));
    fill<ROWS>(v, pitch, a.v.bits, a.dim, key(a.v));
    __syncthreads();
    for (int i = c; i < ROWS; i += LANES) {
      float p, d = 0;
      if (r <= last && j0 + i <= pos && j0 + i > pos - a.window)
        score_back(a, q + r * pitch, k + i * pitch, dout + r * pitch, v + i * pitch, lse, delta, &p, &d);
      ds[i] = d;
    }
    __syncwarp();
    for (int i = 0; i < ROWS; i++) add_row<PARTS>(acc, ds[i], k + i * pitch, a.dim);
    __syncwarp();
  }
  if (r <= last) store<PARTS>(a.dq + row * a.dqkv_row + column, a.q_bits, a.dim, acc, a.add);
}

/* A tile of keys, of one key head: over the query heads that share it, and the queries that see it. */
template <int DM> __global__ void __launch_bounds__(sizes<DM>::threads) backward_kv_kernel(pu_cuda_attend a) {
  constexpr int ROWS = sizes<DM>::rows, PARTS = sizes<DM>::parts;
  extern __shared__ float4 shared[];
  const pu_cuda_tile t = a.tiles[blockIdx.x];
  const int g = blockIdx.y, pitch = pitch_of(a.dim), tile = ROWS * pitch, value = a.q_bits / 8;
  const int r = threadIdx.x / LANES, c = threadIdx.x % LANES;
  float *k = (float *)shared, *v = k + tile, *q = v + tile, *dout = q + tile;
  float *p = dout + tile + r * 2 * (ROWS + 1), *ds = p + ROWS + 1;
  const int last = min(t.n - t.at, ROWS) - 1;
  const int64_t pos = t.at + r, end = min((int64_t)t.n, t.at + last + a.window);
  const auto mine = [&](const pu_cuda_rows &rows) {
    return [&](int i) -> const char * { return i <= last ? pu_row_of(rows, g, t.seq, t.row, t.at + i) : NULL; };
  };
  fill<ROWS>(k, pitch, a.k.bits, a.dim, mine(a.k));
  fill<ROWS>(v, pitch, a.v.bits, a.dim, mine(a.v));
  float4 dk[PARTS], dv[PARTS];
  clear<PARTS>(dk);
  clear<PARTS>(dv);
  for (int head = g * a.share; head < (g + 1) * a.share; head++)
    for (int64_t i0 = t.at; i0 < end; i0 += ROWS) {
      const int64_t column = (int64_t)head * a.dim * value, row = t.row + i0;
      const auto query = [&](const char *base, int64_t step) {
        return [=](int i) { return i0 + i < end ? base + (row + i) * step + column : NULL; };
      };
      __syncthreads();
      fill<ROWS>(q, pitch, a.q_bits, a.dim, query(a.q, a.q_row));
      fill<ROWS>(dout, pitch, a.q_bits, a.dim, query(a.dout, a.dout_row));
      __syncthreads();
      for (int i = c; i < ROWS; i += LANES) {
        float x = 0, d = 0;
        const int64_t at = head * a.lse_stride + row + i;
        if (r <= last && i0 + i < end && i0 + i >= pos && i0 + i < pos + a.window)
          score_back(a, q + i * pitch, k + r * pitch, dout + i * pitch, v + r * pitch, a.lse[at], a.delta[at], &x, &d);
        p[i] = x;
        ds[i] = d;
      }
      __syncwarp();
      for (int i = 0; i < ROWS; i++) {
        add_row<PARTS>(dv, p[i], dout + i * pitch, a.dim);
        add_row<PARTS>(dk, ds[i], q + i * pitch, a.dim);
      }
    }
  if (r > last) return;
  const int64_t at = (t.row + t.at + r) * a.dqkv_row + (int64_t)g * a.dim * value;
  store<PARTS>(a.dk + at, a.q_bits, a.dim, dk, a.add);
  store<PARTS>(a.dv + at, a.q_bits, a.dim, dv, a.add);
}

/* Shared memory of `tiles` tiles and so many rows of scores. */
template <int DM> size_t room(int dim, int tiles, int scores) {
  constexpr int ROWS = sizes<DM>::rows;
  return (size_t)ROWS * (tiles * ((dim + 3) / 4 * 4 + 4) + scores * (ROWS + 1)) * sizeof(float);
}

template <int DM, typename F>
pu_err launch(pu_cuda *d, const pu_cuda_attend *a, F kernel, int heads, size_t bytes, pu_error *e) {
  PU_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "attention", e);
  kernel<<<dim3(a->tile_count, heads), sizes<DM>::threads, bytes, d->stream>>>(*a);
  return pu_cuda_launched("attention", e);
}

template <int DM> pu_err forward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  return launch<DM>(d, a, forward_kernel<DM>, a->heads, room<DM>(a->dim, 3, 1), e);
}

template <int DM> pu_err backward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  PU_TRY(launch<DM>(d, a, backward_q_kernel<DM>, a->heads, room<DM>(a->dim, 4, 1), e));
  return launch<DM>(d, a, backward_kv_kernel<DM>, a->heads / a->share, room<DM>(a->dim, 4, 2), e);
}

} // namespace

int pu_cuda_plain_tile(int dim) {
  return dim <= 128 ? sizes<128>::rows : sizes<256>::rows;
}

pu_err pu_cuda_plain_forward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  if (a->dim <= 64) return forward<64>(d, a, e);
  return a->dim <= 128 ? forward<128>(d, a, e) : forward<256>(d, a, e);
}

pu_err pu_cuda_plain_backward(pu_cuda *d, const pu_cuda_attend *a, pu_error *e) {
  if (a->dim <= 64) return backward<64>(d, a, e);
  return a->dim <= 128 ? backward<128>(d, a, e) : backward<256>(d, a, e);
}

pu_err pu_cuda_attention_delta(pu_cuda *d, const pu_cuda_attend *a, int64_t rows, float *delta, pu_error *e) {
  const unsigned blocks = (unsigned)ceil_div(rows * a->heads * (a->dim / 8), 256);
  if (pu_cuda_mma_fits(a) && a->dim == 128)
    delta_of_eights<16><<<blocks, 256, 0, d->stream>>>(*a, rows, delta);
  else if (pu_cuda_mma_fits(a))
    delta_of_eights<8><<<blocks, 256, 0, d->stream>>>(*a, rows, delta);
  else
    delta_kernel<<<dim3((unsigned)ceil_div(rows, 8), a->heads), 256, 0, d->stream>>>(*a, rows, delta);
  return pu_cuda_launched("attention", e);
}
