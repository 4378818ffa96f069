/* Attention over the paged cache: new rows go in, then the new queries look at all that their sequence has there. */
#include <string.h>

#include "src/compute/cuda/paged.h"
#include "src/compute/cuda/use.h"

namespace {

/* blockIdx.x: token of the batch, blockIdx.y: four of its 2 G rows, a warp each. */
__global__ void append_kernel(pu_cuda_attend a, const int32_t *token_seq, int kv_heads) {
  const int which = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, seq = token_seq[blockIdx.x];
  if (which >= 2 * kv_heads || seq < 0) return;
  const pu_cuda_tile t = a.tiles[seq];
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

/* ---- what the device is told of a call ---- */

/* Host arrays of one call, in one piece of memory that layer after layer finds on the device already. */
typedef struct plan {
  pu_cuda_tile *seqs;    /* [n] each sequence, whole */
  pu_cuda_tile *tiles;   /* [tile_count] the queries of the others */
  int32_t *token_seq;    /* [N] the sequence of a token; -1: it is decoded, which puts it into the cache */
  int32_t *table;        /* [n, table_stride], as many blocks as the longest has */
  pu_cuda_stretch *list; /* [stretches] of the decoded ones */
  int32_t few_count, tile_count, table_stride, stretches;
  int rows;
  size_t bytes;
  char *host, *device;
} plan;

template <typename T> T *placed(char *memory, size_t *used, size_t n) {
  T *at = (T *)(memory + *used);
  *used += (n * sizeof(T) + 15) / 16 * 16;
  return at;
}

/* Where the arrays lie in `memory`, with at most so many tiles and stretches. */
void place(plan *p, char *memory, const pu_seqs *seqs, int32_t tiles, int64_t stretches) {
  p->bytes = 0;
  p->seqs = placed<pu_cuda_tile>(memory, &p->bytes, (size_t)seqs->n);
  p->token_seq = placed<int32_t>(memory, &p->bytes, (size_t)seqs->tokens);
  p->table = placed<int32_t>(memory, &p->bytes, (size_t)seqs->n * (size_t)p->table_stride);
  p->tiles = placed<pu_cuda_tile>(memory, &p->bytes, (size_t)tiles);
  p->list = placed<pu_cuda_stretch>(memory, &p->bytes, (size_t)stretches);
}

/* Adds a sequence to the decoded ones. */
void add_few(plan *p, const pu_attention_paged_args *a, const pu_cuda_tile *whole) {
  const int32_t seen = a->window > 0 ? PU_MAX(whole->base - a->window + 1, 0) : 0;
  const int32_t first = seen / PU_CUDA_SPLIT, last = (whole->base + whole->n - 1) / PU_CUDA_SPLIT;
  for (int32_t i = first; i <= last; i++)
    p->list[p->stretches++] = {whole->row, whole->n, whole->base, whole->seq, p->few_count, i, first, last};
  p->few_count++;
  p->rows = PU_MAX(p->rows, whole->n * (a->heads / a->kv_heads));
}

void add_seq(plan *p, const pu_attention_paged_args *a, int32_t s, bool few, int rows) {
  const int32_t n = a->seqs->cu[s + 1] - a->seqs->cu[s];
  const pu_cuda_tile whole = {a->seqs->cu[s], n, 0, a->kv->len[s] - n, s};
  few = few && n <= PU_CUDA_FEW && n * (a->heads / a->kv_heads) <= PU_CUDA_FEW_ROWS;
  p->seqs[s] = whole;
  for (int32_t i = 0; i < n; i++) p->token_seq[whole.row + i] = few ? -1 : s;
  memcpy(p->table + (size_t)s * (size_t)p->table_stride, a->kv->table + (int64_t)s * a->kv->table_stride,
         (size_t)ceil_div(a->kv->len[s], a->kv->block) * sizeof *p->table);
  if (few && n) add_few(p, a, &whole);
  /* From the end: what sees most begins first. */
  for (int32_t at = few ? 0 : (n + rows - 1) / rows * rows; (at -= rows) >= 0;) {
    p->tiles[p->tile_count] = whole;
    p->tiles[p->tile_count++].at = at;
  }
}

pu_err make_plan(pu_cuda *d, const pu_attention_paged_args *a, bool few, int rows, plan *p, pu_error *e) {
  const pu_seqs *seqs = a->seqs;
  const int32_t most = seqs->tokens / rows + seqs->n;
  int64_t stretches = 0;
  void *device;
  for (int32_t s = 0; s < seqs->n && few; s++) stretches += ceil_div(a->kv->len[s], PU_CUDA_SPLIT);
  p->table_stride = a->kv->table_stride;
  place(p, NULL, seqs, most, stretches);
  PU_TRY(pu_cuda_list(d, p->bytes, &p->host, e));
  memset(p->host, 0, p->bytes); /* also what is between the arrays: the contents are compared */
  place(p, p->host, seqs, most, stretches);
  for (int32_t s = 0; s < seqs->n; s++) add_seq(p, a, s, few, rows);
  PU_TRY(pu_cuda_mirrored(d, p->host, p->bytes, &device, e));
  p->device = (char *)device;
  return PU_OK;
}

template <typename T> const T *on_device(const plan *p, const T *host) {
  return (const T *)(p->device + ((const char *)host - p->host));
}

/* Without the table, which the plan has. */
pu_cuda_rows rows_of(const pu_attention_paged_args *a, const pu_tensor *x, int bits) {
  pu_cuda_rows r = {};
  r.base = (char *)x->data;
  r.row = pu_kv_row(bits, a->head_dim) * (int64_t)pu_dtype_size(x->dtype);
  r.head = r.row * a->kv->block;
  r.bits = bits ? bits : (int)pu_dtype_size(x->dtype) * 8;
  r.block = a->kv->block;
  r.shift = r.block < 16 || r.block & (r.block - 1) ? 0 : __builtin_ctz((unsigned)r.block);
  r.block_bytes = r.head * a->kv_heads;
  return r;
}

pu_cuda_attend told(const pu_attention_paged_args *args) {
  pu_cuda_attend a = pu_cuda_attend_of(args);
  a.k = rows_of(args, args->kv->k, args->kv->k_bits);
  a.v = rows_of(args, args->kv->v, args->kv->v_bits);
  return a;
}

/* Counters that are zero between operations. */
pu_err counters(pu_cuda *d, size_t n, int32_t **out, pu_error *e) {
  pu_cuda_attention *own = d->attention;
  if (n > own->counter_count) {
    const size_t more = PU_MAX(2 * n, (size_t)1 << 14);
    void *memory;
    PU_TRY(d->base.alloc(&d->base, more * sizeof(int32_t), &memory, e));
    d->base.free(&d->base, own->counters); /* waits for what uses them */
    own->counters = (int32_t *)memory;
    own->counter_count = more;
    PU_TRY(d->base.clear(&d->base, memory, more * sizeof(int32_t), e));
  }
  *out = own->counters;
  return PU_OK;
}

pu_err decode(pu_cuda *d, const pu_cuda_attend &a, const plan *p, int kv_heads, pu_error *e) {
  const size_t rows = (size_t)p->stretches * (size_t)kv_heads * (size_t)p->rows;
  pu_cuda_few f = {};
  void *work;
  if (p->few_count == 0) return PU_OK;
  PU_TRY(pu_cuda_work(d, rows * (size_t)(a.dim + 2) * sizeof(float), &work, e));
  PU_TRY(counters(d, (size_t)p->few_count * (size_t)kv_heads, &f.arrived, e));
  f.kv_heads = kv_heads;
  f.list = on_device(p, p->list);
  f.items = p->stretches * kv_heads;
  f.rows = p->rows;
  f.parts = (float *)work;
  f.sums = f.parts + rows * (size_t)a.dim;
  return pu_cuda_few_forward(d, &a, &f, e);
}

pu_err prefill(pu_cuda *d, pu_cuda_attend a, const plan *p, const pu_attention_paged_args *args, pu_error *e) {
  const dim3 grid((unsigned)args->seqs->tokens, (unsigned)ceil_div(2 * args->kv_heads, 4));
  if (p->tile_count == 0) return PU_OK;
  a.tiles = on_device(p, p->seqs);
  append_kernel<<<grid, 128, 0, d->stream>>>(a, on_device(p, p->token_seq), args->kv_heads);
  PU_TRY(pu_cuda_launched("putting rows into the cache", e));
  a.tiles = on_device(p, p->tiles);
  a.tile_count = p->tile_count;
  if (pu_cuda_wgmma_fits(d, &a)) return pu_cuda_wgmma_forward(d, &a, e);
  return pu_cuda_mma_fits(&a) ? pu_cuda_mma_forward(d, &a, e) : pu_cuda_plain_forward(d, &a, e);
}

pu_err plan_of(pu_cuda *d, const pu_attention_paged_args *args, const pu_cuda_attend *a, plan *p, pu_error *e) {
  const int tile = pu_cuda_mma_fits(a) ? (int)PU_CUDA_MMA_TILE : pu_cuda_plain_tile(args->head_dim);
  return make_plan(d, args, pu_cuda_few_fits(a), tile, p, e);
}

pu_err attention_paged(pu_backend *be, void *v, pu_error *e) {
  pu_cuda *d = (pu_cuda *)be;
  const pu_attention_paged_args *args = (const pu_attention_paged_args *)v;
  plan p = {};
  if (args->head_dim > PU_CUDA_MAX_HEAD)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: attention: heads of %d are too large: at most %d", args->head_dim,
                   PU_CUDA_MAX_HEAD);
  if (args->seqs->tokens == 0) return PU_OK;
  pu_cuda_attend a = told(args);
  PU_TRY(plan_of(d, args, &a, &p, e));
  a.k.table = a.v.table = on_device(&p, p.table);
  a.k.table_stride = a.v.table_stride = p.table_stride;
  PU_TRY(prefill(d, a, &p, args, e));
  return decode(d, a, &p, args->kv_heads, e);
}

} // namespace

pu_err pu_cuda_paged_plan(pu_cuda *d, const pu_attention_paged_args *args, pu_error *e) {
  const pu_cuda_attend a = told(args);
  plan p = {};
  return plan_of(d, args, &a, &p, e);
}

void pu_cuda_use_paged(pu_cuda *d) {
  d->base.forward[PU_OP_attention_paged] = attention_paged;
}
