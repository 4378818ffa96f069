/* Weights in and out: what was loaded is saved bit by bit, in one file or many, in this family's layout or another's;
 * what does not fit is named. */
#include "tests/model/families.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "puyu/model.h"

static char folder[] = "/tmp/puyu-weights-XXXXXX";
static int make_folder(void **state) {
  return mkdtemp(folder) && pu_cpu_open(2, pu_isa_best(), (pu_backend **)state, NULL) == PU_OK ? 0 : -1;
}

static int remove_folder(void **state) {
  pu_error e;
  pu_backend *be = *state;
  be->close(be);
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static void fixture(char *dst, size_t size, const char *name) {
  snprintf(dst, size, PU_FIXTURES "/hf-mini/%s", name);
}

static void in_folder(char *dst, size_t size, const char *name) {
  snprintf(dst, size, "%s/%s", folder, name);
}

static pu_model *load(const char *dir, pu_backend *be, pu_dtype dtype, bool train) {
  pu_error e;
  pu_model *m;
  assert_ok(pu_model_load(dir, be, &(pu_model_options){.dtype = dtype, .train = train}, &m, &e), &e);
  return m;
}

static void same_tensors(const char *a_dir, const char *b_dir) {
  pu_safetensors *a, *b;
  pu_error e;
  assert_ok(pu_safetensors_open(a_dir, &a, &e), &e);
  assert_ok(pu_safetensors_open(b_dir, &b, &e), &e);
  assert_int_equal(pu_safetensors_count(a), pu_safetensors_count(b));
  for (size_t i = 0; i < pu_safetensors_count(a); i++) {
    const pu_st_tensor *x = pu_safetensors_at(a, i), *y = pu_safetensors_at(b, i);
    assert_string_equal(x->name, y->name);
    assert_int_equal(x->dtype, y->dtype);
    assert_int_equal(x->bytes, y->bytes);
    assert_memory_equal(x->shape, y->shape, sizeof x->shape);
    assert_memory_equal(x->data, y->data, x->bytes);
  }
  pu_safetensors_close(a);
  pu_safetensors_close(b);
}

/* ---- there and back ---- */

static void saved_is_what_was_loaded(void **state) {
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    char from[300], to[300], shards[300];
    pu_error e;
    fixture(from, sizeof from, families[i]);
    in_folder(to, sizeof to, "one");
    in_folder(shards, sizeof shards, "many");
    /* Training in bf16 saves from the f32 masters. */
    pu_model *m = load(from, *state, i % 2 ? PU_F32 : PU_BF16, true);
    assert_ok(pu_model_save(m, to, PU_F32, 0, &e), &e);
    same_tensors(from, to);
    assert_ok(pu_model_save(m, shards, PU_F32, 20000, &e), &e);
    same_tensors(from, shards);
    pu_model *again = load(shards, *state, PU_F32, false);
    assert_string_equal(again->arch->name, m->arch->name);
    pu_model_free(again);
    pu_model_free(m);
  }
}

/* Several shards, then one: the index must not stay. */
static void the_older_form_goes(void **state) {
  char from[300], to[300], path[400];
  pu_error e;
  fixture(from, sizeof from, "internlm2-tiny");
  in_folder(to, sizeof to, "forms");
  pu_model *m = load(from, *state, PU_F32, false);
  assert_ok(pu_model_save(m, to, PU_F32, 20000, &e), &e);
  snprintf(path, sizeof path, "%s/model.safetensors.index.json", to);
  assert_true(pu_path_exists(path));
  assert_ok(pu_model_save(m, to, PU_F32, 0, &e), &e);
  assert_false(pu_path_exists(path));
  assert_ok(pu_model_save(m, to, PU_F32, 20000, &e), &e);
  snprintf(path, sizeof path, "%s/model.safetensors", to);
  assert_false(pu_path_exists(path));
  pu_model_free(m);
}

static void half_precision_goes_there_and_back(void **state) {
  static const pu_dtype types[] = {PU_BF16, PU_F16};
  for (size_t t = 0; t < PU_COUNT(types); t++)
    for (size_t i = 0; i < PU_COUNT(families); i++) {
      char from[300], half[300], again[300];
      pu_error e;
      fixture(from, sizeof from, families[i]);
      in_folder(half, sizeof half, "half");
      in_folder(again, sizeof again, "again");
      pu_model *m = load(from, *state, PU_F32, false);
      assert_ok(pu_model_save(m, half, types[t], 0, &e), &e);
      pu_model_free(m);
      m = load(half, *state, types[t] == PU_BF16 ? PU_BF16 : PU_F32, false);
      assert_ok(pu_model_save(m, again, types[t], 0, &e), &e);
      same_tensors(half, again);
      pu_model_free(m);
    }
}

