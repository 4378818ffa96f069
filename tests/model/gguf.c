/* GGUF: blocks give the values that ggml makes of them, bit by bit, and are written as ggml writes them; files read
 * back; lies are refused; models come out of a file as they went in. */
#include "tests/model/families.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/model/gguf.h"

static char folder[] = "/tmp/puyu-gguf-XXXXXX";

static int make_folder(void **state) {
  return mkdtemp(folder) && pu_cpu_open(2, pu_isa_best(), (pu_backend **)state, NULL) == PU_OK ? 0 : -1;
}

static int remove_folder(void **state) {
  pu_error e;
  pu_backend *be = *state;
  be->close(be);
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static const char *in_folder(const char *name) {
  static char path[300];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

/* ---- blocks ---- */

enum { VALUES = 1024 };

static size_t bytes_of(const pu_gguf_type *t) {
  return (size_t)(VALUES / t->block) * t->bytes;
}

/* Random bytes; the scales (and minima) are made finite. */
static void make_blocks(const pu_gguf_type *t, size_t scales_at, size_t scales, uint8_t *out) {
  pu_rng rng;
  pu_rng_seed(&rng, t->id);
  for (size_t i = 0; i < bytes_of(t); i++) out[i] = (uint8_t)(pu_rng_next(&rng) >> 56);
  for (size_t b = 0; b < bytes_of(t); b += t->bytes)
    for (size_t k = 0; k < scales; k++) out[b + scales_at + 2 * k + 1] &= 0xBB;
}

/* What ggml's dequantise functions made of the same bytes: four values and the hash of the bits of all. */
static void blocks_are_read_as_ggml_reads_them(void **state) {
  static const struct {
    const char *name;
    size_t scales_at, scales;
    uint64_t hash;
    float some[4]; /* values 0, 67, 134, 201 */
  } cases[] = {
      {"q4_0", 0, 1, 0x424e68bcae0fafda, {-0x1.1dbp+2f, -0x1.82p-7f, -0x1.00bp+0f, 0x1.56fp+1f}},
      {"q4_1", 0, 2, 0x8d283371aed7fa37, {-0x1.71437p-3f, 0x1.fc733cp+0f, 0x1.ff7c8p-1f, -0x1.7c46p-4f}},
      {"q5_0", 0, 1, 0x9e13d4acd7198605, {0x1.7d4p-1f, -0x1.4388p-1f, 0x1.c74p-2f, -0x1.80c8p-5f}},
      {"q5_1", 0, 2, 0xceffcfe1642a2d33, {-0x1.f4d5d6p-1f, -0x1.5655fp-1f, -0x1.322p-6f, -0x1.f178ap+2f}},
      {"q8_0", 0, 1, 0x8f01e56988cb4fe7, {0x1.5f3fp-2f, 0x1.126ap+1f, 0x1.d38p-6f, -0x1.db74p-2f}},
      {"q4_K", 0, 2, 0x203804db3f86405e, {0x1.ba18p-1f, 0x1.548562p+1f, 0x1.4e126ap+1f, 0x1.b39b7p+1f}},
      {"q5_K", 0, 2, 0x0dcf02e03068e05d, {-0x1.e2f8ap-3f, -0x1.34d3p-4f, -0x1.25a9p-2f, -0x1.528f8p-3f}},
      {"q6_K", 208, 1, 0xbdc33245e28ade33, {0x1.b0948p-2f, -0x1.141p-10f, -0x1.6ea54p-2f, -0x1.1b75p-3f}},
  };
  (void)state;
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    const pu_gguf_type *t = pu_gguf_type_named(cases[i].name);
    static uint8_t bytes[VALUES * 4];
    static float out[VALUES];
    assert_non_null(t);
    make_blocks(t, cases[i].scales_at, cases[i].scales, bytes);
    memset(out, 0xFF, sizeof out);
    pu_gguf_to_f32(t, bytes, VALUES, out);
    for (int k = 0; k < 4; k++)
      if (out[67 * k] != cases[i].some[k])
        fail_msg("%s: value %d is %a, not %a", t->name, 67 * k, (double)out[67 * k], (double)cases[i].some[k]);
    if (pu_hash64(out, sizeof out, 0) != cases[i].hash) fail_msg("%s: some values differ from ggml's", t->name);
  }
}

/* Scales from 2^-20 to 2^11; a block of zeros, one of a single magnitude, one of a single sign, one of ties. */
static void make_values(float *v) {
  pu_rng rng;
  pu_rng_seed(&rng, 7);
  for (int i = 0; i < VALUES; i++) {
    int b = i / 32;
    v[i] = (float)(pu_rng_normal(&rng) * pow(2.0, b - 20));
    if (b == 3) v[i] = 0;
    if (b == 4) v[i] = i % 2 ? -3.0f : 3.0f;
    if (b == 5) v[i] = (float)(i % 32) * -0.5f;
    if (b == 6) v[i] = (float)(i % 32) * 0.5f - 3;
  }
}

static void blocks_are_written_as_ggml_writes_them(void **state) {
  static const struct {
    const char *name;
    uint64_t hash; /* of ggml_quantize_chunk's bytes */
    double worst;  /* relative to a block's largest value: half a step, and the scale's own rounding */
  } cases[] = {{"q4_0", 0xe2dfd703c41cf668, 0.126},
               {"q8_0", 0x056bd14d0339596d, 0.0045},
               {"f16", 0xcb1ebd83b140a585, 0.001},
               {"bf16", 0xbbaf81ba85f733e3, 0.004}};
  static float values[VALUES], again[VALUES];
  static uint8_t bytes[VALUES * 4];
  (void)state;
  make_values(values);
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    const pu_gguf_type *t = pu_gguf_type_named(cases[i].name);
    assert_true(pu_gguf_writable(t));
    memset(bytes, 0xAA, sizeof bytes);
    pu_gguf_from_f32(t, values, VALUES, bytes);
    if (pu_hash64(bytes, bytes_of(t), 0) != cases[i].hash) fail_msg("%s: some bytes differ from ggml's", t->name);
    pu_gguf_to_f32(t, bytes, VALUES, again);
    for (int b = 13; b < VALUES / 32; b++) { /* where f16 holds the scale without losing digits */
      double most = 0, off = 0;
      for (int k = 32 * b; k < 32 * b + 32; k++) {
        most = fmax(most, fabs((double)values[k]));
        off = fmax(off, fabs((double)values[k] - (double)again[k]));
      }
      if (off > cases[i].worst * most) fail_msg("%s: block %d is off by %g of %g", t->name, b, off, most);
    }
  }
  /* What is no number must not leave the range of a nibble. */
  const float odd[32] = {NAN, INFINITY, -INFINITY, 1};
  for (size_t i = 0; i < 2; i++) pu_gguf_from_f32(pu_gguf_type_named(cases[i].name), odd, 32, bytes);
}

