/* Adapters: against what PEFT computed, against weights they are merged into, among others in one batch, there and back
 * through files, their gradients; and what cannot be used, named. */
#include "puyu/model.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static char folder[] = "/tmp/puyu-adapter-XXXXXX";

/* What is adapted where: all that a family has, under its own names. */
static const struct {
  const char *base;
  const char *targets[8];
} families[] = {{"llama3-tiny", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}},
                {"internlm2-tiny", {"wqkv", "wo", "w1", "w2", "w3"}},
                {"internlm1-tiny", {"k_proj", "v_proj", "up_proj"}},
                {"qwen3-tiny", {"v_proj", "self_attn.q_proj", "down_proj"}},
                {"mixtral-tiny", {"q_proj", "o_proj"}}};

enum { LEN = 9, MAX_SEQS = 4, N = LEN * MAX_SEQS, MAX_VOCAB = 512 };

static int make_folder(void **state) {
  return mkdtemp(folder) && pu_cpu_open(2, pu_isa_best(), (pu_backend **)state, NULL) == PU_OK ? 0 : -1;
}

static int remove_folder(void **state) {
  pu_error e;
  pu_backend *be = *state;
  be->close(be);
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

/* ---- models, adapters, logits ---- */

static pu_model *load_base(const char *name, pu_backend *be, const pu_model_options *o) {
  char dir[300];
  pu_model *m;
  pu_error e;
  snprintf(dir, sizeof dir, PU_FIXTURES "/hf-mini/%s", name);
  assert_ok(pu_model_load(dir, be, o, &m, &e), &e);
  return m;
}

static pu_model *plain(const char *name, pu_backend *be) {
  return load_base(name, be, &(pu_model_options){.dtype = PU_F32});
}

/* f32, where the weight is bf16. */
static void set_value(pu_param *p, int64_t k, float v) {
  if (p->low)
    ((uint16_t *)p->w->data)[k] = pu_split_f32(v, (uint16_t *)p->low->data + k);
  else
    ((float *)p->w->data)[k] = v;
}

static float value_of(const pu_param *p, int64_t k) {
  return p->low ? pu_join_f32(((uint16_t *)p->w->data)[k], ((uint16_t *)p->low->data)[k]) : ((float *)p->w->data)[k];
}

/* A new adapter whose B is no longer 0. */
static pu_adapter *new_adapter(const pu_model *m, size_t family, int64_t rank, uint64_t seed) {
  pu_adapter_shape shape = {.rank = rank, .alpha = 3, .rslora = seed % 2};
  const char *targets[8];
  pu_adapter *a;
  pu_error e;
  for (; families[family].targets[shape.targets.n]; shape.targets.n++)
    targets[shape.targets.n] = families[family].targets[shape.targets.n];
  shape.targets.v = targets;
  assert_ok(pu_adapter_create(m, &shape, seed, &a, &e), &e);
  size_t n;
  pu_param *p = pu_adapter_params(a, &n);
  for (size_t i = 1; i < n; i += 2)
    for (int64_t k = 0; k < pu_tensor_count(p[i].w); k++)
      set_value(&p[i], k, (float)((double)(pu_random_at(seed, i, (uint64_t)k) % 2001) / 1000 - 1));
  return a;
}

static const char *save(const pu_adapter *a, const char *name, char dir[300]) {
  pu_error e;
  snprintf(dir, 300, "%s/%s", folder, name);
  assert_ok(pu_adapter_save(a, dir, PU_F32, &e), &e);
  return dir;
}

static pu_adapter *load(const char *dir, const pu_model *m) {
  pu_adapter *a;
  pu_error e;
  assert_ok(pu_adapter_load(dir, m, false, &a, &e), &e);
  return a;
}

typedef struct input {
  int32_t ids[N], targets[N], cu[MAX_SEQS + 1], positions[N];
  pu_tensor id_tensor, target_tensor;
  pu_seqs seqs;
} input;

/* Sequences first, first + 1, … of LEN tokens each. */
static void make_input(input *in, const pu_model *m, int first, int n) {
  for (int i = 0; i < n * LEN; i++) {
    in->ids[i] = (int32_t)(pu_random_at(3, (uint64_t)(first + i / LEN), (uint64_t)(i % LEN)) % (uint64_t)m->hp.vocab);
    in->positions[i] = i % LEN;
    in->targets[i] = (in->ids[i] + 1) % (int32_t)m->hp.vocab;
  }
  for (int i = 0; i <= n; i++) in->cu[i] = i * LEN;
  in->id_tensor = (pu_tensor){.dtype = PU_I32, .ndim = 1, .shape = {n * LEN}, .stride = {1}, .data = in->ids};
  in->target_tensor = in->id_tensor;
  in->target_tensor.data = in->targets;
  in->seqs = (pu_seqs){.n = n, .tokens = n * LEN, .max_len = LEN, .cu = in->cu, .positions = in->positions};
}

/* Logits [n LEN, V], which the caller frees. */
static float *logits(pu_model *m, const input *in, const pu_adapter_rows *adapters, int n_adapters) {
  pu_error e;
  pu_ctx c = {.be = m->be, .err = &e};
  assert_ok(pu_arena_create(64 << 20, &c.mem, &e), &e);
  assert_ok(pu_arena_create(16 << 20, &c.host, &e), &e);
  pu_forward f = {.ids = &in->id_tensor, .seqs = &in->seqs, .adapters = adapters, .n_adapters = n_adapters};
  pu_tensor *y = pu_model_logits(m, &c, pu_model_forward(m, &c, &f), NULL, 0);
  if (!y) fail_msg("%s", e.msg);
  float *out = malloc(pu_tensor_bytes(y));
  memcpy(out, y->data, pu_tensor_bytes(y));
  pu_arena_free(c.mem);
  pu_arena_free(c.host);
  return out;
}

static double distance(const float *a, const float *b, size_t n) {
  double diff = 0, norm = 0;
  for (size_t i = 0; i < n; i++) {
    diff += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    norm += (double)b[i] * (double)b[i];
  }
  return sqrt(diff / norm);
}

/* ---- the sum itself ---- */

static const float *floats(const pu_safetensors *s, const char *name, const pu_st_tensor **t) {
  *t = pu_safetensors_find(s, name);
  if (!*t) fail_msg("no tensor '%s'", name);
  return (*t)->data;
}

/* Merged weights, in the files' own rows, are W + scale B A of the files. */
static void check_merged_files(const char *base_dir, const char *adapter_dir, const char *merged_dir, double scale) {
  pu_safetensors *base, *adapter, *merged;
  pu_error e;
  assert_ok(pu_safetensors_open(base_dir, &base, &e), &e);
  char path[400];
  snprintf(path, sizeof path, "%s/adapter_model.safetensors", adapter_dir);
  assert_ok(pu_safetensors_open(path, &adapter, &e), &e);
  assert_ok(pu_safetensors_open(merged_dir, &merged, &e), &e);
  for (size_t i = 0; i < pu_safetensors_count(base); i++) {
    const pu_st_tensor *t = pu_safetensors_at(base, i), *ta = NULL, *tb = NULL, *tm;
    const float *w = t->data, *got = floats(merged, t->name, &tm), *a = NULL, *b = NULL;
    char name[300];
    int stem = (int)strlen(t->name) - (int)strlen(".weight");
    snprintf(name, sizeof name, "base_model.model.%.*s.lora_A.weight", stem, t->name);
    if (pu_safetensors_find(adapter, name)) {
      a = floats(adapter, name, &ta);
      snprintf(name, sizeof name, "base_model.model.%.*s.lora_B.weight", stem, t->name);
      b = floats(adapter, name, &tb);
    }
    int64_t cols = t->ndim == 2 ? t->shape[1] : 1, n = (int64_t)(t->bytes / 4);
    for (int64_t k = 0; k < n; k++) {
      double want = (double)w[k];
      for (int64_t r = 0; a && r < ta->shape[0]; r++)
        want += scale * (double)b[k / cols * ta->shape[0] + r] * (double)a[r * cols + k % cols];
      if (!(fabs((double)got[k] - want) < 1e-5))
        fail_msg("%s at %lld: %g, not %g", t->name, (long long)k, (double)got[k], want);
    }
  }
  pu_safetensors_close(base);
  pu_safetensors_close(adapter);
  pu_safetensors_close(merged);
}

static void beside_is_merged(void **state) {
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    char dir[300], base[300], merged[300];
    pu_error e;
    pu_model *m = plain(families[i].base, *state), *other = plain(families[i].base, *state);
    pu_adapter *made = new_adapter(m, i, 4, i), *a;
    a = load(save(made, families[i].base, dir), m);
    input in;
    make_input(&in, m, 0, 2);
    pu_adapter_rows of_made = {made, 0, 2 * LEN}, of_loaded = {a, 0, 2 * LEN};
    assert_ok(pu_model_merge(other, dir, &e), &e);
    float *x = logits(m, &in, &of_loaded, 1), *y = logits(other, &in, NULL, 0), *z = logits(m, &in, &of_made, 1),
          *without = logits(m, &in, NULL, 0);
    size_t n = (size_t)(2 * LEN * m->hp.vocab);
    assert_memory_equal(x, z, n * sizeof *x); /* there and back */
    if (!(distance(x, y, n) < 1e-5)) fail_msg("%s: %g from merged weights", families[i].base, distance(x, y, n));
    assert_true(distance(x, without, n) > 1e-2);
    snprintf(base, sizeof base, PU_FIXTURES "/hf-mini/%s", families[i].base);
    snprintf(merged, sizeof merged, "%s/merged", folder);
    assert_ok(pu_model_save(other, merged, PU_F32, 0, &e), &e);
    check_merged_files(base, dir, merged, i % 2 ? 3 / 2.0 : 3 / 4.0);
    free(x), free(y), free(z), free(without);
    pu_adapter_free(made);
    pu_adapter_free(a);
    pu_model_free(m);
    pu_model_free(other);
  }
}

