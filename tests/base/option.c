/* Option tables: values from text and YAML, the exact words of errors, and what is written reads back the same. */
#include "tests/test.h"

#include <math.h>

typedef struct source {
  const char *path;
  double weight;
} source;

typedef struct config {
  bool resume;
  int64_t steps;
  double lr;
  pu_floats betas;
  const char *name, *dir;
  int dtype;
  pu_strs tags;
  pu_list data;
  double limit;
} config;

static const pu_option source_rows[] = {
    {.key = "path", .type = PU_OPT_STR, .offset = offsetof(source, path), .required = true, .help = "the shard"},
    {.key = "weight", .type = PU_OPT_FLOAT, .offset = offsetof(source, weight), .dflt = "1", .max = 100},
    {0},
};

static const pu_option rows[] = {
    {.key = "Training", .type = PU_OPT_GROUP},
    {.key = "train.steps", .type = PU_OPT_INT, .offset = offsetof(config, steps), .dflt = "100", .min = 1, .max = 1e6},
    {.key = "train.resume", .type = PU_OPT_BOOL, .offset = offsetof(config, resume)},
    {.key = "optim.lr", .type = PU_OPT_FLOAT, .offset = offsetof(config, lr), .dflt = "3e-4", .max = 1},
    {.key = "optim.betas", .type = PU_OPT_FLOATS, .offset = offsetof(config, betas), .dflt = "0.9,0.95"},
    {.key = "name", .type = PU_OPT_STR, .offset = offsetof(config, name), .dflt = "run"},
    {.key = "model.path", .type = PU_OPT_STR, .offset = offsetof(config, dir), .required = true, .help = "a folder"},
    {.key = "train.dtype",
     .type = PU_OPT_ENUM,
     .offset = offsetof(config, dtype),
     .choices = "f32|bf16",
     .also = "float=f32|half=bf16",
     .dflt = "bf16"},
    {.key = "tags", .type = PU_OPT_STRS, .offset = offsetof(config, tags)},
    {.key = "limit", .type = PU_OPT_FLOAT, .offset = offsetof(config, limit), .min = 0, .max = INFINITY},
    {.key = "data",
     .type = PU_OPT_LIST,
     .offset = offsetof(config, data),
     .sub = source_rows,
     .sub_size = sizeof(source)},
    {0},
};

static pu_arena *arena;
static config c;
static pu_error e;

static int setup(void **state) {
  (void)state;
  assert_ok(pu_arena_create((size_t)64 << 20, &arena, &e), &e);
  assert_ok(pu_options_default(rows, &c, arena, &e), &e);
  return 0;
}

static int teardown(void **state) {
  (void)state;
  pu_arena_free(arena);
  return 0;
}

static pu_err yaml(const char *text) {
  assert_ok(pu_options_default(rows, &c, arena, &e), &e);
  e.msg[0] = 0;
  return pu_options_parse_yaml(rows, &c, "t.yaml", pu_str_c(text), arena, &e);
}

static pu_err set(const char *key, const char *value) {
  char where[64];
  snprintf(where, sizeof where, "--%s", key);
  e.msg[0] = 0;
  return pu_options_set(rows, &c, key, value, where, arena, &e);
}

static void defaults_come_from_the_table(void **state) {
  (void)state;
  assert_int_equal(c.steps, 100);
  assert_false(c.resume);
  assert_true(c.lr == 3e-4);
  assert_int_equal(c.betas.n, 2);
  assert_true(c.betas.v[0] == 0.9 && c.betas.v[1] == 0.95);
  assert_string_equal(c.name, "run");
  assert_null(c.dir);
  assert_int_equal(c.dtype, 1);
  assert_int_equal(c.tags.n, 0);
}