/* A model read part by part has in each what the whole has there, and gives the same hidden states block by block; each
 * part is saved as its own tensors. */
static void parts_are_of_the_whole(void **state) {
  enum { TOKENS = 9 };
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    char from[300], to[300];
    pu_error e;
    pu_arena *mem, *host;
    int32_t ids[TOKENS], positions[TOKENS], cu[] = {0, TOKENS};
    const int64_t n = TOKENS;
    size_t bytes = 0;
    fixture(from, sizeof from, families[i]);
    in_folder(to, sizeof to, "part");
    assert_ok(pu_arena_create(1 << 26, &mem, &e), &e);
    assert_ok(pu_arena_create(1 << 26, &host, &e), &e);
    for (int t = 0; t < TOKENS; t++) positions[t] = t, ids[t] = 3 + 5 * t;
    pu_model *whole = load(from, *state, PU_F32, false);
    pu_ctx c = {.be = *state, .mem = mem, .host = host, .err = &e};
    pu_seqs seqs = {.n = 1, .tokens = TOKENS, .max_len = TOKENS, .cu = cu, .positions = positions};
    pu_forward f = {.ids = pu_tensor_over(&c, PU_I32, 1, &n, ids), .seqs = &seqs};
    const pu_tensor *want = pu_model_forward(whole, &c, &f);
    pu_state s = {NULL, NULL};
    for (int64_t l = -1; l <= whole->hp.layers; l++) {
      pu_model_part part = {PU_MAX(l, 0), l < 0 ? 0 : PU_MIN(l + 1, whole->hp.layers), l < 0 || l == whole->hp.layers};
      pu_model_options o = {.dtype = PU_F32, .part = &part};
      pu_model *m;
      assert_ok(pu_model_load(from, *state, &o, &m, &e), &e);
      if (l < whole->hp.layers) bytes += pu_model_weight_bytes(m->arch, &m->hp, &o);
      for (size_t k = 0, at = 0; k < m->n_params; k++, at++) {
        while (strcmp(whole->params[at].name, m->params[k].name) != 0) at++;
        assert_memory_equal(whole->params[at].w->data, m->params[k].w->data, pu_tensor_bytes(m->params[k].w));
      }
      pu_tensor *h;
      float eps = (float)m->hp.norm_eps;
      if (l < 0) s.h = pu_embedding(&c, f.ids, m->outer[PU_SLOT_EMBED], PU_F32);
      if (l >= 0 && !part.outer) s = pu_model_block(m, &c, &f, l, s);
      if (l >= 0 && part.outer) s.x = pu_rmsnorm_add(&c, s.h, s.x, m->outer[PU_SLOT_OUT_NORM], eps, PU_F32, &h);
      assert_ok(c.status, &e);
      assert_ok(pu_model_save(m, to, PU_F32, 0, &e), &e);
      pu_model_free(m);
    }
    assert_int_equal(bytes, pu_model_weight_bytes(whole->arch, &whole->hp, &(pu_model_options){.dtype = PU_F32}));
    assert_memory_equal(s.x->data, want->data, pu_tensor_bytes(want));
    pu_model_free(whole);
    pu_arena_free(mem);
    pu_arena_free(host);
  }
}

/* ---- other layouts ---- */

static void same_parameters(const pu_model *a, const pu_model *b) {
  assert_int_equal(a->n_params, b->n_params);
  for (size_t i = 0; i < a->n_params; i++) {
    assert_string_equal(a->params[i].name, b->params[i].name);
    assert_memory_equal(a->params[i].w->data, b->params[i].w->data, pu_tensor_bytes(a->params[i].w));
  }
}

static void families_exchange_layouts(void **state) {
  char from[300], to[300];
  pu_error e;
  fixture(from, sizeof from, "internlm2-tiny");
  in_folder(to, sizeof to, "as-llama");
  pu_model *m = load(from, *state, PU_F32, false);
  m->arch = pu_arch_find("llama");
  assert_ok(pu_model_save(m, to, PU_F32, 0, &e), &e);
  pu_model *llama = load(to, *state, PU_F32, false);
  assert_string_equal(llama->arch->name, "llama");
  same_parameters(m, llama);
  llama->arch = pu_arch_find("mixtral");
  assert_int_equal(pu_model_save(llama, to, PU_F32, 0, &e), PU_ERR_UNSUPPORTED);
  pu_model_free(llama);
  pu_model_free(m);
}

