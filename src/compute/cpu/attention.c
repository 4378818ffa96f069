/* The driver of flash attention: cuts the work into items that do not depend on the number of threads, packs keys and
 * values once for all query heads and blocks that use them, and gives the items to the pool.
 *
 * Training forward: pack, then one item a (sequence, key head, block of queries, query head).
 * Training backward: pack, then one item a (sequence, key head, part): a part is a range of query blocks that owns f32
 * sums of dK and dV; with more than one part (few sequences and heads) the parts are added in order at the end.
 * Inference: put the new rows into the cache; then long runs of new tokens go the way of the training forward over
 * keys gathered from the cache, and short ones are decoded: one item a (token, key head, stretch of the cache), the
 * stretches merged in order. */
#include "src/compute/cpu/attention.h"

#include <math.h>
#include <string.h>

#include "src/compute/cpu/ref/ref.h"

enum {
  BLOCK = PU_ATTENTION_BLOCK,
  ROWS = PU_ATTENTION_ROWS,
  KEYS = PU_ATTENTION_KEYS,
  PART_ITEMS = 16, /* backward: below so many (sequence, key head) pairs, sequences are cut into parts */
  MAX_PARTS = 8,
  DECODE_TOKENS = 4 /* up to so many new tokens of a sequence are decoded one by one */
};

/* The new tokens of one sequence and the keys they look at. */
typedef struct span {
  int32_t seq;
  int64_t row, tokens; /* where its queries begin, and how many */
  int64_t first_key;   /* position of its first packed key, a multiple of KEYS: 0 but for windows */
  int64_t pos;         /* position of its first query, counted from first_key */
  int64_t keys_at;     /* rows of packed keys before it */
  int64_t items_at;    /* items before it */
} span;

typedef struct job {
  pu_cpu *cpu;
  const pu_attention_kernel *kernel;
  int heads, kv_heads, share, head_dim;
  int64_t window;
  float scale;
  pu_tensor *qkv, *out, *lse;
  const pu_kv *kv;   /* NULL in training */
  span *spans;       /* n and one more that ends the last */
  int64_t n, rows;   /* rows: of packed keys, of all spans */
  size_t head_bytes; /* one key head's packed keys (or values) */
  char *keys, *values, *keys_t;
  bool backward, add;
  int parts;
  float *sums;      /* backward: dK and dV of a worker (one part) or of an item */
  int64_t sum_rows; /* keys of one such sum */
  float *split;     /* decoding: the stretches' results */
} job;

/* ---- memory, places ----------------------------------------------------------------------------- */

static size_t take(size_t *used, size_t bytes) {
  size_t at = *used;
  *used += (bytes + 63) / 64 * 64;
  return at;
}

static void *at_byte(void *base, size_t at) {
  return (char *)base + at;
}

static char *element(const pu_tensor *t, int64_t row, int64_t col) {
  return (char *)t->data + (row * t->stride[0] + col) * (int64_t)pu_dtype_size(t->dtype);
}

static int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

/* The span that item (or packed row) i is of. */
static const span *span_of_item(const job *j, int64_t i) {
  int64_t lo = 0, hi = j->n;
  while (hi - lo > 1) {
    int64_t mid = (lo + hi) / 2;
    if (j->spans[mid].items_at <= i)
      lo = mid;
    else
      hi = mid;
  }
  return &j->spans[lo];
}
static const span *span_of_row(const job *j, int64_t i) {
  int64_t lo = 0, hi = j->n;
  while (hi - lo > 1) {
    int64_t mid = (lo + hi) / 2;
    if (j->spans[mid].keys_at <= i)
      lo = mid;
    else
      hi = mid;
  }
  return &j->spans[lo];
}

/* ---- packing ------------------------------------------------------------------------------------ */

/* Of keys or values in the cache; 0: as they are. */
static int bits_of(const pu_kv *kv, const pu_tensor *t) {
  return t == kv->v ? kv->v_bits : kv->k_bits;
}
static int64_t cache_row_bytes(const job *j, const pu_tensor *t) {
  return pu_kv_row(bits_of(j->kv, t), j->head_dim) * (int64_t)pu_dtype_size(t->dtype);
}

