/* Every operation on every backend: the references' gradients against finite differences, everything else against the
 * references, over random shapes, with outputs poisoned beforehand, and to the bit for one and two threads.
 *
 * A case makes its inputs from a seed and runs its operation; the rest is the same for all of them. PUYU_TEST_DEVICE
 * names one more backend to test (a plug-in beside this program), also with wide rows, which devices have other kernels
 * for; PUYU_TEST_OP names the one case to try, PUYU_TEST_TRIALS how often (tools that watch every access are slow). */
#include <math.h>
#include <stdlib.h>

#include "puyu/compute.h"
#include "tests/test.h"

enum {
  MEMORY = 8 << 20,
  WIDE_MEMORY = 128 << 20,
  SMALL_MEMORY = 256 << 10,
  MAX_LEAVES = 12,
  MOST_STEPPED = 3, /* parameters, of which there are three results each */
  MAX_OUTS = 3 * MOST_STEPPED,
  TRIALS = PU_TSAN ? 1 : 6
};

/* ---- one run of one operation ---------------------------------------------------------------------------------- */

typedef struct vec {
  double *v;
  int64_t n;
} vec;

typedef struct env {
  pu_ctx c;
  pu_error error;
  void *memory;
  pu_rng rng;
  pu_dtype type;
  bool small; /* finite differences: few elements */
  bool wide;  /* rows as models have them */
  bool backward;
  double loss_weight; /* of outputs that have no gradient of their own (the losses) */
  pu_tensor *leaf[MAX_LEAVES], *out[MAX_OUTS];
  int n_leaf, n_out;
  int poke_leaf; /* finite differences: this element of this leaf is moved */
  int64_t poke_at;
  double poke_by;
  vec results[MAX_LEAVES + 2 * MAX_OUTS];
  int n_results;
  double loss;
} env;

typedef struct op_case {
  const char *name;
  void (*run)(env *t);
  bool backward;
} op_case;

static void ok(env *t, pu_err err) {
  if (err != PU_OK) fail_msg("%s", t->error.msg);
}

static void *must(env *t, void *p) {
  if (!p) fail_msg("%s", t->error.msg);
  return p;
}

static void env_open(env *t, pu_backend *be, pu_dtype type, uint64_t seed, size_t bytes) {
  memset(t, 0, sizeof *t);
  t->type = type;
  t->poke_leaf = -1;
  pu_rng_seed(&t->rng, seed);
  t->c.be = be;
  t->c.err = &t->error;
  ok(t, be->alloc(be, bytes, &t->memory, &t->error));
  ok(t, pu_arena_wrap(t->memory, bytes, &t->c.mem, &t->error));
  ok(t, pu_arena_create(64 << 10, &t->c.host, &t->error));
  ok(t, pu_tape_create(t->c.host, &t->c.tape, &t->error));
}

/* All of the memory that outputs will come from becomes NaN in every type. */
static void env_poison(env *t, size_t bytes) {
  static char ones[8 << 20];
  memset(ones, 0xff, sizeof ones);
  for (size_t i = 0; i < bytes; i += sizeof ones)
    ok(t, t->c.be->upload(t->c.be, (char *)t->memory + i, ones, PU_MIN(sizeof ones, bytes - i), &t->error));
}

static void env_close(env *t) {
  for (int i = 0; i < t->n_results; i++) free(t->results[i].v);
  pu_arena_free(t->c.mem);
  pu_arena_free(t->c.host);
  t->c.be->free(t->c.be, t->memory);
}

static int64_t below(env *t, int64_t n) {
  return (int64_t)pu_rng_below(&t->rng, (uint64_t)n);
}

/* A size: few elements for finite differences, else up to max, often odd. */
static int64_t size(env *t, int64_t max) {
  return 1 + below(t, t->small ? PU_MIN(max, 5) : max);
}

/* The width of a row: where they are wide, a multiple of 64 up to `wide`. */
static int64_t width_of(env *t, int64_t max, int64_t wide) {
  return t->wide ? 64 * (1 + below(t, wide / 64)) : size(t, max);
}

/* A tensor as rows of elements, `step` apart, and the bytes from its first element to its last. */
typedef struct layout_of {
  int64_t rows, cols, step;
  size_t element, bytes;
} layout_of;

static layout_of layout(const pu_tensor *x) {
  int64_t rows = x->ndim == 1 ? 1 : x->shape[0], cols = pu_tensor_count(x) / PU_MAX(rows, 1);
  int64_t step = x->ndim == 1 ? cols : x->stride[0];
  size_t element = pu_dtype_size(x->dtype);
  return (layout_of){rows, cols, step, element, rows ? (size_t)((rows - 1) * step + cols) * element : 0};
}

/* What lies between strided rows stays no number. */
static void upload(env *t, const pu_tensor *x, const float *values) {
  layout_of m = layout(x);
  char *host = malloc(m.bytes + 1);
  memset(host, 0xff, m.bytes);
  for (int64_t r = 0; r < m.rows; r++)
    pu_convert(host + (size_t)(r * m.step) * m.element, x->dtype, values + r * m.cols, PU_F32, m.cols);
  ok(t, t->c.be->upload(t->c.be, x->data, host, m.bytes, &t->error));
  free(host);
}

static vec download(env *t, const pu_tensor *x) {
  layout_of m = layout(x);
  vec out = {calloc((size_t)(m.rows * m.cols) + 1, sizeof(double)), m.rows * m.cols};
  char *host = malloc(m.bytes + 1);
  float *values = malloc((size_t)m.cols * sizeof *values + 1);
  ok(t, t->c.be->download(t->c.be, host, x->data, m.bytes, &t->error));
  for (int64_t r = 0; r < m.rows; r++) {
    const char *row = host + (size_t)(r * m.step) * m.element;
    if (x->dtype != PU_I32) pu_convert(values, PU_F32, row, x->dtype, m.cols);
    for (int64_t i = 0; i < m.cols; i++)
      out.v[r * m.cols + i] = x->dtype == PU_I32 ? ((const int32_t *)row)[i] : (double)values[i];
  }
  free(values);
  free(host);
  return out;
}

static void keep(env *t, const pu_tensor *x) {
  t->results[t->n_results++] = download(t, x);
}

static float *normal(env *t, int64_t n, double scale) {
  float *v = malloc((size_t)n * sizeof *v + 1);
  for (int64_t i = 0; i < n; i++) v[i] = (float)(scale * pu_rng_normal(&t->rng));
  return v;
}