/* What Hugging Face transformers and PEFT compute for a base and its adapter. */
static void peft_computes_the_same(void **state) {
  static const char dir[] = PU_SHARED "/fixtures/hf/llama-lora";
  pu_safetensors *s;
  const pu_st_tensor *ids, *want;
  pu_model *m;
  pu_error e;
  if (!pu_path_is_dir(dir)) {
    print_message("skipped: there is no %s\n", dir);
    return;
  }
  assert_ok(pu_model_load(dir, *state, &(pu_model_options){.dtype = PU_F32, .tile = true}, &m, &e), &e);
  assert_ok(pu_safetensors_open(PU_SHARED "/fixtures/hf/llama-lora/expected.safetensors", &s, &e), &e);
  pu_adapter *a = load(PU_SHARED "/fixtures/hf/llama-lora/adapter", m);
  const float *y = floats(s, "logits", &want);
  floats(s, "input_ids", &ids);
  int32_t tokens[80], positions[80], cu[] = {0, 40, 80};
  assert_int_equal(ids->bytes, sizeof tokens);
  memcpy(tokens, ids->data, sizeof tokens);
  for (int i = 0; i < 80; i++) positions[i] = i % 40;
  input in = {.id_tensor = {.dtype = PU_I32, .ndim = 1, .shape = {80}, .stride = {1}, .data = tokens},
              .seqs = {.n = 2, .tokens = 80, .max_len = 40, .cu = cu, .positions = positions}};
  float *x = logits(m, &in, &(pu_adapter_rows){a, 0, 80}, 1), *without = logits(m, &in, NULL, 0);
  double d = distance(x, y, want->bytes / 4);
  print_message("llama-lora: logits %.1e (without the adapter %.1e)\n", d, distance(without, y, want->bytes / 4));
  assert_true(d < 1e-5);
  free(x), free(without);
  pu_adapter_free(a);
  pu_safetensors_close(s);
  pu_model_free(m);
}

