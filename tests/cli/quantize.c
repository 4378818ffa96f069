/* puyu quantize from outside: a model that the test makes becomes one of few bits, which the engine loads; what cannot
 * be done says so and leaves nothing behind. */
#include "puyu/engine.h"
#include "tests/fp8.h"
#include "tests/shell.h"

#include <math.h>
#include <stdlib.h>

static char folder[] = "/tmp/puyu-quantise-XXXXXX";

static bool exists(const char *name) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return pu_path_exists(path);
}

/* A small model with random weights, beside its tokenizer. */
static bool make_model(int64_t vocab) {
  const pu_hparams hp = {.vocab = vocab,
                         .hidden = 64,
                         .ffn = 128,
                         .layers = 2,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 16,
                         .max_position = 512,
                         .norm_eps = 1e-5,
                         .eos = {1},
                         .n_eos = 1,
                         .rope = {.base = 1e4, .factor = 1}};
  pu_model_options o = {.dtype = PU_F32};
  pu_backend *be;
  pu_model *m = NULL;
  pu_error e;
  char dir[100];
  snprintf(dir, sizeof dir, "%s/m", folder);
  if (pu_cpu_open(1, pu_isa_best(), &be, &e) != PU_OK) return false;
  bool ok = pu_model_random(pu_arch_find("internlm2"), &hp, 3, be, &o, &m, &e) == PU_OK &&
            pu_model_save(m, dir, PU_F32, 0, &e) == PU_OK;
  pu_model_free(m);
  be->close(be);
  return ok;
}

static int set_up(void **state) {
  (void)state;
  if (!mkdtemp(folder)) return -1;
  shell_folder = folder;
  if (shell("puyu data synth --out d --documents 300 --seed 1 && cp d/train.jsonl t.jsonl && "
            "puyu tokenizer train --out m --vocab-size 400 t.jsonl") == 0 &&
      make_model(400))
    return 0;
  print_message("%s", out);
  return -1;
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static double number(const json_t *j, const char *key) {
  return json_number_value(json_object_get(j, key));
}

/* The embedding is not quantised, in whichever part it is written. */
static void check_plain(void) {
  json_t *config;
  pu_error e;
  char path[300];
  snprintf(path, sizeof path, "%s/q/config.json", folder);
  assert_ok(pu_json_read(path, 1 << 20, &config, &e), &e);
  const json_t *quant = json_object_get(config, "quantization_config"), *list = json_object_get(quant, "ignore");
  if (!list) list = json_object_get(quant, "modules_to_not_convert");
  if (strcmp(json_string_value(json_object_get(quant, "quant_method")), "gptq") != 0) {
    assert_true(json_array_size(list) > 0);
    assert_string_equal(json_string_value(json_array_get(list, 0)), "model.tok_embeddings");
  }
  json_decref(config);
}

static void each_method_makes_a_model(void **state) {
  (void)state;
  static const char *const runs[] = {"rtn --bits 4", "rtn --bits 8 --sym", "awq", "awq --sym",
                                     "gptq",         "gptq --bits 8",      "w8a8"};
  for (size_t i = 0; i < PU_COUNT(runs); i++) {
    json_t *j, *file;
    pu_error e;
    char path[300];
    if (shell("puyu quantize m q/ --force --json --group 64 --calib t.jsonl --calib-tokens 2048 --quiet --method %s",
              runs[i]))
      fail_msg("%s: %s", runs[i], out);
    assert_ok(pu_json_parse("output", pu_str_c(out), &j, &e), &e);
    snprintf(path, sizeof path, "%s/q/quantize_report.json", folder);
    assert_ok(pu_json_read(path, 1 << 16, &file, &e), &e);
    assert_true(json_equal(j, file));
    double before = number(j, "perplexity_before"), after = number(j, "perplexity_after");
    assert_true(before > 1 && fabs(after / before - 1) < 0.02);
    assert_true(number(j, "bits_a_weight") < (strstr(runs[i], "8") ? 8.6 : 4.6));
    assert_true(number(j, "bytes_after") < 0.6 * number(j, "bytes_before"));
    assert_true(exists("q/tokenizer.json") && exists("q/config.json") && !exists("q/part"));
    assert_false(exists("q.making"));
    check_plain();
    json_decref(j);
    json_decref(file);
    assert_int_equal(shell("puyu generate q --prompt a --max-tokens 4 --threads 1"), 0);
  }
}

/* The same files whatever the threads; other pieces with another seed. */
static void a_seed_makes_the_same_files(void **state) {
  (void)state;
  static const char line[] =
      "puyu quantize m %s --group 32 --calib t.jsonl --calib-tokens 2048 --quiet --method gptq %s"
      " >/dev/null && cat %s/*.safetensors | cksum";
  char first[200];
  assert_int_equal(shell(line, "s1", "--threads 1", "s1"), 0);
  snprintf(first, sizeof first, "%s", out);
  assert_int_equal(shell(line, "s2", "--threads 2", "s2"), 0);
  assert_string_equal(out, first);
  assert_int_equal(shell(line, "s3", "--seed 2", "s3"), 0);
  assert_string_not_equal(out, first);
}

/* m with a tensor more, or one less. */
static void change_tensors(const char *dir, bool more) {
  char path[300];
  const float value = 1;
  pu_safetensors *st;
  pu_error e;
  snprintf(path, sizeof path, "%s/m/model.safetensors", folder);
  assert_ok(pu_safetensors_open(path, &st, &e), &e);
  size_t all = pu_safetensors_count(st), n = 0;
  pu_st_source *list = calloc(all + 1, sizeof *list);
  for (size_t i = 0; i < all; i++) {
    const pu_st_tensor *t = pu_safetensors_at(st, i);
    if (!more && strcmp(t->name, "model.norm.weight") == 0) continue;
    list[n] = (pu_st_source){.name = t->name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data};
    memcpy(list[n++].shape, t->shape, sizeof t->shape);
  }
  if (more) list[n++] = (pu_st_source){"model.extra", PU_F32, 1, {1}, &value, NULL, NULL};
  snprintf(path, sizeof path, "%s/%s/model.safetensors", folder, dir);
  assert_ok(pu_safetensors_write(path, list, n, NULL, &e), &e);
  assert_int_equal(n, more ? all + 1 : all - 1);
  pu_safetensors_close(st);
  free(list);
}

static void every_method_is_told_of(void **state) {
  (void)state;
  const pu_quantize_method *m;
  assert_int_equal(puyu("quantize --help"), 0);
  for (size_t i = 0; (m = pu_quantize_method_at(i)); i++) {
    says(m->name);
    says(m->summary);
  }
  says("awq|gptq|rtn|w8a8");
  pu_quantize_options o = {.method = "foo"};
  pu_error e;
  assert_int_equal(pu_quantize_check("m", &o, &e), PU_ERR_USAGE);
  assert_string_equal(e.msg, "foo: no such method; there are awq, gptq, rtn, w8a8");
}

static void what_cannot_be_done_says_so(void **state) {
  (void)state;
  static const struct {
    const char *args, *text;
    int status;
  } cases[] = {{"m x --calib t.jsonl", "the hidden size, 64, does not divide into groups of 128", 1},
               {"m x --calib t.jsonl --group 48", "groups of 48", 2},
               {"m x --calib t.jsonl --group 64 --bits 5", "5 bits", 2},
               {"m x --calib t.jsonl --group 64 --bits 8", "the method awq has 4 bits", 2},
               {"m x --method gptq --group 64", "--calib FILE", 2},
               {"m x --calib short.txt --group 64", "too short a text", 1},
               {"m x --calib nothing.txt --group 64", "nothing.txt", 1},
               {"m x.gguf --method rtn", "puyu convert", 2},
               {"m m --method rtn --force", "the same folder", 2},
               {"m q --method rtn --group 64", "there is a model already", 2},
               {"m x --method foo", "is not one of awq, gptq, rtn, w8a8", 2},
               {"m t.jsonl --method rtn --group 64", "t.jsonl: is no folder", 2},
               {"more x --method rtn --group 64", "'model.extra' belongs to nothing in family internlm2", 1},
               {"less x --method rtn --group 64", "'model.norm.weight' [64] is missing", 1},
               {"q x --method rtn --group 64", "quantised already", 1},
               {"n x --calib t.jsonl --group 64", "no tokenizer", 1},
               {"nowhere x --method rtn", "nowhere", 1}};
  assert_int_equal(shell("echo a few words >short.txt; cp -r m n; rm n/token*; cp -r m more; cp -r m less"), 0);
  change_tensors("more", true);
  change_tensors("less", false);
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    int status = shell("puyu quantize %s", cases[i].args);
    says(cases[i].text);
    if (status != cases[i].status) fail_msg("%s: status %d, %s", cases[i].args, status, out);
    assert_true(!exists("x") && !exists("x.making") && !exists("t.jsonl.making"));
  }
}

