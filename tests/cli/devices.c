/* Which device computes, what puyu says of it, and what it takes of its memory: with the tests' own device. */
#include "puyu/compute.h"
#include "tests/shell.h"

#include <stdlib.h>
#include <unistd.h>

#define MODEL PU_FIXTURES "/hf-mini/internlm2-tiny"

static char folder[] = "/tmp/puyu-cli-devices-XXXXXX";

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

static void does(int status) {
  if (status != 0) fail_msg("exit %d: %s", status, out);
}

static json_t *parsed(void) {
  json_error_t why;
  json_t *j = json_loads(out, 0, &why);
  if (!j) fail_msg("%s in: %s", why.text, out);
  return j;
}

static void env_says_what_is_there(void **state) {
  (void)state;
  does(puyu("env --json"));
  json_t *j = parsed(), *devices = json_object_get(j, "devices"), *one;
  bool found = false;
  size_t i;
  assert_non_null(json_object_get(json_object_get(j, "puyu"), "version"));
  assert_true(json_integer_value(json_object_get(json_object_get(j, "processor"), "processors")) > 0);
  json_array_foreach(devices, i, one) {
    if (strcmp(json_string_value(json_object_get(one, "name")), "far") != 0) continue;
    found = true;
    assert_true(json_integer_value(json_object_get(one, "memory_bytes")) == (json_int_t)32 << 30);
  }
  assert_true(found);
  json_decref(j);
  does(puyu("env"));
  says("instruction_sets");
}

/* auto goes by PUYU_DEVICE; a device that is named must be there. */
static void devices_are_chosen(void **state) {
  (void)state;
  does(shell("PUYU_DEVICE=far puyu env"));
  says("--device auto is far");
  does(shell(
      "PUYU_DEVICE=far puyu bench decode --shape puyu-2m --tokens 2 --rounds 1 --repetition-penalty 1.05 --json"));
  says("with memory of its own");
  says("\"repetition_penalty\": 1.05");
  does(shell("PUYU_DEVICE=far puyu bench decode --shape puyu-2m --tokens 2 --rounds 1 --json --device cpu"));
  says("\"device\": \"cpu\"");
  assert_int_equal(puyu("bench engine --shape puyu-2m --batch 2 --seq 8 --tokens 2 --device far"), 0);
  assert_int_equal(puyu("bench train --shape puyu-2m --layers 1 --batch 1 --seq 32 --rounds 1 --device far"), 0);
  says("MFU");
  assert_int_not_equal(puyu("bench decode --shape puyu-2m --device abacus"), 0);
  says("'abacus' is no device: use auto, cpu or cuda");
  assert_int_not_equal(puyu("bench decode --shape puyu-2m --device ../far"), 0);
  says("is no device");
  assert_int_not_equal(puyu("bench decode --shape puyu-2m --device ''"), 0);
  says("is no device");
  assert_int_not_equal(shell("PUYU_DEVICE=abacus puyu bench decode --shape puyu-2m"), 0);
  says("PUYU_DEVICE=abacus: 'abacus' is no device");
  does(shell("PUYU_DEVICE=abacus puyu env"));
  says("--device auto is abacus, which cannot be used: PUYU_DEVICE=abacus: 'abacus' is no device");
  does(shell("PUYU_DEVICE=abacus puyu env --json"));
  json_t *j = parsed();
  assert_string_equal(json_string_value(json_object_get(j, "auto")), "abacus");
  assert_non_null(json_object_get(j, "auto_error"));
  json_decref(j);
  assert_int_not_equal(puyu("demo --out never --device abacus"), 0);
  says("is no device");
  assert_int_not_equal(shell("test -e never"), 0);
}