static pu_tensor *filled(env *t, pu_dtype type, int ndim, const int64_t *shape, double scale, bool strided) {
  int64_t wide[PU_MAX_DIMS] = {0};
  memcpy(wide, shape, (size_t)ndim * sizeof *wide);
  if (strided) wide[1] += 8 * below(t, 3);
  pu_tensor *x = must(t, pu_tensor_new(&t->c, type, ndim, wide, false));
  if (strided) x->shape[1] = shape[1];
  float *v = normal(t, pu_tensor_count(x), scale);
  if (t->poke_leaf == t->n_leaf) v[t->poke_at] += (float)t->poke_by;
  upload(t, x, v);
  free(v);
  return x;
}

/* An input with a gradient of grad_type, which holds a value already half of the time. */
static pu_tensor *leaf(env *t, pu_dtype type, pu_dtype grad_type, int ndim, const int64_t *shape, double scale) {
  pu_tensor *x = filled(t, type, ndim, shape, scale, ndim == 2 && grad_type == type);
  bool add = below(t, 2) && !t->small;
  if (t->backward) {
    int here = t->n_leaf;
    t->n_leaf = MAX_LEAVES; /* no poking into gradients */
    x->grad = filled(t, grad_type, ndim, shape, 1, false);
    t->n_leaf = here;
    x->grad_set = add;
    if (!add) {
      float *nans = malloc((size_t)pu_tensor_count(x) * sizeof *nans + 1);
      for (int64_t i = 0; i < pu_tensor_count(x); i++) nans[i] = NAN;
      upload(t, x->grad, nans);
      free(nans);
    }
  }
  t->leaf[t->n_leaf++] = x;
  return x;
}

static pu_tensor *leaf2(env *t, pu_dtype type, pu_dtype grad_type, int64_t rows, int64_t cols, double scale) {
  return leaf(t, type, grad_type, 2, (int64_t[]){rows, cols}, scale);
}

/* A matrix that is trained: its gradient in f32, or as it is itself. */
static pu_tensor *param2(env *t, int64_t rows, int64_t cols, double scale) {
  return leaf2(t, t->type, below(t, 2) ? PU_F32 : t->type, rows, cols, scale);
}

/* A norm's weight or a bias: f32, as models keep them, and now and then of the compute type. */
static pu_tensor *param1(env *t, int64_t n) {
  return leaf(t, below(t, 4) ? PU_F32 : t->type, PU_F32, 1, &n, 1);
}

static pu_tensor *ints(env *t, int64_t n, int64_t low, int64_t high) {
  int32_t *v = malloc((size_t)n * sizeof *v + 1);
  for (int64_t i = 0; i < n; i++) v[i] = (int32_t)(low + below(t, high - low));
  pu_tensor *x = must(t, pu_tensor_new(&t->c, PU_I32, 1, &n, false));
  ok(t, t->c.be->upload(t->c.be, x->data, v, (size_t)n * sizeof *v, &t->error));
  free(v);
  return x;
}

static void result(env *t, pu_tensor *x) {
  t->out[t->n_out++] = must(t, x);
}

/* Gives the outputs a random gradient, sums the loss they make, and goes back. Keeps outputs and gradients. */
static void env_finish(env *t) {
  t->loss = 0;
  for (int i = 0; i < t->n_out; i++) {
    pu_tensor *x = t->out[i];
    keep(t, x);
    vec y = t->results[t->n_results - 1];
    if (!t->backward) continue;
    float *dy = normal(t, y.n, 1);
    if (x->grad) {
      if (!x->grad->data) x->grad = must(t, pu_tensor_new(&t->c, x->dtype, x->ndim, x->shape, false));
      upload(t, x->grad, dy);
      x->grad_set = true;
    }
    for (int64_t j = 0; j < y.n; j++) t->loss += y.v[j] * (x->grad ? (double)dy[j] : t->loss_weight);
    free(dy);
  }
  if (!t->backward) return;
  ok(t, pu_backward(&t->c));
  for (int i = 0; i < t->n_leaf; i++)
    if (t->leaf[i]->grad) keep(t, t->leaf[i]->grad);
}

/* ---- the cases ------------------------------------------------------------------------------------------------- */

static void run_embedding(env *t) {
  int64_t vocab = size(t, 60), width = width_of(t, 130, 4096), n = size(t, t->wide ? 900 : 100);
  pu_tensor *w = param2(t, vocab, width, 1);
  result(t, pu_embedding(&t->c, ints(t, n, 0, vocab), w, below(t, 2) ? PU_F32 : t->type));
}

static void run_rmsnorm(env *t) {
  int64_t n = size(t, 90), width = width_of(t, 300, 12288);
  pu_tensor *h = NULL, *res = leaf2(t, PU_F32, PU_F32, n, width, 1);
  pu_tensor *x = below(t, 4) ? leaf2(t, t->type, t->type, n, width, 1) : NULL;
  pu_tensor *w = param1(t, width);
  result(t, pu_rmsnorm_add(&t->c, res, x, w, 1e-5f, t->type, &h));
  if (x && below(t, 4)) result(t, h); /* else nobody uses h: it has no gradient */
}

static void run_linear(env *t) {
  int64_t n = size(t, 80), k = width_of(t, 140, 1024), m = width_of(t, 140, 1024);
  pu_tensor *x = leaf2(t, t->type, t->type, n, k, 1);
  pu_tensor *w = param2(t, m, k, 0.2);
  pu_tensor *b = below(t, 2) ? param1(t, m) : NULL;
  result(t, pu_linear(&t->c, x, w, b, below(t, 2)));
}

static void run_linear_tiled(env *t) {
  int64_t n = size(t, 70), k = size(t, 140), m = size(t, 140);
  pu_tensor *x = leaf2(t, t->type, t->type, n, k, 1);
  pu_tensor *w = leaf2(t, t->type, PU_F32, m, k, 0.2);
  pu_tensor *b = below(t, 2) ? param1(t, m) : NULL;
  bool tiles = t->c.be->forward[PU_OP_tile_weight]; /* not every device has them */
  result(t, pu_linear(&t->c, x, tiles ? must(t, pu_tile_weight(&t->c, w)) : w, b, below(t, 2)));
}

/* Two adapters: of the first rows, of the last ones; those between go without, or by the first one again. */
static void run_lora(env *t) {
  int64_t n = 1 + size(t, 150), k = width_of(t, 140, 512), m = width_of(t, 140, 512), from[2], rows[2], rank[2];
  pu_tensor *x = leaf2(t, t->type, t->type, n, k, 1), *w = param2(t, m, k, 0.2), *a[2], *b[2];
  for (int i = 0; i < 2; i++) {
    rank[i] = size(t, 40);
    from[i] = below(t, m);
    rows[i] = 1 + below(t, m - from[i]);
    a[i] = leaf2(t, t->type, PU_F32, rank[i], k, 0.2);
    b[i] = leaf2(t, t->type, PU_F32, rows[i], rank[i], 0.5);
  }
  int64_t first = 1 + below(t, n - 1), last = first + below(t, n - first);
  pu_lora_part parts[3] = {{a[0], b[0], 0, first, from[0], 0.7f}, {a[1], b[1], last, n - last, from[1], 2.0f}};
  int used = 2;
  if (last > first && below(t, 2)) parts[used++] = (pu_lora_part){a[0], b[0], first, last - first, from[0], 1.3f};
  result(t, pu_lora(&t->c, x, pu_linear(&t->c, x, w, NULL, false), parts, used));
}