static void *cache_row(const job *j, const pu_tensor *t, int32_t seq, int64_t key, int head) {
  const pu_kv *kv = j->kv;
  int64_t block = kv->table[(int64_t)seq * kv->table_stride + key / kv->block];
  int64_t row = (block * j->kv_heads + head) * kv->block + key % kv->block;
  return (char *)t->data + row * cache_row_bytes(j, t);
}

/* 32 keys (or values) of a key head, from key `at` of the span on; those beyond its end are zeros. Rows in few bits are
 * widened into the worker's scratch, where they last until its next. */
static pu_attention_rows rows_of(const job *j, const span *s, int64_t at, int head, bool values, int worker) {
  const pu_tensor *t = !j->kv ? j->qkv : values ? j->kv->v : j->kv->k;
  const int bits = j->kv ? bits_of(j->kv, t) : 0;
  const int64_t keys = s->pos + s->tokens, col = (int64_t)(j->heads + head + (values ? j->kv_heads : 0)) * j->head_dim;
  pu_attention_rows r = {.dtype = bits ? j->kernel->tile : t->dtype, .head_dim = j->head_dim};
  for (int i = 0; i < ROWS && at + i < keys; i++) {
    r.row[i] = j->kv ? cache_row(j, t, s->seq, s->first_key + at + i, head) : element(j->qkv, s->row + at + i, col);
    if (!bits) continue;
    void *wide = (float *)j->cpu->scratch[worker] + i * PU_ATTENTION_MAX_DIM;
    j->kernel->widen(r.row[i], bits, j->head_dim, wide);
    r.row[i] = wide;
  }
  return r;
}

/* Where packed row i of a head lies. */
static char *packed(const job *j, char *base, int head, int64_t i) {
  return base + (size_t)head * j->head_bytes + (size_t)i * (j->head_bytes / (size_t)j->rows);
}

static void pack_groups(void *arg, int64_t begin, int64_t end, int worker) {
  const job *j = arg;
  for (int64_t group = begin; group < end; group++) {
    const span *s = span_of_row(j, group * ROWS);
    for (int head = 0; head < j->kv_heads; head++) {
      int64_t i = group * ROWS;
      pu_attention_rows r = rows_of(j, s, i - s->keys_at, head, false, worker);
      j->kernel->pack_rows(&r, packed(j, j->keys, head, i));
      if (j->backward) j->kernel->pack_cols(&r, packed(j, j->keys_t, head, i));
      r = rows_of(j, s, i - s->keys_at, head, true, worker);
      if (j->backward)
        j->kernel->pack_rows(&r, packed(j, j->values, head, i));
      else
        j->kernel->pack_cols(&r, packed(j, j->values, head, i));
    }
  }
}

/* ---- forward ------------------------------------------------------------------------------------ */

/* What forward and backward of a block share. */
static pu_attention_block block_of(const job *j, const span *s, int64_t block, int head, int worker) {
  const int64_t first = block * BLOCK, row = s->row + first, kv = head / j->share;
  return (pu_attention_block){.n = (int)PU_MIN(s->tokens - first, BLOCK),
                              .head_dim = j->head_dim,
                              .pos = s->pos + first,
                              .window = j->window,
                              .scale = j->scale,
                              .dtype = j->qkv->dtype,
                              .q = element(j->qkv, row, (int64_t)head * j->head_dim),
                              .q_stride = j->qkv->stride[0],
                              .out = element(j->out, row, (int64_t)head * j->head_dim),
                              .out_stride = j->out->stride[0],
                              .lse = j->lse ? (float *)j->lse->data + (int64_t)head * j->qkv->shape[0] + row : NULL,
                              .keys = packed(j, j->keys, (int)kv, s->keys_at),
                              .values = packed(j, j->values, (int)kv, s->keys_at),
                              .scratch = j->cpu->scratch[worker]};
}

/* Items of a span: key heads, in each the blocks from the last (the longest) to the first, in each the heads. */
static void forward_items(void *arg, int64_t begin, int64_t end, int worker) {
  const job *j = arg;
  for (int64_t item = begin; item < end; item++) {
    const span *s = span_of_item(j, item);
    int64_t blocks = (s->tokens + BLOCK - 1) / BLOCK, i = item - s->items_at;
    int64_t kv = i / (blocks * j->share), rest = i % (blocks * j->share);
    pu_attention_block b = block_of(j, s, blocks - 1 - rest / j->share, (int)(kv * j->share + rest % j->share), worker);
    j->kernel->forward(&b);
  }
}

