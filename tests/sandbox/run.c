/* Runs of programs that behave: what they get and what comes back. */
#include "puyu/sandbox.h"
#include "tests/test.h"

static void test_python(void **state) {
  (void)state;
  const char *argv[] = {"python3", "-c", "print(2+2)", NULL};
  pu_sandbox_job job = {.argv = argv, .limits = pu_sandbox_defaults()};
  pu_sandbox_result r;
  pu_error e = {0};
  assert_ok(pu_sandbox_run(&job, NULL, &r, &e), &e);
  printf("%s|%s|%g\n", r.out.data, r.err.data ? r.err.data : "", r.seconds);
  assert_int_equal(r.end, PU_SANDBOX_EXIT);
  assert_int_equal(r.code, 0);
  assert_string_equal(r.out.data, "4\n");
  pu_sandbox_result_deinit(&r);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_python)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