enum { ADAPTERS = 5 };

/* Some adapters, each of its own stretch of n rows, one after the other; sizes are multiples of 8, as tensor cores want
 * them. How many there are. */
static int adapter_parts(env *t, int64_t n, int64_t k, int64_t m, pu_lora_part *parts) {
  int used = 0;
  for (int64_t row = below(t, 2); row < n && used < ADAPTERS; used++) {
    int64_t rank = 8 * (1 + below(t, 9)), cols = 8 * (1 + below(t, m / 8)), rows = 1 + below(t, n - row);
    pu_tensor *a = leaf2(t, t->type, PU_F32, rank, k, 0.2), *b = leaf2(t, t->type, PU_F32, cols, rank, 0.5);
    parts[used] = (pu_lora_part){a, b, row, rows, 8 * below(t, (m - cols) / 8 + 1), 0.7f};
    row += rows;
  }
  return used;
}

static void run_lora_whole(env *t) {
  int64_t n = 1 + size(t, t->wide ? 700 : 150), k = 8 * size(t, t->wide ? 256 : 20),
          m = 8 * size(t, t->wide ? 128 : 40);
  pu_tensor *x = leaf2(t, t->type, t->type, n, k, 1), *w = param2(t, m, k, 0.2);
  pu_lora_part parts[ADAPTERS];
  int used = adapter_parts(t, n, k, m, parts);
  result(t, pu_lora(&t->c, x, pu_linear(&t->c, x, w, NULL, false), parts, used));
}

typedef struct heads {
  int q, kv, dim;
} heads;

static heads some_heads(env *t) {
  static const int dims[] = {2, 4, 6, 16, 64, 72, 128, 40}, wide[] = {64, 96, 128, 256};
  int kv = 1 + (int)below(t, t->small ? 2 : 3), share = 1 + (int)below(t, t->small ? 2 : 4);
  if (t->wide) return (heads){2 * kv * share, 2 * kv, wide[below(t, PU_COUNT(wide))]};
  return (heads){kv * share, kv, dims[below(t, t->small ? 3 : (int64_t)PU_COUNT(dims))]};
}

static pu_tensor *qkv_leaf(env *t, int64_t n, heads h) {
  return leaf2(t, t->type, t->type, n, (int64_t)(h.q + 2 * h.kv) * h.dim, 1);
}

static void run_qk_norm(env *t) {
  heads h = some_heads(t);
  if (t->wide && !below(t, 3)) h.dim = 257 + (int)below(t, 700);
  pu_tensor *qkv = qkv_leaf(t, size(t, 40), h), *wq = param1(t, h.dim), *wk = param1(t, h.dim);
  result(t, pu_qk_norm(&t->c, qkv, wq, wk, h.q, h.kv, h.dim, 1e-6f));
}

/* Of n tokens, as pu_rope takes them. */
static pu_tensor *some_angles(env *t, int64_t n, int dim) {
  float *angles = malloc((size_t)n * (size_t)dim * sizeof *angles);
  for (int64_t r = 0; r < n; r++)
    for (int d = 0; d < dim / 2; d++) {
      double a = 6.3 * pu_rng_uniform(&t->rng);
      angles[r * dim + d] = (float)cos(a);
      angles[r * dim + dim / 2 + d] = (float)sin(a);
    }
  pu_tensor *cs = must(t, pu_tensor_new(&t->c, PU_F32, 2, (int64_t[]){n, dim}, false));
  upload(t, cs, angles);
  free(angles);
  return cs;
}

static void run_rope(env *t) {
  heads h = some_heads(t);
  int64_t n = size(t, 40);
  pu_tensor *qkv = qkv_leaf(t, n, h);
  result(t, pu_rope(&t->c, qkv, some_angles(t, n, h.dim), h.q, h.kv, h.dim));
}

/* Some sequences end to end, in host memory of the arena. Empty ones too. */
static pu_seqs *some_seqs(env *t, int32_t max_len) {
  pu_seqs *s = must(t, pu_arena_zalloc(t->c.host, sizeof *s));
  s->n = 1 + (int32_t)below(t, t->small ? 2 : 5);
  int32_t *cu = must(t, pu_arena_zalloc(t->c.host, (size_t)(s->n + 1) * sizeof *cu));
  for (int32_t i = 0; i < s->n; i++) {
    int32_t len = i == 0 ? 1 + (int32_t)below(t, max_len) : (int32_t)below(t, max_len + 1);
    cu[i + 1] = cu[i] + len;
    s->max_len = PU_MAX(s->max_len, len);
  }
  s->cu = cu;
  s->tokens = cu[s->n];
  return s;
}

static int some_window(env *t) {
  return below(t, 3) ? 0 : 1 + (int)below(t, 70);
}

static void run_attention(env *t) {
  heads h = some_heads(t);
  pu_seqs *s = some_seqs(t, t->small ? 5 : 90);
  pu_tensor *qkv = qkv_leaf(t, s->tokens, h);
  result(t, pu_attention(&t->c, qkv, s, h.q, h.kv, h.dim, some_window(t), 1 / sqrtf((float)h.dim)));
}

/* The blocks of the cache are dealt out backwards, so that a table that is not followed shows. */
static void run_attention_paged(env *t) {
  heads h = some_heads(t);
  pu_seqs *s = some_seqs(t, below(t, 2) ? 1 : 40);
  int32_t block = 16, per = 12, blocks = per * s->n;
  pu_kv *kv = must(t, pu_arena_zalloc(t->c.host, sizeof *kv));
  int32_t *table = must(t, pu_arena_zalloc(t->c.host, (size_t)blocks * sizeof *table));
  int32_t *len = must(t, pu_arena_zalloc(t->c.host, (size_t)s->n * sizeof *len));
  for (int32_t i = 0; i < blocks; i++) table[i] = blocks - 1 - i;
  for (int32_t i = 0; i < s->n; i++) len[i] = s->cu[i + 1] - s->cu[i] + (int32_t)below(t, 120);
  int64_t shape[] = {blocks, h.kv, block, h.dim};
  *kv = (pu_kv){.k = filled(t, t->type, 4, shape, 1, false),
                .v = filled(t, t->type, 4, shape, 1, false),
                .block = block,
                .table = table,
                .table_stride = per,
                .len = len};
  pu_tensor *qkv = qkv_leaf(t, s->tokens, h);
  pu_qk_ready ready = {.cs = below(t, 2) ? some_angles(t, s->tokens, h.dim) : NULL, .eps = 1e-6f};
  if (below(t, 2)) ready.wq = param1(t, h.dim), ready.wk = param1(t, h.dim);
  result(t, pu_attention_paged(&t->c, qkv, &ready, s, kv, h.q, h.kv, h.dim, some_window(t), 1 / sqrtf((float)h.dim)));
  result(t, kv->k);
  result(t, kv->v);
}

