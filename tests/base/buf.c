/* Errors, arenas, buffers: also where memory is refused. Linked with --wrap=realloc,calloc, so that allocations fail on
 * demand. */
#include "tests/test.h"

#include <stdlib.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

void *__real_realloc(void *p, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);

static int allowed = -1; /* how many allocations succeed before all fail; -1: every one */

static bool refuse(void) {
  if (allowed < 0) return false;
  return allowed == 0 || allowed-- == 0;
}

void *__wrap_realloc(void *p, size_t size) {
  return refuse() ? NULL : __real_realloc(p, size);
}

void *__wrap_calloc(size_t n, size_t size) {
  return refuse() ? NULL : __real_calloc(n, size);
}

static void errors_are_one_line(void **state) {
  (void)state;
  pu_error e;
  assert_int_equal(pu_fail(&e, PU_ERR_FORMAT, "%s: %d", "key", 7), PU_ERR_FORMAT);
  assert_int_equal(e.code, PU_ERR_FORMAT);
  assert_string_equal(e.msg, "key: 7");
  assert_int_equal(pu_fail_in(&e, PU_ERR_IO, "file.json:%d", 3), PU_ERR_IO);
  assert_string_equal(e.msg, "file.json:3: key: 7");
  assert_int_equal(pu_fail(NULL, PU_ERR_SHAPE, "x"), PU_ERR_SHAPE);
  assert_int_equal(pu_fail_in(NULL, PU_ERR_SHAPE, "x"), PU_ERR_SHAPE);

  char big[2 * sizeof e.msg];
  memset(big, 'b', sizeof big - 1);
  big[sizeof big - 1] = 0;
  (void)pu_fail(&e, PU_ERR_IO, "%s", big);
  assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
  (void)pu_fail_in(&e, PU_ERR_IO, "%s", big);
  assert_int_equal(strlen(e.msg), sizeof e.msg - 1);
}

static void checked_arithmetic_sees_overflow(void **state) {
  (void)state;
  size_t out = 5;
  assert_true(pu_mul_overflows(SIZE_MAX / 2, 3, &out));
  assert_true(pu_add_overflows(SIZE_MAX, 1, &out));
  assert_int_equal(out, 5);
  assert_false(pu_mul_overflows(6, 7, &out));
  assert_int_equal(out, 42);
  assert_false(pu_add_overflows(SIZE_MAX - 1, 1, &out));
  assert_true(out == SIZE_MAX);
}

static void buffers_grow_to_their_maximum(void **state) {
  (void)state;
  pu_buf b;
  pu_buf_init(&b, 10);
  assert_null(b.data);
  assert_true(pu_buf_puts(&b, "hello"));
  assert_true(pu_buf_putc(&b, ' '));
  assert_true(pu_buf_printf(&b, "%d", 1234));
  assert_string_equal(b.data, "hello 1234");
  assert_true(b.cap <= 11);
  assert_false(pu_buf_putc(&b, '!'));
  assert_true(b.failed);
  assert_string_equal(b.data, "hello 1234");
  assert_false(pu_buf_append(&b, "", 0)); /* a failure lasts, so that one check after many appends is enough */
  pu_buf_clear(&b);
  assert_string_equal(b.data, "");
  assert_false(b.failed);
  assert_false(pu_buf_printf(&b, "%s", "eleven bytes"));
  assert_int_equal(b.len, 0);
  pu_buf_deinit(&b);
  assert_null(b.data);

  pu_buf_init(&b, PU_BUF_MAX);
  for (int i = 0; i < 100000; i++) assert_true(pu_buf_append(&b, &(char[]){(char)i}, 1));
  assert_int_equal(b.len, 100000);
  for (int i = 0; i < 100000; i++) assert_int_equal(b.data[i], (char)i);
  assert_int_equal(b.data[b.len], 0);
  pu_buf_deinit(&b);
  assert_false(pu_buf_reserve(&b, SIZE_MAX));
  pu_buf_deinit(&b);
}

