/* Tiny checkpoints in every family's layout against what Hugging Face transformers computed for them: logits, loss,
 * gradients, ten AdamW steps, greedy continuation, on every instruction set this machine has.
 * The small ones are in the tree; the larger ones and a trained model are tried where PU_SHARED has them. */
#include "tests/device.h"
#include "tests/model/families.h"

#include <math.h>
#include <stdlib.h>

#include "src/model/arch.h"

enum { ROOM = 256 << 20, MAX_TOKENS = 256, MAX_PARAMS = 256 };

/* The expected values go by Llama's names, whatever the family's; experts by the newer fused ones. */
static const pu_tensor_rule expected_names[] = {
    PU_RULES_LLAMA_OUTER,
    PU_RULES_LLAMA_ATTENTION,
    PU_RULES_LLAMA_QKV_BIAS,
    PU_RULES_LLAMA_O_BIAS,
    PU_RULES_QWEN3_QK_NORM,
    PU_RULES_LLAMA_MLP,
    {"model.layers.%d.mlp.gate.weight", PU_SLOT_ROUTER, PU_PART_ALL},
    {"model.layers.%d.mlp.experts.gate_up_proj", PU_SLOT_EXPERTS_GATE_UP, PU_PART_ALL},
    {"model.layers.%d.mlp.experts.down_proj", PU_SLOT_EXPERTS_DOWN, PU_PART_ALL},
    PU_RULES_END,
};
static const pu_arch expected_arch = {.name = "expected names", .tensors = expected_names};

/* ---- one checkpoint on one backend ---- */

typedef struct bench {
  char dir[512];
  pu_backend *be;
  pu_model *m;
  pu_safetensors *expected;
  pu_arena *mem, *host;
  void *memory;  /* of the device, under mem */
  float *logits; /* the last ones, on the host */
  pu_error e;
  pu_tensor ids, targets; /* in device_ids */
  int32_t *device_ids;    /* [2, MAX_TOKENS] */
  pu_seqs seqs;
  int32_t id_data[MAX_TOKENS], target_data[MAX_TOKENS], cu[8], positions[MAX_TOKENS];
} bench;