static void types_are_known_by_size(void **state) {
  (void)state;
  assert_false(pu_gguf_readable(pu_gguf_type_named("q3_K")));
  assert_false(pu_gguf_writable(pu_gguf_type_named("q4_K")));
  assert_null(pu_gguf_type_named("q4_9"));
  assert_null(pu_gguf_type_of(4)); /* removed from the format */
  for (uint32_t id = 0; id < 64; id++) {
    const pu_gguf_type *t = pu_gguf_type_of(id);
    if (!t) continue;
    assert_int_equal(t->id, id);
    assert_ptr_equal(pu_gguf_type_named(pu_gguf_type_name(t)), t);
    assert_int_equal(PU_GGUF_PIECE % t->block, 0);
  }
}

/* ---- files ---- */

static pu_err count_up(const void *arg, int64_t at, int64_t n, float *out, pu_error *e) {
  (void)arg, (void)e;
  for (int64_t i = 0; i < n; i++) out[i] = (float)(at + i);
  return PU_OK;
}

static void put_some_keys(pu_gguf_keys *k) {
  const pu_str strs[] = {pu_str_c("one"), pu_str_of("t\0wo", 4), pu_str_c("")};
  pu_gguf_keys_init(k);
  pu_gguf_put_str(k, "general.architecture", pu_str_c("none such"));
  pu_gguf_put_u32(k, "a.u32", 4000000000u);
  pu_gguf_put_f32(k, "a.f32", 1e-5f);
  pu_gguf_put_bool(k, "a.bool", true);
  pu_gguf_put_strs(k, "a.strs", strs, 3);
  pu_gguf_put_f32s(k, "a.f32s", (float[]){1.5f, -2}, 2);
  pu_gguf_put_i32s(k, "a.i32s", (int32_t[]){-1, 7}, 2);
  pu_gguf_put_u8s(k, "a.u8s", pu_str_of("\x01\xFF", 2));
}