static void buffers_survive_refused_memory(void **state) {
  (void)state;
  pu_buf b;
  pu_buf_init(&b, 1 << 20);
  allowed = 0;
  assert_false(pu_buf_puts(&b, "x"));
  allowed = -1;
  assert_null(b.data);
  pu_buf_clear(&b);
  assert_true(pu_buf_puts(&b, "kept"));
  char big[4096] = {0};
  allowed = 0;
  assert_false(pu_buf_append(&b, big, sizeof big));
  allowed = -1;
  assert_true(b.failed);
  assert_string_equal(b.data, "kept");
  pu_buf_deinit(&b);
}

static void views_compare_bytes(void **state) {
  (void)state;
  assert_true(pu_str_eq(pu_str_of("a\0b", 3), pu_str_of("a\0b", 3)));
  assert_false(pu_str_eq(pu_str_of("a\0b", 3), pu_str_of("a\0c", 3)));
  assert_false(pu_str_eq(pu_str_c("ab"), pu_str_c("a")));
  assert_true(pu_str_eq(pu_str_c(NULL), pu_str_c("")));
}

static void arenas_fill_from_the_bottom(void **state) {
  (void)state;
  pu_error e;
  pu_arena *a;
  assert_ok(pu_arena_create(4096, &a, &e), &e);
  char *one = pu_arena_alloc(a, 1), *two = pu_arena_alloc(a, 100), *none = pu_arena_alloc(a, 0);
  assert_int_equal((uintptr_t)one % 64, 0);
  assert_int_equal(two - one, 64);
  assert_int_equal(none - two, 128);
  size_t mark = pu_arena_mark(a);
  assert_string_equal(pu_arena_printf(a, "%s-%d", "x", 42), "x-42");
  assert_string_equal(pu_arena_strdup(a, "text"), "text");
  assert_string_equal(pu_arena_strndup(a, "text", 2), "te");
  assert_true(pu_arena_mark(a) > mark);
  pu_arena_release(a, mark);
  assert_int_equal(pu_arena_mark(a), mark);
  assert_true(pu_arena_peak(a) > mark);
  assert_int_equal(pu_arena_max(a), 4096);
  pu_arena_release(a, 4000); /* above what is in use: nothing to give back */
  assert_int_equal(pu_arena_mark(a), mark);

  /* The end is filled downwards, with marks of its own, and the two ends meet. */
  char *last = pu_arena_alloc_end(a, 1), *before = pu_arena_alloc_end(a, 100);
  assert_int_equal((uintptr_t)last % 64, 0);
  assert_int_equal(last - one, 4096 - 64);
  assert_int_equal(last - before, 128);
  assert_int_equal(pu_arena_mark_end(a), 64 + 128);
  assert_int_equal(pu_arena_mark(a), mark);
  assert_true(pu_arena_at_end(a, before) && pu_arena_at_end(a, last));
  assert_false(pu_arena_at_end(a, before - 1) || pu_arena_at_end(a, one + 4096) || pu_arena_at_end(a, one));
  assert_null(pu_arena_alloc(a, 4096 - 64 - 128 - mark + 1)); /* mark is a multiple of 64 */
  assert_null(pu_arena_alloc_end(a, 4096 - 64 - 128 - mark + 1));
  pu_arena_release_end(a, 64);
  assert_ptr_equal(pu_arena_alloc_end(a, 100), before);
  pu_arena_release_end(a, 4000); /* above what is in use */
  assert_int_equal(pu_arena_mark_end(a), 64 + 128);
  assert_non_null(pu_arena_alloc(a, 4096 - 64 - 128 - mark - 64));
  assert_int_equal(pu_arena_peak(a), 4096 - 64);

  pu_arena_reset(a);
  assert_int_equal(pu_arena_mark_end(a), 0);
  uint8_t *all = pu_arena_alloc(a, 4096);
  assert_non_null(all);
  memset(all, 0xAB, 4096);
  assert_null(pu_arena_alloc(a, 1));
  assert_null(pu_arena_strdup(a, "no room"));
  assert_null(pu_arena_printf(a, "no room"));
  pu_arena_reset(a);
  uint8_t *cleared = pu_arena_zalloc(a, 4096);
  for (int i = 0; i < 4096; i++) assert_int_equal(cleared[i], 0);
  assert_null(pu_arena_alloc(a, SIZE_MAX));
  assert_null(pu_arena_strndup(a, "", SIZE_MAX));
  pu_arena_free(a);
  pu_arena_free(NULL);
}

