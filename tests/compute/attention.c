/* Flash attention of every instruction set against the plain reference: random batches of packed sequences, heads,
 * head sizes and windows, forward, backward and over the paged cache; to the bit for one and two threads, and for a
 * sequence alone and in a batch. Outputs are poisoned before each run. PUYU_TEST_DEVICE=NAME tests that plug-in instead
 * of the instruction sets: to the bit for two runs, then. */
#include <math.h>
#include <stdlib.h>

#include "puyu/compute.h"
#include "tests/test.h"

enum { MAX_SEQS = 12, DEVICE = PU_ISA_COUNT /* in place of an instruction set */ };

/* Where q and k are turned by angles, and normed before that. */
typedef enum making { NOT_READY, READY_BEFORE, READY_INSIDE } making;

typedef struct shape {
  int heads, kv_heads, head_dim, window, n;
  int len[MAX_SEQS];         /* new tokens */
  int context[MAX_SEQS];     /* paged: tokens already in the cache */
  int block, k_bits, v_bits; /* of the cache; bits 0: kv_dtype */
  making ready;              /* paged */
  bool normed;               /* too */
  pu_dtype dtype, kv_dtype;
  int pad;        /* elements between rows of qkv */
  bool any_order; /* of the backend's sums: not to the bit, then */
} shape;

static pu_backend *device; /* NULL: the instruction sets are tested */

static int first_isa(int isa) {
  return device ? DEVICE : isa;
}

static int last_isa(void) {
  return device ? DEVICE : (int)pu_isa_best();
}

static const char *name_of(int isa) {
  return isa == DEVICE ? device->name : pu_isa_name((pu_isa)isa);
}

static pu_backend *open_one(int threads, int isa) {
  pu_error e;
  pu_backend *be = device;
  if (isa != DEVICE && pu_cpu_open(threads, (pu_isa)isa, &be, &e) != PU_OK) fail_msg("%s", e.msg);
  return be;
}

static void close_one(pu_backend *be) {
  if (be != device) be->close(be);
}

static int open_device(void **state) {
  pu_error e;
  const char *name = getenv("PUYU_TEST_DEVICE");
  (void)state;
  return name && pu_backend_open(name, 0, &device, &e) != PU_OK ? (print_error("%s\n", e.msg), 1) : 0;
}

static int close_device(void **state) {
  (void)state;
  if (device) device->close(device);
  return 0;
}

static void *block_of(size_t bytes) {
  void *p = aligned_alloc(64, (bytes + 64) / 64 * 64);
  assert_non_null(p);
  memset(p, 0xff, bytes);
  return p;
}

static pu_tensor *matrix(pu_dtype dtype, int64_t rows, int64_t cols, int64_t stride) {
  pu_tensor *t = calloc(1, sizeof *t);
  assert_non_null(t);
  *t = (pu_tensor){.dtype = dtype, .ndim = 2, .shape = {rows, cols}, .stride = {stride, 1}};
  t->data = block_of((size_t)(rows * stride) * pu_dtype_size(dtype));
  return t;
}

static void matrix_free(pu_tensor *t) {
  if (!t) return;
  matrix_free(t->grad);
  free(t->data);
  free(t);
}

static size_t matrix_bytes(const pu_tensor *t) {
  return (size_t)(t->shape[0] * t->stride[0]) * pu_dtype_size(t->dtype);
}

/* Runs an operation on matrices in host memory, wherever the backend has its own; t: the ones that args points to. */
static void run_op(pu_backend *be, pu_op_fn op, void *args, pu_tensor *const *t, int n) {
  pu_error e;
  void *host[8];
  assert_true(n <= (int)PU_COUNT(host));
  for (int i = 0; i < n && be == device; i++) {
    host[i] = t[i]->data;
    if (be->alloc(be, matrix_bytes(t[i]), &t[i]->data, &e) != PU_OK ||
        be->upload(be, t[i]->data, host[i], matrix_bytes(t[i]), &e) != PU_OK)
      fail_msg("%s", e.msg);
  }
  if (op(be, args, &e) != PU_OK) fail_msg("%s", e.msg);
  for (int i = 0; i < n && be == device; i++) {
    if (be->download(be, host[i], t[i]->data, matrix_bytes(t[i]), &e) != PU_OK) fail_msg("%s", e.msg);
    be->free(be, t[i]->data);
    t[i]->data = host[i];
  }
}