/* A GGUF file of the base holds heads in pairs; the adapter is still the directory's. */
static void base_may_be_a_gguf_file(void **state) {
  char dir[300], path[300];
  pu_error e;
  pu_model *m = plain("llama3-tiny", *state), *other;
  pu_adapter *a = new_adapter(m, 0, 4, 2);
  snprintf(path, sizeof path, "%s/base.gguf", folder);
  assert_ok(pu_model_save_gguf(m, path, pu_gguf_type_named("f32"), NULL, NULL, &e), &e);
  assert_ok(pu_model_load(path, *state, &(pu_model_options){.dtype = PU_F32}, &other, &e), &e);
  pu_adapter *b = load(save(a, "gguf", dir), other);
  input in;
  make_input(&in, m, 0, 1);
  float *x = logits(m, &in, &(pu_adapter_rows){a, 0, LEN}, 1),
        *y = logits(other, &in, &(pu_adapter_rows){b, 0, LEN}, 1);
  assert_true(distance(y, x, (size_t)(LEN * m->hp.vocab)) < 1e-5);
  free(x), free(y);
  pu_adapter_free(a);
  pu_adapter_free(b);
  pu_model_free(m);
  pu_model_free(other);
}

/* A base in few bits stays in few bits: what an adapter adds to it is what it adds to the base it was made of. */
static void base_may_be_in_few_bits(void **state) {
  const pu_hparams hp = {.vocab = 96,
                         .hidden = 128,
                         .ffn = 256,
                         .layers = 2,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 32,
                         .max_position = 64,
                         .norm_eps = 1e-5,
                         .rope = {.base = 1e4, .factor = 1}};
  char dir[300];
  pu_error e;
  pu_model *m, *packed;
  const pu_arch *arch = pu_arch_find("internlm2");
  pu_model_options o = {.dtype = PU_F32};
  assert_ok(pu_model_random(arch, &hp, 1, *state, &o, &m, &e), &e);
  o.tile = true;
  o.quant = PU_QUANT_Q8;
  assert_ok(pu_model_random(arch, &hp, 1, *state, &o, &packed, &e), &e);
  assert_int_equal(packed->layers[0].slot[PU_SLOT_QKV]->layout, PU_LAYOUT_PACKED);
  pu_adapter *a = new_adapter(m, 1, 4, 2);
  save(a, "bits", dir);
  pu_adapter_free(a);
  a = load(dir, m);
  pu_adapter *b = load(dir, packed);
  input in;
  make_input(&in, m, 0, 2);
  pu_adapter_rows of_a = {a, LEN, LEN}, of_b = {b, LEN, LEN};
  float *x = logits(m, &in, &of_a, 1), *y = logits(packed, &in, &of_b, 1), *base = logits(m, &in, NULL, 0);
  size_t n = (size_t)(LEN * m->hp.vocab);
  double bits = distance(y, x, n), with = distance(y + n, x + n, n), without = distance(base + n, x + n, n);
  if (!(bits < 0.03 && with < 0.03 && without > 0.3))
    fail_msg("%g in few bits, %g with it, %g without it", bits, with, without);
  assert_int_equal(pu_model_merge(packed, dir, &e), PU_ERR_UNSUPPORTED);
  free(x), free(y), free(base);
  pu_adapter_free(a);
  pu_adapter_free(b);
  pu_model_free(m);
  pu_model_free(packed);
}

