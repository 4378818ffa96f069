/* Matrices in few bits: rounding; checkpoints written in each layout and read back to the bit, whatever the order of a
 * family's rows; what they compute against the same weights in floats; and what is refused. Two checkpoints of
 * PU_SHARED against what Hugging Face transformers computed. */
#include "tests/device.h"
#include "tests/model/families.h"
#include "tests/model/shown.h"
#include "tests/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "puyu/model.h"

static char folder[] = "/tmp/puyu-quant-XXXXXX";

static int make_folder(void **state) {
  return mkdtemp(folder) && pu_test_open(2, pu_isa_best(), (pu_backend **)state, NULL) == PU_OK ? 0 : -1;
}

static int remove_folder(void **state) {
  pu_error e;
  pu_backend *be = *state;
  be->close(be);
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

/* ---- rounding ---- */

static void fill_order(int32_t *g_idx, int64_t cols, int64_t group) {
  for (int64_t k = 0; k < cols; k++) g_idx[(k * 7) % cols] = (int32_t)(k / group); /* cols: no multiple of 7 */
}

static void values_are_rounded_to_the_nearest(void **state) {
  (void)state;
  enum { COLS = 100, ROWS = 5 };
  pu_rng r;
  pu_error e;
  pu_rng_seed(&r, 1);
  for (int way = 0; way < 8; way++) {
    pu_qmatrix q;
    float w[COLS], back[COLS];
    int bits = way & 1 ? 8 : 4;
    assert_ok(pu_qmatrix_init(&q, bits, ROWS, COLS, 32, way & 2, &e), &e);
    if (way & 4) fill_order(q.g_idx = malloc(COLS * sizeof *q.g_idx), COLS, 32);
    for (int64_t m = 0; m < ROWS; m++) {
      for (int i = 0; i < COLS; i++) w[i] = m == 2 ? 0 : 0.3f + (float)pu_rng_normal(&r);
      pu_qmatrix_round(&q, m, w);
      pu_qmatrix_to_f32(&q, m, back);
      for (int k = 0; k < COLS; k++) {
        float scale = q.scale[m * 4 + (q.g_idx ? q.g_idx[k] : k / 32)];
        assert_true(q.q[m * COLS + k] < 1 << bits);
        assert_true(scale == pu_f16_to_f32(pu_f32_to_f16(scale)));
        /* Half a step; at the ends of the range f16's rounding of the step, 2^bits times, and half a step of zero more.
         */
        assert_true(fabsf(w[k] - back[k]) <= scale * (1.01f + (float)(1 << bits) * 0x1p-11f));
      }
    }
    pu_qmatrix_deinit(&q);
  }
  pu_qmatrix q;
  assert_int_equal(pu_qmatrix_init(&q, 3, 4, 4, 0, true, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "3 bits"));
}

static size_t packed_matrices(const pu_model *m) {
  size_t n = 0;
  for (size_t i = 0; i < m->n_params; i++) n += m->params[i].w->layout == PU_LAYOUT_PACKED;
  return n;
}

/* ---- there and back ---- */

typedef struct way {
  const char *name;
  pu_quant_format format;
  int bits;
  bool symmetric, ordered;
} way;

static const way ways[] = {
    {"awq", PU_QUANT_AWQ, 4, false, false},         {"awq-sym", PU_QUANT_AWQ, 4, true, false},
    {"gptq4", PU_QUANT_GPTQ, 4, false, false},      {"gptq4-sym", PU_QUANT_GPTQ, 4, true, true},
    {"gptq4-order", PU_QUANT_GPTQ, 4, false, true}, {"gptq8-order", PU_QUANT_GPTQ, 8, true, true},
    {"int8", PU_QUANT_INT8, 8, true, false}};

/* Rounds what can be in few bits, in memory, too: the matrices of layers, and seldom the output, as such files have it.
 */
static pu_qmatrix *quantise(pu_model *m, const way *w, bool output) {
  pu_error e;
  pu_qmatrix *q = calloc(m->n_params, sizeof *q);
  for (size_t i = 0; i < m->n_params; i++) {
    const pu_param *p = &m->params[i];
    int64_t cols = p->w->shape[p->w->ndim - 1], rows = pu_tensor_count(p->w) / cols;
    bool layers = p->layer >= 0 && p->slot != PU_SLOT_ROUTER;
    if (!p->decay || !(layers || (output && p->slot == PU_SLOT_OUTPUT))) continue;
    assert_ok(pu_qmatrix_init(&q[i], w->bits, rows, cols, w->format == PU_QUANT_INT8 ? 0 : 32, w->symmetric, &e), &e);
    if (w->ordered) fill_order(q[i].g_idx = malloc((size_t)cols * sizeof(int32_t)), cols, 32);
    for (int64_t r = 0; r < rows; r++) {
      pu_qmatrix_round(&q[i], r, (float *)p->w->data + r * cols);
      pu_qmatrix_to_f32(&q[i], r, (float *)p->w->data + r * cols);
    }
  }
  return q;
}

static void drop_all(pu_qmatrix *q, size_t n) {
  for (size_t i = 0; i < n; i++) pu_qmatrix_deinit(&q[i]);
  free(q);
}

/* output: the output, too, in few bits. */
static void write_with(pu_backend *be, const char *from, const way *w, bool output, const char *dir, pu_model **m) {
  pu_error e;
  assert_ok(pu_model_load(from, be, &(pu_model_options){.dtype = PU_F32}, m, &e), &e);
  pu_qmatrix *q = quantise(*m, w, output);
  assert_ok(pu_model_save_quantised(*m, dir, PU_F32, w->format, q, 0, &e), &e);
  drop_all(q, (*m)->n_params);
}

static void write_as(pu_backend *be, const char *from, const way *w, const char *dir, pu_model **m) {
  write_with(be, from, w, false, dir, m);
}

static void check_way(pu_backend *be, const char *name, const way *w) {
  char from[300], dir[400];
  pu_model *m;
  snprintf(from, sizeof from, PU_FIXTURES "/hf-mini/%s", name);
  snprintf(dir, sizeof dir, "%s/%s-%s", folder, name, w->name);
  write_as(be, from, w, dir, &m);
  shown plain = show(be, dir, (pu_model_options){.dtype = PU_F32, .tile = true, .quant = PU_QUANT_NONE});
  hide(&plain);
  plain = show(be, dir, (pu_model_options){.dtype = PU_F32});
  assert_int_equal(plain.m->n_params, m->n_params);
  for (size_t i = 0; i < m->n_params; i++)
    if (memcmp(m->params[i].w->data, plain.m->params[i].w->data, pu_tensor_bytes(m->params[i].w)) != 0)
      fail_msg("%s: %s came back otherwise", dir, m->params[i].name);
  shown packed = show(be, dir, (pu_model_options){.dtype = PU_F32, .tile = true});
  if (!(far(&packed, &plain) < 1e-5)) fail_msg("%s: packed f32 is off by %g", dir, far(&packed, &plain));
  size_t matrices = packed_matrices(packed.m), layers = (size_t)m->hp.layers;
  if (matrices != 4 * layers) fail_msg("%s: %zu matrices are packed", dir, matrices);
  shown small = show(be, dir, (pu_model_options){.dtype = PU_BF16, .tile = true});
  if (!(far(&small, &plain) < 5e-2)) fail_msg("%s: packed bf16 is off by %g", dir, far(&small, &plain));
  size_t planned;
  pu_error e;
  assert_ok(pu_model_load_bytes(dir, &(pu_model_options){.dtype = PU_BF16, .tile = true}, &planned, &e), &e);
  assert_in_range(planned, pu_arena_mark(small.m->weights), pu_arena_mark(small.m->weights) + 4096);
  hide(&packed), hide(&plain), hide(&small);
  pu_model_free(m);
}

static void checkpoints_come_back_as_they_went(void **state) {
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  for (size_t i = 0; i < PU_COUNT(families); i++)
    for (size_t w = 0; w < PU_COUNT(ways); w++) check_way(*state, families[i], &ways[w]);
}

/* Rounded on load: how far depends on the bits; the tied output, too, which has no tensor. */
static void models_are_rounded_on_load(void **state) {
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    char dir[300];
    snprintf(dir, sizeof dir, PU_FIXTURES "/hf-mini/%s", families[i]);
    shown plain = show(*state, dir, (pu_model_options){.dtype = PU_F32, .tile = true});
    for (pu_quant quant = PU_QUANT_Q8; quant <= PU_QUANT_Q4; quant++) {
      pu_model_options o = {.dtype = PU_BF16, .tile = true, .quant = quant};
      shown s = show(*state, dir, o);
      double off = far(&s, &plain);
      if (!(off < (quant == PU_QUANT_Q8 ? 5e-2 : 0.5))) fail_msg("%s in %d: off by %g", dir, (int)quant, off);
      assert_int_equal(packed_matrices(s.m), 4 * (size_t)s.m->hp.layers + !s.m->hp.tied);
      assert_int_equal(s.m->outer[PU_SLOT_OUTPUT]->layout, PU_LAYOUT_PACKED);
      size_t planned = pu_model_weight_bytes(s.m->arch, &s.m->hp, &o), used = pu_arena_mark(s.m->weights);
      assert_in_range(planned, used, used + 4096);
      hide(&s);
    }
    hide(&plain);
  }
}

