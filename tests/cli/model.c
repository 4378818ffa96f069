/* puyu logits, init, convert and inspect, from outside. */
#include "src/cli/cli.h"
#include "tests/shell.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "puyu/model.h"

#define MINI PU_FIXTURES "/hf-mini"

static char folder[] = "/tmp/puyu-model-XXXXXX";

static int make_folder(void **state) {
  (void)state;
  shell_folder = folder;
  return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static bool exists(const char *name) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return pu_path_exists(path);
}

static void check_logits(const char *file, const char *expected, double bound) {
  pu_safetensors *a, *b;
  pu_error e;
  char path[300];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  assert_ok(pu_safetensors_open(path, &a, &e), &e);
  assert_ok(pu_safetensors_open(expected, &b, &e), &e);
  const pu_st_tensor *x = pu_safetensors_find(a, "logits"), *y = pu_safetensors_find(b, "logits");
  assert_non_null(x);
  assert_int_equal(x->ndim, 3);
  assert_memory_equal(x->shape, y->shape, 3 * sizeof *x->shape);
  double diff = 0, norm = 0;
  for (size_t i = 0; i < y->bytes; i += 4) {
    float p, q;
    memcpy(&p, (const char *)x->data + i, 4);
    memcpy(&q, (const char *)y->data + i, 4);
    diff += ((double)p - (double)q) * ((double)p - (double)q);
    norm += (double)q * (double)q;
  }
  if (!(sqrt(diff / norm) < bound)) fail_msg("%s: logits are off by %g", file, sqrt(diff / norm));
  pu_safetensors_close(a);
  pu_safetensors_close(b);
}

static void logits_are_the_expected(void **state) {
  (void)state;
  const char *expected = MINI "/mixtral-tiny/expected.safetensors";
  assert_int_equal(puyu("logits " MINI "/mixtral-tiny --ids %s --out a.st --threads 1", expected), 0);
  check_logits("a.st", expected, 1e-4);
  assert_int_equal(puyu("logits " MINI "/mixtral-tiny --ids %s --out b.st --threads 1 --dtype bf16", expected), 0);
  check_logits("b.st", expected, 2e-2);
}

static void wrong_tokens_are_refused(void **state) {
  (void)state;
  const char *expected = MINI "/internlm2-d128/expected.safetensors";
  assert_int_equal(puyu("logits " MINI "/internlm2-d128 --ids %s --out c.st --key ids", expected), 1);
  says("holds no tensor 'ids'");
  assert_int_equal(puyu("logits " MINI "/internlm2-d128 --ids %s --out c.st --key logits", expected), 1);
  says("should be integers");
  /* A vocabulary of 64 and ids up to 96. */
  assert_int_equal(
      puyu("logits " MINI "/internlm2-d128 --ids " MINI "/llama3-tiny/expected.safetensors --out c.st --threads 1"), 1);
  says("outside the vocabulary of 64");
  assert_int_equal(puyu("logits nowhere --ids %s --out c.st", expected), 1);
  says("nowhere: there is no such file or folder");
  assert_int_equal(puyu("logits --ids x --out y"), 2);
  char path[300];
  snprintf(path, sizeof path, "%s/c.st", folder);
  assert_false(pu_path_exists(path));
}

/* Ctrl-C while a model is written: neither half of it nor its folder stays; where the folder was there, its files do.
 */
static void a_stop_leaves_nothing(void **state) {
  (void)state;
  static const char line[] =
      "init --shape puyu-25m --out big --threads 1 & P=$!; while [ ! -e big.making ]; do sleep 0.01; done; "
      "kill -TERM $P; wait $P";
  assert_int_equal(puyu("%s", line), 1);
  says("stopped; nothing was written");
  assert_false(exists("big") || exists("big.making"));
  assert_int_equal(puyu("version; mkdir big; echo {} >big/generation_config.json"), 0);
  assert_int_equal(puyu("%s", line), 1);
  assert_true(exists("big/generation_config.json"));
  assert_false(exists("big.making") || exists("big/config.json"));
}

/* What is named by mistake: a run for its checkpoint, a family that is none, a folder where something else lies. */
static void mistakes_are_named(void **state) {
  (void)state;
  assert_int_equal(puyu("version; mkdir -p run/step-000002 run/step-1000000 run/step-1000003.tmp tokx"), 0);
  assert_int_equal(puyu("inspect run"), 1);
  says("run: the folder of a training run, no model: did you mean run/step-1000000?");
  assert_int_equal(puyu("init --shape puyu-2m --out other --vocab-size 300 --threads 1; echo {} >run/metrics.jsonl; "
                        "echo 1 >other/merges.txt; echo 2 >tokx/merges.txt"),
                   0);
  assert_int_equal(puyu("convert other new --arch foo"), 2);
  says("there are internlm, internlm2,");
  assert_int_equal(puyu("convert other tokx"), 2);
  says("tokx/merges.txt: would be replaced");
  assert_int_equal(puyu("convert other tokx --force && cmp other/merges.txt tokx/merges.txt"), 0);
  assert_false(exists("tokx.making"));
  assert_int_equal(puyu("convert other run/step-000005/ --force"), 2);
  says("would be a checkpoint of the training run run/");
  assert_int_equal(puyu("init --shape puyu-2m --out run/step-000005"), 2);
  assert_false(exists("run/step-000005"));
  assert_int_equal(puyu("serve other --port 0 --tls-cert none.pem --tls-key none.pem"), 1);
  says("none.pem: cannot open: No such file or directory");
  assert_int_equal(puyu("serve nowhere --port 0 --tls-cert none.pem"), 2); /* before the model is looked at */
}