static void run_swiglu(env *t) {
  result(t, pu_swiglu(&t->c, leaf2(t, t->type, t->type, size(t, 70), 2 * width_of(t, 150, 6144), 2)));
}

/* Few rows, and more of them than a device has kernels for. */
static void run_linear_swiglu(env *t) {
  int64_t n = size(t, 80), k = width_of(t, 140, 1024), m = 2 * width_of(t, 70, 1536);
  pu_tensor *x = leaf2(t, t->type, t->type, n, k, 1), *w = leaf2(t, t->type, PU_F32, m, k, 0.2);
  t->c.tape = NULL;
  pu_tensor *y = must(t, pu_linear_swiglu(&t->c, x, w)),
            *apart = must(t, pu_swiglu(&t->c, pu_linear(&t->c, x, w, NULL, false)));
  result(t, y);
  vec one = download(t, y), two = download(t, apart);
  assert_memory_equal(one.v, two.v, (size_t)one.n * sizeof *one.v);
  free(one.v);
  free(two.v);
}

static void run_moe_route(env *t) {
  int64_t experts = 1 + size(t, 20);
  pu_tensor *weight, *logits = leaf2(t, PU_F32, PU_F32, size(t, 80), experts, 3);
  pu_tensor *idx = pu_moe_route(&t->c, logits, (int)(1 + below(t, experts)), &weight);
  result(t, weight);
  if (!t->small) result(t, idx);
}

static void run_top_logits(env *t) {
  int64_t n = size(t, 12), width = 1 + size(t, 3000), vocab = 1 + below(t, width);
  int k = (int)(1 + below(t, PU_MIN(vocab, (int64_t)PU_TOP_MOST)));
  pu_tensor *values, *sums, *logits = leaf2(t, PU_F32, PU_F32, n, width, 4), *scale = leaf(t, PU_F32, PU_F32, 1, &n, 1);
  pu_tensor *ids = must(t, pu_top_logits(&t->c, logits, vocab, k, scale, &values, &sums));
  result(t, values);
  result(t, sums);
  result(t, ids);
}

/* What is asked of row n of adjust_logits: lists in which each id stands once, some of them ids that there are not. */
static int32_t random_list(env *t, int64_t vocab, int32_t *ids, float *values, int32_t n) {
  int64_t first = below(t, vocab + 2) - 1, most = below(t, 3) ? below(t, 40) : below(t, vocab + 1);
  for (int64_t i = 0; i < PU_MIN(most, vocab); i++, n++) {
    ids[n] = (int32_t)(first + i >= vocab ? first + i - vocab : first + i); /* -1 may be among them */
    values[n] = (float)pu_rng_normal(&t->rng);
  }
  return n;
}

static void adjust_plainly(float *x, int64_t vocab, float r, const int32_t *at, const int32_t *ids,
                           const float *values) {
  for (int64_t id = 0; id < vocab; id++) {
    for (int32_t i = at[0]; i < at[1]; i++)
      if (ids[i] == id) x[id] += values[i];
    for (int32_t i = at[1]; i < at[2]; i++)
      if (ids[i] == id) {
        x[id] *= x[id] > 0 ? 1 / r : r;
        x[id] -= values[i];
      }
    for (int32_t i = at[2]; i < at[3]; i++)
      if (ids[i] == id) x[id] = -INFINITY;
  }
}

/* To the bit, but for the kind of a NaN. */
static void must_equal(const float *got, const float *want, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    if (!(got[i] == want[i] || (isnan(got[i]) && isnan(want[i]))))
      fail_msg("adjust_logits: logit %lld is %.9g, not %.9g", (long long)i, (double)got[i], (double)want[i]);
}

static const pu_tensor *sent(env *t, pu_dtype type, int64_t n, const void *values) {
  pu_tensor *x = must(t, pu_tensor_new(&t->c, type, 1, &n, false));
  ok(t, t->c.be->upload(t->c.be, x->data, values, (size_t)n * 4, &t->error));
  return x;
}

/* Against the formula, since results that are compared must be finite. Rows lie apart, some logits are odd, some rows
 * change nothing, and what no list has is left as it was. */
static void run_adjust_logits(env *t) {
  static const float odd[] = {NAN, INFINITY, -INFINITY, 0, -0.0f, 1e-42f, 3e38f, -3e38f};
  enum { MOST_ROWS = 6, MOST_WIDTH = 3000, MOST = 3 * MOST_ROWS * MOST_WIDTH + 1 };
  static float x[MOST_ROWS * MOST_WIDTH], got[MOST_ROWS * MOST_WIDTH], values[MOST], penalty[MOST_ROWS];
  static int32_t ids[MOST], offsets[3 * MOST_ROWS + 1];
  const int64_t n = size(t, MOST_ROWS), width = size(t, MOST_WIDTH), vocab = 1 + below(t, width);
  for (int64_t i = 0; i < n * width; i++)
    x[i] = below(t, 20) ? (float)(4 * pu_rng_normal(&t->rng)) : odd[below(t, PU_COUNT(odd))];
  int32_t m = offsets[0] = 0;
  for (int64_t i = 0; i < 3 * n; i++) {
    const bool empty = below(t, 4) == 0;
    offsets[i + 1] = m = empty ? m : random_list(t, vocab, ids, values, m);
  }
  for (int64_t i = 0; i < n; i++) penalty[i] = below(t, 3) ? (float)exp(pu_rng_normal(&t->rng)) : 1;
  ids[m] = 0, values[m] = NAN; /* behind the lists: not to be read */
  pu_tensor *all = must(t, pu_tensor_new(&t->c, PU_F32, 2, (int64_t[]){n, width}, false)), part = *all;
  ok(t, t->c.be->upload(t->c.be, all->data, x, (size_t)(n * width) * sizeof *x, &t->error));
  part.shape[1] = vocab;
  must(t, pu_adjust_logits(&t->c, &part, sent(t, PU_F32, n, penalty), sent(t, PU_I32, 3 * n + 1, offsets),
                           sent(t, PU_I32, m + 1, ids), sent(t, PU_F32, m + 1, values)));
  ok(t, t->c.be->download(t->c.be, got, all->data, (size_t)(n * width) * sizeof *got, &t->error));
  for (int64_t i = 0; i < n; i++) adjust_plainly(x + i * width, vocab, penalty[i], offsets + 3 * i, ids, values);
  must_equal(got, x, n * width);
}