/* Mixtral as newer files have it: all experts of a layer in one tensor. */
static void fused_experts_are_read(void **state) {
  char from[300], to[300], config[400], path[400];
  pu_error e;
  pu_arch fused = *pu_arch_find("mixtral");
  pu_tensor_rule rules[32];
  size_t n = 0;
  for (const pu_tensor_rule *r = fused.tensors; r->name; r++)
    if (r->slot < PU_SLOT_ROUTER) rules[n++] = *r;
  for (const pu_tensor_rule *r = fused.also_read; r->name; r++) rules[n++] = *r;
  rules[n] = (pu_tensor_rule){0};
  fused.tensors = rules;

  fixture(from, sizeof from, "mixtral-tiny");
  in_folder(to, sizeof to, "fused");
  pu_model *m = load(from, *state, PU_F32, false);
  const pu_arch *plain = m->arch;
  assert_ok(pu_mkdirs(to, &e), &e);
  snprintf(config, sizeof config, "%s/config.json", to);
  snprintf(path, sizeof path, "%s/model.safetensors", to);
  assert_ok(pu_config_write(config, plain, &m->hp, PU_F32, &e), &e);
  /* pu_model_save would check the made-up family's configuration, so the tensors are written from the parts. */
  m->arch = &fused;
  pu_st_source sources[64];
  size_t count = 0;
  for (size_t i = 0; i < m->n_params; i++)
    for (size_t r = 0; r < n; r++) {
      const pu_param *p = &m->params[i];
      if (rules[r].slot != p->slot || rules[r].part > PU_PART_Q) continue;
      char *name = malloc(100);
      pu_st_source *s = &sources[count++];
      snprintf(name, 100, rules[r].name, p->layer);
      *s = (pu_st_source){.name = name, .dtype = PU_F32, .ndim = p->w->ndim, .data = p->w->data};
      memcpy(s->shape, p->w->shape, sizeof s->shape);
      if (p->slot != PU_SLOT_QKV) continue;
      int64_t rows[] = {m->hp.heads * m->hp.head_dim, m->hp.kv_heads * m->hp.head_dim, m->hp.kv_heads * m->hp.head_dim};
      const char *letters = "qkv", *data = p->w->data;
      free(name);
      count--;
      for (int k = 0; k < 3; k++) {
        char *part = malloc(100);
        snprintf(part, 100, "model.layers.%d.self_attn.%c_proj.weight", p->layer, letters[k]);
        sources[count++] =
            (pu_st_source){.name = part, .dtype = PU_F32, .ndim = 2, .shape = {rows[k], m->hp.hidden}, .data = data};
        data += (size_t)(rows[k] * m->hp.hidden) * 4;
      }
    }
  assert_ok(pu_safetensors_write(path, sources, count, NULL, &e), &e);
  for (size_t i = 0; i < count; i++) free((char *)(uintptr_t)sources[i].name);
  pu_model *again = load(to, *state, PU_F32, false);
  same_parameters(m, again);
  pu_model_free(again);
  pu_model_free(m);
}

static void norm_head_is_normalised(void **state) {
  char from[300], to[300], config[400];
  pu_error e;
  fixture(from, sizeof from, "internlm2-tiny");
  in_folder(to, sizeof to, "norm-head");
  pu_model *m = load(from, *state, PU_F32, false);
  assert_ok(pu_model_save(m, to, PU_F32, 0, &e), &e);
  snprintf(config, sizeof config, "%s/config.json", to);
  pu_hparams hp = m->hp;
  hp.norm_head = true;
  assert_ok(pu_config_write(config, m->arch, &hp, PU_F32, &e), &e);
  pu_model *again = load(to, *state, PU_F32, false);
  assert_false(again->hp.norm_head);
  const float *w = again->outer[PU_SLOT_OUTPUT]->data, *raw = m->outer[PU_SLOT_OUTPUT]->data;
  for (int64_t r = 0; r < hp.vocab; r++, w += hp.hidden, raw += hp.hidden) {
    double one = 0, length = 0;
    for (int64_t i = 0; i < hp.hidden; i++)
      one += (double)w[i] * (double)w[i], length += (double)raw[i] * (double)raw[i];
    assert_true(fabs(one - 1) < 1e-5);
    assert_true(fabs((double)w[0] - (double)raw[0] / sqrt(length)) < 1e-6);
  }
  pu_model_free(again);
  pu_model_free(m);
}