static void job_forward(job *j) {
  pu_pool_run(j->cpu->pool, j->rows / ROWS, 2, pack_groups, j);
  pu_pool_run(j->cpu->pool, j->spans[j->n].items_at, 1, forward_items, j);
}

/* The memory of the packed keys and values (and, backward, keys across), after what `used` already counts. */
static void plan_packed(job *j, size_t *used, size_t at[3]) {
  size_t row = (size_t)pu_attention_padded_dim(j->head_dim) * pu_dtype_size(j->kernel->tile);
  j->head_bytes = row * (size_t)j->rows;
  for (int i = 0; i < 2 + j->backward; i++) at[i] = take(used, j->head_bytes * (size_t)j->kv_heads);
}

static void place_packed(job *j, void *base, const size_t at[3]) {
  j->keys = at_byte(base, at[0]);
  j->values = at_byte(base, at[1]);
  j->keys_t = j->backward ? at_byte(base, at[2]) : NULL;
}

/* ---- training ----------------------------------------------------------------------------------- */

static const pu_attention_kernel *choose_kernel(const pu_cpu *cpu, pu_dtype dtype) {
  if (cpu->isa < PU_ISA_AVX512) return &pu_attention_avx2;
  if (dtype != PU_BF16) return &pu_attention_avx512;
  return cpu->isa >= PU_ISA_AMX ? &pu_attention_amx : &pu_attention_avx512_bf16;
}

static job training_job(pu_cpu *cpu, const pu_attention_args *a) {
  return (job){.cpu = cpu,
               .kernel = choose_kernel(cpu, a->qkv->dtype),
               .heads = a->heads,
               .kv_heads = a->kv_heads,
               .share = a->heads / a->kv_heads,
               .head_dim = a->head_dim,
               .window = a->window > 0 ? a->window : INT64_MAX,
               .scale = a->scale,
               .qkv = a->qkv,
               .out = a->out,
               .lse = a->lse,
               .n = a->seqs->n};
}

/* Sequences as spans; items_at counts (key head, part)s backward, (head, block)s forward. Empty ones are left out. */
static void training_spans(job *j, const pu_seqs *seqs) {
  int64_t n = 0, rows = 0, items = 0;
  for (int32_t s = 0; s < seqs->n; s++) {
    int64_t tokens = seqs->cu[s + 1] - seqs->cu[s];
    if (tokens <= 0) continue;
    j->spans[n++] = (span){.seq = s, .row = seqs->cu[s], .tokens = tokens, .keys_at = rows, .items_at = items};
    rows += round_up(tokens, ROWS);
    items += j->backward ? (int64_t)j->kv_heads * j->parts : (tokens + BLOCK - 1) / BLOCK * j->heads;
  }
  j->spans[n] = (span){.keys_at = rows, .items_at = items};
  j->n = n;
}

static int64_t padded_rows(const pu_seqs *seqs) {
  int64_t rows = 0;
  for (int32_t s = 0; s < seqs->n; s++) rows += round_up(seqs->cu[s + 1] - seqs->cu[s], ROWS);
  return rows;
}

static bool fits(const job *j) {
  return j->head_dim % 8 == 0 && j->head_dim <= PU_ATTENTION_MAX_DIM && j->cpu->scratch_bytes >= PU_ATTENTION_SCRATCH;
}

static pu_err attention_forward(pu_backend *be, void *args, pu_error *e) {
  const pu_attention_args *a = args;
  job j = training_job((pu_cpu *)be, a);
  if (!fits(&j)) return pu_ref_attention(be, args, e);
  j.rows = padded_rows(a->seqs);
  if (j.rows == 0) return PU_OK;
  size_t used = 0, at[3], spans = take(&used, sizeof(span) * ((size_t)a->seqs->n + 1));
  plan_packed(&j, &used, at);
  void *base;
  PU_TRY(pu_cpu_work(j.cpu, used, &base, e));
  j.spans = at_byte(base, spans);
  place_packed(&j, base, at);
  training_spans(&j, a->seqs);
  job_forward(&j);
  return PU_OK;
}

/* dK and dV tiles of sum i: dK first. */
static float *sum_at(const job *j, int64_t i, bool v) {
  return j->sums + (i * 2 + v) * j->sum_rows * pu_attention_padded_dim(j->head_dim);
}