static void fill(pu_tensor *t, pu_rng *r, float size) {
  for (int64_t i = 0; i < t->shape[0]; i++) {
    for (int64_t j = 0; j < t->shape[1]; j++) {
      float x = size * (float)pu_rng_normal(r);
      pu_convert((char *)t->data + (size_t)(i * t->stride[0] + j) * pu_dtype_size(t->dtype), t->dtype, &x, PU_F32, 1);
    }
  }
}

static float at(const pu_tensor *t, int64_t row, int64_t col) {
  float x;
  pu_convert(&x, PU_F32, (char *)t->data + (size_t)(row * t->stride[0] + col) * pu_dtype_size(t->dtype), t->dtype, 1);
  return x;
}

/* ||a - b|| / ||b|| over columns [c0, c1). */
static double distance(const pu_tensor *a, const pu_tensor *b, int64_t c0, int64_t c1) {
  double diff = 0, size = 0;
  for (int64_t i = 0; i < b->shape[0]; i++)
    for (int64_t j = c0; j < c1; j++) {
      double x = at(a, i, j), y = at(b, i, j);
      diff += (x - y) * (x - y);
      size += y * y;
    }
  return size > 0 ? sqrt(diff / size) : sqrt(diff);
}

static void assert_near(const pu_tensor *a, const pu_tensor *b, int64_t c0, int64_t c1, pu_dtype type,
                        const char *what) {
  double d = distance(a, b, c0, c1), bound = type == PU_F32 ? 1e-5 : 1e-2;
  if (!(d < bound)) fail_msg("%s: relative distance %g, bound %g", what, d, bound); /* NaN fails */
}

static void assert_same(const pu_tensor *a, const pu_tensor *b, const char *what) {
  size_t row = (size_t)a->shape[1] * pu_dtype_size(a->dtype);
  for (int64_t i = 0; i < a->shape[0]; i++)
    if (memcmp((char *)a->data + (size_t)(i * a->stride[0]) * pu_dtype_size(a->dtype),
               (char *)b->data + (size_t)(i * b->stride[0]) * pu_dtype_size(b->dtype), row))
      fail_msg("%s: row %lld differs", what, (long long)i);
}

static void describe(const shape *s, int isa) {
  print_message("%s %s H %d G %d D %d window %d, lengths", name_of(isa), pu_dtype_name(s->dtype), s->heads, s->kv_heads,
                s->head_dim, s->window);
  for (int i = 0; i < s->n; i++) print_message(" %d+%d", s->context[i], s->len[i]);
  print_message("\n");
}

static pu_seqs seqs_of(const shape *s, int32_t cu[MAX_SEQS + 1]) {
  pu_seqs q = {.n = s->n, .cu = cu};
  cu[0] = 0;
  for (int i = 0; i < s->n; i++) {
    cu[i + 1] = cu[i] + s->len[i];
    q.max_len = PU_MAX(q.max_len, s->len[i]);
  }
  q.tokens = cu[s->n];
  return q;
}

/* ---- training ----------------------------------------------------------------------------------- */

typedef struct training {
  pu_tensor *qkv, *out, *lse;
} training;

static training run_training(const shape *s, int isa, int threads, uint64_t seed, bool add) {
  int32_t cu[MAX_SEQS + 1];
  pu_seqs seqs = seqs_of(s, cu);
  int64_t width = (s->heads + 2 * s->kv_heads) * s->head_dim, out_width = s->heads * s->head_dim;
  training t = {matrix(s->dtype, seqs.tokens, width, width + s->pad),
                matrix(s->dtype, seqs.tokens, out_width, out_width), //
                matrix(PU_F32, s->heads, seqs.tokens, seqs.tokens)};
  pu_rng r;
  pu_rng_seed(&r, seed);
  fill(t.qkv, &r, 1.0f);
  t.qkv->grad = matrix(s->dtype, seqs.tokens, width, width + s->pad);
  t.out->grad = matrix(s->dtype, seqs.tokens, out_width, out_width + s->pad);
  fill(t.out->grad, &r, 1.0f);
  if (add) fill(t.qkv->grad, &r, 1.0f);
  t.qkv->grad_set = add;
  pu_attention_args a = {.qkv = t.qkv,
                         .out = t.out,
                         .lse = t.lse,
                         .seqs = &seqs,
                         .heads = s->heads,
                         .kv_heads = s->kv_heads,
                         .head_dim = s->head_dim,
                         .window = s->window,
                         .scale = 1.3f / sqrtf((float)s->head_dim)};
  pu_backend *be = open_one(threads, isa);
  be->any_order = s->any_order;
  pu_tensor *all[] = {t.qkv, t.out, t.lse, t.qkv->grad, t.out->grad};
  run_op(be, be->forward[PU_OP_attention], &a, all, 3);
  run_op(be, be->backward[PU_OP_attention], &a, all, 5);
  be->any_order = false;
  close_one(be);
  return t;
}