static void arenas_reserve_more_than_they_touch(void **state) {
  (void)state;
  pu_error e;
  pu_arena *a;
  assert_ok(pu_arena_create((size_t)32 << 30, &a, &e), &e);
  uint8_t *p = pu_arena_alloc(a, (size_t)1 << 30);
  assert_non_null(p);
  p[0] = 1;
  pu_arena_free(a);
  assert_int_equal(pu_arena_create(SIZE_MAX, &a, &e), PU_ERR_NOMEM);
  assert_int_equal(pu_arena_create(SIZE_MAX / 4, &a, &e), PU_ERR_NOMEM);
  assert_null(a);
  allowed = 0;
  assert_int_equal(pu_arena_create(4096, &a, &e), PU_ERR_NOMEM);
  assert_int_equal(pu_arena_wrap(&e, 1, &a, &e), PU_ERR_NOMEM);
  allowed = -1;
}

/* Only a build with ASan has anything to say here. */
static void sanitizers_see_beyond_the_last_byte(void **state) {
  (void)state;
#if defined(__SANITIZE_ADDRESS__)
  pu_error e;
  pu_arena *a;
  assert_ok(pu_arena_create((size_t)1 << 30, &a, &e), &e);
  char *p = pu_arena_alloc(a, 100);
  assert_false(__asan_address_is_poisoned(p + 99));
  assert_true(__asan_address_is_poisoned(p + 100));
  char *q = pu_arena_alloc(a, 100);
  assert_true(__asan_address_is_poisoned(p + 127)); /* the gap before the next */
  assert_false(__asan_address_is_poisoned(q));
  char *big = pu_arena_alloc(a, (size_t)1 << 20);
  assert_false(__asan_address_is_poisoned(big) || __asan_address_is_poisoned(big + (1 << 20) - 1));
  assert_true(__asan_address_is_poisoned(big + (1 << 20)));
  pu_arena_reset(a);
  assert_true(__asan_address_is_poisoned(p) && __asan_address_is_poisoned(big));
  big = pu_arena_alloc(a, (size_t)2 << 20);
  assert_false(__asan_address_is_poisoned(big) || __asan_address_is_poisoned(big + (2 << 20) - 1));
  assert_true(__asan_address_is_poisoned(big + (2 << 20)));
  pu_arena_free(a);
#else
  skip();
#endif
}

static void arenas_wrap_memory_they_never_touch(void **state) {
  (void)state;
  pu_error e;
  pu_arena *a;
  /* Addresses nobody may read: a device's. */
  assert_ok(pu_arena_wrap((void *)(uintptr_t)0x10008, 1024, &a, &e), &e);
  assert_int_equal((uintptr_t)pu_arena_alloc(a, 10), 0x10040); /* aligned, though the memory was not */
  assert_int_equal((uintptr_t)pu_arena_alloc(a, 10), 0x10080);
  assert_null(pu_arena_alloc(a, 1024));
  pu_arena_reset(a);
  pu_arena_free(a);
}

static void ends_are_compared(void **state) {
  (void)state;
  assert_true(pu_ends_with("a.json", ".json") && pu_ends_with(".json", ".json") && pu_ends_with("a", ""));
  assert_false(pu_ends_with("json", ".json") || pu_ends_with("a.jsonl", ".json") || pu_ends_with("", "a"));
  assert_true(pu_str_ends(pu_str_of("abc", 2), "b") && pu_str_ends((pu_str){0}, ""));
  assert_false(pu_str_ends(pu_str_of("abc", 2), "c") || pu_str_ends((pu_str){0}, "c"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(ends_are_compared),
      cmocka_unit_test(errors_are_one_line),
      cmocka_unit_test(checked_arithmetic_sees_overflow),
      cmocka_unit_test(buffers_grow_to_their_maximum),
      cmocka_unit_test(buffers_survive_refused_memory),
      cmocka_unit_test(views_compare_bytes),
      cmocka_unit_test(arenas_fill_from_the_bottom),
      cmocka_unit_test(arenas_reserve_more_than_they_touch),
      cmocka_unit_test(sanitizers_see_beyond_the_last_byte),
      cmocka_unit_test(arenas_wrap_memory_they_never_touch),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
