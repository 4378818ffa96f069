/* Attention over the paged cache: new rows go in, then the new queries look at all that their sequence has there. */
#include <string.h>

#include "src/compute/cuda/paged.h"
#include "src/compute/cuda/use.h"

namespace {

/* blockIdx.x: token of the batch, blockIdx.y: four of its 2 G rows, a warp each. */
__global__ void append_kernel(pu_cuda_attend a, const int32_t *token_seq, int kv_heads) {
  const int which = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
  if (which >= 2 * kv_heads) return;
  const pu_cuda_tile t = a.tiles[token_seq[blockIdx.x]];
  pu_append_row(a, kv_heads, which, t.seq, blockIdx.x, t.base + (int64_t)blockIdx.x - t.row);
}

/* ---- what the device is told of a call ---- */

/* Host arrays of one call, in one piece of memory that layer after layer finds on the device already. */
typedef struct plan {
  pu_cuda_tile *seqs; /* [n]: each sequence, whole */
  pu_cuda_tile *tiles;
  int32_t *token_seq; /* [N] */
  int32_t *table;     /* [n, table_stride], as many blocks as the longest has */
  int32_t tile_count, table_stride;
  size_t bytes;
  char *host, *device;
} plan;

template <typename T> T *placed(char *memory, size_t *used, size_t n) {
  T *at = (T *)(memory + *used);
  *used += (n * sizeof(T) + 15) / 16 * 16;
  return at;
}

/* Where the arrays lie in `memory`, with at most so many tiles. */
void place(plan *p, char *memory, const pu_seqs *seqs, int32_t tiles) {
  p->bytes = 0;
  p->seqs = placed<pu_cuda_tile>(memory, &p->bytes, (size_t)seqs->n);
  p->token_seq = placed<int32_t>(memory, &p->bytes, (size_t)seqs->tokens);
  p->table = placed<int32_t>(memory, &p->bytes, (size_t)seqs->n * (size_t)p->table_stride);
  p->tiles = placed<pu_cuda_tile>(memory, &p->bytes, (size_t)tiles);
}

int32_t longest(const pu_attention_paged_args *a) {
  int32_t most = 0;
  for (int32_t s = 0; s < a->seqs->n; s++) most = PU_MAX(most, a->kv->len[s]);
  return most;
}

pu_err make_plan(pu_cuda *d, const pu_attention_paged_args *a, int rows, plan *p, pu_error *e) {
  const pu_seqs *seqs = a->seqs;
  const int32_t most = seqs->tokens / rows + seqs->n;
  void *device;
  p->table_stride = (int32_t)ceil_div(longest(a), a->kv->block);
  place(p, NULL, seqs, most);
  PU_TRY(pu_cuda_list(d, p->bytes, &p->host, e));
  memset(p->host, 0, p->bytes); /* also what is between the arrays: the contents are compared */
  place(p, p->host, seqs, most);
  p->tile_count = 0;
  for (int32_t s = 0; s < seqs->n; s++) {
    const int32_t n = seqs->cu[s + 1] - seqs->cu[s];
    const pu_cuda_tile whole = {seqs->cu[s], n, 0, a->kv->len[s] - n, s};
    p->seqs[s] = whole;
    for (int32_t i = 0; i < n; i++) p->token_seq[whole.row + i] = s;
    memcpy(p->table + (size_t)s * (size_t)p->table_stride, a->kv->table + (int64_t)s * a->kv->table_stride,
           (size_t)ceil_div(a->kv->len[s], a->kv->block) * sizeof *p->table);
    for (int32_t at = 0; at < n; at += rows) {
      p->tiles[p->tile_count] = whole;
      p->tiles[p->tile_count++].at = at;
    }
  }
  PU_TRY(pu_cuda_mirrored(d, p->host, p->bytes, &device, e));
  p->device = (char *)device;
  return PU_OK;
}

template <typename T> const T *on_device(const plan *p, const T *host) {
  return (const T *)(p->device + ((const char *)host - p->host));
}

pu_cuda_rows rows_of(const pu_attention_paged_args *a, const plan *p, const pu_tensor *x, int bits) {
  const int64_t row = pu_kv_row(bits, a->head_dim) * (int64_t)pu_dtype_size(x->dtype);
  pu_cuda_rows r = {};
  r.base = (char *)x->data;
  r.row = row;
  r.head = row * a->kv->block;
  r.bits = bits ? bits : (int)pu_dtype_size(x->dtype) * 8;
  r.table = on_device(p, p->table);
  r.table_stride = p->table_stride;
  r.block = a->kv->block;
  r.block_bytes = r.head * a->kv_heads;
  return r;
}

pu_cuda_attend told(const pu_attention_paged_args *args, const plan *p) {
  const int64_t value = (int64_t)pu_dtype_size(args->qkv->dtype);
  pu_cuda_attend a = {};
  a.heads = args->heads;
  a.share = args->heads / args->kv_heads;
  a.dim = args->head_dim;
  a.window = args->window > 0 ? args->window : INT64_MAX / 2;
  a.scale = args->scale;
  a.q = (const char *)args->qkv->data;
  a.out = (char *)args->out->data;
  a.q_row = args->qkv->stride[0] * value;
  a.out_row = args->out->stride[0] * value;
  a.q_bits = (int)(value * 8);
  a.k = rows_of(args, p, args->kv->k, args->kv->k_bits);
  a.v = rows_of(args, p, args->kv->v, args->kv->v_bits);
  return a;
}

pu_err append(pu_cuda *d, pu_cuda_attend a, const plan *p, const pu_attention_paged_args *args, pu_error *e) {
  const dim3 grid((unsigned)args->seqs->tokens, (unsigned)ceil_div(2 * args->kv_heads, 4));
  a.tiles = on_device(p, p->seqs);
  append_kernel<<<grid, 128, 0, d->stream>>>(a, on_device(p, p->token_seq), args->kv_heads);
  return pu_cuda_launched("attention over the cache", e);
}

pu_err attention_paged(pu_backend *be, void *v, pu_error *e) {
  pu_cuda *d = (pu_cuda *)be;
  const pu_attention_paged_args *args = (const pu_attention_paged_args *)v;
  plan p = {};
  if (args->head_dim > PU_CUDA_MAX_HEAD)
    return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: attention: heads of %d are too large: at most %d", args->head_dim,
                   PU_CUDA_MAX_HEAD);
  if (args->seqs->tokens == 0) return PU_OK;
  PU_TRY(make_plan(d, args, pu_cuda_plain_tile(args->head_dim), &p, e));
  pu_cuda_attend a = told(args, &p);
  PU_TRY(append(d, a, &p, args, e));
  a.tiles = on_device(&p, p.tiles);
  a.tile_count = p.tile_count;
  return pu_cuda_plain_forward(d, &a, e);
}

} // namespace

void pu_cuda_use_paged(pu_cuda *d) {
  d->base.forward[PU_OP_attention_paged] = attention_paged;
}