/* A plug-in that was copied half is told of, before the loader would touch what is not there. */
static void plug_ins_that_are_cut_off_are_told(void **state) {
  (void)state;
  static const char *const ends[] = {"0", "40", "4096", "20000", "-1"};
  does(shell("mkdir bin && cp " PU_PROGRAM " bin/puyu"));
  for (size_t i = 0; i < PU_COUNT(ends); i++) {
    does(shell("head -c %s $(dirname " PU_PROGRAM ")/libpuyu-far.so >bin/libpuyu-far.so", ends[i]));
    assert_int_equal(shell("bin/puyu bench decode --shape puyu-2m --device far"), 1);
    says("libpuyu-far.so is cut off: build it anew");
    does(shell("bin/puyu env"));
    says("is cut off");
  }
  does(shell("head -c 20000 /dev/zero >bin/libpuyu-far.so"));
  assert_int_equal(shell("bin/puyu bench decode --shape puyu-2m --device far"), 1);
  /* Of another version: the digest of the headers has another first character. */
  does(shell("sed 's/%.63s/x%.62s/g' $(dirname " PU_PROGRAM ")/libpuyu-far.so >bin/libpuyu-far.so", pu_interface,
             pu_interface + 1));
  assert_int_equal(shell("bin/puyu bench decode --shape puyu-2m --device far"), 1);
  says("libpuyu-far.so is of another version than the program: build both from the same");
  does(shell("cp $(ldd bin/puyu | awk '/libm.so/{print $3}') bin/libpuyu-far.so"));
  assert_int_equal(shell("bin/puyu bench decode --shape puyu-2m --device far"), 1);
  says("libpuyu-far.so is no plug-in of puyu");
  does(shell("rm bin/libpuyu-far.so && mkfifo bin/libpuyu-far.so"));
  assert_int_equal(shell("bin/puyu bench decode --shape puyu-2m --device far"), 1);
  says("libpuyu-far.so is no file");
  does(shell("rm bin/libpuyu-far.so"));
  /* Of a version that did not say which it is. */
  does(shell("sed 's/pu_plugin_interface/pu_plugin_interfacX/g' $(dirname " PU_PROGRAM
             ")/libpuyu-far.so >bin/libpuyu-far.so"));
  assert_int_equal(shell("bin/puyu bench decode --shape puyu-2m --device far"), 1);
  says("libpuyu-far.so is of another version than the program: build both from the same");
  does(shell("rm bin/libpuyu-far.so && bin/puyu env"));
  says("libpuyu-cuda.so not found beside the program");
}

/* With a driver of the tests' own in the place of NVIDIA's. */
static void drivers_that_will_not_do_are_told(void **state) {
  (void)state;
  does(puyu("env"));
  if (strstr(out, "libpuyu-cuda.so not found")) skip();
#define FAKE "LD_LIBRARY_PATH=$(dirname " PU_PROGRAM ")/fake-driver "
  does(shell(FAKE "FAKE_DRIVER=12080 puyu env"));
  says("the driver is for CUDA 12.8");
  says("--device auto is cpu");
  assert_int_not_equal(shell(FAKE "FAKE_DRIVER=12080 puyu generate " MODEL " --ids 1,2 --device cuda"), 0);
  says("update it");
  does(shell(FAKE "FAKE_DRIVER=0 puyu env"));
  says("no NVIDIA driver is installed");
  does(shell(FAKE "FAKE_DRIVER=99000 puyu env"));
  says("there is no device here");
}

static void plans_are_told(void **state) {
  (void)state;
  does(puyu("plan " MODEL " --device far --context 64"));
  says("this machine");
  says("prefixes that the cache has no room for");
  does(puyu("plan " MODEL " --device cpu --context 64 --json"));
  json_t *j = parsed();
  assert_int_equal(json_integer_value(json_object_get(j, "host")), 0);
  assert_int_equal(json_integer_value(json_object_get(j, "host_cache")), 0);
  assert_int_equal(json_integer_value(json_object_get(j, "context")), 64);
  json_decref(j);
  does(puyu("plan " MODEL " --device cpu --context 64 --host-cache 0.5 --json"));
  j = parsed();
  const json_int_t tier = json_integer_value(json_object_get(j, "host_cache"));
  assert_true(tier > 0x1ff00000 && tier <= 0x20000000);
  assert_true(json_integer_value(json_object_get(j, "total")) > tier);
  json_decref(j);
  assert_int_not_equal(puyu("plan " MODEL " train.steps=3"), 0);
  does(shell(
      "printf 'run: r\\nmodel: {shape: puyu-2m}\\ndata: {seq_len: 64, sources: [{path: nowhere}]}\\n' >run.yaml"));
  does(puyu("plan run.yaml train.device=far train.micro_batch=2 --json"));
  j = parsed();
  size_t sum = 0;
  const char *const parts[] = {"weights", "gradients", "moments", "activations", "work"};
  for (size_t i = 0; i < PU_COUNT(parts); i++) sum += (size_t)json_integer_value(json_object_get(j, parts[i]));
  assert_int_equal(sum, json_integer_value(json_object_get(j, "total")));
  assert_true(json_integer_value(json_object_get(j, "copy")) > 0);
  json_decref(j);
  assert_int_not_equal(shell("test -e r"), 0); /* nothing was begun */
}