static size_t int8_matrices(const pu_model *m) {
  size_t n = 0;
  for (size_t i = 0; i < m->n_params; i++) n += m->params[i].w->layout == PU_LAYOUT_INT8;
  return n;
}

static void models_become_int8_on_load(void **state) {
  pu_model_options o = {.dtype = PU_BF16, .tile = true, .quant = PU_QUANT_I8};
  pu_model *none;
  pu_error e;
  if (!pu_test_tiles()) skip();
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    char dir[300];
    snprintf(dir, sizeof dir, PU_FIXTURES "/hf-mini/%s", families[i]);
    shown plain = show(*state, dir, (pu_model_options){.dtype = PU_F32, .tile = true}), s = show(*state, dir, o);
    double off = far(&s, &plain);
    if (!(off < 5e-2)) fail_msg("%s: off by %g", dir, off);
    assert_int_equal(int8_matrices(s.m), (s.m->hp.experts ? 2 : 4) * (size_t)s.m->hp.layers); /* experts do not */
    size_t planned = pu_model_weight_bytes(s.m->arch, &s.m->hp, &o), used = pu_arena_mark(s.m->weights);
    assert_in_range(planned, used, used + 4096);
    hide(&s), hide(&plain);
    o.dtype = PU_F32;
    assert_int_equal(pu_model_load(dir, *state, &o, &none, &e), PU_ERR_UNSUPPORTED);
    o.dtype = PU_BF16;
  }
}