static void text_sets_values(void **state) {
  (void)state;
  assert_ok(set("train.steps", "7"), &e);
  assert_ok(set("train.resume", "YES"), &e);
  assert_ok(set("optim.lr", "1.0e-3"), &e);
  assert_ok(set("optim.betas", "0.5, 0.25 ,1"), &e);
  assert_ok(set("name", ""), &e);
  assert_ok(set("tags", "a,b"), &e);
  assert_ok(set("tags", "c"), &e);
  assert_ok(set("limit", "inf"), &e);
  assert_ok(set("data", "[{path: x, weight: 2}, {path: y}]"), &e);
  assert_int_equal(c.steps, 7);
  assert_true(c.resume);
  assert_true(c.lr == 1e-3);
  assert_int_equal(c.betas.n, 3);
  assert_true(c.betas.v[1] == 0.25);
  assert_string_equal(c.name, "");
  assert_int_equal(c.tags.n, 2);
  assert_string_equal(c.tags.v[0], "a,b");
  assert_true(isinf(c.limit));
  const source *s = c.data.items;
  assert_int_equal(c.data.n, 2);
  assert_string_equal(s[1].path, "y");
  assert_true(s[0].weight == 2 && s[1].weight == 1);
  assert_ok(set("tags", "[x]"), &e);
  assert_int_equal(c.tags.n, 1);
}

static void old_words_are_still_read(void **state) {
  (void)state;
  assert_ok(set("train.dtype", "float"), &e);
  assert_int_equal(c.dtype, 0);
  assert_ok(set("train.dtype", "half"), &e);
  assert_int_equal(c.dtype, 1);
}

static void text_errors_name_place_and_mend(void **state) {
  (void)state;
  static const struct {
    const char *key, *value, *msg;
  } cases[] = {
      {"train.steps", "1.5", "--train.steps: '1.5' is not an integer"},
      {"train.steps", "1_000", "--train.steps: '1_000' is not an integer"},
      {"train.steps", "", "--train.steps: '' is not an integer"},
      {"train.steps", "0", "--train.steps: 0 is outside 1..1000000"},
      {"train.steps", "99999999999999999999", "--train.steps: 99999999999999999999 does not fit into 64 bits"},
      {"train.resume", "maybe", "--train.resume: 'maybe' is neither true nor false"},
      {"optim.lr", "fast", "--optim.lr: 'fast' is not a number"},
      {"optim.lr", "nan", "--optim.lr: 'nan' is not a number"},
      {"optim.lr", "0x1p-3", "--optim.lr: '0x1p-3' is not a number"},
      {"optim.lr", "inf", "--optim.lr: inf is not finite"},
      {"optim.lr", "1e999", "--optim.lr: 1e999 is not finite"},
      {"optim.lr", "-1", "--optim.lr: -1 is outside 0..1"},
      {"limit", "-2", "--limit: -2 is too small: at least 0"},
      {"limit", "1e999", "--limit: 1e999 is not finite"},
      {"optim.betas", "1,,2", "--optim.betas: '' is not a number"},
      {"train.dtype", "f16", "--train.dtype: 'f16' is not one of f32, bf16"},
      {"train.dtype", "hal", "--train.dtype: 'hal' is not one of f32, bf16"},
      {"train.dtype", "half=bf16", "--train.dtype: 'half=bf16' is not one of f32, bf16"},
      {"trian.steps", "1", "--trian.steps: unknown key 'trian.steps'; did you mean 'train.steps'?"},
      {"lr", "1", "--lr: unknown key 'lr'; did you mean 'optim.lr'?"},
      {"zebra.crossing", "1", "--zebra.crossing: unknown key 'zebra.crossing'"},
      {"Training", "1", "--Training: unknown key 'Training'"},
      {"data", "x", "--data: 'data' is a list of mappings: write it as [{key: value}]"},
      {"data", "[{path: x}", "--data: did not find expected ',' or ']' while parsing a flow sequence"},
  };
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    assert_int_not_equal(set(cases[i].key, cases[i].value), PU_OK);
    assert_string_equal(e.msg, cases[i].msg);
  }
}