/* A small file in memory. */
static void small_file(pu_buf *out) {
  const pu_gguf_out tensors[] = {
      {.name = "b", .type = pu_gguf_type_named("f32"), .ndim = 2, .shape = {3, 5}, .read = count_up},
      {.name = "a", .type = pu_gguf_type_named("q8_0"), .ndim = 3, .shape = {2, 3, 64}, .read = count_up},
      {.name = "c", .type = pu_gguf_type_named("f16"), .ndim = 1, .shape = {7}, .read = count_up},
  };
  pu_gguf_keys k;
  pu_error e;
  put_some_keys(&k);
  assert_ok(pu_gguf_write(in_folder("small.gguf"), &k, tensors, PU_COUNT(tensors), &e), &e);
  pu_gguf_keys_deinit(&k);
  pu_buf_init(out, 1 << 20);
  assert_ok(pu_file_read(in_folder("small.gguf"), 1 << 20, out, &e), &e);
}

static void check_small_keys(const pu_gguf *g) {
  pu_str s;
  int64_t i;
  double d;
  size_t at = 0;
  assert_int_equal(pu_gguf_meta_count(g), 8);
  assert_true(pu_gguf_str(pu_gguf_meta_find(g, "general.architecture"), &at, &s));
  assert_true(pu_str_eq(s, pu_str_c("none such")));
  assert_false(pu_gguf_str(pu_gguf_meta_find(g, "general.architecture"), &at, &s));
  assert_true(pu_gguf_int(pu_gguf_meta_find(g, "a.u32"), 0, &i) && i == 4000000000);
  assert_true(pu_gguf_int(pu_gguf_meta_find(g, "a.bool"), 0, &i) && i == 1);
  assert_false(pu_gguf_int(pu_gguf_meta_find(g, "a.f32"), 0, &i));
  assert_true(pu_gguf_num(pu_gguf_meta_find(g, "a.f32"), 0, &d) && d == (double)1e-5f);
  assert_true(pu_gguf_num(pu_gguf_meta_find(g, "a.f32s"), 1, &d) && d == -2);
  assert_false(pu_gguf_num(pu_gguf_meta_find(g, "a.f32s"), 2, &d));
  assert_true(pu_gguf_int(pu_gguf_meta_find(g, "a.i32s"), 0, &i) && i == -1);
  assert_true(pu_gguf_int(pu_gguf_meta_find(g, "a.u8s"), 1, &i) && i == 255);
  assert_false(pu_gguf_int(pu_gguf_meta_find(g, "missing"), 0, &i));
  const pu_gguf_meta *strs = pu_gguf_meta_find(g, "a.strs");
  at = 0;
  assert_true(pu_gguf_str(strs, &at, &s) && pu_str_eq(s, pu_str_c("one")));
  assert_true(pu_gguf_str(strs, &at, &s) && pu_str_eq(s, pu_str_of("t\0wo", 4)));
  assert_true(pu_gguf_str(strs, &at, &s) && s.len == 0);
  assert_false(pu_gguf_str(strs, &at, &s));
}

static void what_is_written_reads_back(void **state) {
  (void)state;
  pu_buf b;
  pu_error e;
  pu_gguf *g;
  float values[384];
  small_file(&b);
  assert_true(pu_gguf_is(in_folder("small.gguf")));
  assert_ok(pu_gguf_open(in_folder("small.gguf"), &g, &e), &e);
  check_small_keys(g);
  assert_int_equal(pu_gguf_count(g), 3);
  assert_string_equal(pu_gguf_at(g, 0)->name, "a");
  assert_null(pu_gguf_at(g, 3));
  assert_null(pu_gguf_find(g, "d"));
  const pu_gguf_tensor *t = pu_gguf_find(g, "b");
  assert_int_equal(t->shape[0], 3);
  assert_int_equal(t->shape[1], 5);
  assert_int_equal(t->bytes, 60);
  memcpy(values, t->data, t->bytes);
  for (int i = 0; i < 15; i++) assert_true(values[i] == (float)i);
  t = pu_gguf_find(g, "a");
  assert_int_equal(t->bytes, 2 * 3 * 2 * 34);
  assert_int_equal((uintptr_t)t->data % 32, 0);
  pu_gguf_to_f32(t->type, t->data, 384, values);
  for (int i = 0; i < 384; i++) assert_true(fabsf(values[i] - (float)i) < 2);
  pu_gguf_close(g);
  /* Version 2 differs from 3 in nothing that is read here. */
  b.data[4] = 2;
  assert_ok(pu_gguf_parse(pu_str_of(b.data, b.len), &g, &e), &e);
  pu_gguf_close(g);
  pu_buf_deinit(&b);
}