/* A file's own int8, a scale a row, stays as it is. */
static void int8_files_keep_their_codes(void **state) {
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    char from[300], dir[400];
    pu_model *m;
    snprintf(from, sizeof from, PU_FIXTURES "/hf-mini/%s", families[i]);
    snprintf(dir, sizeof dir, "%s/%s-codes", folder, families[i]);
    write_as(*state, from, &(way){"int8", PU_QUANT_INT8, 8, true, false}, dir, &m);
    shown s = show(*state, dir, (pu_model_options){.dtype = PU_BF16, .tile = true, .quant = PU_QUANT_I8});
    assert_int_equal(int8_matrices(s.m), (s.m->hp.experts ? 2 : 4) * (size_t)s.m->hp.layers); /* experts do not */
    for (size_t p = 0; p < m->n_params; p++) {
      const pu_tensor *w = s.m->params[p].w;
      if (w->layout != PU_LAYOUT_INT8) continue;
      const int8_t *codes = w->data;
      const float *scale = (const float *)(codes + pu_fp8_codes_bytes(w->shape[0], w->shape[1]));
      const float *want = m->params[p].w->data;
      for (int64_t k = 0; k < pu_tensor_count(w); k++)
        if ((float)codes[k] * scale[k / w->shape[1]] != want[k]) fail_msg("%s: %s is another", dir, m->params[p].name);
    }
    hide(&s);
    pu_model_free(m);
  }
}

