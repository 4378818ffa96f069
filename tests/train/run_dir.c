/* The run's directory, and the lines written into it. */
#include "src/train/run_dir.h"
#include "src/train/metrics.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64];
static pu_error e;

static void touch(const char *name, const char *text) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  assert_ok(pu_file_write(path, text, strlen(text), &e), &e);
}

static void make_dir(const char *name) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  assert_ok(pu_mkdirs(path, &e), &e);
}

static bool exists(const char *name) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  return pu_path_exists(path);
}

static void assert_text(const char *name, const char *text) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s", dir, name);
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  assert_ok(pu_file_read(path, 1 << 20, &b, &e), &e);
  assert_string_equal(b.data, text);
  pu_buf_deinit(&b);
}

static void test_checkpoints(void **arg) {
  (void)arg;
  pu_claim *lock;
  int64_t step;
  make_dir("step-000010");
  make_dir("step-000200");
  make_dir("step-1000000");
  make_dir("step-000300.tmp/x"); /* killed while it was written */
  make_dir("step-7");            /* not ours */
  make_dir("step-000400x");
  touch("step-000500", "a file");
  assert_ok(pu_train_dir_open(dir, &lock, &e), &e);
  assert_false(exists("step-000300.tmp"));
  assert_ok(pu_train_dir_newest(dir, &step, &e), &e);
  assert_int_equal(step, 1000000);
  assert_ok(pu_train_dir_before(dir, 1000000, &step, &e), &e);
  assert_int_equal(step, 200);
  assert_ok(pu_train_dir_before(dir, 10, &step, &e), &e);
  assert_int_equal(step, -1);
  assert_ok(pu_train_dir_prune(dir, 5, &e), &e);
  assert_true(exists("step-000010"));
  assert_ok(pu_train_dir_prune(dir, 2, &e), &e);
  assert_false(exists("step-000010"));
  assert_true(exists("step-000200") && exists("step-1000000") && exists("step-7") && exists("step-000500"));
  assert_ok(pu_train_dir_prune(dir, 1, &e), &e);
  assert_false(exists("step-000200"));
  assert_true(exists("step-1000000"));
  pu_claim *again;
  assert_int_equal(pu_train_dir_open(dir, &again, &e), PU_ERR_IO); /* flock: also within one process */
  assert_non_null(strstr(e.msg, "another training may be running"));
  pu_claim_close(lock);
}

/* A lock that cannot be made is no other training. */
static void test_no_lock(void **arg) {
  (void)arg;
  pu_claim *lock;
  make_dir("lock");
  assert_int_equal(pu_train_dir_open(dir, &lock, &e), PU_ERR_IO);
  assert_non_null(strstr(e.msg, "lock"));
  assert_null(strstr(e.msg, "another training"));
}

static void test_newest_of_none(void **arg) {
  (void)arg;
  int64_t step;
  assert_ok(pu_train_dir_newest(dir, &step, &e), &e);
  assert_int_equal(step, -1);
}

static void test_read_only(void **arg) {
  (void)arg;
  if (geteuid() == 0) skip(); /* root may write anywhere */
  pu_claim *lock;
  assert_int_equal(chmod(dir, 0555), 0);
  pu_err err = pu_train_dir_open(dir, &lock, &e);
  assert_int_equal(chmod(dir, 0755), 0);
  assert_int_equal(err, PU_ERR_IO);
  assert_non_null(strstr(e.msg, "read-only"));
}

static void test_cut(void **arg) {
  (void)arg;
  const char *all = "{\"step\":1,\"loss\":2}\n{\"step\":2,\"loss\":1}\n{\"step\":2,\"valid_loss\":1}\n{\"step\":3}\n";
  touch("m", all);
  assert_ok(pu_train_dir_cut(dir, "m", 3, &e), &e);
  assert_text("m", all);
  assert_ok(pu_train_dir_cut(dir, "m", 2, &e), &e);
  assert_text("m", "{\"step\":1,\"loss\":2}\n{\"step\":2,\"loss\":1}\n{\"step\":2,\"valid_loss\":1}\n");
  touch("m", "{\"step\":1,\"loss\":2}\n{\"step\":2,\"lo"); /* killed inside a line */
  assert_ok(pu_train_dir_cut(dir, "m", 9, &e), &e);
  assert_text("m", "{\"step\":1,\"loss\":2}\n");
  touch("m", "{\"step\":1,\"loss\":2}\n{\"step\":2,\"lo\n"); /* torn, and ended by an editor */
  assert_ok(pu_train_dir_cut(dir, "m", 9, &e), &e);
  assert_text("m", "{\"step\":1,\"loss\":2}\n");
  touch("m", "{\"step\":1,\"loss\":2}\n{\"step\":2,\"lo\n{\"step\":3}\n");
  assert_int_equal(pu_train_dir_cut(dir, "m", 9, &e), PU_ERR_FORMAT);
  assert_non_null(strstr(e.msg, "/m:2: not JSON"));
  assert_text("m", "{\"step\":1,\"loss\":2}\n{\"step\":2,\"lo\n{\"step\":3}\n"); /* nothing is lost */
  assert_ok(pu_train_dir_cut(dir, "m", 0, &e), &e);
  assert_text("m", "");
  assert_ok(pu_train_dir_cut(dir, "missing", 0, &e), &e);
}

static void test_lines(void **arg) {
  (void)arg;
  pu_train_log l;
  assert_ok(pu_train_log_open(&l, dir, "metrics.jsonl", &e), &e);
  const double values[] = {0.1, 1.0 / 3, 5e-324, 1.7976931348623157e308, NAN};
  for (size_t i = 0; i < PU_COUNT(values); i++) {
    pu_train_log_begin(&l);
    pu_train_log_int(&l, "step", (int64_t)i);
    pu_train_log_num(&l, "loss", values[i]);
    pu_train_log_str(&l, "text", pu_str_c("a\"b\n"));
    assert_ok(pu_train_log_end(&l, &e), &e);
  }
  pu_train_log_close(&l);
  char path[PATH_MAX], *line = NULL;
  snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
  FILE *f = fopen(path, "r");
  size_t cap = 0;
  for (size_t i = 0; i < PU_COUNT(values); i++) {
    assert_true(getline(&line, &cap, f) > 0);
    json_t *o = json_loads(line, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(o, "step")), i);
    assert_string_equal(json_string_value(json_object_get(o, "text")), "a\"b\n");
    const json_t *v = json_object_get(o, "loss");
    if (isnan(values[i]))
      assert_true(json_is_null(v));
    else
      assert_true(json_real_value(v) == values[i]);
    json_decref(o);
  }
  assert_true(getline(&line, &cap, f) < 0);
  free(line);
  fclose(f);
}

static int setup(void **arg) {
  (void)arg;
  strcpy(dir, "/tmp/puyu-test-XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **arg) {
  (void)arg;
  return pu_remove_tree(dir, &e) == PU_OK ? 0 : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_checkpoints, setup, teardown),
      cmocka_unit_test_setup_teardown(test_no_lock, setup, teardown),
      cmocka_unit_test_setup_teardown(test_newest_of_none, setup, teardown),
      cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
      cmocka_unit_test_setup_teardown(test_cut, setup, teardown),
      cmocka_unit_test_setup_teardown(test_lines, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