/* A copy of exactly that length, so that the sanitiser sees a read beyond it. */
static pu_err parse_copy(const char *bytes, size_t n, pu_error *e) {
  char *copy = malloc(n + !n);
  pu_gguf *g;
  memcpy(copy, bytes, n);
  pu_err err = pu_gguf_parse(pu_str_of(copy, n), &g, e);
  if (err != PU_OK) assert_null(g);
  pu_gguf_close(g);
  free(copy);
  return err;
}

static void cut_files_are_refused(void **state) {
  (void)state;
  pu_buf b;
  pu_error e;
  small_file(&b);
  size_t last = 32 - 14; /* the padding behind the last tensor, which nobody needs */
  for (size_t n = 0; n < b.len - last; n++) {
    e.msg[0] = 0;
    assert_int_not_equal(parse_copy(b.data, n, &e), PU_OK);
    assert_true(strlen(e.msg) > 10);
  }
  assert_ok(parse_copy(b.data, b.len - last, &e), &e);
  pu_buf_deinit(&b);
}

/* `find` in the file's bytes is followed, `skip` bytes on, by `n` bytes that become those of `with`. */
static void lies_are_refused(void **state) {
  static const struct {
    const char *find;
    size_t find_n, skip, n;
    const char *with;
    const char *says;
  } cases[] = {
      {"GGUF", 4, 0, 4, "GGML", "does not begin with \"GGUF\""},
      {"GGUF", 4, 4, 4, "\1\0\0\0", "version 1 of GGUF is not read"},
      {"GGUF", 4, 4, 4, "\0\0\0\3", "big-endian"},
      {"GGUF", 4, 8, 8, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", "tensors, more than it can hold"},
      {"GGUF", 4, 16, 8, "\0\0\0\0\1\0\0\0", "keys, more than it can hold"},
      {"a.u32", 5, 5, 4, "\15\0\0\0", "unknown kind 13"},
      {"a.u32", 5, 0, 5, "a.f32", "'a.f32' is there twice"},
      {"a.u32", 5, 2, 1, "\0", "holds a NUL"},
      {"a.strs", 6, 10, 4, "\11\0\0\0", "array of arrays"},
      {"a.strs", 6, 14, 8, "\0\0\0\0\0\0\0\1", "values, more than"},
      {"a.strs", 6, 14, 8, "\xFF\xFF\0\0\0\0\0\0", "above the limit"},
      {"a.f32s", 6, 14, 8, "\xFF\xFF\xFF\0\0\0\0\0", "truncated"},
      {"\1\0\0\0\0\0\0\0b", 9, 9, 4, "\5\0\0\0", "5 dimensions"},
      {"\1\0\0\0\0\0\0\0b", 9, 13, 8, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F", "overflows"},
      {"\1\0\0\0\0\0\0\0b", 9, 29, 4, "\4\0\0\0", "type 4, which is not known"},
      {"\1\0\0\0\0\0\0\0b", 9, 29, 4, "\2\0\0\0", "rows of 5 values, not a multiple of the 32"},
      {"\1\0\0\0\0\0\0\0b", 9, 33, 8, "\40\0\0\0\0\0\0\0", "begins at byte 32"},
      {"\1\0\0\0\0\0\0\0c", 9, 8, 1, "b", "'b' is there twice"},
      {"\1\0\0\0\0\0\0\0c", 9, 13, 8, "\0\1\0\0\0\0\0\0", "truncated or lies"},
  };
  (void)state;
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_buf b;
    pu_error e;
    small_file(&b);
    char *at = memmem(b.data, b.len, cases[i].find, cases[i].find_n);
    assert_non_null(at);
    memcpy(at + cases[i].skip, cases[i].with, cases[i].n);
    e.msg[0] = 0;
    assert_int_not_equal(parse_copy(b.data, b.len, &e), PU_OK);
    if (!strstr(e.msg, cases[i].says)) fail_msg("case %zu: \"%s\" does not say \"%s\"", i, e.msg, cases[i].says);
    pu_buf_deinit(&b);
  }
}

static void alignment_is_the_files_own(void **state) {
  static const struct {
    uint32_t value;
    bool good;
  } cases[] = {{32, true}, {16, true}, {64, false}, {0, false}, {48, false}, {1 << 20, false}};
  (void)state;
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    const pu_gguf_out t = {.name = "t", .type = pu_gguf_type_named("f32"), .ndim = 1, .shape = {1}, .read = count_up};
    pu_gguf_keys k;
    pu_gguf *g;
    pu_error e;
    pu_gguf_keys_init(&k);
    pu_gguf_put_u32(&k, "general.alignment", cases[i].value);
    assert_ok(pu_gguf_write(in_folder("align.gguf"), &k, &t, 1, &e), &e);
    pu_gguf_keys_deinit(&k);
    assert_int_equal(pu_gguf_open(in_folder("align.gguf"), &g, &e) == PU_OK, cases[i].good);
    pu_gguf_close(g);
  }
}

