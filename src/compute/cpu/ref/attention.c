/* Causal attention, plain: scores s = scale q k^T, p = softmax(s), out = p v, lse = log sum exp s. Backward, with
 * delta = dout . out of a row:  ds = p (dout . v - delta),  dq = scale ds k,  dk = scale ds^T q,  dv = p^T dout. */
#include <math.h>
#include <string.h>

#include "src/compute/cpu/ref/ref.h"
#include "src/compute/cpu/rows.h"

enum { MAX_HEAD_DIM = 1024 };

/* The first position that position `i` sees. */
static int64_t first_seen(int64_t i, int window) {
  return window > 0 && i - window + 1 > 0 ? i - window + 1 : 0;
}

static bool fits_scratch(const pu_cpu *cpu, int64_t len) {
  return (size_t)len <= cpu->scratch_bytes / sizeof(float);
}

static pu_err too_long(pu_error *e, int64_t len) {
  return pu_fail(e, PU_ERR_UNSUPPORTED, "attention: a sequence of %lld tokens is too long for the plain reference",
                 (long long)len);
}

static pu_err too_large(pu_error *e, int head_dim) {
  return pu_fail(e, PU_ERR_UNSUPPORTED, "attention: heads of %d are too large", head_dim);
}

/* Turns scores[0..n) into exp(score - max) and returns the log of their sum; *sum is that sum. */
static float exponentiate(float *scores, int64_t n, double *sum) {
  float max = -INFINITY;
  for (int64_t j = 0; j < n; j++) max = fmaxf(max, scores[j]);
  *sum = 0;
  for (int64_t j = 0; j < n; j++) *sum += scores[j] = expf(scores[j] - max);
  return max + (float)log(*sum);
}

/* ---- training ---- */

typedef struct attention_job {
  pu_cpu *cpu;
  const pu_attention_args *a;
  float *dkv; /* [G, N, 2 D]: sums of dk and dv */
  float beta;
} attention_job;

static float dot_heads(const pu_tensor *a, int64_t ra, int64_t ca, const pu_tensor *b, int64_t rb, int64_t cb, int d) {
  double sum = 0;
  for (int i = 0; i < d; i++) sum += (double)pu_get(a, ra, ca + i) * pu_get(b, rb, cb + i);
  return (float)sum;
}

/* One query row of one head: `n` is the token, `first` the token its sequence starts at. */
static void attend(const attention_job *job, int64_t head, int64_t n, int64_t first, float *p) {
  const pu_attention_args *a = job->a;
  int64_t d = a->head_dim, g = head / (a->heads / a->kv_heads), q0 = head * d, k0 = (a->heads + g) * d;
  int64_t v0 = k0 + a->kv_heads * d, j0 = first + first_seen(n - first, a->window);
  double sum;
  for (int64_t j = j0; j <= n; j++) p[j - j0] = a->scale * dot_heads(a->qkv, n, q0, a->qkv, j, k0, a->head_dim);
  pu_set(a->lse, head, n, exponentiate(p, n - j0 + 1, &sum));
  for (int64_t i = 0; i < d; i++) {
    double o = 0;
    for (int64_t j = j0; j <= n; j++) o += (double)p[j - j0] * pu_get(a->qkv, j, v0 + i);
    pu_set(a->out, n, q0 + i, (float)(o / sum));
  }
}

static void attend_heads(void *arg, int64_t begin, int64_t end, int worker) {
  const attention_job *job = arg;
  const pu_seqs *seqs = job->a->seqs;
  for (int64_t head = begin; head < end; head++)
    for (int32_t s = 0; s < seqs->n; s++)
      for (int64_t n = seqs->cu[s]; n < seqs->cu[s + 1]; n++)
        attend(job, head, n, seqs->cu[s], job->cpu->scratch[worker]);
}

pu_err pu_ref_attention(pu_backend *be, void *args, pu_error *e) {
  attention_job job = {.cpu = (pu_cpu *)be, .a = args};
  if (!fits_scratch(job.cpu, job.a->seqs->max_len)) return too_long(e, job.a->seqs->max_len);
  pu_pool_run(job.cpu->pool, job.a->heads, 1, attend_heads, &job);
  return PU_OK;
}