#define OK(b, call)                                                                                                    \
  do {                                                                                                                 \
    if ((call) != PU_OK) fail_msg("%s: %s", #call, (b)->e.msg);                                                        \
  } while (0)

static void open_bench(bench *b, const char *dir, int threads, pu_isa isa, const pu_model_options *o) {
  memset(b, 0, sizeof *b);
  snprintf(b->dir, sizeof b->dir, "%s", dir);
  /* One thread: that results do not depend on their number is tested below and with the operations. */
  OK(b, pu_test_open(threads, isa, &b->be, &b->e));
  OK(b, pu_model_load(dir, b->be, o, &b->m, &b->e));
  b->memory = pu_test_memory(b->be, ROOM, &b->mem);
  OK(b, b->be->alloc(b->be, 2 * sizeof b->id_data, (void **)&b->device_ids, &b->e));
  OK(b, pu_arena_create(ROOM, &b->host, &b->e));
  char path[600];
  snprintf(path, sizeof path, "%s/expected.safetensors", dir);
  if (pu_path_exists(path)) OK(b, pu_safetensors_open(path, &b->expected, &b->e));
}

static void close_bench(bench *b) {
  pu_safetensors_close(b->expected);
  pu_model_free(b->m);
  pu_arena_free(b->mem);
  pu_arena_free(b->host);
  b->be->free(b->be, b->memory);
  b->be->free(b->be, b->device_ids);
  b->be->close(b->be);
  free(b->logits);
}

static const pu_st_tensor *expect(const bench *b, const char *name) {
  const pu_st_tensor *t = pu_safetensors_find(b->expected, name);
  if (!t) fail_msg("%s: no '%s' in expected.safetensors", b->dir, name);
  return t;
}

/* rows sequences of len ids each. */
static void set_ids(bench *b, const int32_t *ids, int rows, int len) {
  int n = rows * len;
  assert_true(n <= MAX_TOKENS && rows < 8);
  memcpy(b->id_data, ids, (size_t)n * sizeof *ids);
  for (int r = 0; r <= rows; r++) b->cu[r] = r * len;
  for (int i = 0; i < n; i++) {
    b->positions[i] = i % len;
    b->target_data[i] = i % len < len - 1 ? ids[i + 1] : -1;
  }
  b->ids = (pu_tensor){.dtype = PU_I32, .ndim = 1, .shape = {n}, .stride = {1}, .data = b->device_ids};
  b->targets = b->ids;
  b->targets.data = b->device_ids + MAX_TOKENS;
  OK(b, b->be->upload(b->be, b->ids.data, b->id_data, (size_t)n * sizeof *ids, &b->e));
  OK(b, b->be->upload(b->be, b->targets.data, b->target_data, (size_t)n * sizeof *ids, &b->e));
  b->seqs = (pu_seqs){.n = rows, .tokens = n, .max_len = len, .cu = b->cu, .positions = b->positions};
}

static void set_input(bench *b) {
  const pu_st_tensor *t = expect(b, "input_ids");
  int32_t ids[MAX_TOKENS];
  assert_int_equal(t->dtype, PU_I32);
  memcpy(ids, t->data, t->bytes);
  set_ids(b, ids, (int)t->shape[0], (int)t->shape[1]);
}

static pu_ctx context(bench *b) {
  pu_arena_reset(b->mem);
  pu_arena_reset(b->host);
  return (pu_ctx){.be = b->be, .mem = b->mem, .host = b->host, .err = &b->e};
}

static const float *logits(bench *b, const int32_t *rows, int64_t n) {
  pu_ctx c = context(b);
  pu_forward f = {.ids = &b->ids, .seqs = &b->seqs};
  pu_tensor *y = pu_model_logits(b->m, &c, pu_model_forward(b->m, &c, &f), rows, rows ? n : b->seqs.tokens);
  if (!y) fail_msg("%s: %s", b->dir, b->e.msg);
  free(b->logits);
  return b->logits = pu_test_download(b->be, y);
}

static double rel_error(const float *got, const void *want_bytes, size_t n) {
  double diff = 0, norm = 0;
  for (size_t i = 0; i < n; i++) {
    float want;
    memcpy(&want, (const char *)want_bytes + i * 4, 4);
    diff += ((double)got[i] - want) * ((double)got[i] - want);
    norm += (double)want * want;
  }
  return norm > 0 ? sqrt(diff / norm) : sqrt(diff);
}

/* ---- a training step ---- */

static double step_loss(bench *b, pu_recompute recompute) {
  pu_ctx c = context(b);
  int counted = b->seqs.tokens - b->seqs.n;
  OK(b, pu_tape_create(b->host, &c.tape, &b->e));
  for (size_t i = 0; i < b->m->n_params; i++) {
    pu_tensor *w = b->m->params[i].w;
    w->grad_set = false;
    if (w->grad_late) w->grad->data = NULL;
  }
  pu_forward f = {.ids = &b->ids, .seqs = &b->seqs, .recompute = recompute};
  pu_tensor *hidden = pu_model_forward(b->m, &c, &f);
  pu_tensor *loss = pu_model_loss(b->m, &c, hidden, &b->targets, 1.0f / (float)counted);
  if (!loss) fail_msg("%s: %s", b->dir, b->e.msg);
  OK(b, pu_backward(&c));
  float *each = pu_test_download(b->be, loss);
  double sum = 0;
  for (int i = 0; i < b->seqs.tokens; i++) sum += (double)each[i];
  free(each);
  for (size_t i = 0; i < b->m->n_params; i++) assert_true(b->m->params[i].w->grad_set);
  return sum / counted;
}

typedef struct grads {
  const bench *b;
  const json_t *norms;
  size_t seen;
  double worst_norm, worst;
} grads;

static pu_err check_grad(void *arg, const char *name, int ndim, const int64_t *shape, const float *data, pu_error *e) {
  grads *g = arg;
  (void)e;
  char key[300];
  size_t n = 1;
  double sum = 0;
  for (int i = 0; i < ndim; i++) n *= (size_t)shape[i];
  for (size_t i = 0; i < n; i++) sum += (double)data[i] * data[i];
  const json_t *want = json_object_get(g->norms, name);
  if (!want) fail_msg("%s: no gradient norm for '%s'", g->b->dir, name);
  double norm = json_real_value(want), off = fabs(sqrt(sum) - norm) / norm;
  g->worst_norm = fmax(g->worst_norm, off);
  g->seen++;
  if (off >= 1e-4) fail_msg("%s: the norm of %s's gradient is %g, not %g", g->b->dir, name, sqrt(sum), norm);
  snprintf(key, sizeof key, "grad.%s", name);
  const pu_st_tensor *t = pu_safetensors_find(g->b->expected, key);
  if (!t) return PU_OK;
  assert_int_equal(t->bytes, n * 4);
  double error = rel_error(data, t->data, n);
  g->worst = fmax(g->worst, error);
  if (error >= 1e-4) fail_msg("%s: the gradient of %s is off by %g", g->b->dir, name, error);
  return PU_OK;
}

static grads check_grads(bench *b, const json_t *norms) {
  grads g = {.b = b, .norms = norms};
  pu_model view = *b->m;
  view.arch = &expected_arch;
  for (size_t i = 0; i < view.n_params; i++) {
    float *grad = pu_test_download(b->be, view.params[i].w->grad);
    OK(b, pu_param_parts(&view, &view.params[i], grad, check_grad, &g, &b->e));
    free(grad);
  }
  assert_int_equal(g.seen, json_object_size(norms));
  return g;
}

static pu_tensor like(const pu_tensor *t, float *data) {
  pu_tensor r = *t;
  r.data = data;
  r.grad = NULL;
  r.dtype = PU_F32;
  return r;
}

/* Settings of the expected values: decay on all parameters, clipping at 1, as torch.nn.utils.clip_grad_norm_. */
static double adamw_step(bench *b, const json_t *settings, float *const *moments, int64_t step) {
  pu_ctx c = context(b);
  const pu_tensor *list[MAX_PARAMS];
  void *place;
  double total;
  assert_true(b->m->n_params <= MAX_PARAMS);
  for (size_t i = 0; i < b->m->n_params; i++) list[i] = b->m->params[i].w->grad;
  OK(b, b->be->alloc(b->be, sizeof total, &place, &b->e));
  OK(b, pu_sum_squares(&c, list, (int)b->m->n_params, place));
  const json_t *betas = json_object_get(settings, "betas");
  pu_tensor m[MAX_PARAMS], v[MAX_PARAMS];
  pu_adamw_param of[MAX_PARAMS];
  for (size_t i = 0; i < b->m->n_params; i++) {
    pu_param *p = &b->m->params[i];
    m[i] = like(p->w, moments[2 * i]), v[i] = like(p->w, moments[2 * i + 1]);
    of[i] = (pu_adamw_param){.p = p->w,
                             .g = p->w->grad,
                             .m = &m[i],
                             .v = &v[i],
                             .weight_decay = (float)json_number_value(json_object_get(settings, "weight_decay"))};
  }
  pu_adamw_args a = {
      .of = of,
      .n = (int)b->m->n_params,
      .lr = (float)json_number_value(json_object_get(settings, "lr")),
      .beta1 = (float)json_number_value(json_array_get(betas, 0)),
      .beta2 = (float)json_number_value(json_array_get(betas, 1)),
      .eps = (float)json_number_value(json_object_get(settings, "eps")),
      .step = step,
      .gate = {.squares = place, .clip = json_number_value(json_object_get(settings, "clip")), .most = INFINITY}};
  OK(b, pu_adamw(&c, &a));
  OK(b, b->be->download(b->be, &total, place, sizeof total, &b->e));
  b->be->free(b->be, place);
  return sqrt(total);
}

static double check_adamw(bench *b, const json_t *settings) {
  const json_t *want = json_object_get(settings, "loss_and_grad_norm");
  size_t n = b->m->n_params;
  float **moments = calloc(2 * n, sizeof *moments);
  double worst = 0;
  for (size_t i = 0; i < 2 * n; i++) {
    size_t bytes = (size_t)pu_tensor_count(b->m->params[i / 2].w) * sizeof(float);
    OK(b, b->be->alloc(b->be, bytes, (void **)&moments[i], &b->e));
    OK(b, b->be->clear(b->be, moments[i], bytes, &b->e));
  }
  for (size_t s = 0; s < json_array_size(want); s++) {
    const json_t *pair = json_array_get(want, s);
    double loss = step_loss(b, s % 2 ? PU_RECOMPUTE_SOME : PU_RECOMPUTE_NONE),
           norm = adamw_step(b, settings, moments, (int64_t)s + 1);
    double want_loss = json_real_value(json_array_get(pair, 0)), want_norm = json_real_value(json_array_get(pair, 1));
    worst = fmax(worst, fmax(fabs(loss / want_loss - 1), fabs(norm / want_norm - 1)));
    if (worst >= 1e-4)
      fail_msg("%s: AdamW step %zu: loss %.8g, gradient norm %.8g instead of %.8g, %.8g", b->dir, s + 1, loss, norm,
               want_loss, want_norm);
  }
  assert_true(json_array_size(want) >= 10);
  for (size_t i = 0; i < 2 * n; i++) b->be->free(b->be, moments[i]);
  free(moments);
  return worst;
}

/* ---- the checks ---- */

static int32_t argmax(const float *x, int64_t n) {
  int32_t best = 0;
  for (int64_t i = 1; i < n; i++)
    if (x[i] > x[best]) best = (int32_t)i;
  return best;
}

/* Greedy continuation of the first `given` of n ids. Attention is causal, so one pass over all of them asks the same
 * questions as n passes that each add the last answer, as long as every answer is right. */
static void check_greedy(bench *b, const int32_t *want, int given, int n) {
  set_ids(b, want, 1, n);
  const float *y = logits(b, NULL, 0);
  for (int i = given - 1; i + 1 < n; i++) {
    int32_t id = argmax(y + i * b->m->hp.vocab, b->m->hp.vocab);
    if (id != want[i + 1]) fail_msg("%s: greedy id %d is %d, not %d", b->dir, i + 1, (int)id, (int)want[i + 1]);
  }
}

static double check_logits(bench *b, double bound) {
  const pu_st_tensor *t = expect(b, "logits");
  set_input(b);
  double error = rel_error(logits(b, NULL, 0), t->data, t->bytes / 4);
  if (!(error < bound))
    fail_msg("%s: logits in %s are off by %g, %g is the most", b->dir, b->m->dtype == PU_BF16 ? "bf16" : "f32", error,
             bound);
  return error;
}

static double check_long(bench *b) {
  const pu_st_tensor *ids = pu_safetensors_find(b->expected, "long_input_ids");
  if (!ids) return 0;
  const pu_st_tensor *t = expect(b, "long_last_logits");
  int32_t copy[MAX_TOKENS], last = (int32_t)ids->shape[1] - 1;
  memcpy(copy, ids->data, ids->bytes);
  set_ids(b, copy, 1, last + 1);
  double error = rel_error(logits(b, &last, 1), t->data, t->bytes / 4);
  if (!(error < 1e-4)) fail_msg("%s: the last logits of a long sequence are off by %g", b->dir, error);
  return error;
}

static void check_generated(bench *b) {
  const pu_st_tensor *t = expect(b, "greedy_ids");
  int32_t want[MAX_TOKENS];
  memcpy(want, t->data, t->bytes);
  bool dynamic = b->m->hp.rope.kind == PU_ROPE_DYNAMIC;
  /* Dynamic NTK changes all angles once the sequence is longer than 32. */
  check_greedy(b, want, 8, dynamic ? 32 : (int)t->shape[1]);
}

/* false: expected.json has nothing to check training by. */
static bool check_training(bench *b, grads *g, double *steps) {
  char path[600];
  json_t *j;
  snprintf(path, sizeof path, "%s/expected.json", b->dir);
  OK(b, pu_json_read(path, 1 << 20, &j, &b->e));
  const json_t *want = json_object_get(j, "loss");
  *steps = 0;
  if (want) {
    set_input(b);
    double loss = step_loss(b, false);
    if (fabs(loss / json_real_value(want) - 1) >= 1e-5)
      fail_msg("%s: loss %.8g instead of %.8g", b->dir, loss, json_real_value(want));
    *g = check_grads(b, json_object_get(j, "grad_norm"));
    *steps = check_adamw(b, json_object_get(j, "adamw"));
  }
  json_decref(j);
  return want != NULL;
}

/* bf16: the mark is 2e-2; 3e-3 is usual, and mixtral-tiny has 6e-3. Its router is f32 throughout (weights, the norm it
 * reads, logits), but the residual stream carries the roundings of the bf16 products before it: router logits move by
 * up to 4.5e-3, and of the 96 choices of that fixture two have second and third expert only 1e-3 apart. Today none
 * flips. Other roundings may flip one, which is no error of theirs: then that token's logits are another function's. */
static void check_checkpoint(const char *dir, pu_isa isa) {
  bench b;
  grads g = {0};
  open_bench(&b, dir, 1, isa, &(pu_model_options){.dtype = PU_F32, .train = true});
  double f32 = check_logits(&b, 1e-4), far = check_long(&b);
  check_generated(&b);
  double steps;
  bool trained = check_training(&b, &g, &steps);
  close_bench(&b);
  open_bench(&b, dir, 1, isa, &(pu_model_options){.dtype = PU_F32, .tile = true});
  double tiled = check_logits(&b, 1e-4);
  close_bench(&b);
  open_bench(&b, dir, 1, isa, &(pu_model_options){.dtype = PU_BF16});
  double bf16 = check_logits(&b, 2e-2);
  close_bench(&b);
  open_bench(&b, dir, 1, isa, &(pu_model_options){.dtype = PU_BF16, .tile = true});
  bf16 = fmax(bf16, check_logits(&b, 2e-2));
  close_bench(&b);
  char training[100] = "gradients and steps skipped: expected.json has none";
  if (trained)
    snprintf(training, sizeof training, "gradients %.1e norms %.1e steps %.1e", g.worst, g.worst_norm, steps);
  print_message("%-22s %-6s logits %.1e tiled %.1e bf16 %.1e long %.1e %s\n", strrchr(dir, '/') + 1, pu_isa_name(isa),
                f32, tiled, bf16, far, training);
}

static void check_folder(const char *folder, pu_isa first) {
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    char dir[400];
    snprintf(dir, sizeof dir, "%s/%s", folder, families[i]);
    if (!pu_path_is_dir(dir)) {
      print_message("skipped: there is no %s\n", dir);
      continue;
    }
    for (pu_isa isa = pu_test_elsewhere() ? pu_isa_best() : first; isa <= pu_isa_best(); isa++)
      check_checkpoint(dir, isa);
  }
}