/* 32 keys of a key head: their dK and dV from the sums into the gradient of qkv. */
static void unpack_keys(const job *j, const span *s, int64_t key, int head, int64_t sum) {
  const int64_t dim = pu_attention_padded_dim(j->head_dim);
  for (int v = 0; v < 2; v++) {
    void *row[ROWS];
    for (int i = 0; i < ROWS; i++)
      row[i] = key + i < s->tokens
                   ? element(j->qkv->grad, s->row + key + i, (int64_t)(j->heads + head + v * j->kv_heads) * j->head_dim)
                   : NULL;
    j->kernel->unpack(sum_at(j, sum, v) + key * dim, v ? 1.0f : j->scale, j->qkv->dtype, j->head_dim, j->add, row);
  }
}

/* The first block of part p: parts have equal areas of the causal triangle, so their ends go with the root. */
static int64_t part_start(int64_t blocks, int p, int parts) {
  return (int64_t)lrint((double)blocks * sqrt((double)p / parts));
}

static void backward_items(void *arg, int64_t begin, int64_t end, int worker) {
  const job *j = arg;
  const int64_t dim = pu_attention_padded_dim(j->head_dim);
  for (int64_t item = begin; item < end; item++) {
    const span *s = span_of_item(j, item);
    const int64_t blocks = (s->tokens + BLOCK - 1) / BLOCK, sum = j->parts > 1 ? item : worker;
    const int part = (int)((item - s->items_at) % j->parts), kv = (int)((item - s->items_at) / j->parts);
    float *dk = sum_at(j, sum, false), *dv = sum_at(j, sum, true);
    memset(dk, 0, sizeof(float) * (size_t)(round_up(s->tokens, ROWS) * dim));
    memset(dv, 0, sizeof(float) * (size_t)(round_up(s->tokens, ROWS) * dim));
    for (int64_t block = part_start(blocks, part, j->parts); block < part_start(blocks, part + 1, j->parts); block++)
      for (int head = kv * j->share; head < (kv + 1) * j->share; head++) {
        pu_attention_block b = block_of(j, s, block, head, worker);
        b.keys_t = packed(j, j->keys_t, kv, s->keys_at);
        b.grad_out = element(j->out->grad, s->row + block * BLOCK, (int64_t)head * j->head_dim);
        b.grad_out_stride = j->out->grad->stride[0];
        b.grad_q = element(j->qkv->grad, s->row + block * BLOCK, (int64_t)head * j->head_dim);
        b.grad_q_stride = j->qkv->grad->stride[0];
        b.add = j->add;
        b.dk = dk;
        b.dv = dv;
        j->kernel->backward(&b);
      }
    if (j->parts == 1)
      for (int64_t key = 0; key < s->tokens; key += ROWS) unpack_keys(j, s, key, kv, sum);
  }
}

/* Adds the parts of each key head, in order, for groups of 32 keys. */
static void merge_parts(void *arg, int64_t begin, int64_t end, int worker) {
  const job *j = arg;
  const int64_t dim = pu_attention_padded_dim(j->head_dim);
  (void)worker;
  for (int64_t group = begin; group < end; group++) {
    const span *s = span_of_row(j, group * ROWS);
    const int64_t key = group * ROWS - s->keys_at;
    for (int kv = 0; kv < j->kv_heads; kv++) {
      const int64_t first = s->items_at + (int64_t)kv * j->parts;
      for (int v = 0; v < 2; v++) {
        float *total = sum_at(j, first, v) + key * dim;
        for (int p = 1; p < j->parts; p++) {
          const float *part = sum_at(j, first + p, v) + key * dim;
          for (int64_t i = 0; i < ROWS * dim; i++) total[i] += part[i];
        }
      }
      unpack_keys(j, s, key, kv, first);
    }
  }
}

/* How backward divides n sequences, the longest of max_len: how many sums of dK and dV that makes. */
static int64_t plan_sums(job *j, int64_t n, int64_t max_len) {
  const int64_t pairs = n * j->kv_heads;
  j->parts = (int)PU_MIN(MAX_PARTS, (PART_ITEMS + pairs - 1) / pairs);
  j->sum_rows = round_up(max_len, ROWS);
  return j->parts > 1 ? pairs * j->parts : pu_pool_size(j->cpu->pool);
}

static size_t sums_bytes(const job *j, int64_t sums) {
  return sizeof(float) * 2 * (size_t)(sums * j->sum_rows * pu_attention_padded_dim(j->head_dim));
}