static void training_free(training t) {
  matrix_free(t.qkv);
  matrix_free(t.out);
  matrix_free(t.lse);
}

static void check_training(const shape *s, uint64_t seed, bool add) {
  training ref = run_training(s, PU_ISA_REF, 2, seed, add);
  const int64_t q = s->heads * s->head_dim, k = q + s->kv_heads * s->head_dim, v = k + s->kv_heads * s->head_dim;
  for (int isa = first_isa(PU_ISA_AVX2); isa <= last_isa(); isa++) {
    describe(s, isa);
    training one = run_training(s, isa, 1, seed, add), two = run_training(s, isa, 2, seed, add);
    assert_near(one.out, ref.out, 0, q, s->dtype, "out");
    assert_near(one.lse, ref.lse, 0, ref.lse->shape[1], s->dtype, "lse");
    assert_near(one.qkv->grad, ref.qkv->grad, 0, q, s->dtype, "dq");
    assert_near(one.qkv->grad, ref.qkv->grad, q, k, s->dtype, "dk");
    assert_near(one.qkv->grad, ref.qkv->grad, k, v, s->dtype, "dv");
    assert_same(one.out, two.out, "out, 1 and 2 threads");
    assert_same(one.lse, two.lse, "lse, 1 and 2 threads");
    if (!s->any_order) assert_same(one.qkv->grad, two.qkv->grad, "dqkv, 1 and 2 threads");
    training_free(one);
    training_free(two);
  }
  training_free(ref);
}

static int below(pu_rng *r, int n) {
  return (int)pu_rng_below(r, (uint64_t)n);
}

static shape random_shape(pu_rng *r, int max_len) {
  static const int groups[][2] = {{1, 1}, {2, 1}, {4, 2}, {3, 3}, {6, 2}, {5, 1}, {8, 1}};
  static const int dims[] = {32, 40, 64, 72, 80, 96, 128, 8, 200, 256};
  const int g = below(r, (int)PU_COUNT(groups));
  shape s = {.heads = groups[g][0], .kv_heads = groups[g][1], .head_dim = dims[below(r, (int)PU_COUNT(dims))]};
  s.n = 1 + below(r, 4);
  for (int i = 0; i < s.n; i++) s.len[i] = below(r, 5) == 0 ? below(r, 3) : 1 + below(r, max_len);
  s.len[0] += s.len[0] == 0;
  s.window = below(r, 3) == 0 ? 1 + below(r, max_len) : 0;
  s.pad = 8 * below(r, 3);
  return s;
}

static void test_training_random(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 7);
  for (int i = 0; i < (PU_TSAN ? 3 : 24); i++) {
    shape s = random_shape(&r, PU_TSAN ? 70 : 150);
    s.dtype = i % 2 ? PU_BF16 : PU_F32;
    check_training(&s, (uint64_t)(100 + i), i % 3 == 0);
  }
}

/* Many blocks and stretches of keys; sequences cut into parts, and enough of them that they are not; sums in any order.
 */
static void test_training_long(void **state) {
  (void)state;
  static const shape shapes[] = {
      {.heads = 2, .kv_heads = 1, .head_dim = 64, .n = 1, .len = {417}},
      {.heads = 1, .kv_heads = 1, .head_dim = 128, .n = 2, .len = {389, 130}, .window = 100},
      {.heads = 4, .kv_heads = 2, .head_dim = 32, .n = 9, .len = {129, 1, 128, 31, 32, 33, 127, 200, 64}},
      {.heads = 4, .kv_heads = 1, .head_dim = 128, .n = 3, .len = {256, 256, 256}}, /* of one length */
      {.heads = 2, .kv_heads = 2, .head_dim = 64, .n = 2, .len = {133, 133}, .pad = 8},
      {.heads = 4, .kv_heads = 2, .head_dim = 64, .n = 3, .len = {300, 1, 190}, .window = 70},
  };
  for (size_t i = 0; i < PU_COUNT(shapes); i += PU_TSAN ? 2 : 1)
    for (int type = PU_TSAN; type < 2; type++) {
      shape s = shapes[i];
      s.dtype = type ? PU_BF16 : PU_F32;
      check_training(&s, 50 + i, false);
      if (!device) continue; /* others do not ask */
      s.any_order = true;
      check_training(&s, 50 + i, i % 2 == 1);
    }
}

