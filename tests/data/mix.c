/* Mixtures: how often sources come, that copies and order are what they should be, and documents joined. */
#include "src/data/mix.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/test.h"

/* ---- a stage of three sources: 1,000, 4,000 and 16,000 bytes in documents of 10 ---- */

static char dir[64];
static const size_t sizes[] = {100, 400, 1600};

static const char *in(const char *name) {
  static char path[4][128];
  static int at;
  at = (at + 1) % 4;
  snprintf(path[at], sizeof path[at], "%s/%s", dir, name);
  return path[at];
}

static int make_stage(void **state) {
  (void)state;
  snprintf(dir, sizeof dir, "/tmp/puyu-mix-XXXXXX");
  if (!mkdtemp(dir)) return 1;
  static const char *const names[] = {"small", "middle", "large"};
  pu_source sources[3];
  const char *paths[3];
  char kept[3][128];
  pu_error e;
  for (size_t s = 0; s < 3; s++) {
    char file[32];
    snprintf(file, sizeof file, "%s.txt", names[s]);
    FILE *f = fopen(in(file), "w");
    for (size_t i = 0; i < sizes[s]; i++) fprintf(f, "%c %07zu.\n", names[s][0], i);
    fclose(f);
    paths[s] = strcpy(kept[s], in(file));
    sources[s] = (pu_source){.name = names[s], .paths = {&paths[s], 1}, .format = "auto", .split = PU_SPLIT_LINE};
  }
  const pu_clean_options o = {.sources = sources, .n_sources = 3};
  pu_data_result result;
  assert_ok(pu_clean_run(in("raw"), NULL, &o, &(pu_data_how){0}, &result, &e), &e);
  assert_int_equal(result.documents, 2100);
  return 0;
}

static int remove_stage(void **state) {
  (void)state;
  pu_error e;
  return pu_remove_tree(dir, &e);
}

/* ---- plans ---- */

typedef struct passes {
  double small, middle, large;
} passes;

static passes plan(const pu_mix_options *o) {
  pu_stage *s;
  pu_mix_plan p;
  pu_error e;
  assert_ok(pu_stage_open(in("raw"), &s, &e), &e);
  assert_ok(pu_mix_plan_make(s, o, &p, &e), &e);
  passes x = {pu_mix_passes(&p, pu_str_c("small")), pu_mix_passes(&p, pu_str_c("middle")),
              pu_mix_passes(&p, pu_str_c("large"))};
  assert_true(pu_mix_passes(&p, pu_str_c("none")) == 0);
  pu_mix_plan_deinit(&p);
  pu_stage_close(s);
  return x;
}

static void assert_passes(passes x, double small, double middle, double large) {
  if (fabs(x.small - small) < 1e-9 && fabs(x.middle - middle) < 1e-9 && fabs(x.large - large) < 1e-9) return;
  fail_msg("%g %g %g, not %g %g %g", x.small, x.middle, x.large, small, middle, large);
}

static void plans(void **state) {
  (void)state;
  assert_passes(plan(&(pu_mix_options){0}), 1, 1, 1);
  assert_passes(plan(&(pu_mix_options){.bytes = 10500}), 0.5, 0.5, 0.5);
  /* Square roots of 1 : 4 : 16 are 1 : 2 : 4: of 21,000 bytes 3,000, 6,000 and 12,000. */
  assert_passes(plan(&(pu_mix_options){.temperature = 2}), 3, 1.5, 0.75);
  /* 1,000 bytes at most of small: 4,000 of middle at most, the rest is large's. */
  assert_passes(plan(&(pu_mix_options){.temperature = 2, .cap = 1}), 1, 1, 1);
  assert_passes(plan(&(pu_mix_options){.temperature = 2, .cap = 2}), 2, 19.0 / 3 / 4, 2 * 19.0 / 3 / 16);
  const char *weights[] = {"small=1", "large=3"};
  assert_passes(plan(&(pu_mix_options){.weights = {weights, 2}, .bytes = 8000}), 2, 0, 0.375);
  assert_passes(plan(&(pu_mix_options){.weights = {weights, 2}}), 4.25, 0, 17 * 0.75 / 16);
}

static void wrong_weights(void **state) {
  (void)state;
  static const char *const bad[] = {"small", "small=", "small=x", "small=-1", "small=nan", "nowhere=1", "small=0"};
  pu_stage *s;
  pu_error e;
  assert_ok(pu_stage_open(in("raw"), &s, &e), &e);
  for (size_t i = 0; i < PU_COUNT(bad); i++) {
    pu_mix_plan p;
    const pu_mix_options o = {.weights = {(const char **)(uintptr_t)&bad[i], 1}};
    assert_int_equal(pu_mix_plan_make(s, &o, &p, &e), PU_ERR_USAGE);
    assert_non_null(strstr(e.msg, "weights"));
    pu_mix_plan_deinit(&p);
  }
  pu_stage_close(s);
}