/* A plan is made of what would run, and of nothing else. */
static void plans_refuse_what_would_not_run(void **state) {
  (void)state;
  assert_int_equal(puyu("plan run.yaml --device far"), 2);
  says("--device is for a model that is to answer: a training run takes train.device=NAME");
  assert_int_equal(puyu("plan run.yaml --quant q8"), 2);
  says("--quant is for a model that is to answer");
  assert_int_equal(puyu("plan " MODEL " --device cpu --dtype f32 --quant fp8"), 1);
  says("matrices in FP8 go with bf16, and this would compute in f32: add --dtype bf16");
  assert_int_equal(puyu("generate " MODEL " --ids 1,2 --device cpu --dtype f32 --quant fp8"), 1);
  says("matrices in FP8 go with bf16, and this would compute in f32: add --dtype bf16");
  does(puyu("plan " MODEL " --device cpu --dtype bf16 --quant fp8"));
  assert_int_equal(puyu("plan " MODEL " --device far --dtype bf16 --quant fp8"), 1);
  says("far: no matrices in FP8 here");
}

/* One line, with what to do; nothing half done. */
static void too_little_memory_is_told(void **state) {
  (void)state;
  assert_int_equal(shell("PUYU_FAR_MEMORY=16 puyu plan run.yaml train.device=far"), 1);
  says("it does not fit: lower train.micro_batch");
  says("set train.recompute=gates, some or all, optim.state=bf16, train.weights=bf16");
  assert_int_equal(shell("PUYU_FAR_MEMORY=16 puyu plan run.yaml train.device=far train.recompute=all "
                         "optim.state=bf16 train.weights=bf16"),
                   1);
  says("it does not fit: lower train.micro_batch");
  assert_null(strstr(out, "recompute"));
  assert_null(strstr(out, "optim.state"));
  does(shell("head -c 20000 /dev/zero | tr '\\0' 'a' >text.txt"));
  assert_int_equal(shell("PUYU_FAR_MEMORY=16 puyu train run.yaml train.device=far train.steps=2"), 1);
  says("of far memory, and");
  assert_int_equal(shell("ls r/step-* 2>/dev/null"), 2);
  assert_int_equal(shell("PUYU_FAR_MEMORY=1 puyu generate " MODEL " --ids 3,4 --device far --max-tokens 2"), 1);
  says("of far's memory are too little");
  assert_int_equal(shell("PUYU_FAR_MEMORY=16 puyu bench train --shape puyu-2m --device far"), 1);
  says("lower --batch, --seq or --layers");
  assert_null(strstr(out, "train."));
}

/* A context that was asked for is said to be less, once; one that nobody named is not. */
static void a_context_that_does_not_fit_is_told(void **state) {
  (void)state;
  does(puyu("plan " MODEL " --device far --memory 0.01 --max-batch 1 --context 32768"));
  says("a context of 32768 tokens was asked for, and the memory holds a cache of");
  does(puyu("plan " MODEL " --device far --memory 0.01 --max-batch 1"));
  assert_null(strstr(out, "--context"));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(env_says_what_is_there),
                                     cmocka_unit_test(devices_are_chosen),
                                     cmocka_unit_test(plug_ins_that_are_cut_off_are_told),
                                     cmocka_unit_test(drivers_that_will_not_do_are_told),
                                     cmocka_unit_test(plans_are_told),
                                     cmocka_unit_test(plans_refuse_what_would_not_run),
                                     cmocka_unit_test(too_little_memory_is_told),
                                     cmocka_unit_test(a_context_that_does_not_fit_is_told)};
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