/* The choices are given, so that types do not choose differently. */
static void run_moe_mlp(env *t) {
  int64_t n = size(t, 60), width = width_of(t, 70, 256), inner = width_of(t, 70, 256), experts = 2 + below(t, 5),
          k = 1 + below(t, 2);
  int32_t idx[2 * 64];
  for (int64_t i = 0; i < n * k; i += k) {
    idx[i] = (int32_t)below(t, experts);
    if (k == 2) idx[i + 1] = (idx[i] + 1) % (int32_t)experts;
  }
  pu_tensor *chosen = must(t, pu_tensor_new(&t->c, PU_I32, 2, (int64_t[]){n, k}, false));
  ok(t, t->c.be->upload(t->c.be, chosen->data, idx, (size_t)(n * k) * sizeof *idx, &t->error));
  pu_tensor *x = leaf2(t, t->type, t->type, n, width, 1);
  pu_tensor *weight = leaf(t, PU_F32, PU_F32, 1, (int64_t[]){n * k}, 1);
  weight->ndim = 2;
  weight->shape[0] = n;
  weight->shape[1] = weight->stride[0] = k;
  weight->stride[1] = 1;
  if (weight->grad) memcpy(weight->grad->shape, weight->shape, sizeof weight->shape);
  if (weight->grad) memcpy(weight->grad->stride, weight->stride, sizeof weight->stride);
  if (weight->grad) weight->grad->ndim = 2;
  pu_dtype grads = below(t, 2) ? PU_F32 : t->type;
  pu_tensor *gate_up = leaf(t, t->type, grads, 3, (int64_t[]){experts, 2 * inner, width}, 0.3);
  pu_tensor *down = leaf(t, t->type, grads, 3, (int64_t[]){experts, width, inner}, 0.3);
  result(t, pu_moe_mlp(&t->c, x, chosen, weight, gate_up, down));
}

static void run_loss(env *t) {
  int64_t n = size(t, 70), width = width_of(t, 90, 512), vocab = 1 + (t->wide ? below(t, 5000) : size(t, 300));
  bool many = t->wide && !below(t, 3); /* tokens as of a real model; some logits far above others */
  if (many) width = 8, vocab = 15000 + below(t, 45000);
  pu_tensor *x = leaf2(t, t->type, t->type, n, width, many && t->type == PU_BF16 && below(t, 2) ? 40 : 1);
  pu_tensor *w = param2(t, vocab, width, 0.3);
  float scale = 0.125f;
  t->loss_weight = (double)scale;
  /* Some targets missing, often none of them, sometimes all. */
  pu_tensor *targets = below(t, 2) ? ints(t, n, 0, vocab) : below(t, 8) ? ints(t, n, -vocab, vocab) : ints(t, n, -1, 0);
  result(t, pu_linear_cross_entropy(&t->c, x, w, targets, scale));
}

/* A double in the backend's memory. */
static double *number(env *t, double v) {
  double *place = must(t, pu_arena_alloc(t->c.mem, sizeof v));
  ok(t, t->c.be->upload(t->c.be, place, &v, sizeof v, &t->error));
  return place;
}

static void run_sum_squares(env *t) {
  const pu_tensor *list[4];
  int n = (int)below(t, 5);
  double sum, *place = number(t, NAN);
  pu_tensor *out = must(t, pu_tensor_new(&t->c, PU_F32, 1, (int64_t[]){1}, false));
  for (int i = 0; i < n; i++) {
    int64_t count = below(t, 4) ? 1 + below(t, 200000) : below(t, 2);
    list[i] = filled(t, below(t, 2) ? PU_F32 : t->type, 1, &count, 1, false);
  }
  ok(t, pu_sum_squares(&t->c, list, n, place));
  ok(t, t->c.be->download(t->c.be, &sum, place, sizeof sum, &t->error));
  upload(t, out, (float[]){(float)sum});
  result(t, out);
}

/* The lower halves of a bf16 p; the results are those of the f32 that both are. */
static pu_tensor *lower_halves(env *t, int64_t n) {
  uint16_t *bits = malloc((size_t)n * sizeof *bits + 1);
  pu_tensor *low = must(t, pu_tensor_new(&t->c, PU_U16, 1, &n, false));
  for (int64_t i = 0; i < n; i++) bits[i] = (uint16_t)pu_rng_next(&t->rng);
  ok(t, t->c.be->upload(t->c.be, low->data, bits, pu_tensor_bytes(low), &t->error));
  free(bits);
  return low;
}

static pu_tensor *joined(env *t, const pu_tensor *p, const pu_tensor *low) {
  int64_t n = pu_tensor_count(p);
  uint16_t *halves = malloc((size_t)n * 2 * sizeof *halves + 1);
  float *values = malloc((size_t)n * sizeof *values + 1);
  pu_tensor *out = must(t, pu_tensor_new(&t->c, PU_F32, 1, &n, false));
  ok(t, t->c.be->download(t->c.be, halves, p->data, pu_tensor_bytes(p), &t->error));
  ok(t, t->c.be->download(t->c.be, halves + n, low->data, pu_tensor_bytes(low), &t->error));
  pu_join_halves(values, halves, halves + n, n);
  ok(t, t->c.be->upload(t->c.be, out->data, values, pu_tensor_bytes(out), &t->error));
  free(halves);
  free(values);
  return out;
}

/* Rounded stochastically, a version that is an ulp of f32 off goes the other way here and there: such results are held
 * to bf16's bound. */
static pu_adamw_param stepped(env *t) {
  int64_t n = 1 + below(t, 50000), form = below(t, t->type == PU_BF16 ? 3 : 2);
  pu_dtype state = t->type == PU_BF16 && below(t, 3) ? PU_BF16 : PU_F32;
  pu_tensor *p = filled(t, form ? PU_BF16 : PU_F32, 1, &n, 1, false), *g;
  g = filled(t, below(t, 2) ? PU_F32 : t->type, 1, &n, 1, false);
  pu_tensor *m = filled(t, state, 1, &n, 0.1, false), *v = must(t, pu_tensor_new(&t->c, state, 1, &n, false));
  pu_tensor *low = form == 1 ? lower_halves(t, n) : NULL;
  float *squares = normal(t, n, 1);
  for (int64_t i = 0; i < n; i++) squares[i] *= squares[i];
  upload(t, v, squares);
  free(squares);
  return (pu_adamw_param){p, low, g, m, v, below(t, 2) ? 0.1f : 0, (uint64_t)below(t, 9)};
}