/* ---- what comes out ---- */

typedef struct seen {
  int times[3][1600];
  size_t n, changes; /* changes: of the source, from one document to the next */
  char last;
} seen;

static pu_err see(void *arg, const pu_kept *d, pu_error *e) {
  (void)e;
  seen *s = arg;
  char c = d->text.ptr[0];
  int source = c == 's' ? 0 : c == 'm' ? 1 : 2;
  s->times[source][atoi(d->text.ptr + 2)]++;
  s->changes += c != s->last;
  s->last = c;
  s->n++;
  return PU_OK;
}

static void mixed(const char *name, const pu_mix_options *o, seen *s) {
  pu_data_result result;
  pu_error e;
  *s = (seen){0};
  assert_ok(pu_mix_documents(in(name), in("raw"), o, &(pu_data_how){0}, &result, &e), &e);
  assert_ok(pu_data_each(in(name), NULL, 0, 0, see, s, &e), &e);
  assert_int_equal(s->n, result.documents);
}

/* Whole passes are whole; of a share of one, about as many documents as there should be. */
static void copies_are_right(void **state) {
  (void)state;
  seen s;
  mixed("by-root", &(pu_mix_options){.temperature = 2}, &s); /* 3, 1.5, 0.75 */
  int middle = 0, large = 0;
  for (size_t i = 0; i < sizes[0]; i++) assert_int_equal(s.times[0][i], 3);
  for (size_t i = 0; i < sizes[1]; i++) {
    assert_in_range(s.times[1][i], 1, 2);
    middle += s.times[1][i];
  }
  for (size_t i = 0; i < sizes[2]; i++) {
    assert_in_range(s.times[2][i], 0, 1);
    large += s.times[2][i];
  }
  assert_in_range(middle, 550, 650);
  assert_in_range(large, 1120, 1280);
  /* In random order: of so many neighbours, about 1 - (0.14^2 + 0.29^2 + 0.57^2) are of two sources. */
  assert_in_range(s.changes * 100 / s.n, 50, 64);
}

static void another_seed_another_order(void **state) {
  (void)state;
  seen s;
  mixed("seed-1", &(pu_mix_options){.seed = 1}, &s);
  size_t changes = s.changes;
  for (size_t i = 0; i < sizes[2]; i++) assert_int_equal(s.times[2][i], 1);
  mixed("seed-2", &(pu_mix_options){.seed = 2}, &s);
  assert_int_not_equal(changes, s.changes); /* by chance equal once in some thirty seeds: these are not */
  mixed("long", &(pu_mix_options){.min_bytes = 11}, &s);
  assert_int_equal(s.n, 0);
}

/* ---- joined documents ---- */

typedef struct joined {
  pu_buf text; /* ids of all joined documents, their texts, a line each */
  size_t n;
} joined;

static pu_err put(void *arg, pu_doc *d, const char *parts, pu_error *e) {
  joined *j = arg;
  pu_error why;
  j->n++;
  pu_buf_append(&j->text, d->id.ptr, d->id.len);
  pu_buf_puts(&j->text, ": ");
  for (size_t i = 0; i < d->text.len; i++) pu_buf_putc(&j->text, d->text.data[i] == '\n' ? '|' : d->text.data[i]);
  pu_buf_putc(&j->text, '\n');
  if (!parts) return PU_OK;
  /* The parts are the text, but for what stands between them. */
  json_t *all = NULL, *p;
  size_t i, at = 0;
  assert_ok(pu_json_parse("", pu_str_c(parts), &all, &why), &why);
  json_array_foreach(all, i, p) {
    size_t begin = (size_t)json_integer_value(json_object_get(p, "at"));
    assert_true(begin >= at && begin <= at + 2);
    at = begin + (size_t)json_integer_value(json_object_get(p, "bytes"));
  }
  assert_int_equal(at, d->text.len);
  json_decref(all);
  (void)e;
  return PU_OK;
}

typedef struct file {
  const char *id, *text; /* id: and after a space the repository, where it is not the first folder */
} file;

