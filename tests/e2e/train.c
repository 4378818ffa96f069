/* The commands train and report from the outside: text to a model with samples and a report; PyTorch's numbers; the
 * exit statuses that scripts rely on. */
#include "tests/e2e/program.h"

#include <math.h>

typedef struct state {
  char dir[64];
  pu_arena *a;
  pu_error e;
} state;

static const char *path_in(state *s, const char *name) {
  return pu_arena_printf(s->a, "%s/%s", s->dir, name);
}

static void write_text(state *s, const char *name, const char *text) {
  assert_ok(pu_file_write(path_in(s, name), text, strlen(text), &s->e), &s->e);
}

/* Runs to the end; both outputs are shown where the status is not the expected one. */
static void run(state *s, int status, const char *const *words) {
  int got = program_wait(program_start(words, path_in(s, "out"), path_in(s, "err")));
  if (got == status) return;
  (void)file_says(path_in(s, "out"), "\1");
  (void)file_says(path_in(s, "err"), "\1");
  fail_msg("puyu %s: exit status %d, expected %d", words[0], got, status);
}
#define RUN(s, status, ...) run(s, status, (const char *const[]){__VA_ARGS__, NULL})

static json_t *read_line(FILE *f) {
  char *line = NULL;
  size_t cap = 0;
  json_t *o = getline(&line, &cap, f) > 0 ? json_loads(line, 0, NULL) : NULL;
  free(line);
  return o;
}

static void test_fixture(void **arg) {
  state *s = *arg;
  const char *fixture = PU_FIXTURES "/hf-mini/internlm2-tiny";
  const char *yaml = pu_arena_printf(s->a,
                                     "task: pretrain\nrun: %s/fixture\nmodel: {path: %s}\n"
                                     "data:\n  sources:\n    - {type: ids, path: %s/expected.safetensors, key: "
                                     "input_ids}\ntrain: {steps: 1000, precision: bf16, grad_clip: 1.0}\n"
                                     "optim: {betas: [0.9, 0.95], eps: 1.0e-8, weight_decay: 0.1, decay_all: true}\n"
                                     "schedule: {type: constant}\n",
                                     s->dir, fixture, fixture);
  write_text(s, "fixture.yaml", yaml);
  RUN(s, 0, "train", path_in(s, "fixture.yaml"), "train.steps=10", "train.precision=f32", "optim.lr=1e-3");
  json_t *expected;
  assert_ok(pu_json_read(pu_arena_printf(s->a, "%s/expected.json", fixture), 1 << 20, &expected, &s->e), &s->e);
  const json_t *steps = json_object_get(json_object_get(expected, "adamw"), "loss_and_grad_norm");
  FILE *f = fopen(path_in(s, "fixture/metrics.jsonl"), "r");
  assert_non_null(f);
  for (size_t i = 0; i < 10; i++) {
    json_t *line = read_line(f);
    static const char *const keys[] = {"loss", "grad_norm"};
    for (size_t k = 0; k < 2; k++) {
      double want = json_number_value(json_array_get(json_array_get(steps, i), k));
      double got = json_number_value(json_object_get(line, keys[k]));
      if (!(fabs(got - want) < 1e-4 * want)) fail_msg("step %zu: %s %.8g, expected %.8g", i + 1, keys[k], got, want);
    }
    json_decref(line);
  }
  fclose(f);
  json_decref(expected);
  assert_true(pu_path_exists(path_in(s, "fixture/step-000010/model.safetensors")));
  assert_true(pu_path_exists(path_in(s, "fixture/config.yaml")));
}