/* Trained beside a base in bf16: what is written are the f32 masters, and they are what is read back. */
static void masters_come_back(void **state) {
  char dir[300];
  pu_error e;
  size_t n, k;
  pu_model *m = load_base("internlm2-tiny", *state, &(pu_model_options){.dtype = PU_BF16});
  pu_adapter *a = new_adapter(m, 1, 5, 3), *b;
  assert_ok(pu_adapter_load(save(a, "masters", dir), m, true, &b, &e), &e);
  pu_param *p = pu_adapter_params(a, &n), *q = pu_adapter_params(b, &k);
  assert_int_equal(n, k);
  for (size_t i = 0; i < n; i++) {
    assert_string_equal(p[i].name, q[i].name);
    assert_int_equal(q[i].w->dtype, PU_BF16);
    for (int64_t x = 0; x < pu_tensor_count(q[i].w); x++) assert_true(value_of(&p[i], x) == value_of(&q[i], x));
  }
  pu_adapter_free(a);
  pu_adapter_free(b);
  pu_model_free(m);
}

/* ---- in a batch ---- */

/* Two adapters of different ranks and none: a sequence's logits are the same bits as alone. */
static void rows_are_independent(void **state) {
  for (int dtype = 0; dtype < 2; dtype++) {
    char one[300], two[300];
    pu_model *made_for = plain("internlm2-tiny", *state);
    pu_adapter *a = new_adapter(made_for, 1, 4, 1), *b = new_adapter(made_for, 1, 7, 2);
    save(a, "one", one);
    save(b, "two", two);
    pu_adapter_free(a);
    pu_adapter_free(b);
    pu_model_free(made_for);
    pu_model *m = load_base("internlm2-tiny", *state, &(pu_model_options){.dtype = dtype ? PU_BF16 : PU_F32});
    a = load(one, m);
    b = load(two, m);
    const pu_adapter *const of[MAX_SEQS] = {a, NULL, b, a};
    pu_adapter_rows rows[] = {{a, 0, LEN}, {b, 2 * LEN, LEN}, {a, 3 * LEN, LEN}};
    input all, alone;
    make_input(&all, m, 0, MAX_SEQS);
    float *together = logits(m, &all, rows, 3);
    for (int i = 0; i < MAX_SEQS; i++) {
      size_t n = (size_t)(LEN * m->hp.vocab);
      make_input(&alone, m, i, 1);
      float *x = logits(m, &alone, &(pu_adapter_rows){of[i], 0, LEN}, of[i] != NULL);
      assert_memory_equal(x, together + (size_t)i * n, n * sizeof *x);
      free(x);
    }
    free(together);
    pu_adapter_free(a);
    pu_adapter_free(b);
    pu_model_free(m);
  }
}

