/* The option table, the checks before a run, the schedules. */
#include "src/train/config.h"
#include "src/train/loop.h"
#include "tests/test.h"

#include <math.h>

typedef struct state {
  pu_arena *a;
  pu_train_config cfg;
  pu_error e;
} state;

static const char base_yaml[] = "run: r\nmodel: {shape: puyu-2m}\ndata:\n  sources:\n    - {path: p}\n";

static void read_config(state *s, const char *more) {
  pu_buf yaml;
  pu_buf_init(&yaml, 1 << 16);
  pu_buf_printf(&yaml, "%s%s", base_yaml, more);
  memset(&s->cfg, 0, sizeof s->cfg);
  assert_ok(pu_options_default(pu_train_options, &s->cfg, s->a, &s->e), &s->e);
  assert_ok(pu_options_parse_yaml(pu_train_options, &s->cfg, "t.yaml", pu_str_of(yaml.data, yaml.len), s->a, &s->e),
            &s->e);
  pu_buf_deinit(&yaml);
}

static void refuses(state *s, const char *more, const char *message) {
  read_config(s, more);
  s->e.msg[0] = 0;
  assert_int_equal(pu_train_config_resolve(&s->cfg, 0, &s->e), PU_ERR_USAGE);
  if (!strstr(s->e.msg, message)) fail_msg("'%s' does not say '%s'", s->e.msg, message);
}

static void test_defaults(void **arg) {
  state *s = *arg;
  read_config(s, "");
  assert_ok(pu_train_config_resolve(&s->cfg, 0, &s->e), &s->e);
  assert_int_equal(s->cfg.train.global_batch, 64);
  assert_int_equal(s->cfg.train.micro_batch, 8);
  assert_int_equal(s->cfg.data.seq_len, 1024);
  assert_int_equal(s->cfg.data.sources.n, 1);
  assert_true(s->cfg.optim.betas.n == 2 && s->cfg.optim.betas.v[1] == 0.95);

  read_config(s, "train: {global_batch: 12}\n");
  assert_ok(pu_train_config_resolve(&s->cfg, 0, &s->e), &s->e);
  assert_int_equal(s->cfg.train.micro_batch, 6);

  read_config(s, "train: {micro_batch: 8}\n");
  assert_ok(pu_train_config_resolve(&s->cfg, 2, &s->e), &s->e); /* a fixed batch of two */
  assert_int_equal(s->cfg.train.global_batch, 2);
  assert_int_equal(s->cfg.train.micro_batch, 2);
}

static void test_refusals(void **arg) {
  state *s = *arg;
  refuses(s, "train: {global_batch: 10, micro_batch: 4}\n", "train.global_batch 10 is not a multiple");
  refuses(s, "train: {steps: 10}\nschedule: {warmup: 10}\n", "schedule.warmup 10 leaves nothing of train.steps 10");
  refuses(s, "train: {steps: 10}\nschedule: {type: wsd, warmup: 5, decay: 6}\n", "do not fit into train.steps 10");
  read_config(s,
              "train: {steps: 10, minutes: 5}\nschedule: {type: wsd, warmup: 50, decay: 60}\n"); /* the clock decides */
  assert_ok(pu_train_config_resolve(&s->cfg, 0, &s->e), &s->e);
  refuses(s, "optim: {lr: 1e-4}\nschedule: {min_lr: 1e-3}\n", "schedule.min_lr 0.001 is above optim.lr 0.0001");
  refuses(s, "optim: {betas: [0.9, 1.0]}\n", "optim.betas");
  refuses(s, "train: {precision: f32, weights: bf16}\n", "train.weights: bf16 goes with train.precision: bf16");
  refuses(s, "train: {weights: bf16}\nlora: {rank: 2}\n", "train.weights: bf16 goes with");
  refuses(s, "train: {precision: f32, grads: bf16}\n", "train.grads: bf16 goes with train.precision: bf16");
  refuses(s, "train: {grads: bf16}\nlora: {rank: 2}\n", "train.grads: bf16 goes with");
  refuses(s, "train: {grads: bf16, global_batch: 12, micro_batch: 4}\n", "anew by each of a step's 3 micro-batches");
  refuses(s, "train: {precision: f32, linear: fp8}\n", "train.linear: fp8 goes with train.precision: bf16");
  refuses(s, "train: {linear: fp8}\nlora: {rank: 2}\n", "train.linear: fp8 goes with");
  refuses(s, "sample: {every: 5}\n", "sample.prompts is empty");
  refuses(s, "train: {global_batch: 8, ramp_start: 16, ramp_steps: 4}\n", "train.ramp_start 16 is above");
  refuses(s, "train: {ramp_start: 16}\n", "belong together");
  read_config(s, "");
  s->cfg.model.shape = "puyu-2x";
  assert_int_equal(pu_train_config_resolve(&s->cfg, 0, &s->e), PU_ERR_USAGE);
  assert_non_null(strstr(s->e.msg, "there is no 'puyu-2x'; known: "));
  assert_non_null(strstr(s->e.msg, "puyu-25m"));
  s->cfg.model.path = "m";
  assert_int_equal(pu_train_config_resolve(&s->cfg, 0, &s->e), PU_ERR_USAGE);
  assert_non_null(strstr(s->e.msg, "not both"));
  read_config(s, "");
  s->cfg.train.global_batch = 64;
  assert_int_equal(pu_train_config_resolve(&s->cfg, 2, &s->e), PU_ERR_USAGE);
  assert_non_null(strstr(s->e.msg, "leave global_batch out"));
}