/* Scores far apart: the running maximum must keep exponentials finite. */
static void test_large_scores(void **state) {
  (void)state;
  shape s = {.heads = 1, .kv_heads = 1, .head_dim = 32, .n = 1, .len = {300}};
  int32_t cu[MAX_SEQS + 1];
  pu_seqs seqs = seqs_of(&s, cu);
  for (int isa = first_isa(PU_ISA_REF); isa <= last_isa(); isa++)
    for (int type = 0; type < 2; type++) {
      pu_dtype dtype = type ? PU_BF16 : PU_F32;
      pu_tensor *qkv = matrix(dtype, 300, 96, 96), *out = matrix(dtype, 300, 32, 32),
                *lse = matrix(PU_F32, 1, 300, 300);
      for (int i = 0; i < 300; i++)
        for (int j = 0; j < 96; j++) {
          /* q = 8, k = key's number (so a score is 256 times it), v = key's number. */
          float x = j < 32 ? 8.0f : (float)(i % 256);
          pu_convert((char *)qkv->data + (size_t)(i * 96 + j) * pu_dtype_size(dtype), dtype, &x, PU_F32, 1);
        }
      pu_attention_args a = {qkv, out, lse, &seqs, 1, 1, 32, 0, 1.0f};
      pu_backend *be = open_one(1, isa);
      run_op(be, be->forward[PU_OP_attention], &a, (pu_tensor *[]){qkv, out, lse}, 3);
      close_one(be);
      for (int i = 0; i < 300; i++) {
        const float value = (float)PU_MIN(i, 255);
        assert_float_equal(at(out, i, 5), value, value * (type ? 1e-2f : 1e-5f));
        assert_float_equal(at(lse, 0, i), 256.0f * value, 1e-2f);
      }
      matrix_free(qkv);
      matrix_free(out);
      matrix_free(lse);
    }
}

/* ---- the paged cache ---------------------------------------------------------------------------- */

typedef struct paged {
  pu_tensor *out, *k, *v;
} paged;

/* A row of the cache with random values. */
static void fill_cached(pu_tensor *t, int64_t row, int bits, int head_dim, pu_rng *r) {
  float x[256];
  char *to = (char *)t->data + (size_t)(row * t->stride[0]) * pu_dtype_size(t->dtype);
  for (int i = 0; i < head_dim; i++) x[i] = (float)pu_rng_normal(r);
  if (bits)
    pu_kv_pack(to, bits, x, head_dim);
  else
    pu_convert(to, t->dtype, x, PU_F32, head_dim);
}

static pu_tensor *norm_weight(int dim, pu_rng *r) {
  pu_tensor *w = matrix(PU_F32, 1, dim, dim);
  fill(w, r, 1.0f);
  w->ndim = 1;
  w->shape[0] = dim;
  w->stride[0] = 1;
  return w;
}