static void small_checkpoints(void **state) {
  (void)state;
  check_folder(PU_FIXTURES "/hf-mini", PU_ISA_REF);
}

/* The references, and under AddressSanitizer all but the best instruction set, are too slow for the larger models. */
static pu_isa first_isa(void) {
#ifdef __SANITIZE_ADDRESS__
  return pu_isa_best();
#else
  return PU_MIN(PU_ISA_AVX2, pu_isa_best());
#endif
}

static void larger_checkpoints(void **state) {
  (void)state;
  if (!pu_path_is_dir(PU_SHARED "/fixtures/hf")) {
    print_message("skipped: there is no " PU_SHARED "/fixtures/hf\n");
    return;
  }
  check_folder(PU_SHARED "/fixtures/hf", first_isa());
}

static void trained_model(void **state) {
  (void)state;
  const char *dir = PU_SHARED "/models/stories260K";
  if (!pu_path_is_dir(dir)) {
    print_message("skipped: there is no %s\n", dir);
    return;
  }
  for (pu_isa isa = first_isa(); isa <= pu_isa_best(); isa++) {
    bench b;
    json_t *j;
    open_bench(&b, dir, 1, isa, &(pu_model_options){.dtype = PU_F32, .tile = isa % 2});
    assert_true(b.m->hp.tied);
    OK(&b, pu_json_read(PU_SHARED "/models/stories260K/expected.json", 1 << 20, &j, &b.e));
    const json_t *want = json_object_get(j, "greedy_ids");
    int32_t ids[MAX_TOKENS];
    int n = (int)json_array_size(want);
    assert_in_range(n, 100, MAX_TOKENS);
    for (int i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(want, (size_t)i));
    check_greedy(&b, ids, 5, n);
    json_decref(j);
    close_bench(&b);
  }
}