/* ---- gradients ---- */

static double loss_of(pu_model *m, const input *in, const pu_adapter *a, bool back, pu_recompute recompute) {
  pu_error e;
  pu_ctx c = {.be = m->be, .err = &e};
  assert_ok(pu_arena_create(64 << 20, &c.mem, &e), &e);
  assert_ok(pu_arena_create(16 << 20, &c.host, &e), &e);
  if (back) assert_ok(pu_tape_create(c.host, &c.tape, &e), &e);
  pu_adapter_rows rows = {a, LEN, LEN}; /* the first sequence goes without */
  pu_forward f = {.ids = &in->id_tensor, .seqs = &in->seqs, .adapters = &rows, .n_adapters = 1, .recompute = recompute};
  pu_tensor *y = pu_model_loss(m, &c, pu_model_forward(m, &c, &f), &in->target_tensor, 1);
  if (!y) fail_msg("%s", e.msg);
  double sum = 0;
  for (int64_t i = 0; i < y->shape[0]; i++) sum += (double)((float *)y->data)[i];
  if (back) assert_ok(pu_backward(&c), &e);
  pu_arena_free(c.mem);
  pu_arena_free(c.host);
  return sum;
}

/* The base is frozen: only the adapter has gradients. They are the same to the bit, whatever is computed again. */
static void gradients_match_differences(void **state) {
  pu_model *m = plain("internlm2-tiny", *state);
  pu_adapter *a = new_adapter(m, 1, 3, 4);
  size_t n;
  pu_param *p = pu_adapter_params(a, &n);
  input in;
  make_input(&in, m, 0, 2);
  float **first = calloc(n, sizeof *first);
  for (int recompute = PU_RECOMPUTE_NONE; recompute <= PU_RECOMPUTE_ALL; recompute++) {
    for (size_t i = 0; i < n; i++) p[i].w->grad_set = false;
    loss_of(m, &in, a, true, (pu_recompute)recompute);
    for (size_t i = 0; i < n; i++) {
      float *w = p[i].w->data, *g = p[i].w->grad->data;
      size_t bytes = pu_tensor_bytes(p[i].w->grad);
      if (!first[i]) first[i] = memcpy(malloc(bytes), g, bytes);
      assert_memory_equal(first[i], g, bytes);
      int64_t at = 5 % pu_tensor_count(p[i].w);
      float was = w[at], step = 0.02f;
      w[at] = was + step;
      double up = loss_of(m, &in, a, false, PU_RECOMPUTE_NONE);
      w[at] = was - step;
      double down = loss_of(m, &in, a, false, PU_RECOMPUTE_NONE), want = (up - down) / (2 * (double)step);
      w[at] = was;
      if (!(fabs(want - (double)g[at]) < 2e-3 + 0.02 * fabs(want)))
        fail_msg("%s: gradient %g, by differences %g", p[i].name, (double)g[at], want);
    }
  }
  for (size_t i = 0; i < n; i++) free(first[i]);
  free(first);
  pu_adapter_free(a);
  pu_model_free(m);
}

