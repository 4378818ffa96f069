/* Ten AdamW steps on every fixture: the losses and gradient norms that PyTorch got. */
#include "tests/train/run.h"

static void check_fixture(state *s, const char *dir, const char *name, double *worst) {
  json_t *expected;
  const char *model = pu_arena_printf(s->a, "%s/%s", dir, name);
  assert_ok(pu_json_read(pu_arena_printf(s->a, "%s/expected.json", model), 1 << 20, &expected, &s->e), &s->e);
  const json_t *steps = json_object_get(json_object_get(expected, "adamw"), "loss_and_grad_norm");
  size_t n = json_array_size(steps);
  double loss[32], norm[32];
  if (n > 0) {
    const char *yaml = pu_arena_printf(s->a,
                                       "run: $D/%s\nmodel: {path: %s}\n"
                                       "data: {sources: [{type: ids, path: %s/expected.safetensors}]}\n"
                                       "train: {steps: %zu, micro_batch: 1, precision: f32, grad_clip: 1.0}\n"
                                       "optim: {lr: 1.0e-3, betas: [0.9, 0.95], weight_decay: 0.1, decay_all: true}\n"
                                       "schedule: {type: constant}\n",
                                       name, model, model, n);
    assert_ok(run_yaml(s, yaml, NULL), &s->e);
    assert_int_equal(read_metrics(s, name, "loss", loss, 32), n);
    assert_int_equal(read_metrics(s, name, "grad_norm", norm, 32), n);
  }
  for (size_t i = 0; i < n; i++) {
    const double got[2] = {loss[i], norm[i]};
    for (size_t k = 0; k < 2; k++) {
      double want = json_number_value(json_array_get(json_array_get(steps, i), k));
      double off = fabs(got[k] - want) / want;
      *worst = fmax(*worst, off);
      if (!(off < 1e-4))
        fail_msg("%s step %zu: %s %.8g, expected %.8g", name, i + 1, k ? "grad_norm" : "loss", got[k], want);
    }
  }
  json_decref(expected);
}

static void check_fixtures(state *s, const char *dir, size_t at_least) {
  char **names;
  size_t n, done = 0;
  double worst = 0;
  assert_ok(pu_dir_list(s->a, dir, &names, &n, &s->e), &s->e);
  for (size_t i = 0; i < n; i++) {
    if (!pu_path_exists(pu_arena_printf(s->a, "%s/%s/expected.json", dir, names[i]))) continue;
    if (strstr(names[i], "awq") || strstr(names[i], "gptq") || strstr(names[i], "lora")) continue;
    check_fixture(s, dir, names[i], &worst);
    done++;
  }
  assert_true(done >= at_least);
  print_message("%zu fixtures, ten AdamW steps each: worst relative error %.1e\n", done, worst);
}

static void test_fixtures(void **arg) {
  check_fixtures(*arg, PU_FIXTURES "/hf-mini", 8);
}

static void test_shared_fixtures(void **arg) {
  if (!pu_path_is_dir(PU_SHARED "/fixtures/hf")) {
    print_message("skipped: no %s\n", PU_SHARED "/fixtures/hf");
    skip();
  }
  check_fixtures(*arg, PU_SHARED "/fixtures/hf", 8);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_fixtures, setup, teardown),
      cmocka_unit_test_setup_teardown(test_shared_fixtures, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