size_t pu_attention_work_bytes(const pu_cpu *cpu, const pu_work_shape *s) {
  job j = {.cpu = (pu_cpu *)(uintptr_t)cpu,
           .kernel = choose_kernel(cpu, s->dtype),
           .kv_heads = s->kv_heads,
           .head_dim = s->head_dim,
           .rows = round_up(2 * s->tokens, ROWS),
           .backward = true};
  size_t used = 0, at[3], most = 0;
  plan_packed(&j, &used, at);
  /* There are more sequences than the longest one asks for where documents end inside of it. */
  for (int64_t n = PU_MAX(s->tokens / s->max_len, 1), end = PU_MAX(n, PART_ITEMS); n <= end; n++)
    most = PU_MAX(most, sums_bytes(&j, plan_sums(&j, n, s->max_len)));
  return used + most;
}

static pu_err attention_backward(pu_backend *be, void *args, pu_error *e) {
  const pu_attention_args *a = args;
  job j = training_job((pu_cpu *)be, a);
  if (!fits(&j)) return pu_ref_attention_back(be, args, e);
  j.backward = true;
  j.rows = padded_rows(a->seqs);
  if (j.rows == 0) return PU_OK;
  const int64_t sums = plan_sums(&j, a->seqs->n, a->seqs->max_len);
  size_t used = 0, at[3], spans = take(&used, sizeof(span) * ((size_t)a->seqs->n + 1));
  plan_packed(&j, &used, at);
  size_t sums_at = take(&used, sums_bytes(&j, sums));
  void *base;
  PU_TRY(pu_cpu_work(j.cpu, used, &base, e));
  j.spans = at_byte(base, spans);
  j.sums = at_byte(base, sums_at);
  place_packed(&j, base, at);
  training_spans(&j, a->seqs);
  j.add = pu_grad_beta(a->qkv) != 0.0f;
  pu_pool_run(j.cpu->pool, j.rows / ROWS, 2, pack_groups, &j);
  pu_pool_run(j.cpu->pool, j.spans[j.n].items_at, 1, backward_items, &j);
  if (j.parts > 1) pu_pool_run(j.cpu->pool, j.rows / ROWS, 2, merge_parts, &j);
  return PU_OK;
}

/* ---- inference ---------------------------------------------------------------------------------- */

/* A new token that is decoded: its row, its context, and where its stretches' results begin. */
typedef struct single {
  int64_t row, len;
  int32_t seq;
  int64_t first_split, items_at; /* stretches of PU_ATTENTION_SPLIT positions: the first seen; items before */
} single;

typedef struct paged {
  job j;
  const pu_seqs *seqs;
  single *singles; /* n and one that ends the last */
  int64_t n;
} paged;

static void write_row(const job *j, const pu_tensor *to, int32_t seq, int64_t key, int head, const void *from) {
  void *row = cache_row(j, to, seq, key, head);
  const int bits = bits_of(j->kv, to);
  float x[PU_ATTENTION_MAX_DIM];
  if (!bits) {
    pu_convert(row, to->dtype, from, j->qkv->dtype, j->head_dim);
    return;
  }
  pu_convert(x, PU_F32, from, j->qkv->dtype, j->head_dim);
  pu_kv_pack(row, bits, x, j->head_dim);
}

/* Tokens [begin, end) of all sequences. */
static void write_rows(void *arg, int64_t begin, int64_t end, int worker) {
  const paged *p = arg;
  const job *j = &p->j;
  const int32_t *cu = p->seqs->cu;
  (void)worker;
  int32_t s = 0;
  for (int64_t row = begin; row < end; row++) {
    while (cu[s + 1] <= row) s++;
    const int64_t key = j->kv->len[s] - (cu[s + 1] - row);
    for (int head = 0; head < j->kv_heads; head++)
      for (int v = 0; v < 2; v++)
        write_row(j, v ? j->kv->v : j->kv->k, s, key, head,
                  element(j->qkv, row, (int64_t)(j->heads + head + v * j->kv_heads) * j->head_dim));
  }
}

static int64_t first_seen(const job *j, int64_t pos) {
  return pos >= j->window ? pos - j->window + 1 : 0;
}