static void attend_back(const attention_job *job, int64_t head, int64_t n, int64_t first) {
  const pu_attention_args *a = job->a;
  int64_t d = a->head_dim, g = head / (a->heads / a->kv_heads), q0 = head * d, k0 = (a->heads + g) * d;
  int64_t v0 = k0 + a->kv_heads * d;
  const pu_tensor *dout = a->out->grad;
  float delta = dot_heads(dout, n, q0, a->out, n, q0, a->head_dim), lse = pu_get(a->lse, head, n);
  float dq[MAX_HEAD_DIM] = {0};
  for (int64_t j = first + first_seen(n - first, a->window); j <= n; j++) {
    float p = expf(a->scale * dot_heads(a->qkv, n, q0, a->qkv, j, k0, a->head_dim) - lse);
    float ds = a->scale * p * (dot_heads(dout, n, q0, a->qkv, j, v0, a->head_dim) - delta);
    float *dk = job->dkv + (g * a->qkv->shape[0] + j) * 2 * d, *dv = dk + d;
    for (int64_t i = 0; i < d; i++) {
      dq[i] += ds * pu_get(a->qkv, j, k0 + i);
      dk[i] += ds * pu_get(a->qkv, n, q0 + i);
      dv[i] += p * pu_get(dout, n, q0 + i);
    }
  }
  for (int64_t i = 0; i < d; i++) pu_acc(a->qkv->grad, n, q0 + i, dq[i], job->beta);
}

/* A thread owns a key/value head and the query heads that share it. */
static void attend_groups_back(void *arg, int64_t begin, int64_t end, int worker) {
  const attention_job *job = arg;
  const pu_attention_args *a = job->a;
  int64_t d = a->head_dim, rows = a->qkv->shape[0], share = a->heads / a->kv_heads;
  (void)worker;
  for (int64_t g = begin; g < end; g++) {
    float *dkv = job->dkv + g * rows * 2 * d;
    memset(dkv, 0, (size_t)(rows * 2 * d) * sizeof *dkv);
    for (int32_t s = 0; s < a->seqs->n; s++)
      for (int64_t n = a->seqs->cu[s]; n < a->seqs->cu[s + 1]; n++)
        for (int64_t head = g * share; head < (g + 1) * share; head++) attend_back(job, head, n, a->seqs->cu[s]);
    int64_t k0 = (a->heads + g) * d, v0 = k0 + a->kv_heads * d;
    for (int64_t n = 0; n < rows; n++)
      for (int64_t i = 0; i < d; i++) {
        pu_acc(a->qkv->grad, n, k0 + i, dkv[n * 2 * d + i], job->beta);
        pu_acc(a->qkv->grad, n, v0 + i, dkv[n * 2 * d + d + i], job->beta);
      }
  }
}

pu_err pu_ref_attention_back(pu_backend *be, void *args, pu_error *e) {
  attention_job job = {.cpu = (pu_cpu *)be, .a = args};
  const pu_attention_args *a = args;
  void *work;
  if (a->head_dim > MAX_HEAD_DIM) return too_large(e, a->head_dim);
  PU_TRY(pu_cpu_work(job.cpu, (size_t)(a->kv_heads * a->qkv->shape[0] * 2 * a->head_dim) * sizeof(float), &work, e));
  job.dkv = work;
  job.beta = pu_grad_beta(a->qkv);
  pu_pool_run(job.cpu->pool, a->kv_heads, 1, attend_groups_back, &job);
  return PU_OK;
}

/* ---- the paged cache ------------------------------------------------------------------------------------------- */

typedef struct paged_job {
  pu_cpu *cpu;
  const pu_attention_paged_args *a;
} paged_job;

static int bits_of(const pu_kv *kv, const pu_tensor *x) {
  return x == kv->v ? kv->v_bits : kv->k_bits;
}

/* The row of k or v, of position t of sequence s and head g. */
static void *row_of(const pu_attention_paged_args *a, const pu_tensor *x, int32_t s, int64_t t, int64_t g) {
  const pu_kv *kv = a->kv;
  int64_t block = kv->table[(int64_t)s * kv->table_stride + t / kv->block];
  int64_t row = (block * a->kv_heads + g) * kv->block + t % kv->block;
  return (char *)x->data + row * pu_kv_row(bits_of(kv, x), a->head_dim) * (int64_t)pu_dtype_size(x->dtype);
}

static void store_row(const pu_attention_paged_args *a, const pu_tensor *to, int32_t s, int64_t t, int64_t g, int64_t n,
                      int64_t col) {
  float x[MAX_HEAD_DIM];
  const int bits = bits_of(a->kv, to);
  pu_read_piece(a->qkv, n, col, a->head_dim, x);
  if (bits)
    pu_kv_pack(row_of(a, to, s, t, g), bits, x, a->head_dim);
  else
    pu_convert(row_of(a, to, s, t, g), to->dtype, x, PU_F32, a->head_dim);
}