/* ---- recomputation, the plan ---- */

static void same_gradients(const bench *a, const bench *b) {
  for (size_t p = 0; p < a->m->n_params; p++) {
    const pu_tensor *x = a->m->params[p].w->grad, *y = b->m->params[p].w->grad;
    void *both[] = {pu_test_download(a->be, x), pu_test_download(b->be, y)};
    assert_memory_equal(both[0], both[1], pu_tensor_bytes(x));
    free(both[0]);
    free(both[1]);
  }
}

static void recompute_and_threads_change_nothing(void **state) {
  (void)state;
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    bench a, b;
    char dir[400];
    snprintf(dir, sizeof dir, PU_FIXTURES "/hf-mini/%s", families[i]);
    pu_model_options o = {.dtype = i % 2 ? PU_BF16 : PU_F32, .train = true};
    open_bench(&a, dir, 1, pu_isa_best(), &o);
    open_bench(&b, dir, 2, pu_isa_best(), &o);
    set_input(&a);
    set_input(&b);
    double kept = step_loss(&a, PU_RECOMPUTE_NONE);
    for (int what = PU_RECOMPUTE_GATES; what <= PU_RECOMPUTE_ALL; what++) {
      assert_true(step_loss(&b, (pu_recompute)what) == kept);
      same_gradients(&a, &b);
    }
    close_bench(&a);
    close_bench(&b);
  }
}