/* Sorts the sequences into spans (many new tokens) and singles. */
static void paged_spans(paged *p) {
  job *j = &p->j;
  int64_t items = 0, splits = 0;
  for (int32_t s = 0; s < p->seqs->n; s++) {
    const int64_t row = p->seqs->cu[s], tokens = p->seqs->cu[s + 1] - row, len = j->kv->len[s];
    if (tokens > DECODE_TOKENS) {
      const int64_t first = first_seen(j, len - tokens) / KEYS * KEYS;
      j->spans[j->n++] = (span){s, row, tokens, first, len - tokens - first, j->rows, items};
      j->rows += round_up(len - first, ROWS);
      items += (tokens + BLOCK - 1) / BLOCK * j->heads;
      continue;
    }
    for (int64_t i = 0; i < tokens; i++) {
      const int64_t pos = len - tokens + i, first = first_seen(j, pos) / PU_ATTENTION_SPLIT;
      p->singles[p->n++] = (single){row + i, pos + 1, s, first, splits * j->kv_heads};
      splits += pos / PU_ATTENTION_SPLIT + 1 - first;
    }
  }
  j->spans[j->n] = (span){.keys_at = j->rows, .items_at = items};
  p->singles[p->n] = (single){.items_at = splits * j->kv_heads};
}

static size_t split_floats(const job *j) { /* of one item: a maximum, a sum and an output per sharing head */
  return (size_t)j->share * (size_t)(16 + pu_attention_padded_dim(j->head_dim));
}

static void decode_items(void *arg, int64_t begin, int64_t end, int worker) {
  const paged *p = arg;
  const job *j = &p->j;
  const pu_kv *kv = j->kv;
  (void)worker;
  int64_t t = 0;
  for (int64_t hi = p->n; hi - t > 1;) {
    int64_t mid = (t + hi) / 2;
    if (p->singles[mid].items_at <= begin)
      t = mid;
    else
      hi = mid;
  }
  for (int64_t item = begin; item < end; item++) {
    while (p->singles[t + 1].items_at <= item) t++;
    const single *s = &p->singles[t];
    const int64_t splits = (p->singles[t + 1].items_at - s->items_at) / j->kv_heads, i = item - s->items_at;
    const int64_t head = i / splits, split = s->first_split + i % splits;
    const int64_t k_row = cache_row_bytes(j, kv->k), v_row = cache_row_bytes(j, kv->v);
    pu_attention_decode d = {.heads = j->share,
                             .head_dim = j->head_dim,
                             .first = PU_MAX(split * PU_ATTENTION_SPLIT, first_seen(j, s->len - 1)),
                             .last = PU_MIN((split + 1) * PU_ATTENTION_SPLIT, s->len),
                             .scale = j->scale,
                             .q_dtype = j->qkv->dtype,
                             .k_bits = kv->k_bits ? kv->k_bits : 8 * (int)pu_dtype_size(kv->k->dtype),
                             .v_bits = kv->v_bits ? kv->v_bits : 8 * (int)pu_dtype_size(kv->v->dtype),
                             .q = element(j->qkv, s->row, head * j->share * j->head_dim),
                             .q_stride = j->head_dim,
                             .k = (const char *)kv->k->data + head * kv->block * k_row,
                             .v = (const char *)kv->v->data + head * kv->block * v_row,
                             .k_row = k_row,
                             .v_row = v_row,
                             .k_block = kv->block * k_row * j->kv_heads,
                             .v_block = kv->block * v_row * j->kv_heads,
                             .block = kv->block,
                             .table = kv->table + (int64_t)s->seq * kv->table_stride,
                             .part = j->split + (size_t)item * split_floats(j)};
    j->kernel->decode(&d);
  }
}

/* One head's output from its stretches: weights 2^(m - top) bring them to one maximum. */
static void merge_head(const job *j, const float *part, int64_t splits, char *out) {
  float sum[PU_ATTENTION_MAX_DIM] = {0}, top = -INFINITY, l = 0.0f;
  for (int64_t i = 0; i < splits; i++) top = fmaxf(top, part[(size_t)i * split_floats(j)]);
  for (int64_t i = 0; i < splits; i++) {
    const float *x = part + (size_t)i * split_floats(j), weight = exp2f(x[0] - top);
    l += weight * x[1];
    for (int d = 0; d < j->head_dim; d++) sum[d] += weight * x[16 + d];
  }
  for (int d = 0; d < j->head_dim; d++) sum[d] /= l;
  pu_convert(out, j->out->dtype, sum, PU_F32, j->head_dim);
}

