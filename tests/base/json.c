/* JSON in, typed keys, strings out. */
#include "tests/test.h"

#include <stdlib.h>
#include <unistd.h>

static pu_error e;

static json_t *parse(const char *text) {
  json_t *o;
  assert_ok(pu_json_parse("t.json", pu_str_c(text), &o, &e), &e);
  return o;
}

static void errors_name_line_and_column(void **state) {
  (void)state;
  json_t *o;
  assert_int_equal(pu_json_parse("t.json", pu_str_c("{\n \"a\": 1,\n \"b\" 2}"), &o, &e), PU_ERR_FORMAT);
  assert_null(o);
  assert_memory_equal(e.msg, "t.json:3:", 9);
  assert_int_equal(pu_json_parse("t.json", pu_str_of(NULL, 0), &o, &e), PU_ERR_FORMAT);
  assert_int_equal(pu_json_parse("t.json", pu_str_c("{} x"), &o, &e), PU_ERR_FORMAT);
  char deep[5000];
  memset(deep, '[', sizeof deep);
  assert_int_equal(pu_json_parse("t.json", pu_str_of(deep, sizeof deep), &o, &e), PU_ERR_FORMAT);
}

static void files_are_capped(void **state) {
  (void)state;
  char path[] = "/tmp/puyu-json-XXXXXX";
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  close(fd);
  assert_ok(pu_file_write(path, "{\"a\":1}", 7, &e), &e);
  json_t *o;
  assert_ok(pu_json_read(path, 7, &o, &e), &e);
  json_decref(o);
  assert_int_equal(pu_json_read(path, 6, &o, &e), PU_ERR_FORMAT);
  unlink(path);
  assert_int_equal(pu_json_read(path, 7, &o, &e), PU_ERR_IO);
  assert_null(o);
}

static void keys_have_types(void **state) {
  (void)state;
  json_t *o = parse("{\"i\": 7, \"r\": 2.5, \"s\": \"text\", \"t\": true, \"n\": null, \"a\": []}");
  int64_t i;
  double r;
  bool t;
  const char *s;
  assert_ok(pu_json_int(o, "i", 0, 10, &i, "c", &e), &e);
  assert_int_equal(i, 7);
  assert_ok(pu_json_int_or(o, "none", 0, 10, 99, &i, "c", &e), &e);
  assert_int_equal(i, 99);
  assert_ok(pu_json_int_or(o, "n", 0, 10, 98, &i, "c", &e), &e);
  assert_int_equal(i, 98);
  assert_ok(pu_json_num_or(o, "r", 0, &r, "c", &e), &e);
  assert_true(r == 2.5);
  assert_ok(pu_json_num_or(o, "i", 0, &r, "c", &e), &e);
  assert_true(r == 7);
  assert_ok(pu_json_num_or(o, "none", -1, &r, "c", &e), &e);
  assert_true(r == -1);
  assert_ok(pu_json_bool_or(o, "t", false, &t, "c", &e), &e);
  assert_true(t);
  assert_ok(pu_json_bool_or(o, "n", true, &t, "c", &e), &e);
  assert_true(t);
  assert_ok(pu_json_str_or(o, "s", NULL, &s, "c", &e), &e);
  assert_string_equal(s, "text");
  assert_ok(pu_json_str_or(o, "none", "d", &s, "c", &e), &e);
  assert_string_equal(s, "d");

  assert_int_equal(pu_json_int(o, "none", 0, 10, &i, "c", &e), PU_ERR_FORMAT);
  assert_string_equal(e.msg, "c: 'none' is missing");
  assert_int_equal(pu_json_int(o, "i", 8, 10, &i, "c", &e), PU_ERR_FORMAT);
  assert_string_equal(e.msg, "c: 'i' is 7, outside 8..10");
  assert_int_equal(pu_json_int_or(o, "r", 0, 10, 0, &i, "c", &e), PU_ERR_FORMAT);
  assert_string_equal(e.msg, "c: 'r' should be an integer, but is a number with a fraction");
  assert_int_equal(pu_json_num_or(o, "s", 0, &r, "c", &e), PU_ERR_FORMAT);
  assert_string_equal(e.msg, "c: 's' should be a number, but is a string");
  assert_int_equal(pu_json_bool_or(o, "i", 0, &t, "c", &e), PU_ERR_FORMAT);
  assert_string_equal(e.msg, "c: 'i' should be true or false, but is an integer");
  assert_int_equal(pu_json_str_or(o, "a", 0, &s, "c", &e), PU_ERR_FORMAT);
  assert_string_equal(e.msg, "c: 'a' should be a string, but is an array");
  assert_int_equal(pu_json_str_or(json_object_get(o, "a"), "x", 0, &s, "c", &e), PU_ERR_FORMAT);
  assert_string_equal(e.msg, "c: not an object, so it has no 'x'");
  json_decref(o);
}

