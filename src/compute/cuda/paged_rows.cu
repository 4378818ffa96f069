/* New rows of q, k and v before attention over the cache: normed, turned, and put into the cache. */
#include "src/compute/cuda/paged.h"
#include "src/compute/cuda/paged_rows.cuh"
#include "src/compute/cuda/rows.h"

namespace {

/* ---- all at once ---- */

enum { THREADS = 256, ROWS = 4 /* tokens of a block that are on their way at once, where there are many */ };
enum { MOST_ROWS = 65535 };

typedef struct arrivals {
  char *qkv;
  int64_t row; /* bytes */
  pu_cuda_rows k, v;
  const pu_cuda_tile *seqs;
  const int32_t *token_seq; /* NULL: nothing goes into the cache */
  const float *cs, *wq, *wk;
  int64_t cs_row, tokens;
  int keys, values, all; /* heads before the first of keys, of values; of all that there is something to do for */
  float eps;
  bool w_rests; /* no kernel before writes wq and wk: nobody trains them */
} arrivals;

/* The norm of a head, of which D / 8 lanes have eight values each, as qk_norm has it. */
template <int D> __device__ uint4 normed(uint4 x, const float w[8], float eps) {
  const uint32_t words[4] = {x.x, x.y, x.z, x.w};
  float v[8], squares = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) two_f32(words[i], &v[2 * i], &v[2 * i + 1]);
#pragma unroll
  for (int i = 0; i < 8; i++) squares += v[i] * v[i];
  const float r = inverse_root(lanes_sum(squares, D / 8) / (float)D + eps);
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] *= r * w[i];
  return {pair_bf16(v[0], v[1]), pair_bf16(v[2], v[3]), pair_bf16(v[4], v[5]), pair_bf16(v[6], v[7])};
}

template <int D> __device__ uint4 turned(uint4 x, const float *cs, bool mine) {
  const int piece = threadIdx.x % (D / 8);
  const auto across = [](uint32_t v) { return __shfl_xor_sync(0xffffffffu, v, D / 16); };
  const uint4 other = {across(x.x), across(x.y), across(x.z), across(x.w)};
  if (!mine) return x;
  return pu_turned_eight(x, other, cs + piece % (D / 16) * 8, D / 2, piece < D / 16 ? -1.0f : 1.0f);
}

/* A key's or value's lanes into the cache; of the others nothing. Called by whole warps. */
template <int D> __device__ void keep(const arrivals &r, uint4 x, int64_t token, int seq, int head) {
  const bool there = head >= r.keys && head < r.all, key = head < r.values;
  const pu_cuda_rows &rows = key ? r.k : r.v;
  const pu_cuda_tile t = r.seqs[seq];
  char *to = there ? pu_row_of(rows, head - (key ? r.keys : r.values), seq, 0, t.base + token - t.row) : NULL;
  if (r.k.bits < 16 || r.v.bits < 16) pu_pack_lanes<D>(x, rows.bits, to, there && rows.bits < 16);
  if (there && rows.bits == 16) *(uint4 *)(to + threadIdx.x % (D / 8) * 16) = x;
}

/* blockIdx.x: heads, D / 8 lanes each; blockIdx.y: tokens, AT_ONCE of them. All lanes of a warp take part in all. */
template <int D, int AT_ONCE>
__global__ void __launch_bounds__(THREADS) rows_kernel(const __grid_constant__ arrivals r) {
  const int head = (int)(blockIdx.x * (THREADS / (D / 8)) + threadIdx.x / (D / 8)), piece = threadIdx.x % (D / 8);
  const bool turns = head < r.values;
  float w[8] = {};
  let_next_start();
  if (!r.w_rests) wait_for_before();
  if (r.wq && turns) read_fast((head < r.keys ? r.wq : r.wk) + piece * 8, w);
  wait_for_before();
  for (int64_t n = (int64_t)blockIdx.y * AT_ONCE; n < r.tokens; n += (int64_t)gridDim.y * AT_ONCE) {
    char *at = r.qkv + n * r.row + ((int64_t)head * D + piece * 8) * 2;
    uint4 x[AT_ONCE];
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      x[j] = uint4{};
      if (n + j < r.tokens && head < r.all) x[j] = *(const uint4 *)(at + j * r.row);
    }
#pragma unroll
    for (int j = 0; j < AT_ONCE; j++) {
      if (n + j >= r.tokens) break;
      const int seq = r.token_seq ? r.token_seq[n + j] : -1;
      if (r.wq) {
        const uint4 y = normed<D>(x[j], w, r.eps);
        if (turns) x[j] = y;
      }
      if (r.cs) x[j] = turned<D>(x[j], r.cs + (n + j) * r.cs_row, turns);
      if (head < (seq < 0 ? r.values : r.keys)) *(uint4 *)(at + j * r.row) = x[j];
      if (seq >= 0) keep<D>(r, x[j], n + j, seq, head);
    }
  }
}

bool is_whole(const pu_tensor *t) {
  return !t || (t->dtype == PU_F32 && (uintptr_t)t->data % 16 == 0 && (t->ndim == 1 || t->stride[0] % 4 == 0));
}