static void merge_splits(void *arg, int64_t begin, int64_t end, int worker) {
  const paged *p = arg;
  const job *j = &p->j;
  const int stride = 16 + pu_attention_padded_dim(j->head_dim);
  (void)worker;
  for (int64_t t = begin; t < end; t++) {
    const single *s = &p->singles[t];
    const int64_t splits = (p->singles[t + 1].items_at - s->items_at) / j->kv_heads;
    for (int head = 0; head < j->heads; head++) {
      const float *part = j->split + (size_t)(s->items_at + head / j->share * splits) * split_floats(j);
      merge_head(j, part + head % j->share * stride, splits, element(j->out, s->row, (int64_t)head * j->head_dim));
    }
  }
}

/* Upper bounds of what paged_spans will count. */
static void paged_bounds(const job *j, const pu_seqs *seqs, int64_t *rows, int64_t *singles, int64_t *splits) {
  for (int32_t s = 0; s < seqs->n; s++) {
    const int64_t tokens = seqs->cu[s + 1] - seqs->cu[s], len = j->kv->len[s];
    if (tokens > DECODE_TOKENS) {
      *rows += round_up(len, ROWS);
    } else {
      *singles += tokens;
      *splits += tokens * (len / PU_ATTENTION_SPLIT + 1);
    }
  }
}

/* bf16 tiles where the new rows are bf16, and those of the cache are too or are widened anyway. */
static const pu_attention_kernel *paged_kernel(const pu_cpu *cpu, const pu_attention_paged_args *a) {
  bool same = a->kv->k_bits || a->qkv->dtype == a->kv->k->dtype;
  return choose_kernel(cpu, same ? a->qkv->dtype : PU_F32);
}

static pu_err attention_paged(pu_backend *be, void *args, pu_error *e) {
  pu_attention_paged_args turned = *(pu_attention_paged_args *)args, *a = &turned;
  pu_cpu *cpu = (pu_cpu *)be;
  PU_TRY(pu_ref_qk_ready(be, a, e));
  paged p = {.seqs = a->seqs,
             .j = {.cpu = cpu,
                   .kernel = paged_kernel(cpu, a),
                   .heads = a->heads,
                   .kv_heads = a->kv_heads,
                   .share = a->heads / a->kv_heads,
                   .head_dim = a->head_dim,
                   .window = a->window > 0 ? a->window : INT64_MAX,
                   .scale = a->scale,
                   .qkv = a->qkv,
                   .out = a->out,
                   .kv = a->kv}};
  job *j = &p.j;
  if (!fits(j)) return pu_ref_attention_paged(be, a, e);
  int64_t rows = 0, singles = 0, splits = 0;
  paged_bounds(j, a->seqs, &rows, &singles, &splits);
  size_t used = 0, at[3], spans_at = take(&used, sizeof(span) * ((size_t)a->seqs->n + 1));
  size_t singles_at = take(&used, sizeof(single) * (size_t)(singles + 1));
  size_t split_at = take(&used, sizeof(float) * (size_t)(splits * j->kv_heads) * split_floats(j));
  j->rows = rows;
  plan_packed(j, &used, at);
  void *base;
  PU_TRY(pu_cpu_work(cpu, used, &base, e));
  j->spans = at_byte(base, spans_at);
  p.singles = at_byte(base, singles_at);
  j->split = at_byte(base, split_at);
  place_packed(j, base, at);
  j->rows = 0;
  paged_spans(&p);
  j->head_bytes = rows ? j->head_bytes / (size_t)rows * (size_t)j->rows : 0;
  pu_pool_run(cpu->pool, a->seqs->tokens, 16, write_rows, &p);
  if (j->n > 0) job_forward(j);
  if (p.n > 0) {
    pu_pool_run(cpu->pool, p.singles[p.n].items_at, 1, decode_items, &p);
    pu_pool_run(cpu->pool, p.n, 4, merge_splits, &p);
  }
  return PU_OK;
}

void pu_cpu_use_attention(pu_cpu *cpu) {
  cpu->base.forward[PU_OP_attention] = attention_forward;
  cpu->base.backward[PU_OP_attention] = attention_backward;
  cpu->base.forward[PU_OP_attention_paged] = attention_paged;
}
