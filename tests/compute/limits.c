/* What the processor can do at most: an instruction set tells of the units it has, and of no others. */
#include "puyu/compute.h"
#include "tests/test.h"

static void plain_code_has_no_unit(void **state) {
  (void)state;
  pu_error e;
  pu_backend *be;
  assert_ok(pu_cpu_open(2, PU_ISA_REF, &be, &e), &e);
  assert_true(pu_cpu_unit_flops(be, PU_F32) == 0 && pu_cpu_unit_flops(be, PU_BF16) == 0);
  enum { BYTES = 4 << 20 };
  void *memory;
  assert_ok(be->alloc(be, BYTES, &memory, &e), &e);
  assert_ok(be->clear(be, memory, BYTES, &e), &e);
  assert_true(pu_cpu_read_rate(be, memory, BYTES, 2) > 0);
  be->free(be, memory);
  be->close(be);
}

static void the_best_set_tells_of_its_units(void **state) {
  (void)state;
  pu_error e;
  pu_backend *be;
  pu_cpu_limits l;
  assert_ok(pu_cpu_open(1, pu_isa_best(), &be, &e), &e);
  assert_ok(pu_cpu_measure(be, &l, &e), &e);
  assert_int_equal(l.bf16_flops > 0, pu_isa_best() >= PU_ISA_AVX512);
  assert_int_equal(l.f32_flops > 0, pu_isa_best() >= PU_ISA_AVX2);
  assert_true(l.read_bytes > 0);
  be->close(be);
}

/* More than there can be: in units, with what is free and what to do. */
static void too_much_memory_is_told(void **state) {
  (void)state;
  pu_error e;
  pu_backend *be;
  void *memory;
  assert_ok(pu_cpu_open(1, PU_ISA_REF, &be, &e), &e);
  assert_int_equal(be->alloc(be, SIZE_MAX, &memory, &e), PU_ERR_NOMEM);
  assert_non_null(strstr(e.msg, "TiB of memory are not to be had"));
  assert_non_null(strstr(e.msg, "are free: lower"));
  be->close(be);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(plain_code_has_no_unit),
      cmocka_unit_test(the_best_set_tells_of_its_units),
      cmocka_unit_test(too_much_memory_is_told),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