static void run_adamw(env *t) {
  pu_adamw_param of[MOST_STEPPED];
  const int n = 1 + (int)below(t, MOST_STEPPED);
  for (int i = 0; i < n; i++) of[i] = stepped(t);
  pu_adamw_args a = {of, n, 3e-2f, 0.9f, 0.95f, 1e-8f, 1 + below(t, 100), {NULL, NULL, 0, INFINITY}};
  if (below(t, 4)) a.gate.squares = number(t, 4), a.gate.clip = 0.7 * (double)below(t, 5);
  ok(t, pu_adamw(&t->c, &a));
  for (int i = 0; i < n; i++) {
    result(t, of[i].low ? joined(t, of[i].p, of[i].low) : of[i].p);
    result(t, of[i].m);
    result(t, of[i].v);
  }
}

static const op_case cases[] = {
    {"embedding", run_embedding, true},
    {"rmsnorm_add", run_rmsnorm, true},
    {"linear", run_linear, true},
    {"linear tiled", run_linear_tiled, false},
    {"lora", run_lora, true},
    {"qk_norm", run_qk_norm, true},
    {"rope", run_rope, true},
    {"attention", run_attention, true},
    {"attention_paged", run_attention_paged, false},
    {"swiglu", run_swiglu, true},
    {"linear_swiglu", run_linear_swiglu, false},
    {"moe_route", run_moe_route, true},
    {"moe_mlp", run_moe_mlp, true},
    {"linear_cross_entropy", run_loss, true},
    {"adjust_logits", run_adjust_logits, false},
    {"top_logits", run_top_logits, false},
    {"sum_squares", run_sum_squares, false},
    {"adamw", run_adamw, false},
    /* Without a gradient a backend may go another way. */
    {"linear, no gradient", run_linear, false},
    {"lora, no gradient", run_lora, false},
    {"lora of whole sizes, no gradient", run_lora_whole, false},
    {"moe_mlp, no gradient", run_moe_mlp, false},
    {"linear_cross_entropy, no gradient", run_loss, false},
};

/* ---- running and comparing ------------------------------------------------------------------------------------- */

typedef enum extent { SMALL, USUAL, WIDE } extent;

static void run_case(env *t, const op_case *op, pu_backend *be, pu_dtype type, uint64_t seed, extent x) {
  size_t bytes = x == WIDE ? WIDE_MEMORY : MEMORY;
  env_open(t, be, type, seed, bytes);
  t->small = x == SMALL;
  t->wide = x == WIDE;
  t->backward = op->backward;
  env_poison(t, bytes);
  op->run(t);
  env_finish(t);
}

static double distance(vec a, vec b) {
  double diff = 0, norm = 0;
  assert_int_equal(a.n, b.n);
  for (int64_t i = 0; i < a.n; i++) {
    if (!isfinite(a.v[i]) || !isfinite(b.v[i])) return INFINITY;
    diff += (a.v[i] - b.v[i]) * (a.v[i] - b.v[i]);
    norm += b.v[i] * b.v[i];
  }
  return diff == 0 ? 0 : sqrt(diff / norm);
}

static void compare(const op_case *op, const char *what, const env *got, const env *want, double bound) {
  assert_int_equal(got->n_results, want->n_results);
  for (int i = 0; i < got->n_results; i++) {
    double d = distance(got->results[i], want->results[i]);
    if (!(d <= bound))
      fail_msg("%s, %s, %s: result %d of %d differs by %g (bound %g)", op->name, pu_dtype_name(got->type), what, i,
               got->n_results, d, bound);
  }
}

static pu_backend *open_cpu(int threads, pu_isa isa) {
  pu_error e;
  pu_backend *be = NULL;
  if (pu_cpu_open(threads, isa, &be, &e) != PU_OK) fail_msg("%s", e.msg);
  return be;
}

/* PUYU_TEST_OP names one. A device may be without these two: the engine fetches whole rows then. */
static bool wanted(const pu_backend *be, const op_case *op) {
  const char *only = getenv("PUYU_TEST_OP");
  if (op->run == run_top_logits && !be->forward[PU_OP_top_logits]) return false;
  if (op->run == run_adjust_logits && !be->forward[PU_OP_adjust_logits]) return false;
  return !only || strcmp(op->name, only) == 0;
}

static uint64_t trials(void) {
  const char *n = getenv("PUYU_TEST_TRIALS");
  return n ? strtoull(n, NULL, 10) : TRIALS;
}

/* A backend against the reference, and to the bit against a twin (which may be itself). */
static void check_backend(const char *what, pu_backend *be, pu_backend *twin, extent x) {
  static const double bounds[] = {[PU_F32] = 1e-5, [PU_BF16] = 1e-2};
  pu_backend *ref = open_cpu(1, PU_ISA_REF);
  for (size_t i = 0; i < PU_COUNT(cases); i++)
    for (uint64_t seed = 0; seed < 2 * trials() && wanted(be, &cases[i]); seed++) {
      env want, got, again;
      pu_dtype type = seed % 2 ? PU_BF16 : PU_F32;
      run_case(&want, &cases[i], ref, type, seed / 2 + 1000 * i, x);
      run_case(&got, &cases[i], be, type, seed / 2 + 1000 * i, x);
      compare(&cases[i], what, &got, &want, bounds[type]);
      run_case(&again, &cases[i], twin, type, seed / 2 + 1000 * i, x);
      compare(&cases[i], twin == be ? "once more" : "1 thread against 2", &again, &got, 0);
      env_close(&again);
      env_close(&got);
      env_close(&want);
    }
  ref->close(ref);
}

static void cpu_isas_match_reference(void **state) {
  (void)state;
  for (int isa = 0; isa <= (int)pu_isa_best(); isa++) {
    pu_backend *one = open_cpu(1, (pu_isa)isa), *two = open_cpu(2, (pu_isa)isa);
    check_backend(pu_isa_name((pu_isa)isa), one, two, USUAL);
    one->close(one);
    two->close(two);
  }
}

static pu_backend *open_device(void) {
  const char *name = getenv("PUYU_TEST_DEVICE");
  pu_backend *be = NULL;
  pu_error e;
  if (name && pu_backend_open(name, 0, &be, &e) != PU_OK) fail_msg("%s", e.msg);
  return be;
}

static void device_matches_reference(void **state) {
  (void)state;
  pu_backend *be = open_device();
  if (!be) skip();
  check_backend(be->name, be, be, USUAL);
  if (strcmp(be->name, "far") != 0) check_backend(be->name, be, be, WIDE); /* far's kernels are the CPU's */
  be->close(be);
}