static void strings_are_escaped(void **state) {
  (void)state;
  static const struct {
    pu_str in;
    const char *out;
  } cases[] = {
      {{"", 0}, "\"\""},
      {{"plain", 5}, "\"plain\""},
      {{"\"\\/\b\f\n\r\t\x01\0\x7f", 11}, "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u0000\x7f\""},
      {{"\xE6\xB5\xA6\xE8\xAF\xAD\xF0\x9F\x90\xB1", 10}, "\"\xE6\xB5\xA6\xE8\xAF\xAD\xF0\x9F\x90\xB1\""},
      {{"a\xFF"
        "b",
        3},
       "\"a\xEF\xBF\xBD"
       "b\""},
      {{"\xE6\xB5", 2}, "\"\xEF\xBF\xBD\""},                                             /* cut short */
      {{"\xC0\xAF", 2}, "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},                                 /* overlong */
      {{"\xED\xA0\x80", 3}, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},                 /* a surrogate */
      {{"\xF4\x90\x80\x80", 4}, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""}, /* above U+10FFFF */
  };
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_buf b;
    pu_buf_init(&b, 100);
    assert_true(pu_buf_json_str(&b, cases[i].in));
    assert_string_equal(b.data, cases[i].out);
    pu_buf_deinit(&b);
  }
  pu_buf b;
  pu_buf_init(&b, 8);
  assert_true(pu_buf_puts(&b, "k:"));
  assert_false(pu_buf_json_str(&b, pu_str_c("a\nb\nc\nd")));
  assert_string_equal(b.data, "k:"); /* as it was */
  pu_buf_deinit(&b);
}

/* Whatever the bytes, the string is JSON; where they were UTF-8, it reads back. */
static void any_bytes_make_a_string(void **state) {
  (void)state;
  pu_rng r;
  pu_rng_seed(&r, 1);
  for (int round = 0; round < 5000; round++) {
    char in[16];
    size_t n = pu_rng_below(&r, sizeof in + 1);
    for (size_t i = 0; i < n; i++) in[i] = (char)(round % 2 ? pu_rng_below(&r, 128) : pu_rng_next(&r));
    pu_buf b;
    pu_buf_init(&b, 1000);
    assert_true(pu_buf_json_str(&b, pu_str_of(in, n)));
    json_t *s;
    assert_ok(pu_json_parse("bytes", pu_str_of(b.data, b.len), &s, &e), &e);
    if (round % 2) {
      assert_int_equal(json_string_length(s), n);
      assert_memory_equal(json_string_value(s), in, n);
    }
    json_decref(s);
    pu_buf_deinit(&b);
  }
}

static void text_becomes_html(void **state) {
  (void)state;
  static const struct {
    const char *in;
    size_t len;
    const char *out;
  } cases[] = {{"<b>&\"'", 6, "&lt;b&gt;&amp;&quot;&#39;"},
               {"a\xffz", 3, "a\xEF\xBF\xBDz"},
               {"a\0b\n", 4, "a\xEF\xBF\xBD\x62\n"},
               {"你好", 6, "你好"},
               {"", 0, ""}};
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    pu_buf b;
    pu_buf_init(&b, 1 << 16);
    pu_buf_html(&b, pu_str_of(cases[i].in, cases[i].len));
    assert_string_equal(b.data ? b.data : "", cases[i].out);
    pu_buf_deinit(&b);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(errors_name_line_and_column),
      cmocka_unit_test(files_are_capped),
      cmocka_unit_test(keys_have_types),
      cmocka_unit_test(strings_are_escaped),
      cmocka_unit_test(any_bytes_make_a_string),
      cmocka_unit_test(text_becomes_html),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