static void test_sources(void **arg) {
  state *s = *arg;
  pu_train_source two[] = {{.path = "a", .weight = 1}, {.path = "b"}};
  read_config(s, "");
  s->cfg.data.sources = (pu_list){two, 2};
  assert_int_equal(pu_train_config_resolve(&s->cfg, 0, &s->e), PU_ERR_USAGE);
  assert_non_null(strstr(s->e.msg, "1 of 2 have a weight"));
  two[0].weight = 0;
  two[1].type = PU_SOURCE_IDS;
  assert_int_equal(pu_train_config_resolve(&s->cfg, 0, &s->e), PU_ERR_USAGE);
  assert_non_null(strstr(s->e.msg, "give it alone"));
  s->cfg.data.sources.n = 0;
  assert_int_equal(pu_train_config_resolve(&s->cfg, 0, &s->e), PU_ERR_USAGE);
  assert_non_null(strstr(s->e.msg, "data.sources is empty"));
}

static void test_unknown_key(void **arg) {
  state *s = *arg;
  const char *yaml = "run: r\ntrain: {stesp: 5}\n";
  assert_int_not_equal(pu_options_parse_yaml(pu_train_options, &s->cfg, "t.yaml", pu_str_c(yaml), s->a, &s->e), PU_OK);
  assert_non_null(strstr(s->e.msg, "train.steps"));
}

static void test_changes(void **arg) {
  state *s = *arg;
  pu_buf keys;
  pu_buf_init(&keys, 4096);
  read_config(s, "");
  pu_train_config was = s->cfg;
  pu_train_config_changes(&was, &s->cfg, &keys);
  assert_int_equal(keys.len, 0);
  s->cfg.checkpoint.every = 7; /* changes no loss */
  s->cfg.train.threads = 1;
  pu_train_config_changes(&was, &s->cfg, &keys);
  assert_int_equal(keys.len, 0);
  read_config(s, "optim: {lr: 2e-3, betas: [0.9, 0.99]}\ntrain: {steps: 2000}\n");
  pu_train_config_changes(&was, &s->cfg, &keys);
  assert_string_equal(keys.data, "train.steps, optim.lr, optim.betas");
  pu_buf_clear(&keys);
  read_config(s, "schedule: {type: constant}\ntrain: {steps: 2000}\n");
  was.schedule.type = 0;
  pu_train_config_changes(&was, &s->cfg, &keys); /* a constant schedule may go on */
  assert_int_equal(keys.len, 0);
  pu_buf_deinit(&keys);
}

static void test_same_model(void **arg) {
  state *s = *arg;
  read_config(s, "");
  pu_train_config was = s->cfg;
  s->cfg.model.seed = 7; /* came too late: put back */
  assert_ok(pu_train_config_same_model(&was, &s->cfg, &s->e), &s->e);
  assert_int_equal(s->cfg.model.seed, was.model.seed);
  s->cfg.model.shape = "puyu-25m";
  assert_int_equal(pu_train_config_same_model(&was, &s->cfg, &s->e), PU_ERR_USAGE);
  assert_non_null(strstr(s->e.msg, "begun with shape puyu-2m, not puyu-25m: take another run directory"));
  s->cfg.model.shape = NULL;
  s->cfg.model.path = "m";
  assert_int_equal(pu_train_config_same_model(&was, &s->cfg, &s->e), PU_ERR_USAGE);
  was.model.shape = NULL;
  was.model.path = "n";
  assert_ok(pu_train_config_same_model(&was, &s->cfg, &s->e), &s->e);
  assert_string_equal(s->cfg.model.path, "n");
}