static void yaml_sets_values(void **state) {
  (void)state;
  assert_ok(yaml("# a run\n"
                 "model: {path: models/tiny}\n"
                 "train:\n"
                 "  steps: 12\n"
                 "  resume: yes\n"
                 "  dtype: f32\n"
                 "optim.lr: 1e-2   # dotted keys are the same\n"
                 "optim:\n"
                 "  betas: [0.8, 0.9]\n"
                 "name: \"null\"\n"
                 "tags: [one, 'two, three']\n"
                 "limit: .inf\n"
                 "data:\n"
                 "  - path: a.pub\n"
                 "    weight: 0.5\n"
                 "  - {path: b.pub}\n"),
            &e);
  assert_string_equal(c.dir, "models/tiny");
  assert_int_equal(c.steps, 12);
  assert_true(c.resume);
  assert_int_equal(c.dtype, 0);
  assert_true(c.lr == 1e-2);
  assert_true(c.betas.n == 2 && c.betas.v[0] == 0.8);
  assert_string_equal(c.name, "null");
  assert_string_equal(c.tags.v[1], "two, three");
  assert_true(isinf(c.limit));
  assert_int_equal(c.data.n, 2);
  assert_string_equal(((source *)c.data.items)[1].path, "b.pub");
  assert_true(((source *)c.data.items)[1].weight == 1);
}

static void yaml_of_nothing_changes_nothing(void **state) {
  (void)state;
  static const char *const texts[] = {"",         "# only words\n",       "---\n", "~\n", "{}\n",
                                      "train:\n", "train: {}\noptim: ~\n"};
  for (size_t i = 0; i < PU_COUNT(texts); i++) {
    assert_ok(yaml(texts[i]), &e);
    assert_int_equal(c.steps, 100);
  }
  assert_ok(yaml("name:\ntags: one\n"), &e);
  assert_null(c.name);
  assert_string_equal(c.tags.v[0], "one");
}

static void yaml_errors_name_the_line(void **state) {
  (void)state;
  static const struct {
    const char *text, *msg;
  } cases[] = {
      {"name: x\ntrian:\n  steps: 1\n", "t.yaml:2: unknown key 'trian'; did you mean 'train'?"},
      {"\n\ntrain:\n  stesp: 1\n", "t.yaml:4: unknown key 'train.stesp'; did you mean 'train.steps'?"},
      {"train:\n  steps: 1.5\n", "t.yaml:2: '1.5' is not an integer"},
      {"name: a\nname: b\n", "t.yaml:2: 'name' was given already in line 1"},
      {"train: {steps: 1}\ntrain.steps: 2\n", "t.yaml:2: 'train.steps' was given already in line 1"},
      {"train: {steps: 1}\n\ntrain: {resume: no}\n", "t.yaml:3: 'train' was given already in line 1"},
      {"train: 5\n", "t.yaml:1: 'train' is a group of keys: put them, indented, below it"},
      {"name: {a: b}\n", "t.yaml:1: 'name' takes one value, not a mapping"},
      {"name: [a]\n", "t.yaml:1: 'name' takes one value, not a list"},
      {"tags: {a: b}\n", "t.yaml:1: 'tags' takes a list, not a mapping"},
      {"tags: [a, [b]]\n", "t.yaml:1: 'tags' is a list of texts"},
      {"optim:\n  betas:\n  - 1\n  - x\n", "t.yaml:4: 'x' is not a number"},
      {"data: [x]\n", "t.yaml:1: 'data' is a list of mappings: - key: value"},
      {"data: x\n", "t.yaml:1: 'data' is a list of mappings: - key: value"},
      {"data:\n - path: x\n   wieght: 1\n", "t.yaml:3: unknown key 'wieght'; did you mean 'weight'? (in 'data')"},
      {"data:\n - path: x\n   path: y\n", "t.yaml:3: 'path' was given already in line 2"},
      {"train:\n  steps:\n", "t.yaml:2: 'train.steps' has no value: give one, or remove the key"},
      {"- a\n", "t.yaml:1: 't.yaml' is not a mapping of key: value"},
      {"name: &x a\ntags: [*x]\n", "t.yaml:2: aliases (*name) are not read: write the value again"},
      {"name: !!str a\n", "t.yaml:1: tags (!name) are not read: remove it"},
      {"name: \"a\\0b\"\n", "t.yaml:1: a text holds a NUL byte"},
      {"name: a\n---\nname: b\n", "t.yaml:2: a second document (---): only one is read"},
      {"[a]: b\n", "t.yaml:1: 't.yaml' holds a key that is not a plain text"},
      {"name: a\n\tb: c\n", NULL},
      {"name: 'a\n", NULL},
      {"name: \xff\n", NULL},
      {"? [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\n", NULL},
  };
  for (size_t i = 0; i < PU_COUNT(cases); i++) {
    assert_int_not_equal(yaml(cases[i].text), PU_OK);
    if (cases[i].msg)
      assert_string_equal(e.msg, cases[i].msg);
    else
      assert_memory_equal(e.msg, "t.yaml:", 7);
  }
}