/* Row `row` of the product and its adapter, alone. */
static vec row_alone(env *t, pu_tensor *x, pu_tensor *w, const pu_lora_part *parts, int used, int64_t row) {
  pu_tensor one = *x;
  one.shape[0] = 1;
  one.data = (char *)x->data + (size_t)(row * x->stride[0]) * pu_dtype_size(x->dtype);
  pu_tensor *y = must(t, pu_linear(&t->c, &one, w, NULL, false));
  for (int i = 0; i < used; i++) {
    pu_lora_part p = parts[i];
    if (row < p.row || row >= p.row + p.rows) continue;
    p.row = 0, p.rows = 1;
    must(t, pu_lora(&t->c, &one, y, &p, 1));
  }
  return download(t, y);
}

static void adapted_rows_are_steady(void **state) {
  (void)state;
  pu_backend *be = open_device();
  if (!be) skip();
  for (uint64_t seed = 0; seed < 2 * trials(); seed++) {
    static const int64_t many[] = {2, 9, 40, 130, 520};
    env t;
    pu_lora_part parts[ADAPTERS];
    env_open(&t, be, seed % 2 ? PU_BF16 : PU_F32, seed, WIDE_MEMORY);
    t.c.tape = NULL;
    int64_t n = many[below(&t, 5)], k = 8 * (1 + below(&t, 200)), m = 8 * (1 + below(&t, 100));
    pu_tensor *x = leaf2(&t, t.type, t.type, n, k, 1), *w = leaf2(&t, t.type, t.type, m, k, 0.2);
    int used = adapter_parts(&t, n, k, m, parts);
    vec all = download(&t, must(&t, pu_lora(&t.c, x, pu_linear(&t.c, x, w, NULL, false), parts, used)));
    for (int i = 0; i < 6; i++) {
      int64_t row = below(&t, n);
      vec one = row_alone(&t, x, w, parts, used, row);
      for (int64_t c = 0; c < m; c++)
        if (one.v[c] != all.v[row * m + c]) fail_msg("row %lld of %lld differs alone", (long long)row, (long long)n);
      free(one.v);
    }
    free(all.v);
    env_close(&t);
  }
  be->close(be);
}

static pu_err wait_for(pu_backend *be, bool mark, pu_error *e) {
  uint64_t at;
  if (!mark) return be->sync(be, e);
  PU_TRY(be->mark(be, &at, e));
  return be->reach(be, at, e);
}

/* What is in the tokens only the device sees: told when it is waited for next, and once. */
static void refuses_when(pu_backend *be, bool marked) {
  env t;
  env_open(&t, be, PU_F32, 1, SMALL_MEMORY);
  pu_tensor *w = filled(&t, PU_F32, 2, (int64_t[]){4, 3}, 1, false), *ids = ints(&t, 3, 0, 4);
  ok(&t, be->upload(be, (int32_t *)ids->data + 1, (int32_t[]){4, -1}, 2 * sizeof(int32_t), &t.error));
  if (pu_embedding(&t.c, ids, w, PU_F32))
    assert_int_equal(wait_for(be, marked, &t.error), PU_ERR_SHAPE);
  else
    assert_int_equal(t.c.status, PU_ERR_SHAPE);
  assert_non_null(strstr(t.error.msg, "token 4 at place 1"));
  ok(&t, wait_for(be, marked, &t.error));
  env_close(&t);
}

static void device_refuses(void **state) {
  (void)state;
  pu_backend *be = open_device();
  if (!be) skip();
  refuses_when(be, false);
  if (be->mark) refuses_when(be, true);
  be->close(be);
}

/* Logits of a stretch of the vocabulary that are no number, the target's not among them: neither is the loss. */
static void nan_shows_on(pu_backend *be) {
  enum { V = 30000, C = 8, PART = 10000 };
  float *values = malloc(sizeof(float) * V * C);
  assert_non_null(values);
  for (pu_dtype type = PU_F32; type <= PU_BF16; type++)
    for (int first = 0; first < V; first += PART) {
      env t;
      env_open(&t, be, type, 1, MEMORY);
      pu_tensor *w = filled(&t, type, 2, (int64_t[]){V, C}, 1, false);
      pu_tensor *x = filled(&t, type, 2, (int64_t[]){1, C}, 1, false), *target = ints(&t, 1, 0, V);
      for (int64_t i = 0; i < (int64_t)V * C; i++) values[i] = i / C / PART == first / PART ? NAN : 0.5f;
      upload(&t, w, values);
      int32_t id = (first + PART) % V;
      ok(&t, be->upload(be, target->data, &id, sizeof id, &t.error));
      vec loss = download(&t, must(&t, pu_linear_cross_entropy(&t.c, x, w, target, 1)));
      if (!isnan(loss.v[0])) fail_msg("%s, %s, from %d: a loss of %g", be->name, pu_dtype_name(type), first, loss.v[0]);
      free(loss.v);
      env_close(&t);
    }
  free(values);
  be->close(be);
}

static void nan_shows(void **state) {
  (void)state;
  for (int isa = 0; isa <= (int)pu_isa_best(); isa++) nan_shows_on(open_cpu(1, (pu_isa)isa));
  pu_backend *be = open_device();
  if (be) nan_shows_on(be);
}

/* ---- finite differences ---------------------------------------------------------------------------------------- */

static double loss_at(const op_case *op, pu_backend *be, uint64_t seed, int which, int64_t at, double by) {
  env t;
  env_open(&t, be, PU_F32, seed, SMALL_MEMORY);
  t.small = t.backward = true;
  t.poke_leaf = which;
  t.poke_at = at;
  t.poke_by = by;
  op->run(&t);
  env_finish(&t);
  double loss = t.loss;
  env_close(&t);
  return loss;
}

/* Two central differences, combined so that the error is of fourth order in the step. */
static double slope(const op_case *op, pu_backend *be, uint64_t seed, int which, int64_t at) {
  double step = 0.03125, near, far;
  near = loss_at(op, be, seed, which, at, step) - loss_at(op, be, seed, which, at, -step);
  far = loss_at(op, be, seed, which, at, 2 * step) - loss_at(op, be, seed, which, at, -2 * step);
  return (8 * near - far) / (12 * step);
}

static void check_leaf(const op_case *op, pu_backend *be, uint64_t seed, const env *t, int which, vec grad) {
  vec fd = {calloc((size_t)grad.n + 1, sizeof(double)), grad.n};
  for (int64_t i = 0; i < grad.n; i++) fd.v[i] = slope(op, be, seed, which, i);
  double d = distance(fd, grad);
  bool zero = true; /* a gradient that is nothing at all (one expert, one token): only rounding is left */
  for (int64_t i = 0; i < grad.n; i++) zero = zero && fabs(grad.v[i]) < 1e-5 && fabs(fd.v[i]) < 1e-4;
  free(fd.v);
  if (!(d < 2e-3) && !zero)
    fail_msg("%s: gradient of input %d of %d differs from finite differences by %g (seed %llu)", op->name, which,
             t->n_leaf, d, (unsigned long long)seed);
}

