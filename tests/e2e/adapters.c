/* --adapter and puyu merge, from outside: an adapter beside the model does what it does merged into it. */
#include "puyu/model.h"
#include "tests/shell.h"

#include <math.h>
#include <stdlib.h>

static char folder[] = "/tmp/puyu-lora-XXXXXX";

static void good(int status) {
  if (status) fail_msg("status %d: %s", status, out);
}

static const char *in_folder(const char *name) {
  static char path[4][300];
  static int turn;
  turn = (turn + 1) % 4;
  snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
  return path[turn];
}

/* Of the model m, strong enough to be heard. */
static void make_adapter(void) {
  const char *targets[] = {"wqkv", "wo", "w1", "w2", "w3"};
  pu_adapter_shape shape = {.rank = 4, .alpha = 16, .targets = {targets, PU_COUNT(targets)}};
  pu_backend *be;
  pu_model *m;
  pu_adapter *a;
  pu_error e;
  size_t n;
  assert_ok(pu_cpu_open(1, pu_isa_best(), &be, &e), &e);
  assert_ok(pu_model_load(in_folder("m"), be, &(pu_model_options){.dtype = PU_F32}, &m, &e), &e);
  assert_ok(pu_adapter_create(m, &shape, 1, &a, &e), &e);
  pu_param *p = pu_adapter_params(a, &n);
  for (size_t i = 1; i < n; i += 2)
    for (int64_t k = 0; k < pu_tensor_count(p[i].w); k++)
      ((float *)p[i].w->data)[k] = (float)(pu_random_at(5, i, (uint64_t)k) % 2001) / 10000 - 0.1f;
  assert_ok(pu_adapter_save(a, in_folder("a"), PU_F32, &e), &e);
  pu_adapter_free(a);
  pu_model_free(m);
  be->close(be);
}

static int set_up(void **state) {
  static const char text[] = "one two one two user assistant; two one assistant one\nuser two: one, one, two";
  (void)state;
  if (!mkdtemp(folder)) return -1;
  shell_folder = folder;
  if (shell("printf '%s' >t.txt && " PU_PROGRAM " tokenizer train --out m --vocab-size 280 t.txt && " PU_PROGRAM
            " init --shape puyu-2m --vocab-size 280 --out m --threads 1",
            text)) {
    print_message("%s", out);
    return -1;
  }
  make_adapter();
  return shell(PU_PROGRAM " merge m a merged --dtype f32") == 0 ? 0 : -1;
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

/* ---- logits, perplexity, text ---- */

static void write_ids(void) {
  int32_t ids[2 * 12];
  pu_error e;
  for (size_t i = 0; i < PU_COUNT(ids); i++) ids[i] = (int32_t)(pu_random_at(1, 2, i) % 280);
  pu_st_source t = {.name = "input_ids", .dtype = PU_I32, .ndim = 2, .shape = {2, 12}, .data = ids};
  assert_ok(pu_safetensors_write(in_folder("ids.st"), &t, 1, NULL, &e), &e);
}

static double distance(const char *a_file, const char *b_file) {
  pu_safetensors *a, *b;
  pu_error e;
  assert_ok(pu_safetensors_open(in_folder(a_file), &a, &e), &e);
  assert_ok(pu_safetensors_open(in_folder(b_file), &b, &e), &e);
  const pu_st_tensor *x = pu_safetensors_at(a, 0), *y = pu_safetensors_at(b, 0);
  double diff = 0, norm = 0;
  assert_int_equal(x->bytes, y->bytes);
  for (size_t i = 0; i < y->bytes; i += 4) {
    float p, q;
    memcpy(&p, (const char *)x->data + i, 4);
    memcpy(&q, (const char *)y->data + i, 4);
    diff += ((double)p - (double)q) * ((double)p - (double)q);
    norm += (double)q * (double)q;
  }
  pu_safetensors_close(a);
  pu_safetensors_close(b);
  return sqrt(diff / norm);
}

static void logits_are_those_of_merged_weights(void **state) {
  (void)state;
  write_ids();
  good(shell(PU_PROGRAM " logits m --ids ids.st --out base.st --threads 1"));
  good(shell(PU_PROGRAM " logits m --ids ids.st --out beside.st --threads 1 --adapter a"));
  good(shell(PU_PROGRAM " logits merged --ids ids.st --out merged.st --threads 1"));
  assert_true(distance("beside.st", "merged.st") < 1e-5);
  assert_true(distance("beside.st", "base.st") > 1e-2);
}

static double nats(const char *model) {
  json_t *j;
  pu_error e;
  good(shell(PU_PROGRAM " ppl %s t.txt --dtype f32 --json --quiet --threads 1", model));
  assert_ok(pu_json_parse("output", pu_str_c(out), &j, &e), &e);
  double v = json_number_value(json_object_get(j, "nats"));
  json_decref(j);
  return v;
}

static void perplexity_is_that_of_merged_weights(void **state) {
  (void)state;
  double beside = nats("m --adapter a"), merged = nats("merged"), base = nats("m");
  assert_true(fabs(beside - merged) < 1e-4);
  assert_true(fabs(beside - base) > 1e-3);
}

static void same_text(const char *how, bool differs) {
  static char beside[sizeof out], merged[sizeof out];
  good(shell(how, "m --adapter a"));
  memcpy(beside, out, sizeof out);
  good(shell(how, "merged"));
  memcpy(merged, out, sizeof out);
  assert_string_equal(beside, merged);
  good(shell(how, "m"));
  if (differs) assert_string_not_equal(beside, out);
}

static void texts_are_those_of_merged_weights(void **state) {
  (void)state;
  same_text(PU_PROGRAM " generate %s --prompt 'one two' --max-tokens 12 --output ids --threads 1 --dtype f32", true);
  same_text(PU_PROGRAM " generate %s --prompts t.txt -n 2 --temperature 0.01 --max-tokens 8 --threads 1 --dtype f32",
            true);
  same_text("echo one | " PU_PROGRAM " chat %s --max-tokens 8 --temperature 0 --threads 1 --dtype f32", true);
}

/* ---- mistakes ---- */

static void mistakes_are_told(void **state) {
  (void)state;
  assert_int_equal(shell(PU_PROGRAM " generate m --adapter nowhere --prompt one"), 1);
  says("nowhere: no adapter: it should be a PEFT directory");
  assert_int_equal(shell(PU_PROGRAM " merge m a merged"), 2);
  says("there is a model already");
  assert_int_equal(shell(PU_PROGRAM " merge m a m --force"), 2);
  says("SRC and DST are the same folder");
  assert_int_equal(shell(PU_PROGRAM " merge " PU_FIXTURES "/hf-mini/llama3-tiny a other"), 1);
  says("is it an adapter of another base?");
  assert_int_equal(shell(PU_PROGRAM " merge " PU_FIXTURES "/hf-mini/internlm2-tiny a other"), 1);
  says("is it an adapter of another base?");
  assert_false(pu_path_exists(in_folder("other")));
  assert_int_equal(shell(PU_PROGRAM " serve m --port 0 --adapter a"), 2);
  says("--adapter NAME=DIR");
  assert_int_equal(shell(PU_PROGRAM " serve m --port 0 --adapter x=a --adapter x=a"), 2);
  says("'x'");
  assert_int_equal(shell(PU_PROGRAM " serve m --port 0 --adapter m=a"), 2);
  says("both called 'm'");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(logits_are_those_of_merged_weights),
      cmocka_unit_test(perplexity_is_that_of_merged_weights),
      cmocka_unit_test(texts_are_those_of_merged_weights),
      cmocka_unit_test(mistakes_are_told),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