/* ---- what configurations say ---- */

static void write_config(const char *dir, const char *text) {
  char path[400];
  pu_error e;
  snprintf(path, sizeof path, "%s/adapter_config.json", dir);
  assert_ok(pu_mkdirs(dir, &e), &e);
  assert_ok(pu_file_write(path, text, strlen(text), &e), &e);
}

/* Bytes that the adapted matrices take: what is targeted, with which rank. */
static size_t measured(const pu_model *m, const char *more) {
  char dir[300], text[1000];
  size_t bytes;
  pu_error e;
  snprintf(dir, sizeof dir, "%s/config", folder);
  snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", \"r\": 4, %s}", more);
  write_config(dir, text);
  assert_ok(pu_adapter_measure(dir, m->arch, &m->hp, PU_F32, &bytes, &e), &e);
  return bytes;
}

static void patterns_choose_as_in_peft(void **state) {
  pu_model *m = plain("llama3-tiny", *state);
  /* q: A [4, 32], B [32, 4]; v: B [16, 4]; two layers. */
  enum { Q = 2 * 4 * 32 * 4, V = 4 * 4 * (32 + 16) };
  assert_int_equal(measured(m, "\"target_modules\": [\"q_proj\"]"), 2 * Q);
  assert_int_equal(measured(m, "\"target_modules\": [\"model.layers.1.self_attn.q_proj\"]"), Q);
  assert_int_equal(measured(m, "\"target_modules\": [\"q_proj\", \"v_proj\", \"other\"]"), 2 * Q + 2 * V);
  assert_int_equal(measured(m, "\"target_modules\": \".*\\\\.(q|v)_proj\""), 2 * Q + 2 * V);
  assert_int_equal(measured(m, "\"target_modules\": \"model\\\\.layers\\\\.0\\\\..*q_proj\""), Q);
  assert_int_equal(measured(m, "\"target_modules\": [\"q_proj\", \"v_proj\"], \"exclude_modules\": [\"v_proj\"]"),
                   2 * Q);
  assert_int_equal(measured(m, "\"target_modules\": [\"q_proj\"], \"layers_to_transform\": [1]"), Q);
  assert_int_equal(
      measured(m, "\"target_modules\": [\"q_proj\"], \"rank_pattern\": {\"layers.1.self_attn.q_proj\": 8}"), 3 * Q);
  assert_int_equal(measured(m, "\"target_modules\": [\"q_proj\"], \"rank_pattern\": {\"layers.[01].*q_proj\": 8}"),
                   4 * Q);
  assert_true(measured(m, "\"target_modules\": \"all-linear\"") > 4 * Q);
  pu_model_free(m);
}

