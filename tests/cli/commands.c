/* Every command's tables, and the program itself: output, exit status, words on standard error. */
#include "src/cli/cli.h"
#include "tests/shell.h"

#include <stdlib.h>

/* Keys that could not be written or told apart make a table wrong; so does a default that its own row refuses. */
static void check_table(const char *name, const pu_option *table, size_t size, bool flags) {
  pu_arena *a;
  pu_error e;
  assert_ok(pu_arena_create(1 << 24, &a, &e), &e);
  void *values = calloc(1, size);
  assert_ok(pu_options_default(table, values, a, &e), &e);
  for (const pu_option *row = table; row->key; row++) {
    if (row->type == PU_OPT_GROUP) continue;
    if (!row->help || !*row->help) fail_msg("%s: '%s' has no help", name, row->key);
    if (row->offset >= size) fail_msg("%s: '%s' lies outside of its struct", name, row->key);
    if ((row->type == PU_OPT_ENUM) != (row->choices != NULL)) fail_msg("%s: choices of '%s'", name, row->key);
    if (row->type == PU_OPT_LIST) check_table(row->key, row->sub, row->sub_size, false);
    if (flags && (strcmp(row->key, "help") == 0 || strcmp(row->key, "quiet") == 0 || strcmp(row->key, "verbose") == 0 ||
                  strncmp(row->key, "no-", 3) == 0 || strchr(row->key, '_')))
      fail_msg("%s: '--%s' is a flag every command has, or is misspelt", name, row->key);
    for (const pu_option *other = table; other < row; other++) {
      if (strcmp(other->key, row->key) == 0) fail_msg("%s: two rows '%s'", name, row->key);
      if (row->letter && row->letter == other->letter) fail_msg("%s: two flags -%c", name, row->letter);
    }
  }
  free(values);
  pu_arena_free(a);
}

static void every_table_is_sound(void **state) {
  (void)state;
  for (size_t i = 0; pu_command_all[i]; i++) {
    const pu_command *c = pu_command_all[i];
    assert_non_null(c->run);
    assert_true(c->summary && *c->summary);
    if (c->summary[strlen(c->summary) - 1] == '.') fail_msg("%s: the summary ends with a full stop", c->name);
    if (c->max_args >= 0 && c->min_args > c->max_args) fail_msg("%s: min_args above max_args", c->name);
    if (c->options) check_table(c->name, c->options, c->options_size, true);
    for (size_t k = 0; k < i; k++) assert_string_not_equal(c->name, pu_command_all[k]->name);
    char line[200];
    snprintf(line, sizeof line, "%s --help", c->name);
    assert_int_equal(puyu("%s", line), 0);
    assert_non_null(strstr(out, c->summary + 1)); /* the first letter becomes a capital */
    snprintf(line, sizeof line, "man %s", c->name);
    assert_int_equal(puyu("%s", line), 0);
    assert_memory_equal(out, ".TH \"PUYU-", 10);
  }
}