/* ---- what does not fit ---- */

typedef struct edit {
  const char *drop, *rename, *to; /* a tensor left out; one under another name */
  int64_t rows;                   /* of `rename`, when not 0 */
  const char *extra;              /* one more, of two elements */
  const char *retype;             /* f32 that the file calls u32 */
  pu_err want;
  const char *says;
} edit;

/* A type that no operation takes, in as many bytes. */
static void call_it_u32(const char *path, const char *tensor) {
  pu_buf b;
  pu_error e;
  pu_buf_init(&b, 1 << 20);
  assert_ok(pu_file_read(path, 1 << 20, &b, &e), &e);
  char *at = memmem(b.data, b.len, tensor, strlen(tensor)), *type;
  assert_non_null(at);
  type = memmem(at, 100, "F32", 3);
  assert_non_null(type);
  *type = 'U';
  assert_ok(pu_file_write(path, b.data, b.len, &e), &e);
  pu_buf_deinit(&b);
}

static void write_edited(const char *from, const char *to, const edit *x) {
  pu_safetensors *s;
  pu_error e;
  pu_st_source sources[200];
  size_t n = 0;
  char path[400];
  assert_ok(pu_safetensors_open(from, &s, &e), &e);
  for (size_t i = 0; i < pu_safetensors_count(s); i++) {
    const pu_st_tensor *t = pu_safetensors_at(s, i);
    if (x->drop && strcmp(t->name, x->drop) == 0) continue;
    sources[n] = (pu_st_source){.name = t->name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data};
    memcpy(sources[n].shape, t->shape, sizeof t->shape);
    if (x->rename && strcmp(t->name, x->rename) == 0) {
      sources[n].name = x->to;
      if (x->rows) sources[n].shape[0] = x->rows;
    }
    n++;
  }
  static const float two[] = {1, 2};
  if (x->extra) sources[n++] = (pu_st_source){.name = x->extra, .ndim = 1, .shape = {2}, .data = two};
  snprintf(path, sizeof path, "%s/model.safetensors", to);
  assert_ok(pu_safetensors_write(path, sources, n, NULL, &e), &e);
  pu_safetensors_close(s);
  if (x->retype) call_it_u32(path, x->retype);
}

static void what_does_not_fit_is_named(void **state) {
  static const edit edits[] = {
      {.drop = "lm_head.weight", .want = PU_ERR_FORMAT, .says = "'lm_head.weight' [96, 32] is missing"},
      {.rename = "model.norm.weight", .to = "model.norm2.weight", .want = PU_ERR_FORMAT, .says = "'model.norm.weight'"},
      {.rename = "model.layers.1.mlp.up_proj.weight",
       .to = "model.layers.1.mlp.up_proj.qweight",
       .want = PU_ERR_UNSUPPORTED,
       .says = "quantised"},
      {.rename = "lm_head.weight",
       .to = "lm_head.weight",
       .rows = 95,
       .want = PU_ERR_SHAPE,
       .says = "is [95, 32], but config.json makes it [96, 32]"},
      {.retype = "lm_head.weight", .want = PU_ERR_UNSUPPORTED, .says = "'lm_head.weight' is of type U32"},
      {.extra = "mask", .retype = "mask", .want = PU_ERR_FORMAT, .says = "'mask' belongs to nothing"},
      /* What is not needed may be of any type. */
      {.extra = "model.layers.0.self_attn.rotary_emb.inv_freq", .retype = "inv_freq", .want = PU_OK, .says = ""},
  };
  char from[300], to[300], config[400];
  pu_error e;
  pu_model *m;
  fixture(from, sizeof from, "llama3-tiny");
  in_folder(to, sizeof to, "edited");
  m = load(from, *state, PU_F32, false);
  assert_ok(pu_model_save(m, to, PU_F32, 0, &e), &e);
  pu_model_options o = {.dtype = PU_F32};
  for (size_t i = 0; i < PU_COUNT(edits); i++) {
    pu_model *bad;
    write_edited(from, to, &edits[i]);
    pu_err err = pu_model_load(to, *state, &o, &bad, &e);
    if (err != edits[i].want || !strstr(e.msg, edits[i].says)) fail_msg("edit %zu: error %d, \"%s\"", i, err, e.msg);
    assert_true((bad != NULL) == (err == PU_OK));
    pu_model_free(bad);
  }
  /* Two layers of weights under the configuration of one: the second is surplus. */
  snprintf(config, sizeof config, "%s/config.json", to);
  m->hp.layers = 1;
  assert_ok(pu_config_write(config, m->arch, &m->hp, PU_F32, &e), &e);
  write_edited(from, to, &(edit){0});
  pu_model *bad;
  assert_int_equal(pu_model_load(to, *state, &o, &bad, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, "belongs to nothing"));
  m->hp.layers = 2;
  pu_model_free(m);
  assert_int_equal(pu_model_load("/nonexistent", *state, &o, &bad, &e), PU_ERR_IO);
}