static void test_text(void **arg) {
  state *s = *arg;
  pu_buf text;
  pu_buf_init(&text, 1 << 20);
  for (int i = 0; i < 400; i++) pu_buf_printf(&text, "The %d cats sat on mat %d.\n", i % 7, i % 5);
  write_text(s, "book.txt", text.data);
  pu_buf_deinit(&text);
  write_text(s, "lines.jsonl", "{\"content\": \"One <b>cat</b>.\"}\n\n{\"text\": \"Two cats sat on a mat.\"}\n");
  RUN(s, 0, "tokenizer", "train", "--vocab-size", "320", "--out", path_in(s, "tok"), path_in(s, "book.txt"));
  const char *yaml = pu_arena_printf(
      s->a,
      "run: %s/<text>\nmodel: {shape: puyu-2m, tokenizer: %s/tok}\n"
      "data:\n  seq_len: 32\n  sources:\n    - {type: text, path: %s/book.txt}\n    - {type: jsonl, path: "
      "%s/lines.jsonl}\ntrain: {steps: 6, global_batch: 4}\noptim: {lr: 2e-3}\nvalidate: {every: 3, batches: 1, path: "
      "%s/book.txt}\nsample: {every: 3, prompts: [\"The <cat>\"], max_tokens: 8}\n",
      s->dir, s->dir, s->dir, s->dir, s->dir);
  write_text(s, "text.yaml", yaml);
  RUN(s, 0, "train", path_in(s, "text.yaml"), "--report", path_in(s, "report.html"));
  static const char *const made[] = {"tokenizer.json", "config.json", "model.safetensors", "state.json",
                                     "optimizer.safetensors"};
  for (size_t i = 0; i < PU_COUNT(made); i++)
    assert_true(pu_path_exists(pu_arena_printf(s->a, "%s/<text>/step-000006/%s", s->dir, made[i])));
  FILE *f = fopen(path_in(s, "<text>/samples.jsonl"), "r");
  for (int i = 1; i <= 2; i++) {
    json_t *line = read_line(f);
    assert_int_equal(json_integer_value(json_object_get(line, "step")), 3 * i);
    assert_true(json_is_string(json_object_get(line, "text")));
    json_decref(line);
  }
  fclose(f);
  static const char *const said[] = {
      "<svg", "&lt;text&gt;", "The &lt;cat&gt;", "prefers-color-scheme", "validation loss", "Loss by source"};
  for (size_t i = 0; i < PU_COUNT(said); i++) assert_true(file_says(path_in(s, "report.html"), said[i]));
  assert_true(file_says(path_in(s, "err"), "memory plan: "));
  RUN(s, 0, "report", path_in(s, "<text>"));
  assert_true(pu_path_exists(path_in(s, "<text>/report.html")));
  /* All steps are made: the tokenised text is gone. The checkpoint and the text have all it takes to go on. */
  assert_false(pu_path_exists(path_in(s, "<text>/cache")));
  RUN(s, 0, "train", path_in(s, "text.yaml"), "train.steps=7", "schedule.type=constant");
  assert_true(file_says(path_in(s, "err"), "resuming after step 6"));
  assert_true(file_says(path_in(s, "err"), "changed since step 6: schedule.type;"));
  /* Nothing is read for nothing. */
  RUN(s, 0, "train", path_in(s, "text.yaml"), "train.steps=7", "schedule.type=constant",
      "data.sources=[{type: text, path: /nowhere}]");
  assert_true(file_says(path_in(s, "err"), "nothing to do: the run has its 7 steps"));
  assert_false(file_says(path_in(s, "err"), "memory plan: "));
  /* A run keeps its tokenizer; the same one in another place is the same. */
  RUN(s, 0, "tokenizer", "train", "--vocab-size", "264", "--out", path_in(s, "tok2"), path_in(s, "book.txt"));
  RUN(s, 2, "train", path_in(s, "text.yaml"), "train.steps=9",
      pu_arena_printf(s->a, "model.tokenizer=%s/tok2", s->dir));
  assert_true(file_says(path_in(s, "err"), "was begun with another tokenizer than"));
}

/* By the clock: nobody claims a number of steps, and no number of them is held against the warm-up. */
static void test_minutes(void **arg) {
  state *s = *arg;
  RUN(s, 0, "train", path_in(s, "fixture.yaml"), "train.minutes=0.005",
      pu_arena_printf(s->a, "run=%s/minutes", s->dir));
  assert_true(file_says(path_in(s, "err"), "as many steps of "));
  assert_true(file_says(path_in(s, "err"), " as fit in 0.005 min"));
  assert_false(file_says(path_in(s, "err"), "passes"));
  assert_false(file_says(path_in(s, "err"), "step 1/"));
  RUN(s, 0, "train", path_in(s, "fixture.yaml"), "train.minutes=0.005", "train.steps=2", "schedule.warmup=100000",
      pu_arena_printf(s->a, "run=%s/hurry", s->dir));
  assert_true(file_says(path_in(s, "err"), "of schedule.warmup 100000: the rate never reached optim.lr"));
}

static void test_exit_statuses(void **arg) {
  state *s = *arg;
  write_text(s, "bad.yaml", "run: r\ntrain: {stepz: 1}\n");
  RUN(s, 2, "train", path_in(s, "bad.yaml"));
  assert_true(file_says(path_in(s, "err"), "bad.yaml:2: unknown key 'train.stepz'; did you mean 'train.steps'?"));
  write_text(s, "bad.yaml", "run: r\nmodel: {shape: puyu-2m}\ndata: {sources: [{path: /nowhere}]}\n");
  RUN(s, 1, "train", path_in(s, "bad.yaml"), pu_arena_printf(s->a, "run=%s/bad", s->dir));
  assert_true(file_says(path_in(s, "err"), "/nowhere"));
  RUN(s, 2, "train", path_in(s, "bad.yaml"), pu_arena_printf(s->a, "run=%s/never", s->dir), "schedule.warmup=99999");
  assert_false(pu_path_exists(path_in(s, "never"))); /* what makes no sense leaves nothing behind */
  RUN(s, 1, "train", path_in(s, "missing.yaml"));
  RUN(s, 2, "train");
  RUN(s, 1, "report", s->dir);
  assert_true(file_says(path_in(s, "err"), "is this the directory of a run?"));
}

static int setup(void **arg) {
  static state s;
  strcpy(s.dir, "/tmp/puyu-e2e-XXXXXX");
  if (!mkdtemp(s.dir) || pu_arena_create(64 << 20, &s.a, &s.e) != PU_OK) return -1;
  *arg = &s;
  return 0;
}

static int teardown(void **arg) {
  state *s = *arg;
  pu_err err = pu_remove_tree(s->dir, &s->e);
  pu_arena_free(s->a);
  return err == PU_OK ? 0 : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_fixture), cmocka_unit_test(test_text),
                                     cmocka_unit_test(test_minutes), cmocka_unit_test(test_exit_statuses)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
