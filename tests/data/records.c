/* Records of evaluation sets: every form of file gives the same objects; what is broken is told with its place. */
#include "puyu/data.h"
#include "tests/test.h"

#include <stdlib.h>

static char folder[] = "/tmp/puyu-records-XXXXXX";

static const char *put(const char *name, const char *text) {
  static char path[200];
  pu_error e;
  snprintf(path, sizeof path, "%s/%s", folder, name);
  assert_ok(pu_file_write(path, text, strlen(text), &e), &e);
  return path;
}

static pu_err collect(void *arg, uint64_t number, const json_t *record, pu_error *e) {
  pu_buf *b = arg;
  (void)e;
  char *text = json_dumps(record, JSON_COMPACT);
  pu_buf_printf(b, "%llu%s ", (unsigned long long)number, text);
  free(text);
  return PU_OK;
}

static void gives(const char *name, const char *text, const pu_strs *columns, const char *wanted) {
  pu_buf b;
  pu_error e;
  pu_buf_init(&b, 1 << 20);
  assert_ok(pu_records_each(put(name, text), columns, collect, &b, &e), &e);
  assert_string_equal(b.data ? b.data : "", wanted);
  pu_buf_deinit(&b);
}

static void every_form(void **state) {
  (void)state;
  const char *names[] = {"q", "r"};
  const pu_strs two = {names, 2};
  gives("a.jsonl", "{\"q\":\"x\",\"r\":1}\n\n {\"q\":null} \r\n", NULL, "1{\"q\":\"x\",\"r\":1} 3{\"q\":null} ");
  gives("a.json", "[{\"q\":1},\n {\"q\":2}]", NULL, "1{\"q\":1} 2{\"q\":2} ");
  gives("b.json", "{\"version\":1,\"data\":[{\"q\":1}]}", NULL, "1{\"q\":1} ");
  gives("a.csv", "q,r\n\"a, \"\"b\"\"\nc\",d\n\ne,\n", NULL,
        "2{\"q\":\"a, \\\"b\\\"\\nc\",\"r\":\"d\"} 4{\"q\":\"e\",\"r\":\"\"} ");
  gives("b.csv", "a;b;c;d,e\n", &two, "1{\"q\":\"a;b;c;d\",\"r\":\"e\"} "); /* a comma, though semicolons are more */
  gives("a.tsv", "q\tr\na,b\tc\n", NULL, "2{\"q\":\"a,b\",\"r\":\"c\"} ");
  gives("a.txt", "one\ntwo\nthree\nfour\n", &two, "1{\"q\":\"one\",\"r\":\"two\"} 2{\"q\":\"three\",\"r\":\"four\"} ");
  gives("b.txt", "all of\nit", NULL, "1{\"text\":\"all of\\nit\"} ");
  gives("bom.csv", "\xEF\xBB\xBFq,r\nx,y\n", NULL, "2{\"q\":\"x\",\"r\":\"y\"} ");
}

static void what_is_broken(void **state) {
  (void)state;
  static const struct {
    const char *name, *text, *says;
  } rows[] = {{"a.jsonl", "{}\n{\"q\":\n", "line 2"},   {"a.jsonl", "[1]\n", ":1: not a JSON object"},
              {"a.json", "{\"q\":1}", "no list"},       {"a.json", "[1]", "not a JSON object"},
              {"a.csv", "q,r\na,b,c\n", "row 2 has 3"}, {"a.csv", "q,r\n\"a,b\n", "never closed"}};
  pu_buf b;
  pu_error e;
  pu_buf_init(&b, 1 << 20);
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    assert_int_equal(pu_records_each(put(rows[i].name, rows[i].text), NULL, collect, &b, &e), PU_ERR_FORMAT);
    if (!strstr(e.msg, rows[i].says) || !strstr(e.msg, rows[i].name)) fail_msg("no '%s' in: %s", rows[i].says, e.msg);
  }
  const char *names[] = {"q", "r"};
  const pu_strs two = {names, 2};
  assert_int_equal(pu_records_each(put("a.txt", "one\ntwo\nthree\n"), &two, collect, &b, &e), PU_ERR_FORMAT);
  assert_int_equal(pu_records_each("/no/such.csv", NULL, collect, &b, &e), PU_ERR_IO);
  assert_int_equal(pu_records_each(folder, NULL, collect, &b, &e), PU_ERR_USAGE);
  pu_buf_deinit(&b);
}

static int set_up(void **state) {
  (void)state;
  return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) ? -1 : 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_form), cmocka_unit_test(what_is_broken)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
