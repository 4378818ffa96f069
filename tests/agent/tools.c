/* The tools that need more than their arguments: code in the sandbox, words in a folder. */
#include <sys/stat.h>

#include "puyu/sandbox.h"
#include "tests/agent/fake.h"

static char folder[] = "/tmp/puyu-agent-tools-XXXXXX";

static int set_up(void **state) {
  static const struct {
    const char *name, *text;
  } files[] = {{"docs/tea.md", "# Tea\n\nGreen tea is steeped at eighty degrees for two minutes.\n"},
               {"docs/coffee.txt", "Coffee is brewed just below the boiling point.\n"},
               {"docs/zh.txt",
                "\xE7\xBB\xBF\xE8\x8C\xB6\xE7\x94\xA8\xE5\x85\xAB\xE5\x8D\x81\xE5\xBA\xA6\xE7\x9A\x84\xE6\xB0\xB4\n"}};
  pu_error e;
  char path[200];
  (void)state;
  if (!mkdtemp(folder)) return -1;
  snprintf(path, sizeof path, "%s/docs", folder);
  assert_ok(pu_mkdirs(path, &e), &e);
  for (size_t i = 0; i < PU_COUNT(files); i++) {
    snprintf(path, sizeof path, "%s/%s", folder, files[i].name);
    assert_ok(pu_file_write(path, files[i].text, strlen(files[i].text), &e), &e);
  }
  snprintf(path, sizeof path, "%s/cache", folder);
  chmod(folder, 0755); /* the sandbox is nobody */
  return setenv("XDG_CACHE_HOME", path, 1);
}

static int tear_down(void **state) {
  pu_error e;
  (void)state;
  return pu_remove_tree(folder, &e) == PU_OK ? 0 : -1;
}

static const pu_tool *find(const char *name) {
  for (size_t i = 0; pu_tool_all[i]; i++)
    if (strcmp(pu_tool_all[i]->is.name, name) == 0) return pu_tool_all[i];
  fail_msg("no tool %s", name);
  return NULL;
}

static bool never(void) {
  return false;
}

static bool always(void) {
  return true;
}

/* One call with one argument: what the model would read. */
static const char *call(const pu_tool *t, void *state, const char *key, const char *value, pu_err *err) {
  static char text[1 << 17];
  pu_buf b;
  pu_error e;
  json_t *arguments = json_pack("{ss}", key, value);
  pu_buf_init(&b, 1 << 24);
  *err = t->call(state, arguments, never, &b, &e);
  snprintf(text, sizeof text, "%s%s%s", b.len ? b.data : "", *err && b.len ? "\n" : "", *err ? e.msg : "");
  json_decref(arguments);
  pu_buf_deinit(&b);
  return text;
}

/* ---- python ---- */

static void *open_python(const char *docs) {
  pu_error e;
  void *state = NULL;
  const pu_agent_setup setup = {.docs = docs};
  const pu_tool *t = find("python");
  if (pu_sandbox_check(&e) != PU_OK) {
    assert_int_not_equal(t->open(&setup, &state, &e), PU_OK); /* no code without walls */
    assert_true(strlen(e.msg) > 10);
    print_message("no sandbox here, so that only this was tested: %s\n", e.msg);
    skip();
  }
  if (t->open(&setup, &state, &e) != PU_OK) {
    print_message("no python here: %s\n", e.msg);
    skip();
  }
  return state;
}

static void code_as_in_a_notebook(void **unused) {
  (void)unused;
  static const struct {
    const char *code, *gives;
    bool fails;
  } rows[] = {
      {"2 + 2", "4", false},
      {"print('a')\n'b'", "a\n'b'", false},
      {"x = 6", "(no output)", false},
      {"x * 7", "42", false}, /* what was defined before is there */
      {"None", "(no output)", false},
      {"", "(no output)", false},
      {"print(x)\ny = 1/0\nz = 1",
       "6\nTraceback (most recent call last):\n  File \"<code>\", line 2, in <module>\n    y = 1/0\n        ~^~\n"
       "ZeroDivisionError: division by zero\nexit status 1",
       true},
      {"def f():\n  raise ValueError('odd')\nf()",
       "Traceback (most recent call last):\n  File \"<code>\", line 3, in <module>\n    f()\n  File \"<code>\", line "
       "2, in f\n"
       "    raise ValueError('odd')\nValueError: odd\nexit status 1",
       true},
      {"f", "<function f at 0x", false},
      {"if", "  File \"<code>\", line 1\n    if\n      ^\nSyntaxError: invalid syntax\nexit status 1", true},
      {"import sys\nsys.stderr.write('to err')\nsys.exit(3)", "to err\nexit status 3", true},
      {"'\\u4f60\\n' + chr(0)", "'\xE4\xBD\xA0\\n\\x00'", false},
      {"import socket\ntry: socket.create_connection(('127.0.0.1', 80), 1)\nexcept OSError as e: print('no')", "no",
       false},
      {"open('/tmp/f', 'w').write('kept')\nprint(open('/tmp/f').read())", "kept", false},
  };
  pu_err err;
  void *state = open_python(NULL);
  const pu_tool *t = find("python");
  for (size_t i = 0; i < PU_COUNT(rows); i++) {
    const char *got = call(t, state, "code", rows[i].code, &err);
    bool same = strncmp(got, rows[i].gives, strlen(rows[i].gives)) == 0;
    /* Marks below a line of a traceback came with Python 3.11. */
    if ((!same && !strstr(rows[i].gives, "Traceback")) || (err != PU_OK) != rows[i].fails)
      fail_msg("%s: error %d: %s", rows[i].code, err, got);
    if (strstr(rows[i].gives, "Traceback") && !strstr(got, strrchr(rows[i].gives, '\n'))) fail_msg("%s", got);
    if (strstr(got, "<string>")) fail_msg("the driver shows: %s", got);
  }
  t->reset(state);
  assert_non_null(strstr(call(t, state, "code", "x", &err), "NameError"));
  t->close(state);
}

