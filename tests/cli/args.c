/* Words into options and arguments, on a command made for the test. */
#include "src/cli/cli.h"
#include "tests/test.h"

#include <math.h>
#include <unistd.h>

typedef struct options {
  int64_t n;
  bool color, greedy;
  const char *model;
  pu_strs files;
  int dtype;
  double t;
} options;

static const pu_option rows[] = {
    {.key = "Sampling", .type = PU_OPT_GROUP},
    {.key = "max-tokens",
     .letter = 'n',
     .type = PU_OPT_INT,
     .offset = offsetof(options, n),
     .dflt = "256",
     .min = 1,
     .max = 4096,
     .help = "the most tokens"},
    {.key = "color", .type = PU_OPT_BOOL, .offset = offsetof(options, color), .dflt = "true", .help = "colours"},
    {.key = "greedy", .letter = 'g', .type = PU_OPT_BOOL, .offset = offsetof(options, greedy), .help = "the likeliest"},
    {.key = "model",
     .type = PU_OPT_STR,
     .offset = offsetof(options, model),
     .required = true,
     .meta = "DIR",
     .help = "the model"},
    {.key = "file",
     .type = PU_OPT_STRS,
     .offset = offsetof(options, files),
     .dflt = "default.txt",
     .help = "what to read"},
    {.key = "dtype", .type = PU_OPT_ENUM, .offset = offsetof(options, dtype), .choices = "f32|bf16", .help = "numbers"},
    {.key = "temperature",
     .type = PU_OPT_FLOAT,
     .offset = offsetof(options, t),
     .dflt = "1",
     .max = INFINITY,
     .help = "heat"},
    {0},
};

static const pu_command command = {.name = "try it",
                                   .summary = "try the flags",
                                   .usage = "FILE [MORE]",
                                   .details = "First\nparagraph.\n\n    puyu try it x\n",
                                   .options = rows,
                                   .options_size = sizeof(options),
                                   .config = rows,
                                   .min_args = 1,
                                   .max_args = 2};

static pu_arena *arena;
static pu_error e;
static pu_cli_line line;
static const options *o;

static int setup(void **state) {
  (void)state;
  return pu_arena_create(1 << 24, &arena, &e) == PU_OK ? 0 : -1;
}

static int teardown(void **state) {
  (void)state;
  pu_arena_free(arena);
  return 0;
}

#define WORDS(...) parse((char *[]){__VA_ARGS__}, (int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)))
static pu_err parse(char **words, int n) {
  e.msg[0] = 0;
  pu_err err = pu_cli_parse(&command, n, words, arena, &line, &e);
  o = line.options;
  return err;
}

static void flags_stand_anywhere(void **state) {
  (void)state;
  assert_ok(WORDS("--model", "m", "a", "-n", "5", "b", "--greedy", "--no-color", "--dtype=bf16"), &e);
  assert_int_equal(line.n_args, 2);
  assert_string_equal(line.args[0], "a");
  assert_string_equal(line.args[1], "b");
  assert_null(line.args[2]);
  assert_int_equal(o->n, 5);
  assert_true(o->greedy);
  assert_false(o->color);
  assert_int_equal(o->dtype, 1);
  assert_int_equal(o->files.n, 1);
  assert_ok(WORDS("-n7", "-g", "--model=", "-", "--temperature", ".inf", "--color=no"), &e);
  assert_int_equal(o->n, 7);
  assert_string_equal(o->model, "");
  assert_string_equal(line.args[0], "-");
  assert_true(isinf(o->t));
  assert_false(o->color);
  assert_ok(WORDS("--model", "-n", "--", "--greedy", "-x"), &e); /* a value may look like a flag */
  assert_string_equal(o->model, "-n");
  assert_string_equal(line.args[0], "--greedy");
  assert_string_equal(line.args[1], "-x");
  assert_false(o->greedy);
}

static void a_repeated_flag_makes_a_list(void **state) {
  (void)state;
  assert_ok(WORDS("--model=m", "a", "--file", "x,y", "--file=z", "--file", "[u, v]"), &e);
  assert_int_equal(o->files.n, 3); /* the default is gone */
  assert_string_equal(o->files.v[0], "x,y");
  assert_string_equal(o->files.v[1], "z");
  assert_string_equal(o->files.v[2], "[u, v]"); /* no YAML here: a stop string may look like that */
}

static void help_wins_over_errors(void **state) {
  (void)state;
  assert_ok(WORDS("--help"), &e);
  assert_true(line.help);
  assert_ok(WORDS("-h", "--nonsense"), &e);
  assert_true(line.help);
}

