/* What the processor can do at most: each instruction set tells of the units it has, and of no others. */
#include "puyu/compute.h"
#include "tests/test.h"

static void units_and_memory_are_measured(void **state) {
  (void)state;
  pu_error e;
  for (int isa = 0; isa <= (int)pu_isa_best(); isa++) {
    pu_backend *be;
    assert_ok(pu_cpu_open(2, (pu_isa)isa, &be, &e), &e);
    assert_int_equal(pu_cpu_unit_flops(be, PU_F32) > 0, isa >= PU_ISA_AVX2);
    assert_int_equal(pu_cpu_unit_flops(be, PU_BF16) > 0, isa >= PU_ISA_AMX);
    enum { BYTES = 4 << 20 };
    void *memory;
    assert_ok(be->alloc(be, BYTES, &memory, &e), &e);
    assert_ok(be->clear(be, memory, BYTES, &e), &e);
    assert_true(pu_cpu_read_rate(be, memory, BYTES, 2) > 0);
    be->free(be, memory);
    be->close(be);
  }
}

static void all_of_it_at_once(void **state) {
  (void)state;
  pu_error e;
  pu_backend *be;
  pu_cpu_limits l;
  assert_ok(pu_cpu_open(1, pu_isa_best(), &be, &e), &e);
  assert_ok(pu_cpu_measure(be, &l, &e), &e);
  assert_int_equal(l.bf16_flops > 0, pu_isa_best() >= PU_ISA_AMX);
  assert_int_equal(l.f32_flops > 0, pu_isa_best() >= PU_ISA_AVX2);
  assert_true(l.read_bytes > 0);
  be->close(be);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(units_and_memory_are_measured),
      cmocka_unit_test(all_of_it_at_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