static void assert_joined(pu_join how, uint64_t bytes, const file *files, size_t n, const char *want) {
  pu_joiner *j;
  pu_error e;
  pu_doc d;
  joined out = {0};
  pu_buf_init(&out.text, 1 << 20);
  assert_ok(pu_doc_init(&d, &e), &e);
  assert_ok(pu_joiner_create(how, bytes, &j, &e), &e);
  for (size_t i = 0; i < n; i++) {
    pu_doc_clear(&d);
    const char *space = strchr(files[i].id, ' ');
    d.id = pu_str_of(files[i].id, strcspn(files[i].id, " "));
    d.source = pu_str_c(files[i].id[0] == 'b' ? "b" : "code");
    if (space) d.repository = pu_str_c(space + 1);
    assert_true(pu_buf_puts(&d.text, files[i].text));
    assert_ok(pu_joiner_add(j, &d, &e), &e);
  }
  assert_ok(pu_joiner_write(j, put, &out, &e), &e);
  pu_buf_putc(&out.text, '\0');
  assert_string_equal(out.text.data, want);
  pu_joiner_free(j);
  pu_doc_deinit(&d);
  pu_buf_deinit(&out.text);
}

static void by_imports(void **state) {
  (void)state;
  static const file python[] = {{"code/r/app.py:1", "from lib.util import f\n"},
                                {"code/r/lib/base.py:1", "x = 1\n"},
                                {"code/r/lib/util.py:1", "import base\n"},
                                {"code/r/z.py:1", "import zz\n"},
                                {"code/alone.py:1", "import app\n"},
                                {"code/alone2.py:1", "import alone\n"}};
  assert_joined(PU_JOIN_PATH, 1 << 20, python, PU_COUNT(python),
                "code/r/lib/base.py:1+3: x = 1||import base||from lib.util import f||import zz|\n"
                "code/alone.py:1: import app|\ncode/alone2.py:1: import alone|\n");
  /* Circles end; the same name is looked for in the folder first; what is long enough is done. */
  static const file circle[] = {{"code/r/a/x.c:1", "#include \"y.h\"\n"},
                                {"code/r/a/y.h:1", "#include \"x.h\"\n"},
                                {"code/r/a/x.h:1", "#include <y.h>\n"},
                                {"code/r/y.h:1", "int y;\n"}};
  assert_joined(PU_JOIN_PATH, 1 << 20, circle, PU_COUNT(circle),
                "code/r/a/x.h:1+3: #include <y.h>||#include \"x.h\"||#include \"y.h\"||int y;|\n");
  assert_joined(PU_JOIN_PATH, 20, circle, PU_COUNT(circle),
                "code/r/a/x.h:1+1: #include <y.h>||#include \"x.h\"|\ncode/r/a/x.c:1+1: #include \"y.h\"||int y;|\n");
  static const file other[] = {{"code/q/main.rs:1", "mod zebra;\n  let x = require('./ant');\n"},
                               {"code/q/zebra.rs:1", "fn z() {}\n"},
                               {"code/q/ant.js:1", "1\n"}};
  assert_joined(PU_JOIN_PATH, 1 << 20, other, PU_COUNT(other),
                "code/q/ant.js:1+2: 1||fn z() {}||mod zebra;|  let x = require('./ant');|\n");
  /* Two repositories in one folder. */
  static const file apart[] = {
      {"code/o/p/a.py:1 o/p", "import b\n"}, {"code/o/p/b.py:1 o/p", "b = 1\n"}, {"code/o/q/b.py:1 o/q", "b = 2\n"}};
  assert_joined(PU_JOIN_PATH, 1000, apart, 3, "code/o/p/b.py:1+1: b = 1||import b|\ncode/o/q/b.py:1: b = 2|\n");
}

static void by_likeness(void **state) {
  (void)state;
  static const file texts[] = {{"code/1:1", "the cat sat on the mat"},
                               {"code/2:1", "prices of copper and tin rose"},
                               {"code/3:1", "a cat likes its mat"},
                               {"code/4:1", "copper prices fell again"},
                               {"b/5:1", "the cat of another source"}};
  assert_joined(PU_JOIN_SIMILAR, 1 << 20, texts, PU_COUNT(texts),
                "code/1:1+3: the cat sat on the mat||a cat likes its mat||prices of copper and tin rose||"
                "copper prices fell again\nb/5:1: the cat of another source\n");
  assert_joined(PU_JOIN_SIMILAR, 30, texts, PU_COUNT(texts),
                "code/1:1+1: the cat sat on the mat||a cat likes its mat\n"
                "code/2:1+1: prices of copper and tin rose||copper prices fell again\n"
                "b/5:1: the cat of another source\n");
  assert_joined(PU_JOIN_SIMILAR, 30, texts, 0, "");
  static const file empty[] = {{"code/1:1", ""}, {"code/2:1", ""}};
  assert_joined(PU_JOIN_SIMILAR, 30, empty, 2, "code/1:1+1: ||\n");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(plans),
      cmocka_unit_test(wrong_weights),
      cmocka_unit_test(copies_are_right),
      cmocka_unit_test(another_seed_another_order),
      cmocka_unit_test(by_imports),
      cmocka_unit_test(by_likeness),
  };
  return cmocka_run_group_tests(tests, make_stage, remove_stage);
}