/* Runs sequences [first, first + n) of the shape; every sequence's inputs depend on its own number only. */
static paged run_paged(const shape *s, int isa, int threads, uint64_t seed, int first, int n) {
  enum { MAX_BLOCKS = 600 };
  shape part = *s;
  part.n = n;
  memcpy(part.len, s->len + first, sizeof(int) * (size_t)n);
  int32_t cu[MAX_SEQS + 1], len[MAX_SEQS], *table = calloc((size_t)(n * MAX_BLOCKS), sizeof *table);
  assert_non_null(table);
  pu_seqs seqs = seqs_of(&part, cu);
  int used = 0, most = 1;
  for (int i = 0; i < n; i++) {
    len[i] = s->context[first + i] + s->len[first + i];
    const int blocks = (len[i] + s->block - 1) / s->block;
    used += blocks;
    most = PU_MAX(most, blocks);
  }
  /* How wide the table is must not count. */
  const int stride = (seed + (uint64_t)n) % 2 ? MAX_BLOCKS : most;
  for (int i = 0, next = used; i < n; i++) /* blocks from the last to the first */
    for (int b = 0; b * s->block < len[i]; b++) table[i * stride + b] = --next;
  const int64_t width = (s->heads + 2 * s->kv_heads) * s->head_dim, keys = pu_kv_row(s->k_bits, s->head_dim);
  const int64_t values = pu_kv_row(s->v_bits, s->head_dim);
  const pu_dtype k_type = s->k_bits ? PU_U8 : s->kv_dtype, v_type = s->v_bits ? PU_U8 : s->kv_dtype;
  paged p = {matrix(s->dtype, seqs.tokens, s->heads * s->head_dim, s->heads * s->head_dim),
             matrix(k_type, (int64_t)used * s->kv_heads * s->block, keys, keys),
             matrix(v_type, (int64_t)used * s->kv_heads * s->block, values, values)};
  pu_tensor *qkv = matrix(s->dtype, seqs.tokens, width, width + s->pad);
  for (int i = 0; i < n; i++) {
    pu_rng r;
    pu_rng_seed(&r, seed + (uint64_t)(first + i));
    pu_tensor rows = *qkv;
    rows.data = (char *)qkv->data + (size_t)(cu[i] * qkv->stride[0]) * pu_dtype_size(s->dtype);
    rows.shape[0] = cu[i + 1] - cu[i];
    fill(&rows, &r, 1.0f);
    for (int t = 0; t < s->context[first + i]; t++)
      for (int g = 0; g < 2 * s->kv_heads; g++) {
        int64_t slot = ((int64_t)table[i * stride + t / s->block] * s->kv_heads + g / 2) * s->block + t % s->block;
        fill_cached(g % 2 ? p.v : p.k, slot, g % 2 ? s->v_bits : s->k_bits, s->head_dim, &r);
      }
  }
  pu_kv kv = {.k = p.k,
              .v = p.v,
              .k_bits = s->k_bits,
              .v_bits = s->v_bits,
              .block = s->block,
              .table = table,
              .table_stride = stride,
              .len = len};
  pu_tensor *cs = matrix(PU_F32, seqs.tokens, s->head_dim, s->head_dim);
  pu_rng angles;
  pu_rng_seed(&angles, seed);
  fill(cs, &angles, 1.0f);
  pu_tensor *wq = norm_weight(s->head_dim, &angles), *wk = norm_weight(s->head_dim, &angles);
  const pu_qk_ready ready = {cs, s->normed ? wq : NULL, s->normed ? wk : NULL, 1e-6f}, none = {0};
  pu_qk_norm_args norm = {.qkv = qkv,
                          .wq = wq,
                          .wk = wk,
                          .out = qkv,
                          .heads = s->heads,
                          .kv_heads = s->kv_heads,
                          .head_dim = s->head_dim,
                          .eps = ready.eps};
  pu_rope_args rope = {qkv, cs, s->heads, s->kv_heads, s->head_dim};
  pu_attention_paged_args a = {.qkv = qkv,
                               .out = p.out,
                               .ready = s->ready == READY_INSIDE ? ready : none,
                               .seqs = &seqs,
                               .kv = &kv,
                               .heads = s->heads,
                               .kv_heads = s->kv_heads,
                               .head_dim = s->head_dim,
                               .window = s->window,
                               .scale = 1.0f / sqrtf((float)s->head_dim)};
  pu_backend *be = open_one(threads, isa);
  if (s->ready == READY_BEFORE && s->normed)
    run_op(be, be->forward[PU_OP_qk_norm], &norm, (pu_tensor *[]){qkv, wq, wk}, 3);
  if (s->ready == READY_BEFORE) run_op(be, be->forward[PU_OP_rope], &rope, (pu_tensor *[]){qkv, cs}, 2);
  run_op(be, be->forward[PU_OP_attention_paged], &a, (pu_tensor *[]){qkv, p.out, p.k, p.v, cs, wq, wk}, 7);
  close_one(be);
  matrix_free(qkv);
  matrix_free(cs);
  matrix_free(wq);
  matrix_free(wk);
  free(table);
  return p;
}

static void paged_free(paged p) {
  matrix_free(p.out);
  matrix_free(p.k);
  matrix_free(p.v);
}

