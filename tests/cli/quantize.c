/* puyu quantize from outside: a model that the test makes becomes one of few bits, which the engine loads; what cannot
 * be done says so and leaves nothing behind. */
#include "puyu/model.h"
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
    assert_true(!exists("q.quantize-tmp") && !exists("q.quantize-old"));
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
               {"m q --method rtn --group 64", "is there already", 2},
               {"m d --method rtn --group 64 --force", "is no model", 2},
               {"q x --method rtn --group 64", "quantised already", 1},
               {"n x --calib t.jsonl --group 64", "no tokenizer", 1},
               {"nowhere x --method rtn", "nowhere", 1}};
  assert_int_equal(shell("echo a few words >short.txt; cp -r m n; rm n/token*"), 0);
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    int status = shell("puyu quantize %s", cases[i].args);
    says(cases[i].text);
    if (status != cases[i].status) fail_msg("%s: status %d, %s", cases[i].args, status, out);
    assert_true(!exists("x") && !exists("x.quantize-tmp"));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(each_method_makes_a_model),
                                     cmocka_unit_test(a_seed_makes_the_same_files),
                                     cmocka_unit_test(what_cannot_be_done_says_so)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