static void yaml_has_limits(void **state) {
  (void)state;
  pu_buf b;
  pu_buf_init(&b, PU_BUF_MAX);
  for (int i = 0; i < (1 << 20) / 2 + 1; i++) pu_buf_puts(&b, "#\n");
  assert_int_equal(pu_options_parse_yaml(rows, &c, "t.yaml", pu_str_of(b.data, b.len), arena, &e), PU_ERR_FORMAT);
  assert_string_equal(e.msg, "t.yaml: 1048578 bytes of YAML, more than the limit of 1048576");
  pu_buf_clear(&b);
  pu_buf_puts(&b, "data: [");
  for (int i = 0; i < 65537; i++) pu_buf_puts(&b, "{},");
  pu_buf_puts(&b, "]\n");
  assert_int_equal(pu_options_parse_yaml(rows, &c, "t.yaml", pu_str_of(b.data, b.len), arena, &e), PU_ERR_NOMEM);
  assert_string_equal(e.msg, "t.yaml:1: a list of more than 65536");
  pu_buf_deinit(&b);
  assert_int_equal(pu_options_read_yaml(rows, &c, "/nowhere/t.yaml", arena, &e), PU_ERR_IO);
  assert_string_equal(e.msg, "/nowhere/t.yaml: cannot open: No such file or directory");
}

static void an_arena_that_is_spent_is_an_error(void **state) {
  (void)state;
  static const char text[] = "name: abc\ntags: [a, b, c]\ndata: [{path: x}]\noptim: {betas: [1, 2]}\n";
  int failures = 0;
  for (size_t max = 0;; max += 64) {
    pu_arena *small;
    config out;
    assert_ok(pu_options_default(rows, &out, arena, &e), &e);
    assert_ok(pu_arena_create(max, &small, &e), &e);
    pu_err err = pu_options_parse_yaml(rows, &out, "t.yaml", pu_str_c(text), small, &e);
    pu_arena_free(small);
    if (err == PU_OK) break;
    assert_int_equal(err, PU_ERR_NOMEM);
    failures++;
  }
  assert_true(failures > 5);
}

