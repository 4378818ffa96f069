/* Attention over the paged cache: new rows go in, then the new queries look at all that their sequence has there. */
#include <stdlib.h>
#include <string.h>

#include "src/compute/cuda/paged.h"
#include "src/compute/cuda/use.h"

namespace {

/* ---- what the device is told of a call ---- */

/* Host arrays of one call, in one piece of memory that layer after layer finds on the device already. Where all
 * sequences are decoded, its size follows from their number and the table's width alone, as everything does that a
 * launch depends on: how long they are stands in `few`. */
typedef struct plan {
  pu_cuda_few_seq *few; /* [n + 1] the decoded ones; the last entry counts the pieces of all */
  int32_t *table;       /* [n, table_stride] */
  pu_cuda_tile *seqs;   /* [n] each sequence, whole; this and the following only where some are not decoded */
  pu_cuda_tile *tiles;  /* [tile_count] the queries of the others */
  int32_t *token_seq;   /* [N] the sequence of a token; -1: it is decoded, which puts it into the cache */
  int32_t n, few_count, tile_count, table_stride;
  int rows;
  bool was_there; /* on the device, before this call */
  size_t bytes;
  char *host, *device;
} plan;

/* What a plan was made from. */
enum { FACTS = 8 };
typedef struct origin {
  int64_t facts[FACTS];
  const int32_t *cu, *len; /* [n + 1], [n] */
} origin;

} // namespace

/* The plan of the last call, for the next layer's. */
struct pu_cuda_planned {
  plan p;
  origin of;
  char *memory; /* the plan's arrays, and behind them the origin's */
  size_t cap;
};