/* A model that was published in FP8: all commands take it, and it stands for its values in bf16. */
static void fp8_is_taken_as_bf16(void **state) {
  (void)state;
  static const fp8_layout layout = {
      "f",  "{\"quant_method\": \"fp8\", \"weight_block_size\": [48, 32]}", "weight_scale_inv", 48, 32, 2, false, NULL,
      false};
  char from[300], dir[300], plain[300];
  snprintf(from, sizeof from, "%s/m", folder);
  snprintf(dir, sizeof dir, "%s/f", folder);
  snprintf(plain, sizeof plain, "%s/p", folder);
  fp8_write(from, &layout, dir, plain);
  assert_int_equal(shell("for d in f p; do cp m/token* $d; done; puyu inspect f"), 0);
  says("of bf16, 72.00 KiB of F8_E4M3\n");
  says("F8_E4M3 [128, 64]");
  assert_null(strstr(out, "fails"));
  assert_int_equal(
      shell("mkdir g && cp f/* g && sed -i s/quantization_config/nothing/ g/config.json && puyu inspect g"), 0);
  says("is of type F8_E4M3; weights are read from f32");
  assert_int_equal(shell("puyu convert f fb && puyu convert p pb --dtype bf16"), 0);
  assert_int_equal(shell("cmp fb/model.safetensors pb/model.safetensors && cmp fb/config.json pb/config.json"), 0);
  for (int i = 0; i < 2; i++)
    if (shell("puyu quantize %s %s4 --group 32 --calib t.jsonl --calib-tokens 2048 --quiet --method awq",
              i ? "pb" : "f", i ? "p" : "f"))
      fail_msg("%s", out);
  assert_int_equal(shell("cat f4/*.safetensors | cksum >f.sum && cat p4/*.safetensors | cksum | cmp - f.sum"), 0);
  assert_int_equal(
      shell("head -c 2000 t.jsonl >t.txt; for m in f fb p; do puyu ppl $m t.txt --context 64 --dtype bf16 --json "
            "--quiet | grep -o '\"perplexity\": [0-9.]*' >$m.ppl; done; cat f.ppl; cmp f.ppl fb.ppl && "
            "cmp f.ppl p.ppl"),
      0);
  says("\"perplexity\": ");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(each_method_makes_a_model), cmocka_unit_test(a_seed_makes_the_same_files),
      cmocka_unit_test(every_method_is_told_of), cmocka_unit_test(what_cannot_be_done_says_so),
      cmocka_unit_test(fp8_is_taken_as_bf16)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