static void check_paged(const shape *s, uint64_t seed) {
  const int64_t width = s->heads * s->head_dim;
  paged ref = run_paged(s, PU_ISA_REF, 2, seed, 0, s->n);
  for (int isa = first_isa(PU_ISA_AVX2); isa <= last_isa(); isa++) {
    describe(s, isa);
    paged one = run_paged(s, isa, 1, seed, 0, s->n), two = run_paged(s, isa, 2, seed, 0, s->n);
    assert_near(one.out, ref.out, 0, width, s->dtype, "out");
    assert_same(one.k, ref.k, "keys in the cache");
    assert_same(one.v, ref.v, "values in the cache");
    assert_same(one.out, two.out, "out, 1 and 2 threads");
    for (int i = 0, row = 0; i < s->n; row += s->len[i++]) {
      paged alone = run_paged(s, isa, 1, seed, i, 1);
      pu_tensor view = *one.out;
      view.data = (char *)view.data + (size_t)(row * width) * pu_dtype_size(s->dtype);
      view.shape[0] = s->len[i];
      assert_same(&view, alone.out, "a sequence alone");
      paged_free(alone);
    }
    paged_free(one);
    paged_free(two);
  }
  paged_free(ref);
}

static void test_paged_random(void **state) {
  (void)state;
  static const int blocks[] = {16, 32, 64, 5}, bits[][2] = {{0, 0}, {8, 8}, {4, 4}, {8, 4}, {0, 8}};
  pu_rng r;
  pu_rng_seed(&r, 11);
  for (int i = 0; i < (PU_TSAN ? 5 : 40); i++) {
    shape s = random_shape(&r, PU_TSAN ? 70 : 140);
    s.k_bits = bits[i / 2 % 5][0];
    s.v_bits = bits[i / 2 % 5][1];
    s.dtype = i % 2 ? PU_BF16 : PU_F32;
    s.kv_dtype = i % 20 >= 10 ? PU_BF16 : s.dtype;
    s.block = blocks[below(&r, (int)PU_COUNT(blocks))];
    for (int j = 0; j < s.n; j++) {
      if (below(&r, 2)) s.len[j] = 1 + below(&r, 5);
      s.context[j] = below(&r, 3) ? below(&r, 300) : 0;
    }
    check_paged(&s, (uint64_t)(300 + i));
  }
}

/* Contexts of several stretches, with windows that begin inside one; more sharing heads than are loaded for at once. */
static void test_paged_long(void **state) {
  (void)state;
  static const shape shapes[] = {
      {.heads = 12, .kv_heads = 1, .head_dim = 64, .n = 2, .len = {1, 2}, .context = {1300, 511}, .block = 16},
      {.heads = 4,
       .kv_heads = 2,
       .head_dim = 128,
       .n = 2,
       .len = {1, 70},
       .context = {1025, 900},
       .block = 64,
       .window = 600},
  };
  for (size_t i = 0; i < PU_COUNT(shapes); i += PU_TSAN ? 2 : 1)
    for (int type = PU_TSAN; type < 2; type++)
      for (int bits = 0; bits <= 8; bits += 4) {
        shape s = shapes[i];
        s.dtype = s.kv_dtype = type ? PU_BF16 : PU_F32;
        s.k_bits = s.v_bits = bits;
        check_paged(&s, 500 + i);
      }
}

/* Made ready inside the operation, q and k have the bits that they have from operations that do it first. */
static void test_ready(void **state) {
  (void)state;
  static const shape shapes[] = {
      {.heads = 8, .kv_heads = 2, .head_dim = 128, .n = 3, .len = {1, 1, 1}, .context = {40, 1300, 0}, .block = 16},
      {.heads = 6, .kv_heads = 2, .head_dim = 64, .n = 2, .len = {3, 8}, .context = {127, 300}, .block = 32},
      {.heads = 4, .kv_heads = 2, .head_dim = 128, .n = 3, .len = {1, 30, 2}, .context = {90, 5, 0}, .block = 16},
      {.heads = 4, .kv_heads = 2, .head_dim = 12, .n = 2, .len = {1, 2}, .context = {20, 0}, .block = 5, .pad = 3},
      {.heads = 4,
       .kv_heads = 1,
       .head_dim = 64,
       .n = 10,
       .len = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
       .context = {9, 30},
       .block = 16},
      {.heads = 2, .kv_heads = 1, .head_dim = 128, .n = 3, .len = {1, 520, 12}, .context = {50, 0, 7}, .block = 32},
      {.heads = 2, .kv_heads = 1, .head_dim = 128, .n = 2, .len = {1, 2}, .context = {4500, 2300}, .block = 32},
  };
  static const int bits[][2] = {{0, 0}, {8, 8}, {8, 4}, {4, 4}}; /* of keys, of values */
  enum { KINDS = 2 * PU_COUNT(bits) };
  for (size_t i = 0; i < PU_COUNT(shapes); i++)
    for (int type = PU_TSAN; type < 2; type++)
      for (size_t kind = 0; kind < KINDS; kind++)
        for (int isa = first_isa(PU_ISA_REF); isa <= last_isa(); isa++) {
          shape s = shapes[i];
          s.dtype = s.kv_dtype = type ? PU_BF16 : PU_F32;
          s.k_bits = bits[kind / 2][0];
          s.v_bits = bits[kind / 2][1];
          s.normed = kind % 2;
          describe(&s, isa);
          s.ready = READY_BEFORE;
          paged before = run_paged(&s, isa, 2, 700 + i, 0, s.n);
          s.ready = READY_INSIDE;
          paged inside = run_paged(&s, isa, 2, 700 + i, 0, s.n);
          assert_same(inside.out, before.out, "out, made ready inside");
          assert_same(inside.k, before.k, "keys in the cache, made ready inside");
          assert_same(inside.v, before.v, "values in the cache, made ready inside");
          paged_free(before);
          paged_free(inside);
        }
}