bool fits(const pu_cuda_attend *a, const pu_qk_ready *r) {
  const int64_t bytes = a->q_row | (int64_t)a->q | (int64_t)a->k.base | (int64_t)a->v.base;
  return a->q_bits == 16 && (a->dim == 64 || a->dim == 128) && a->k.bits <= 16 && a->v.bits <= 16 && bytes % 16 == 0 &&
         is_whole(r->cs) && is_whole(r->wq) && is_whole(r->wk);
}

template <int D> pu_err at_once(pu_cuda *d, const arrivals &r, pu_error *e) {
  const bool many = r.tokens > PU_CUDA_SHORT_ROWS;
  const dim3 grid((unsigned)ceil_div(r.all * (D / 8), (int)THREADS),
                  (unsigned)PU_MIN(ceil_div(r.tokens, many ? ROWS : 1), (int64_t)MOST_ROWS));
  pu_cuda_start(d, !many, many ? rows_kernel<D, ROWS> : rows_kernel<D, 1>, grid, THREADS, 0, r);
  return pu_cuda_launched("new rows for the cache", e);
}

pu_err rows_at_once(pu_cuda *d, const pu_cuda_attend *a, const pu_attention_paged_args *args, const pu_cuda_tile *seqs,
                    const int32_t *token_seq, pu_error *e) {
  const pu_qk_ready *ready = &args->ready;
  arrivals r = {.qkv = (char *)args->qkv->data,
                .row = a->q_row,
                .k = a->k,
                .v = a->v,
                .seqs = seqs,
                .token_seq = token_seq,
                .cs = ready->cs ? (const float *)ready->cs->data : NULL,
                .wq = ready->wq ? (const float *)ready->wq->data : NULL,
                .wk = ready->wk ? (const float *)ready->wk->data : NULL,
                .cs_row = ready->cs ? ready->cs->stride[0] : 0,
                .tokens = args->seqs->tokens,
                .keys = args->heads,
                .values = args->heads + args->kv_heads,
                .eps = ready->eps,
                .w_rests = !ready->wq || (!ready->wq->grad && !ready->wk->grad)};
  r.all = r.values + (token_seq ? args->kv_heads : 0);
  if (!r.cs && !r.wq && !token_seq) return PU_OK;
  return a->dim == 64 ? at_once<64>(d, r, e) : at_once<128>(d, r, e);
}

/* ---- one after the other, of any type and size ---- */

/* blockIdx.x: token of the batch, blockIdx.y: four of its 2 G rows, a warp each. */
__global__ void append_kernel(pu_cuda_attend a, const pu_cuda_tile *seqs, const int32_t *token_seq, int kv_heads) {
  const int which = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, seq = token_seq[blockIdx.x];
  if (which >= 2 * kv_heads || seq < 0) return;
  const pu_cuda_tile t = seqs[seq];
  const pu_cuda_rows &rows = which < kv_heads ? a.k : a.v;
  const char *from = a.q + (int64_t)blockIdx.x * a.q_row + (int64_t)(a.heads + which) * a.dim * (a.q_bits / 8);
  char *to = pu_row_of(rows, which % kv_heads, seq, 0, t.base + (int64_t)blockIdx.x - t.row);
  float x[PU_CUDA_LANE_VALUES];
  pu_read_row(x, from, a.q_bits, a.dim);
  if (rows.bits < 16) {
    pu_pack_row(to, rows.bits, x, a.dim);
    return;
  }
#pragma unroll
  for (int j = 0; j < PU_CUDA_LANE_VALUES; j++)
    if (threadIdx.x % 32 + 32 * j < a.dim) pu_write_value(to, rows.bits, threadIdx.x % 32 + 32 * j, x[j]);
}

} // namespace

pu_err pu_cuda_new_rows(pu_cuda *d, const pu_cuda_attend *a, const pu_attention_paged_args *args,
                        const pu_cuda_tile *seqs, const int32_t *token_seq, pu_error *e) {
  const pu_qk_ready *ready = &args->ready;
  const dim3 grid((unsigned)args->seqs->tokens, (unsigned)ceil_div(2 * args->kv_heads, 4));
  if (fits(a, ready)) return rows_at_once(d, a, args, seqs, token_seq, e);
  const pu_qk_norm_args norm = {args->qkv,   ready->wq,      ready->wk,      args->qkv, NULL,
                                args->heads, args->kv_heads, args->head_dim, ready->eps};
  const pu_rope_args rope = {args->qkv, ready->cs, args->heads, args->kv_heads, args->head_dim};
  if (ready->wq) PU_TRY(pu_cuda_qk_norm(d, &norm, e));
  if (ready->cs) PU_TRY(pu_cuda_rope(d, &rope, e));
  if (!token_seq) return PU_OK;
  append_kernel<<<grid, 128, 0, d->stream>>>(*a, seqs, token_seq, args->kv_heads);
  return pu_cuda_launched("putting rows into the cache", e);
}