static void store_token(const pu_attention_paged_args *a, int32_t s, int64_t n, int64_t t) {
  for (int64_t g = 0; g < a->kv_heads; g++) {
    int64_t k0 = (a->heads + g) * a->head_dim, v0 = k0 + (int64_t)a->kv_heads * a->head_dim;
    store_row(a, a->kv->k, s, t, g, n, k0);
    store_row(a, a->kv->v, s, t, g, n, v0);
  }
}

static void load_row(const pu_attention_paged_args *a, const pu_tensor *x, int32_t s, int64_t t, int64_t g,
                     float *out) {
  const int bits = bits_of(a->kv, x);
  if (bits)
    pu_kv_unpack(out, row_of(a, x, s, t, g), bits, a->head_dim);
  else
    pu_convert(out, PU_F32, row_of(a, x, s, t, g), x->dtype, a->head_dim);
}

static void attend_cached(const pu_attention_paged_args *a, int64_t head, int32_t s, int64_t n, int64_t t, float *p) {
  int64_t g = head / (a->heads / a->kv_heads), q0 = head * a->head_dim, t0 = first_seen(t, a->window);
  double sum, out[MAX_HEAD_DIM] = {0};
  float q[MAX_HEAD_DIM], x[MAX_HEAD_DIM];
  pu_read_piece(a->qkv, n, q0, a->head_dim, q);
  for (int64_t j = t0; j <= t; j++) {
    double dot = 0;
    load_row(a, a->kv->k, s, j, g, x);
    for (int64_t i = 0; i < a->head_dim; i++) dot += (double)q[i] * x[i];
    p[j - t0] = a->scale * (float)dot;
  }
  exponentiate(p, t - t0 + 1, &sum);
  for (int64_t j = t0; j <= t; j++) {
    load_row(a, a->kv->v, s, j, g, x);
    for (int64_t i = 0; i < a->head_dim; i++) out[i] += (double)p[j - t0] * x[i];
  }
  for (int64_t i = 0; i < a->head_dim; i++) pu_set(a->out, n, q0 + i, (float)(out[i] / sum));
}

/* The position in the cache of the first new token of sequence s. */
static int64_t first_new(const pu_attention_paged_args *a, int32_t s) {
  return a->kv->len[s] - (a->seqs->cu[s + 1] - a->seqs->cu[s]);
}

static void attend_cached_heads(void *arg, int64_t begin, int64_t end, int worker) {
  const paged_job *job = arg;
  const pu_seqs *seqs = job->a->seqs;
  for (int64_t head = begin; head < end; head++)
    for (int32_t s = 0; s < seqs->n; s++)
      for (int64_t n = seqs->cu[s]; n < seqs->cu[s + 1]; n++)
        attend_cached(job->a, head, s, n, first_new(job->a, s) + n - seqs->cu[s], job->cpu->scratch[worker]);
}

pu_err pu_ref_qk_ready(pu_backend *be, pu_attention_paged_args *a, pu_error *e) {
  const pu_qk_ready r = a->ready;
  pu_qk_norm_args norm = {.qkv = a->qkv,
                          .wq = r.wq,
                          .wk = r.wk,
                          .out = a->qkv,
                          .heads = a->heads,
                          .kv_heads = a->kv_heads,
                          .head_dim = a->head_dim,
                          .eps = r.eps};
  pu_rope_args rope = {a->qkv, r.cs, a->heads, a->kv_heads, a->head_dim};
  a->ready = (pu_qk_ready){0};
  if (r.wq) PU_TRY(be->forward[PU_OP_qk_norm](be, &norm, e));
  return r.cs ? be->forward[PU_OP_rope](be, &rope, e) : PU_OK;
}

pu_err pu_ref_attention_paged(pu_backend *be, void *args, pu_error *e) {
  pu_attention_paged_args a = *(pu_attention_paged_args *)args;
  paged_job job = {(pu_cpu *)be, &a};
  const pu_seqs *seqs = job.a->seqs;
  if (job.a->head_dim > MAX_HEAD_DIM) return too_large(e, job.a->head_dim);
  PU_TRY(pu_ref_qk_ready(be, &a, e));
  for (int32_t s = 0; s < seqs->n; s++) {
    if (!fits_scratch(job.cpu, job.a->kv->len[s])) return too_long(e, job.a->kv->len[s]);
    for (int64_t n = seqs->cu[s]; n < seqs->cu[s + 1]; n++)
      store_token(job.a, s, n, first_new(job.a, s) + n - seqs->cu[s]);
  }
  pu_pool_run(job.cpu->pool, job.a->heads, 1, attend_cached_heads, &job);
  return PU_OK;
}