static void what_is_written_reads_back(void **state) {
  (void)state;
  assert_ok(yaml("name: \"a \\\"b\\\" \\u2028\\n\\x7f c: # 浦语\"\nmodel: {path: /m/x-1.bin}\n"
                 "tags: [yes, '', 'a, [b]', '1.5', plain, ./x, '.x']\ndata: [{path: a, weight: 0.1}, {path: 'null'}]\n"
                 "optim: {lr: 0.1, betas: []}\nlimit: .inf\ntrain: {steps: 5, dtype: f32}"),
            &e);
  pu_buf first, again;
  pu_buf_init(&first, 1 << 16);
  pu_buf_init(&again, 1 << 16);
  assert_ok(pu_options_write_yaml(rows, &c, &first, &e), &e);
  assert_string_equal(first.data, "train:\n"
                                  "  steps: 5\n"
                                  "  resume: false\n"
                                  "  dtype: f32\n"
                                  "optim:\n"
                                  "  lr: 0.1\n"
                                  "  betas: []\n"
                                  "name: \"a \\\"b\\\" \\u2028\\n\\u007F c: # 浦语\"\n"
                                  "model:\n"
                                  "  path: /m/x-1.bin\n"
                                  "tags: [\"yes\", \"\", \"a, [b]\", \"1.5\", plain, ./x, \".x\"]\n"
                                  "limit: .inf\n"
                                  "data:\n"
                                  "  - path: a\n"
                                  "    weight: 0.1\n"
                                  "  - path: \"null\"\n"
                                  "    weight: 1\n");
  config was = c;
  assert_ok(yaml(first.data), &e);
  assert_string_equal(c.name, was.name);
  assert_int_equal(c.tags.n, 7);
  for (size_t i = 0; i < 7; i++) assert_string_equal(c.tags.v[i], was.tags.v[i]);
  assert_int_equal(c.betas.n, 0);
  assert_ok(pu_options_write_yaml(rows, &c, &again, &e), &e);
  assert_string_equal(first.data, again.data);

  c.name = "\xff";
  assert_int_equal(pu_options_write_yaml(rows, &c, &again, &e), PU_ERR_FORMAT);
  c.name = NULL;
  pu_buf_clear(&again);
  assert_ok(pu_options_write_yaml(rows, &c, &again, &e), &e);
  assert_non_null(strstr(again.data, "\nname: null\n"));
  pu_buf_deinit(&again);
  pu_buf_init(&again, 40);
  assert_int_equal(pu_options_write_yaml(rows, &c, &again, &e), PU_ERR_NOMEM);
  pu_buf_deinit(&first);
  pu_buf_deinit(&again);
}

static void required_keys_are_checked(void **state) {
  (void)state;
  assert_int_equal(pu_options_check(rows, &c, "t.yaml", &e), PU_ERR_USAGE);
  assert_string_equal(e.msg, "t.yaml: 'model.path' is required: a folder");
  assert_ok(yaml("model: {path: x}\ndata: [{path: y}, {weight: 1}]\n"), &e);
  assert_int_equal(pu_options_check(rows, &c, "t.yaml", &e), PU_ERR_USAGE);
  assert_string_equal(e.msg, "t.yaml: data[1]: 'path' is required: the shard");
  assert_ok(yaml("model: {path: x}\n"), &e);
  assert_ok(pu_options_check(rows, &c, "t.yaml", &e), &e);
}

static void edit_distance_counts_swaps_once(void **state) {
  (void)state;
  assert_int_equal(pu_edit_distance("trian", "train"), 1);
  assert_int_equal(pu_edit_distance("", "abc"), 3);
  assert_int_equal(pu_edit_distance("kitten", "sitting"), 3);
  assert_int_equal(pu_edit_distance("same", "same"), 0);
  char longer[65];
  memset(longer, 'x', 64);
  longer[64] = 0;
  assert_true(pu_edit_distance(longer, "x") == SIZE_MAX);
  assert_null(pu_options_nearest(rows, "qqqqqq"));
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(defaults_come_from_the_table),    T(text_sets_values),          T(old_words_are_still_read),
      T(text_errors_name_place_and_mend), T(yaml_sets_values),          T(yaml_of_nothing_changes_nothing),
      T(yaml_errors_name_the_line),       T(yaml_has_limits),           T(an_arena_that_is_spent_is_an_error),
      T(what_is_written_reads_back),      T(required_keys_are_checked), T(edit_distance_counts_swaps_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
