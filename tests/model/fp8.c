/* Directories whose matrices are in FP8: each layout gives the values that the test's own decoder has, and the logits
 * of a model with those values written out, to the bit, in every family; what else is done with them; what is refused.
 */
#include "tests/fp8.h"
#include "tests/device.h"
#include "tests/model/families.h"
#include "tests/model/shown.h"
#include "tests/test.h"

#include <unistd.h>

static char folder[] = "/tmp/puyu-fp8-XXXXXX";

/* Codes are kept where a test asks for it. */
static int make_folder(void **state) {
  pu_backend *be;
  if (!mkdtemp(folder) || pu_test_open(2, pu_isa_best(), &be, NULL) != PU_OK) return -1;
  be->fp8_files = false;
  *state = be;
  return 0;
}

static int remove_folder(void **state) {
  pu_error e;
  pu_backend *be = *state;
  be->close(be);
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

/* compressed-tensors as llm-compressor writes it. */
#define CT(weights)                                                                                                    \
  "{\"quant_method\": \"compressed-tensors\", \"format\": \"float-quantized\", \"quantization_status\": "              \
  "\"compressed\", \"ignore\": [\"lm_head\"], \"kv_cache_scheme\": null, \"config_groups\": {\"group_0\": "            \
  "{\"targets\": [\"Linear\"], \"output_activations\": null, \"input_activations\": {\"num_bits\": 8, \"type\": "      \
  "\"float\", \"strategy\": \"token\", \"dynamic\": true}, \"weights\": {" weights "}}}}"
#define CT_FLOAT "\"num_bits\": 8, \"type\": \"float\", \"symmetric\": true, \"dynamic\": false, "
#define BLOCKS                                                                                                         \
  "{\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", \"quant_method\": \"fp8\", \"weight_block_size\": "

static const fp8_layout layouts[] = {
    /* DeepSeek-V3, with blocks that do not divide, and Qwen3-8B-FP8, in which scales are bf16 */
    {"blocks", BLOCKS "[24, 40]}", "weight_scale_inv", 24, 40, 2, false, NULL, false},
    {"blocks-bf16", BLOCKS "[128, 128]}", "weight_scale_inv", 128, 128, 2, true, NULL, false},
    {"blocks-odd", BLOCKS "[5, 7]}", "weight_scale_inv", 5, 7, 2, false, NULL, true},
    /* AutoFP8: Meta-Llama-3-8B-Instruct-FP8 of neuralmagic */
    {"tensor", "{\"quant_method\": \"fp8\", \"activation_scheme\": \"static\", \"ignored_layers\": [\"lm_head\"]}",
     "weight_scale", 0, 0, 0, false, "input_scale", false},
    {"tensor-1", "{\"quant_method\": \"fp8\", \"activation_scheme\": \"dynamic\"}", "weight_scale", 0, 0, 1, true, NULL,
     false},
    /* Mistral: Devstral-Small-2-24B-Instruct-2512 */
    {"mistral",
     "{\"activation_scheme\": \"static\", \"dequantize\": false, \"modules_to_not_convert\": [\"lm_head\"], "
     "\"quant_method\": \"fp8\", \"weight_block_size\": null}",
     "weight_scale_inv", 0, 0, 0, true, "activation_scale", false},
    {"row", "{\"quant_method\": \"fp8\"}", "weight_scale", 1, 0, 2, false, NULL, false},
    {"row-1", "{\"quant_method\": \"fp8\"}", "weight_scale", 1, 0, 1, true, NULL, true},
    /* RedHatAI's ...-FP8, ...-FP8-dynamic, ...-FP8-block */
    {"ct-tensor", CT(CT_FLOAT "\"strategy\": \"tensor\", \"group_size\": null, \"block_structure\": null"),
     "weight_scale", 0, 0, 1, true, "input_scale", false},
    {"ct-channel", CT(CT_FLOAT "\"strategy\": \"channel\""), "weight_scale", 1, 0, 2, true, NULL, false},
    {"ct-block", CT(CT_FLOAT "\"strategy\": \"block\", \"block_structure\": [24, 40]"), "weight_scale", 24, 40, 2, true,
     NULL, false}};

static const fp8_layout *layout_named(const char *name) {
  size_t i = 0;
  while (strcmp(layouts[i].name, name) != 0) i++;
  return &layouts[i];
}

static void check_same(const shown *a, const shown *b, const char *dir, const char *how) {
  assert_int_equal(a->n, b->n);
  for (int64_t i = 0; i < a->n; i++) assert_true(isfinite(b->logits[i]));
  if (memcmp(a->logits, b->logits, (size_t)a->n * sizeof *a->logits) != 0)
    fail_msg("%s: logits differ %s, by %g", dir, how, far(a, b));
}

static void check_logits(pu_backend *be, const char *dir, const char *plain, pu_model_options o, const char *how) {
  shown a = show(be, dir, o), b = show(be, plain, o);
  check_same(&a, &b, dir, how);
  hide(&a), hide(&b);
}

static void check_layout(pu_backend *be, const char *family, const fp8_layout *l) {
  char from[300], dir[400], plain[400];
  pu_error e;
  snprintf(from, sizeof from, PU_FIXTURES "/hf-mini/%s", family);
  snprintf(dir, sizeof dir, "%s/%s-%s", folder, family, l->name);
  snprintf(plain, sizeof plain, "%s/%s-%s-plain", folder, family, l->name);
  fp8_write(from, l, dir, plain);
  assert_ok(pu_model_check(dir, &e), &e);
  check_logits(be, dir, plain, (pu_model_options){.dtype = PU_F32}, "in f32");
  check_logits(be, dir, plain, (pu_model_options){.dtype = PU_BF16}, "in bf16");
  check_logits(be, dir, plain, (pu_model_options){.dtype = PU_BF16, .tile = true}, "in bf16, laid out for inference");
}

static void every_layout_gives_its_values(void **state) {
  for (size_t i = 0; i < PU_COUNT(families); i++)
    for (size_t w = 0; w < PU_COUNT(layouts); w++) check_layout(*state, families[i], &layouts[w]);
}

/* What a command makes of the files where nothing is said, and the other kinds of weights: rounded anew. */
static void values_are_rounded_as_any(void **state) {
  static const pu_quant quants[] = {PU_QUANT_FILE, PU_QUANT_NONE, PU_QUANT_Q8, PU_QUANT_Q4, PU_QUANT_FP8, PU_QUANT_I8};
  char dir[400], plain[400];
  pu_error e;
  pu_log_set_level(PU_LOG_ERROR); /* that products in FP8 are simulated */
  for (int i = 0; i < 2; i++) {
    snprintf(dir, sizeof dir, "%s/rounded-%d", folder, i);
    snprintf(plain, sizeof plain, "%s/rounded-%d-plain", folder, i);
    fp8_write(i ? PU_FIXTURES "/hf-mini/mixtral-tiny" : PU_FIXTURES "/hf-mini/internlm2-d128",
              layout_named(i ? "ct-channel" : "blocks"), dir, plain);
    for (size_t q = 0; q < PU_COUNT(quants); q++) {
      if ((quants[q] == PU_QUANT_FP8 && !pu_test_fp8()) || (quants[q] == PU_QUANT_I8 && !pu_test_tiles())) continue;
      if (quants[q] == PU_QUANT_FP8 && i) continue; /* a scale a row is kept */
      pu_model_options o = {.dtype = PU_BF16, .tile = true, .quant = quants[q]};
      size_t bytes, as_plain;
      check_logits(*state, dir, plain, o, pu_quant_name(quants[q]));
      assert_ok(pu_model_load_bytes(dir, &o, &bytes, &e), &e);
      assert_ok(pu_model_load_bytes(plain, &o, &as_plain, &e), &e);
      assert_int_equal(bytes, as_plain);
    }
    pu_dtype widest;
    bool f32;
    assert_ok(pu_model_widest(dir, false, &widest, &e), &e);
    assert_int_equal(widest, PU_BF16);
    assert_ok(pu_model_mostly_f32(dir, &f32, &e), &e);
    assert_false(f32);
  }
}

/* More values than are decoded at once, on several threads; every code is among them. */
static void large_matrices_come_in_pieces(void **state) {
  const fp8_layout *l = layout_named("blocks-odd");
  char from[400], dir[400], plain[400];
  pu_hparams hp = {0};
  const pu_arch *arch;
  pu_backend *be;
  pu_model *m;
  pu_error e;
  (void)state;
  if (pu_test_elsewhere()) skip(); /* it reads and writes weights where they lie */
  snprintf(from, sizeof from, "%s/large-from", folder);
  snprintf(dir, sizeof dir, "%s/large", folder);
  snprintf(plain, sizeof plain, "%s/large-plain", folder);
  assert_ok(pu_model_describe(PU_FIXTURES "/hf-mini/llama3-tiny", &arch, &hp, &e), &e);
  hp.vocab = 9001; /* 288,032 values of the output matrix */
  assert_ok(pu_cpu_open(4, pu_isa_best(), &be, &e), &e);
  assert_ok(pu_model_random(arch, &hp, 1, be, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
  assert_ok(pu_model_save(m, from, PU_F32, 0, &e), &e);
  pu_model_free(m);
  fp8_write(from, l, dir, plain);
  shown a = show(be, dir, (pu_model_options){.dtype = PU_F32});
  shown b = show(be, plain, (pu_model_options){.dtype = PU_F32});
  assert_int_equal(a.m->n_params, b.m->n_params);
  for (size_t i = 0; i < a.m->n_params; i++)
    assert_memory_equal(a.m->params[i].w->data, b.m->params[i].w->data, pu_tensor_bytes(b.m->params[i].w));
  check_same(&a, &b, dir, "in f32");
  hide(&a), hide(&b);
  be->close(be);
}

/* ---- codes that are kept ---- */

/* A model of these sizes, in FP8 and plainly; of internlm2's groups of q, k and v in one tensor, or of llama's three.
 */
static void write_sized(pu_backend *be, const char *family, const pu_hparams *like, const fp8_layout *l, char *dir,
                        char *plain) {
  char from[400], fixture[300];
  pu_hparams hp;
  const pu_arch *arch;
  pu_model *m;
  pu_error e;
  snprintf(fixture, sizeof fixture, PU_FIXTURES "/hf-mini/%s", family);
  snprintf(from, sizeof from, "%s/sized-from", folder);
  snprintf(dir, 400, "%s/sized-%s-%s-%lld", folder, family, l->name, (long long)like->kv_heads);
  snprintf(plain, 400, "%s/sized-plain", folder);
  assert_ok(pu_model_describe(fixture, &arch, &hp, &e), &e);
  hp.hidden = like->hidden, hp.ffn = like->ffn, hp.heads = like->heads, hp.kv_heads = like->kv_heads;
  hp.head_dim = like->head_dim;
  assert_ok(pu_model_random(arch, &hp, 1, be, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
  assert_ok(pu_model_save(m, from, PU_F32, 0, &e), &e);
  pu_model_free(m);
  fp8_write(from, l, dir, plain);
}

/* Every value of a matrix kept in FP8: its code times its scale, as the other model has it plainly; whatever of an
 * unfit size lies beside it is not. Returns how many matrices have a scale a block, or a row. */
static int check_kept(const pu_model *kept, const pu_model *plain, int group) {
  int n = 0;
  for (size_t i = 0; i < kept->n_params; i++) {
    const pu_tensor *w = kept->params[i].w, *want = plain->params[i].w;
    if (w->layout != PU_LAYOUT_FP8 || w->packing.group != group) continue;
    int64_t rows = w->shape[0], cols = w->shape[1], across = (cols + 127) / 128;
    uint8_t *codes = malloc(pu_weight_bytes(w));
    float *values = pu_test_download(plain->be, want);
    const float *scale = (const float *)(codes + pu_fp8_codes_bytes(rows, cols));
    pu_error e;
    assert_ok(kept->be->download(kept->be, codes, w->data, pu_weight_bytes(w), &e), &e);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t k = 0; k < cols; k++) {
        float v = fp8_value(codes[r * cols + k]) * scale[group ? r / 128 * across + k / 128 : r];
        if (v != values[r * cols + k])
          fail_msg("%s: row %lld, column %lld is %g, not %g", kept->params[i].name, (long long)r, (long long)k,
                   (double)v, (double)values[r * cols + k]);
      }
    free(codes);
    free(values);
    n++;
  }
  return n;
}

typedef struct kept_case {
  const char *family, *layout;
  const pu_hparams *hp;
  int blocks, rows; /* matrices of a layer that are kept so */
} kept_case;

/* Where nothing is said: as the backend says of itself, and of what is computed in bf16. */
static void check_default(pu_backend *be, const char *dir, const kept_case *t, const pu_model *values) {
  const pu_model_options o = {.dtype = PU_BF16, .tile = true}, wide = {.dtype = PU_F32, .tile = true};
  int layers = (int)values->hp.layers;
  size_t bytes[2];
  pu_error e;
  for (int as_file = 0; as_file < 2; as_file++) {
    be->fp8_files = as_file;
    const pu_model_options on = pu_model_options_on(be, &o);
    assert_ok(pu_model_load_bytes(dir, &on, &bytes[as_file], &e), &e);
    shown in_bf16 = show(be, dir, o), in_f32 = show(be, dir, wide);
    assert_int_equal(check_kept(in_bf16.m, values, PU_FP8_BLOCK), as_file ? t->blocks * layers : 0);
    assert_int_equal(check_kept(in_bf16.m, values, 0), as_file ? t->rows * layers : 0);
    assert_int_equal(check_kept(in_f32.m, values, PU_FP8_BLOCK) + check_kept(in_f32.m, values, 0), 0);
    hide(&in_bf16), hide(&in_f32);
  }
  be->fp8_files = false;
  assert_true(t->blocks + t->rows ? bytes[1] < bytes[0] : bytes[1] == bytes[0]);
}

/* hidden is no multiple of 128, so that blocks at the ends are not whole. Logits differ from those of the values by
 * what inputs, and matrices that are not kept, are rounded. */
static void codes_are_kept(void **state) {
  static const pu_hparams fits = {.hidden = 208, .ffn = 384, .heads = 4, .kv_heads = 2, .head_dim = 64};
  static const pu_hparams grouped = {.hidden = 208, .ffn = 384, .heads = 4, .kv_heads = 2, .head_dim = 128};
  static const pu_hparams apart = {.hidden = 208, .ffn = 400, .heads = 4, .kv_heads = 1, .head_dim = 64};
  static const pu_hparams narrow = {.hidden = 200, .ffn = 384, .heads = 4, .kv_heads = 2, .head_dim = 64};
  static const kept_case cases[] = {
      {"llama3-tiny", "blocks-bf16", &fits, 4, 0},    {"internlm2-tiny", "blocks-bf16", &grouped, 4, 0},
      {"llama3-tiny", "blocks-bf16", &apart, 2, 0},   {"llama3-tiny", "blocks-bf16", &narrow, 0, 0},
      {"internlm2-tiny", "blocks-bf16", &fits, 3, 0}, {"llama3-tiny", "blocks", &fits, 0, 0},
      {"llama3-tiny", "tensor", &apart, 0, 4},        {"internlm2-tiny", "row-1", &fits, 0, 4},
      {"llama3-tiny", "ct-channel", &narrow, 0, 0},   {"mixtral-tiny", "blocks-bf16", &fits, 2, 0},
      {"mixtral-tiny", "mistral", &fits, 0, 2}};
  char dir[400], plain[400];
  pu_backend *cpu;
  pu_error e;
  if (!pu_test_fp8()) skip();
  assert_ok(pu_cpu_open(2, pu_isa_best(), &cpu, &e), &e);
  pu_log_set_level(PU_LOG_ERROR); /* that products in FP8 are simulated */
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    const kept_case *t = &cases[i];
    write_sized(cpu, t->family, t->hp, layout_named(t->layout), dir, plain);
    shown kept = show(*state, dir, (pu_model_options){.dtype = PU_BF16, .tile = true, .quant = PU_QUANT_FP8});
    shown values = show(*state, plain, (pu_model_options){.dtype = PU_F32});
    int layers = (int)values.m->hp.layers;
    assert_int_equal(check_kept(kept.m, values.m, PU_FP8_BLOCK), t->blocks * layers);
    if (t->rows) assert_int_equal(check_kept(kept.m, values.m, 0), t->rows * layers);
    double off = far(&kept, &values);
    if (!(off < 0.08) || off < 1e-4) fail_msg("case %zu: logits differ by %g", i, off);
    check_default(*state, dir, t, values.m);
    hide(&kept), hide(&values);
  }
  cpu->close(cpu);
}

/* ---- what is refused, and what is NaN ---- */

typedef struct edit {
  const char *layout;
  bool config; /* config.json, else the header of model.safetensors, in which lengths must not change */
  const char *from, *to, *says;
} edit;

#define WO "model.layers.0.attention.wo."

static const edit edits[] = {
    {"blocks", true, "[24, 40]", "[24, 0]", "'weight_block_size' should be the rows and the columns of a block"},
    {"blocks", true, "[24, 40]", "[-24, 40]", "'weight_block_size' should be"},
    {"blocks", true, "[24, 40]", "[24]", "'weight_block_size' should be"},
    {"blocks", true, "[24, 40]", "[24, 40, 1]", "'weight_block_size' should be"},
    {"blocks", true, "[24, 40]", "[24, 40.5]", "'weight_block_size' should be"},
    {"blocks", true, "[24, 40]", "[24, 4294967320]", "'weight_block_size' should be"},
    {"blocks", true, "[24, 40]", "24", "'weight_block_size' should be"},
    {"blocks", true, "[24, 40]", "[16, 16]", "should be floats [2, 2], one for each block of 16 x 16"},
    {"blocks", true, "\"e4m3\"", "\"e5m2\"", "FP8 weights in 'e5m2' are not supported: e4m3 is"},
    {"blocks", true, "\"fp8\"", "\"fp9\"", "quant_method 'fp9' is not supported: awq, gptq, fp8 and"},
    {"blocks", true, "\"quantization_config\"", "\"other\"",
     "is of type F8_E4M3; weights are read from f32, bf16, f16, and F8_E4M3 where quantization_config"},
    {"blocks", true, "\"weight_block_size\": [24, 40]", "\"x\": 1", "should be one float, or floats [32, 1]"},
    {"blocks", false, WO "weight_scale_inv", WO "weight_scale_inw", WO "weight' has no weight_scale_inv beside it"},
    {"blocks", false, WO "weight_scale_inv\":{\"dtype\":\"F32\",\"shape\":[2,1]",
     WO "weight_scale_inv\":{\"dtype\":\"F32\",\"shape\":[1,2]",
     WO "weight_scale_inv', F32 [1, 2], should be floats [2, 1]"},
    {"blocks", false, WO "weight_scale_inv\":{\"dtype\":\"F32\"", WO "weight_scale_inv\":{\"dtype\":\"I32\"",
     "should be floats [2, 1]"},
    {"blocks", false, "F8_E4M3", "F8_E5M2", "is of type F8_E5M2; weights are read from f32, bf16, f16, and F8_E4M3"},
    {"tensor", false, WO "weight_scale", WO "weight_scalf", WO "weight' has no weight_scale beside it"},
    {"tensor", false, WO "input_scale", WO "other_scale", "belongs to nothing in family internlm2"},
    {"row", false, WO "weight_scale\":{\"dtype\":\"F32\",\"shape\":[32,1]",
     WO "weight_scale\":{\"dtype\":\"F32\",\"shape\":[1,32]", "should be one float, or floats [32, 1]"},
    {"row-1", false, WO "weight_scale\":{\"dtype\":\"BF16\",\"shape\":[32]",
     WO "weight_scale\":{\"dtype\":\"BF16\",\"shape\":[30]", "takes 64 bytes"},
    {"ct-tensor", true, "\"strategy\": \"tensor\"", "\"strategy\": \"channel\"", "should be floats [32, 1]"},
    {"ct-channel", true, "\"strategy\": \"channel\"", "\"strategy\": \"tensor\"", "should be one float"},
    {"ct-channel", true, "\"strategy\": \"channel\"", "\"strategy\": \"group\"",
     "with scales by 'group' are not supported: tensor, channel and block are"},
    {"ct-block", true, "[24, 40]", "null", "'block_structure' should be the rows and the columns"},
    {"ct-block", true, "[24, 40]", "[24, -40]", "'block_structure' should be"},
    {"ct-block", true, "\"symmetric\": true", "\"symmetric\": false", "in 8 bits, 'float', are not supported"},
    {"ct-block", true, "\"num_bits\": 8, \"type\": \"float\", \"symmetric\"",
     "\"num_bits\": 4, \"type\": \"float\", \"symmetric\"", "in 4 bits, 'float', are not supported"},
    {"ct-block", true, "\"group_0\"", "\"group_1\": {\"weights\": {\"num_bits\": 8, \"type\": \"int\"}}, \"group_0\"",
     "in several kinds ('group_0' has another one) are not supported"},
    {"ct-block", true, "\"config_groups\"", "\"groups\"", "'config_groups' has no weights"}};

static void lies_are_refused(void **state) {
  char dir[400], plain[400], file[500];
  for (size_t i = 0; i < PU_COUNT(edits); i++) {
    const edit *x = &edits[i];
    snprintf(dir, sizeof dir, "%s/refused-%zu", folder, i);
    snprintf(plain, sizeof plain, "%s/refused-%zu-plain", folder, i);
    fp8_write(PU_FIXTURES "/hf-mini/internlm2-tiny", layout_named(x->layout), dir, plain);
    snprintf(file, sizeof file, "%s/%s", dir, x->config ? "config.json" : "model.safetensors");
    assert_true(x->config || strlen(x->from) == strlen(x->to));
    replace_in(file, x->from, x->to);
    check_refused(*state, dir, x->says);
  }
}

/* Bytes of a tensor of a model in blocks become others. dir: where it is put. */
static void write_damaged(char dir[400], const char *name, size_t at, const void *to, size_t n) {
  char plain[400], file[500];
  pu_buf bytes;
  pu_safetensors *st;
  pu_error e;
  snprintf(dir, 400, "%s/%s-%zu", folder, strrchr(name, '.') + 1, at);
  snprintf(plain, sizeof plain, "%s/%s-%zu-plain", folder, strrchr(name, '.') + 1, at);
  fp8_write(PU_FIXTURES "/hf-mini/internlm2-tiny", layout_named("blocks"), dir, plain);
  snprintf(file, sizeof file, "%s/model.safetensors", dir);
  pu_buf_init(&bytes, 1 << 24);
  assert_ok(pu_file_read(file, 1 << 24, &bytes, &e), &e);
  assert_ok(pu_safetensors_parse(pu_str_of(bytes.data, bytes.len), &st, &e), &e);
  memcpy(bytes.data + ((const char *)pu_safetensors_find(st, name)->data - bytes.data) + at, to, n);
  pu_safetensors_close(st);
  assert_ok(pu_file_write(file, bytes.data, bytes.len, &e), &e);
  pu_buf_deinit(&bytes);
}

static void scales_are_finite(void **state) {
  static const float values[] = {INFINITY, NAN};
  char dir[400];
  for (size_t i = 0; i < 2; i++) {
    write_damaged(dir, WO "weight_scale_inv", 4 * i, &values[i], sizeof *values);
    check_refused(*state, dir, WO "weight_scale_inv' has scales that are not finite");
  }
}

/* A code that is NaN is a weight that is, as torch has it. */
static void nan_is_nan(void **state) {
  char dir[400];
  pu_model *m;
  pu_error e;
  if (pu_test_elsewhere()) skip(); /* it reads weights where they lie */
  write_damaged(dir, WO "weight", 33, "\x7f\xff", 2);
  assert_ok(pu_model_load(dir, *state, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
  for (size_t i = 0; i < m->n_params; i++) {
    const pu_param *p = &m->params[i];
    const float *w = p->w->data;
    for (int64_t k = 0; k < pu_tensor_count(p->w); k++)
      assert_int_equal(isnan(w[k]) != 0, p->slot == PU_SLOT_WO && p->layer == 0 && (k == 33 || k == 34));
  }
  pu_model_free(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_layout_gives_its_values),
                                     cmocka_unit_test(values_are_rounded_as_any),
                                     cmocka_unit_test(large_matrices_come_in_pieces),
                                     cmocka_unit_test(codes_are_kept),
                                     cmocka_unit_test(lies_are_refused),
                                     cmocka_unit_test(scales_are_finite),
                                     cmocka_unit_test(nan_is_nan)};
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
