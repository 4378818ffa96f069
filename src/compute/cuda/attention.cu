/* Attention in training: which kernels run, and what they are told. */
#include <stdlib.h>
#include <string.h>

#include "src/compute/cuda/attention.h"
#include "src/compute/cuda/use.h"

static pu_err too_large(int dim, pu_error *e) {
  return pu_fail(e, PU_ERR_UNSUPPORTED, "cuda: attention: heads of %d are too large: at most %d", dim,
                 PU_CUDA_MAX_HEAD);
}

/* At least so many bytes of host memory, until the next call. */
static pu_err list_room(pu_cuda *d, size_t bytes, char **out, pu_error *e) {
  pu_cuda_attention *own = d->attention;
  if (bytes > own->list_bytes) {
    char *more = (char *)realloc(own->list, bytes * 2);
    if (!more) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory for the list of a batch's sequences");
    own->list = more;
    own->list_bytes = bytes * 2;
  }
  *out = own->list;
  return PU_OK;
}

/* Every tile of `rows` tokens, the ones that begin last in their sequences first: they see most. places: how many tiles
 * begin at each place. */
static int32_t fill_by_work(const pu_seqs *seqs, int rows, pu_cuda_tile *tiles, int32_t *places, int32_t most) {
  int32_t n = 0;
  memset(places, 0, (size_t)most * sizeof *places);
  for (int32_t s = 0; s < seqs->n; s++)
    for (int32_t i = 0; i * rows < seqs->cu[s + 1] - seqs->cu[s]; i++) places[i]++;
  for (int32_t i = most - 1; i >= 0; i--) {
    const int32_t here = places[i];
    places[i] = n;
    n += here;
  }
  for (int32_t s = 0; s < seqs->n; s++)
    for (int32_t len = seqs->cu[s + 1] - seqs->cu[s], i = 0; i * rows < len; i++)
      tiles[places[i]++] = {seqs->cu[s], len, i * rows, 0, s};
  return n;
}

/* Sequence by sequence, each from its end. */
static int32_t fill_by_sequence(const pu_seqs *seqs, int rows, pu_cuda_tile *tiles) {
  int32_t n = 0;
  for (int32_t s = 0; s < seqs->n; s++)
    for (int32_t len = seqs->cu[s + 1] - seqs->cu[s], at = (len + rows - 1) / rows * rows; (at -= rows) >= 0;)
      tiles[n++] = {seqs->cu[s], len, at, 0, s};
  return n;
}

/* The device's list of tiles of `rows` tokens. */
static pu_err list_tiles(pu_cuda *d, const pu_seqs *seqs, int rows, bool back, pu_cuda_attend *a, pu_error *e) {
  const size_t room = (size_t)(seqs->tokens / rows + seqs->n) * sizeof(pu_cuda_tile);
  int32_t most = 0;
  char *list;
  void *device;
  for (int32_t s = 0; s < seqs->n; s++) most = PU_MAX(most, (seqs->cu[s + 1] - seqs->cu[s] + rows - 1) / rows);
  PU_TRY(list_room(d, room + (size_t)most * sizeof(int32_t), &list, e));
  pu_cuda_tile *tiles = (pu_cuda_tile *)list;
  a->tile_count =
      back ? fill_by_sequence(seqs, rows, tiles) : fill_by_work(seqs, rows, tiles, (int32_t *)(list + room), most);
  PU_TRY(pu_cuda_mirrored(d, tiles, (size_t)a->tile_count * sizeof *tiles, &device, e));
  a->tiles = (const pu_cuda_tile *)device;
  return PU_OK;
}

static pu_cuda_attend told(const pu_attention_args *args) {
  const int64_t head = args->head_dim * (int64_t)pu_dtype_size(args->qkv->dtype);
  pu_cuda_attend a = pu_cuda_attend_of(args);
  a.k.base = (char *)args->qkv->data + args->heads * head;
  a.k.row = a.q_row;
  a.k.head = head;
  a.k.bits = a.q_bits;
  a.v = a.k;
  a.v.base += args->kv_heads * head;
  a.lse = (float *)args->lse->data;
  a.lse_stride = args->lse->stride[0];
  return a;
}

/* The length that all sequences have; 0: there is none. */
static int64_t one_length(const pu_seqs *seqs) {
  for (int32_t s = 0; s < seqs->n; s++)
    if (seqs->cu[s + 1] - seqs->cu[s] != seqs->max_len) return 0;
  return seqs->max_len;
}

pu_err pu_cuda_tiles_fit(const pu_cuda_attend *a, pu_error *e) {
  enum { MOST = 65535 };
  if (a->tile_count <= MOST) return PU_OK;
  return pu_fail(e, PU_ERR_UNSUPPORTED,
                 "cuda: attention: %d documents, or parts of them, in a batch, at most %d: use a smaller batch",
                 a->tile_count, MOST);
}