/* q8_0, q4_0 and q4_1 stay as they are; a q4_0 file's embedding does not, and its output has 8 bits. */
static void gguf_stays_in_few_bits(void **state) {
  static const char *const types[] = {"q8_0", "q4_0"};
  for (size_t i = 0; i < PU_COUNT(types); i++) {
    char path[400];
    pu_model *m;
    pu_error e;
    snprintf(path, sizeof path, "%s/model-%s.gguf", folder, types[i]);
    assert_ok(
        pu_model_load(PU_FIXTURES "/hf-mini/internlm2-d128", *state, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
    assert_ok(pu_model_save_gguf(m, path, pu_gguf_type_named(types[i]), NULL, NULL, &e), &e);
    shown plain = show(*state, path, (pu_model_options){.dtype = PU_F32, .tile = true, .quant = PU_QUANT_NONE});
    shown packed = show(*state, path, (pu_model_options){.dtype = PU_F32, .tile = true});
    assert_int_equal(packed_matrices(plain.m), 0);
    assert_true(packed_matrices(packed.m) > 4);
    assert_true(far(&packed, &plain) < 1e-5);
    hide(&plain), hide(&packed);
    pu_model_free(m);
  }
}

/* The output of a model that is tied to the embedding, too: a copy of it that is not rounded anew. */
static void tied_gguf_keeps_its_output(void **state) {
  if (!pu_test_tiles()) skip();
  char path[400];
  pu_hparams hp = {0};
  const pu_arch *arch;
  pu_model *m;
  pu_error e;
  snprintf(path, sizeof path, "%s/tied.gguf", folder);
  assert_ok(pu_model_describe(PU_FIXTURES "/hf-mini/internlm2-d128", &arch, &hp, &e), &e);
  hp.tied = true;
  assert_ok(pu_model_random(arch, &hp, 1, *state, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
  assert_ok(pu_model_save_gguf(m, path, pu_gguf_type_named("q8_0"), NULL, NULL, &e), &e);
  pu_model_free(m);
  shown plain = show(*state, path, (pu_model_options){.dtype = PU_F32, .tile = true, .quant = PU_QUANT_NONE});
  shown packed = show(*state, path, (pu_model_options){.dtype = PU_F32, .tile = true});
  assert_int_equal(packed.m->outer[PU_SLOT_OUTPUT]->layout, PU_LAYOUT_PACKED);
  assert_int_equal(packed.m->outer[PU_SLOT_EMBED]->layout, PU_LAYOUT_PLAIN);
  assert_true(far(&packed, &plain) < 1e-5);
  hide(&plain), hide(&packed);
}

/* The directory's tensors and one more, a vector of n values. */
static void add_vector(const char *dir, const char *name, const float *values, int64_t n) {
  char path[500];
  pu_error e;
  pu_safetensors *st;
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  assert_ok(pu_safetensors_open(path, &st, &e), &e);
  size_t count = pu_safetensors_count(st);
  pu_st_source *all = calloc(count + 1, sizeof *all);
  for (size_t i = 0; i < count; i++) {
    const pu_st_tensor *t = pu_safetensors_at(st, i);
    all[i] = (pu_st_source){.name = t->name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data};
    memcpy(all[i].shape, t->shape, sizeof t->shape);
  }
  all[count] = (pu_st_source){.name = name, .dtype = PU_F32, .ndim = 1, .shape = {n}, .data = values};
  assert_ok(pu_safetensors_write(path, all, count + 1, NULL, &e), &e);
  pu_safetensors_close(st);
  free(all);
}

/* ---- kept for the next time ---- */

/* Files in a folder, and the name of the last one. */
static int count_files(const char *dir, char name[300]) {
  int n = 0;
  DIR *d = opendir(dir);
  if (!d) return 0;
  for (const struct dirent *f; (f = readdir(d));)
    if (f->d_name[0] != '.') {
      snprintf(name, 300, "%s", f->d_name);
      n++;
    }
  closedir(d);
  return n;
}

static bool is_mapped(const shown *s) {
  return s->m->weights_map.data != NULL;
}

static void check_kept(pu_backend *be, const char *model, const char *cache, pu_model_options o) {
  char name[300], path[900];
  o.tile = true;
  shown plain = show(be, model, o);
  o.cache = cache;
  for (int round = 0; round < 4; round++) {
    shown s = show(be, model, o);
    if (is_mapped(&s) != (round == 1)) fail_msg("%s: round %d is %smapped", model, round, round == 1 ? "not " : "");
    assert_true(far(&s, &plain) == 0);
    hide(&s);
    assert_int_equal(count_files(cache, name), 1);
    snprintf(path, sizeof path, "%s/%s", cache, name);
    if (round == 1) { /* half a file is none, and is made whole */
      struct stat st;
      assert_int_equal(stat(path, &st), 0);
      assert_int_equal(truncate(path, st.st_size / 2), 0);
    }
    if (round == 2) { /* another model's weights, under this one's name */
      int fd = open(path, O_WRONLY | O_CLOEXEC);
      assert_int_equal(pwrite(fd, "12345678", 8, 8), 8);
      close(fd);
    }
  }
  assert_int_equal(unlink(path), 0);
  hide(&plain);
}

static void weights_are_kept_for_the_next_time(void **state) {
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  pu_log_set_level(PU_LOG_ERROR);  /* damage is told of */
  char dir[400], cache[400], tied[400], name[300];
  pu_model *m;
  pu_error e;
  snprintf(dir, sizeof dir, "%s/kept", folder);
  snprintf(tied, sizeof tied, "%s/kept-tied", folder);
  snprintf(cache, sizeof cache, "%s/cache", folder);
  write_as(*state, PU_FIXTURES "/hf-mini/mixtral-tiny", &ways[2], dir, &m);
  pu_model_free(m);
  check_kept(*state, dir, cache, (pu_model_options){.dtype = PU_BF16});
  check_kept(*state, dir, cache, (pu_model_options){.dtype = PU_F32, .quant = PU_QUANT_Q4});
  pu_hparams hp = {0};
  const pu_arch *arch;
  assert_ok(pu_model_describe(PU_FIXTURES "/hf-mini/llama3-tiny", &arch, &hp, &e), &e);
  hp.tied = true;
  assert_ok(pu_model_random(arch, &hp, 1, *state, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
  assert_ok(pu_model_save(m, tied, PU_F32, 0, &e), &e);
  pu_model_free(m);
  check_kept(*state, tied, cache, (pu_model_options){.dtype = PU_F32, .quant = PU_QUANT_Q8});
  /* Nothing in few bits: tiles. Without tiles, nothing. */
  check_kept(*state, tied, cache, (pu_model_options){.dtype = PU_BF16, .quant = PU_QUANT_NONE});
  check_kept(*state, dir, cache, (pu_model_options){.dtype = PU_F32, .quant = PU_QUANT_NONE});
  check_kept(*state, PU_FIXTURES "/hf-mini/qwen2-tiny", cache, (pu_model_options){.dtype = PU_BF16});
  shown s = show(*state, tied, (pu_model_options){.dtype = PU_F32, .cache = cache});
  assert_int_equal(count_files(cache, name), 0);
  hide(&s);
  /* Other files, other weights. */
  pu_model_options o = {.dtype = PU_F32, .tile = true, .quant = PU_QUANT_Q8, .cache = cache};
  s = show(*state, tied, o);
  hide(&s);
  assert_ok(pu_model_random(arch, &hp, 2, *state, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
  assert_ok(pu_model_save(m, tied, PU_F32, 0, &e), &e);
  pu_model_free(m);
  s = show(*state, tied, o);
  assert_false(is_mapped(&s));
  assert_int_equal(count_files(cache, name), 2);
  hide(&s);
  /* And another processor. */
  for (pu_isa isa = 0; isa < pu_isa_best(); isa++) {
    pu_backend *be;
    assert_ok(pu_test_open(1, isa, &be, &e), &e);
    s = show(be, tied, o);
    assert_false(is_mapped(&s));
    assert_int_equal(count_files(cache, name), 3 + (int)isa);
    hide(&s);
    be->close(be);
  }
}

/* Any byte that is another one is found. */
static void damage_is_found(void **state) {
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  pu_log_set_level(PU_LOG_ERROR);
  char cache[400], name[300], path[900];
  struct stat st;
  snprintf(cache, sizeof cache, "%s/damaged", folder);
  pu_model_options o = {.dtype = PU_BF16, .tile = true, .cache = cache};
  const char *model = PU_FIXTURES "/hf-mini/internlm2-tiny";
  shown plain = show(*state, model, o);
  assert_int_equal(count_files(cache, name), 1);
  snprintf(path, sizeof path, "%s/%s", cache, name);
  assert_int_equal(stat(path, &st), 0);
  for (off_t at = 0; at < st.st_size; at += at < 400 ? 13 : at < 4096 ? 4096 - at : st.st_size / 9) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    shown s = show(*state, model, o);
    if (is_mapped(&s)) fail_msg("another byte at %lld was not found", (long long)at);
    assert_true(far(&s, &plain) == 0);
    hide(&s);
  }
  shown s = show(*state, model, o);
  assert_true(is_mapped(&s) && far(&s, &plain) == 0);
  hide(&s);
  hide(&plain);
}

/* Files as they were first: settings in a file of their own, and biases of zeros that no family has. */
static void older_files_are_read(void **state) {
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  static const way w = {"", PU_QUANT_GPTQ, 4, false, false};
  char dir[400], config[500];
  pu_model *m;
  pu_error e;
  pu_buf text;
  json_t *j;
  snprintf(dir, sizeof dir, "%s/older", folder);
  snprintf(config, sizeof config, "%s/config.json", dir);
  write_as(*state, PU_FIXTURES "/hf-mini/llama3-tiny", &w, dir, &m);
  pu_model_free(m);
  assert_ok(pu_json_read(config, 1 << 20, &j, &e), &e);
  json_object_del(json_object_get(j, "quantization_config"), "checkpoint_format");
  char *quantisation = json_dumps(json_object_get(j, "quantization_config"), 0);
  json_object_del(j, "quantization_config");
  char *rest = json_dumps(j, 0);
  assert_ok(pu_file_write(config, rest, strlen(rest), &e), &e);
  snprintf(config, sizeof config, "%s/quantize_config.json", dir);
  pu_buf_init(&text, 1 << 16);
  const char *method = strstr(quantisation, "\"quant_method\": \"gptq\", ");
  pu_buf_puts(&text, "{");
  pu_buf_puts(&text, method ? method + strlen("\"quant_method\": \"gptq\", ") : quantisation + 1);
  assert_ok(pu_file_write(config, text.data, text.len, &e), &e);
  assert_ok(pu_model_load(dir, *state, &(pu_model_options){.dtype = PU_F32, .tile = true}, &m, &e), &e);
  assert_int_equal(packed_matrices(m), 4 * (size_t)m->hp.layers);
  pu_model_free(m);
  float bias[5] = {0};
  add_vector(dir, "model.layers.0.self_attn.o_proj.bias", bias, 5);
  assert_ok(pu_model_load(dir, *state, &(pu_model_options){.dtype = PU_F32, .tile = true}, &m, &e), &e);
  pu_model_free(m);
  bias[4] = 1;
  add_vector(dir, "model.layers.1.self_attn.o_proj.bias", bias, 5);
  check_refused(*state, dir, "o_proj.bias' belongs to nothing");
  pu_buf_deinit(&text);
  free(rest);
  free(quantisation);
  json_decref(j);
}

/* ---- what is refused ---- */

typedef struct edit {
  const char *file, *from, *to, *says;
} edit;

/* A model that is tied, and whose file has an output all the same, in few bits: that is passed over as a plain copy of
 * the embedding is, and the output stays plain. */
static void tied_output_in_few_bits_is_passed_over(void **state) {
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  static const way w = {"", PU_QUANT_GPTQ, 4, false, false};
  char dir[400], config[500];
  pu_model *m;
  snprintf(dir, sizeof dir, "%s/tied-gptq", folder);
  snprintf(config, sizeof config, "%s/config.json", dir);
  write_with(*state, PU_FIXTURES "/hf-mini/llama3-tiny", &w, true, dir, &m);
  pu_model_free(m);
  shown untied = show(*state, dir, (pu_model_options){.dtype = PU_F32, .tile = true});
  assert_int_equal(untied.m->outer[PU_SLOT_OUTPUT]->layout, PU_LAYOUT_PACKED);
  replace_in(config, "\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
  shown plain = show(*state, dir, (pu_model_options){.dtype = PU_F32, .quant = PU_QUANT_NONE});
  shown packed = show(*state, dir, (pu_model_options){.dtype = PU_F32, .tile = true});
  assert_int_equal(packed_matrices(packed.m), 4 * (size_t)packed.m->hp.layers);
  assert_int_not_equal(packed.m->outer[PU_SLOT_OUTPUT]->layout, PU_LAYOUT_PACKED);
  assert_true(far(&packed, &plain) < 1e-5);
  assert_true(far(&packed, &untied) > 1e-2);
  hide(&untied), hide(&plain), hide(&packed);
}

/* The first i32 of a tensor. */
static void set_first(const char *path, const char *name, int32_t value) {
  pu_buf bytes;
  pu_error e;
  pu_safetensors *st;
  pu_buf_init(&bytes, 1 << 24);
  assert_ok(pu_file_read(path, 1 << 24, &bytes, &e), &e);
  assert_ok(pu_safetensors_parse(pu_str_of(bytes.data, bytes.len), &st, &e), &e);
  const pu_st_tensor *t = pu_safetensors_find(st, name);
  assert_non_null(t);
  memcpy(bytes.data + ((const char *)t->data - bytes.data), &value, sizeof value);
  pu_safetensors_close(st);
  assert_ok(pu_file_write(path, bytes.data, bytes.len, &e), &e);
  pu_buf_deinit(&bytes);
}

static void lies_are_refused(void **state) {
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  static const edit edits[] = {
      {"config.json", "\"bits\": 4", "\"bits\": 3", "3 bits are not supported"},
      {"config.json", "\"bits\": 4", "\"bits\": 8", "should be"},
      {"config.json", "\"group_size\": 32", "\"group_size\": 16", "should be floats [2, 32]"},
      {"config.json", "\"group_size\": 32", "\"group_size\": 0", "'group_size' should be positive"},
      {"config.json", "\"gptq\"", "\"bitsandbytes\"", "quant_method 'bitsandbytes' is not supported"},
      {"config.json", "\"checkpoint_format\": \"gptq_v2\"", "\"checkpoint_format\": \"marlin\"",
       "'marlin' is not supported"},
      {"config.json", "\"quantization_config\"", "\"other\"", "no quantization_config"},
      {"config.json", "\"quantization_config\": {", "\"quantization_config\": 1, \"x\": {", "is no object"},
      {"model.safetensors", "layers.0.attention.wo.qzeros", "layers.0.attention.wo.qzerot", "has no qzeros"},
      {"model.safetensors", "layers.0.attention.wo.scales", "layers.0.attention.wo.scalet", "has no scales"},
  };
  static const way w = {"", PU_QUANT_GPTQ, 4, false, false};
  char dir[400], file[600];
  pu_model *m;
  for (size_t i = 0; i <= PU_COUNT(edits) + 1; i++) {
    snprintf(dir, sizeof dir, "%s/refused-%zu", folder, i);
    write_as(*state, PU_FIXTURES "/hf-mini/internlm2-tiny", &w, dir, &m);
    pu_model_free(m);
    snprintf(file, sizeof file, "%s/%s", dir, i < PU_COUNT(edits) ? edits[i].file : "model.safetensors");
    if (i < PU_COUNT(edits)) {
      replace_in(file, edits[i].from, edits[i].to);
      check_refused(*state, dir, edits[i].says);
    } else {
      bool outside = i == PU_COUNT(edits);
      set_first(file, "model.layers.0.feed_forward.w2.g_idx", outside ? -7 : 1);
      check_refused(*state, dir, outside ? "is in group -7" : "group 0 has 31 inputs instead of 32");
    }
  }
}

/* Rewrites the zeros as the first format has them: each less one, a zero of 0 as the largest. *least: the least zero.
 */
static void zeros_less_one(const char *path, uint32_t *least) {
  pu_buf bytes;
  pu_error e;
  pu_safetensors *st;
  pu_buf_init(&bytes, 1 << 24);
  assert_ok(pu_file_read(path, 1 << 24, &bytes, &e), &e);
  assert_ok(pu_safetensors_parse(pu_str_of(bytes.data, bytes.len), &st, &e), &e);
  for (size_t i = 0; i < pu_safetensors_count(st); i++) {
    const pu_st_tensor *t = pu_safetensors_at(st, i);
    if (!pu_ends_with(t->name, ".qzeros")) continue;
    for (size_t w = 0; w < t->bytes; w += 4) {
      uint32_t word, out = 0;
      memcpy(&word, (const char *)t->data + w, 4);
      for (int b = 0; b < 32; b += 4) {
        uint32_t zero = word >> b & 15;
        *least = PU_MIN(*least, zero);
        out |= ((zero - 1) & 15) << b;
      }
      memcpy(bytes.data + ((const char *)t->data - bytes.data) + w, &out, 4);
    }
  }
  pu_safetensors_close(st);
  assert_ok(pu_file_write(path, bytes.data, bytes.len, &e), &e);
  pu_buf_deinit(&bytes);
}

/* `gptq_v2`, which is written, has zeros as they are; `gptq`, and files that do not say, less one. */
static void zeros_are_read_in_both_formats(void **state) {
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  static const way w = {"", PU_QUANT_GPTQ, 4, false, false};
  char dir[400], config[500], weights[500];
  pu_model *m;
  uint32_t least = 15;
  snprintf(dir, sizeof dir, "%s/zeros", folder);
  snprintf(config, sizeof config, "%s/config.json", dir);
  snprintf(weights, sizeof weights, "%s/model.safetensors", dir);
  write_as(*state, PU_FIXTURES "/hf-mini/internlm2-tiny", &w, dir, &m);
  pu_qmatrix *q = quantise(m, &w, false);
  for (size_t i = 0; i < m->n_params; i++)
    for (int64_t g = 0; q[i].zero && g < q[i].rows * pu_qmatrix_groups(&q[i]); g++) q[i].zero[g] = (uint8_t)(g % 16);
  pu_error e;
  assert_ok(pu_model_save_quantised(m, dir, PU_F32, w.format, q, 0, &e), &e);
  drop_all(q, m->n_params);
  pu_model_free(m);
  pu_model_options o = {.dtype = PU_F32, .tile = true};
  shown written = show(*state, dir, o);
  zeros_less_one(weights, &least);
  assert_int_equal(least, 0);
  for (int i = 0; i < 2; i++) {
    replace_in(config, i ? "\"checkpoint_format\": \"gptq\"" : "\"gptq_v2\"", i ? "\"x\": 1" : "\"gptq\"");
    shown first = show(*state, dir, o);
    assert_true(far(&first, &written) == 0);
    hide(&first);
  }
  hide(&written);
}

/* AWQ's files have zeros also where all are the same, for readers that want them; and are read without. */
static void awqs_zeros_may_be_missing(void **state) {
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  static const way w = {"", PU_QUANT_AWQ, 4, true, false};
  char dir[400], weights[500];
  pu_model *m;
  pu_error e;
  pu_safetensors *st;
  size_t n = 0, all;
  snprintf(dir, sizeof dir, "%s/awq-zeros", folder);
  snprintf(weights, sizeof weights, "%s/model.safetensors", dir);
  write_as(*state, PU_FIXTURES "/hf-mini/internlm2-tiny", &w, dir, &m);
  size_t layers = (size_t)m->hp.layers;
  pu_model_free(m);
  pu_model_options o = {.dtype = PU_F32, .tile = true};
  shown written = show(*state, dir, o);
  assert_ok(pu_safetensors_open(weights, &st, &e), &e);
  all = pu_safetensors_count(st);
  pu_st_source *rest = calloc(all, sizeof *rest);
  for (size_t i = 0; i < all; i++) {
    const pu_st_tensor *t = pu_safetensors_at(st, i);
    for (size_t b = 0; pu_ends_with(t->name, ".qzeros") && b < t->bytes; b++)
      assert_int_equal(((const uint8_t *)t->data)[b], 0x88);
    if (pu_ends_with(t->name, ".qzeros")) continue;
    rest[n] = (pu_st_source){.name = t->name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data};
    memcpy(rest[n++].shape, t->shape, sizeof t->shape);
  }
  assert_int_equal(all - n, 5 * layers); /* InternLM2's wqkv, wo, w1, w3, w2 */
  assert_ok(pu_safetensors_write(weights, rest, n, NULL, &e), &e);
  pu_safetensors_close(st);
  free(rest);
  shown without = show(*state, dir, o);
  assert_true(far(&without, &written) == 0);
  assert_int_equal(packed_matrices(without.m), 4 * layers);
  hide(&written), hide(&without);
}

static void what_does_not_go_together_is_not_written(void **state) {
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  static const way w = {"", PU_QUANT_GPTQ, 8, true, true};
  char dir[400];
  pu_model *m;
  pu_error e;
  assert_ok(pu_model_load(PU_FIXTURES "/hf-mini/internlm2-tiny", *state, &(pu_model_options){.dtype = PU_F32}, &m, &e),
            &e);
  pu_qmatrix *q = quantise(m, &w, false);
  snprintf(dir, sizeof dir, "%s/unwritten", folder);
  assert_int_equal(pu_model_save_quantised(m, dir, PU_F32, PU_QUANT_AWQ, q, 0, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "4 bits"));
  assert_int_equal(pu_model_save_quantised(m, dir, PU_F32, PU_QUANT_INT8, q, 0, &e), PU_ERR_USAGE);
  size_t some = 0;
  while (!q[some].bits) some++;
  q[some].bits = 4;
  assert_int_equal(pu_model_save_quantised(m, dir, PU_F32, PU_QUANT_GPTQ, q, 0, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "differs"));
  assert_false(pu_path_exists(dir));
  drop_all(q, m->n_params);
  pu_model_free(m);
}

/* ---- what others made ---- */

static void check_shared(const char *name, pu_isa isa) {
  char dir[300], path[400];
  pu_backend *be;
  pu_safetensors *st;
  pu_error e;
  shown got[2] = {0};
  snprintf(dir, sizeof dir, PU_SHARED "/fixtures/hf/%s", name);
  if (!pu_path_is_dir(dir)) {
    print_message("skipped: there is no %s\n", dir);
    return;
  }
  snprintf(path, sizeof path, "%s/expected.safetensors", dir);
  assert_ok(pu_safetensors_open(path, &st, &e), &e);
  const pu_st_tensor *ids = pu_safetensors_find(st, "input_ids"), *logits = pu_safetensors_find(st, "logits");
  shown want = {.logits = (float *)(uintptr_t)logits->data, .n = logits->shape[1] * logits->shape[2]};
  assert_ok(pu_test_open(1, isa, &be, &e), &e);
  for (int i = 0; i < 2; i++) {
    pu_model_options o = {.dtype = i ? PU_BF16 : PU_F32, .tile = true};
    assert_ok(pu_model_load(dir, be, &o, &got[i].m, &e), &e);
    assert_int_equal(packed_matrices(got[i].m), 4 * (size_t)got[i].m->hp.layers);
    run_model(be, got[i].m, ids->data, (int32_t)ids->shape[1], &got[i]);
  }
  print_message("%s %s: f32 %.1e, bf16 with int8 %.1e\n", name, pu_isa_name(isa), far(&got[0], &want),
                far(&got[1], &want));
  assert_true(far(&got[0], &want) < 1e-3);
  assert_true(far(&got[1], &want) < 3e-2);
  for (int i = 0; i < 2; i++) hide(&got[i]);
  be->close(be);
  pu_safetensors_close(st);
}

static void others_checkpoints_give_their_logits(void **state) {
  (void)state;
  for (pu_isa isa = 0; isa <= pu_isa_best(); isa++) {
    check_shared("llama-awq", isa);
    check_shared("llama-gptq", isa);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(values_are_rounded_to_the_nearest),
                                     cmocka_unit_test(checkpoints_come_back_as_they_went),
                                     cmocka_unit_test(models_are_rounded_on_load),
                                     cmocka_unit_test(models_become_int8_on_load),
                                     cmocka_unit_test(int8_files_keep_their_codes),
                                     cmocka_unit_test(gguf_stays_in_few_bits),
                                     cmocka_unit_test(tied_gguf_keeps_its_output),
                                     cmocka_unit_test(tied_output_in_few_bits_is_passed_over),
                                     cmocka_unit_test(weights_are_kept_for_the_next_time),
                                     cmocka_unit_test(damage_is_found),
                                     cmocka_unit_test(older_files_are_read),
                                     cmocka_unit_test(lies_are_refused),
                                     cmocka_unit_test(zeros_are_read_in_both_formats),
                                     cmocka_unit_test(awqs_zeros_may_be_missing),
                                     cmocka_unit_test(what_does_not_go_together_is_not_written),
                                     cmocka_unit_test(others_checkpoints_give_their_logits)};
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