static void the_program_speaks(void **state) {
  (void)state;
  static const struct {
    const char *args;
    int status;
    const char *says; /* the whole output, or its beginning where it ends with … */
  } cases[] = {
      {"", 0, "usage: puyu COMMAND …"},
      {"--help", 0, "usage: puyu COMMAND …"},
      {"help", 0, "usage: puyu COMMAND …"},
      {"help man", 0, "usage: puyu man [COMMAND]\n…"},
      {"man --help", 0, "usage: puyu man [COMMAND]\n…"},
      {"--version", 0, "puyu " PU_VERSION "\n"},
      {"version", 0, "puyu " PU_VERSION "\n"},
      {"version now", 2, "puyu version: 'now' is one argument too many; usage: puyu version\n"},
      {"vresion", 2, "puyu: unknown command 'vresion'; did you mean 'version'?\n"},
      {"qqqqqqqqqqq", 2, "puyu: unknown command 'qqqqqqqqqqq'; `puyu --help` lists them\n"},
      {"dat", 2, "puyu: unknown command 'dat'; did you mean 'data'?\n"},
      {"dta synth", 2, "puyu: unknown command 'dta synth'; did you mean 'data synth'?\n"},
      {"gen nothing", 2, "puyu: unknown command 'gen'; did you mean 'generate'?\n"},
      {"data zzzzzzz", 2, "puyu: unknown command 'data zzzzzzz'; `puyu data --help` lists them\n"},
      {"--colour", 2, "puyu: unknown command '--colour'; `puyu --help` lists them\n"},
      {"man nothing", 2, "puyu man: no command 'nothing'; `puyu --help` lists them\n"},
      {"man --itno x", 2, "puyu man: unknown flag '--itno'; did you mean '--into'?\n"},
      {"man --into /dev/null/x", 1, "puyu man: /dev/null: cannot make the folder: File exists\n"},
      {"train /dev/null --lr 3", 2,
       "puyu train: unknown flag '--lr'; a key of the configuration is given as optim.lr=VALUE\n"},
      {"train /dev/null optim=3", 2,
       "puyu train: optim: 'optim' is a group of keys: give one of them, such as optim.…"},
      {"completion fish", 2, "puyu completion: 'fish': only bash is known\n"},
      {"data synth --out /dev/null --documents 1", 1,
       "puyu data synth: /dev/null: cannot make the folder: File exists\n"},
      {"bench serve", 2, "puyu bench serve: give either --url or --model\n"},
      {"bench serve --url http://x --model y", 2, "puyu bench serve: give either --url or --model\n"},
      {"bench serve --url http://x --rate 0", 2,
       "puyu bench serve: --rate: '0' is neither inf nor a number of requests a second\n"},
      {"bench serve --url http://x --input-len 9:3", 2,
       "puyu bench serve: --input-len: '9:3' is neither a number nor a range A:B of numbers from 1\n"},
      {"bench serve --url http://127.0.0.1:1", 1, "puyu bench serve: http://127.0.0.1:1/v1/models: …"},
      {"completion bash >/dev/full", 1, "puyu: cannot write standard output: No space left on device\n"},
      {"version >/dev/full", 1, "puyu: cannot write standard output: No space left on device\n"},
      {"completion bash | sleep 0.01", 0, ""}, /* a reader that went away is no reason for a message */
  };
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    int status = puyu("%s", cases[i].args);
    const char *more = strstr(cases[i].says, "…");
    size_t n = more ? (size_t)(more - cases[i].says) : strlen(cases[i].says) + 1;
    if (status != cases[i].status || strncmp(out, cases[i].says, n) != 0)
      fail_msg("puyu %s: status %d, says: %s", cases[i].args, status, out);
  }
}

static void groups_list_their_commands(void **state) {
  (void)state;
  for (size_t i = 0; pu_command_all[i]; i++) {
    const char *name = pu_command_all[i]->name, *space = strchr(name, ' ');
    if (!space) continue;
    char group[64];
    snprintf(group, sizeof group, "%.*s", (int)(space - name), name);
    assert_true(pu_cli_is_group(group));
    if (pu_cli_find(group)) continue; /* a command of its own as well */
    assert_int_equal(puyu("%s", group), 0);
    assert_non_null(strstr(out, name));
    strcat(group, " qqqqqqq");
    assert_int_equal(puyu("%s", group), 2);
  }
}

static void the_completion_is_bash(void **state) {
  (void)state;
  char line[600];
  snprintf(line, sizeof line,
           "version >/dev/null; command -v bash >/dev/null || exit 77; bash -c 'source <(%s completion bash);"
           " COMP_WORDS=(puyu ver); COMP_CWORD=1; _puyu; echo ${COMPREPLY[*]};"
           " COMP_WORDS=(puyu man --i); COMP_CWORD=2; _puyu; echo ${COMPREPLY[*]};"
           " COMP_WORDS=(puyu man gen); COMP_CWORD=2; _puyu; echo ${COMPREPLY[*]}'",
           PU_PROGRAM);
  int status = puyu("%s", line);
  if (status == 77) skip();
  assert_int_equal(status, 0);
  assert_string_equal(out, "version\n--into\ngenerate\n");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_table_is_sound),
      cmocka_unit_test(the_program_speaks),
      cmocka_unit_test(groups_list_their_commands),
      cmocka_unit_test(the_completion_is_bash),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