static void check_plan(bench *b, bool train, pu_recompute recompute) {
  /* A fresh arena, so that its peak is this step's. */
  pu_arena_free(b->mem);
  OK(b, pu_arena_wrap(b->memory, ROOM, &b->mem, &b->e));
  if (train)
    step_loss(b, recompute);
  else {
    pu_ctx c = context(b);
    pu_forward f = {.ids = &b->ids, .seqs = &b->seqs};
    assert_non_null(pu_model_forward(b->m, &c, &f));
  }
  double real = (double)pu_arena_peak(b->mem);
  double plan = (double)pu_model_activation_bytes(b->m, b->seqs.tokens, b->seqs.max_len, train, recompute);
  if (!(fabs(plan / real - 1) < 0.1))
    fail_msg("%s: %.0f bytes planned, %.0f used (train %d, recompute %d)", b->dir, plan, real, train, (int)recompute);
}

static void plan_is_what_is_used(void **state) {
  (void)state;
  for (size_t i = 0; i < PU_COUNT(families); i++)
    for (int kind = -1; kind <= 2 * PU_RECOMPUTE_ALL + 1; kind++) { /* -1: inference */
      bench b;
      bool late = kind > PU_RECOMPUTE_ALL;
      pu_model_options o = {.dtype = i % 2 ? PU_BF16 : PU_F32, .train = kind >= 0, .late_grads = late};
      if (late) o.grads = o.dtype;
      char dir[400];
      snprintf(dir, sizeof dir, PU_FIXTURES "/hf-mini/%s", families[i]);
      open_bench(&b, dir, 1, pu_isa_best(), &o);
      set_input(&b);
      check_plan(&b, kind >= 0, (pu_recompute)(PU_MAX(kind, 0) - (late ? PU_RECOMPUTE_ALL + 1 : 0)));
      close_bench(&b);
    }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(small_checkpoints),    cmocka_unit_test(larger_checkpoints),
      cmocka_unit_test(trained_model),        cmocka_unit_test(recompute_and_threads_change_nothing),
      cmocka_unit_test(plan_is_what_is_used),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