static void refused(void **state) {
  static const struct {
    const char *config, *says;
  } cases[] = {
      {"[]", "not an object"},
      {"{\"peft_type\": \"IA3\"}", "adapters of type LORA"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"use_dora\": true}", "DoRA"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"bias\": \"all\"}", "'none' can"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"modules_to_save\": [\"lm_head\"]}",
       "modules_to_save"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"init_lora_weights\": \"pissa_niter_4\"}",
       "pissa"},
      {"{\"peft_type\": \"LORA\"}", "'target_modules' is missing"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": [1]}", "list of names or a regular expression"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": [\"query_key_value\"]}", "names no matrix"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": \"(\"}", "is no regular expression"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": \"(.|.)*(.|.)*[0-9]\"}", "takes too long"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"r\": 0}", "'r' is 0"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"], \"rank_pattern\": {\"q_proj\": 1.5}}",
       "rank_pattern"},
      {"{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"]}", "adapter_model.safetensors is missing"},
  };
  pu_model *m = plain("llama3-tiny", *state);
  char dir[300];
  pu_adapter *a;
  pu_error e;
  snprintf(dir, sizeof dir, "%s/none", folder);
  assert_true(pu_adapter_load(dir, m, false, &a, &e) != PU_OK);
  assert_non_null(strstr(e.msg, "PEFT directory"));
  snprintf(dir, sizeof dir, "%s/wrong", folder);
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    write_config(dir, cases[i].config);
    assert_true(pu_adapter_load(dir, m, false, &a, &e) != PU_OK);
    assert_null(a);
    if (!strstr(e.msg, cases[i].says)) fail_msg("'%s' does not say '%s'", e.msg, cases[i].says);
  }
  pu_model_free(m);
}

/* Tensors that do not fit what is said of them: of another base, a half too few, one too many. */
static void wrong_tensors(void **state) {
  pu_model *m = plain("llama3-tiny", *state), *other = plain("qwen3-tiny", *state);
  pu_adapter *a = new_adapter(m, 0, 4, 1), *b;
  char dir[300];
  pu_error e;
  save(a, "tensors", dir);
  static const struct {
    const char *targets, *says;
  } cases[] = {{"\"r\": 4, \"target_modules\": [\"q_proj\"]", "has no place"},
               {"\"r\": 8, \"target_modules\": [\"q_proj\"]", "make it [8, 32]"}};
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    char text[300];
    snprintf(text, sizeof text, "{\"peft_type\": \"LORA\", %s}", cases[i].targets);
    write_config(dir, text);
    assert_true(pu_adapter_load(dir, m, false, &b, &e) != PU_OK);
    if (!strstr(e.msg, cases[i].says)) fail_msg("'%s' does not say '%s'", e.msg, cases[i].says);
  }
  save(a, "tensors", dir);
  m->hp.layers++; /* as a base with one layer more */
  assert_int_equal(pu_adapter_load(dir, m, false, &b, &e), PU_ERR_FORMAT);
  m->hp.layers--;
  assert_non_null(strstr(e.msg, "model.layers.2.self_attn.q_proj.lora_A.weight' is missing"));
  pu_adapter_free(a);
  a = new_adapter(m, 0, 4, 1);
  input in;
  make_input(&in, other, 0, 1);
  pu_ctx c = {.be = *state, .err = &e};
  assert_ok(pu_arena_create(1 << 20, &c.mem, &e), &e);
  assert_ok(pu_arena_create(1 << 20, &c.host, &e), &e);
  pu_forward f = {.ids = &in.id_tensor, .seqs = &in.seqs, .adapters = &(pu_adapter_rows){a, 0, LEN}, .n_adapters = 1};
  assert_null(pu_model_forward(other, &c, &f));
  assert_non_null(strstr(e.msg, "another model"));
  pu_arena_free(c.mem);
  pu_arena_free(c.host);
  pu_adapter_free(a);
  pu_model_free(m);
  pu_model_free(other);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(beside_is_merged),
      cmocka_unit_test(peft_computes_the_same),
      cmocka_unit_test(base_may_be_a_gguf_file),
      cmocka_unit_test(base_may_be_in_few_bits),
      cmocka_unit_test(masters_come_back),
      cmocka_unit_test(rows_are_independent),
      cmocka_unit_test(gradients_match_differences),
      cmocka_unit_test(patterns_choose_as_in_peft),
      cmocka_unit_test(refused),
      cmocka_unit_test(wrong_tensors),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
