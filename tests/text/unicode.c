/* UTF-8 and the width of text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
// cmocka wants the three above
#include <stdint.h>
// and this one
#include <cmocka.h>

#include "puyu/text.h"

static void test_round_trip(void **state) {
  (void)state;
  pu_buf b;
  pu_buf_init(&b, 64);
  for (uint32_t cp = 0; cp <= 0x10FFFF; cp++) {
    uint32_t got = 0;
    pu_buf_clear(&b);
    assert_true(pu_utf8_put(&b, cp));
    bool surrogate = cp >= 0xD800 && cp < 0xE000;
    size_t len = pu_utf8_next(pu_str_of(b.data, b.len), &got);
    assert_int_equal(len, surrogate ? 0 : b.len);
    if (!surrogate) assert_int_equal(got, cp);
    assert_int_equal(pu_utf8_next(pu_str_of(b.data, b.len - 1), &got), 0); /* cut short */
  }
  pu_buf_deinit(&b);
}

static void test_invalid(void **state) {
  (void)state;
  static const char *const bad[] = {"\x80",         "\xC0\x80",         "\xC1\xBF",         "\xE0\x9F\xBF",
                                    "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
                                    "\xFF",         "\xE4\xB8",         "\xC3\x41"};
  uint32_t cp;
  for (size_t i = 0; i < PU_COUNT(bad); i++) {
    assert_int_equal(pu_utf8_next(pu_str_c(bad[i]), &cp), 0);
    assert_false(pu_utf8_valid(pu_str_c(bad[i])));
  }
  assert_true(pu_utf8_valid(pu_str_c("a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80")));
  assert_true(pu_utf8_valid(pu_str_of("\0", 1)));
  assert_true(pu_utf8_valid(pu_str_c("")));
}

static void test_width(void **state) {
  (void)state;
  assert_int_equal(pu_utf8_width(pu_str_c("abc")), 3);
  assert_int_equal(pu_utf8_width(pu_str_c("\xE4\xB8\xAD\xE6\x96\x87")), 4);
  assert_int_equal(pu_utf8_width(pu_str_c("e\xCC\x81")), 1);
  assert_int_equal(pu_utf8_width(pu_str_c("\xF0\x9F\x98\x80")), 2);
  assert_int_equal(pu_utf8_width(pu_str_c("\xFF")), 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_invalid),
                                     cmocka_unit_test(test_width)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