static void init_makes_what_inspect_says(void **state) {
  (void)state;
  assert_int_equal(puyu("init --shape puyu-2m --out m --vocab-size 300 --dtype bf16 --threads 1"), 0);
  assert_int_equal(puyu("inspect m"), 0);
  says("family         internlm2");
  says("vocabulary     300");
  says("of bf16");
  says("model.layers.4.attention.wqkv.weight");
  assert_int_equal(puyu("inspect m --no-tensors"), 0);
  assert_null(strstr(out, "wqkv"));
  assert_int_equal(puyu("inspect m/model.safetensors"), 0);
  says("wqkv");
  assert_int_equal(puyu("init --shape puyu-2m --out m"), 2);
  says("there is a model already");
  assert_int_equal(puyu("init --shape puyu-3m --out n"), 2);
  says("puyu-25m");
}

static void write_file(const char *name, const void *bytes, size_t n) {
  char path[300];
  pu_error e;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  assert_ok(pu_file_write(path, bytes, n, &e), &e);
}

/* Types that puyu has no values of are listed beside the others. */
static void inspect_lists_all_types(void **state) {
  static const char header[] = "{\"mask\":{\"dtype\":\"BOOL\",\"shape\":[2,2],\"data_offsets\":[0,4]},"
                               "\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}";
  char bytes[8 + sizeof header - 1 + 8] = {sizeof header - 1};
  (void)state;
  memcpy(bytes + 8, header, sizeof header - 1);
  write_file("types.safetensors", bytes, sizeof bytes);
  assert_int_equal(puyu("inspect types.safetensors"), 0);
  says("2 tensors, 4 B of f32, 4 B of types that cannot be loaded");
  says("BOOL    [2, 2]");
  says("f32     [1]");
}

static void converted_models_compute_the_same(void **state) {
  (void)state;
  const char *expected = MINI "/internlm2-tiny/expected.safetensors";
  assert_int_equal(puyu("convert " MINI "/internlm2-tiny l --arch llama --shard-mb 1"), 0);
  assert_int_equal(puyu("logits l --ids %s --out l.st --threads 1", expected), 0);
  check_logits("l.st", expected, 1e-4);
  assert_int_equal(puyu("convert l back --arch internlm2 --dtype f16"), 0);
  assert_int_equal(puyu("logits back --ids %s --out back.st --threads 1", expected), 0);
  check_logits("back.st", expected, 2e-3);
  assert_int_equal(puyu("convert " MINI "/qwen2-tiny q --arch llama"), 1);
  says("qwen2-tiny has biases on q, k, v and nowhere else, which the family llama has no place for");
  assert_false(exists("q"));
  assert_int_equal(puyu("convert " MINI "/qwen2-tiny q --arch none"), 2);
  says("no such family");
  assert_int_equal(puyu("convert l ./l --force --dtype bf16"), 2);
  says("SRC and DST are the same folder");
  assert_int_equal(puyu("logits l --ids %s --out again.st --threads 1", expected), 0); /* it is unharmed */
  /* Nor is a training run written over, with a model in it or without. */
  write_file("back/optimizer.safetensors", "", 0);
  assert_int_equal(puyu("convert l back --force"), 2);
  says("belongs to a training run");
  write_file("metrics.jsonl", "", 0);
  assert_int_equal(puyu("convert l ."), 2);
  says("it holds metrics.jsonl");
  assert_false(exists("config.json"));
}

/* A folder in the way of the file stands for a full disk. */
static void failed_writes_leave_no_model(void **state) {
  (void)state;
  /* A file system that takes a few files of 8 KiB only; the signal for it is ignored, so that write fails. */
  static const char limit[] = "version; trap '' XFSZ; ulimit -f 16; " PU_PROGRAM;
  assert_int_equal(puyu("%s init --shape puyu-2m --out full --vocab-size 300 --threads 1", limit), 1);
  says("model.safetensors: cannot write: File too large");
  assert_false(exists("full"));
  assert_int_equal(puyu("version; mkdir full; echo {} >full/merges.txt"), 0);
  assert_int_equal(puyu("%s convert " MINI "/internlm2-tiny full", limit), 1);
  says("cannot write");
  assert_true(exists("full/merges.txt"));
  assert_false(exists("full/config.json") || exists("full.making"));
}

static void help_names_all_shapes(void **state) {
  (void)state;
  assert_int_equal(puyu("init --help"), 0);
  for (size_t i = 0; pu_shape_at(i); i++) says(pu_shape_at(i)->name);
  assert_int_equal(puyu("convert --help"), 0);
  for (size_t i = 0; pu_arch_all[i]; i++) says(pu_arch_all[i]->name);
}

/* Before anything is printed or read. */
static void mistakes_are_told_at_once(void **state) {
  (void)state;
  assert_int_equal(puyu("bench gemm --shape 64x64x64 --shape foo"), 2);
  assert_memory_equal(out, "puyu bench gemm: --shape:", 25);
  assert_int_equal(puyu("chat " MINI "/mixtral-tiny </dev/null"), 1);
  says("mixtral-tiny: no tokenizer");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(logits_are_the_expected),
      cmocka_unit_test(wrong_tokens_are_refused),
      cmocka_unit_test(mistakes_are_named),
      cmocka_unit_test(a_stop_leaves_nothing),
      cmocka_unit_test(init_makes_what_inspect_says),
      cmocka_unit_test(inspect_lists_all_types),
      cmocka_unit_test(converted_models_compute_the_same),
      cmocka_unit_test(failed_writes_leave_no_model),
      cmocka_unit_test(help_names_all_shapes),
      cmocka_unit_test(mistakes_are_told_at_once),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