/* ---- random weights ---- */

static void check_moments(const pu_param *p, double deviation) {
  const float *v = p->w->data;
  int64_t n = pu_tensor_count(p->w);
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; i++) sum += (double)v[i], squares += (double)v[i] * (double)v[i];
  double d = sqrt(squares / (double)n), sigma = deviation / sqrt((double)n);
  assert_true(fabs(sum / (double)n) < 5 * sigma);
  assert_true(fabs(d - deviation) < 5 * sigma);
}

static void random_weights_are_functions_of_place(void **state) {
  const pu_shape *s = pu_shape_find("puyu-2m");
  pu_hparams hp = s->hp;
  pu_model *a, *b, *half;
  pu_error e;
  hp.qkv_bias = true;
  pu_model_options o = {.dtype = PU_F32};
  assert_ok(pu_model_random(pu_arch_find(s->arch), &hp, 7, *state, &o, &a, &e), &e);
  pu_backend *one;
  assert_ok(pu_cpu_open(1, PU_ISA_REF, &one, &e), &e);
  assert_ok(pu_model_random(pu_arch_find(s->arch), &hp, 7, one, &o, &b, &e), &e);
  same_parameters(a, b); /* whatever the threads */
  /* On every machine, by every compiler. */
  assert_true(pu_hash64(a->params[0].w->data, (size_t)1 << 20, 0) == 0x994390b513a6ee36);
  for (size_t i = 0; i < a->n_params; i++) {
    const pu_param *p = &a->params[i];
    const float *v = p->w->data;
    if (p->slot == PU_SLOT_QKV || p->slot == PU_SLOT_EMBED) check_moments(p, 0.02);
    if (p->slot == PU_SLOT_WO || p->slot == PU_SLOT_DOWN) check_moments(p, 0.02 / sqrt(10));
    if (p->slot == PU_SLOT_OUT_NORM || p->slot == PU_SLOT_MLP_NORM) assert_true(v[0] == 1 && v[hp.hidden - 1] == 1);
    if (p->slot == PU_SLOT_QKV_BIAS) assert_true(v[0] == 0);
    assert_int_equal(p->decay, p->w->ndim == 2 && p->slot != PU_SLOT_EMBED);
  }
  pu_model_free(b);
  assert_ok(pu_model_random(pu_arch_find(s->arch), &hp, 8, one, &o, &b, &e), &e);
  assert_true(memcmp(a->params[0].w->data, b->params[0].w->data, 4096) != 0);
  /* A longer model begins with the same layers. */
  hp.layers = 6;
  o.dtype = PU_BF16;
  assert_ok(pu_model_random(pu_arch_find(s->arch), &hp, 7, *state, &o, &half, &e), &e);
  const uint16_t *x = half->layers[4].slot[PU_SLOT_QKV]->data;
  const float *y = a->layers[4].slot[PU_SLOT_QKV]->data;
  for (int i = 0; i < 1000; i++) assert_int_equal(x[i], pu_f32_to_bf16(y[i]));
  pu_model_free(half);
  pu_model_free(a);
  pu_model_free(b);
  one->close(one);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(saved_is_what_was_loaded),
      cmocka_unit_test(the_older_form_goes),
      cmocka_unit_test(half_precision_goes_there_and_back),
      cmocka_unit_test(parts_are_of_the_whole),
      cmocka_unit_test(families_exchange_layouts),
      cmocka_unit_test(fused_experts_are_read),
      cmocka_unit_test(norm_head_is_normalised),
      cmocka_unit_test(what_does_not_fit_is_named),
      cmocka_unit_test(random_weights_are_functions_of_place),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