static pu_err attention(pu_backend *be, void *v, pu_error *e) {
  pu_cuda *d = (pu_cuda *)be;
  const pu_attention_args *args = (const pu_attention_args *)v;
  if (args->head_dim > PU_CUDA_MAX_HEAD) return too_large(args->head_dim, e);
  if (args->seqs->tokens == 0) return PU_OK;
  pu_cuda_attend a = told(args);
  bool done;
  PU_TRY(pu_cuda_cudnn_attention(d, &a, args->seqs->n, one_length(args->seqs), &done, e));
  if (done) return PU_OK;
  const bool fits = pu_cuda_mma_fits(&a);
  PU_TRY(list_tiles(d, args->seqs, fits ? (int)PU_CUDA_MMA_TILE : pu_cuda_plain_tile(a.dim), false, &a, e));
  if (pu_cuda_wgmma_fits(d, &a)) return pu_cuda_wgmma_forward(d, &a, e);
  return fits ? pu_cuda_mma_forward(d, &a, e) : pu_cuda_plain_forward(d, &a, e);
}

static pu_err attention_back(pu_backend *be, void *v, pu_error *e) {
  pu_cuda *d = (pu_cuda *)be;
  const pu_attention_args *args = (const pu_attention_args *)v;
  const int64_t head = args->head_dim * (int64_t)pu_dtype_size(args->qkv->dtype);
  pu_tensor *dqkv = args->qkv->grad, *dout = args->out->grad;
  void *delta;
  bool done;
  if (args->head_dim > PU_CUDA_MAX_HEAD) return too_large(args->head_dim, e);
  pu_cuda_attend a = told(args);
  a.add = pu_grad_beta(args->qkv) != 0;
  if (args->seqs->tokens == 0) return PU_OK;
  a.dout = (const char *)dout->data;
  a.dout_row = dout->stride[0] * a.q_bits / 8;
  a.dq = (char *)dqkv->data;
  a.dk = a.dq + args->heads * head;
  a.dv = a.dk + args->kv_heads * head;
  a.dqkv_row = dqkv->stride[0] * a.q_bits / 8;
  /* Its sums take more than the plan has where documents are shorter than its tiles. */
  const bool in_any_order =
      pu_cuda_wgmma_any_order(d, &a) && (int64_t)args->seqs->n * PU_CUDA_MMA_TILE <= args->seqs->tokens;
  if (!in_any_order) {
    PU_TRY(pu_cuda_cudnn_attention(d, &a, args->seqs->n, one_length(args->seqs), &done, e));
    if (done) return PU_OK;
  }
  const size_t numbers = (size_t)(a.heads * a.lse_stride + 3) / 4 * 16,
               sums = in_any_order ? pu_cuda_wgmma_sums(&a, args->seqs->tokens, args->seqs->n) : 0;
  PU_TRY(pu_cuda_work(d, numbers + sums, &delta, e));
  PU_TRY(pu_cuda_attention_delta(d, &a, args->seqs->tokens, (float *)delta, e));
  a.delta = (const float *)delta;
  const bool fits = pu_cuda_mma_fits(&a);
  PU_TRY(list_tiles(d, args->seqs, fits ? (int)PU_CUDA_MMA_TILE : pu_cuda_plain_tile(a.dim), true, &a, e));
  if (in_any_order) return pu_cuda_wgmma_backward_any_order(d, &a, (char *)delta + numbers, sums, e);
  if (pu_cuda_wgmma_fits(d, &a)) return pu_cuda_wgmma_backward(d, &a, e);
  return fits ? pu_cuda_mma_backward(d, &a, e) : pu_cuda_plain_backward(d, &a, e);
}

void pu_cuda_use_attention(pu_cuda *d) {
  d->base.forward[PU_OP_attention] = attention;
  d->base.backward[PU_OP_attention] = attention_back;
}

pu_err pu_cuda_attention_open(pu_cuda *d, pu_error *e) {
  d->attention = (pu_cuda_attention *)calloc(1, sizeof *d->attention);
  return d->attention ? PU_OK : pu_fail(e, PU_ERR_NOMEM, "cuda: no memory");
}

void pu_cuda_attention_close(pu_cuda *d) {
  if (!d->attention) return;
  pu_cuda_cudnn_close(d->attention->cudnn);
  pu_cuda_paged_close(d->attention->planned);
  d->base.free(&d->base, d->attention->counters);
  free(d->attention->list);
  free(d->attention);
}

size_t pu_cuda_attention_work_bytes(const pu_cuda *d, const pu_work_shape *s) {
  const int64_t n = PU_MAX(s->tokens / PU_MAX(s->max_len, (int64_t)1), (int64_t)1),
                padded = (s->max_len + 63) / 64 * 64;
  const int64_t delta = s->heads * s->tokens * (int64_t)sizeof(float); /* the backward's */
  if (s->dtype != PU_BF16) return (size_t)delta;
  /* cuDNN's backward of equal sequences: dk and dv of each query head, and dq in f32, or dS of a part of them. */
  const int64_t row = s->heads * padded * 2, part = pu_cuda_cudnn_part(n, s->max_len, s->heads), dim = s->head_dim;
  const int64_t most = d->base.any_order ? n * row * 4 * dim : part * row * (padded + 2 * dim);
  return (size_t)(delta + most + (1 << 20));
}