/* ---- models ---- */

static pu_model *load(const char *path, pu_backend *be) {
  pu_error e;
  pu_model *m;
  assert_ok(pu_model_load(path, be, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
  return m;
}

static void same_models(const pu_model *a, const pu_model *b) {
  assert_string_equal(a->arch->name, b->arch->name);
  assert_int_equal(a->n_params, b->n_params);
  assert_memory_equal(&a->hp.rope, &b->hp.rope, sizeof a->hp.rope);
  assert_true(a->hp.norm_eps == b->hp.norm_eps && a->hp.max_position == b->hp.max_position);
  assert_true(a->hp.bos == b->hp.bos && a->hp.n_eos == b->hp.n_eos && a->hp.eos[0] == b->hp.eos[0]);
  for (size_t i = 0; i < a->n_params; i++) {
    assert_string_equal(a->params[i].name, b->params[i].name);
    assert_memory_equal(a->params[i].w->data, b->params[i].w->data, pu_tensor_bytes(a->params[i].w));
  }
}

/* In f32 nothing is lost; the directory made from the file is the same model too. */
static void models_come_out_as_they_went_in(void **state) {
  for (size_t i = 0; i < PU_COUNT(families); i++) {
    char from[300];
    pu_error e;
    snprintf(from, sizeof from, PU_FIXTURES "/hf-mini/%s", families[i]);
    pu_model *m = load(from, *state);
    pu_err err = pu_model_save_gguf(m, in_folder("m.gguf"), pu_gguf_type_named("f32"), NULL, NULL, &e);
    if (err == PU_ERR_UNSUPPORTED) {
      assert_non_null(strstr(e.msg, "GGUF has no architecture for the family"));
      print_message("skipped: %s\n", e.msg);
      pu_model_free(m);
      continue;
    }
    assert_ok(err, &e);
    pu_model *again = load(in_folder("m.gguf"), *state);
    same_models(m, again);
    assert_ok(pu_model_save(again, in_folder("m"), PU_F32, 0, &e), &e);
    pu_model *third = load(in_folder("m"), *state);
    same_models(m, third);
    pu_model_free(third);
    pu_model_free(again);
    pu_model_free(m);
  }
}

/* llama.cpp's keys, whose factor of attention is to be multiplied with the paper's own. */
static void yarn_comes_out_as_it_went_in(void **state) {
  pu_error e;
  pu_gguf *g;
  pu_model *m = load(PU_FIXTURES "/hf-mini/llama3-tiny", *state);
  for (int exact = 0; exact < 2; exact++) {
    m->hp.rope = (pu_rope_params){.kind = PU_ROPE_YARN,
                                  .base = 1e6,
                                  .factor = 4,
                                  .original_max = 77,
                                  .beta_fast = exact ? 32 : 20,
                                  .beta_slow = exact ? 1 : 2,
                                  .attention_factor = exact ? 1.138629436111989 : 1.5,
                                  .exact_range = exact};
    assert_ok(pu_model_save_gguf(m, in_folder("yarn.gguf"), pu_gguf_type_named("f32"), NULL, NULL, &e), &e);
    assert_ok(pu_gguf_open(in_folder("yarn.gguf"), &g, &e), &e);
    assert_non_null(pu_gguf_meta_find(g, "llama.rope.scaling.attn_factor"));
    assert_non_null(pu_gguf_meta_find(g, "llama.rope.scaling.original_context_length"));
    assert_null(pu_gguf_find(g, "rope_freqs.weight"));
    pu_gguf_close(g);
    pu_model *again = load(in_folder("yarn.gguf"), *state);
    assert_float_equal(again->hp.rope.attention_factor, m->hp.rope.attention_factor, 1e-6);
    again->hp.rope.attention_factor = m->hp.rope.attention_factor;
    same_models(m, again);
    pu_model_free(again);
  }
  pu_model_free(m);
}

/* llama.cpp's converter: rows of a head [2][D/2] become [D/2][2] in Llama-like architectures, and stay in Qwen's. */
static void rows_of_heads_lie_as_llama_cpp_wants_them(void **state) {
  static const struct {
    const char *fixture;
    bool pairs;
  } cases[] = {{"llama3-tiny", true}, {"qwen3-tiny", false}};
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    char from[300];
    pu_error e;
    pu_gguf *g;
    snprintf(from, sizeof from, PU_FIXTURES "/hf-mini/%s", cases[i].fixture);
    pu_model *m = load(from, *state);
    const pu_hparams *hp = &m->hp;
    assert_ok(pu_model_save_gguf(m, in_folder("rows.gguf"), pu_gguf_type_named("f32"), NULL, NULL, &e), &e);
    assert_ok(pu_gguf_open(in_folder("rows.gguf"), &g, &e), &e);
    for (int part = 0; part < 2; part++) { /* q, k */
      const float *file = pu_gguf_find(g, part ? "blk.1.attn_k.weight" : "blk.1.attn_q.weight")->data;
      const float *mem = (const float *)m->layers[1].slot[PU_SLOT_QKV]->data;
      int64_t D = hp->head_dim, heads = part ? hp->kv_heads : hp->heads, first = part ? hp->heads * D : 0;
      for (int64_t r = 0; r < heads * D; r++) {
        int64_t head = r / D, in = r % D, from_row = cases[i].pairs ? head * D + in % 2 * (D / 2) + in / 2 : r;
        assert_memory_equal(file + r * hp->hidden, mem + (first + from_row) * hp->hidden,
                            (size_t)hp->hidden * sizeof *file);
      }
    }
    pu_gguf_close(g);
    pu_model_free(m);
  }
}

static double distance(const pu_model *a, const pu_model *b) {
  double off = 0, all = 0;
  for (size_t i = 0; i < a->n_params; i++) {
    const float *x = a->params[i].w->data, *y = b->params[i].w->data;
    for (int64_t k = 0; k < pu_tensor_count(a->params[i].w); k++) {
      off += ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
      all += (double)x[k] * (double)x[k];
    }
  }
  return sqrt(off / all);
}

/* Quantised: near, and not the same; rows that blocks do not fit, vectors and routers stay out of it. */
static void quantised_models_are_near(void **state) {
  static const struct {
    const char *type;
    double least, most;
  } cases[] = {{"f16", 1e-6, 5e-4}, {"bf16", 1e-5, 4e-3}, {"q8_0", 1e-4, 8e-3}, {"q4_0", 1e-2, 0.12}};
  static const char *const models[] = {"internlm2-d128", "mixtral-tiny"};
  for (size_t i = 0; i < PU_COUNT(cases) * PU_COUNT(models); i++) {
    char from[300];
    pu_error e;
    pu_gguf *g;
    const char *type = cases[i / 2].type;
    snprintf(from, sizeof from, PU_FIXTURES "/hf-mini/%s", models[i % 2]);
    pu_model *m = load(from, *state);
    assert_ok(pu_model_save_gguf(m, in_folder("q.gguf"), pu_gguf_type_named(type), NULL, NULL, &e), &e);
    pu_model *again = load(in_folder("q.gguf"), *state);
    double d = distance(m, again);
    if (d < cases[i / 2].least || d > cases[i / 2].most) fail_msg("%s %s: %g away", models[i % 2], type, d);
    assert_ok(pu_gguf_open(in_folder("q.gguf"), &g, &e), &e);
    assert_string_equal(pu_gguf_type_name(pu_gguf_find(g, "output_norm.weight")->type), "f32");
    if (i % 2) assert_string_equal(pu_gguf_type_name(pu_gguf_find(g, "blk.0.ffn_gate_inp.weight")->type), "f32");
    if (i % 2 && i / 2 >= 2) /* rows of 48 */
      assert_string_equal(pu_gguf_type_name(pu_gguf_find(g, "blk.0.ffn_down_exps.weight")->type), "f16");
    if (strcmp(type, "q4_0") == 0) {
      assert_string_equal(pu_gguf_type_name(pu_gguf_find(g, "output.weight")->type), "q8_0");
      assert_string_equal(pu_gguf_type_name(pu_gguf_find(g, "blk.0.attn_q.weight")->type), "q4_0");
    }
    pu_gguf_close(g);
    pu_model_free(again);
    pu_model_free(m);
  }
  pu_error e;
  pu_model *m = load(PU_FIXTURES "/hf-mini/llama3-tiny", *state);
  assert_int_equal(pu_model_save_gguf(m, in_folder("no.gguf"), pu_gguf_type_named("q6_K"), NULL, NULL, &e),
                   PU_ERR_USAGE);
  pu_model_free(m);
}

/* ---- files that others might have written ---- */

static void copy_keys(const pu_gguf *g, pu_gguf_keys *k) {
  pu_gguf_keys_init(k);
  for (size_t i = 0; i < pu_gguf_meta_count(g); i++) {
    const pu_gguf_meta *m = pu_gguf_meta_at(g, i);
    int64_t whole = 0;
    double v = 0;
    if (m->kind == PU_GGUF_STR)
      pu_gguf_put_str(k, m->key, m->bytes);
    else if (pu_gguf_int(m, 0, &whole))
      pu_gguf_put_u32(k, m->key, (uint32_t)whole);
    else if (pu_gguf_num(m, 0, &v))
      pu_gguf_put_f32(k, m->key, (float)v);
  }
}

/* A tensor of a file of f32, or a part of one. */
typedef struct piece {
  const float *from;
  char name[64];
} piece;

static pu_err read_piece(const void *arg, int64_t at, int64_t n, float *out, pu_error *e) {
  const piece *p = arg;
  (void)e;
  memcpy(out, p->from + at, (size_t)n * sizeof *out);
  return PU_OK;
}

/* Writes g again as `to`, with each tensor of experts as many; the tensor `name`, if not NULL, of type `type`. */
static void write_otherwise(const pu_gguf *g, const char *to, const char *name, const char *type) {
  static piece pieces[200];
  static pu_gguf_out tensors[200];
  size_t n = 0;
  pu_gguf_keys k;
  pu_error e;
  copy_keys(g, &k);
  for (size_t i = 0; i < pu_gguf_count(g); i++) {
    const pu_gguf_tensor *t = pu_gguf_at(g, i);
    int64_t parts = t->ndim == 3 ? t->shape[0] : 1;
    for (int64_t x = 0; x < parts; x++, n++) {
      piece *p = &pieces[n];
      p->from = (const float *)t->data + (parts > 1 ? x * t->shape[1] * t->shape[2] : 0);
      if (parts > 1) /* blk.0.ffn_gate_exps.weight: blk.0.ffn_gate.3.weight */
        snprintf(p->name, sizeof p->name, "%.*s.%d.weight", (int)(strstr(t->name, "_exps") - t->name), t->name, (int)x);
      else
        snprintf(p->name, sizeof p->name, "%s", t->name);
      bool chosen = name && strcmp(name, t->name) == 0;
      tensors[n] = (pu_gguf_out){.name = p->name,
                                 .type = pu_gguf_type_named(chosen ? type : "f32"),
                                 .ndim = parts > 1 ? 2 : t->ndim,
                                 .read = read_piece,
                                 .arg = p};
      memcpy(tensors[n].shape, t->shape + (parts > 1), sizeof tensors[n].shape - (parts > 1 ? sizeof *t->shape : 0));
    }
  }
  assert_ok(pu_gguf_write(to, &k, tensors, n, &e), &e);
  pu_gguf_keys_deinit(&k);
}

static void experts_may_stand_one_by_one(void **state) {
  pu_error e;
  pu_gguf *g;
  char other[300];
  pu_model *m = load(PU_FIXTURES "/hf-mini/mixtral-tiny", *state);
  assert_ok(pu_model_save_gguf(m, in_folder("all.gguf"), pu_gguf_type_named("f32"), NULL, NULL, &e), &e);
  assert_ok(pu_gguf_open(in_folder("all.gguf"), &g, &e), &e);
  snprintf(other, sizeof other, "%s", in_folder("each.gguf"));
  write_otherwise(g, other, NULL, NULL);
  pu_gguf_close(g);
  pu_model *again = load(other, *state);
  same_models(m, again);
  pu_model_free(again);
  pu_model_free(m);
}

/* The rows of such a vector cannot be put into another order. */
static void blocks_across_rows_are_refused(void **state) {
  pu_error e;
  pu_gguf *g;
  char other[300];
  pu_model *m = load(PU_FIXTURES "/hf-mini/internlm1-tiny", *state);
  assert_ok(pu_model_save_gguf(m, in_folder("all.gguf"), pu_gguf_type_named("f32"), NULL, NULL, &e), &e);
  pu_model_free(m);
  assert_ok(pu_gguf_open(in_folder("all.gguf"), &g, &e), &e);
  snprintf(other, sizeof other, "%s", in_folder("bias.gguf"));
  write_otherwise(g, other, "blk.0.attn_v.bias", "q8_0"); /* whole: its blocks are rows of their own */
  assert_ok(pu_model_load(other, *state, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
  pu_model_free(m);
  write_otherwise(g, other, "blk.0.attn_q.bias", "q8_0");
  assert_int_equal(pu_model_load(other, *state, &(pu_model_options){.dtype = PU_F32}, &m, &e), PU_ERR_UNSUPPORTED);
  assert_non_null(strstr(e.msg, "tensor 'blk.0.attn_q.bias' of type q8_0 cannot be reordered"));
  pu_gguf_close(g);
}

/* What can be read and is no model, or one that puyu lacks. */
static void other_files_are_told_why(void **state) {
  static const struct {
    const char *arch;
    const char *key;
    uint32_t value;
    const char *says;
  } cases[] = {
      {NULL, "x", 1, "'general.architecture' is missing"},
      {"mamba", "x", 1, "architecture 'mamba' is not one"},
      {"llama", "split.count", 3, "one of 3 parts"},
      {"llama", "x", 1, "'token_embd.weight' is missing"},
  };
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_gguf_keys k;
    pu_model *m;
    pu_error e;
    pu_gguf_keys_init(&k);
    if (cases[i].arch) pu_gguf_put_str(&k, "general.architecture", pu_str_c(cases[i].arch));
    pu_gguf_put_u32(&k, cases[i].key, cases[i].value);
    assert_ok(pu_gguf_write(in_folder("other.gguf"), &k, NULL, 0, &e), &e);
    pu_gguf_keys_deinit(&k);
    assert_int_not_equal(pu_model_load(in_folder("other.gguf"), *state, &(pu_model_options){.dtype = PU_F32}, &m, &e),
                         PU_OK);
    if (!strstr(e.msg, cases[i].says)) fail_msg("\"%s\" does not say \"%s\"", e.msg, cases[i].says);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(blocks_are_read_as_ggml_reads_them),
      cmocka_unit_test(blocks_are_written_as_ggml_writes_them),
      cmocka_unit_test(types_are_known_by_size),
      cmocka_unit_test(what_is_written_reads_back),
      cmocka_unit_test(cut_files_are_refused),
      cmocka_unit_test(lies_are_refused),
      cmocka_unit_test(alignment_is_the_files_own),
      cmocka_unit_test(models_come_out_as_they_went_in),
      cmocka_unit_test(yarn_comes_out_as_it_went_in),
      cmocka_unit_test(rows_of_heads_lie_as_llama_cpp_wants_them),
      cmocka_unit_test(quantised_models_are_near),
      cmocka_unit_test(experts_may_stand_one_by_one),
      cmocka_unit_test(blocks_across_rows_are_refused),
      cmocka_unit_test(other_files_are_told_why),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