static void code_is_bounded(void **unused) {
  (void)unused;
  pu_err err;
  void *state = open_python(NULL);
  const pu_tool *t = find("python");
  assert_non_null(strstr(call(t, state, "code", "while True: print('x' * 1000)", &err), "xxx"));
  assert_int_equal(err, PU_ERR_USAGE);
  assert_string_equal(call(t, state, "code", "1", &err), "1"); /* and is not run again */
  pu_buf b;
  pu_error e;
  json_t *arguments = json_pack("{ss}", "code", "import time\ntime.sleep(60)");
  pu_buf_init(&b, 1 << 20);
  assert_int_equal(t->call(state, arguments, always, &b, &e), PU_ERR_STOPPED);
  json_decref(arguments);
  pu_buf_deinit(&b);
  char *much = malloc((1 << 20) + 1);
  memset(much, ' ', 1 << 20);
  much[1 << 20] = 0;
  call(t, state, "code", much, &err);
  assert_int_equal(err, PU_ERR_USAGE);
  free(much);
  t->close(state);
}

static void code_reads_the_documents(void **unused) {
  (void)unused;
  char docs[200];
  pu_err err;
  snprintf(docs, sizeof docs, "%s/docs", folder);
  void *state = open_python(docs);
  const pu_tool *t = find("python");
  assert_string_equal(call(t, state, "code", "open('/data/coffee.txt').read().split()[0]", &err), "'Coffee'");
  call(t, state, "code", "open('/data/new', 'w')", &err);
  assert_int_equal(err, PU_ERR_USAGE);
  t->close(state);
}

/* ---- search ---- */

static void words_are_found(void **unused) {
  (void)unused;
  char docs[200];
  pu_err err;
  pu_error e;
  void *state = NULL;
  const pu_tool *t = find("search");
  snprintf(docs, sizeof docs, "%s/docs", folder);
  const pu_agent_setup setup = {.docs = docs};
  assert_ok(t->open(&setup, &state, &e), &e);
  const char *got = call(t, state, "query", "green tea degrees", &err);
  assert_int_equal(err, PU_OK);
  if (strncmp(got, "[1] tea.md", 10) != 0 || !strstr(got, "eighty degrees")) fail_msg("%s", got);
  got = call(t, state, "query", "\xE7\xBB\xBF\xE8\x8C\xB6", &err);
  if (strncmp(got, "[1] zh.txt", 10) != 0) fail_msg("%s", got);
  assert_string_equal(call(t, state, "query", "nosuchword", &err), "Nothing was found. Other words may help.");
  assert_string_equal(call(t, state, "query", "", &err), "Nothing was found. Other words may help.");
  call(t, state, "query", "AND \"(NEAR* tea:", &err);
  assert_int_equal(err, PU_OK);
  t->close(state);
}

static void a_folder_has_to_be_there(void **unused) {
  (void)unused;
  pu_error e;
  void *state = NULL;
  const pu_tool *t = find("search");
  assert_int_equal(t->open(&(pu_agent_setup){0}, &state, &e), PU_ERR_USAGE);
  assert_non_null(strstr(e.msg, "--docs"));
  assert_int_not_equal(t->open(&(pu_agent_setup){.docs = "/nowhere/at/all"}, &state, &e), PU_OK);
  assert_non_null(strstr(e.msg, "/nowhere/at/all"));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(code_as_in_a_notebook),    cmocka_unit_test(code_is_bounded),
      cmocka_unit_test(code_reads_the_documents), cmocka_unit_test(words_are_found),
      cmocka_unit_test(a_folder_has_to_be_there),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