namespace {

template <typename T> T *placed(char *memory, size_t *used, size_t n) {
  T *at = (T *)(memory + *used);
  *used += (n * sizeof(T) + 15) / 16 * 16;
  return at;
}

bool is_few(const pu_attention_paged_args *a, int32_t n) {
  return n <= PU_CUDA_FEW && n * (a->heads / a->kv_heads) <= PU_CUDA_FEW_ROWS;
}

/* Where the arrays lie in `memory`; tiles: of how many tokens those of the others are. */
void place(plan *p, char *memory, const pu_seqs *seqs, bool others, int tile) {
  p->bytes = 0;
  p->few = placed<pu_cuda_few_seq>(memory, &p->bytes, (size_t)seqs->n + 1);
  p->table = placed<int32_t>(memory, &p->bytes, (size_t)seqs->n * (size_t)p->table_stride);
  if (!others) return;
  p->seqs = placed<pu_cuda_tile>(memory, &p->bytes, (size_t)seqs->n);
  p->token_seq = placed<int32_t>(memory, &p->bytes, (size_t)seqs->tokens);
  p->tiles = placed<pu_cuda_tile>(memory, &p->bytes, (size_t)(seqs->tokens / tile + seqs->n));
}

/* Adds a sequence to the decoded ones, or only its number of pieces: none. */
void add_few(plan *p, const pu_attention_paged_args *a, const pu_cuda_tile *whole, bool few) {
  pu_cuda_few_seq *q = &p->few[whole->seq];
  const int log = pu_cuda_piece_log(a->kv->k_bits);
  const int64_t seen = a->window > 0 ? PU_MAX((int64_t)whole->base - a->window + 1, (int64_t)0) : 0;
  const int32_t last = (whole->base + whole->n - 1) >> log;
  *q = {whole->row, whole->n, whole->base, p->few_count, q->before, (int32_t)(seen >> log), 0, q->units_before};
  q[1].units_before = q->units_before;
  if (few) {
    q->pieces = last - q->first + 1;
    q[1].units_before += last / PU_CUDA_UNIT - q->first / PU_CUDA_UNIT + 1;
    p->few_count++;
    p->rows = PU_MAX(p->rows, whole->n * (a->heads / a->kv_heads));
  }
  q[1].before = q->before + q->pieces;
}

void add_seq(plan *p, const pu_attention_paged_args *a, int32_t s, bool few, int tile) {
  const int32_t n = a->seqs->cu[s + 1] - a->seqs->cu[s];
  const pu_cuda_tile whole = {a->seqs->cu[s], n, 0, a->kv->len[s] - n, s};
  few = few && is_few(a, n);
  memcpy(p->table + (size_t)s * (size_t)p->table_stride, a->kv->table + (int64_t)s * a->kv->table_stride,
         (size_t)ceil_div(a->kv->len[s], a->kv->block) * sizeof *p->table);
  add_few(p, a, &whole, few && n);
  if (!p->seqs) return;
  p->seqs[s] = whole;
  for (int32_t i = 0; i < n; i++) p->token_seq[whole.row + i] = few ? -1 : s;
  for (int32_t at = 0; at < n && !few; at += tile) {
    p->tiles[p->tile_count] = whole;
    p->tiles[p->tile_count++].at = at;
  }
}

/* What sees most begins first. */
int by_work(const void *x, const void *y) {
  const pu_cuda_tile *a = (const pu_cuda_tile *)x, *b = (const pu_cuda_tile *)y;
  const int32_t more = b->base + b->at - (a->base + a->at);
  return more ? more : a->seq - b->seq;
}

pu_err room_for(pu_cuda_planned *last, size_t bytes, pu_error *e) {
  if (bytes <= last->cap) return PU_OK;
  char *more = (char *)realloc(last->memory, bytes * 2);
  if (!more) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory for the list of a batch's sequences");
  last->memory = more;
  last->cap = bytes * 2;
  return PU_OK;
}

pu_err build_plan(pu_cuda_planned *last, const pu_attention_paged_args *a, bool few, int tile, pu_error *e) {
  const pu_seqs *seqs = a->seqs;
  plan *p = &last->p;
  bool others = !few;
  *p = {};
  for (int32_t s = 0; s < seqs->n && few; s++) others |= !is_few(a, seqs->cu[s + 1] - seqs->cu[s]);
  p->n = seqs->n;
  p->table_stride = a->kv->table_stride;
  place(p, NULL, seqs, others, tile);
  PU_TRY(room_for(last, p->bytes + (size_t)(2 * seqs->n + 1) * sizeof(int32_t), e));
  memset(last->memory, 0, p->bytes); /* also what is between the arrays: the contents are compared */
  p->host = last->memory;
  place(p, p->host, seqs, others, tile);
  for (int32_t s = 0; s < seqs->n; s++) add_seq(p, a, s, few, tile);
  if (p->tile_count) qsort(p->tiles, (size_t)p->tile_count, sizeof *p->tiles, by_work);
  return PU_OK;
}

origin origin_of(const pu_attention_paged_args *a, bool few, int tile) {
  return {{a->seqs->n, a->seqs->tokens, a->kv->block, a->kv->table_stride, a->heads / a->kv_heads, a->window,
           a->kv->k_bits, few ? -tile : tile},
          a->seqs->cu,
          a->kv->len};
}

/* By contents: a caller may have written something else to the same place since. */
bool is_same(const pu_cuda_planned *last, const origin *of, const pu_attention_paged_args *a) {
  const size_t n = (size_t)a->seqs->n;
  if (memcmp(last->of.facts, of->facts, sizeof of->facts) != 0) return false;
  if (memcmp(last->of.cu, of->cu, (n + 1) * sizeof(int32_t)) != 0) return false;
  if (memcmp(last->of.len, of->len, n * sizeof(int32_t)) != 0) return false;
  for (size_t s = 0; s < n; s++)
    if (memcmp(last->p.table + s * (size_t)last->p.table_stride, a->kv->table + s * (size_t)a->kv->table_stride,
               (size_t)ceil_div(of->len[s], a->kv->block) * sizeof(int32_t)) != 0)
      return false;
  return true;
}

/* Makes the call's plan, or finds that it is the last one's. */
pu_err make_plan(pu_cuda *d, const pu_attention_paged_args *a, bool few, int tile, plan *p, pu_error *e) {
  pu_cuda_attention *own = d->attention;
  const origin of = origin_of(a, few, tile);
  const size_t n = (size_t)a->seqs->n;
  void *device;
  if (!own->planned) own->planned = (pu_cuda_planned *)calloc(1, sizeof *own->planned);
  if (!own->planned) return pu_fail(e, PU_ERR_NOMEM, "cuda: no memory for the list of a batch's sequences");
  pu_cuda_planned *last = own->planned;
  if (!is_same(last, &of, a)) {
    last->of.facts[0] = -1; /* in case of an error */
    PU_TRY(build_plan(last, a, few, tile, e));
    int32_t *cu = (int32_t *)(last->memory + last->p.bytes), *len = cu + n + 1;
    memcpy(cu, of.cu, (n + 1) * sizeof *cu);
    memcpy(len, of.len, n * sizeof *len);
    last->of = of;
    last->of.cu = cu;
    last->of.len = len;
  }
  d->was_there = false;
  PU_TRY(pu_cuda_mirrored(d, last->p.host, last->p.bytes, &device, e));
  *p = last->p;
  p->was_there = d->was_there;
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

/* Work memory as if all sequences were as long as the table is wide. */
pu_err decode(pu_cuda *d, const pu_cuda_attend &a, const plan *p, int kv_heads, pu_error *e) {
  const int64_t longest = (int64_t)p->table_stride * a.k.block;
  const int64_t pieces = ceil_div(longest, (int64_t)1 << pu_cuda_piece_log(a.k.bits));
  const int64_t blocks = (int64_t)d->sms * PU_CUDA_FEW_BLOCKS, counts = (int64_t)p->n * kv_heads * PU_MAX(p->rows, 4);
  const int64_t units = p->n * ceil_div(pieces, PU_CUDA_UNIT) * kv_heads * p->rows,
                slots = blocks * (2 * PU_CUDA_UNIT - 2) * PU_MIN(p->rows, (int)PU_CUDA_GROUP);
  pu_cuda_few f = {};
  void *work;
  if (p->few_count == 0) return PU_OK;
  PU_TRY(pu_cuda_work(d, (size_t)((units + slots) * (a.dim + 2)) * sizeof(float), &work, e));
  PU_TRY(counters(d, (size_t)(counts + blocks * 4), &f.piece_arrived, e));
  f.arrived = f.piece_arrived + blocks * 4;
  f.n = p->n;
  f.width = (int)pieces;
  f.kv_heads = kv_heads;
  f.seqs = on_device(p, p->few);
  f.rows = p->rows;
  f.early = p->was_there && p->tile_count == 0;
  f.parts = (float *)work;
  f.piece_parts = f.parts + units * a.dim;
  f.sums = f.piece_parts + slots * a.dim;
  f.piece_sums = f.sums + units * 2;
  return pu_cuda_few_forward(d, &a, &f, e);
}

pu_err prefill(pu_cuda *d, pu_cuda_attend a, const plan *p, pu_error *e) {
  if (p->tile_count == 0) return PU_OK;
  a.tiles = on_device(p, p->tiles);
  a.tile_count = p->tile_count;
  if (pu_cuda_wgmma_fits(d, &a)) return pu_cuda_wgmma_forward(d, &a, e);
  return pu_cuda_mma_fits(&a) ? pu_cuda_mma_forward(d, &a, e) : pu_cuda_plain_forward(d, &a, e);
}

/* Decoding of few sequences turns queries and keys where it reads them; all else has it done before, which is faster
 * where a block goes on from sequence to sequence. */
enum { TURNED_INSIDE = 8 /* sequences */ };
bool turns_inside(const plan *p, const pu_qk_ready *r) {
  if (p->tile_count > 0 || p->n > TURNED_INSIDE || r->wq) return false;
  return !r->cs || ((uintptr_t)r->cs->data % 16 == 0 && r->cs->stride[0] % 4 == 0);
}

pu_err make_ready(pu_cuda *d, pu_cuda_attend *a, const plan *p, const pu_attention_paged_args *args, pu_error *e) {
  const pu_tensor *cs = args->ready.cs;
  if (!turns_inside(p, &args->ready)) {
    const bool some = p->tile_count > 0; /* are not decoded */
    return pu_cuda_new_rows(d, a, args, some ? on_device(p, p->seqs) : NULL, some ? on_device(p, p->token_seq) : NULL,
                            e);
  }
  a->cs = cs ? (const float *)cs->data : NULL;
  a->cs_row = cs ? cs->stride[0] : 0;
  return PU_OK;
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
  PU_TRY(make_ready(d, &a, &p, args, e));
  PU_TRY(prefill(d, a, &p, e));
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

void pu_cuda_paged_close(pu_cuda_planned *last) {
  if (last) free(last->memory);
  free(last);
}