static void near(double a, double b) {
  if (!(fabs(a - b) <= 1e-12 * fmax(fabs(a), fabs(b)))) fail_msg("%.17g is not %.17g", a, b);
}

static void test_schedules(void **arg) {
  state *s = *arg;
  read_config(s, "train: {steps: 100}\noptim: {lr: 1.0}\nschedule: {type: cosine, warmup: 20, min_lr: 0.2}\n");
  near(pu_train_lr(&s->cfg, 1), 0.05);
  near(pu_train_lr(&s->cfg, 20), 1);
  near(pu_train_lr(&s->cfg, 60), 0.6); /* half way */
  near(pu_train_lr(&s->cfg, 80), 0.2 + 0.8 * 0.5 * (1 + cos(M_PI * 0.75)));
  near(pu_train_lr(&s->cfg, 100), 0.2);
  s->cfg.schedule.type = 1;
  near(pu_train_lr(&s->cfg, 40), 0.8);
  near(pu_train_lr(&s->cfg, 100), 0.2);
  s->cfg.schedule.type = 3; /* the default decay: a tenth */
  near(pu_train_lr(&s->cfg, 90), 1);
  near(pu_train_lr(&s->cfg, 95), 0.6);
  near(pu_train_lr(&s->cfg, 100), 0.2);
  s->cfg.schedule.type = 0;
  near(pu_train_lr(&s->cfg, 100), 1);
  s->cfg.schedule.warmup = 0;
  near(pu_train_lr(&s->cfg, 1), 1);
}

static void test_ramp(void **arg) {
  state *s = *arg;
  read_config(s, "train: {global_batch: 64, micro_batch: 8, ramp_start: 16, ramp_steps: 10}\n");
  assert_int_equal(pu_train_batch(&s->cfg, 1), 16);
  int64_t before = 0;
  for (int64_t step = 1; step <= 12; step++) {
    int64_t batch = pu_train_batch(&s->cfg, step);
    assert_true(batch >= before && batch <= 64 && batch % 8 == 0);
    before = batch;
  }
  assert_int_equal(pu_train_batch(&s->cfg, 6), 40);
  assert_int_equal(pu_train_batch(&s->cfg, 11), 64);
}

static int setup(void **arg) {
  pu_log_set_level(PU_LOG_ERROR);
  static state s;
  if (pu_arena_create(16 << 20, &s.a, &s.e) != PU_OK) return -1;
  *arg = &s;
  return 0;
}

static int teardown(void **arg) {
  pu_arena_free(((state *)*arg)->a);
  return 0;
}

/* train.minutes: the guess of train.steps ends nothing, the clock does. */
static void test_clock(void **arg) {
  static const struct {
    int64_t step;
    double seconds;
    int64_t guess, want;
  } cases[] = {{0, 0, 5, 5},     {5, 2, 5, 6},         {7, 59, 1000, 1000}, {3, 61, 1000, 3}, {8, 4, 5, 120},
               {10, 10, 99, 60}, {100, 59.9, 50, 100}, {30, 60, 50, 30},    {30, 75, 50, 30}, {60, 59, 70, 61}};
  state *s = *arg;
  pu_train_loop l = {0};
  read_config(s, "train: {minutes: 1}\n");
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    l.cfg = s->cfg;
    l.cfg.train.steps = cases[i].guess;
    l.state.step = cases[i].step;
    l.state.seconds = cases[i].seconds;
    pu_train_loop_follow_clock(&l);
    if (l.cfg.train.steps != cases[i].want)
      fail_msg("case %zu: %lld steps, not %lld", i, (long long)l.cfg.train.steps, (long long)cases[i].want);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_defaults, setup, teardown),
      cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
      cmocka_unit_test_setup_teardown(test_sources, setup, teardown),
      cmocka_unit_test_setup_teardown(test_unknown_key, setup, teardown),
      cmocka_unit_test_setup_teardown(test_changes, setup, teardown),
      cmocka_unit_test_setup_teardown(test_same_model, setup, teardown),
      cmocka_unit_test_setup_teardown(test_schedules, setup, teardown),
      cmocka_unit_test_setup_teardown(test_ramp, setup, teardown),
      cmocka_unit_test_setup_teardown(test_clock, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
