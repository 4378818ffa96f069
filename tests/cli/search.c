/* `puyu search`, as it is typed. */
#include "tests/shell.h"

#include <unistd.h>

static char dir[64];

static int make_dir(void **state) {
  (void)state;
  strcpy(dir, "/tmp/puyu-search-XXXXXX");
  if (!mkdtemp(dir)) return -1;
  shell_folder = dir;
  return setenv("XDG_CACHE_HOME", dir, 1) ||
         shell("mkdir docs && printf 'Tea in Assam\\n\\nLeaves are rolled by hand.\\n' "
               "> docs/tea.txt && printf '茶叶的故事\\n\\n从前有一片叶子。\\n' > docs/zh.md");
}

static int remove_dir(void **state) {
  (void)state;
  return pu_remove_tree(dir, NULL) == PU_OK ? 0 : -1;
}

static void test_text(void **state) {
  (void)state;
  assert_int_equal(puyu("search docs rolled leaves"), 0);
  says("tea.txt, passage 1: Tea in Assam\n");
  says("Leaves are rolled by hand.");
  says("2 of 2 files read");
  assert_int_equal(puyu("search docs 'leaves nowhere'"), 0);
  says("(some of the words)");
  assert_null(strstr(out, "files read")); /* nothing has changed */
  assert_int_equal(puyu("search docs 叶子"), 0);
  says("zh.md");
  assert_int_equal(puyu("search docs zzz"), 0);
  says("nothing found");
  assert_int_equal(puyu("search docs leaves --whole"), 0);
  says("Tea in Assam\n\nLeaves are rolled by hand.\n");
}

static void test_json(void **state) {
  (void)state;
  assert_int_equal(puyu("search docs leaves --json -k 1"), 0);
  says("{\"query\": \"leaves\", \"files\": 2, \"hits\": [{\"file\": \"tea.txt\", \"title\": \"Tea in Assam\", ");
  says("\"text\": \"Tea in Assam **Leaves** are rolled by hand.\"}]}");
}

static void test_broken(void **state) {
  (void)state;
  assert_int_equal(shell("mkdir bad && printf 'GIF89a\\001\\000' > bad/x.gif && puyu search bad x"), 0);
  says("no text, or broken somewhere: 1; --broken");
  assert_int_equal(puyu("search bad x --broken"), 0);
  says("x.gif: not text");
}

static void test_usage(void **state) {
  (void)state;
  assert_int_equal(puyu("search docs"), 2);
  assert_int_equal(puyu("search missing x"), 1);
  says("missing: No such file");
  assert_int_equal(puyu("search docs x -k 0"), 2);
  assert_int_equal(puyu("search docs x -k 101"), 2);
  assert_int_equal(puyu("search docs x --index docs/tea.txt"), 1);
  says("tea.txt: no database");
  assert_int_equal(puyu("search docs leaves --index own.db"), 0);
  says("tea.txt");
  assert_int_equal(puyu("search bad leaves --index own.db"), 2);
  says("the index of another folder");
  assert_int_equal(shell("puyu search docs $(head -c 5000 /dev/zero | tr '\\0' a)"), 2);
  says("the query has 5000 bytes");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_text), cmocka_unit_test(test_json),
                                     cmocka_unit_test(test_broken), cmocka_unit_test(test_usage)};
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
