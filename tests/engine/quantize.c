/* Methods that make weights of few bits, on problems where it is known what they have to be good at; and the walk
 * through a model with them. */
#include "src/engine/quantize/quantize.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

static pu_backend *be;
static char folder[] = "/tmp/puyu-quantize-XXXXXX";

static int set_up(void **state) {
  pu_error e;
  (void)state;
  if (!mkdtemp(folder)) return -1;
  return pu_cpu_open(2, pu_isa_best(), &be, &e) == PU_OK ? 0 : -1;
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  be->close(be);
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

/* ---- one matrix ---- */

enum { ROWS = 48, COLS = 320, TOKENS = 700, GROUP = 64 };

/* Inputs that depend on each other, some of them far larger than the rest; x: [TOKENS, COLS]. */
static void make_inputs(float *x) {
  pu_rng r;
  pu_rng_seed(&r, 7);
  for (int t = 0; t < TOKENS; t++) {
    float shared[8];
    for (int i = 0; i < 8; i++) shared[i] = (float)pu_rng_normal(&r);
    for (int k = 0; k < COLS; k++) {
      float v = (float)pu_rng_normal(&r) * 0.5f + shared[k % 8] + 0.5f * shared[(k / 8) % 8];
      x[t * COLS + k] = k % 40 == 3 ? 20 * v : v;
    }
  }
}

static void see(pu_quant_inputs *in, float *x, int64_t n) {
  pu_error e = {0};
  pu_arena *mem, *host;
  assert_ok(pu_arena_create(1 << 24, &mem, &e), &e);
  assert_ok(pu_arena_create(1 << 20, &host, &e), &e);
  pu_ctx c = {.be = be, .mem = mem, .host = host, .err = &e};
  const int64_t shape[] = {n, in->cols};
  pu_quant_inputs_add(in, &c, pu_tensor_over(&c, PU_F32, 2, shape, x));
  assert_ok(c.status, &e);
  pu_arena_free(mem);
  pu_arena_free(host);
}

static void open_matrix(pu_quant_matrix *m, int bits, bool symmetric) {
  pu_error e;
  pu_rng r;
  *m = (pu_quant_matrix){.slot = PU_SLOT_DOWN, .expert = -1, .rows = ROWS, .cols = COLS};
  assert_ok(pu_qmatrix_init(&m->q, bits, ROWS, COLS, GROUP, symmetric, &e), &e);
  assert_ok(pu_quant_inputs_init(&m->in, COLS, true, &e), &e);
  m->w = malloc(sizeof(float) * ROWS * COLS);
  pu_rng_seed(&r, 11);
  for (int i = 0; i < ROWS * COLS; i++) m->w[i] = (float)pu_rng_normal(&r) * 0.05f;
}

static void close_matrix(pu_quant_matrix *m) {
  pu_qmatrix_deinit(&m->q);
  pu_quant_inputs_deinit(&m->in);
  free(m->w);
}

static double error_of(const pu_quant_matrix *m) {
  pu_quant_loss loss;
  pu_error e;
  assert_ok(pu_quant_measure(be, m, &loss, &e), &e);
  return loss.error / loss.size;
}

/* What comes in pieces is what comes at once; mean, greatest value and Hessian are theirs. */
static void inputs_are_remembered(void **state) {
  (void)state;
  float *x = malloc(sizeof *x * TOKENS * COLS);
  pu_quant_inputs a, b;
  pu_error e;
  make_inputs(x);
  assert_ok(pu_quant_inputs_init(&a, COLS, true, &e), &e);
  assert_ok(pu_quant_inputs_init(&b, COLS, true, &e), &e);
  see(&a, x, TOKENS);
  for (int at = 0; at < TOKENS; at += 100) see(&b, x + at * COLS, 100);
  assert_int_equal(a.seen, TOKENS);
  assert_int_equal(b.sampled, a.sampled);
  assert_in_range(a.sampled, PU_QUANT_SAMPLE / 2, PU_QUANT_SAMPLE);
  assert_memory_equal(a.sample, b.sample, (size_t)a.sampled * COLS * sizeof *x);
  for (int64_t i = 0; i < a.sampled; i++) assert_memory_equal(a.sample + i * COLS, x + i * a.step * COLS, COLS * 4);
  for (int k = 0; k < COLS; k += 3) {
    double sum = 0, most = 0, other = 0, with = 0;
    for (int t = 0; t < TOKENS; t++) {
      double v = (double)x[t * COLS + k];
      sum += fabs(v);
      most = fmax(most, fabs(v));
      other += v * (double)x[t * COLS + (k + 8) % COLS];
      with += fabs(v * (double)x[t * COLS + (k + 8) % COLS]);
    }
    assert_true(fabs(a.sum[k] - sum) < 1e-9 * sum && fabs(b.sum[k] - sum) < 1e-9 * sum);
    assert_true(a.most[k] == (float)most && b.most[k] == (float)most);
    assert_true(fabs((double)a.hessian[k * COLS + (k + 8) % COLS] - other) < 1e-5 * with);
    assert_true(fabs((double)b.hessian[k * COLS + (k + 8) % COLS] - other) < 1e-5 * with);
  }
  pu_quant_inputs_deinit(&a);
  pu_quant_inputs_deinit(&b);
  free(x);
}

static void gptq_beats_rounding(void **state) {
  (void)state;
  float *x = malloc(sizeof *x * TOKENS * COLS);
  pu_error e;
  make_inputs(x);
  for (int i = 0; i < 4; i++) {
    pu_quant_matrix m;
    open_matrix(&m, i % 2 ? 8 : 4, i / 2);
    see(&m.in, x, TOKENS);
    pu_quant_round_all(be, &m);
    double rounded = error_of(&m);
    assert_ok(pu_gptq_quantise(be, &m, false, &e), &e);
    double in_turn = error_of(&m);
    assert_ok(pu_gptq_quantise(be, &m, true, &e), &e);
    double ordered = error_of(&m);
    if (!(ordered < 0.6 * rounded && in_turn < 0.8 * rounded && ordered < in_turn))
      fail_msg("case %d: rounding %g, gptq %g, in act-order %g", i, rounded, in_turn, ordered);
    close_matrix(&m);
  }
  free(x);
}

/* Inputs that know nothing of each other, all of one size: nothing to make up for, and no order to prefer. */
static void gptq_with_an_identity_is_rounding(void **state) {
  (void)state;
  pu_quant_matrix a, b;
  pu_error e;
  open_matrix(&a, 4, false);
  open_matrix(&b, 4, false);
  for (int k = 0; k < COLS; k++) a.in.hessian[k * COLS + k] = 3;
  pu_quant_round_all(be, &b);
  for (int act_order = 0; act_order < 2; act_order++) {
    assert_ok(pu_gptq_quantise(be, &a, act_order, &e), &e);
    assert_memory_equal(a.q.q, b.q.q, ROWS * COLS);
  }
  close_matrix(&a);
  close_matrix(&b);
}

/* ---- gptq as the paper has it, in double precision ---- */

/* a becomes its inverse (Gauss-Jordan; it is positive definite). */
static void invert(double *a, int n) {
  for (int p = 0; p < n; p++) {
    double pivot = 1 / a[p * n + p];
    a[p * n + p] = 1;
    for (int k = 0; k < n; k++) a[p * n + k] *= pivot;
    for (int r = 0; r < n; r++) {
      if (r == p) continue;
      double by = a[r * n + p];
      a[r * n + p] = 0;
      for (int k = 0; k < n; k++) a[r * n + k] -= by * a[p * n + k];
    }
  }
}

/* The upper factor u of a = u^T u. */
static void upper_factor(double *a, int n) {
  for (int r = 0; r < n; r++)
    for (int c = r; c < n; c++) {
      double sum = a[r * n + c];
      for (int k = 0; k < r; k++) sum -= a[k * n + r] * a[k * n + c];
      a[r * n + c] = r == c ? sqrt(sum) : sum / a[r * n + r];
    }
}

static void gptq_is_the_papers(void **state) {
  (void)state;
  enum { N = COLS };
  float *x = malloc(sizeof *x * TOKENS * COLS);
  double *u = malloc(sizeof *u * N * N), damp = 0, w[N];
  pu_quant_matrix m;
  pu_error e;
  make_inputs(x);
  open_matrix(&m, 4, false);
  see(&m.in, x, TOKENS);
  for (int k = 0; k < N; k++) damp += 0.01 * (double)m.in.hessian[k * N + k] / N;
  for (int i = 0; i < N * N; i++) u[i] = (double)m.in.hessian[i] + (i % (N + 1) == 0 ? damp : 0);
  invert(u, N);
  upper_factor(u, N);
  assert_ok(pu_gptq_quantise(be, &m, false, &e), &e);
  int same = 0;
  for (int r = 0; r < ROWS; r++) {
    for (int k = 0; k < N; k++) w[k] = (double)m.w[r * N + k];
    for (int k = 0; k < N; k++) {
      int64_t g = r * (N / GROUP) + k / GROUP;
      uint8_t q = pu_quant_round((float)w[k], m.q.scale[g], m.q.zero[g], 4);
      double error = (w[k] - (double)(q - m.q.zero[g]) * (double)m.q.scale[g]) / u[k * N + k];
      for (int j = k; j < N; j++) w[j] -= error * u[k * N + j];
      same += q == m.q.q[r * N + k];
    }
  }
  /* A weight in the middle between two values may go either way, and those after it then differ. */
  assert_in_range(same, ROWS * N * 98 / 100, ROWS * N);
  close_matrix(&m);
  free(x);
  free(u);
}

/* ---- a layer ---- */

typedef struct tiny {
  pu_model *m;
  pu_arena *mem, *host;
  pu_ctx c;
  pu_error e;
  float logits[64 * 512];
} tiny;

enum { VOCAB = 96, LENGTH = 40 };

/* Norms as trained models have them: a few inputs are far larger than the rest. */
static void roughen(pu_model *m) {
  pu_rng r;
  pu_rng_seed(&r, 5);
  for (size_t i = 0; i < m->n_params; i++) {
    const pu_param *p = &m->params[i];
    float *w = p->w->data;
    bool norm = p->slot == PU_SLOT_ATTN_NORM || p->slot == PU_SLOT_MLP_NORM;
    for (int64_t k = 0; k < pu_tensor_count(p->w); k++) {
      if (norm) w[k] = k % 17 == 5 ? 12.0f : 0.5f + (float)pu_rng_uniform(&r);
      if (!norm && p->w->ndim == 1) w[k] += 0.1f * (float)pu_rng_normal(&r); /* biases */
      if (p->w->ndim > 1) w[k] *= 4;
    }
  }
}

static void open_arenas(tiny *t) {
  assert_ok(pu_arena_create((size_t)1 << 28, &t->mem, &t->e), &t->e);
  assert_ok(pu_arena_create((size_t)1 << 26, &t->host, &t->e), &t->e);
  t->c = (pu_ctx){.be = be, .mem = t->mem, .host = t->host, .err = &t->e};
}

static void open_tiny(tiny *t, const char *arch, pu_hparams hp) {
  memset(t, 0, sizeof *t);
  pu_model_options o = {.dtype = PU_F32};
  assert_ok(pu_model_random(pu_arch_find(arch), &hp, 3, be, &o, &t->m, &t->e), &t->e);
  roughen(t->m);
  open_arenas(t);
}

static void close_tiny(tiny *t) {
  pu_model_free(t->m);
  pu_arena_free(t->mem);
  pu_arena_free(t->host);
}

static int32_t id_at(int text, int i) {
  return (int32_t)(3 + pu_random_at(9, (uint64_t)text, (uint64_t)i) % (VOCAB - 3));
}

static void run_tiny(tiny *t, const pu_observer *observer) {
  int32_t ids[LENGTH], positions[LENGTH], cu[] = {0, LENGTH};
  const int64_t n = LENGTH;
  for (int i = 0; i < LENGTH; i++) {
    ids[i] = id_at(0, i);
    positions[i] = i;
  }
  pu_arena_reset(t->mem);
  pu_arena_reset(t->host);
  pu_seqs seqs = {.n = 1, .tokens = LENGTH, .max_len = LENGTH, .cu = cu, .positions = positions};
  pu_forward f = {.ids = pu_tensor_over(&t->c, PU_I32, 1, &n, ids), .seqs = &seqs, .observer = observer};
  pu_tensor *logits = pu_model_logits(t->m, &t->c, pu_model_forward(t->m, &t->c, &f), NULL, LENGTH);
  assert_ok(t->c.status, &t->e);
  memcpy(t->logits, logits->data, pu_tensor_bytes(logits));
}

static double difference(const float *a, const float *b, int64_t n) {
  double d = 0, size = 0;
  for (int64_t i = 0; i < n; i++) {
    d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    size += (double)b[i] * (double)b[i];
  }
  return sqrt(d / size);
}

static const struct {
  const char *arch;
  pu_hparams hp;
} shapes[] = {
#define SIZES(heads_, kv_)                                                                                             \
  .vocab = VOCAB, .hidden = 64, .ffn = 96, .layers = 2, .heads = (heads_), .kv_heads = (kv_), .head_dim = 16,          \
  .max_position = 256, .norm_eps = 1e-5, .bos = 1, .eos = {2}, .n_eos = 1, .rope = {.base = 1e4, .factor = 1}
    {"llama", {SIZES(4, 4), .qkv_bias = true, .o_bias = true, .mlp_bias = true}},
    {"internlm2", {SIZES(4, 2)}},
    {"qwen3", {SIZES(4, 4), .qk_norm = true}},
    {"mixtral", {SIZES(4, 2), .experts = 4, .experts_used = 2}},
};

/* The matrices as the method left them become the model's, not quantised. */
static void put_back(pu_quant_layer *l) {
  for (size_t i = 0; i < l->n; i++) {
    const pu_quant_matrix *m = &l->v[i];
    float *w = l->m->layers[l->layer].slot[m->slot]->data;
    memcpy(w + PU_MAX(m->expert, 0) * m->rows * m->cols, m->w, (size_t)(m->rows * m->cols) * sizeof *w);
  }
}

static void folding_leaves_the_logits(void **state) {
  (void)state;
  const pu_quantize_options o = {.method = "awq", .bits = 4, .group = 32};
  for (size_t i = 0; i < PU_COUNT(shapes); i++) {
    tiny *t = malloc(sizeof *t);
    float *want = malloc(sizeof t->logits);
    open_tiny(t, shapes[i].arch, shapes[i].hp);
    run_tiny(t, NULL);
    memcpy(want, t->logits, sizeof t->logits);
    size_t folds = 0;
    for (int64_t layer = 0; layer < 2; layer++) {
      pu_quant_layer l;
      pu_quant_fold f[PU_QUANT_FOLDS + 4];
      pu_rng r;
      pu_rng_seed(&r, 1);
      assert_ok(pu_quant_layer_open(t->m, layer, &o, PU_NEEDS_INPUTS | PU_NEEDS_HESSIAN, &l, &t->e), &t->e);
      l.file_type = layer ? PU_BF16 : PU_F32; /* norms are rounded, and their columns make up for it */
      folds += pu_quant_fold_list(&l, f);
      for (size_t k = 0; k < pu_quant_fold_list(&l, f); k++) {
        float s[128];
        for (int64_t c = 0; c < f[k].to->cols; c++) s[c] = (float)exp(pu_rng_normal(&r));
        pu_quant_fold_apply(&l, &f[k], s);
      }
      put_back(&l);
      pu_quant_layer_close(&l);
    }
    assert_int_equal(folds, 2 * (2 + (shapes[i].hp.heads == shapes[i].hp.kv_heads) + PU_MAX(shapes[i].hp.experts, 1)));
    run_tiny(t, NULL);
    double d = difference(t->logits, want, LENGTH * VOCAB);
    if (!(d < 1e-5)) fail_msg("%s: folding changes the logits by %g", shapes[i].arch, d);
    close_tiny(t);
    free(t);
    free(want);
  }
}

/* Every matrix is told its inputs: for each, the results that follow are the model's own. Scaled inputs are those that
 * the scaled model has. */
static void a_layer_sees_its_inputs(void **state) {
  (void)state;
  const pu_quantize_options o = {.method = "awq", .bits = 4, .group = 32};
  for (size_t i = 0; i < PU_COUNT(shapes); i++) {
    tiny *t = malloc(sizeof *t);
    pu_quant_layer before, after;
    const pu_observer see_before = {pu_quant_layer_see, &before}, see_after = {pu_quant_layer_see, &after};
    pu_quant_fold f[PU_QUANT_FOLDS + 4];
    open_tiny(t, shapes[i].arch, shapes[i].hp);
    unsigned all = PU_NEEDS_INPUTS | PU_NEEDS_HESSIAN;
    assert_ok(pu_quant_layer_open(t->m, 1, &o, all, &before, &t->e), &t->e);
    assert_ok(pu_quant_layer_open(t->m, 1, &o, all, &after, &t->e), &t->e);
    before.file_type = PU_F32;
    run_tiny(t, &see_before);
    int64_t experts_saw = 0;
    for (size_t k = 0; k < before.n; k++) {
      if (before.v[k].expert < 0) assert_int_equal(before.v[k].in.seen, LENGTH);
      if (before.v[k].slot == PU_SLOT_EXPERTS_DOWN) experts_saw += before.v[k].in.seen;
    }
    assert_int_equal(experts_saw, LENGTH * shapes[i].hp.experts_used);
    size_t n = pu_quant_fold_list(&before, f);
    for (size_t k = 0; k < n; k++) {
      float s[128];
      for (int c = 0; c < 128; c++) s[c] = 0.5f + 0.25f * (float)(c % 5);
      pu_quant_fold_apply(&before, &f[k], s);
    }
    put_back(&before);
    run_tiny(t, &see_after);
    for (size_t k = 0; k < before.n; k++) {
      const pu_quant_inputs *a = &before.v[k].in, *b = &after.v[k].in;
      assert_int_equal(a->seen, b->seen);
      if (!a->seen) continue;
      assert_true(difference(a->sample, b->sample, a->sampled * a->cols) < 1e-5);
      assert_true(difference(a->hessian, b->hessian, a->cols * a->cols) < 1e-5);
      assert_true(difference(a->most, b->most, a->cols) < 1e-5);
    }
    pu_quant_layer_close(&before);
    pu_quant_layer_close(&after);
    close_tiny(t);
    free(t);
  }
}

/* ---- whole models ---- */

static double quantise_tiny(const char *src, const char *method, int bits, int threads, const char *dst) {
  enum { TEXTS = 12 };
  static int32_t ids[TEXTS][LENGTH];
  pu_ids_view texts[TEXTS];
  pu_quantize_report report;
  pu_error e;
  char dir[200];
  for (int t = 0; t < TEXTS; t++) {
    for (int i = 0; i < LENGTH; i++) ids[t][i] = id_at(t, i);
    texts[t] = (pu_ids_view){ids[t], (size_t)(t % 2 ? LENGTH : LENGTH - 7)};
  }
  snprintf(dir, sizeof dir, "%s/%s", folder, dst);
  pu_quantize_options o = {
      .method = method, .bits = bits, .group = 32, .calib = texts, .n_calib = TEXTS, .threads = threads};
  assert_ok(pu_quantize(src, dir, &o, &report, &e), &e);
  assert_true(report.bits > bits && report.bits < bits + 1);
  assert_true(report.bytes_after > 0 && report.weights > 0);
  return report.error;
}

/* What a written checkpoint computes; the weights as floats, or in few bits as the engine has them. */
static void logits_of(const char *name, bool packed, tiny *t) {
  char dir[200];
  pu_model_options o = {.dtype = PU_F32, .tile = packed, .quant = packed ? PU_QUANT_FILE : PU_QUANT_NONE};
  memset(t, 0, sizeof *t);
  snprintf(dir, sizeof dir, "%s/%s", folder, name);
  assert_ok(pu_model_load(dir, be, &o, &t->m, &t->e), &t->e);
  open_arenas(t);
  run_tiny(t, NULL);
  close_tiny(t);
}

/* Rounded here, one layer after the other, in the model's memory. */
static void round_in_place(tiny *t, int bits) {
  const pu_quantize_options o = {.method = "rtn", .bits = bits, .group = 32};
  for (int64_t i = 0; i < t->m->hp.layers; i++) {
    pu_quant_layer l;
    assert_ok(pu_quant_layer_open(t->m, i, &o, 0, &l, &t->e), &t->e);
    for (size_t k = 0; k < l.n; k++) pu_quant_round_all(be, &l.v[k]);
    pu_quant_layer_put(&l);
    pu_quant_layer_close(&l);
  }
}

static void check_logits(const char *name, const char *what, const float *want, double most) {
  tiny *t = malloc(sizeof *t);
  for (int packed = 0; packed < 2; packed++) {
    logits_of(name, packed, t);
    double d = difference(t->logits, want, LENGTH * VOCAB);
    if (!(d <= most)) fail_msg("%s: logits are off by %g", what, d);
  }
  free(t);
}

/* Of each family: the errors are in the order that the methods promise; the files say what the weights were rounded to;
 * and the scales moved between them leave what the model computes. */
static void models_of_every_kind(void **state) {
  (void)state;
  static const struct {
    const char *method;
    int bits;
    double most; /* by which logits are off; 0: not at all from those of weights rounded here */
  } runs[] = {{"rtn", 4, 0}, {"awq", 4, 0.5}, {"gptq", 4, 0.3}, {"w8a8", 8, 0.05}};
  tiny *t = malloc(sizeof *t);
  float *want = malloc(sizeof t->logits), *rounded = malloc(sizeof t->logits);
  for (size_t i = 0; i < PU_COUNT(shapes); i++) {
    char src[100], dst[40];
    double error[PU_COUNT(runs)];
    snprintf(src, sizeof src, "%s/%s", folder, shapes[i].arch);
    open_tiny(t, shapes[i].arch, shapes[i].hp);
    assert_ok(pu_model_save(t->m, src, PU_F32, 0, &t->e), &t->e);
    run_tiny(t, NULL);
    memcpy(want, t->logits, sizeof t->logits);
    round_in_place(t, 4);
    run_tiny(t, NULL);
    memcpy(rounded, t->logits, sizeof t->logits);
    close_tiny(t);
    for (size_t k = 0; k < PU_COUNT(runs); k++) {
      snprintf(dst, sizeof dst, "%s-%s", shapes[i].arch, runs[k].method);
      error[k] = quantise_tiny(src, runs[k].method, runs[k].bits, 2, dst);
      check_logits(dst, dst, runs[k].most > 0 ? want : rounded, PU_MAX(runs[k].most, 1e-5));
    }
    if (!(error[1] < 0.8 * error[0] && error[2] < 0.8 * error[0] && error[3] < 0.1 * error[0]))
      fail_msg("%s: rtn %g, awq %g, gptq %g, w8a8 %g", shapes[i].arch, error[0], error[1], error[2], error[3]);
  }
  free(t);
  free(want);
  free(rounded);
}

/* ---- how well a text is told ---- */

static void scores_are_the_losses(void **state) {
  (void)state;
  enum { TEXTS = 5 };
  int32_t ids[TEXTS][LENGTH];
  pu_ids_view texts[TEXTS];
  tiny *t = malloc(sizeof *t);
  pu_engine *en;
  pu_engine_score score;
  double want = 0;
  int64_t tokens = 0;
  open_tiny(t, shapes[1].arch, shapes[1].hp);
  for (int k = 0; k < TEXTS; k++) {
    int n = k == 3 ? 1 : LENGTH - 3 * k;
    for (int i = 0; i < n; i++) ids[k][i] = id_at(0, i);
    texts[k] = (pu_ids_view){ids[k], (size_t)n};
  }
  run_tiny(t, NULL); /* all texts begin alike */
  for (int k = 0; k < TEXTS; k++)
    for (size_t i = 1; i < texts[k].n; i++, tokens++) {
      const float *row = t->logits + (i - 1) * VOCAB;
      double sum = 0;
      for (int v = 0; v < VOCAB; v++) sum += exp((double)row[v]);
      want += log(sum) - (double)row[ids[k][i]];
    }
  pu_engine_options o = {.context = LENGTH, .max_batch = 2};
  assert_ok(pu_engine_over(t->m, NULL, &o, &en, &t->e), &t->e);
  assert_ok(pu_engine_score_texts(en, texts, TEXTS, &score, &t->e), &t->e);
  assert_int_equal(score.tokens, tokens);
  assert_true(fabs(score.nats - want / (double)tokens) < 1e-5);
  pu_engine_free(en);
  close_tiny(t);
  free(t);
}

/* ---- a trained model ---- */

enum { STORIES = 24, STORY = 160, HELD_OUT = 8, WIDER = 192 };

/* The rows and columns that are not there are zeros: the same function, with an inner size that divides into groups. */
static void widen(const pu_model *from, const char *dir) {
  pu_hparams hp = from->hp;
  pu_model *to;
  pu_error e;
  int64_t ffn = hp.ffn, width = hp.hidden;
  hp.ffn = WIDER;
  assert_ok(pu_model_random(from->arch, &hp, 1, be, &(pu_model_options){.dtype = PU_F32}, &to, &e), &e);
  for (size_t i = 0; i < to->n_params; i++) {
    float *w = to->params[i].w->data;
    const float *old = from->params[i].w->data;
    memset(w, 0, pu_tensor_bytes(to->params[i].w));
    if (to->params[i].slot == PU_SLOT_GATE_UP)
      for (int half = 0; half < 2; half++)
        memcpy(w + half * WIDER * width, old + half * ffn * width, (size_t)(ffn * width) * sizeof *w);
    else if (to->params[i].slot == PU_SLOT_DOWN)
      for (int64_t r = 0; r < width; r++) memcpy(w + r * WIDER, old + r * ffn, (size_t)ffn * sizeof *w);
    else
      memcpy(w, old, pu_tensor_bytes(to->params[i].w));
  }
  assert_ok(pu_model_save(to, dir, PU_F32, 0, &e), &e);
  pu_model_free(to);
}

/* Stories that the model itself tells. */
static void tell_stories(pu_engine *en, int32_t (*ids)[STORY], pu_ids_view *texts) {
  pu_session *s[STORIES];
  pu_sampling how = pu_sampling_default();
  pu_error e;
  const int32_t bos = 1;
  how.temperature = 1;
  how.max_tokens = STORY - 1;
  how.ignore_eos = true;
  for (int i = 0; i < STORIES; i++) {
    how.seed = (uint64_t)i;
    assert_ok(pu_session_open(en, &s[i], &e), &e);
    assert_ok(pu_session_append(s[i], &bos, 1, &e), &e);
    assert_ok(pu_session_start(s[i], &how, NULL, NULL, &e), &e);
  }
  for (bool more = true; more;) assert_ok(pu_engine_step(en, &more, &e), &e);
  for (int i = 0; i < STORIES; i++) {
    size_t n;
    const int32_t *answer = pu_session_answer(s[i], &n);
    ids[i][0] = bos;
    memcpy(ids[i] + 1, answer, n * sizeof *answer);
    texts[i] = (pu_ids_view){ids[i], n + 1};
    pu_session_close(s[i]);
  }
}

static double perplexity(const char *dir, const pu_ids_view *texts) {
  pu_engine *en;
  pu_engine_score score;
  pu_error e;
  pu_engine_options o = {.dtype = PU_F32, .context = STORY, .no_prefix_cache = true};
  assert_ok(pu_engine_open(dir, &o, &en, &e), &e);
  assert_ok(pu_engine_score_texts(en, texts, HELD_OUT, &score, &e), &e);
  pu_engine_free(en);
  return exp(score.nats);
}

static void stories_stay_stories(void **state) {
  (void)state;
  const char *dir = PU_SHARED "/models/stories260K";
  static const struct {
    const char *method;
    int bits;
    double most;
  } runs[] = {{"rtn", 4, 1.2}, {"awq", 4, 1.15}, {"gptq", 4, 1.1}, {"rtn", 8, 1.01}, {"w8a8", 8, 1.01}};
  static int32_t ids[STORIES][STORY];
  pu_ids_view texts[STORIES];
  pu_engine *en;
  pu_error e;
  double after[PU_COUNT(runs)];
  char src[100], dst[100];
  if (PU_TSAN || !pu_path_exists(dir)) {
    print_message("skipped: it takes long under ThreadSanitizer, or there is no %s\n", dir);
    return;
  }
  pu_engine_options o = {.dtype = PU_F32, .context = STORY, .max_batch = STORIES};
  assert_ok(pu_engine_open(dir, &o, &en, &e), &e);
  tell_stories(en, ids, texts);
  pu_engine_free(en);
  pu_model *m;
  snprintf(src, sizeof src, "%s/wide", folder);
  assert_ok(pu_model_load(dir, be, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
  widen(m, src);
  pu_model_free(m);
  double before = perplexity(src, texts);
  print_message("stories260K: perplexity %.4f\n", before);
  assert_true(fabs(perplexity(dir, texts) / before - 1) < 1e-5);
  for (size_t i = 0; i < PU_COUNT(runs); i++) {
    pu_quantize_report report;
    pu_quantize_options q = {.method = runs[i].method,
                             .bits = runs[i].bits,
                             .group = 64,
                             .calib = texts + HELD_OUT,
                             .n_calib = STORIES - HELD_OUT,
                             .threads = 2};
    snprintf(dst, sizeof dst, "%s/stories-%zu", folder, i);
    assert_ok(pu_quantize(src, dst, &q, &report, &e), &e);
    after[i] = perplexity(dst, texts);
    print_message("  %-4s %d bits, %.2f a weight: %.4f, error %.2e\n", runs[i].method, runs[i].bits, report.bits,
                  after[i], report.error);
    assert_true(after[i] < runs[i].most * before);
  }
  assert_true(after[1] < after[0] && after[2] < after[0]);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(inputs_are_remembered),
                                     cmocka_unit_test(gptq_beats_rounding),
                                     cmocka_unit_test(gptq_with_an_identity_is_rounding),
                                     cmocka_unit_test(gptq_is_the_papers),
                                     cmocka_unit_test(folding_leaves_the_logits),
                                     cmocka_unit_test(a_layer_sees_its_inputs),
                                     cmocka_unit_test(models_of_every_kind),
                                     cmocka_unit_test(scores_are_the_losses),
                                     cmocka_unit_test(stories_stay_stories)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