/* One sequence that grows in the given chunks, its cache full of zeros before. Returns all outputs. */
static pu_tensor *run_chunks(const shape *s, int isa, const pu_tensor *qkv, const int *chunk, int n) {
  const int64_t tokens = qkv->shape[0], blocks = (tokens + s->block - 1) / s->block;
  const int64_t row = pu_kv_row(s->k_bits, s->head_dim);
  pu_tensor *kv[2], *out = matrix(s->dtype, tokens, s->heads * s->head_dim, s->heads * s->head_dim);
  for (int v = 0; v < 2; v++) {
    kv[v] = matrix(s->k_bits ? PU_U8 : s->kv_dtype, blocks * s->kv_heads * s->block, row, row);
    memset(kv[v]->data, 0, pu_tensor_bytes(kv[v]));
  }
  int32_t *table = calloc((size_t)blocks, sizeof *table), at = 0;
  assert_non_null(table);
  for (int b = 0; b < blocks; b++) table[b] = b;
  pu_backend *be = open_one(1, isa);
  for (int i = 0; at < tokens; at += chunk[i++ % n]) {
    int32_t cu[2] = {0, (int32_t)PU_MIN(chunk[i % n], tokens - at)}, len = at + cu[1];
    pu_seqs seqs = {.n = 1, .tokens = cu[1], .max_len = cu[1], .cu = cu};
    pu_tensor in = *qkv, to = *out;
    in.shape[0] = to.shape[0] = cu[1];
    in.data = (char *)in.data + (size_t)(at * in.stride[0]) * pu_dtype_size(s->dtype);
    to.data = (char *)to.data + (size_t)(at * to.stride[0]) * pu_dtype_size(s->dtype);
    pu_kv cache = {.k = kv[0],
                   .v = kv[1],
                   .k_bits = s->k_bits,
                   .v_bits = s->v_bits,
                   .block = s->block,
                   .table = table,
                   .table_stride = (int32_t)blocks,
                   .len = &len};
    pu_attention_paged_args a = {.qkv = &in,
                                 .out = &to,
                                 .seqs = &seqs,
                                 .kv = &cache,
                                 .heads = s->heads,
                                 .kv_heads = s->kv_heads,
                                 .head_dim = s->head_dim,
                                 .window = s->window,
                                 .scale = 1.0f / sqrtf((float)s->head_dim)};
    run_op(be, be->forward[PU_OP_attention_paged], &a, (pu_tensor *[]){&in, &to, kv[0], kv[1]}, 4);
  }
  close_one(be);
  free(table);
  matrix_free(kv[0]);
  matrix_free(kv[1]);
  return out;
}