static void gradients_match_differences(void **state) {
  (void)state;
  if (PU_TSAN) skip(); /* one thread */
  pu_backend *ref = open_cpu(1, PU_ISA_REF);
  for (size_t i = 0; i < PU_COUNT(cases); i++)
    for (uint64_t seed = 1; cases[i].backward && seed <= 4 && wanted(ref, &cases[i]); seed++) {
      env t;
      run_case(&t, &cases[i], ref, PU_F32, seed, SMALL);
      for (int which = 0; which < t.n_leaf; which++) {
        int at = t.n_results - t.n_leaf + which;
        if (t.leaf[which]->grad) check_leaf(&cases[i], ref, seed, &t, which, t.results[at]);
      }
      env_close(&t);
    }
  ref->close(ref);
}

/* ---- what the references themselves must do -------------------------------------------------------------------- */

static void known_values(void **state) {
  (void)state;
  env t;
  env_open(&t, open_cpu(1, PU_ISA_REF), PU_F32, 1, SMALL_MEMORY);
  pu_tensor *h, *weight, *res = must(&t, pu_tensor_new(&t.c, PU_F32, 2, (int64_t[]){1, 2}, false));
  pu_tensor *w = must(&t, pu_tensor_new(&t.c, PU_F32, 1, (int64_t[]){2}, false));
  upload(&t, res, (float[]){3, 4});
  upload(&t, w, (float[]){1, 2});
  vec y = download(&t, must(&t, pu_rmsnorm_add(&t.c, res, NULL, w, 0, PU_F32, &h)));
  assert_float_equal(y.v[0], 3 / sqrt(12.5), 1e-6);
  assert_float_equal(y.v[1], 8 / sqrt(12.5), 1e-6);
  free(y.v);

  /* Ties go to the lower index; a gate of zero closes; a target below zero costs nothing. */
  pu_tensor *logits = must(&t, pu_tensor_new(&t.c, PU_F32, 2, (int64_t[]){1, 4}, false));
  upload(&t, logits, (float[]){1, 2, 2, 0});
  vec idx = download(&t, must(&t, pu_moe_route(&t.c, logits, 2, &weight)));
  vec wt = download(&t, weight);
  assert_true(idx.v[0] == 1 && idx.v[1] == 2 && wt.v[0] == 0.5 && wt.v[1] == 0.5);
  free(idx.v);
  free(wt.v);
  vec gated = download(&t, must(&t, pu_swiglu(&t.c, logits)));
  assert_float_equal(gated.v[0], 2 / (1 + exp(-1)), 1e-6);
  assert_float_equal(gated.v[1], 0, 0);
  free(gated.v);
  pu_tensor *x = must(&t, pu_tensor_new(&t.c, PU_F32, 2, (int64_t[]){2, 2}, false));
  pu_tensor *targets = must(&t, pu_tensor_new(&t.c, PU_I32, 1, (int64_t[]){2}, false));
  upload(&t, x, (float[]){0, 0, 0, 0});
  memcpy(targets->data, (int32_t[]){1, -1}, 2 * sizeof(int32_t));
  vec loss = download(&t, must(&t, pu_linear_cross_entropy(&t.c, x, x, targets, 1)));
  assert_float_equal(loss.v[0], log(2), 1e-6);
  assert_float_equal(loss.v[1], 0, 0);
  free(loss.v);
  pu_backend *be = t.c.be;
  env_close(&t);
  be->close(be);
}

static void refuses(void **state) {
  (void)state;
  env t;
  env_open(&t, open_cpu(1, pu_isa_best()), PU_F32, 1, SMALL_MEMORY);
  pu_tensor *w = filled(&t, PU_F32, 2, (int64_t[]){4, 3}, 1, false), *ids = ints(&t, 2, 4, 5);
  assert_null(pu_embedding(&t.c, ids, w, PU_F32));
  assert_int_equal(t.c.status, PU_ERR_SHAPE);
  assert_non_null(strstr(t.error.msg, "token 4 at place 0"));
  assert_null(pu_swiglu(&t.c, w)); /* after a failure nothing runs */
  t.c.status = PU_OK;
  assert_null(pu_swiglu(&t.c, w));
  assert_non_null(strstr(t.error.msg, "swiglu"));
  t.c.status = PU_OK;
  assert_null(pu_linear_cross_entropy(&t.c, w, w, ints(&t, 4, 4, 5), 1));
  assert_non_null(strstr(t.error.msg, "outside the vocabulary"));
  t.c.status = PU_OK;
  assert_null(pu_tensor_new(&t.c, PU_F32, 2, (int64_t[]){1 << 20, 1 << 20}, false));
  assert_int_equal(t.c.status, PU_ERR_NOMEM);
  t.c.status = PU_OK;
  assert_null(pu_tensor_new(&t.c, PU_F32, 2, (int64_t[]){INT64_MAX, INT64_MAX}, false));
  assert_int_equal(t.c.status, PU_ERR_SHAPE);
  pu_backend *other, *be = t.c.be;
  assert_int_equal(pu_backend_open("nosuch", 0, &other, &t.error), PU_ERR_USAGE);
  assert_non_null(strstr(t.error.msg, "'nosuch' is no device: use auto, cpu or cuda"));
  env_close(&t);
  be->close(be);
}

static void f16_round_trip(void **state) {
  (void)state;
  for (uint32_t h = 0; h < 65536; h++) {
    float f = pu_f16_to_f32((uint16_t)h);
    if (isnan(f))
      assert_true((pu_f32_to_f16(f) & 0x7fff) > 0x7c00);
    else
      assert_int_equal(pu_f32_to_f16(f), h);
  }
  assert_int_equal(pu_f32_to_f16(65519.0f), 0x7bff);
  assert_int_equal(pu_f32_to_f16(65520.0f), 0x7c00);
  assert_int_equal(pu_f32_to_f16(0x1p-25f), 0);   /* half of the least: to even */
  assert_int_equal(pu_f32_to_f16(0x1.8p-24f), 2); /* half way between 1 and 2: to even */
  assert_int_equal(pu_f32_to_f16(1.0f + 0x1p-11f), 0x3c00);
  assert_int_equal(pu_f32_to_f16(1.0f + 0x1.8p-10f), 0x3c02);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(f16_round_trip),
      cmocka_unit_test(known_values),
      cmocka_unit_test(refuses),
      cmocka_unit_test(gradients_match_differences),
      cmocka_unit_test(cpu_isas_match_reference),
      cmocka_unit_test(device_matches_reference),
      cmocka_unit_test(adapted_rows_are_steady),
      cmocka_unit_test(device_refuses),
      cmocka_unit_test(nan_shows),
  };
  if (getenv("PUYU_TEST_OP")) cmocka_set_test_filter("*_match*"); /* the others are of no one case */
  return cmocka_run_group_tests(tests, NULL, NULL);
}