static void errors_say_what_to_write(void **state) {
  (void)state;
  static const struct {
    char *words[4];
    const char *msg;
  } cases[] = {
      {{"a", "--model=m", "--max-tokns=5"}, "unknown flag '--max-tokns'; did you mean '--max-tokens'?"},
      {{"a", "--model=m", "--zzzzzzz"}, "unknown flag '--zzzzzzz'; --help lists the flags"},
      {{"a", "--model=m", "-z"}, "unknown flag '-z'; --help lists the flags"},
      {{"a", "--model=m", "--no-model"}, "unknown flag '--no-model'; --help lists the flags"},
      {{"a", "--model=m", "--no-color=1"}, "--no-color takes no value"},
      {{"a", "--model=m", "-n"}, "-n needs a value: -n N"},
      {{"a", "--model"}, "--model needs a value: --model DIR"},
      {{"a", "--model=m", "-n", "many"}, "-n: 'many' is not an integer"},
      {{"a", "--model=m", "--max-tokens=0"}, "--max-tokens: 0 is outside 1..4096"},
      {{"a", "--model=m", "--dtype=f16"}, "--dtype: 'f16' is not one of f32, bf16"},
      {{"a", "--model=m", "--greedy=perhaps"}, "--greedy: 'perhaps' is neither true nor false"},
      {{"a"}, "--model DIR is required: the model"},
      {{"--model=m"}, "arguments missing; usage: puyu try it FILE [MORE]"},
      {{"--model=m", "a", "b", "c"}, "'c' is one argument too many; usage: puyu try it FILE [MORE]"},
  };
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    int n = 0;
    while (n < 4 && cases[i].words[n]) n++;
    assert_int_equal(parse((char **)cases[i].words, n), PU_ERR_USAGE);
    assert_string_equal(e.msg, cases[i].msg);
  }
}

static void configurations_take_overrides(void **state) {
  (void)state;
  char path[] = "/tmp/puyu-cli-XXXXXX";
  int fd = mkstemp(path);
  assert_true(fd >= 0);
  close(fd);
  assert_ok(pu_file_write(path, "model: m\nmax-tokens: 3\n", 23, &e), &e);
  options c;
  const char *over[] = {"max-tokens=9", "model=a=b"};
  assert_ok(pu_cli_read_config(rows, &c, path, 2, over, arena, &e), &e);
  assert_int_equal(c.n, 9);
  assert_string_equal(c.model, "a=b");
  assert_ok(pu_cli_read_config(rows, &c, path, 0, NULL, arena, &e), &e);
  assert_int_equal(c.n, 3);
  assert_int_equal(pu_cli_read_config(rows, &c, NULL, 0, NULL, arena, &e), PU_ERR_USAGE);
  assert_string_equal(e.msg, "configuration: 'model' is required: the model");
  assert_int_equal(pu_cli_read_config(rows, &c, path, 1, (const char *[]){"modle=x"}, arena, &e), PU_ERR_USAGE);
  assert_string_equal(e.msg, "modle: unknown key 'modle'; did you mean 'model'?");
  assert_int_equal(pu_cli_read_config(rows, &c, path, 1, (const char *[]){"extra"}, arena, &e), PU_ERR_USAGE);
  assert_string_equal(e.msg, "'extra' is not an override: write key=value");
  unlink(path);
}

static void help_is_made_from_the_table(void **state) {
  (void)state;
  char *text = NULL;
  size_t size = 0;
  FILE *out = open_memstream(&text, &size);
  pu_cli_print_help(out, &command);
  fclose(out);
  static const char want[] = "usage: puyu try it FILE [MORE]\n"
                             "\n"
                             "Try the flags.\n"
                             "\n"
                             "First paragraph.\n"
                             "\n"
                             "    puyu try it x\n"
                             "\n"
                             "Sampling:\n"
                             "  -n, --max-tokens N        the most tokens (1..4096, default 256)\n"
                             "  --[no-]color              colours (default on)\n"
                             "  -g, --greedy              the likeliest\n"
                             "  --model DIR               the model (required)\n"
                             "  --file TEXT               what to read (default default.txt, may be repeated)\n"
                             "  --dtype f32|bf16          numbers\n"
                             "  --temperature X           heat (at least 0, default 1)\n";
  assert_true(size > sizeof want);
  assert_memory_equal(text, want, sizeof want - 1);
  assert_non_null(strstr(text, "also given as key=value"));
  assert_non_null(strstr(text, "  color: true|false         colours (default on)\n"));
  free(text);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(flags_stand_anywhere),     T(a_repeated_flag_makes_a_list),  T(help_wins_over_errors),
      T(errors_say_what_to_write), T(configurations_take_overrides), T(help_is_made_from_the_table),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