/* A token's output to the bit, however the tokens are divided: among up to `few` of a sequence, and among more. */
static void test_chunks(void **state) {
  (void)state;
  static const int whole[] = {1000}, one[] = {1}, sizes[][3] = {{1, 1, 1}, {3, 96, 29}, {124, 12, 125}, {27, 2, 296},
                                                                {0, 0, 0}, {-1, -3, -2}}; /* and `few` to each */
  const int few = device ? 8 : 4;
  pu_rng r;
  pu_rng_seed(&r, 21);
  for (int i = 0; i < (PU_TSAN ? 2 : 12); i++) {
    shape s = {.heads = 4,
               .kv_heads = 2,
               .head_dim = i % 3 ? 40 : 64,
               .window = i % 4 < 2 ? 0 : 1 + below(&r, 200),
               .block = 16,
               .k_bits = i / 4 * 4,
               .v_bits = i / 4 * 4,
               .dtype = i % 2 ? PU_BF16 : PU_F32};
    s.kv_dtype = s.dtype;
    pu_tensor *qkv = matrix(s.dtype, 5 * (20 + below(&r, 60)), 8 * s.head_dim, 8 * s.head_dim);
    fill(qkv, &r, 3.0f); /* scores that pass each other by much */
    for (int isa = first_isa(PU_ISA_REF); isa <= last_isa(); isa++) {
      pu_tensor *all = run_chunks(&s, isa, qkv, whole, 1), *each = run_chunks(&s, isa, qkv, one, 1);
      assert_near(each, all, 0, all->shape[1], s.dtype, "token by token");
      for (size_t c = 0; c < PU_COUNT(sizes); c++) {
        const bool short_ones = sizes[c][0] <= 0;
        const int chunks[] = {few + sizes[c][0], few + sizes[c][1], few + sizes[c][2]};
        pu_tensor *parts = run_chunks(&s, isa, qkv, chunks, 3);
        /* The last chunk of the longer ones may be short. */
        parts->shape[0] -= short_ones ? 0 : few;
        assert_same(parts, short_ones ? each : all, name_of(isa));
        matrix_free(parts);
      }
      matrix_free(all);
      matrix_free(each);
    }
    matrix_free(qkv);
  }
}

/* ---- rows in few bits --------------------------------------------------------------------------- */

/* Each value comes back within half a step, and what f16's rounding of scale and low adds to that. */
static void test_few_bits(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 3);
  for (int i = 0; i < 400; i++) {
    float x[64], y[64], low = INFINITY, high = -INFINITY;
    uint8_t row[64 + PU_KV_PAIR_BYTES + 1];
    const int n = 2 + 2 * below(&r, 32), bits = i % 2 ? 8 : 4;
    const float size = exp2f((float)below(&r, 20) - 8), centre = (float)below(&r, 5) * size;
    for (int j = 0; j < n; j++) {
      x[j] = centre + size * (float)pu_rng_normal(&r);
      low = fminf(low, x[j]);
      high = fmaxf(high, x[j]);
    }
    const int64_t bytes = pu_kv_row(bits, n);
    row[bytes] = 77;
    pu_kv_pack(row, bits, x, n);
    pu_kv_unpack(y, row, bits, n);
    assert_int_equal(row[bytes], 77);
    const float step = (high - low) / (float)((1 << bits) - 1);
    const float bound = step / 2 + (fmaxf(fabsf(low), fabsf(high)) + high - low) / 1024;
    for (int j = 0; j < n; j++) assert_float_equal(x[j], y[j], bound);
  }
}

/* One value many times, numbers that f16 does not have, and some that are none. */
static void test_few_bits_extremes(void **state) {
  (void)state;
  const struct {
    float x[4], y[4];
  } cases[] = {{{3, 3, 3, 3}, {3, 3, 3, 3}},
               {{0, 0, 0, 0}, {0, 0, 0, 0}},
               {{1e9f, 0, -1e9f, INFINITY}, {65504, 0, -65504, 65504}},
               {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}, {-65504, -65504, -65504, -65504}},
               {{NAN, 1, 2, 16}, {1, 1, 2, 16}}};
  for (size_t i = 0; i < PU_COUNT(cases); i++)
    for (int bits = 4; bits <= 8; bits += 4) {
      uint8_t row[8];
      float y[4];
      pu_kv_pack(row, bits, cases[i].x, 4);
      pu_kv_unpack(y, row, bits, 4);
      const float step = (cases[i].y[0] - cases[i].y[2]) / (float)((1 << bits) - 1);
      for (int j = 0; j < 4; j++) assert_float_equal(y[j], cases[i].y[j], 0.01f + fabsf(step) * 0.51f);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_training_random),
      cmocka_unit_test(test_training_long),
      cmocka_unit_test(test_large_scores),
      cmocka_unit_test(test_paged_random),
      cmocka_unit_test(test_paged_long),
      cmocka_unit_test(test_few_bits),
      cmocka_unit_test(test_few_bits_extremes),
      cmocka_unit_test(test_chunks),
      cmocka_unit_test(test_ready),
  };
  return cmocka_run_group_tests(tests, open_device, close_device);
}
